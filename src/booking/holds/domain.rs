//! A hold and its states.

use serde::Serialize;

use crate::booking::seats::best::Arrangement;
use crate::catalog::PerformanceId;
use crate::platform::clock::Timestamp;
use crate::platform::money::{CURRENCY, Money};

crate::id_types! {
    /// A hold.
    HoldId;
}

crate::problem_codes! {
    SEAT_LIMIT_EXCEEDED = 409 "seat_limit_exceeded" "Too many seats" "One buyer may hold and reserve at most limit seats of a concert, over all its performances.";
    HOLD_PAID = 409 "already_paid" "Already paid" "This hold is paid: its reservation is among yours.";
    COUPON_NOT_USABLE = 409 "coupon_not_usable" "Coupon not usable" "This coupon cannot be used for this payment. Pay without one.";
    HOLD_EXPIRED = 410 "hold_expired" "Hold expired" "The hold has ended and its seats are free for everybody.";
}

/// Where a hold is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HoldStatus {
    /// Its seats are set aside.
    Held,
    /// Turned into a reservation.
    Paid,
    /// Given back by the buyer.
    Released,
    /// Ended by time.
    Expired,
}

impl HoldStatus {
    /// What the stored state means at a moment when the hold's end lies ahead (`is_ahead`) or behind.
    #[must_use]
    pub const fn of(state: u8, is_ahead: bool) -> Self {
        match state {
            1 => Self::Paid,
            2 => Self::Released,
            _ if is_ahead => Self::Held,
            _ => Self::Expired,
        }
    }
}

/// A seat of a hold, at its price when the hold was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct HeldSeat {
    /// Its label.
    pub id: String,
    /// Its grade.
    pub grade: String,
    /// Its price.
    pub price: Money,
    /// Its index in the map.
    #[serde(skip)]
    pub number: u32,
}

/// A hold as its buyer sees it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Hold {
    /// The hold.
    pub id: HoldId,
    /// Where it is.
    pub status: HoldStatus,
    /// The performance.
    pub performance_id: PerformanceId,
    /// Its seats.
    pub seats: Vec<HeldSeat>,
    /// What they cost together, fixed when the hold was made.
    pub amount: Money,
    /// The currency.
    pub currency: &'static str,
    /// When it ends or ended.
    pub expires_at: Timestamp,
}

impl Hold {
    /// A hold of these parts.
    #[must_use]
    pub fn new(
        id: HoldId,
        status: HoldStatus,
        performance_id: PerformanceId,
        seats: Vec<HeldSeat>,
        amount: Money,
        expires_at: Timestamp,
    ) -> Self {
        Self { id, status, performance_id, seats, amount, currency: CURRENCY, expires_at }
    }
}

/// A hold as it is answered when it is made.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct MadeHold {
    /// The hold.
    #[serde(flatten)]
    pub hold: Hold,
    /// Whether these seats leave a single free seat beside them that nobody may want alone.
    pub leaves_orphan: bool,
    /// How the seats lie, where the best available ones were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrangement: Option<Arrangement>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unpaid_hold_expires() {
        assert_eq!(HoldStatus::of(0, true), HoldStatus::Held);
        assert_eq!(HoldStatus::of(0, false), HoldStatus::Expired);
        assert_eq!(HoldStatus::of(1, false), HoldStatus::Paid);
        assert_eq!(HoldStatus::of(2, true), HoldStatus::Released);
    }
}
