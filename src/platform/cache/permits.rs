//! How many loads run at once, and who is refused first: those who look around, never those who buy.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::platform::error::{Fault, Problem, codes};

const BROWSING_WAIT: Duration = Duration::from_millis(500);
const BOOKING_WAIT: Duration = Duration::from_secs(3);
/// Seconds after which who was refused may come again.
const RETRY_SECS: u32 = 1;

/// What a value is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A sale cannot go on without it.
    Booking,
    /// Somebody looks around: lists, and pages that anybody may open.
    Browsing,
}

/// A place to load in.
#[derive(Debug)]
pub(super) struct Permit {
    _any: OwnedSemaphorePermit,
    _browsing: Option<OwnedSemaphorePermit>,
}

/// The places. A quarter of them is for those who buy alone.
#[derive(Clone, Debug)]
pub(super) struct Permits {
    any: Arc<Semaphore>,
    browsing: Arc<Semaphore>,
    /// How long who looks around waits for a place, and who buys.
    waits: (Duration, Duration),
}

impl Permits {
    pub fn new(loads_max: usize) -> Self {
        let browsing = (loads_max - loads_max.div_ceil(4)).max(1);
        let waits = (BROWSING_WAIT, BOOKING_WAIT);
        Self { any: Arc::new(Semaphore::new(loads_max)), browsing: Arc::new(Semaphore::new(browsing)), waits }
    }

    /// A place, within a bounded wait.
    ///
    /// # Errors
    /// 503 `overloaded` with `Retry-After`.
    pub async fn acquire(&self, need: Need) -> Result<Permit, Problem> {
        let (wait, browsing) = match need {
            Need::Booking => (self.waits.1, None),
            Need::Browsing => (self.waits.0, Some(self.browsing.clone())),
        };
        let acquiring = async {
            let browsing = match browsing {
                Some(places) => Some(places.acquire_owned().await.ok()?),
                None => None,
            };
            Some(Permit { _any: self.any.clone().acquire_owned().await.ok()?, _browsing: browsing })
        };
        let acquired = tokio::time::timeout(wait, acquiring).await.ok().flatten();
        acquired.ok_or_else(|| Problem::new(&codes::OVERLOADED).retry_after(RETRY_SECS).fault_of(Fault::Exhausted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_looks_around_is_refused_first() {
        let short = Duration::from_millis(5);
        let permits = Permits { waits: (short, short), ..Permits::new(4) };
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(permits.acquire(Need::Browsing).await.unwrap());
        }
        assert_eq!(permits.acquire(Need::Browsing).await.unwrap_err().code(), &codes::OVERLOADED);
        held.push(permits.acquire(Need::Booking).await.unwrap());
        assert!(permits.acquire(Need::Booking).await.is_err(), "all places are taken");
        held.pop();
        assert!(permits.acquire(Need::Browsing).await.is_err(), "the last place is not for them");
        assert!(permits.acquire(Need::Booking).await.is_ok());
    }
}
