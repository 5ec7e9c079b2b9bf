//! The keys of tickets, and the signed codes that are made with them. Pure.
//!
//! What a row keeps of a ticket is 26 random characters. What a buyer gets is that, with what it is good for, signed: so a gate
//! that has the public keys knows a true ticket without asking anybody. The signature is computed when a ticket is read, and
//! Ed25519 always makes the same one, so a ticket looks the same each time.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::Serialize;

use crate::booking::reservations::domain::{SeatView, SoldSeat};
use crate::catalog::PerformanceId;
use crate::platform::config::{ConfigError, Secret};
use crate::platform::token::{KeyRing, Reader, parse_keys};

const SETTING: &str = "secrets.ticket_keys";
/// What the keys are derived for where none are set.
const PURPOSE: &str = "ticket signature";
const VERSION: u8 = 1;
/// Characters of the random part.
const SERIAL_LEN: usize = 26;
const SIGNED_LEN: usize = 1 + 16 + 4 + SERIAL_LEN;
const SIGNATURE_LEN: usize = 64;
/// Bytes of a signed code, and its characters as base64url.
const CODE_LEN: usize = SIGNED_LEN + SIGNATURE_LEN;
const TEXT_LEN: usize = CODE_LEN * 4 / 3;

/// The keys that sign tickets: the first signs, all of them are known. Clones share them.
#[derive(Clone)]
pub struct TicketKeys(Arc<Vec<(u8, Ed25519KeyPair)>>);

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys").field("keys", &self.0.len()).finish()
    }
}

/// The public keys, as a gate reads them (RFC 7517, RFC 8037).
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct TicketKeySet {
    /// All keys that tickets may be signed with, the present one first.
    pub keys: Vec<TicketKey>,
}

/// A public key.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct TicketKey {
    /// The key's family: `OKP`.
    pub kty: &'static str,
    /// The curve: `Ed25519`.
    pub crv: &'static str,
    /// What it is for: `sig`.
    #[serde(rename = "use")]
    pub usage: &'static str,
    /// How: `EdDSA`.
    pub alg: &'static str,
    /// The key's id, 0 to 15: the lower half of a code's first byte.
    pub kid: String,
    /// The key, as base64url.
    pub x: String,
}

/// What a code that somebody shows says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The random part, by which the row is found.
    pub serial: String,
    /// What the signature vouches for; none where only the random part was shown.
    pub seat: Option<(PerformanceId, u32)>,
}

impl TicketKeys {
    /// The keys of the setting, or where it is empty those that follow from the installation's other keys.
    ///
    /// # Errors
    /// Where a key is malformed, double or obviously weak.
    pub fn new(setting: &Secret, others: &KeyRing) -> Result<Self, ConfigError> {
        let set = parse_keys(SETTING, setting)?;
        let seeds = if set.is_empty() { others.derived(PURPOSE) } else { set };
        let refuse =
            |error: ring::error::KeyRejected| ConfigError::Rejected { name: SETTING, reason: error.to_string() };
        let pair = |(id, seed): (u8, [u8; 32])| Ok((id, Ed25519KeyPair::from_seed_unchecked(&seed).map_err(refuse)?));
        Ok(Self(Arc::new(seeds.into_iter().map(pair).collect::<Result<_, ConfigError>>()?)))
    }

    /// The public halves.
    #[must_use]
    pub fn public(&self) -> TicketKeySet {
        let key = |(id, pair): &(u8, Ed25519KeyPair)| TicketKey {
            kty: "OKP",
            crv: "Ed25519",
            usage: "sig",
            alg: "EdDSA",
            kid: id.to_string(),
            x: URL_SAFE_NO_PAD.encode(pair.public_key()),
        };
        TicketKeySet { keys: self.0.iter().map(key).collect() }
    }

    /// The code of the ticket with this random part for this seat.
    #[must_use]
    pub fn code(&self, performance: PerformanceId, seat: u32, serial: &str) -> String {
        // There is always a first key: an installation without any does not start.
        let Some((id, pair)) = self.0.first() else { return serial.to_owned() };
        let mut bytes = Vec::with_capacity(CODE_LEN);
        bytes.push(VERSION << 4 | id);
        bytes.extend_from_slice(performance.0.as_bytes());
        bytes.extend_from_slice(&seat.to_be_bytes());
        bytes.extend_from_slice(serial.as_bytes());
        let signature = pair.sign(&bytes);
        bytes.extend_from_slice(signature.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Sold seats of one performance as their buyer sees them.
    #[must_use]
    pub fn show(&self, performance: PerformanceId, seats: Vec<SoldSeat>) -> Vec<SeatView> {
        let view = |seat: SoldSeat| {
            let ticket_code = seat.serial.map(|serial| self.code(performance, seat.number, &serial));
            SeatView { id: seat.id, grade: seat.grade, price: seat.price, ticket_code }
        };
        seats.into_iter().map(view).collect()
    }

    /// Reads a code: a signed one whose signature is good, or the random part alone, as tickets from before signatures have
    /// it. None where it is neither.
    #[must_use]
    pub fn read(&self, text: &str) -> Option<Shown> {
        if text.len() == SERIAL_LEN {
            let is_serial = text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
            return is_serial.then(|| Shown { serial: text.to_owned(), seat: None });
        }
        if text.len() != TEXT_LEN {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (signed, signature) = bytes.split_at_checked(SIGNED_LEN)?;
        let mut reader = Reader::new(signed);
        let [head] = reader.bytes::<1>()?;
        let (_, pair) = self.0.iter().find(|(id, _)| head == VERSION << 4 | id)?;
        UnparsedPublicKey::new(&ED25519, pair.public_key()).verify(signed, signature).ok()?;
        let performance = PerformanceId(reader.uuid()?);
        let seat = u32::from_be_bytes(reader.bytes()?);
        let serial = String::from_utf8(reader.bytes::<SERIAL_LEN>()?.to_vec()).ok()?;
        Some(Shown { serial, seat: Some((performance, seat)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "1:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const NEW: &str = "2:202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
    const SERIAL: &str = "0123456789ABCDEFGHJKMNPQRS";

    fn keys(setting: &str) -> TicketKeys {
        TicketKeys::new(&Secret::new(setting), &KeyRing::parse(&Secret::new(OLD)).unwrap()).unwrap()
    }

    fn performance() -> PerformanceId {
        PerformanceId("019abcde-0123-7abc-89ab-0123456789ab".parse().unwrap())
    }

    #[test]
    fn a_code_is_always_the_same_and_says_what_it_is_good_for() {
        let keys = keys(OLD);
        let code = keys.code(performance(), 77, SERIAL);
        assert_eq!((code.len(), &code), (TEXT_LEN, &keys.code(performance(), 77, SERIAL)));
        let shown = Shown { serial: SERIAL.to_owned(), seat: Some((performance(), 77)) };
        assert_eq!(keys.read(&code), Some(shown));
        assert_eq!(keys.read(SERIAL), Some(Shown { serial: SERIAL.to_owned(), seat: None }));
    }

    #[test]
    fn keys_that_were_in_use_are_known_and_others_are_not() {
        let before = keys(OLD).code(performance(), 1, SERIAL);
        let both = keys(&format!("{NEW},{OLD}"));
        assert!(both.read(&before).is_some());
        assert_eq!(both.public().keys.iter().map(|key| key.kid.as_str()).collect::<Vec<_>>(), ["2", "1"]);
        let now = both.code(performance(), 1, SERIAL);
        assert!(keys(NEW).read(&now).is_some() && keys(OLD).read(&now).is_none());
        // The same seed under another id is another key's claim.
        assert!(keys(&OLD.replace("1:", "3:")).read(&before).is_none());
    }

    #[test]
    fn nothing_needs_to_be_set() {
        let derived = keys("");
        let code = derived.code(performance(), 1, SERIAL);
        assert!(derived.read(&code).is_some());
        assert!(keys(OLD).read(&code).is_none(), "the derived seed is not the key that it follows from");
        assert!(TicketKeys::new(&Secret::new("1:00"), &KeyRing::parse(&Secret::new(OLD)).unwrap()).is_err());
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let keys = keys(OLD);
        let bytes = URL_SAFE_NO_PAD.decode(keys.code(performance(), 77, SERIAL)).unwrap();
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            assert_eq!(keys.read(&URL_SAFE_NO_PAD.encode(changed)), None, "byte {index}");
        }
        for text in ["", "a", &SERIAL.to_lowercase(), &"A".repeat(TEXT_LEN), &"Ä".repeat(13)] {
            assert_eq!(keys.read(text), None, "{text}");
        }
    }

    /// What `docs/tickets.md` shows, a reader of it must find.
    #[test]
    fn the_document_has_a_true_example() {
        let document = include_str!("../../../docs/tickets.md");
        let line = |name: &str| {
            let found = document.lines().find_map(|line| line.trim().strip_prefix(name));
            found.unwrap_or_else(|| panic!("docs/tickets.md has no {name}")).trim()
        };
        let keys = keys(line("seed:"));
        let (id, seat) = (line("performance_id:").parse().unwrap(), line("seat index:").parse().unwrap());
        assert_eq!(keys.code(id, seat, line("serial:")), line("ticket_code:"));
        assert_eq!(keys.public().keys[0].x, line("x:"));
        let bytes = URL_SAFE_NO_PAD.decode(line("ticket_code:")).unwrap();
        assert_eq!(hex::encode(&bytes[..SIGNED_LEN]), line("signed bytes:"));
        assert_eq!(hex::encode(&bytes[SIGNED_LEN..]), line("signature:"));
    }
}
