//! The signature of a provider's webhook: `Stripe-Signature: t=1700000000,v1=hex[,v1=hex…]`.
//!
//! `v1` is the HMAC-SHA-256 of `{t}.{body}` under a secret that both sides know. There is more than one of them while the
//! secret is being changed; one that fits is enough. The time is signed as well, so a recorded webhook is worth nothing
//! once the tolerance has passed; within it, the event's id tells a repetition. Nothing here does I/O, and `now` is an argument.

use std::time::Duration;

use ring::hmac;

use super::settings::{Settings, check_secret};
use crate::platform::clock::Timestamp;
use crate::platform::config::{ConfigError, Secret};

/// The header's name, in lower case.
pub const HEADER: &str = "stripe-signature";
/// A longer header is refused unread.
const HEADER_LEN_MAX: usize = 2048;
/// Signatures of one header that are looked at.
const SIGNATURES_MAX: usize = 8;
const SCHEME: &str = "v1";

/// Why a webhook is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadSignature {
    /// The header is not of the form.
    Malformed,
    /// No signature is of this body, this time and our secret.
    Wrong,
    /// It is the provider's, but too old, or from a future that no clock's error explains.
    Stale,
}

/// The secret that the provider signs its webhooks with.
#[derive(Clone)]
pub struct Signer(hmac::Key);

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    /// Signs with this secret, as it is written: `whsec_…` is part of it.
    #[must_use]
    pub fn new(secret: &Secret) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes()))
    }

    /// The header that goes with `body`, sent at `now`.
    #[must_use]
    pub fn sign(&self, body: &[u8], now: Timestamp) -> String {
        let at = now.millis().div_euclid(1000).to_string();
        let tag = hmac::sign(&self.0, &signed(&at, body));
        format!("t={at},{SCHEME}={}", hex::encode(tag.as_ref()))
    }
}

/// Tells the provider's webhooks from others.
#[derive(Clone, Debug)]
pub struct Verifier {
    signer: Signer,
    tolerance: Duration,
}

impl Verifier {
    /// As configured; nothing where there is no provider.
    ///
    /// # Errors
    /// Where the secret is missing or weak.
    pub fn configured(settings: &Settings) -> Result<Option<Self>, ConfigError> {
        if settings.base_url.is_empty() {
            return Ok(None);
        }
        check_secret("payments.webhook_secret", &settings.webhook_secret)?;
        let tolerance = Duration::from_secs(settings.webhook_tolerance_secs.into());
        Ok(Some(Self { signer: Signer::new(&settings.webhook_secret), tolerance }))
    }

    /// Whether `header` shows that `body` is the provider's and was sent lately. Takes the same time wherever a signature
    /// differs from the right one.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn verify(&self, header: &str, body: &[u8], now: Timestamp) -> Result<(), BadSignature> {
        let (at, tags) = parse(header).ok_or(BadSignature::Malformed)?;
        let message = signed(at, body);
        let is_ours = |tag: &Vec<u8>| hmac::verify(&self.signer.0, &message, tag).is_ok();
        if !tags.iter().any(is_ours) {
            return Err(BadSignature::Wrong);
        }
        let sent = at.parse::<i64>().ok().and_then(|secs| secs.checked_mul(1000)).and_then(Timestamp::from_millis);
        let sent = sent.ok_or(BadSignature::Malformed)?;
        // A whole second, as the header knows no parts of one.
        let tolerated = self.tolerance + Duration::from_secs(1);
        if now.since(sent) > tolerated || sent.since(now) > tolerated { Err(BadSignature::Stale) } else { Ok(()) }
    }
}

fn signed(at: &str, body: &[u8]) -> Vec<u8> {
    [at.as_bytes(), b".", body].concat()
}

/// The time as it is written, and the signatures. Parts of other schemes are passed over.
fn parse(header: &str) -> Option<(&str, Vec<Vec<u8>>)> {
    if header.len() > HEADER_LEN_MAX {
        return None;
    }
    let (mut at, mut tags) = (None, Vec::new());
    for part in header.split(',') {
        let (name, value) = part.trim().split_once('=')?;
        match name {
            "t" if at.is_none() && !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                at = Some(value);
            }
            "t" => return None,
            SCHEME if tags.len() < SIGNATURES_MAX => tags.push(hex::decode(value).ok()?),
            _ => {}
        }
    }
    at.filter(|_| !tags.is_empty()).map(|at| (at, tags))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"id":"evt_1","type":"payment_intent.succeeded"}"#;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + secs * 1000).unwrap()
    }

    fn verifier(secret: &str) -> Verifier {
        Verifier { signer: Signer::new(&Secret::new(secret)), tolerance: Duration::from_mins(5) }
    }

    #[test]
    fn the_signature_is_the_one_that_stripe_documents() {
        // openssl: printf '1700000000.{}' | openssl dgst -sha256 -hmac whsec_test
        let header = Signer::new(&Secret::new("whsec_test")).sign(b"{}", at(0));
        let tag = "35495024f4ef3f94e5a93e22221544c4b75e9a42300cd965ab81cb85cd994e91";
        assert_eq!(header, format!("t=1700000000,v1={tag}"));
    }

    #[test]
    fn what_was_signed_is_believed_and_nothing_else() {
        let (ours, now) = (verifier("whsec_a"), at(0));
        let header = ours.signer.sign(BODY, now);
        assert_eq!(ours.verify(&header, BODY, now), Ok(()));
        assert_eq!(verifier("whsec_b").verify(&header, BODY, now), Err(BadSignature::Wrong));
        let other_time = header.replace("t=1700000000", "t=1700000001");
        assert_eq!(ours.verify(&other_time, BODY, now), Err(BadSignature::Wrong));
        for index in 0..BODY.len() {
            let mut body = BODY.to_vec();
            body[index] ^= 1;
            assert_eq!(ours.verify(&header, &body, now), Err(BadSignature::Wrong), "byte {index}");
        }
        assert_eq!(ours.verify(&header, &BODY[1..], now), Err(BadSignature::Wrong));
    }

    #[test]
    fn one_signature_that_fits_is_enough_while_the_secret_changes() {
        let (old, new, now) = (verifier("whsec_old"), verifier("whsec_new"), at(0));
        let tag_of = |verifier: &Verifier| verifier.signer.sign(BODY, now).split_once(',').unwrap().1.to_owned();
        let header = format!("t=1700000000,{},{},v0=ffff", tag_of(&old), tag_of(&new));
        assert_eq!(old.verify(&header, BODY, now), Ok(()));
        assert_eq!(new.verify(&header, BODY, now), Ok(()));
        assert_eq!(verifier("whsec_third").verify(&header, BODY, now), Err(BadSignature::Wrong));
    }

    #[test]
    fn old_and_future_ones_are_stale() {
        let ours = verifier("whsec_a");
        let header = ours.signer.sign(BODY, at(0));
        for (secs, expected) in [
            (0, Ok(())),
            (300, Ok(())),
            (302, Err(BadSignature::Stale)),
            (-300, Ok(())),
            (-302, Err(BadSignature::Stale)),
            (86_400 * 365, Err(BadSignature::Stale)),
        ] {
            assert_eq!(ours.verify(&header, BODY, at(secs)), expected, "{secs} s later");
        }
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        let (ours, now) = (verifier("whsec_a"), at(0));
        let tag = ours.signer.sign(BODY, now).split_once("v1=").unwrap().1.to_owned();
        let long = format!("t=1700000000,v1={tag},v0={}", "0".repeat(HEADER_LEN_MAX));
        let huge = format!("t=99999999999999999999,v1={tag}");
        for header in [
            "",
            "t=1700000000",
            &format!("v1={tag}"),
            &format!("t=,v1={tag}"),
            &format!("t=-5,v1={tag}"),
            &format!("t=1700000000,t=1700000000,v1={tag}"),
            &format!("t=1700000000,v0={tag}"),
            "t=1700000000,v1=xyz",
            "t=1700000000,v1",
            &long,
        ] {
            assert_eq!(ours.verify(header, BODY, now), Err(BadSignature::Malformed), "{header}");
        }
        assert_eq!(ours.verify(&huge, BODY, now), Err(BadSignature::Wrong));
        assert_eq!(ours.verify("t=1700000000,v1=", BODY, now), Err(BadSignature::Wrong));
        // Our own signature of a time that no calendar has.
        let message = signed("99999999999999999999", BODY);
        let tag = hex::encode(hmac::sign(&ours.signer.0, &message));
        assert_eq!(ours.verify(&format!("t=99999999999999999999,v1={tag}"), BODY, now), Err(BadSignature::Malformed));
    }

    #[test]
    fn only_so_many_signatures_are_looked_at() {
        let (ours, now) = (verifier("whsec_a"), at(0));
        let right = ours.signer.sign(BODY, now).split_once(',').unwrap().1.to_owned();
        let wrong = format!("v1={},", "00".repeat(32));
        let with = |count: usize| format!("t=1700000000,{}{right}", wrong.repeat(count));
        assert_eq!(ours.verify(&with(SIGNATURES_MAX - 1), BODY, now), Ok(()));
        assert_eq!(ours.verify(&with(SIGNATURES_MAX), BODY, now), Err(BadSignature::Wrong));
    }
}
