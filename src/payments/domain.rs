//! A payment and its states.

use serde::Serialize;

use crate::platform::money::Money;

crate::id_types! {
    /// A payment.
    PaymentId;
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
}

impl PaymentStatus {
    /// Reads the stored number.
    #[must_use]
    pub const fn of(number: u8) -> Self {
        match number {
            0 => Self::Pending,
            1 => Self::Succeeded,
            2 => Self::Failed,
            _ => Self::Refunded,
        }
    }
}

/// What is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Held seats.
    Hold(uuid::Uuid),
}

impl Subject {
    /// The stored kind and id.
    #[must_use]
    pub const fn stored(self) -> (u8, uuid::Uuid) {
        match self {
            Self::Hold(id) => (0, id),
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
