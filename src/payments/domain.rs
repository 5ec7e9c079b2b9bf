//! A payment and its states.

use serde::Serialize;

use crate::accounts::UserId;
use crate::platform::error::Problem;
use crate::platform::money::Money;

crate::id_types! {
    /// A payment.
    PaymentId;
}

crate::problem_codes! {
    PAYMENT_IN_PROGRESS = 409 "payment_in_progress" "Payment in progress" "A payment of this is not decided yet. Repeat after Retry-After seconds: by then it is paid or free again.";
}

/// When to ask again: most providers have decided by then.
const IN_PROGRESS_RETRY_SECS: u32 = 3;

/// What is told to whoever pays for what is being paid already.
#[must_use]
pub fn in_progress() -> Problem {
    Problem::new(&PAYMENT_IN_PROGRESS).retry_after(IN_PROGRESS_RETRY_SECS)
}

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
