//! What visitors are shown. Answers are ready bytes, made at most once a second per address and instance.
//!
//! A status and the number of seats left change with time, so what shows them is kept for the current second of
//! the application clock only, in this process: a sale that opens on a full second is shown as open in that very second. It is made of
//! facts that are kept in two tiers, and of each version of them anew, so a change is shown as soon as it is heard of. Seat
//! maps never change; they are packed once for all instances and kept for long.
//!
//! Seats left are asked of [`Availability`] (`left.rs`). Where it cannot tell, the last number it told is shown; where it never
//! told one, the page waits for it, within a bound, and then the answer is 503: a number is never made up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, stream};
use serde::Serialize;

use super::cache::{Bounds, Cache, Weigh};
use super::domain::{Concert, ConcertId, Performance, PerformanceId, Settings, Status};
use super::kept::{self, FOR_GOOD, Listed, MAPS, MapBody, PageKey};
use super::left::{Left, untold};
use super::listing;
use super::ports::{Availability, SaleSetup, SeatSetup};
use super::reader::Reader;
use super::views::{ConcertDetail, ConcertItem, PerformanceDetail, PerformanceView, SeatMapBody};
use crate::platform::cache::{Caches, Found, Lifetimes, Loader, Need, TwoTier};
use crate::platform::clock::Clock;
use crate::platform::config::CacheSettings;
use crate::platform::db::Db;
use crate::platform::error::{Problem, codes};
use crate::platform::http::{Cached, Page, PageParams, Shown};
use crate::platform::idempotency::Idempotency;

/// What changes with time may be kept by browsers and proxies for a moment.
const FOR_A_MOMENT: &str = "public, max-age=1";
/// How long answers of past seconds stay in memory.
const MOMENT_TTL: Duration = Duration::from_secs(2);
/// What counts as one answer in memory: larger ones count as several.
const ENTRY_BYTES: usize = 16 * 1024;

/// Performances and concerts whose seats left are asked for at once by one answer: each may need a connection, and a
/// concert has up to a hundred performances.
pub(super) const ASKED_AT_ONCE: usize = 8;

/// What the features above bring.
#[derive(Clone)]
pub struct Ports {
    /// Creates waiting lines.
    pub sale: Arc<dyn SaleSetup>,
    /// Creates seats.
    pub seats: Arc<dyn SeatSetup>,
    /// Tells how many seats are left.
    pub availability: Arc<dyn Availability>,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").finish_non_exhaustive()
    }
}

/// Which concerts a visitor wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    /// In this state.
    pub status: Option<Status>,
    /// Whose title or artist contains it.
    pub q: Option<String>,
}

/// What an answer is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Concerts { filter: Filter, limit: u32, after: Option<ConcertId> },
    Concert(ConcertId),
    Performances { concert: ConcertId, limit: u32, after: Option<PerformanceId> },
    Performance(PerformanceId),
}

impl Weigh for Cached {
    fn weight(&self) -> u32 {
        u32::try_from(Cached::weight(self) / ENTRY_BYTES + 1).unwrap_or(u32::MAX)
    }
}

/// The catalogue as visitors and operators use it.
#[derive(Clone, Debug)]
pub struct Catalog {
    pub(super) db: Db,
    pub(super) clock: Clock,
    pub(super) idempotency: Idempotency,
    pub(super) settings: Arc<Settings>,
    pub(super) reader: Reader,
    pub(super) ports: Ports,
    pub(super) caches: Arc<Caches>,
    /// Pages of all concerts.
    pub(super) lists: TwoTier<PageKey, Arc<Vec<Listed>>>,
    pub(super) seat_maps: TwoTier<PerformanceId, MapBody>,
    /// By the second of the application clock in which they were made, and by the facts that they were made of.
    moments: Cache<(i64, u64, Key), Cached>,
    pub(super) left: Left,
}

/// What a [`Catalog`] works with.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The database.
    pub db: Db,
    /// The application clock.
    pub clock: Clock,
    /// Keys of requests.
    pub idempotency: Idempotency,
    /// `[catalog]`.
    pub settings: Settings,
    /// `[cache]`.
    pub cache: CacheSettings,
    /// What the instance's caches share.
    pub caches: Arc<Caches>,
    /// The reader that other features use too.
    pub reader: Reader,
}

impl Catalog {
    /// A catalogue with nothing in memory yet.
    #[must_use]
    pub fn new(base: Parts, ports: Ports) -> Self {
        let Parts { db, clock, idempotency, settings, cache, caches, reader } = base;
        let bounds =
            |ttl| Bounds { ttl: if cache.enabled { ttl } else { Duration::ZERO }, weight_max: cache.entries_max };
        Self {
            lists: TwoTier::new(&caches, kept::lists(Lifetimes::configured(&cache)), listing::pages_of(&db)),
            seat_maps: TwoTier::new(&caches, MAPS, maps_of(&reader)),
            caches,
            db,
            clock,
            idempotency,
            settings: Arc::new(settings),
            reader,
            left: Left::new(ports.availability.clone(), &cache),
            ports,
            moments: Cache::new(bounds(MOMENT_TTL)),
        }
    }

    /// The concert with all that belongs to it.
    ///
    /// # Errors
    /// 404, 503 `unavailable` where nobody can tell the seats left, or what the database refuses with.
    pub async fn get_concert(&self, id: ConcertId) -> Result<Shown, Problem> {
        let (concert, facts) = self.reader.shown_concert(id).await?;
        self.moment(&facts, Key::Concert(id), |catalog| async move { catalog.detail(&concert).await }).await
    }

    /// A page of the concert's performances, by their start.
    ///
    /// # Errors
    /// As [`Catalog::get_concert`], and 422 for a cursor of another list.
    pub async fn list_performances(&self, id: ConcertId, page: PageParams<PerformanceId>) -> Result<Shown, Problem> {
        let (concert, facts) = self.reader.shown_concert(id).await?;
        let all = &concert.performances;
        let start = match page.after {
            None => 0,
            Some(after) => {
                let place = all.iter().position(|performance| performance.id == after);
                1 + place.ok_or_else(|| Problem::invalid_parameter("cursor", "not a cursor of this list"))?
            }
        };
        let rows = all.iter().skip(start).take(page.fetch() as usize);
        let key = Key::Performances { concert: id, limit: page.limit, after: page.after };
        let load = |catalog: Self| {
            let rows: Vec<_> = rows.cloned().collect();
            async move {
                let (views, _) = catalog.with_seats_left(&rows).await?;
                Ok(Page::of(views, &page, |view| view.id))
            }
        };
        self.moment(&facts, key, load).await
    }

    /// The performance with its concert.
    ///
    /// # Errors
    /// As [`Catalog::get_concert`].
    pub async fn get_performance(&self, id: PerformanceId) -> Result<Shown, Problem> {
        let concert = self.reader.concert_of(id, Need::Browsing).await?;
        let (concert, facts) = self.reader.shown_concert(concert).await?;
        let key = Key::Performance(id);
        self.moment(&facts, key, |catalog| async move { catalog.performance_of(&concert, id).await }).await
    }

    /// The performance with its concert, as they are now: for whoever has just changed them.
    ///
    /// # Errors
    /// As [`Catalog::get_concert`].
    pub async fn performance_detail(&self, id: PerformanceId) -> Result<PerformanceDetail, Problem> {
        let concert = self.reader.concert_of(id, Need::Booking).await?;
        let concert = self.reader.get_concert(concert).await?;
        self.performance_of(&concert, id).await
    }

    async fn performance_of(&self, concert: &Concert, id: PerformanceId) -> Result<PerformanceDetail, Problem> {
        let (views, status) = self.shown(concert).await?;
        let view = views.into_iter().find(|view| view.id == id).ok_or_else(|| Problem::not_found("performance"))?;
        Ok(PerformanceDetail { performance: view, concert: ConcertItem::of(concert.headline(), status) })
    }

    /// The performance's seat map.
    ///
    /// # Errors
    /// 404, or what the database refuses with.
    pub async fn get_seat_map(&self, id: PerformanceId) -> Result<Shown, Problem> {
        let found = self.seat_maps.find(&id, Need::Browsing).await?;
        let stale_secs = found.stale_secs;
        Ok(Shown { body: found.or_absent("performance")?.0, stale_secs })
    }

    /// The reader that other features use.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Makes this instance show what was announced before, without waiting for the next news.
    pub async fn show_changes(&self) {
        self.caches.catch_up().await;
    }

    /// The concert as it is now.
    pub(super) async fn detail(&self, concert: &Concert) -> Result<ConcertDetail, Problem> {
        let (views, status) = self.shown(concert).await?;
        Ok(ConcertDetail::of(concert, status, views))
    }

    /// Ready bytes of the current second, made of these facts.
    pub(super) async fn moment<T, F>(
        &self,
        facts: &Found<()>,
        key: Key,
        load: impl FnOnce(Self) -> F,
    ) -> Result<Shown, Problem>
    where
        T: Serialize,
        F: Future<Output = Result<T, Problem>> + Send + 'static,
    {
        let second = self.clock.now().millis().div_euclid(1000);
        let load = || {
            let load = load(self.clone());
            async move {
                let body = Cached::json(&load.await?, FOR_A_MOMENT)?;
                Ok(Some(body.settled().await))
            }
        };
        let found = self.moments.find((second, facts.stamp, key), load).await?;
        let body = found.ok_or_else(|| Problem::new(&codes::NOT_FOUND))?;
        Ok(Shown { body, stale_secs: facts.stale_secs })
    }

    async fn shown(&self, concert: &Concert) -> Result<(Vec<PerformanceView>, Status), Problem> {
        let (views, is_sold_out) = self.with_seats_left(&concert.performances).await?;
        Ok((views, settled(Status::at(self.clock.now(), &concert.hours()), is_sold_out)))
    }

    /// The performances with what is left of them, and whether every seat of them is sold.
    async fn with_seats_left(
        &self,
        performances: &[Arc<Performance>],
    ) -> Result<(Vec<PerformanceView>, bool), Problem> {
        let ids: Vec<PerformanceId> = performances.iter().map(|performance| performance.id).collect();
        let deadline = self.left.deadline();
        let asked = stream::iter(ids).map(|id| self.left.find_by(id, deadline)).buffered(ASKED_AT_ONCE);
        let left = asked.collect::<Vec<_>>().boxed().await;
        let mut views = Vec::with_capacity(performances.len());
        let mut is_sold_out = true;
        for (performance, left) in performances.iter().zip(left) {
            let left = left.ok_or_else(untold)?;
            is_sold_out &= left.unsold == 0;
            views.push(PerformanceView::of(performance, left.available));
        }
        Ok((views, is_sold_out))
    }
}

/// Packed bodies, made of the maps that the reader has.
fn maps_of(reader: &Reader) -> Loader<PerformanceId, MapBody> {
    let reader = reader.clone();
    Arc::new(move |id| {
        let reader = reader.clone();
        Box::pin(async move {
            let map = match reader.get_seat_map(id).await {
                Err(problem) if problem.code() == &codes::NOT_FOUND => return Ok(None),
                map => map?,
            };
            Cached::lasting(SeatMapBody { id, map }, FOR_GOOD).await.map(|body| Some(MapBody(body)))
        })
    })
}

/// The status once it is known whether every seat is sold.
pub(super) const fn settled(by_time: Status, is_sold_out: bool) -> Status {
    match by_time {
        Status::Open if is_sold_out => Status::SoldOut,
        other => other,
    }
}
