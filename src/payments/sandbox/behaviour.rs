//! How the sandbox misbehaves.

use serde::{Deserialize, Serialize};

/// Longest time that anything is put off, in milliseconds.
const PAUSE_MS_MAX: u64 = 600_000;
/// Longest address of webhooks.
const URL_LEN_MAX: usize = 2048;

/// What can be asked of the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// An intent is made.
    Create,
    /// An intent is charged.
    Confirm,
    /// An intent is looked at.
    Find,
    /// An intent is cancelled.
    Cancel,
    /// Money is given back.
    Refund,
    /// Refunds are looked at.
    FindRefunds,
}

impl Operation {
    const ALL: [Self; 6] = [Self::Create, Self::Confirm, Self::Find, Self::Cancel, Self::Refund, Self::FindRefunds];
}

/// How calls go wrong. What is left out is as it should be: nothing goes wrong.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// The share of confirmations by a good card that is refused.
    pub decline_rate: f64,
    /// Each call waits so long before anything is done.
    pub delay_ms: u64,
    /// The share of calls whose connection is closed before anything is done.
    pub drop_request_rate: f64,
    /// The share of calls that are carried out, and whose connection is closed without an answer.
    pub drop_reply_rate: f64,
    /// The share of calls that are answered by a failure inside, one half of them after they were carried out.
    pub error_rate: f64,
    /// A call that hangs is carried out, and its answer is held back for so long.
    pub hang_ms: u64,
    /// The share of calls that hang, where `hang_ms` is not 0.
    pub hang_rate: f64,
    /// What the bank does later, it does after so long.
    pub processing_ms: u64,
    /// The operations that all this is about, but for `processing_ms` and `decline_rate`.
    pub operations: Vec<Operation>,
    /// Begins chance anew: the same calls in the same order then meet the same faults. Left out, it goes on.
    pub seed: Option<u64>,
    /// What happens to webhooks.
    pub webhooks: WebhookBehaviour,
}

/// How webhooks go wrong.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookBehaviour {
    /// Where they go. Left out, it stays as it is; empty, they go nowhere.
    pub url: Option<String>,
    /// They are sent so long after what they tell.
    pub delay_ms: u64,
    /// The share that is sent twice.
    pub duplicate_rate: f64,
    /// Each is put off by a time of its own, up to twice `delay_ms` (200 ms at least), so that they change places.
    pub shuffle: bool,
    /// The share that is preceded by a forgery: the opposite news, signed with another secret.
    pub wrong_signature_rate: f64,
    /// How far the signature's clock is ahead, or behind.
    pub clock_ahead_ms: i64,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            decline_rate: 0.0,
            delay_ms: 0,
            drop_request_rate: 0.0,
            drop_reply_rate: 0.0,
            error_rate: 0.0,
            hang_ms: 0,
            hang_rate: 1.0,
            processing_ms: 500,
            operations: Operation::ALL.to_vec(),
            seed: None,
            webhooks: WebhookBehaviour::default(),
        }
    }
}

impl Behaviour {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// A sentence about the first such member.
    pub fn check(&self) -> Result<(), String> {
        let webhooks = &self.webhooks;
        for (name, rate) in [
            ("decline_rate", self.decline_rate),
            ("drop_request_rate", self.drop_request_rate),
            ("drop_reply_rate", self.drop_reply_rate),
            ("error_rate", self.error_rate),
            ("hang_rate", self.hang_rate),
            ("webhooks.duplicate_rate", webhooks.duplicate_rate),
            ("webhooks.wrong_signature_rate", webhooks.wrong_signature_rate),
        ] {
            if !(0.0..=1.0).contains(&rate) {
                return Err(format!("{name} is a share: from 0 to 1"));
            }
        }
        for (name, pause) in [
            ("delay_ms", self.delay_ms),
            ("hang_ms", self.hang_ms),
            ("processing_ms", self.processing_ms),
            ("webhooks.delay_ms", webhooks.delay_ms),
        ] {
            if pause > PAUSE_MS_MAX {
                return Err(format!("{name} is at most {PAUSE_MS_MAX}"));
            }
        }
        if webhooks.url.as_ref().is_some_and(|url| url.len() > URL_LEN_MAX) {
            return Err(format!("webhooks.url has at most {URL_LEN_MAX} characters"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_as_it_should_be() {
        let given: Behaviour = serde_json::from_str(r#"{"drop_reply_rate": 0.5, "operations": ["confirm"]}"#).unwrap();
        assert_eq!((given.operations.as_slice(), given.error_rate.to_bits()), (&[Operation::Confirm][..], 0));
        assert_eq!((given.check(), given.webhooks.url), (Ok(()), None));
        assert!(serde_json::from_str::<Behaviour>(r#"{"drop_rate": 0.5}"#).is_err(), "unknown members are refused");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (text, expected) in [
            (r#"{"error_rate": 1.5}"#, "error_rate"),
            (r#"{"decline_rate": -0.1}"#, "decline_rate"),
            (r#"{"hang_ms": 600001}"#, "hang_ms"),
            (r#"{"webhooks": {"duplicate_rate": 2}}"#, "webhooks.duplicate_rate"),
        ] {
            let refusal = serde_json::from_str::<Behaviour>(text).unwrap().check().unwrap_err();
            assert!(refusal.starts_with(expected), "{refusal}");
        }
        let nonsense = Behaviour { error_rate: f64::NAN, ..Behaviour::default() };
        assert!(nonsense.check().is_err());
    }
}
