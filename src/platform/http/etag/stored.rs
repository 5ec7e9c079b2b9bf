//! Ready bodies as other processes take them over: already packed, so that none of them packs again.

use std::io::Read as _;
use std::sync::{Arc, OnceLock};

use axum::http::HeaderValue;
use bytes::{Buf as _, BufMut as _, Bytes};
use flate2::read::GzDecoder;
use tokio::task::spawn_blocking;

use super::{Cached, Coding, Effort, Forms, TURN};

/// Which form a part is.
const PLAIN: u8 = 0;
const GZIP: u8 = 1;
const BROTLI: u8 = 2;

impl Cached {
    /// All forms of a lasting body, once the best one is made; the plain one only where there is no other. Nothing
    /// where the process ends.
    pub async fn stored(&self) -> Option<Vec<u8>> {
        if self.0.is_worth_packing() {
            let _turn = TURN.acquire().await.ok()?;
            let forms = self.0.clone();
            spawn_blocking(move || [Coding::Gzip, Coding::Brotli].map(|coding| forms.pack(coding).is_some()))
                .await
                .ok()?;
        }
        let made = |coding| self.0.made(coding).get().and_then(Option::as_ref);
        let (gzip, brotli) = (made(Coding::Gzip), made(Coding::Brotli));
        let plain = gzip.is_none().then_some(&self.0.plain);
        let parts = [(PLAIN, plain), (GZIP, gzip), (BROTLI, brotli)];
        let tag = self.0.etag.as_bytes();
        let mut stored =
            Vec::with_capacity(64 + parts.iter().filter_map(|(_, part)| Some(part.as_ref()?.len() + 5)).sum::<usize>());
        stored.put_u8(u8::try_from(tag.len()).ok()?);
        stored.put_slice(tag);
        stored.put_u32(u32::try_from(self.0.plain.len()).ok()?);
        for (kind, part) in parts {
            if let Some(part) = part {
                stored.put_u8(kind);
                stored.put_u32(u32::try_from(part.len()).ok()?);
                stored.put_slice(part);
            }
        }
        Some(stored)
    }

    /// The body that [`Cached::stored`] wrote. Nothing where it is not whole.
    pub async fn restored(stored: Bytes, cache_control: &'static str) -> Option<Self> {
        // Unpacking a seat map takes milliseconds.
        spawn_blocking(move || restore(stored, cache_control)).await.ok()?
    }
}

fn restore(mut stored: Bytes, cache_control: &'static str) -> Option<Cached> {
    let tag_len = stored.try_get_u8().ok()?;
    let etag = HeaderValue::from_bytes(&part(&mut stored, tag_len.into())?).ok()?;
    let plain_len = usize::try_from(stored.try_get_u32().ok()?).ok()?;
    let mut forms = [None, None, None];
    while stored.has_remaining() {
        let kind = usize::from(stored.try_get_u8().ok()?);
        let length = usize::try_from(stored.try_get_u32().ok()?).ok()?;
        // A copy of its own: a part of a larger piece would keep all of it.
        *forms.get_mut(kind)? = Some(Bytes::from(part(&mut stored, length)?.to_vec().into_boxed_slice()));
    }
    let [plain, gzip, brotli] = forms;
    let plain = match (plain, &gzip) {
        (Some(plain), _) => plain,
        (None, Some(gzip)) => unpacked(gzip, plain_len)?,
        (None, None) => return None,
    };
    if plain.len() != plain_len {
        return None;
    }
    let (brotli, gzip) = (OnceLock::from(brotli), OnceLock::from(gzip));
    Some(Cached(Arc::new(Forms { etag, cache_control, plain, effort: Effort::Lasting, brotli, gzip })))
}

/// The next so many bytes, if they are there.
fn part(stored: &mut Bytes, length: usize) -> Option<Bytes> {
    (stored.len() >= length).then(|| stored.split_to(length))
}

/// What was packed, and no more than it says.
fn unpacked(gzip: &[u8], length: usize) -> Option<Bytes> {
    let mut plain = Vec::new();
    let limit = u64::try_from(length).ok()?.saturating_add(1);
    GzDecoder::new(gzip).take(limit).read_to_end(&mut plain).ok()?;
    Some(plain.into_boxed_slice().into())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, header};
    use http_body_util::BodyExt as _;

    use super::*;

    async fn sent(body: &Cached, accepted: &str) -> (HeaderMap, Bytes) {
        let response = body.answer(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, accepted.parse().unwrap())]));
        (response.headers().clone(), response.into_body().collect().await.unwrap().to_bytes())
    }

    #[tokio::test]
    async fn a_body_is_the_same_in_another_process() {
        let text: String = (0..20_000).map(|n| n.to_string()).collect();
        for value in ["x".to_owned(), text] {
            let body = Cached::lasting(value, "immutable").await.unwrap();
            let stored = body.stored().await.unwrap();
            let other = Cached::restored(stored.into(), "immutable").await.unwrap();
            for accepted in ["identity", "gzip", "br, gzip"] {
                assert_eq!(sent(&body, accepted).await, sent(&other, accepted).await, "{accepted}");
            }
            assert_eq!(body.weight(), other.weight());
        }
    }

    #[tokio::test]
    async fn what_is_not_whole_is_no_body() {
        let text: String = (0..2_000).map(|n| n.to_string()).collect();
        let stored = Bytes::from(Cached::lasting(text, "immutable").await.unwrap().stored().await.unwrap());
        for length in (0..stored.len()).step_by(7) {
            if let Some(body) = Cached::restored(stored.slice(..length), "immutable").await {
                // Cut between two forms: what is there is whole.
                assert_eq!(
                    sent(&body, "identity").await,
                    sent(&Cached::restored(stored.clone(), "immutable").await.unwrap(), "identity").await
                );
            }
        }
    }
}
