//! A value in this process, and how old it is. Pure but for the clock that cannot be set.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::Rng as _;

use super::Lifetimes;
use crate::platform::clock::Timestamp;

/// What a clock may differ by between two instances. What is further in the future was made before a clock was set back.
pub(super) const CLOCK_MARGIN: Duration = Duration::from_secs(5);
/// Reads after which a value counts as wanted.
const HOT: u32 = 10;
/// Which part of its time is cut off at random at most, so that what was loaded together does not end together.
const JITTER_PARTS: u32 = 10;
/// Which last part of its time a wanted value is renewed in.
const AHEAD_PARTS: u32 = 10;
/// How long nobody tries again after a load has failed.
const REST: Duration = Duration::from_secs(1);

/// How old a value is, as far as readers care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Age {
    Fresh,
    /// Fresh for a little while yet: renewed now if it is wanted.
    Aging,
    /// Still good, but to be renewed.
    Soft,
    /// Too old, unless there is no other.
    Hard,
    /// Too old in any case.
    Gone,
}

/// A value, or that there is none.
#[derive(Debug)]
pub(super) struct Entry<V> {
    /// Nothing: known to be absent.
    pub value: Option<V>,
    /// The last change that is certainly in it.
    pub version: u64,
    /// When it was loaded.
    pub made_at: Timestamp,
    /// Another one for each entry of this process.
    pub stamp: u64,
    /// What it weighs in memory.
    pub bytes: usize,
    soft: Duration,
    hard: Duration,
    gone: Duration,
    /// When it came here, and how old it was.
    came: (Instant, Duration),
    hits: AtomicU32,
    is_renewing: AtomicBool,
    rests_until: Mutex<Option<Instant>>,
}

/// What an entry is made of.
pub(super) struct Parts<V> {
    pub value: Option<V>,
    pub version: u64,
    pub made_at: Timestamp,
    pub stamp: u64,
    pub bytes: usize,
}

impl<V> Entry<V> {
    /// An entry that comes at `now`, with its time cut at random.
    pub fn new(parts: Parts<V>, lifetimes: Lifetimes, now: Timestamp) -> Self {
        let Parts { value, version, made_at, stamp, bytes } = parts;
        let Lifetimes { soft, hard, stale } = lifetimes;
        let cut = |time: Duration| {
            let part = (time / JITTER_PARTS).mul_f64(rand::rng().random_range(0.0..=1.0));
            time.saturating_sub(part)
        };
        let (hard, soft) = (cut(hard), cut(soft));
        Self {
            value,
            version,
            made_at,
            stamp,
            bytes,
            soft: soft.min(hard),
            hard,
            gone: hard + stale,
            came: (Instant::now(), now.since(made_at)),
            hits: AtomicU32::new(0),
            is_renewing: AtomicBool::new(false),
            rests_until: Mutex::default(),
        }
    }

    /// Time since it was made, by whichever clock says more: one that is set back makes nothing younger.
    pub fn elapsed(&self, now: Timestamp) -> Duration {
        now.since(self.made_at).max(self.came.1 + self.came.0.elapsed())
    }

    /// How old it is at `now`.
    pub fn age(&self, now: Timestamp) -> Age {
        let elapsed = self.elapsed(now);
        if elapsed >= self.gone {
            Age::Gone
        } else if elapsed >= self.hard || self.made_at > now.plus(CLOCK_MARGIN) {
            Age::Hard
        } else if elapsed >= self.soft {
            Age::Soft
        } else if elapsed >= self.soft.saturating_sub(self.soft / AHEAD_PARTS) {
            Age::Aging
        } else {
            Age::Fresh
        }
    }

    /// Until when it is not to be renewed.
    pub fn soft_at(&self) -> Timestamp {
        self.made_at.plus(self.soft)
    }

    /// Somebody read it.
    pub fn count(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether it is read often enough to be renewed ahead of time.
    pub fn is_hot(&self) -> bool {
        self.hits.load(Ordering::Relaxed) >= HOT
    }

    /// Whether the caller is the one to renew it now.
    pub fn begin_renewal(&self) -> bool {
        !self.is_resting() && !self.is_renewing.swap(true, Ordering::AcqRel)
    }

    /// It was not renewed after all.
    pub fn end_renewal(&self) {
        self.is_renewing.store(false, Ordering::Release);
    }

    /// A load in its place failed: nobody tries for a moment.
    pub fn rest(&self) {
        *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + REST);
    }

    /// Whether a load has just failed.
    pub fn is_resting(&self) -> bool {
        let until = *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether it says more than another one of the same key.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        (self.version, self.made_at) > (other.version, other.made_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Lifetimes =
        Lifetimes { soft: Duration::from_secs(100), hard: Duration::from_mins(5), stale: Duration::from_secs(1000) };

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(secs * 1000).unwrap()
    }

    fn entry(came: i64) -> Entry<()> {
        let parts = Parts { value: Some(()), version: 1, made_at: at(1000), stamp: 1, bytes: 0 };
        Entry::new(parts, LIFE, at(came))
    }

    #[test]
    fn the_age_follows_the_clock() {
        let entry = entry(1000);
        let ages = [1000, 1079, 1100, 1269, 1300, 1301 + 1000].map(|secs| entry.age(at(secs)));
        assert_eq!(ages, [Age::Fresh, Age::Fresh, Age::Soft, Age::Soft, Age::Hard, Age::Gone]);
    }

    #[test]
    fn time_is_cut_and_never_added() {
        let ends: Vec<Timestamp> = (0..200).map(|_| entry(1000).soft_at()).collect();
        assert!(ends.iter().all(|end| (at(1090)..=at(1100)).contains(end)));
        assert!(ends.iter().min() < Some(&at(1093)) && ends.iter().max() > Some(&at(1097)), "they end apart");
    }

    #[test]
    fn a_clock_that_is_set_back_makes_nothing_younger() {
        let entry = entry(1200);
        assert_eq!(entry.age(at(1050)), Age::Soft, "it was 200 seconds old when it came");
        assert_eq!(entry.age(at(900)), Age::Hard, "made in the future");
        assert_eq!(entry.age(at(999)), Age::Soft, "clocks differ a little");
    }

    #[test]
    fn one_renews() {
        let entry = entry(1000);
        assert!(entry.begin_renewal() && !entry.begin_renewal());
        entry.end_renewal();
        assert!(entry.begin_renewal());
        entry.end_renewal();
        entry.rest();
        assert!(!entry.begin_renewal(), "a load has just failed");
    }
}
