//! How often cards may be tried: whoever has stolen numbers must not learn here which of them are good.
//!
//! One buyer may begin so many payments by card in a minute, on each instance, whatever comes of them; and so many may be tried
//! for one thing, over all instances, as each leaves a row.

use crate::accounts::UserId;
use crate::payments::domain::PAYMENT_METHOD_UNAVAILABLE;
use crate::platform::clock::Clock;
use crate::platform::config::LimitSettings;
use crate::platform::error::Problem;
use crate::platform::limits::Limiter;

/// The limit on payments by card. Clones share it.
#[derive(Clone, Debug)]
pub struct CardLimits(Limiter<UserId>);

impl CardLimits {
    /// As set, on this clock.
    #[must_use]
    pub fn new(settings: &LimitSettings, clock: &Clock) -> Self {
        let per_user = settings.card_payments_per_user_per_minute;
        Self(Limiter::new("card-payments-per-user", per_user, settings.keys_max, clock.clone()))
    }

    /// Counts one payment by card.
    ///
    /// # Errors
    /// `rate_limited`.
    pub fn check(&self, user: UserId) -> Result<(), Problem> {
        self.0.check(user)
    }
}

/// Refuses what was tried as often as it may be. Waiting does not help, so nobody is told to.
pub(super) fn check_tries(tries: usize, max: u32) -> Result<(), Problem> {
    match u32::try_from(tries) {
        Ok(tries) if tries < max => Ok(()),
        _ => {
            Err(Problem::new(&PAYMENT_METHOD_UNAVAILABLE)
                .detail("Cards were tried too often for this: pay with points."))
        }
    }
}
