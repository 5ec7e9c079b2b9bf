//! One cache: what a read does, and what is done beside it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use prometheus::IntCounter;

use super::entry::{Age, Entry};
use super::far::Place;
use super::flight::{Flight, Flights};
use super::load::Errand;
use super::metrics::Meters;
use super::near::Near;
use super::{CacheKey, Caches, Keep, Lifetimes, Member, Need};
use crate::platform::clock::Timestamp;
use crate::platform::error::{Problem, codes};

/// How long who has an old value waits for a newer one.
const OLD_WAIT: Duration = Duration::from_millis(500);
/// What a key and an entry weigh besides their value.
pub(super) const ENTRY_BYTES: usize = 256;

/// Who knows the value of a key: nothing, where there is no such thing.
pub type Loader<K, V> = Arc<dyn Fn(K) -> BoxFuture<'static, Result<Option<V>, Problem>> + Send + Sync>;

/// What kind of cache it is.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// For keys, announced changes and metrics.
    pub name: &'static str,
    /// The format of the values in Redis: raised whenever what [`Keep::encode`] writes changes.
    pub format: u8,
    /// How long values are kept.
    pub lifetimes: Lifetimes,
    /// Its values never change: none is marked because news are late.
    pub is_fixed: bool,
    /// Values are kept even where the cache is off.
    pub is_always_on: bool,
    /// Loading asks other caches alone, which have places of their own.
    pub is_composed: bool,
}

impl Kind {
    /// A cache of what may change, kept as `[cache]` says.
    #[must_use]
    pub const fn new(name: &'static str, format: u8, lifetimes: Lifetimes) -> Self {
        Self { name, format, lifetimes, is_fixed: false, is_always_on: false, is_composed: false }
    }

    /// A cache of what never changes.
    #[must_use]
    pub const fn fixed(name: &'static str, format: u8) -> Self {
        Self { is_fixed: true, ..Self::new(name, format, Lifetimes::fixed()) }
    }
}

/// What a read found.
#[derive(Clone, Debug)]
pub struct Found<V> {
    /// Nothing: there is no such thing.
    pub value: Option<V>,
    /// Set where the answer must say how old it is: its age in seconds.
    pub stale_secs: Option<u64>,
    /// Tells this value from any other that this process had for the key.
    pub stamp: u64,
}

impl<V> Found<V> {
    /// The value, or 404 for this kind of thing.
    ///
    /// # Errors
    /// `not_found`.
    pub fn or_absent(self, what: &str) -> Result<V, Problem> {
        self.value.ok_or_else(|| Problem::not_found(what))
    }
}

/// A cache in two tiers. Clones share it.
pub struct TwoTier<K, V>(pub(super) Arc<Inner<K, V>>);

pub(super) struct Inner<K, V> {
    pub kind: Kind,
    pub is_on: bool,
    pub caches: Arc<Caches>,
    pub near: Near<K, V>,
    pub flights: Flights<K, Arc<Entry<V>>>,
    pub load: Loader<K, V>,
    pub meters: Meters,
}

impl<K, V> Clone for TwoTier<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> fmt::Debug for TwoTier<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TwoTier").field("kind", &self.0.kind).finish_non_exhaustive()
    }
}

impl<K: CacheKey, V: Keep> TwoTier<K, V> {
    /// An empty cache of this kind, filled by `load`.
    #[must_use]
    pub fn new(caches: &Arc<Caches>, kind: Kind, load: Loader<K, V>) -> Self {
        let settings = &caches.settings;
        let Lifetimes { hard, stale, .. } = kind.lifetimes;
        let inner = Arc::new(Inner {
            kind,
            is_on: settings.enabled || kind.is_always_on,
            caches: caches.clone(),
            near: Near::new(settings.near_bytes_max, hard + stale),
            flights: Flights::default(),
            load,
            meters: Meters::of(kind.name),
        });
        let member: Arc<dyn Member> = inner.clone();
        caches.admit(Arc::downgrade(&member));
        Self(inner)
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// What the loader refuses with, where there is no older value either; 503 `overloaded` where too much is being loaded.
    pub async fn find(&self, key: &K, need: Need) -> Result<Found<V>, Problem> {
        let inner = &self.0;
        if !inner.is_on {
            let value = (inner.load)(key.clone()).await?;
            return Ok(Found { value, stale_secs: None, stamp: inner.caches.stamp() });
        }
        let is_current = inner.kind.is_fixed || inner.caches.is_current() || inner.caches.hear_late().await;
        let Some(entry) = inner.near.find(key) else {
            return self.fetch(key, need, None, is_current).await;
        };
        match entry.age(inner.caches.clock.now()) {
            Age::Fresh => {}
            Age::Aging => self.renew_ahead(key, &entry),
            Age::Soft => {
                inner.meters.stale_soft.inc();
                self.renew_beside(key, &entry, &inner.meters.refreshes_soft);
            }
            Age::Hard => return self.fetch(key, need, Some(entry), is_current).await,
            Age::Gone => return self.fetch(key, need, None, is_current).await,
        }
        inner.meters.near_hits.inc();
        entry.count();
        Ok(self.found(&entry, is_current))
    }

    /// The value, if this process has it and may show it without a mark. Waits for nothing.
    #[must_use]
    pub fn peek(&self, key: &K) -> Option<V> {
        let inner = &self.0;
        let entry = inner.near.find(key).filter(|_| inner.kind.is_fixed || inner.caches.is_current())?;
        (entry.age(inner.caches.clock.now()) < Age::Hard).then(|| entry.value.clone()).flatten()
    }

    /// Makes sure that both tiers have a value that need not be renewed before `until`, as far as values live so long.
    ///
    /// # Errors
    /// As [`TwoTier::find`].
    pub async fn ensure(&self, key: &K, until: Timestamp) -> Result<Found<V>, Problem> {
        let inner = &self.0;
        if !inner.is_on {
            return self.find(key, Need::Booking).await;
        }
        let now = inner.caches.clock.now();
        // Where a value of now would not live so long, one of just now is as good.
        let made_from = until.minus(inner.kind.lifetimes.soft.mul_f64(0.9)).min(now.minus(Duration::from_secs(2)));
        let is_current = inner.kind.is_fixed || inner.caches.is_current() || inner.caches.hear_late().await;
        let is_enough = |entry: &Entry<V>| entry.made_at >= made_from && entry.age(now) < Age::Soft;
        if let Some(entry) = inner.near.find(key).filter(|entry| is_enough(entry)) {
            inner.offer(key, &entry).await;
            return Ok(self.found(&entry, is_current));
        }
        let errand = Errand { need: Need::Booking, made_from: Some(made_from), is_renewal: false };
        let mut flown = self.fly(key, errand).0.await;
        // It may have joined a flight that asked for less.
        if !flown.as_ref().is_ok_and(|entry| is_enough(entry)) {
            flown = self.fly(key, errand).0.await;
        }
        flown.map(|entry| self.found(&entry, is_current)).map_err(|problem| problem.again())
    }

    /// Until when what this process has of `key` is served without being renewed; nothing where it has none, or may not show it.
    #[must_use]
    pub fn soft_at(&self, key: &K) -> Option<Timestamp> {
        let entry = self.0.near.find(key)?;
        let is_shown = entry.value.is_some() && entry.age(self.0.caches.clock.now()) < Age::Hard;
        is_shown.then(|| entry.soft_at())
    }

    /// Loads, together with all who want the same. Whoever has an old value waits for a moment only.
    async fn fetch(
        &self,
        key: &K,
        need: Need,
        old: Option<Arc<Entry<V>>>,
        is_current: bool,
    ) -> Result<Found<V>, Problem> {
        let meters = &self.0.meters;
        if let Some(old) = old.as_ref().filter(|old| old.is_resting()) {
            meters.stale_failed.inc();
            return Ok(self.marked(old));
        }
        meters.misses.inc();
        let mut may_repeat = true;
        loop {
            let errand = Errand { need, made_from: None, is_renewal: false };
            let (flight, is_mine) = self.fly(key, errand);
            if !is_mine {
                meters.coalesced.inc();
            }
            let outcome = match &old {
                None => flight.await,
                Some(old) => {
                    let Ok(outcome) = tokio::time::timeout(OLD_WAIT, flight).await else {
                        meters.stale_waiting.inc();
                        return Ok(self.marked(old));
                    };
                    outcome
                }
            };
            match (outcome, &old) {
                (Ok(entry), old) => {
                    if entry.age(self.0.caches.clock.now()) >= Age::Hard {
                        // It is the last one that can be had.
                        entry.rest();
                        if let Some(old) = old {
                            old.rest();
                        }
                    }
                    return Ok(self.found(&entry, is_current));
                }
                (Err(_), Some(old)) => {
                    old.rest();
                    meters.stale_failed.inc();
                    return Ok(self.marked(old));
                }
                // The load was that of somebody who needed it less, and was refused as such.
                (Err(problem), None) if !is_mine && may_repeat && problem.code() == &codes::OVERLOADED => {
                    may_repeat = false;
                }
                (Err(problem), None) => return Err(problem.again()),
            }
        }
    }

    /// The load of `key` that is under way, or a new one.
    fn fly(&self, key: &K, errand: Errand) -> (Flight<Arc<Entry<V>>>, bool) {
        let (inner, mine) = (self.0.clone(), key.clone());
        self.0.flights.join(key, move || async move { inner.bring(mine, errand).await.map_err(Arc::new) })
    }

    /// Has a value renewed before it ages, if it is wanted.
    fn renew_ahead(&self, key: &K, entry: &Arc<Entry<V>>) {
        if entry.is_hot() {
            self.renew_beside(key, entry, &self.0.meters.refreshes_ahead);
        }
    }

    /// Has a value renewed that is served meanwhile: by one caller of this process, and one process of all.
    fn renew_beside(&self, key: &K, entry: &Arc<Entry<V>>, counter: &IntCounter) {
        if !entry.begin_renewal() {
            return;
        }
        counter.inc();
        let newer = entry.made_at.plus(Duration::from_micros(1));
        let errand = Errand { need: Need::Browsing, made_from: Some(newer), is_renewal: true };
        let (flight, _) = self.fly(key, errand);
        let entry = entry.clone();
        tokio::spawn(async move {
            if flight.await.is_err() {
                entry.rest();
            }
            entry.end_renewal();
        });
    }

    fn found(&self, entry: &Entry<V>, is_current: bool) -> Found<V> {
        if !is_current {
            self.0.meters.stale_silent.inc();
            return self.marked(entry);
        }
        if entry.age(self.0.caches.clock.now()) >= Age::Hard {
            self.0.meters.stale_failed.inc();
            return self.marked(entry);
        }
        Found { value: entry.value.clone(), stale_secs: None, stamp: entry.stamp }
    }

    fn marked(&self, entry: &Entry<V>) -> Found<V> {
        let age = entry.elapsed(self.0.caches.clock.now());
        Found { value: entry.value.clone(), stale_secs: Some(age.as_secs()), stamp: entry.stamp }
    }
}

impl<K: CacheKey, V: Keep> Member for Inner<K, V> {
    fn name(&self) -> &'static str {
        self.kind.name
    }

    fn forget(&self, subject: &str) {
        match K::of_text(subject).filter(|_| !subject.is_empty()) {
            Some(key) => self.near.forget(&key),
            None => self.near.clear(),
        }
    }

    fn clear(&self) {
        self.near.clear();
    }

    fn place_of(&self, subject: &str) -> Place {
        Place { cache: self.kind.name, format: self.kind.format, key: subject.to_owned() }
    }

    fn measure(&self, now: Timestamp) {
        let (bytes, oldest) = self.near.measure(now);
        self.meters.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.meters.oldest.set(i64::try_from(oldest.as_secs()).unwrap_or(i64::MAX));
    }
}
