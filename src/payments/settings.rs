//! `[payments]`: the card provider, and how much it may cost everybody else.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::platform::config::{ConfigError, Secret};

/// Shorter secrets are guessed, or stood in for a real one.
const SECRET_LEN_MIN: usize = 20;
/// Fewer different characters are somebody's keyboard, not chance.
const SECRET_CHARS_MIN: usize = 10;

/// `[payments]`.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "each field is documented in config/default.toml")]
pub struct Settings {
    pub base_url: String,
    pub secret_key: Secret,
    pub webhook_secret: Secret,
    pub webhook_tolerance_secs: u32,
    pub timeout_ms: u64,
    pub connect_timeout_ms: u64,
    pub parallel_max: usize,
    pub wait_ms: u64,
    pub breaker_failures: u32,
    pub breaker_pause_ms: u64,
}

/// A secret of the provider's that could be guessed is refused, under the setting's name.
pub(super) fn check_secret(name: &'static str, secret: &Secret) -> Result<(), ConfigError> {
    let refuse = |reason: &str| Err(ConfigError::Rejected { name, reason: reason.to_owned() });
    if secret.is_empty() {
        return refuse("not set: the provider shows it where its keys are made");
    }
    let text = secret.expose();
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refuse("has blanks or characters outside ASCII");
    }
    let different: BTreeSet<u8> = text.bytes().collect();
    if text.len() < SECRET_LEN_MIN || different.len() < SECRET_CHARS_MIN {
        return refuse("is weak: take the provider's own, or make one with `openssl rand -hex 32`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_secrets_are_refused_by_name() {
        let check = |text: &str| check_secret("payments.secret_key", &Secret::new(text));
        assert!(check("sk_test_51NzQeLkdIwHu7ixTQ").is_ok());
        for weak in
            ["", "sk_test_123", "sk_test_111111111111111111", "sk_test_51NzQeLkd wHu7ixTQ", "sk_test_51NzQeLkdé7ixTQ0"]
        {
            let refusal = check(weak).unwrap_err().to_string();
            assert!(
                refusal.starts_with("payments.secret_key") && (weak.is_empty() || !refusal.contains(weak)),
                "{refusal}"
            );
        }
    }
}
