//! A cancellation and how far it has got.

use serde::Serialize;

use crate::catalog::ConcertId;
use crate::platform::clock::Timestamp;
use crate::platform::money::Money;

/// Where a cancellation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CancellationState {
    /// Money is being given back.
    Running,
    /// Nothing is left to give back: points are with their buyers again, and what was paid by card is owed to it. What the
    /// provider has not confirmed yet is counted by `refunds_owed`.
    Done,
}

impl CancellationState {
    /// Reads the stored state.
    #[must_use]
    pub const fn of(state: u8) -> Self {
        if state == 0 { Self::Running } else { Self::Done }
    }
}

/// How far giving back the money of a cancelled concert has got.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Cancellation {
    /// The concert.
    pub concert_id: ConcertId,
    /// Whether anything is still to be given back.
    pub state: CancellationState,
    /// Reservations that are or were to be given back.
    pub total: u64,
    /// Those among them that were: by card, those that the provider was or will be asked to give back.
    pub done: u64,
    /// Reservations whose payment is not decided yet: they come to nothing, or are given back when it succeeds.
    pub pending: u64,
    /// Refunds to cards that the provider has not confirmed yet, of all of the concert's reservations: also of those that their
    /// buyers gave back, and of payments that came too late.
    pub refunds_owed: u64,
    /// What was given back. Of cards: what the provider was or will be asked to give back.
    pub refunded_amount: Money,
    /// The currency.
    pub currency: &'static str,
    /// When the concert was cancelled.
    pub requested_at: Timestamp,
    /// When the last one was given back, or was owed to its card.
    pub finished_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_running_is_done() {
        assert_eq!([0, 1].map(CancellationState::of), [CancellationState::Running, CancellationState::Done]);
    }
}
