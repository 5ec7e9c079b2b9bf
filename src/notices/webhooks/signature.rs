//! Signatures by the Standard Webhooks specification: HMAC-SHA-256 over id, time and body, so that a receiver knows who sent a
//! delivery, that nobody changed it, and that it is not an old one sent again.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngCore as _;
use ring::hmac;

/// How secrets begin.
const PREFIX: &str = "whsec_";

/// What one endpoint's deliveries are signed with.
#[derive(Clone)]
pub(super) struct SigningSecret([u8; 32]);

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

impl SigningSecret {
    /// A new one.
    pub(super) fn random() -> Self {
        let mut bytes = [0; 32];
        rand::rng().fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// One that was stored.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// As it is stored, before it is sealed.
    pub(super) const fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As receivers take it.
    pub(super) fn text(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(self.0))
    }

    /// The value of `webhook-signature` for a message sent at `secs` since 1970.
    pub(super) fn sign(&self, id: &str, secs: i64, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        context.update(format!("{id}.{secs}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_covers_id_time_and_body() {
        let secret = SigningSecret(*b"0123456789abcdef0123456789abcdef");
        assert_eq!(secret.text(), "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
        let signed = secret.sign("msg", 1_700_000_000, b"{}");
        assert!(signed.starts_with("v1,") && signed.len() == 3 + 44, "{signed}");
        let others = [
            secret.sign("msh", 1_700_000_000, b"{}"),
            secret.sign("msg", 1_700_000_001, b"{}"),
            secret.sign("msg", 1_700_000_000, b"[]"),
            SigningSecret::random().sign("msg", 1_700_000_000, b"{}"),
        ];
        assert!(!others.contains(&signed));
        assert_eq!(format!("{secret:?}"), "<hidden>");
        assert!(SigningSecret::from_bytes(&[0; 31]).is_none());
    }
}
