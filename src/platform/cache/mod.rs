//! The cache in two tiers: this process, then Redis, then whoever knows.
//!
//! [`TwoTier<K, V>`] ties a type of keys to its values. A read is answered from the near tier (`near.rs`) by copying a reference. One
//! that finds nothing joins the one load of its key in this process (`flight.rs`), which looks into the far tier (`far.rs`) and
//! there gets the value or the lease to load it: one load per key in the whole cluster (`load.rs`). So nothing that many people ask
//! for at once is asked of MySQL more than once, whether it was never loaded, has aged or was changed.
//!
//! Invariants:
//! - *No stampede.* Past its soft age a value is served while one caller in the cluster renews it; a value that many want is renewed
//!   before. Past its hard age, or without a value, callers wait for that one load, within a bound; without Redis each
//!   process loads once. All loads together have so many places (`permits.rs`).
//! - *Coherence.* Whoever changes what is kept announces it in the same transaction ([`news::announce`]). Changes are numbered in the
//!   order of their commits, and a value carries the number of the last change that is certainly in it. An instance that has
//!   heard of a change takes no older value of that key from anywhere: not from a load that began before, nor from Redis, whoever
//!   wrote it and when. It hears of changes every `cache.news_ms`; once it has heard nothing for `cache.news_max_ms`, it says so
//!   in every answer ([`Found::stale_secs`]) until it hears again. So an answer that is not marked is never older than that.
//! - *A Redis that was away* may have missed changes: its generation, which MySQL keeps, is raised before it is used again,
//!   and what it held is void.
//! - *Bounds.* The near tier has so many bytes for each cache; a value in Redis has so many at most, and an end.
//! - *Without MySQL* values past their hard age are served, marked, as long as they are kept at all.

use std::fmt::Display;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::far::{Far, Place};
use self::news::{Heard, News};
use self::permits::Permits;
use super::clock::{Clock, Timestamp};
use super::config::{CacheSettings, ConfigError};
use super::db::Db;
use super::redis::Redis;
use super::shutdown::Shutdown;

mod codec;
mod entry;
mod far;
mod flight;
mod load;
mod metrics;
mod near;
pub mod news;
mod permits;
mod two_tier;

pub use permits::Need;
pub use two_tier::{Found, Kind, Loader, TwoTier};

/// Longest wait of a reader for news that are late.
const NEWS_WAIT: Duration = Duration::from_millis(250);
/// Between two readers' attempts to hear news that are late.
const NEWS_PAUSE: Duration = Duration::from_millis(100);
/// Between two looks whether Redis is back, and between two measurements.
const RECOVERY_PAUSE: Duration = Duration::from_millis(200);
const MEASURE_PAUSE: Duration = Duration::from_secs(5);
/// The most that anything is kept anywhere: changes are known for longer.
const KEPT_MAX: Duration = Duration::from_hours(24);

/// A key: what it prints names it in Redis and in announced changes, so it is the same text in every release and has at most 128 bytes.
pub trait CacheKey: Clone + Eq + Hash + Display + Send + Sync + 'static {
    /// The key that printed this, if it can be told.
    fn of_text(text: &str) -> Option<Self>;
}

impl<T> CacheKey for T
where
    T: Clone + Eq + Hash + Display + std::str::FromStr + Send + Sync + 'static,
{
    fn of_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// A value. Cloning it copies a reference.
pub trait Keep: Clone + Send + Sync + 'static {
    /// What it weighs in memory.
    fn weight(&self) -> usize;

    /// Its bytes for the far tier; nothing where it is for this process alone.
    fn encode(&self) -> impl Future<Output = Option<Vec<u8>>> + Send;

    /// What [`Keep::encode`] made; nothing where it cannot be read: then it is loaded.
    fn decode(bytes: Bytes) -> impl Future<Output = Option<Self>> + Send;
}

/// How long values of a cache are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// After so long a value is renewed while it is still served.
    pub soft: Duration,
    /// After so long it is not served any more, unless nothing newer can be had.
    pub hard: Duration,
    /// For so long after that it is kept for such a time.
    pub stale: Duration,
}

impl Lifetimes {
    /// As `[cache]` says.
    #[must_use]
    pub const fn configured(settings: &CacheSettings) -> Self {
        Self {
            soft: Duration::from_secs(settings.soft_secs),
            hard: Duration::from_secs(settings.hard_secs),
            stale: Duration::from_secs(settings.stale_secs),
        }
    }

    /// Of what never changes.
    #[must_use]
    pub const fn fixed() -> Self {
        Self { soft: Duration::from_hours(12), hard: Duration::from_hours(18), stale: Duration::from_hours(6) }
    }
}

/// A cache as the others see it.
trait Member: Send + Sync {
    fn name(&self) -> &'static str;
    /// Forgets what this text names; all, where it is empty or names nothing.
    fn forget(&self, subject: &str);
    fn clear(&self);
    fn place_of(&self, subject: &str) -> Place;
    fn measure(&self, now: Timestamp);
}

/// What [`Caches`] work with.
#[derive(Clone, Debug)]
pub struct Ground {
    /// A handle of the database for news alone.
    pub news: Db,
    /// The far tier.
    pub redis: Redis,
    /// The application clock.
    pub clock: Clock,
    /// `[cache]`.
    pub settings: CacheSettings,
}

/// What all caches of an instance share.
pub struct Caches {
    settings: CacheSettings,
    clock: Clock,
    news: News,
    far: Far,
    permits: Permits,
    stamps: AtomicU64,
    members: Mutex<Vec<Weak<dyn Member>>>,
    /// When a reader last tried to hear news that were late.
    tried_at: Mutex<Option<Instant>>,
    /// While Redis is left alone: the generation of what it held.
    void: Mutex<Option<u64>>,
}

impl std::fmt::Debug for Caches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caches").field("news", &self.news).field("far", &self.far).finish_non_exhaustive()
    }
}

impl Caches {
    /// Nothing is kept yet, and no news were heard.
    ///
    /// # Errors
    /// Where the settings contradict each other.
    pub fn new(ground: Ground) -> Result<Arc<Self>, ConfigError> {
        let Ground { news, redis, clock, settings } = ground;
        let refuse = |name, reason: &str| Err(ConfigError::Rejected { name, reason: reason.to_owned() });
        let Lifetimes { soft, hard, stale } = Lifetimes::configured(&settings);
        if soft.is_zero() || soft > hard {
            return refuse("cache.soft_secs", "at least 1, and no more than cache.hard_secs");
        }
        if hard + stale > KEPT_MAX {
            return refuse("cache.stale_secs", "with cache.hard_secs no more than 24 hours");
        }
        if settings.loads_max < 2 {
            return refuse("cache.loads_max", "at least 2: one of them is for those who buy");
        }
        if settings.lease_ms < 100 {
            return refuse("cache.lease_ms", "at least 100");
        }
        if settings.news_ms >= settings.news_max_ms {
            return refuse("cache.news_ms", "less than cache.news_max_ms");
        }
        Ok(Arc::new(Self {
            permits: Permits::new(settings.loads_max),
            settings,
            clock,
            news: News::new(news),
            far: Far::new(redis),
            stamps: AtomicU64::new(0),
            members: Mutex::default(),
            tried_at: Mutex::default(),
            void: Mutex::default(),
        }))
    }

    /// Hears news, brings Redis back into use and measures, until shutdown.
    pub async fn run(self: Arc<Self>, shutdown: Shutdown) {
        let pause = Duration::from_millis(self.settings.news_ms);
        let (mut recovered_at, mut measured_at) = (Instant::now(), Instant::now());
        while !shutdown.is_requested() {
            self.catch_up().await;
            if self.far.is_off() && recovered_at.elapsed() >= RECOVERY_PAUSE {
                self.recover().await;
                recovered_at = Instant::now();
            }
            if measured_at.elapsed() >= MEASURE_PAUSE {
                self.measure();
                measured_at = Instant::now();
            }
            metrics::silent(!self.is_current());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.requested() => {}
            }
        }
    }

    /// Hears what was committed before, so that what this instance shows from now on has it. Whether it could.
    pub async fn catch_up(self: &Arc<Self>) -> bool {
        self.news.look(|heard| self.apply(heard)).await
    }

    /// Whether everything that was committed `cache.news_max_ms` ago has been heard of.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.news.is_current(Duration::from_millis(self.settings.news_max_ms))
    }

    /// Whether Redis is left alone as a cache, because it was away and its generation was not raised yet.
    #[must_use]
    pub fn is_far_off(&self) -> bool {
        self.far.is_off()
    }

    /// The generation of the far tier, raised whenever what it held is void; nothing before the first news.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        self.news.generation()
    }

    /// Ends the connection for news.
    pub async fn close(&self) {
        self.news.close().await;
    }

    /// Waits a moment for news that are late. Whether they came.
    async fn hear_late(self: &Arc<Self>) -> bool {
        {
            let mut tried_at = self.tried_at.lock().unwrap_or_else(PoisonError::into_inner);
            if tried_at.is_some_and(|at| at.elapsed() < NEWS_PAUSE) {
                return false;
            }
            *tried_at = Some(Instant::now());
        }
        let caches = self.clone();
        // In a task of its own: a look that is dropped half-way would not count for those who wait for it.
        let looking = tokio::spawn(async move { caches.catch_up().await });
        matches!(tokio::time::timeout(NEWS_WAIT, looking).await, Ok(Ok(true)))
    }

    fn apply(self: &Arc<Self>, heard: &Heard) {
        let members = self.members();
        if heard.is_all {
            tracing::warn!("news of changes were lost: everything that was kept is forgotten");
            metrics::forgotten();
            for member in &members {
                member.clear();
            }
            return;
        }
        let mut places = Vec::new();
        for change in &heard.changes {
            metrics::heard(&change.cache);
            for member in members.iter().filter(|member| member.name() == change.cache) {
                member.forget(&change.subject);
                // A whole cache has no place in Redis that could be withdrawn: its floor makes the values there misses.
                if !change.subject.is_empty() {
                    places.push((member.place_of(&change.subject), change.number));
                }
            }
        }
        if !places.is_empty() && !self.far.is_off() {
            tokio::spawn(self.clone().withdraw(places));
        }
    }

    async fn withdraw(self: Arc<Self>, places: Vec<(Place, u64)>) {
        let Some(generation) = self.news.generation() else { return };
        for (place, change) in places {
            if let Err(problem) = self.far.withdraw(&place, generation, change).await {
                tracing::warn!(cache = place.cache, %problem, "Redis was not told of a change");
                self.far.turn_off();
                return;
            }
        }
    }

    /// Takes Redis into use again once it answers, and what it held is void.
    async fn recover(self: &Arc<Self>) {
        let Some(now) = self.news.generation() else { return };
        // Another instance that lost Redis as well may have raised it already.
        let void = *self.void.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(now);
        if !self.far.answers().await {
            return;
        }
        if let Err(problem) = self.news.raise_generation(void).await {
            tracing::warn!(%problem, "the cache's generation was not raised: Redis stays out of use");
            return;
        }
        if self.catch_up().await && self.news.generation() != Some(void) {
            *self.void.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.far.turn_on();
        }
    }

    fn measure(&self) {
        let now = self.clock.now();
        for member in self.members() {
            member.measure(now);
        }
        if let Some(generation) = self.generation() {
            metrics::generation(generation);
        }
    }

    fn members(&self) -> Vec<Arc<dyn Member>> {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.iter().filter_map(Weak::upgrade).collect()
    }

    fn admit(&self, member: Weak<dyn Member>) {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).push(member);
    }

    fn stamp(&self) -> u64 {
        self.stamps.fetch_add(1, Ordering::Relaxed)
    }
}
