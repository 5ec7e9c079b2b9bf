//! What a buyer's own request asks the provider, until it knows what became of the charge, or has no time left.
//!
//! Only here is a charge confirmed, and only by the task that began its attempt. Every question may be repeated.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::Rng as _;
use tokio::time::timeout_at;
use tokio_util::task::TaskTracker;

use super::attempts::Settings;
use super::domain::{Reason, Verdict};
use super::gateway::{Gateway, GatewayError, IntentId, Order, Standing};

/// The pause before the provider is asked again whether it has decided, at first and at most.
const POLL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// What was heard of a charge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// What became of it.
    Verdict(Verdict),
    /// A confirmation was sent, and nobody knows what became of it.
    Doubt,
}

/// The questions of one attempt.
pub(super) struct Questions<'a> {
    gateway: &'a dyn Gateway,
    order: &'a Order,
    settings: &'a Settings,
    tasks: &'a TaskTracker,
    /// When the buyer has waited long enough.
    deadline: Instant,
    /// Whether a confirmation may have reached the provider. Set before it is sent, so that it is known even where the
    /// asking is cut short.
    may_be_charged: AtomicBool,
}

impl fmt::Debug for Questions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Questions").field("attempt", &self.order.attempt).finish_non_exhaustive()
    }
}

impl<'a> Questions<'a> {
    pub(super) fn new(
        gateway: &'a dyn Gateway,
        order: &'a Order,
        settings: &'a Settings,
        tasks: &'a TaskTracker,
    ) -> Self {
        let deadline = Instant::now() + Duration::from_millis(settings.answer_ms);
        Self { gateway, order, settings, tasks, deadline, may_be_charged: AtomicBool::new(false) }
    }

    /// The provider's name for the attempt, and where it is; or why there is none. Moves no money in any case.
    pub(super) async fn create(&self) -> Result<(IntentId, Standing), Reason> {
        timeout_at(self.deadline.into(), self.try_to_create()).await.unwrap_or(Err(Reason::NotSent))
    }

    async fn try_to_create(&self) -> Result<(IntentId, Standing), Reason> {
        let mut failures = 0;
        loop {
            match self.gateway.create(self.order).await {
                Ok(made) => return Ok(made),
                Err(GatewayError::Refused(why)) => {
                    tracing::warn!(payment = %self.order.attempt, why, "the payment provider refuses an attempt");
                    // What failed inside at first is told as a failure for ever; the card is not to blame.
                    return Err(if failures == 0 { Reason::Rejected } else { Reason::NotSent });
                }
                Err(error) => {
                    tracing::info!(payment = %self.order.attempt, %error, "an attempt was not created");
                    if !self.may_try_again(&mut failures).await {
                        return Err(Reason::NotSent);
                    }
                }
            }
        }
    }

    /// Charges the intent, and says what became of it.
    pub(super) async fn confirm(&self, intent: &IntentId, standing: Standing) -> Heard {
        timeout_at(self.deadline.into(), self.try_to_confirm(intent, standing)).await.unwrap_or_else(|_| self.unknown())
    }

    async fn try_to_confirm(&self, intent: &IntentId, mut standing: Standing) -> Heard {
        let (mut pause, mut failures, mut is_refused) = (POLL.0, 0, false);
        loop {
            let asked = match standing {
                Standing::Succeeded => return Heard::Verdict(Verdict::Charged),
                Standing::Declined(code) => return not_charged(Reason::Declined(code)),
                Standing::Cancelled => return not_charged(Reason::Abandoned),
                Standing::Unconfirmed if is_refused => return self.refused(),
                Standing::Unconfirmed => self.send_confirmation(intent).await,
                Standing::Processing => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(POLL.1);
                    self.gateway.find(intent).await
                }
            };
            standing = match asked {
                Ok(standing) => standing,
                // Whatever it says no to, it knows where the intent is.
                Err(GatewayError::Refused(why)) if !is_refused => {
                    tracing::warn!(payment = %self.order.attempt, why, "the payment provider refuses to go on");
                    is_refused = true;
                    Standing::Processing
                }
                Err(error) => {
                    tracing::info!(payment = %self.order.attempt, %error, "an attempt has no answer");
                    if !self.may_try_again(&mut failures).await {
                        return self.unknown();
                    }
                    // A confirmation that is repeated tells what became of the first one.
                    if is_refused { Standing::Processing } else { Standing::Unconfirmed }
                }
            };
        }
    }

    async fn send_confirmation(&self, intent: &IntentId) -> Result<Standing, GatewayError> {
        let was_sent = self.may_be_charged.swap(true, Ordering::AcqRel);
        let confirmed = self.gateway.confirm(self.order, intent).await;
        if matches!(confirmed, Err(GatewayError::NotSent(_) | GatewayError::Refused(_))) {
            self.may_be_charged.store(was_sent, Ordering::Release);
        }
        confirmed
    }

    /// Waits a little, unless it was tried often enough or the instance drains.
    async fn may_try_again(&self, failures: &mut u32) -> bool {
        *failures += 1;
        if *failures >= self.settings.tries_max || self.tasks.is_closed() {
            return false;
        }
        let ceiling = (self.settings.retry_ms << (*failures - 1).min(4)).max(1);
        let pause = rand::rng().random_range(ceiling.div_ceil(2)..=ceiling);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        true
    }

    /// A confirmation was refused, and the intent is where it was. One before it may still be on its way.
    fn refused(&self) -> Heard {
        let is_in_doubt = self.may_be_charged.load(Ordering::Acquire);
        if is_in_doubt { Heard::Doubt } else { not_charged(Reason::Rejected) }
    }

    fn unknown(&self) -> Heard {
        if self.may_be_charged.load(Ordering::Acquire) { Heard::Doubt } else { not_charged(Reason::NotSent) }
    }
}

fn not_charged(reason: Reason) -> Heard {
    Heard::Verdict(Verdict::NotCharged(reason))
}
