//! How a value comes here: from Redis, or from its source by whoever in the cluster has the lease.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::Rng as _;
use tokio_util::task::AbortOnDropHandle;

use super::codec::{self, Head, Order, What};
use super::entry::{Age, CLOCK_MARGIN, Entry, Parts};
use super::far::{Ask, Place, Taken, Wanted};
use super::two_tier::{ENTRY_BYTES, Inner};
use super::{CacheKey, Keep, Lifetimes, Need};
use crate::platform::clock::Timestamp;
use crate::platform::error::{Problem, codes};

/// Between two looks of who waits for another instance's load, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(8), Duration::from_millis(60));
/// How often a load is repeated because a change came in the middle of it.
const REPEATS_MAX: u32 = 5;

/// What a look into the far tier came to.
enum Brought<V> {
    Here(Arc<Entry<V>>),
    /// The caller loads, under a lease if it has a number. Whether what is there is known to be broken.
    Load {
        fence: Option<u64>,
        is_broken: bool,
    },
    /// Another one loads, and nobody needs to wait for it.
    Later,
}

/// What a load is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Errand {
    pub need: Need,
    /// A value made before will not do.
    pub made_from: Option<Timestamp>,
    /// There is a value that is served meanwhile.
    pub is_renewal: bool,
}

impl<K: CacheKey, V: Keep> Inner<K, V> {
    fn place(&self, key: &K) -> Place {
        Place { cache: self.kind.name, format: self.kind.format, key: key.to_string() }
    }

    /// The value from wherever it is to be had, kept here and in the far tier.
    pub async fn bring(self: Arc<Self>, key: K, errand: Errand) -> Result<Arc<Entry<V>>, Problem> {
        let place = self.place(&key);
        let (fence, is_broken) = match self.look_far(&key, &place, errand).await {
            Brought::Here(entry) => {
                self.meters.far_hits.inc();
                return Ok(entry);
            }
            Brought::Load { fence, is_broken } => (fence, is_broken),
            Brought::Later => return Err(Problem::new(&codes::OVERLOADED).retry_after(1)),
        };
        let lease = fence.map(|fence| self.hold(place.clone(), fence));
        let loaded = self.load(&key, &place, errand.need).await;
        drop(lease);
        match loaded {
            Ok((entry, generation)) => {
                let (inner, kept) = (self.clone(), entry.clone());
                tokio::spawn(async move { inner.put(place, &kept, generation, (fence, is_broken)).await });
                Ok(entry)
            }
            Err(problem) => {
                self.count(&problem);
                if let Some(fence) = fence {
                    self.caches.far.give_back(&place, fence).await;
                }
                // Nothing newer can be had: one that is too old for ordinary times will do.
                self.old_from_far(&key, &place).await.ok_or(problem)
            }
        }
    }

    fn count(&self, problem: &Problem) {
        if problem.code() == &codes::OVERLOADED {
            self.meters.errors_overloaded.inc();
        } else {
            self.meters.errors_load.inc();
        }
    }

    /// Looks until there is a value, or the caller has the lease, or it has waited long enough for those who have it.
    async fn look_far(&self, key: &K, place: &Place, errand: Errand) -> Brought<V> {
        let settings = &self.caches.settings;
        let deadline = Instant::now() + Duration::from_millis(settings.wait_ms);
        let lease = Ask::Lease(Duration::from_millis(settings.lease_ms));
        let (mut pause, mut is_broken) = (PAUSE.0, false);
        let earliest = || self.caches.clock.now().minus(self.kind.lifetimes.hard);
        let mut from = errand.made_from.unwrap_or_else(earliest).micros();
        loop {
            let Some(wanted) = self.wanted(&place.key, from).filter(|_| !self.caches.far.is_off()) else {
                return Brought::Load { fence: None, is_broken };
            };
            let heard = self.caches.news.number();
            match self.caches.far.take(place, wanted, lease, heard).await {
                Ok(Taken::Found(bytes)) => match self.decode(key, place, bytes).await {
                    Ok(entry) if entry.age(self.caches.clock.now()) < Age::Hard => return Brought::Here(entry),
                    Ok(entry) => from = entry.made_at.micros().max(from).saturating_add(1),
                    Err(poisoned) => {
                        self.meters.errors_poisoned.inc();
                        is_broken = true;
                        from = poisoned.made_at.unwrap_or(i64::MAX - 1).max(from).saturating_add(1);
                    }
                },
                Ok(Taken::Yours(fence)) => return Brought::Load { fence: Some(fence), is_broken },
                Ok(Taken::Others(_)) if errand.is_renewal => return Brought::Later,
                Ok(Taken::Others(left)) if Instant::now() < deadline => {
                    let jitter = rand::rng().random_range(0.5..=1.0);
                    tokio::time::sleep(pause.mul_f64(jitter).min(left + PAUSE.0)).await;
                    pause = (pause * 3 / 2).min(PAUSE.1);
                }
                Ok(_) => return Brought::Load { fence: None, is_broken },
                Err(problem) => {
                    tracing::debug!(cache = self.kind.name, %problem, "Redis did not answer");
                    self.meters.errors_far.inc();
                    return Brought::Load { fence: None, is_broken };
                }
            }
        }
    }

    /// What a value must be like; nothing before the first news.
    fn wanted(&self, text: &str, made_from: i64) -> Option<Wanted> {
        let (news, now) = (&self.caches.news, self.caches.clock.now());
        Some(Wanted {
            generation: news.generation()?,
            version: news.floor(self.kind.name, text),
            made: (made_from, now.plus(CLOCK_MARGIN).micros()),
        })
    }

    /// Reads a value of the far tier and keeps it here.
    async fn decode(&self, key: &K, place: &Place, bytes: Bytes) -> Result<Arc<Entry<V>>, codec::Poisoned> {
        let (head, bytes) = codec::read(&bytes, place.format)?;
        let unreadable = codec::Poisoned { made_at: Some(head.made_at) };
        let value = match head.what {
            What::Value => Some(V::decode(bytes).await.ok_or(unreadable)?),
            What::Absent => None,
            What::Withdrawn => return Err(unreadable),
        };
        let made_at = Timestamp::from_micros(head.made_at).ok_or(unreadable)?;
        self.caches.news.saw(self.kind.name, &place.key, head.order.version);
        Ok(self.keep(key, place, value, (head.order.version, made_at)))
    }

    /// Keeps a value here, unless a change that it lacks has been heard of.
    fn keep(&self, key: &K, place: &Place, value: Option<V>, (version, made_at): (u64, Timestamp)) -> Arc<Entry<V>> {
        let bytes = value.as_ref().map_or(0, Keep::weight) + place.key.len() + ENTRY_BYTES;
        let lifetimes = if value.is_some() { self.kind.lifetimes } else { self.absence() };
        let parts = Parts { value, version, made_at, stamp: self.caches.stamp(), bytes };
        let now = self.caches.clock.now();
        let entry = Arc::new(Entry::new(parts, lifetimes, now));
        let is_old = || self.caches.news.floor(self.kind.name, &place.key) > version;
        if !is_old() {
            self.near.keep(key.clone(), entry.clone(), now);
            // The change may have been heard of in between.
            if is_old() {
                self.near.forget(key);
            }
        }
        entry
    }

    /// How long it is remembered that there is no such thing.
    fn absence(&self) -> Lifetimes {
        let time = Duration::from_secs(self.caches.settings.absent_secs);
        Lifetimes { soft: time, hard: time, stale: Duration::ZERO }
    }

    /// Makes the lease last while the value is loaded.
    fn hold(self: &Arc<Self>, place: Place, fence: u64) -> AbortOnDropHandle<()> {
        let inner = self.clone();
        let lasts = Duration::from_millis(self.caches.settings.lease_ms);
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                tokio::time::sleep(lasts / 3).await;
                if matches!(inner.caches.far.hold(&place, fence, lasts).await, Ok(false)) {
                    tracing::debug!(cache = place.cache, "a lease was lost while its value was loaded");
                    return;
                }
            }
        }))
    }

    /// Loads from the source. A change that came in the middle makes it load again. Gives the generation in which it began, too.
    async fn load(&self, key: &K, place: &Place, need: Need) -> Result<(Arc<Entry<V>>, Option<u64>), Problem> {
        // Whom it asks has places of its own.
        let _permit = if self.kind.is_composed { None } else { Some(self.caches.permits.acquire(need).await?) };
        for repeat in 0..REPEATS_MAX {
            // What was heard of may be more than the news so far: another instance's value told it.
            let is_heard = repeat == 0 || self.caches.catch_up().await;
            let (news, made_at) = (&self.caches.news, self.caches.clock.now());
            let (version, generation) = (news.number(), news.generation());
            let loaded = (self.load)(key.clone()).await;
            match &loaded {
                Ok(Some(_)) => self.meters.loads_ok.inc(),
                Ok(None) => self.meters.loads_absent.inc(),
                Err(_) => self.meters.loads_failed.inc(),
            }
            let entry = self.keep(key, place, loaded?, (version, made_at));
            if self.caches.news.floor(self.kind.name, &place.key) <= version {
                return Ok((entry, generation));
            }
            if !is_heard {
                // As new as MySQL has it, which nobody can prove: it is not kept.
                return Ok((entry, None));
            }
        }
        Err(Problem::new(&codes::OVERLOADED).retry_after(1))
    }

    /// Gives a value to the far tier.
    async fn put(
        &self,
        place: Place,
        entry: &Entry<V>,
        generation: Option<u64>,
        (fence, is_broken): (Option<u64>, bool),
    ) {
        let number = fence.unwrap_or_default();
        let Some(bytes) = self.written(&place, entry, generation, number).await else {
            if fence.is_some() {
                self.caches.far.give_back(&place, number).await;
            }
            return;
        };
        let Lifetimes { hard, stale, .. } = if entry.value.is_some() { self.kind.lifetimes } else { self.absence() };
        let kept_for = (hard + stale).max(Duration::from_millis(1));
        let size = bytes.len() as u64;
        match self.caches.far.put(&place, bytes, kept_for, is_broken, number).await {
            Ok(true) => self.meters.far_bytes.inc_by(size),
            Ok(false) => tracing::debug!(cache = place.cache, "a newer value is in Redis already"),
            Err(problem) => {
                tracing::debug!(cache = place.cache, %problem, "a value was not kept in Redis");
                self.meters.errors_far.inc();
            }
        }
    }

    /// The entry as the far tier keeps it; nothing where it is not for it.
    async fn written(&self, place: &Place, entry: &Entry<V>, generation: Option<u64>, fence: u64) -> Option<Vec<u8>> {
        let generation = generation.filter(|_| !self.caches.far.is_off())?;
        let (what, bytes) = match &entry.value {
            Some(value) => (What::Value, value.encode().await?),
            None => (What::Absent, Vec::new()),
        };
        if bytes.len() > self.caches.settings.far_value_bytes_max {
            self.meters.errors_too_large.inc();
            return None;
        }
        let order = Order { generation, version: entry.version, fence };
        Some(codec::write(&Head { format: place.format, what, order, made_at: entry.made_at.micros() }, &bytes))
    }

    /// Gives what this process has to a far tier that has nothing as good.
    pub async fn offer(&self, key: &K, entry: &Entry<V>) {
        let place = self.place(key);
        let Some(wanted) = self.wanted(&place.key, entry.made_at.micros()) else { return };
        if self.caches.far.is_off() {
            return;
        }
        let heard = self.caches.news.number();
        if matches!(self.caches.far.take(&place, wanted, Ask::Whether, heard).await, Ok(Taken::None)) {
            let generation = Some(wanted.generation);
            self.put(place, entry, generation, (None, false)).await;
        }
    }

    /// A value that is too old for ordinary times, from the far tier.
    async fn old_from_far(&self, key: &K, place: &Place) -> Option<Arc<Entry<V>>> {
        let Lifetimes { hard, stale, .. } = self.kind.lifetimes;
        let from = self.caches.clock.now().minus(hard + stale).micros();
        let wanted = self.wanted(&place.key, from).filter(|_| !self.caches.far.is_off())?;
        let Ok(Taken::Found(bytes)) = self.caches.far.take(place, wanted, Ask::Value, 0).await else { return None };
        let entry = self.decode(key, place, bytes).await.ok()?;
        (entry.age(self.caches.clock.now()) < Age::Gone).then_some(entry)
    }
}
