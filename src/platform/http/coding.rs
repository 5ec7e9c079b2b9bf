//! Content codings of ready bodies: what a client takes, and how bytes are packed. No I/O.

use std::io::Write as _;

use axum::http::{HeaderMap, HeaderValue, header};
use brotli::enc::BrotliEncoderParams;
use brotli::enc::backward_references::BrotliEncoderMode;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

/// A content coding that bodies are kept in, besides as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// RFC 7932.
    Brotli,
    /// RFC 1952.
    Gzip,
}

/// How much time is spent on packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    /// For what changes all the time: microseconds for a few kilobytes.
    Quick,
    /// For what is kept for hours. Measured on a map of 20,000 seats (1.2 MB): gzip 16 ms for 126 kB, brotli 65 ms for
    /// 68 kB. Brotli's greatest level would take eight seconds for 47 kB.
    Lasting,
}

/// Brotli's window for what changes, in bits: more than such a body has.
const QUICK_WINDOW: i32 = 16;
/// And for what is kept, as browsers take it.
const LASTING_WINDOW: i32 = 22;

impl Coding {
    /// As `Content-Encoding` has it.
    pub const fn value(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        })
    }

    /// The packed form of `plain`; nothing where it cannot be made.
    pub fn pack(self, plain: &[u8], effort: Effort) -> Option<Bytes> {
        let packed = Vec::with_capacity(plain.len() / 2);
        match self {
            Self::Gzip => {
                let level = Compression::new(if effort == Effort::Quick { 4 } else { 6 });
                let mut encoder = GzEncoder::new(packed, level);
                encoder.write_all(plain).and_then(|()| encoder.finish()).ok().map(trimmed)
            }
            Self::Brotli => {
                let quick = effort == Effort::Quick;
                let settings = BrotliEncoderParams {
                    quality: if quick { 2 } else { 5 },
                    lgwin: if quick { QUICK_WINDOW } else { LASTING_WINDOW },
                    mode: BrotliEncoderMode::BROTLI_MODE_TEXT,
                    size_hint: plain.len(),
                    ..BrotliEncoderParams::default()
                };
                let mut packed = packed;
                brotli::BrotliCompress(&mut &*plain, &mut packed, &settings).ok().map(|_| trimmed(packed))
            }
        }
    }
}

/// Without the room that was not used: it is kept for long.
fn trimmed(packed: Vec<u8>) -> Bytes {
    packed.into_boxed_slice().into()
}

/// How much a client likes each coding, in thousandths; 0: not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    brotli: u16,
    gzip: u16,
    plain: u16,
}

impl Taken {
    /// What `Accept-Encoding` says (RFC 9110, 12.5.3). Without it, bodies are sent as they are. What cannot be read is passed
    /// over.
    pub fn by(headers: &HeaderMap) -> Self {
        let (mut brotli, mut gzip, mut plain, mut others) = (None, None, None, None);
        let lists = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        for (name, weight) in lists.flat_map(|list| list.split(',')).filter_map(weighted) {
            let is = |coding: &str| name.eq_ignore_ascii_case(coding);
            if is("br") {
                brotli = Some(weight);
            } else if is("gzip") || is("x-gzip") {
                gzip = Some(weight);
            } else if is("identity") {
                plain = Some(weight);
            } else if is("*") {
                others = Some(weight);
            }
        }
        Self {
            brotli: brotli.or(others).unwrap_or(0),
            gzip: gzip.or(others).unwrap_or(0),
            // Taken where nothing says otherwise, but whoever names codings likes them better.
            plain: plain.or(others).unwrap_or(1),
        }
    }

    /// The codings that are liked at least as much as the plain body, the best one first; brotli, where both are liked
    /// the same.
    pub fn codings(self) -> impl Iterator<Item = Coding> {
        let (brotli, gzip) = ((self.brotli, Coding::Brotli), (self.gzip, Coding::Gzip));
        let order = if gzip.0 > brotli.0 { [gzip, brotli] } else { [brotli, gzip] };
        let least = self.plain.max(1);
        order.into_iter().filter(move |(weight, _)| *weight >= least).map(|(_, coding)| coding)
    }

    /// Whether nothing that can be sent is to the client's liking.
    pub fn is_nothing(self) -> bool {
        self.plain == 0 && self.codings().next().is_none()
    }

    /// Whether the body may be sent as it is.
    pub const fn is_plain_fine(self) -> bool {
        self.plain > 0
    }
}

/// `gzip;q=0.5`: the name and the weight in thousandths.
fn weighted(item: &str) -> Option<(&str, u16)> {
    let (name, parameter) = match item.split_once(';') {
        None => (item, None),
        Some((name, parameter)) => (name, Some(parameter.trim())),
    };
    let weight = match parameter {
        None => 1000,
        Some(text) => thousandths(text.strip_prefix("q=").or_else(|| text.strip_prefix("Q="))?)?,
    };
    Some((name.trim(), weight))
}

/// `0`, `1`, or one of them with at most three digits behind the point.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    if rest.len() > 3 || !rest.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let part = rest.bytes().chain(*b"000").take(3).fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    match (whole, part) {
        ("0", part) => Some(part),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn taken(lists: &[&str]) -> Taken {
        let mut headers = HeaderMap::new();
        for list in lists {
            headers.append(header::ACCEPT_ENCODING, list.parse().unwrap());
        }
        Taken::by(&headers)
    }

    fn order(list: &str) -> (Vec<Coding>, bool) {
        let taken = taken(&[list]);
        (taken.codings().collect(), taken.is_plain_fine())
    }

    #[test]
    fn codings_come_as_the_client_likes_them() {
        use Coding::{Brotli, Gzip};
        assert_eq!((taken(&[]).codings().count(), taken(&[]).is_plain_fine()), (0, true), "nothing asked for");
        for (list, codings, is_plain_fine) in [
            ("", &[][..], true),
            ("gzip", &[Gzip], true),
            ("x-gzip", &[Gzip], true),
            ("GZip , BR", &[Brotli, Gzip], true),
            ("gzip, deflate, br, zstd", &[Brotli, Gzip], true),
            ("br;q=0.5, gzip;q=0.8", &[Gzip, Brotli], true),
            ("br;q=0.001, gzip; q=0", &[Brotli], true),
            ("*", &[Brotli, Gzip], true),
            ("*;q=0.5, br;q=0", &[Gzip], true),
            ("gzip;q=0.5, identity", &[], true),
            ("gzip;q=0.5, identity;q=0.5", &[Gzip], true),
            ("gzip, identity;q=0", &[Gzip], false),
            ("gzip, *;q=0", &[Gzip], false),
            ("identity;q=0", &[], false),
            ("*;q=0", &[], false),
            ("*;q=0, identity", &[], true),
            // What is no weight makes no wish.
            ("gzip;q=2, br;q=0.1234, deflate", &[], true),
            ("gzip;level=9, br;q=x, zstd;q=-1", &[], true),
            ("gzip;q=1.000, br;q=1.001", &[Gzip], true),
        ] {
            assert_eq!(order(list), (codings.to_vec(), is_plain_fine), "{list:?}");
            assert_eq!(taken(&[list]).is_nothing(), codings.is_empty() && !is_plain_fine, "{list:?}");
        }
        assert_eq!(taken(&["gzip;q=0.3", "br;q=0.2"]).codings().collect::<Vec<_>>(), [Gzip, Brotli], "two lines");
    }

    fn unpacked(coding: Coding, packed: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        match coding {
            Coding::Gzip => drop(flate2::read::GzDecoder::new(packed).read_to_end(&mut plain).unwrap()),
            Coding::Brotli => brotli::BrotliDecompress(&mut &*packed, &mut plain).unwrap(),
        }
        plain
    }

    proptest::proptest! {
        #![proptest_config(crate::platform::properties::config())]

        #[test]
        fn what_was_packed_unpacks(plain in proptest::collection::vec(proptest::sample::select(b"ab{}\",:0".to_vec()), 0..3000)) {
            for coding in [Coding::Brotli, Coding::Gzip] {
                for effort in [Effort::Quick, Effort::Lasting] {
                    let packed = coding.pack(&plain, effort).unwrap();
                    proptest::prop_assert_eq!(&unpacked(coding, &packed), &plain);
                }
            }
        }

        #[test]
        fn any_list_is_read(text in proptest::collection::vec(proptest::sample::select(
            vec!["gzip", "br", "*", "identity", ";", "q=", "0", "1", ".", "5", ",", " ", "x"]), 0..40)) {
            let text = text.concat();
            let (codings, is_plain_fine) = order(&text);
            proptest::prop_assert!(codings.len() <= 2);
            proptest::prop_assert!(is_plain_fine || text.contains("identity") || text.contains('*'));
        }
    }
}
