//! A payment and its states.
//!
//! A payment by card is an attempt: it begins undecided, and [`PaymentStatus::after`] says which way it may go from there.
//! `docs/payments.md` has the drawing.

use serde::Serialize;

use crate::accounts::UserId;
use crate::platform::money::Money;

crate::id_types! {
    /// A payment.
    PaymentId;
}

crate::problem_codes! {
    INVALID_SIGNATURE = 400 "invalid_signature" "Invalid signature" "The webhook is not signed by the payment provider, or was signed too long ago. It was not looked at.";
    CARD_DECLINED = 402 "card_declined" "Card declined" "The card was refused, and nothing was charged; decline_code says why, in the provider's words. Pay again, with another card if need be.";
    PAYMENT_IN_PROGRESS = 409 "payment_in_progress" "Payment in progress" "A payment of this is not decided yet. Repeat after Retry-After seconds: by then it is paid or free again.";
    PAYMENT_METHOD_UNAVAILABLE = 422 "payment_method_unavailable" "Payment method unavailable" "This cannot be paid with a card here. Pay with points.";
    PAYMENT_UNAVAILABLE = 503 "payment_unavailable" "Payment unavailable" "The payment provider cannot be reached. Nothing was charged: pay again after Retry-After seconds.";
}

/// Longest code of a provider's that is kept, in characters.
const CODE_CHARS_MAX: usize = 48;

/// How it is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// With the buyer's points.
    Points,
    /// With a card.
    Card,
}

impl Method {
    /// Reads the stored number.
    #[must_use]
    pub const fn of(number: u8) -> Self {
        if number == 0 { Self::Points } else { Self::Card }
    }

    /// The stored number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Points => 0,
            Self::Card => 1,
        }
    }
}

/// Where a payment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PaymentStatus {
    /// Not decided yet.
    Pending,
    /// The money has moved.
    Succeeded,
    /// It was refused.
    Failed,
    /// The money went back.
    Refunded,
    /// The money is owed back, and the provider has not confirmed yet that it sent it.
    Refunding,
}

impl PaymentStatus {
    /// Reads the stored number.
    #[must_use]
    pub const fn of(number: u8) -> Self {
        match number {
            0 => Self::Pending,
            1 => Self::Succeeded,
            2 => Self::Failed,
            3 => Self::Refunded,
            _ => Self::Refunding,
        }
    }

    /// The stored number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::Succeeded => 1,
            Self::Failed => 2,
            Self::Refunded => 3,
            Self::Refunding => 4,
        }
    }

    /// Where `event` leads a payment of this method, or nothing where it cannot happen to it.
    #[must_use]
    pub const fn after(self, method: Method, event: Event) -> Option<Self> {
        match (method, self, event) {
            (Method::Card, Self::Pending, Event::Delivered) => Some(Self::Succeeded),
            (Method::Card, Self::Pending, Event::ChargedInVain) | (Method::Card, Self::Succeeded, Event::Owed) => {
                Some(Self::Refunding)
            }
            (Method::Card, Self::Pending, Event::NotCharged) => Some(Self::Failed),
            // Points go back in the transaction that decides it; a card's provider is asked first.
            (Method::Card, Self::Refunding, Event::GivenBack) | (Method::Points, Self::Succeeded, Event::GivenBack) => {
                Some(Self::Refunded)
            }
            _ => None,
        }
    }
}

/// What happens to a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The money has moved, and what it was for is the buyer's.
    Delivered,
    /// The money has moved, but what it was for cannot be had any more.
    ChargedInVain,
    /// No money has moved, and none will.
    NotCharged,
    /// What was delivered is given back, so that the money is owed.
    Owed,
    /// The money has gone back.
    GivenBack,
}

/// What became of the charge of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The money has moved.
    Charged,
    /// It has not, and never will.
    NotCharged(Reason),
}

/// Why nothing was charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The card was refused, with the provider's code.
    Declined(String),
    /// The provider takes no such request, for example because it does not know the card.
    Rejected,
    /// The provider was not reached.
    NotSent,
    /// Nobody confirmed it in time, and it was cancelled.
    Abandoned,
}

/// What the stored reason of a refused card begins with.
const DECLINED: &str = "declined:";

impl Reason {
    /// As it is stored, in ASCII.
    #[must_use]
    pub fn stored(&self) -> String {
        match self {
            Self::Declined(code) => {
                let is_kept = |char: &char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '.');
                let code: String = code.chars().filter(is_kept).take(CODE_CHARS_MAX).collect();
                format!("{DECLINED}{code}")
            }
            Self::Rejected => "rejected".to_owned(),
            Self::NotSent => "not_sent".to_owned(),
            Self::Abandoned => "abandoned".to_owned(),
        }
    }

    /// Reads what was stored.
    #[must_use]
    pub fn of(stored: &str) -> Self {
        match stored.strip_prefix(DECLINED) {
            Some(code) => Self::Declined(code.to_owned()),
            None if stored == "rejected" => Self::Rejected,
            None if stored == "not_sent" => Self::NotSent,
            None => Self::Abandoned,
        }
    }
}

/// What is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Held seats.
    Hold(uuid::Uuid),
    /// Points that a buyer puts on the account.
    Charge(uuid::Uuid),
}

impl Subject {
    /// The stored kind and id.
    #[must_use]
    pub const fn stored(self) -> (u8, uuid::Uuid) {
        match self {
            Self::Hold(id) => (0, id),
            Self::Charge(id) => (2, id),
        }
    }

    /// A new id for what it becomes once it is paid.
    #[must_use]
    pub fn new_result(self) -> uuid::Uuid {
        match self {
            Self::Hold(_) => uuid::Uuid::now_v7(),
            Self::Charge(id) => id,
        }
    }

    /// Reads what was stored; nothing where this program does not know the kind.
    #[must_use]
    pub const fn of(kind: u8, id: uuid::Uuid) -> Option<Self> {
        match kind {
            0 => Some(Self::Hold(id)),
            2 => Some(Self::Charge(id)),
            _ => None,
        }
    }
}

/// A payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payment {
    /// The payment.
    pub id: PaymentId,
    /// How.
    pub method: Method,
    /// Where it is.
    pub status: PaymentStatus,
    /// How much.
    pub amount: Money,
}

/// A payment whose money has moved, to be recorded.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    /// The payment.
    pub id: PaymentId,
    /// Who paid.
    pub user: UserId,
    /// How.
    pub method: Method,
    /// What for.
    pub subject: Subject,
    /// How much.
    pub amount: Money,
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [PaymentStatus; 5] = [
        PaymentStatus::Pending,
        PaymentStatus::Succeeded,
        PaymentStatus::Failed,
        PaymentStatus::Refunded,
        PaymentStatus::Refunding,
    ];
    const EVENTS: [Event; 5] =
        [Event::Delivered, Event::ChargedInVain, Event::NotCharged, Event::Owed, Event::GivenBack];

    /// Every transition there is, for either method.
    #[test]
    fn a_payment_goes_the_drawn_ways_and_no_other() {
        use Method::{Card, Points};
        let drawn = [
            (Card, PaymentStatus::Pending, Event::Delivered, PaymentStatus::Succeeded),
            (Card, PaymentStatus::Pending, Event::ChargedInVain, PaymentStatus::Refunding),
            (Card, PaymentStatus::Pending, Event::NotCharged, PaymentStatus::Failed),
            (Card, PaymentStatus::Succeeded, Event::Owed, PaymentStatus::Refunding),
            (Card, PaymentStatus::Refunding, Event::GivenBack, PaymentStatus::Refunded),
            (Points, PaymentStatus::Succeeded, Event::GivenBack, PaymentStatus::Refunded),
        ];
        for method in [Card, Points] {
            for state in STATES {
                for event in EVENTS {
                    let way = drawn.iter().find(|way| (way.0, way.1, way.2) == (method, state, event));
                    assert_eq!(state.after(method, event), way.map(|way| way.3), "{method:?} {state:?} {event:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_decided_is_never_undecided_again() {
        for (state, event) in STATES.into_iter().flat_map(|state| EVENTS.map(|event| (state, event))) {
            assert_ne!(state.after(Method::Card, event), Some(PaymentStatus::Pending));
        }
        for end in [PaymentStatus::Failed, PaymentStatus::Refunded] {
            assert!(EVENTS.iter().all(|event| end.after(Method::Card, *event).is_none()));
        }
    }

    #[test]
    fn what_is_stored_is_read_back() {
        for state in STATES {
            assert_eq!(PaymentStatus::of(state.number()), state);
        }
        for method in [Method::Card, Method::Points] {
            assert_eq!(Method::of(method.number()), method);
        }
        let id = uuid::Uuid::now_v7();
        for subject in [Subject::Hold(id), Subject::Charge(id)] {
            let (kind, id) = subject.stored();
            assert_eq!(Subject::of(kind, id), Some(subject));
        }
        assert_eq!(Subject::of(9, id), None);
        let declined = Reason::Declined("insufficient_funds".to_owned());
        for reason in [declined, Reason::Rejected, Reason::NotSent, Reason::Abandoned] {
            assert_eq!(Reason::of(&reason.stored()), reason);
        }
    }

    #[test]
    fn a_providers_code_is_kept_short_and_plain() {
        let code = format!("kärte '{}", "x".repeat(100));
        let stored = Reason::Declined(code).stored();
        assert!(stored.is_ascii() && stored.len() <= 64, "{stored}");
        assert!(stored.starts_with("declined:krtexx"));
    }
}
