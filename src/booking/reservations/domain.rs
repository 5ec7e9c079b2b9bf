//! A reservation and its states.

use rand::Rng as _;
use serde::Serialize;

use crate::booking::holds::HoldId;
use crate::catalog::{ConcertId, PerformanceId};
use crate::payments::{Method, PaymentId, PaymentStatus};
use crate::platform::clock::Timestamp;
use crate::platform::money::Money;

crate::id_types! {
    /// A reservation.
    ReservationId;
}

crate::problem_codes! {
    NOT_CANCELLABLE = 409 "not_cancellable" "Not cancellable" "This reservation was given back already, one of its tickets was used, or its performance is too near.";
    NOT_REFUNDABLE = 409 "not_refundable" "Not refundable" "Only a confirmed reservation can be refunded: this one is not paid yet, or was given back already.";
}

/// Where a reservation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReservationStatus {
    /// The payment is not decided yet.
    Pending,
    /// Paid.
    Confirmed,
    /// Given back by the buyer, or never paid: the payment says which.
    Cancelled,
    /// Given back by the house, or paid too late for its seats.
    Refunded,
}

impl ReservationStatus {
    /// The stored state of what its buyer gave back.
    pub const CANCELLED: u8 = 2;
    /// The stored state of what the house gave back.
    pub const REFUNDED: u8 = 3;

    /// Reads the stored state.
    #[must_use]
    pub const fn of(state: u8) -> Self {
        match state {
            0 => Self::Pending,
            1 => Self::Confirmed,
            2 => Self::Cancelled,
            _ => Self::Refunded,
        }
    }

    /// The stored state.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::Confirmed => 1,
            Self::Cancelled => 2,
            Self::Refunded => 3,
        }
    }
}

/// A seat that was sold, or is being paid, as its row says it. Buyers see it by [`crate::booking::tickets::TicketKeys::show`].
#[derive(Clone, Debug)]
pub struct SoldSeat {
    /// Its index in the map.
    pub number: u32,
    /// Its label.
    pub id: String,
    /// Its grade.
    pub grade: String,
    /// Its price.
    pub price: Money,
    /// What is random in its ticket's code; none where nothing was sold, or not yet.
    pub serial: Option<String>,
}

/// A seat that was sold, with its ticket, or is being paid.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = SoldSeat)]
pub struct SeatView {
    /// Its label.
    pub id: String,
    /// Its grade.
    pub grade: String,
    /// Its price.
    pub price: Money,
    /// What the gate reads: signed, so that it can be told from a made-up one without asking the server. Null where nothing was
    /// sold, or not yet.
    pub ticket_code: Option<String>,
}

/// The concert of a reservation.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct ConcertName {
    /// The concert.
    pub id: ConcertId,
    /// Its title.
    pub title: String,
}

/// How a reservation was paid.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct PaymentView {
    /// The payment.
    pub id: PaymentId,
    /// How.
    pub method: Method,
    /// Whether it has succeeded.
    pub status: PaymentStatus,
}

/// A reservation as its buyer sees it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Reservation {
    /// The reservation.
    pub id: ReservationId,
    /// Where it is.
    pub status: ReservationStatus,
    /// The hold that was paid.
    pub hold_id: HoldId,
    /// The performance.
    pub performance_id: PerformanceId,
    /// The concert.
    pub concert: ConcertName,
    /// Its tickets.
    pub seats: Vec<SeatView>,
    /// What was paid.
    pub amount: Money,
    /// The currency.
    pub currency: &'static str,
    /// How it was paid.
    pub payment: PaymentView,
    /// When the payment began.
    pub created_at: Timestamp,
    /// When it was paid; null while pending.
    pub paid_at: Option<Timestamp>,
}

/// What is random in a new ticket's code: 26 digits of Crockford's base 32, 130 random bits.
#[must_use]
pub fn ticket_serial() -> String {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let mut random = rand::rng();
    (0..26).map(|_| char::from(DIGITS[random.random_range(0..DIGITS.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticket_serials_differ_and_are_easy_to_read() {
        let codes: std::collections::HashSet<String> = (0..1000).map(|_| ticket_serial()).collect();
        assert_eq!(codes.len(), 1000);
        assert!(codes.iter().all(|code| code.len() == 26 && !code.contains(['I', 'L', 'O', 'U'])));
    }
}
