//! What an instance does, about every second: see which openings are near, claim what is due, follow what others loaded.
//!
//! Looks do not overlap on an instance. A look loads at most as many concerts as its share of the configured rate, one after
//! the other, so that warming never takes the database from buyers.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::domain::{Kept, Occasion, Progress, Scene, Target, Warming, delay_after};
use super::kept;
use super::metrics::{self, Standing};
use super::redis::Marks;
use super::store::{self, Claim};
use crate::catalog::domain::{ConcertId, WarmerSettings};
use crate::catalog::ports::ActionLog;
use crate::catalog::service::Catalog;
use crate::platform::cache::Caches;
use crate::platform::clock::{Clock, Timestamp};
use crate::platform::db::Db;
use crate::platform::error::{Problem, codes};
use crate::platform::idempotency::Idempotency;
use crate::platform::instances::Instances;
use crate::platform::redis::Redis;
use crate::platform::telemetry::Seldom;

/// Sales looked at: as many as have lines.
const SALES_MAX: u32 = 1000;
/// Orders that are followed, and for how long.
const ORDERS_MAX: u32 = 100;
const ORDERS_SECS: u32 = 3600;
/// How long before they are due rows are made: an operator sees what is planned.
const PLANNED_BEFORE: Duration = Duration::from_mins(10);
/// Openings planned by one statement.
const PLANNED_AT_ONCE: usize = 100;
/// How long after an opening what is warm must last.
const MARGIN: Duration = Duration::from_mins(1);
/// Nothing that changes lives so long: what must last for it is loaded now.
const ANEW: Duration = Duration::from_hours(24);
/// Longest time to load one concert: the largest ones are packed for minutes on a busy machine.
const LOAD_LIMIT: Duration = Duration::from_mins(5);
/// How long rows and memories are kept after their time.
const KEEP_HOURS: u32 = 24 * 30;

/// What the warmer of an instance works with.
#[derive(Clone)]
#[expect(missing_docs, reason = "each field is named like its type")]
pub struct Parts {
    pub catalog: Arc<Catalog>,
    pub db: Db,
    pub redis: Redis,
    pub caches: Arc<Caches>,
    pub clock: Clock,
    pub idempotency: Idempotency,
    pub instances: Instances,
    pub log: Arc<dyn ActionLog>,
    pub settings: WarmerSettings,
    /// Whether anything is kept in memory at all.
    pub is_cache_on: bool,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The warmer of an instance. Clones share what it knows.
#[derive(Clone, Debug)]
pub struct Warmer {
    pub(super) parts: Arc<Parts>,
    own: Arc<Own>,
}

/// What belongs to one instance.
#[derive(Debug)]
struct Own {
    marks: Marks,
    memory: Mutex<Memory>,
    failing: Seldom,
}

/// What the instance knows of itself.
#[derive(Debug, Default)]
struct Memory {
    kept: HashMap<ConcertId, Kept>,
    /// Since when the shared tier is not in use, or the marks cannot be read.
    blind_since: Option<Timestamp>,
}

impl Warmer {
    /// A warmer of this catalogue's memory.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let marks = Marks::new(parts.redis.clone());
        let own = Own { marks, memory: Mutex::default(), failing: Seldom::default() };
        Self { parts: Arc::new(parts), own: Arc::new(own) }
    }

    /// Whether anything is warmed by this installation.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.parts.settings.enabled && self.parts.is_cache_on
    }

    /// How often an instance looks.
    #[must_use]
    pub fn pause(&self) -> Duration {
        Duration::from_millis(self.parts.settings.look_ms.max(1))
    }

    /// Does what there is to do now.
    ///
    /// # Errors
    /// Where the rows cannot be read or written. A concert that cannot be loaded is no error: its row says so.
    pub async fn look(&self) -> Result<(), Problem> {
        if !self.is_on() {
            return Ok(());
        }
        let mut scene = self.scene().await?;
        let (planned, renewed) = (self.plan(&scene).await?, self.renew_lost(&scene).await?);
        if planned || renewed {
            scene = self.scene().await?;
        }
        self.show(&scene);
        let share = self.share();
        let done = self.run_due(share).await?;
        if done > 0 {
            scene = self.scene().await?;
        }
        self.follow(&scene, share.saturating_sub(done)).await;
        self.show(&scene);
        Ok(())
    }

    /// Forgets rows of openings and memories that are long past, at most `limit` of each. Returns the most that one of these
    /// was.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn tidy(&self, limit: u32) -> Result<u64, Problem> {
        let tidy = self.parts.db.in_tx("warming.tidy", limit, |conn, limit| {
            Box::pin(async move {
                let mut most = store::delete_ended(conn, KEEP_HOURS, *limit).await?;
                for occasion in [Occasion::Lobby, Occasion::Booking, Occasion::Order] {
                    most = most.max(store::delete_old(conn, occasion, KEEP_HOURS, *limit).await?);
                }
                Ok(most)
            })
        });
        tidy.await
    }

    /// Loads the concert anew into this instance's memory, whatever the rows say.
    ///
    /// # Errors
    /// What the catalogue refuses with, or `timed_out`.
    pub async fn warm(&self, concert: ConcertId) -> Result<(), Problem> {
        self.load(concert, self.anew(), "asked").await.map(drop)
    }

    pub(super) fn lead(&self) -> Duration {
        Duration::from_secs(self.parts.settings.lead_secs)
    }

    /// Until when what is to be loaded now, of whatever age it is, must last.
    fn anew(&self) -> Timestamp {
        self.parts.clock.now().plus(ANEW)
    }

    /// Concerts that one look may load.
    fn share(&self) -> usize {
        let per_second = u64::from(self.parts.settings.concerts_per_second_max);
        usize::try_from(per_second.saturating_mul(self.parts.settings.look_ms) / 1000).unwrap_or(usize::MAX).max(1)
    }

    pub(super) async fn scene(&self) -> Result<Scene, Problem> {
        let parts = &self.parts;
        let now = parts.clock.now();
        let within = self.lead() + PLANNED_BEFORE;
        let sales = parts.catalog.reader.list_live_sales(now, within, SALES_MAX).await?;
        let concerts: Vec<ConcertId> = sales.iter().map(|sale| sale.concert_id).collect();
        let rows = parts.db.read("warming.list", concerts, |conn, concerts| {
            Box::pin(async move {
                let mut rows = store::list_of(conn, concerts).await?;
                let ordered = store::list_ordered(conn, ORDERS_SECS, ORDERS_MAX).await?;
                rows.extend(ordered.into_iter().filter(|row| !concerts.contains(&row.concert_id)));
                Ok(rows)
            })
        });
        Ok(Scene::of(now, &sales, rows.await?))
    }

    /// Makes rows of openings that have none. Whether there were any.
    async fn plan(&self, scene: &Scene) -> Result<bool, Problem> {
        let missing = scene.unplanned(self.lead() + PLANNED_BEFORE);
        for part in missing.chunks(PLANNED_AT_ONCE) {
            let input = (part.to_vec(), self.lead());
            let plan = self
                .parts
                .db
                .in_tx("warming.plan", input, |conn, (openings, lead)| Box::pin(store::plan(conn, openings, *lead)));
            plan.await?;
            for (concert, occasion, opens_at) in part {
                tracing::info!(%concert, ?occasion, %opens_at, "warming planned");
            }
        }
        Ok(!missing.is_empty())
    }

    /// Makes those due again that the shared tier has lost, one after the other at the configured rate, the nearest opening
    /// first. Whether there were any.
    async fn renew_lost(&self, scene: &Scene) -> Result<bool, Problem> {
        let filled = scene.filled();
        if filled.is_empty() {
            return Ok(false);
        }
        let Some(marks) = self.marked(&filled, scene.now).await else { return Ok(false) };
        let blind_since = self.memory().blind_since.take();
        let is_lost = |row: &Warming, mark: Option<u32>| {
            let was_missed = blind_since.is_some_and(|since| row.filled_at.is_none_or(|filled_at| filled_at < since));
            was_missed || mark.is_none_or(|round| round < row.round)
        };
        let lost = filled.into_iter().zip(marks).filter(|(row, mark)| is_lost(row, *mark)).map(|(row, _)| row.clone());
        let lost: Vec<Warming> = lost.collect();
        if lost.is_empty() {
            return Ok(false);
        }
        let spacing = Duration::from_secs(1) / self.parts.settings.concerts_per_second_max.max(1);
        let renewed = self.parts.db.in_tx("warming.renew", (lost, spacing), |conn, (lost, spacing)| {
            Box::pin(async move {
                let (mut renewed, mut later) = (0_u32, Duration::ZERO);
                for row in lost {
                    renewed += u32::from(store::renew(conn, row, later).await?);
                    later += *spacing;
                }
                Ok(renewed)
            })
        });
        let renewed = renewed.await?;
        if renewed > 0 {
            let why = if blind_since.is_some() { "outage" } else { "lost" };
            tracing::warn!(concerts = renewed, why, "the shared tier is warmed again");
            metrics::renewed(why, renewed);
        }
        Ok(true)
    }

    /// Which rounds of these are marked; nothing while nobody can tell, and while the shared tier is not in use: what is loaded
    /// again then does not get there.
    async fn marked(&self, filled: &[&Warming], now: Timestamp) -> Option<Vec<Option<u32>>> {
        let asked: Vec<(ConcertId, Occasion)> = filled.iter().map(|row| (row.concert_id, row.occasion)).collect();
        let looked = match self.generation().await {
            Some(generation) => self.own.marks.look(generation, &asked).await,
            None => Err(Problem::new(&codes::UNAVAILABLE)),
        };
        if let Err(problem) = &looked
            && self.memory().blind_since.get_or_insert(now) == &now
        {
            tracing::warn!(%problem, "nobody can tell whether the shared tier is warm");
        }
        looked.ok()
    }

    /// The generation of the shared tier; nothing while it is not in use.
    async fn generation(&self) -> Option<u64> {
        let caches = &self.parts.caches;
        if caches.generation().is_none() {
            caches.catch_up().await;
        }
        caches.generation().filter(|_| !caches.is_far_off())
    }

    /// Claims and loads what is due, at most `share` of it. How many that were.
    async fn run_due(&self, share: usize) -> Result<usize, Problem> {
        let lease = self.parts.settings.lease_secs;
        for done in 0..share {
            let claim = self.parts.db.in_tx("warming.claim", lease, |conn, lease| Box::pin(store::claim(conn, *lease)));
            let Some(claim) = claim.await? else { return Ok(done) };
            self.run(claim).await?;
        }
        Ok(share)
    }

    async fn run(&self, claim: Claim) -> Result<(), Problem> {
        let Claim { concert, occasion, round, attempts, .. } = claim;
        // Of before it is loaded: where the shared tier is lost meanwhile, the mark is as well.
        let generation = self.generation().await;
        let loaded = self.load_claimed(claim).await;
        let (ended, word) = match &loaded {
            Ok(_) => {
                let marked = match generation {
                    Some(generation) => {
                        self.own.marks.put(generation, (concert, occasion), round.wrapping_add(1)).await
                    }
                    None => Err(Problem::new(&codes::UNAVAILABLE)),
                };
                // Where it cannot be marked, it is loaded again once the marks can be read.
                if let Err(problem) = marked {
                    tracing::warn!(%concert, %problem, "a warming could not be marked");
                }
                let finish =
                    self.parts.db.in_tx("warming.finish", claim, |conn, claim| Box::pin(store::finish(conn, *claim)));
                (finish.await?, "ok")
            }
            Err(problem) => {
                let (word, pause) = (problem.code().code, delay_after(attempts.saturating_add(1)));
                let fail = self.parts.db.in_tx("warming.fail", (claim, pause, word), |conn, (claim, pause, word)| {
                    Box::pin(store::fail(conn, *claim, *pause, word))
                });
                tracing::warn!(%concert, ?occasion, attempt = attempts + 1, again = pause.is_some(), %problem, "warming failed");
                (fail.await?, word)
            }
        };
        if !ended {
            tracing::warn!(%concert, ?occasion, word, "a warming was claimed by another instance meanwhile");
        } else if let Ok(kept) = loaded {
            tracing::info!(%concert, ?occasion, round = round + 1, until = %kept.until, "warm");
        }
        Ok(())
    }

    /// Loads what was claimed, and says now and then that somebody is at it.
    async fn load_claimed(&self, claim: Claim) -> Result<Kept, Problem> {
        let lease = self.parts.settings.lease_secs;
        let pulse = Duration::from_secs(u64::from(lease.max(3))) / 3;
        let loading = self.load(claim.concert, self.anew(), "claimed");
        tokio::pin!(loading);
        loop {
            tokio::select! {
                loaded = &mut loading => return loaded,
                () = tokio::time::sleep(pulse) => {
                    let extend = self.parts.db.in_tx("warming.extend", (claim, lease), |conn, (claim, lease)| {
                        Box::pin(store::extend(conn, *claim, *lease))
                    });
                    if let Err(problem) = extend.await {
                        tracing::warn!(concert = %claim.concert, %problem, "the lease of a warming was not extended");
                    }
                }
            }
        }
    }

    /// Loads what this instance should have and has not, or not for long any more, or not as the shared tier has it now.
    async fn follow(&self, scene: &Scene, mut share: usize) {
        self.forget_others(scene);
        for target in scene.targets.iter().filter(|target| target.is_wanted(self.lead(), scene.now)) {
            if share == 0 {
                return;
            }
            let kept = self.kept(target.concert);
            let Some(until) = self.lacks(scene, target, kept) else {
                self.tell_again(target.concert, kept).await;
                continue;
            };
            share -= 1;
            if let Err(problem) = self.load(target.concert, until, "followed").await
                && self.own.failing.is_due()
            {
                tracing::warn!(concert = %target.concert, %problem, "this instance cannot warm itself");
            }
        }
    }

    /// Until when what this instance is to load now must last; nothing where it lacks nothing.
    fn lacks(&self, scene: &Scene, target: &Target, kept: Option<Kept>) -> Option<Timestamp> {
        let now = scene.now;
        let lasting = target.opening_within(self.lead(), now).unwrap_or(now).plus(MARGIN);
        let Some(kept) = kept else { return (!scene.is_about_to_be_filled(target)).then_some(lasting) };
        // What was loaded since it was due is as new as what the shared tier has.
        let is_newer = |row: &Warming| row.progress == Progress::Filled && row.due_at > kept.since;
        if scene.rows_of(target.concert).iter().any(is_newer) {
            return Some(self.anew());
        }
        (kept.is_ageing(now) && kept.until < lasting).then_some(lasting)
    }

    /// What this instance has in memory of the concert, if it has all of it.
    fn kept(&self, concert: ConcertId) -> Option<Kept> {
        let loaded = self.memory().kept.get(&concert).copied();
        kept::look(&self.parts.catalog, concert, loaded)
    }

    /// Loads the concert, so that it lasts until then if it can, and writes down what came of it.
    async fn load(&self, concert: ConcertId, until: Timestamp, by: &'static str) -> Result<Kept, Problem> {
        let started = Instant::now();
        let loading = tokio::time::timeout(LOAD_LIMIT, Box::pin(kept::load(&self.parts.catalog, concert, until)));
        let loaded = loading.await.unwrap_or_else(|_| Err(Problem::new(&codes::TIMED_OUT)));
        metrics::loaded(by, loaded.is_ok(), started.elapsed());
        self.tell(concert, loaded.as_ref().ok().copied()).await;
        loaded
    }

    /// Readers have it renewed as well: what is written down says until when it lasts now.
    async fn tell_again(&self, concert: ConcertId, kept: Option<Kept>) {
        let told = self.memory().kept.get(&concert).copied();
        if kept.is_some() && kept != told {
            self.tell(concert, kept).await;
        }
    }

    /// Writes down what this instance has in memory of the concert.
    async fn tell(&self, concert: ConcertId, kept: Option<Kept>) {
        {
            let mut memory = self.memory();
            match kept {
                Some(kept) => drop(memory.kept.insert(concert, kept)),
                None => drop(memory.kept.remove(&concert)),
            }
        }
        let input = (concert, self.parts.instances.own(), kept);
        let told = self.parts.db.in_tx("warming.tell", input, |conn, (concert, instance, kept)| {
            Box::pin(async move {
                match kept {
                    Some(kept) => store::put_memory(conn, *concert, *instance, *kept).await,
                    None => store::delete_memory(conn, *concert, *instance).await,
                }
            })
        });
        if let Err(problem) = told.await {
            tracing::debug!(%concert, %problem, "nobody could be told what is warm here");
        }
    }

    /// What is no concern any more needs no place.
    fn forget_others(&self, scene: &Scene) {
        let concerns: HashSet<ConcertId> = scene.targets.iter().map(|target| target.concert).collect();
        self.memory().kept.retain(|concert, _| concerns.contains(concert));
    }

    fn show(&self, scene: &Scene) {
        let mut standing = Standing::default();
        let now = scene.now;
        for target in scene.targets.iter().filter(|target| target.is_within(self.lead(), now)) {
            let kept = self.kept(target.concert).filter(|kept| kept.until > now);
            *(if kept.is_some() { &mut standing.warm } else { &mut standing.cold }) += 1;
            let near = target.ahead.iter().filter(|(_, at)| *at <= now.plus(MARGIN));
            for (_, opens_at) in near {
                match kept {
                    None => standing.cold_openings += 1,
                    Some(kept) => standing.short_openings += i64::from(kept.until <= *opens_at),
                }
            }
        }
        metrics::seen(standing, scene.overdue());
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.own.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
