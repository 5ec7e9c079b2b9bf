//! What the provider's replies mean. Nothing here does I/O.
//!
//! Members that are not read may come and go; one that is read and does not fit makes the reply broken, and its call's
//! outcome unknown.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::transport::Answer;
use crate::payments::gateway::{GatewayError, IntentId, RefundStanding, Standing};

/// What an attempt's row has room for.
const ID_LEN_MAX: usize = 255;
const CODE_LEN_MAX: usize = 64;
/// The card wants its holder to confirm (3-D Secure), which nobody here can do.
pub(super) const AUTHENTICATION_REQUIRED: &str = "authentication_required";
const CARD_DECLINED: &str = "card_declined";

/// A payment intent, as much of it as matters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Intent {
    pub id: String,
    pub status: String,
    pub amount: i64,
    pub currency: String,
    #[serde(default)]
    pub metadata: Metadata,
    pub last_payment_error: Option<CardFailure>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Metadata {
    pub attempt: Option<String>,
}

/// Why a card was refused.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct CardFailure {
    code: Option<String>,
    decline_code: Option<String>,
}

impl CardFailure {
    /// The more precise of the two codes; a code that is none is not passed on.
    fn code(&self) -> String {
        let precise = self.decline_code.iter().filter(|code| *code != "generic_decline");
        let is_code = |code: &&String| {
            (1..=CODE_LEN_MAX).contains(&code.len())
                && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        precise.chain(&self.code).find(is_code).map_or_else(|| CARD_DECLINED.to_owned(), Clone::clone)
    }
}

impl Intent {
    /// Where it is; nothing where the card wants its holder to confirm.
    pub(super) fn standing(&self) -> Result<Option<Standing>, GatewayError> {
        Ok(Some(match (self.status.as_str(), &self.last_payment_error) {
            ("requires_payment_method", Some(failure)) => Standing::Declined(failure.code()),
            ("requires_payment_method" | "requires_confirmation", _) => Standing::Unconfirmed,
            ("requires_action", _) => return Ok(None),
            ("processing", _) => Standing::Processing,
            ("succeeded", _) => Standing::Succeeded,
            ("canceled", _) => Standing::Cancelled,
            // Such as `requires_capture`, which nobody here asks for.
            _ => return Err(GatewayError::Unknown("the intent has a status that is not known here".to_owned())),
        }))
    }

    /// Its name.
    pub(super) fn id(&self) -> IntentId {
        IntentId(self.id.clone())
    }
}

/// A refund.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Refund {
    pub amount: i64,
    pub status: String,
}

impl Refund {
    /// Where it is.
    pub(super) fn standing(&self) -> Result<RefundStanding, GatewayError> {
        match self.status.as_str() {
            "pending" | "requires_action" => Ok(RefundStanding::Pending),
            "succeeded" => Ok(RefundStanding::Succeeded),
            "failed" | "canceled" => Ok(RefundStanding::Failed),
            _ => Err(GatewayError::Unknown("the refund has a status that is not known here".to_owned())),
        }
    }
}

/// The refunds of an intent.
#[derive(Debug, Deserialize)]
pub(super) struct Refunds {
    pub data: Vec<Refund>,
}

impl Refunds {
    /// Where giving back `amount` is, all refunds together; nothing where none of them is of use.
    pub(super) fn standing(&self, amount: i64) -> Result<Option<RefundStanding>, GatewayError> {
        let (mut gone, mut on_its_way) = (0_i64, 0_i64);
        for refund in &self.data {
            match refund.standing()? {
                RefundStanding::Succeeded => gone = gone.saturating_add(refund.amount),
                RefundStanding::Pending => on_its_way = on_its_way.saturating_add(refund.amount),
                RefundStanding::Failed => {}
            }
        }
        Ok(if gone >= amount {
            Some(RefundStanding::Succeeded)
        } else if gone.saturating_add(on_its_way) >= amount {
            Some(RefundStanding::Pending)
        } else {
            None
        })
    }

    /// Whether one of them failed.
    pub(super) fn has_failed(&self) -> bool {
        self.data.iter().any(|refund| refund.standing() == Ok(RefundStanding::Failed))
    }
}

/// The provider's refusal.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Refusal {
    #[serde(rename = "type", default)]
    kind: String,
    code: Option<String>,
    decline_code: Option<String>,
    /// The parameter that is to blame.
    param: Option<String>,
    /// The intent that it is about, as it is now.
    payment_intent: Option<Intent>,
}

#[derive(Deserialize)]
struct RefusalReply {
    error: Refusal,
}

impl Refusal {
    /// Whether the payment method is to blame, which the buyer chose.
    pub(super) fn is_about_the_card(&self) -> bool {
        self.param.as_deref().is_some_and(|name| name.starts_with("payment_method"))
    }

    /// Whether it has this code.
    pub(super) fn has_code(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }
}

/// What an answer says.
#[derive(Debug)]
pub(super) enum Said<T> {
    /// It was done, or is known: here is how it stands.
    Is(T),
    /// The card was refused, with this code.
    Declined(String),
    /// It was not done, as the intent is where it is.
    Stands(Intent),
    /// It was not done.
    Refused(Refusal, GatewayError),
}

/// Reads an answer.
///
/// # Errors
/// [`GatewayError::NotSent`] where it was turned away unread; [`GatewayError::Unknown`] where it may have been carried out.
pub(super) fn read<T: DeserializeOwned>(answer: &Answer) -> Result<Said<T>, GatewayError> {
    let unknown = |why: &str| GatewayError::Unknown(format!("{why} ({})", told(answer, None)));
    match answer.status {
        200..=299 => {
            serde_json::from_slice(&answer.body).map(Said::Is).map_err(|_| unknown("the answer cannot be read"))
        }
        409 => Err(unknown("the same call is under way already")),
        429 => Err(GatewayError::NotSent(format!("too many calls for the provider ({})", told(answer, None)))),
        400..=499 => {
            // One without the provider's form is of somebody on the way.
            let reply: Result<RefusalReply, _> = serde_json::from_slice(&answer.body);
            let Ok(RefusalReply { mut error }) = reply else { return Err(unknown("the refusal cannot be read")) };
            if error.kind == "card_error" {
                let failure = CardFailure { code: error.code.take(), decline_code: error.decline_code.take() };
                return Ok(Said::Declined(failure.code()));
            }
            if matches!(answer.status, 401 | 403) {
                // Our key, which is ours to mend: no buyer's card is to blame.
                return Err(GatewayError::NotSent(told(answer, Some(&error))));
            }
            if let Some(intent) = error.payment_intent.take() {
                return Ok(Said::Stands(intent));
            }
            let refused = GatewayError::Refused(told(answer, Some(&error)));
            Ok(Said::Refused(error, refused))
        }
        _ => Err(unknown("it says that something went wrong inside")),
    }
}

/// The status, the kind and the code, and the provider's name for the call. Never its message, which quotes what was sent.
fn told(answer: &Answer, refusal: Option<&Refusal>) -> String {
    let plain = |text: &str| -> String {
        let is_plain = |char: &char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-');
        text.chars().filter(is_plain).take(CODE_LEN_MAX).collect()
    };
    let mut parts = vec![answer.status.to_string()];
    if let Some(refusal) = refusal {
        parts.extend([plain(&refusal.kind), plain(refusal.code.as_deref().unwrap_or_default())]);
    }
    parts.extend(answer.request.as_deref().map(plain));
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}

/// Whether the provider's name for something fits into a row and an address.
pub(super) fn is_name(text: &str) -> bool {
    (1..=ID_LEN_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;

    fn answer(status: u16, body: &Value) -> Answer {
        let body = Bytes::from(body.to_string());
        Answer { status, is_replayed: false, request: Some("req_1".to_owned()), body }
    }

    fn intent(status: &str, failure: &Value) -> Value {
        json!({"id": "pi_1", "object": "payment_intent", "amount": 500, "currency": "krw", "status": status,
            "metadata": {"attempt": "a", "more": "b"}, "last_payment_error": failure, "next_action": {"type": "x"}})
    }

    #[test]
    fn every_status_of_an_intent_has_its_standing() {
        let declined = json!({"type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds"});
        for (status, failure, expected) in [
            ("requires_payment_method", &Value::Null, Some(Standing::Unconfirmed)),
            ("requires_payment_method", &declined, Some(Standing::Declined("insufficient_funds".to_owned()))),
            ("requires_confirmation", &Value::Null, Some(Standing::Unconfirmed)),
            ("requires_action", &Value::Null, None),
            ("processing", &Value::Null, Some(Standing::Processing)),
            ("succeeded", &Value::Null, Some(Standing::Succeeded)),
            // Of an earlier card: what counts is where it is now.
            ("succeeded", &declined, Some(Standing::Succeeded)),
            ("canceled", &declined, Some(Standing::Cancelled)),
        ] {
            let Ok(Said::Is(read)) = read::<Intent>(&answer(200, &intent(status, failure))) else { panic!("{status}") };
            assert_eq!(read.standing(), Ok(expected), "{status}");
        }
        let odd: Intent = serde_json::from_value(intent("requires_capture", &Value::Null)).unwrap();
        assert!(matches!(odd.standing(), Err(GatewayError::Unknown(_))));
    }

    #[test]
    fn the_more_precise_code_of_a_refusal_is_told_and_nothing_that_is_no_code() {
        let long = "a".repeat(CODE_LEN_MAX + 1);
        for (code, decline_code, expected) in [
            (Some("card_declined"), Some("generic_decline"), "card_declined"),
            (Some("card_declined"), Some("lost_card"), "lost_card"),
            (Some("expired_card"), None, "expired_card"),
            (Some("expired_card"), Some("not a code"), "expired_card"),
            (Some(long.as_str()), Some(""), "card_declined"),
            (None, None, "card_declined"),
        ] {
            let error = json!({"error": {"type": "card_error", "code": code, "decline_code": decline_code}});
            let Ok(Said::Declined(told)) = read::<Intent>(&answer(402, &error)) else { panic!("{error}") };
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn answers_are_told_apart_by_whether_something_may_have_happened() {
        let error = json!({"error": {"type": "invalid_request_error", "code": "resource_missing", "message": "No such pm_secret"}});
        for status in [409, 500, 502, 503, 504, 301, 100] {
            assert!(matches!(read::<Intent>(&answer(status, &error)), Err(GatewayError::Unknown(_))), "{status}");
        }
        for status in [401, 403, 429] {
            assert!(matches!(read::<Intent>(&answer(status, &error)), Err(GatewayError::NotSent(_))), "{status}");
        }
        for status in [400, 404] {
            let Ok(Said::Refused(_, GatewayError::Refused(why))) = read::<Intent>(&answer(status, &error)) else {
                panic!("{status}")
            };
            assert_eq!(
                why,
                format!("{status} invalid_request_error resource_missing req_1"),
                "and nothing that was sent"
            );
        }
        for body in [json!({}), json!("gateway"), json!({"error": "no"}), json!({"id": "pi_1", "status": 5})] {
            assert!(matches!(read::<Intent>(&answer(400, &body)), Err(GatewayError::Unknown(_))), "{body}");
            assert!(matches!(read::<Intent>(&answer(200, &body)), Err(GatewayError::Unknown(_))), "{body}");
        }
    }

    #[test]
    fn a_refusal_that_shows_its_intent_tells_where_that_is() {
        let error = json!({"error": {"type": "invalid_request_error", "code": "payment_intent_unexpected_state",
            "payment_intent": intent("canceled", &Value::Null)}});
        let Ok(Said::Stands(stands)) = read::<Intent>(&answer(400, &error)) else { panic!() };
        assert_eq!((stands.standing(), stands.metadata.attempt.as_deref()), (Ok(Some(Standing::Cancelled)), Some("a")));
    }

    #[test]
    fn refunds_count_together() {
        let refunds = |parts: &[(i64, &str)]| {
            let data: Vec<Value> = parts
                .iter()
                .map(|(amount, status)| json!({"id": "re_1", "amount": amount, "status": status}))
                .collect();
            serde_json::from_value::<Refunds>(json!({"object": "list", "data": data})).unwrap()
        };
        for (parts, expected) in [
            (&[][..], None),
            (&[(500, "succeeded")], Some(RefundStanding::Succeeded)),
            (&[(200, "succeeded"), (300, "succeeded")], Some(RefundStanding::Succeeded)),
            (&[(200, "succeeded"), (300, "pending")], Some(RefundStanding::Pending)),
            (&[(200, "succeeded"), (300, "requires_action")], Some(RefundStanding::Pending)),
            (&[(200, "succeeded"), (300, "failed")], None),
            (&[(500, "canceled")], None),
        ] {
            assert_eq!(refunds(parts).standing(500), Ok(expected), "{parts:?}");
        }
        assert!(refunds(&[(500, "failed")]).has_failed() && !refunds(&[(500, "pending")]).has_failed());
        assert!(matches!(refunds(&[(500, "odd")]).standing(500), Err(GatewayError::Unknown(_))));
    }

    #[test]
    fn names_fit_into_a_row_and_an_address() {
        assert!(is_name("pi_3MtwBwLkdIwHu7ix28a3tqPa"));
        for bad in ["", "pi_1/../charges", "pi 1", "pi_é", &"a".repeat(ID_LEN_MAX + 1)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
