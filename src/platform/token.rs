//! Sealed tokens: what a client carries for the server (tickets, passes, access tokens) as ciphertext.
//!
//! Layout, base64url without padding: one byte `version << 4 | key id`, a random 12-byte nonce, the
//! payload under AES-256-GCM, its 16-byte tag. The kind of token is associated data, and the key is
//! derived per purpose and context (HKDF-SHA-256, RFC 5869), so a ticket of one sale is noise to another and
//! a ticket is never a pass. With random nonces a derived key is good for 2^32 seals (NIST SP 800-38D, 8.3);
//! keys per purpose and rotation stay far below.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore as _;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf;

use super::config::{ConfigError, Secret};

const VERSION: u8 = 1;
/// Longer texts are refused unread.
const TEXT_LEN_MAX: usize = 512;

/// The installation's keys: the first seals, all open.
#[derive(Clone)]
pub struct KeyRing {
    keys: Vec<(u8, [u8; 32])>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("keys", &self.keys.len()).finish()
    }
}

impl KeyRing {
    /// Parses `id:hex,id:hex`.
    ///
    /// # Errors
    /// Where a key is missing, malformed, double or obviously weak (fewer than eight different bytes).
    pub fn parse(text: &Secret) -> Result<Self, ConfigError> {
        let keys = parse_keys("secrets.token_keys", text)?;
        if keys.is_empty() {
            let reason = "not set: use 1: and the output of `openssl rand -hex 32`".to_owned();
            return Err(ConfigError::Rejected { name: "secrets.token_keys", reason });
        }
        Ok(Self { keys })
    }

    /// A secret of 32 bytes for another purpose (`ticket`), derived from each key, with the keys' ids and in their order.
    #[must_use]
    pub fn derived(&self, purpose: &'static str) -> Vec<(u8, [u8; 32])> {
        let derived = self.keys.iter().map(|(id, key)| {
            let mut secret = [0; 32];
            // HKDF-Expand fails only for outputs over 255 blocks, and this is one.
            let filled = expand(key, &[purpose.as_bytes()], Bytes32, |material| material.fill(&mut secret));
            debug_assert!(filled.is_ok(), "HKDF expands to 32 bytes");
            (*id, secret)
        });
        derived.collect()
    }

    /// A sealer for tokens of one `kind` (`queue.ticket`) in one `context` (a sale's id, or nothing).
    #[must_use]
    pub fn sealer(&self, kind: &'static str, context: &[u8]) -> Sealer {
        let keys = self.keys.iter().map(|(id, key)| (*id, derive(key, kind, context))).collect();
        Sealer { kind, keys }
    }
}

/// Parses `id:hex,id:hex`, as the setting `name` has it: ids from 0 to 15, each once, and 32 bytes each.
///
/// # Errors
/// Where a key is malformed, double or obviously weak (fewer than eight different bytes).
pub fn parse_keys(name: &'static str, text: &Secret) -> Result<Vec<(u8, [u8; 32])>, ConfigError> {
    let refuse = |reason: &str| ConfigError::Rejected { name, reason: reason.to_owned() };
    let mut keys: Vec<(u8, [u8; 32])> = Vec::new();
    for part in text.expose().split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (id, digits) = part.split_once(':').ok_or_else(|| refuse("expected id:hex"))?;
        let id: u8 = id.parse().ok().filter(|id| *id < 16).ok_or_else(|| refuse("key ids go from 0 to 15"))?;
        let mut key = [0_u8; 32];
        hex::decode_to_slice(digits, &mut key).map_err(|_| refuse("a key is 64 hex digits"))?;
        let different: std::collections::BTreeSet<u8> = key.iter().copied().collect();
        if different.len() < 8 {
            return Err(refuse("a key is weak: make one with `openssl rand -hex 32`"));
        }
        if keys.iter().any(|(other, _)| *other == id) {
            return Err(refuse("a key id stands twice"));
        }
        keys.push((id, key));
    }
    Ok(keys)
}

/// How long a secret for another purpose is.
struct Bytes32;

impl hkdf::KeyType for Bytes32 {
    fn len(&self) -> usize {
        32
    }
}

/// Takes what HKDF-SHA-256 makes of a key for this purpose.
fn expand<K: hkdf::KeyType, T>(
    key: &[u8; 32],
    info: &[&[u8]],
    kind: K,
    take: impl FnOnce(hkdf::Okm<'_, K>) -> Result<T, ring::error::Unspecified>,
) -> Result<T, ring::error::Unspecified> {
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"frontrow token");
    take(salt.extract(key).expand(info, kind)?)
}

fn derive(key: &[u8; 32], kind: &str, context: &[u8]) -> LessSafeKey {
    let info = [kind.as_bytes(), b"\0", context];
    // HKDF-Expand fails only for outputs over 255 blocks, and AES-256 takes one.
    match expand(key, &info, &AES_256_GCM, |material| Ok(LessSafeKey::new(UnboundKey::from(material)))) {
        Ok(key) => key,
        Err(ring::error::Unspecified) => unreachable!("HKDF expands to 32 bytes"),
    }
}

/// Seals and opens tokens of one kind.
pub struct Sealer {
    kind: &'static str,
    keys: Vec<(u8, LessSafeKey)>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Sealer {
    /// The token that carries `payload`.
    #[must_use]
    pub fn seal(&self, payload: &[u8]) -> String {
        let (id, key) = &self.keys[0];
        let mut nonce = [0_u8; NONCE_LEN];
        rand::rng().fill_bytes(&mut nonce);
        let mut body = payload.to_vec();
        let sealed = key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(self.kind.as_bytes()),
            &mut body,
        );
        debug_assert!(sealed.is_ok(), "AES-GCM refuses only payloads of many gigabytes");
        let mut bytes = Vec::with_capacity(1 + NONCE_LEN + body.len());
        bytes.push(VERSION << 4 | id);
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&body);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The payload of `text`, or `None` if it is not a token of this kind and context under a known key.
    #[must_use]
    pub fn open(&self, text: &str) -> Option<Vec<u8>> {
        self.with_payload(text, |payload| Some(payload.to_vec()))
    }

    /// Reads the payload of `text` to its end, as [`Sealer::open`] would give it. Allocates nothing: a crowd asks all the time.
    pub fn read<T>(&self, text: &str, read: impl FnOnce(&mut Reader<'_>) -> Option<T>) -> Option<T> {
        self.with_payload(text, |payload| {
            let mut reader = Reader::new(payload);
            let value = read(&mut reader)?;
            reader.is_done().then_some(value)
        })
    }

    fn with_payload<T>(&self, text: &str, take: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
        if text.len() > TEXT_LEN_MAX {
            return None;
        }
        let mut buffer = [0_u8; TEXT_LEN_MAX / 4 * 3];
        let len = URL_SAFE_NO_PAD.decode_slice(text, &mut buffer).ok()?;
        let (head, rest) = buffer.get_mut(..len)?.split_first_mut()?;
        let (nonce, body) = rest.split_first_chunk_mut::<NONCE_LEN>()?;
        if *head >> 4 != VERSION {
            return None;
        }
        let (_, key) = self.keys.iter().find(|(id, _)| *id == *head & 0x0f)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        take(key.open_in_place(nonce, Aad::from(self.kind.as_bytes()), body).ok()?)
    }
}

/// Reads fixed-width fields off a payload, front to back.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Starts at the front.
    #[must_use]
    pub const fn new(payload: &'a [u8]) -> Self {
        Self(payload)
    }

    /// The next `N` bytes.
    pub fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    /// The next eight bytes as a number, big-endian.
    pub fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_be_bytes)
    }

    /// The next eight bytes as an instant in milliseconds.
    pub fn time(&mut self) -> Option<super::clock::Timestamp> {
        self.u64().and_then(|millis| i64::try_from(millis).ok()).and_then(super::clock::Timestamp::from_millis)
    }

    /// The next 16 bytes as an id.
    pub fn uuid(&mut self) -> Option<uuid::Uuid> {
        self.bytes().map(uuid::Uuid::from_bytes)
    }

    /// Whether everything was read.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "1:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const NEW: &str = "2:202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";

    fn ring(text: &str) -> KeyRing {
        KeyRing::parse(&Secret::new(text)).unwrap()
    }

    #[test]
    fn a_token_opens_only_as_what_it_was_sealed_for() {
        let keys = ring(OLD);
        let token = keys.sealer("ticket", b"a").seal(b"payload");
        assert_eq!(keys.sealer("ticket", b"a").open(&token).as_deref(), Some(&b"payload"[..]));
        assert_eq!(keys.sealer("ticket", b"b").open(&token), None);
        assert_eq!(keys.sealer("pass", b"a").open(&token), None);
        assert_eq!(ring(NEW).sealer("ticket", b"a").open(&token), None);
    }

    #[test]
    fn after_rotation_old_tokens_open_and_new_ones_use_the_new_key() {
        let old = ring(OLD).sealer("t", b"").seal(b"x");
        let both = ring(&format!("{NEW},{OLD}")).sealer("t", b"");
        assert!(both.open(&old).is_some());
        let new = both.seal(b"x");
        assert!(ring(NEW).sealer("t", b"").open(&new).is_some());
        assert!(ring(OLD).sealer("t", b"").open(&new).is_none());
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let sealer = ring(OLD).sealer("t", b"");
        let token = sealer.seal(b"payload");
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            assert_eq!(sealer.open(&URL_SAFE_NO_PAD.encode(&changed)), None, "byte {index}");
        }
        assert_eq!(sealer.open(""), None);
        assert_eq!(sealer.open(&"A".repeat(600)), None);
    }

    #[test]
    fn weak_or_malformed_keys_are_refused() {
        for text in ["", "1:00", "16:00", "x", &format!("1:{}", "ab".repeat(32)), &format!("{OLD},{OLD}")] {
            assert!(KeyRing::parse(&Secret::new(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn secrets_for_other_purposes_differ_by_purpose_and_key() {
        let (one, other) = (ring(OLD).derived("a"), ring(OLD).derived("b"));
        assert_eq!((one.len(), one[0].0), (1, 1));
        assert_eq!(one, ring(OLD).derived("a"));
        assert_ne!(one, other);
        let both = ring(&format!("{NEW},{OLD}")).derived("a");
        assert_eq!((both[0].0, &both[1]), (2, &one[0]));
        assert_ne!(both[0].1, both[1].1);
    }

    proptest::proptest! {
        #![proptest_config(crate::platform::properties::config())]

        #[test]
        fn what_was_not_sealed_does_not_open(text in proptest::prelude::any::<String>(), bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let sealer = ring(OLD).sealer("t", b"");
            proptest::prop_assert_eq!(sealer.open(&text), None);
            proptest::prop_assert_eq!(sealer.open(&URL_SAFE_NO_PAD.encode(&bytes)), None);
            // With a head that is right, so that the rest is looked at.
            let headed = [&[VERSION << 4 | 1], bytes.as_slice()].concat();
            proptest::prop_assert_eq!(sealer.open(&URL_SAFE_NO_PAD.encode(&headed)), None);
        }

        #[test]
        fn any_payload_is_read_back_and_no_part_of_it(payload in proptest::collection::vec(proptest::num::u8::ANY, 0..200), cut in 0_usize..300) {
            let sealer = ring(OLD).sealer("t", b"");
            let token = sealer.seal(&payload);
            let cut = cut % token.len();
            proptest::prop_assert_eq!(sealer.open(&token[..cut]), None);
            proptest::prop_assert_eq!(sealer.open(&token), Some(payload));
        }

        #[test]
        fn a_reader_reads_no_further_than_the_end(payload in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let mut reader = Reader::new(&payload);
            let fields = (reader.uuid(), reader.time(), reader.u64(), reader.bytes::<1>());
            proptest::prop_assert_eq!(fields.0.is_some(), payload.len() >= 16);
            proptest::prop_assert!(!reader.is_done() || payload.len() <= 33);
        }
    }
}
