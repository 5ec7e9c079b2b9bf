//! Pictures of performances, read at most once an interval, whatever the number of readers: from the seat filter, or from
//! MySQL where the filter does not know.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Deserialize;
use tokio::sync::{Mutex, Semaphore};

use super::best::Plan;
use super::board::{Board, Picture};
use super::filter::{Filter, Hall, Look};
use super::picker::Picker;
use super::store;
use crate::catalog::seat_map::SeatMap;
use crate::catalog::{Availability, ConcertId, PerformanceId, Reader, SeatSetup, SeatsLeft};
use crate::platform::clock::{Clock, Timestamp};
use crate::platform::db::{Conn, Db};
use crate::platform::error::Problem;
use crate::platform::http::Cached;

/// How old a picture may be for counting: the line asks several times a second, for all performances.
const COUNT_MAX_AGE: Duration = Duration::from_secs(1);
/// Performances kept in memory at most.
const BOARDS_MAX: u64 = 2000;
/// Pictures read from MySQL at the same time by one instance.
const MYSQL_READS_MAX: usize = 4;
/// How long a version of the filter is believed to mean the same: a Redis that came back older may count it again.
const VERSION_MAX_AGE: Duration = Duration::from_secs(1);

/// `[booking]`.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "each field is documented in config/default.toml")]
pub struct Settings {
    pub hold_secs: u64,
    pub cancel_until_hours: u32,
    pub refunds_per_second_max: u32,
    pub hold_seats_max: usize,
    pub availability_max_age_ms: u64,
    pub hold_lanes: usize,
    pub hold_batch_max: usize,
    pub hold_waiting_max: usize,
    pub pay_lanes: usize,
    pub keep_holds_days: u32,
    pub reconcile_ms: u64,
    pub seat_filter: bool,
}

/// A picture with its encoded form.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The picture, as of when it was first seen.
    pub board: Arc<Board>,
    /// Its public form, encoded once: the same bytes for as long as the picture stays the same.
    pub body: Cached,
    /// When it was last seen to be so.
    read_at: Timestamp,
}

/// One performance's newest picture. Whoever finds it too old reads a new one while the others wait for it.
#[derive(Debug, Default)]
struct Slot {
    newest: RwLock<Option<Shown>>,
    picker: OnceLock<Arc<Picker>>,
    /// Readings that ended.
    readings: AtomicU64,
    reading: Mutex<Option<Known>>,
}

/// Which version of the filter the newest picture shows.
#[derive(Clone, Copy, Debug)]
struct Known {
    version: u64,
    /// When the filter was read whole.
    read_at: Timestamp,
}

/// The seats of one instance.
#[derive(Clone, Debug)]
pub struct Seats {
    db: Db,
    clock: Clock,
    catalog: Arc<Reader>,
    filter: Filter,
    max_age: Duration,
    slots: moka::sync::Cache<PerformanceId, Arc<Slot>>,
    mysql_reads: Arc<Semaphore>,
}

impl Seats {
    /// Over this database, catalogue and filter.
    #[must_use]
    pub fn new(db: Db, clock: Clock, catalog: Arc<Reader>, filter: Filter, settings: &Settings) -> Self {
        let max_age = Duration::from_millis(settings.availability_max_age_ms);
        let mysql_reads = Arc::new(Semaphore::new(MYSQL_READS_MAX));
        Self { db, clock, catalog, filter, max_age, slots: moka::sync::Cache::new(BOARDS_MAX), mysql_reads }
    }

    /// The performance's picture, not older than the configured age.
    ///
    /// # Errors
    /// 404 where there is no such performance.
    pub async fn get_board(&self, performance: PerformanceId) -> Result<Shown, Problem> {
        self.board_within(performance, self.max_age).await
    }

    /// Chooses the performance's best seats, from a picture not older than the configured age.
    ///
    /// # Errors
    /// 404 where there is no such performance.
    pub async fn get_picker(&self, performance: PerformanceId) -> Result<Arc<Picker>, Problem> {
        let map = self.catalog.get_seat_map(performance).await?;
        let shown = self.get_board(performance).await?;
        let slot = self.slots.get_with(performance, Arc::default);
        let picker = slot.picker.get_or_init(|| Arc::new(Picker::new(Arc::new(Plan::new(&map)))));
        if picker.read_at() != Some(shown.read_at) {
            picker.refresh(shown.board.taken(), shown.read_at);
        }
        Ok(picker.clone())
    }

    async fn board_within(&self, performance: PerformanceId, max_age: Duration) -> Result<Shown, Problem> {
        // What is fresh is answered from here, without the catalogue.
        let known = self.slots.get(&performance);
        match known.and_then(|slot| fresh(&slot, self.clock.now(), max_age)) {
            Some(shown) => Ok(shown),
            None => Box::pin(self.refreshed(performance, Some(max_age))).await,
        }
    }

    /// Shows the picker a picture whose reading began after this was called.
    ///
    /// # Errors
    /// 404 where there is no such performance.
    pub async fn look_again(&self, performance: PerformanceId, picker: &Picker) -> Result<(), Problem> {
        let shown = Box::pin(self.refreshed(performance, None)).await?;
        picker.refresh(shown.board.taken(), shown.read_at);
        Ok(())
    }

    /// A picture that is not older than that, or of now.
    async fn refreshed(&self, performance: PerformanceId, max_age: Option<Duration>) -> Result<Shown, Problem> {
        let concert = self.catalog.get_performance(performance).await?.concert_id;
        let map = self.catalog.get_seat_map(performance).await?;
        let hall = Hall { concert, performance, seats_total: map.seats_total() };
        let slot = self.slots.get_with(performance, Arc::default);
        let before = slot.readings.load(Ordering::Acquire);
        let mut known = slot.reading.lock().await;
        // Who waited takes what was read meanwhile, however long that took. The first reading that ended may have begun before.
        let enough = if max_age.is_some() { 1 } else { 2 };
        let was_read = slot.readings.load(Ordering::Acquire) >= before + enough;
        let limit = if was_read { Some(Duration::MAX) } else { max_age };
        if let Some(shown) = limit.and_then(|limit| fresh(&slot, self.clock.now(), limit)) {
            return Ok(shown);
        }
        let shown = self.read(hall, &map, &slot, &mut known).await?;
        *slot.newest.write().unwrap_or_else(PoisonError::into_inner) = Some(shown.clone());
        slot.readings.fetch_add(1, Ordering::AcqRel);
        Ok(shown)
    }

    /// The picture as it is now, following the slot's.
    async fn read(&self, hall: Hall, map: &SeatMap, slot: &Slot, known: &mut Option<Known>) -> Result<Shown, Problem> {
        let read_at = self.clock.now();
        let before = slot.newest.read().unwrap_or_else(PoisonError::into_inner).clone();
        let believed = known.filter(|known| age(known.read_at, read_at) < VERSION_MAX_AGE && before.is_some());
        let (picture, version) = match self.filter.look(hall, believed.map(|known| known.version)).await {
            Some(Look::Same) => (None, believed),
            Some(Look::New { version, picture }) => (Some(picture), Some(Known { version, read_at })),
            None => (Some(self.read_mysql(hall).await?), None),
        };
        let shown = match (before, picture) {
            (Some(before), None) => Shown { read_at, ..before },
            (before, picture) => {
                let picture = picture.ok_or_else(|| Problem::internal(anyhow::anyhow!("no picture was known")))?;
                show(hall, map, picture, read_at, before)?
            }
        };
        *known = version;
        Ok(shown)
    }

    async fn read_mysql(&self, hall: Hall) -> Result<Picture, Problem> {
        let _place = self.mysql_reads.acquire().await.map_err(Problem::internal)?;
        let read =
            self.db.read("seats.list_taken", hall.performance, |conn, id| Box::pin(store::list_taken(conn, *id)));
        Ok(Picture::of(&read.await?, hall.seats_total))
    }

    /// The catalogue behind it.
    #[must_use]
    pub fn catalog(&self) -> &Reader {
        &self.catalog
    }

    /// Seats of a concert over all performances, available and unsold, at most a second or so old. Whoever counts them sells
    /// them: their filters are kept in order.
    ///
    /// # Errors
    /// Where a picture cannot be read.
    pub async fn count(&self, concert: ConcertId) -> Result<(u64, u64), Problem> {
        let concert = self.catalog.get_concert(concert).await?;
        let (mut available, mut unsold) = (0, 0);
        for performance in &concert.performances {
            let seats_total = performance.seats_total;
            self.filter.keep(Hall { concert: concert.id, performance: performance.id, seats_total });
            let shown = self.board_within(performance.id, self.max_age.max(COUNT_MAX_AGE)).await?;
            available += u64::from(shown.board.available());
            unsold += u64::from(shown.board.unsold());
        }
        Ok((available, unsold))
    }
}

/// This picture, encoded, or the one before where nothing has changed.
fn show(
    hall: Hall,
    map: &SeatMap,
    picture: Picture,
    read_at: Timestamp,
    before: Option<Shown>,
) -> Result<Shown, Problem> {
    let board = Board::new(map, picture, read_at, before.as_ref().map(|shown| &*shown.board));
    if let Some(before) = before.filter(|before| before.board.version == board.version) {
        return Ok(Shown { read_at, ..before });
    }
    // Every instance has versions and times of its own: the tag is of what they are about.
    let [taken, sold] = board.bitmaps();
    let content = [hall.performance.0.as_bytes(), taken, sold];
    let body = Cached::tagged(&board.view(hall.performance), &content, "no-cache")?;
    Ok(Shown { board: Arc::new(board), body, read_at })
}

/// How far apart these are: a clock that was set back must not keep a picture for ever.
fn age(at: Timestamp, now: Timestamp) -> Duration {
    now.since(at).max(at.since(now))
}

fn fresh(slot: &Slot, now: Timestamp, max_age: Duration) -> Option<Shown> {
    let newest = slot.newest.read().unwrap_or_else(PoisonError::into_inner);
    let shown = newest.as_ref()?;
    (age(shown.read_at, now) <= max_age).then(|| shown.clone())
}

impl Availability for Seats {
    fn available(&self, performance: PerformanceId) -> BoxFuture<'_, Option<SeatsLeft>> {
        Box::pin(async move {
            let shown = self.get_board(performance).await;
            let untold = |problem: &Problem| tracing::debug!(%performance, %problem, "seats left cannot be told");
            let shown = shown.inspect_err(untold).ok()?;
            Some(SeatsLeft { available: shown.board.available(), unsold: shown.board.unsold() })
        })
    }
}

/// Makes the seats of new performances.
#[derive(Clone, Copy, Debug)]
pub struct NewSeats;

impl SeatSetup for NewSeats {
    fn create<'c>(
        &'c self,
        conn: &'c mut Conn,
        performance: PerformanceId,
        map: &'c SeatMap,
    ) -> BoxFuture<'c, Result<(), Problem>> {
        Box::pin(store::insert_all(conn, performance, map.seats()))
    }
}
