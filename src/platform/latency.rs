//! How long one kind of work took lately: a bounded window of durations, and their 95th percentile.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Durations kept at most: the oldest make room.
const SAMPLES_MAX: usize = 2048;
/// How far back counts.
const WINDOW: Duration = Duration::from_secs(3);
/// Fewer say nothing.
const SAMPLES_MIN: usize = 5;

/// A shared window. Clones see the same one.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Arc<Mutex<VecDeque<(Instant, Duration)>>>);

impl Latencies {
    /// Runs `work` and notes how long it took, however it ended.
    pub async fn time<T>(&self, work: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let done = work.await;
        self.note(Instant::now(), started.elapsed());
        done
    }

    fn note(&self, at: Instant, took: Duration) {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.len() == SAMPLES_MAX {
            window.pop_front();
        }
        window.push_back((at, took));
    }

    /// The 95th percentile of the last seconds, where there was enough work to tell.
    #[must_use]
    pub fn p95(&self) -> Option<Duration> {
        self.p95_at(Instant::now())
    }

    fn p95_at(&self, now: Instant) -> Option<Duration> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while window.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
            window.pop_front();
        }
        let mut took: Vec<Duration> = window.iter().map(|(_, took)| *took).collect();
        drop(window);
        if took.len() < SAMPLES_MIN {
            return None;
        }
        // The least value that at least 95 of 100 do not exceed.
        let index = (took.len() * 95).div_ceil(100) - 1;
        Some(*took.select_nth_unstable(index).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_forgets_and_the_percentile_is_a_value_that_was_seen() {
        let (latencies, now) = (Latencies::default(), Instant::now());
        (1..5).for_each(|ms| latencies.note(now, Duration::from_millis(ms)));
        assert_eq!(latencies.p95_at(now), None);
        (5..=100).for_each(|ms| latencies.note(now, Duration::from_millis(ms)));
        assert_eq!(latencies.p95_at(now), Some(Duration::from_millis(95)));
        let later = now + WINDOW + Duration::from_millis(1);
        (0..10).for_each(|_| latencies.note(later, Duration::from_millis(7)));
        assert_eq!(latencies.p95_at(later), Some(Duration::from_millis(7)));
        (0..2 * SAMPLES_MAX).for_each(|_| latencies.note(later, Duration::from_millis(1)));
        assert_eq!(latencies.0.lock().unwrap().len(), SAMPLES_MAX);
    }
}
