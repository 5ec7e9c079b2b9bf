//! A circuit breaker: after several failures in a row, a dependency is left alone for a moment, and
//! whoever needs it is refused at once instead of waiting for another timeout.
//!
//! Closed: everybody passes. Open: nobody does, until the pause is over; then one caller probes while the
//! others are still refused. The probe's success closes the breaker, its failure opens it for another pause.
//! (The pattern is Michael Nygard's, *Release It!*, 2007.)

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::telemetry::metrics;

#[derive(Debug, Default)]
struct Inner {
    failures_in_a_row: u32,
    /// Set while open: when the next probe may go.
    probe_at: Option<Instant>,
    last_success: Option<Instant>,
}

/// One dependency's breaker. Clones share it.
#[derive(Clone, Debug)]
pub struct Breaker {
    dependency: &'static str,
    threshold: u32,
    pause: Duration,
    inner: Arc<Mutex<Inner>>,
}

impl Breaker {
    /// A closed breaker that opens after `threshold` failures in a row, for `pause`.
    #[must_use]
    pub fn new(dependency: &'static str, threshold: u32, pause: Duration) -> Self {
        Self { dependency, threshold, pause, inner: Arc::default() }
    }

    /// Whether a caller may go on at `now`. While open, one caller per pause may.
    #[must_use]
    pub fn lets_pass(&self, now: Instant) -> bool {
        let mut inner = self.lock();
        match inner.probe_at {
            None => true,
            Some(at) if now >= at => {
                inner.probe_at = Some(now + self.pause);
                true
            }
            Some(_) => false,
        }
    }

    /// Whether everybody is refused at `now`. Asking does not take the place of a probe.
    #[must_use]
    pub fn is_open(&self, now: Instant) -> bool {
        self.lock().probe_at.is_some_and(|at| now < at)
    }

    /// The dependency answered at `now`, whatever it said.
    pub fn succeeded(&self, now: Instant) {
        let mut inner = self.lock();
        inner.failures_in_a_row = 0;
        inner.last_success = Some(now);
        if inner.probe_at.take().is_some() {
            metrics::breaker(self.dependency, false);
            tracing::info!(dependency = self.dependency, "answers again");
        }
    }

    /// The dependency could not be reached, or did not answer in time.
    pub fn failed(&self, now: Instant) {
        let mut inner = self.lock();
        inner.failures_in_a_row = inner.failures_in_a_row.saturating_add(1);
        if inner.failures_in_a_row < self.threshold {
            return;
        }
        if inner.probe_at.replace(now + self.pause).is_none() {
            metrics::breaker(self.dependency, true);
            tracing::warn!(dependency = self.dependency, "does not answer: left alone for a moment");
        }
    }

    /// Whether anybody got an answer since `instant`.
    #[must_use]
    pub fn has_succeeded_since(&self, instant: Instant) -> bool {
        self.lock().last_success.is_some_and(|last| last >= instant)
    }

    /// Whether somebody got an answer since `instant`, and nobody failed to get one after that.
    #[must_use]
    pub fn has_answered_since(&self, instant: Instant) -> bool {
        let inner = self.lock();
        inner.failures_in_a_row == 0 && inner.last_success.is_some_and(|last| last >= instant)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(500);

    #[test]
    fn it_opens_after_failures_in_a_row_only() {
        let (breaker, now) = (Breaker::new("test_row", 3, PAUSE), Instant::now());
        for _ in 0..10 {
            breaker.failed(now);
            breaker.failed(now);
            breaker.succeeded(now);
        }
        assert!(breaker.lets_pass(now));
        for _ in 0..3 {
            breaker.failed(now);
        }
        assert!(!breaker.lets_pass(now));
    }

    #[test]
    fn one_probe_a_pause_and_its_success_closes() {
        let (breaker, now) = (Breaker::new("test_probe", 1, PAUSE), Instant::now());
        assert!(!breaker.is_open(now));
        breaker.failed(now);
        assert!(breaker.is_open(now + PAUSE / 2) && !breaker.lets_pass(now + PAUSE / 2));
        assert!(!breaker.is_open(now + PAUSE) && !breaker.is_open(now + PAUSE), "asking takes no probe's place");
        assert!(breaker.lets_pass(now + PAUSE));
        assert!(breaker.is_open(now + PAUSE), "while the probe is under way");
        assert!(!breaker.lets_pass(now + PAUSE), "a second probe");
        breaker.failed(now + PAUSE);
        assert!(!breaker.lets_pass(now + PAUSE * 3 / 2));
        assert!(breaker.lets_pass(now + PAUSE * 2));
        breaker.succeeded(now + PAUSE * 2);
        assert!(breaker.lets_pass(now + PAUSE * 2) && breaker.lets_pass(now + PAUSE * 2));
    }

    #[test]
    fn it_remembers_the_last_answer() {
        let (breaker, now) = (Breaker::new("test_last", 1, PAUSE), Instant::now());
        assert!(!breaker.has_succeeded_since(now));
        breaker.succeeded(now + PAUSE);
        assert!(breaker.has_succeeded_since(now));
        assert!(!breaker.has_succeeded_since(now + PAUSE * 2));
        assert!(breaker.has_answered_since(now) && !breaker.has_answered_since(now + PAUSE * 2));
        breaker.failed(now + PAUSE);
        assert!(breaker.has_succeeded_since(now) && !breaker.has_answered_since(now));
    }
}
