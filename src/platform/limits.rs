//! How often one key (a user, an address) may do something: a quota per minute, all of it at once if it likes.
//!
//! The generic cell rate algorithm (ITU-T I.371, annex A, as virtual scheduling): a key is one number, the theoretical
//! arrival time of its next request. Each request that conforms moves it on by the quota's interval; one that would move
//! it further ahead of the clock than a whole quota does not conform, changes nothing, and is told when it would. The
//! clock is the application's, so tests move it; where it goes back, nobody waits longer than a minute.
//!
//! Nothing is unbounded: a limiter keeps `keys_max` keys. Those that were idle for longer than a minute have their whole
//! quota again and are forgotten without loss. Past the bound the least recently used are forgotten early: somebody who
//! commands more keys than that, and uses them in turn, is not limited by key, and never locks anybody else out.
//!
//! Each instance counts for itself: over `n` instances a key gets up to `n` quotas.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::clock::Clock;
use super::error::Problem;
use super::telemetry::metrics;

const MINUTE_MICROS: i64 = 60_000_000;
const WINDOW_SECS: u32 = 60;
/// A key that was idle for so long has its whole quota again.
const IDLE: Duration = Duration::from_secs(90);

/// One limit, for every key of a kind. Clones share it.
#[derive(Clone)]
pub struct Limiter<K> {
    /// As `RateLimit` and metrics call it.
    name: &'static str,
    per_minute: u32,
    /// Theoretical arrival times, in microseconds.
    keys: Cache<K, Arc<AtomicI64>>,
    clock: Clock,
}

impl<K> fmt::Debug for Limiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter")
            .field("name", &self.name)
            .field("per_minute", &self.per_minute)
            .finish_non_exhaustive()
    }
}

impl<K: Hash + Eq + Send + Sync + 'static> Limiter<K> {
    /// A limit of `per_minute` for each of at most `keys_max` keys.
    #[must_use]
    pub fn new(name: &'static str, per_minute: u32, keys_max: u64, clock: Clock) -> Self {
        let keys = Cache::builder().max_capacity(keys_max).eviction_policy(EvictionPolicy::lru()).time_to_idle(IDLE);
        Self { name, per_minute, keys: keys.build(), clock }
    }

    /// Counts one request of `key`.
    ///
    /// # Errors
    /// `rate_limited` where it is one too many; it is not counted then.
    pub fn check(&self, key: K) -> Result<(), Problem> {
        self.conform(key, self.clock.now().micros()).map_err(|wait| {
            metrics::rate_limited(self.name);
            Problem::rate_limited(self.name, self.per_minute as usize, whole_secs(wait)).within(WINDOW_SECS)
        })
    }

    /// Moves the key's arrival time on, or tells how many microseconds are missing.
    fn conform(&self, key: K, now: i64) -> Result<(), i64> {
        // A quota of nothing lets nobody in, ever.
        let interval = if self.per_minute == 0 { i64::MAX / 4 } else { MINUTE_MICROS / i64::from(self.per_minute) };
        let latest = now + MINUTE_MICROS;
        let next = |arrival: i64| arrival.max(now) + interval.max(1);
        // What lies further ahead was counted before the clock went back: it is taken down, or the key would be refused
        // until the clock is there again.
        let counted = |arrival: i64| Some(next(arrival)).filter(|next| *next <= latest).or(Some(arrival.min(latest)));
        let arrival = self.keys.get_with(key, Arc::default);
        let before = match arrival.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted) {
            Ok(before) | Err(before) => before.min(latest),
        };
        if next(before) <= latest { Ok(()) } else { Err(next(before) - latest) }
    }

    /// How many keys are kept.
    #[cfg(test)]
    fn kept(&self) -> u64 {
        self.keys.run_pending_tasks();
        self.keys.entry_count()
    }
}

/// At least one, at most the window.
fn whole_secs(micros: i64) -> u32 {
    let secs = micros.saturating_add(999_999).div_euclid(1_000_000);
    u32::try_from(secs).unwrap_or(WINDOW_SECS).clamp(1, WINDOW_SECS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const NOW: i64 = 1_700_000_000 * SECOND;

    fn limiter(per_minute: u32, keys_max: u64) -> Limiter<u32> {
        Limiter::new("test", per_minute, keys_max, Clock::default())
    }

    /// How many of so many requests pass at this time.
    fn passed(limiter: &Limiter<u32>, key: u32, now: i64, requests: u32) -> usize {
        (0..requests).filter(|_| limiter.conform(key, now).is_ok()).count()
    }

    #[test]
    fn a_whole_quota_passes_at_once_and_then_one_each_interval() {
        let limiter = limiter(120, 10);
        assert_eq!(passed(&limiter, 1, NOW, 500), 120);
        assert_eq!(passed(&limiter, 2, NOW, 500), 120, "each key has its own");
        let wait = limiter.conform(1, NOW).unwrap_err();
        assert_eq!(wait, SECOND / 2);
        assert_eq!(limiter.conform(1, NOW + wait - 1), Err(1));
        assert_eq!(passed(&limiter, 1, NOW + wait, 500), 1);
        assert_eq!(passed(&limiter, 1, NOW + 10 * SECOND, 500), 19);
        assert_eq!(passed(&limiter, 1, NOW + 600 * SECOND, 500), 120, "no more than a quota is saved up");
    }

    #[test]
    fn the_rate_is_kept_however_the_requests_come() {
        let limiter = limiter(60, 10);
        let passed: usize = (0..600).map(|step| passed(&limiter, 1, NOW + step * SECOND / 2, 5)).sum();
        assert_eq!(passed, 60 + 299);
    }

    #[test]
    fn a_clock_that_goes_back_makes_nobody_wait_longer_than_a_minute() {
        let limiter = limiter(60, 10);
        assert_eq!(passed(&limiter, 1, NOW + 86_400 * SECOND, 100), 60);
        assert!(limiter.conform(1, NOW).unwrap_err() <= SECOND);
        assert_eq!(passed(&limiter, 1, NOW + 60 * SECOND, 100), 60);
    }

    #[test]
    fn extreme_quotas_are_kept() {
        let none = limiter(0, 10);
        assert_eq!(passed(&none, 1, NOW, 5), 0);
        assert_eq!(whole_secs(none.conform(1, NOW).unwrap_err()), WINDOW_SECS);
        let many = limiter(u32::MAX, 10);
        assert_eq!(passed(&many, 1, NOW, 1000), 1000);
    }

    #[test]
    fn keys_are_bounded_and_those_in_use_are_kept() {
        let limiter = limiter(2, 100);
        assert_eq!(passed(&limiter, 0, NOW, 5), 2);
        for key in 1..5000 {
            assert_eq!(passed(&limiter, key, NOW, 1), 1);
            if key % 10 == 0 {
                assert_eq!(passed(&limiter, 0, NOW, 1), 0, "whoever goes on trying is not forgotten");
                assert!(limiter.kept() <= 100);
            }
        }
        assert_eq!(limiter.kept(), 100);
    }

    #[test]
    fn many_at_once_pass_no_more_than_the_quota() {
        let limiter = limiter(100, 10);
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let limiter = limiter.clone();
                std::thread::spawn(move || passed(&limiter, 1, NOW, 100))
            })
            .collect();
        let total: usize = threads.into_iter().map(|thread| thread.join().expect("no panic")).sum();
        assert_eq!(total, 100);
    }

    #[test]
    fn a_refusal_says_when_to_come_again() {
        assert_eq!([-5, 0, 1, SECOND, SECOND + 1, i64::MAX].map(whole_secs), [1, 1, 1, 1, 2, WINDOW_SECS]);
        let limiter = limiter(0, 10);
        assert_eq!(limiter.check(1).unwrap_err().code().code, "rate_limited");
    }
}
