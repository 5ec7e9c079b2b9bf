//! Seats left, as pages show them: what booking tells now, or else what it told last. A number is never made up.
//!
//! Where nothing was ever told, a page waits for the first answer, as long as for another instance's load (`cache.wait_ms`): an instance that
//! has just started, or whose filter has just been lost, is busiest in that very moment. Who has waited in vain is the last to wait for a
//! while: requests that cannot be answered must not take the places of those that can.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cache::{Bounds, Cache, Weigh};
use super::domain::PerformanceId;
use super::ports::{Availability, SeatsLeft};
use crate::platform::cache::Lifetimes;
use crate::platform::config::CacheSettings;
use crate::platform::error::{Problem, codes};

/// Between two attempts, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(400));

impl Weigh for SeatsLeft {}

/// What a page is refused with that cannot be shown without the number.
pub(super) fn untold() -> Problem {
    Problem::new(&codes::UNAVAILABLE).detail("Seats left cannot be told now.")
}

/// Seats left, by performance. Clones share what was told.
#[derive(Clone)]
pub(super) struct Left {
    availability: Arc<dyn Availability>,
    /// What was told last.
    last: Cache<PerformanceId, SeatsLeft>,
    /// How long the first answer is waited for.
    wait: Duration,
    /// When somebody last waited in vain.
    vain_at: Arc<Mutex<Option<Instant>>>,
}

impl fmt::Debug for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Left").field("last", &self.last).finish_non_exhaustive()
    }
}

impl Left {
    /// Nothing was told yet.
    pub fn new(availability: Arc<dyn Availability>, settings: &CacheSettings) -> Self {
        let Lifetimes { hard, stale, .. } = Lifetimes::configured(settings);
        Self {
            availability,
            // For as long as the page around it is shown while nothing newer can be had.
            last: Cache::new(Bounds { ttl: hard + stale, weight_max: settings.entries_max }),
            wait: Duration::from_millis(settings.wait_ms),
            vain_at: Arc::default(),
        }
    }

    /// What is left of the performance; nothing where nobody can tell now and nobody has told before.
    pub async fn find(&self, id: PerformanceId) -> Option<SeatsLeft> {
        match self.availability.available(id).await {
            Some(left) => {
                self.last.put(id, left).await;
                Some(left)
            }
            None => self.last.peek(id).await,
        }
    }

    /// The same for what cannot be shown without it: asks again until `deadline`.
    pub async fn find_by(&self, id: PerformanceId, deadline: Instant) -> Option<SeatsLeft> {
        let mut pause = PAUSE.0;
        loop {
            if let Some(left) = self.find(id).await {
                *self.lock() = None;
                return Some(left);
            }
            let now = Instant::now();
            if now + pause >= deadline {
                *self.lock() = Some(now);
                return None;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Until when a page that is asked for now may wait.
    pub fn deadline(&self) -> Instant {
        let now = Instant::now();
        let is_in_vain = self.lock().is_some_and(|at| now.duration_since(at) < self.wait);
        if is_in_vain { now } else { now + self.wait }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.vain_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::future::BoxFuture;

    use super::*;

    /// Tells nothing so many times.
    struct Silent(AtomicU32);

    impl Availability for Silent {
        fn available(&self, _: PerformanceId) -> BoxFuture<'_, Option<SeatsLeft>> {
            let is_over =
                self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |times| times.checked_sub(1)).is_err();
            Box::pin(async move { is_over.then_some(SeatsLeft { available: 7, unsold: 9 }) })
        }
    }

    fn left(silent_times: u32) -> (Left, Arc<Silent>) {
        let silent = Arc::new(Silent(AtomicU32::new(silent_times)));
        let minute = Duration::from_mins(1);
        let last = Cache::new(Bounds { ttl: minute, weight_max: 10 });
        (Left { availability: silent.clone(), last, wait: minute, vain_at: Arc::default() }, silent)
    }

    #[tokio::test]
    async fn the_first_answer_is_waited_for() {
        let (left, _) = left(3);
        let id = PerformanceId::new();
        assert_eq!(left.find(id).await, None, "who only asks does not wait");
        assert_eq!(left.find_by(id, left.deadline()).await.map(|left| left.available), Some(7));
    }

    #[tokio::test]
    async fn what_was_told_is_shown_while_nobody_can_tell() {
        let (left, silent) = left(0);
        let id = PerformanceId::new();
        let told = left.find(id).await;
        silent.0.store(u32::MAX, Ordering::Release);
        assert!(told.is_some());
        assert_eq!((left.find(id).await, left.find_by(id, Instant::now()).await), (told, told));
    }

    #[tokio::test]
    async fn after_somebody_has_waited_in_vain_nobody_waits() {
        let (left, silent) = left(u32::MAX);
        let id = PerformanceId::new();
        assert!(left.deadline() > Instant::now());
        assert_eq!(left.find_by(id, Instant::now()).await, None);
        assert!(left.deadline() <= Instant::now());
        silent.0.store(0, Ordering::Release);
        assert!(left.find_by(id, left.deadline()).await.is_some(), "one attempt is made at least");
        assert!(left.deadline() > Instant::now(), "it is well again");
    }
}
