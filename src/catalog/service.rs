//! What visitors are shown. Answers are ready bytes, made at most once a second per address and instance.
//!
//! A status and the number of seats left change with time, so what shows them is kept for the current second of
//! the application clock only: a sale that opens on a full second is shown as open in that very second. Seat
//! maps never change; they are packed once and kept for long.
//!
//! Seats left are asked of [`Availability`]. Where it cannot tell, the last number it told is shown; where it never
//! told one, the answer is 503: a number is never made up.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, stream};
use serde::Serialize;

use super::cache::{Bounds, Cache, Weigh};
use super::domain::{Concert, ConcertId, Headline, Performance, PerformanceId, Settings, Status};
use super::ports::{Availability, SaleSetup, SeatSetup, SeatsLeft};
use super::reader::{FIXED_TTL, Reader, entries};
use super::store::{self, Listing};
use super::views::{ConcertDetail, ConcertItem, PerformanceDetail, PerformanceView, SeatMapBody};
use crate::platform::clock::{Clock, Timestamp};
use crate::platform::config::CacheSettings;
use crate::platform::db::Db;
use crate::platform::error::{Problem, codes};
use crate::platform::http::{Cached, Page, PageParams};
use crate::platform::idempotency::Idempotency;

/// What changes with time may be kept by browsers and proxies for a moment.
const FOR_A_MOMENT: &str = "public, max-age=1";
/// What never changes.
const FOR_GOOD: &str = "public, max-age=86400, immutable";
/// How long answers of past seconds stay in memory.
const MOMENT_TTL: Duration = Duration::from_secs(2);
/// How long the last known number of seats left is shown while nobody can tell a newer one.
const LAST_KNOWN_TTL: Duration = Duration::from_mins(10);
/// Rows read at once, and how often, when only some of them are shown.
const SCAN_ROWS: u32 = 101;
const SCANS_MAX: u32 = 10;

/// Performances and concerts whose seats left are asked for at once by one answer: each may need a connection, and a
/// concert has up to a hundred performances.
const ASKED_AT_ONCE: usize = 8;

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
enum Key {
    Concerts { filter: Filter, limit: u32, after: Option<ConcertId> },
    Concert(ConcertId),
    Performances { concert: ConcertId, limit: u32, after: Option<PerformanceId> },
    Performance(PerformanceId),
}

impl Weigh for Cached {
    fn weight(&self) -> u32 {
        entries(Cached::weight(self))
    }
}

impl Weigh for SeatsLeft {}

/// The catalogue as visitors and operators use it.
#[derive(Clone, Debug)]
pub struct Catalog {
    pub(super) db: Db,
    pub(super) clock: Clock,
    pub(super) idempotency: Idempotency,
    pub(super) settings: Arc<Settings>,
    pub(super) reader: Reader,
    pub(super) ports: Ports,
    /// By the second of the application clock in which they were made.
    moments: Cache<(i64, Key), Cached>,
    seat_maps: Cache<PerformanceId, Cached>,
    last_known: Cache<PerformanceId, SeatsLeft>,
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
    /// The reader that other features use too.
    pub reader: Reader,
}

impl Catalog {
    /// A catalogue with nothing in memory yet.
    #[must_use]
    pub fn new(base: Parts, ports: Ports) -> Self {
        let Parts { db, clock, idempotency, settings, cache, reader } = base;
        let kept =
            |ttl| Bounds { ttl: if cache.enabled { ttl } else { Duration::ZERO }, weight_max: cache.entries_max };
        Self {
            db,
            clock,
            idempotency,
            settings: Arc::new(settings),
            reader,
            ports,
            moments: Cache::new(kept(MOMENT_TTL)),
            // Also where the cache is off, as the maps themselves: packing one takes longer than to read it.
            seat_maps: Cache::new(Bounds { ttl: FIXED_TTL, weight_max: cache.entries_max }),
            last_known: Cache::new(Bounds { ttl: LAST_KNOWN_TTL, weight_max: cache.entries_max }),
        }
    }

    /// A page of concerts, the newest first.
    ///
    /// # Errors
    /// What the database refuses with.
    pub async fn list_concerts(&self, filter: Filter, page: PageParams<ConcertId>) -> Result<Cached, Problem> {
        let key = Key::Concerts { filter: filter.clone(), limit: page.limit, after: page.after };
        self.moment(key, |catalog| async move { catalog.concerts(&filter, &page).boxed().await }).await
    }

    /// The concert with all that belongs to it.
    ///
    /// # Errors
    /// 404, 503 `unavailable` where nobody can tell the seats left, or what the database refuses with.
    pub async fn get_concert(&self, id: ConcertId) -> Result<Cached, Problem> {
        let concert = self.reader.get_concert(id).await?;
        self.moment(Key::Concert(id), |catalog| async move { catalog.detail(&concert).await }).await
    }

    /// A page of the concert's performances, by their start.
    ///
    /// # Errors
    /// As [`Catalog::get_concert`], and 422 for a cursor of another list.
    pub async fn list_performances(&self, id: ConcertId, page: PageParams<PerformanceId>) -> Result<Cached, Problem> {
        let concert = self.reader.get_concert(id).await?;
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
        self.moment(key, load).await
    }

    /// The performance with its concert.
    ///
    /// # Errors
    /// As [`Catalog::get_concert`].
    pub async fn get_performance(&self, id: PerformanceId) -> Result<Cached, Problem> {
        let performance = self.reader.get_performance(id).await?;
        let concert = self.reader.get_concert(performance.concert_id).await?;
        self.moment(Key::Performance(id), |catalog| async move { catalog.performance_of(&concert, id).await }).await
    }

    /// The performance with its concert, as they are now: for whoever has just changed them.
    ///
    /// # Errors
    /// As [`Catalog::get_concert`].
    pub async fn performance_detail(&self, id: PerformanceId) -> Result<PerformanceDetail, Problem> {
        let performance = self.reader.get_performance(id).await?;
        let concert = self.reader.get_concert(performance.concert_id).await?;
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
    pub async fn get_seat_map(&self, id: PerformanceId) -> Result<Cached, Problem> {
        let load = || {
            let reader = self.reader.clone();
            async move {
                let map = reader.get_seat_map(id).await?;
                Cached::lasting(SeatMapBody { id, map }, FOR_GOOD).await.map(Some)
            }
        };
        self.seat_maps.find(id, load).await?.ok_or_else(|| Problem::not_found("performance"))
    }

    /// Whether the performance's seat map is in memory.
    pub(super) async fn keeps_seat_map(&self, id: PerformanceId) -> bool {
        self.seat_maps.peek(id).await.is_some()
    }

    /// The reader that other features use.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Makes this instance show every concert and performance anew.
    pub fn forget_concerts(&self) {
        self.reader.forget_concerts();
        self.moments.clear();
    }

    /// The concert as it is now.
    pub(super) async fn detail(&self, concert: &Concert) -> Result<ConcertDetail, Problem> {
        let (views, status) = self.shown(concert).await?;
        Ok(ConcertDetail::of(concert, status, views))
    }

    /// Ready bytes of the current second.
    async fn moment<T, F>(&self, key: Key, load: impl FnOnce(Self) -> F) -> Result<Cached, Problem>
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
        self.moments.find((second, key), load).await?.ok_or_else(|| Problem::new(&codes::NOT_FOUND))
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
        let asked = stream::iter(ids).map(|id| self.seats_left(id)).buffered(ASKED_AT_ONCE);
        let left = asked.collect::<Vec<_>>().boxed().await;
        let mut views = Vec::with_capacity(performances.len());
        let mut is_sold_out = true;
        for (performance, left) in performances.iter().zip(left) {
            let left =
                left.ok_or_else(|| Problem::new(&codes::UNAVAILABLE).detail("Seats left cannot be told now."))?;
            is_sold_out &= left.unsold == 0;
            views.push(PerformanceView::of(performance, left.available));
        }
        Ok((views, is_sold_out))
    }

    async fn seats_left(&self, id: PerformanceId) -> Option<SeatsLeft> {
        let told = self.ports.availability.available(id).await;
        match told {
            Some(left) => {
                self.last_known.put(id, left).await;
                Some(left)
            }
            None => self.last_known.peek(id).await,
        }
    }

    /// Time alone tells every status but `sold_out`, which is told apart from `open` by asking for the seats left:
    /// for these two, rows are read until the page is full, within a bound.
    async fn concerts(&self, filter: &Filter, page: &PageParams<ConcertId>) -> Result<Page<ConcertItem>, Problem> {
        let is_exact = !matches!(filter.status, Some(Status::Open | Status::SoldOut));
        let limit = if is_exact { page.fetch() } else { SCAN_ROWS };
        let (status, q, now) = (filter.status, filter.q.clone(), self.clock.now());
        let mut listing = Listing { status, q, after: page.after, limit, now };
        let mut items = Vec::new();
        for _ in 0..SCANS_MAX {
            let rows = self.db.read("catalog.list_concerts", listing.clone(), |conn, listing| {
                Box::pin(store::list_headlines(conn, listing))
            });
            let rows = rows.await?;
            let is_last = rows.len() < limit as usize;
            listing.after = rows.last().map(|row| row.id).or(listing.after);
            let told = self.with_status(rows, now).await?;
            items.extend(told.into_iter().filter(|item| filter.status.is_none_or(|status| item.status == status)));
            if is_last || items.len() > page.limit as usize {
                return Ok(Page::of(items, page, |item| item.id));
            }
        }
        Ok(Page::broken_off(items, &listing.after))
    }

    async fn with_status(&self, rows: Vec<Headline>, now: Timestamp) -> Result<Vec<ConcertItem>, Problem> {
        let is_open = |row: &&Headline| Status::at(now, &row.hours) == Status::Open;
        let open: Vec<ConcertId> = rows.iter().filter(is_open).map(|row| row.id).collect();
        let mut performances: HashMap<ConcertId, Vec<PerformanceId>> = HashMap::new();
        if !open.is_empty() {
            let pairs = self.db.read("catalog.list_performance_ids", open, |conn, open| {
                Box::pin(store::list_performance_ids(conn, open))
            });
            for (concert, performance) in pairs.await? {
                performances.entry(concert).or_default().push(performance);
            }
        }
        let sold_out: HashMap<ConcertId, bool> = stream::iter(performances)
            .map(|(concert, ids)| self.sold_out(concert, ids))
            .buffered(ASKED_AT_ONCE)
            .collect()
            .boxed()
            .await;
        let items = rows.into_iter().map(|row| {
            let status = settled(Status::at(now, &row.hours), sold_out.get(&row.id) == Some(&true));
            ConcertItem::of(row, status)
        });
        Ok(items.collect())
    }

    /// Whether every seat is known to be sold. The first performance with an unsold seat decides.
    async fn sold_out(&self, concert: ConcertId, performances: Vec<PerformanceId>) -> (ConcertId, bool) {
        for id in performances {
            if self.seats_left(id).await.is_none_or(|left| left.unsold > 0) {
                return (concert, false);
            }
        }
        (concert, true)
    }
}

/// The status once it is known whether every seat is sold.
const fn settled(by_time: Status, is_sold_out: bool) -> Status {
    match by_time {
        Status::Open if is_sold_out => Status::SoldOut,
        other => other,
    }
}
