//! Pictures of performances, read from MySQL at most once an interval, whatever the number of readers.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Deserialize;

use super::board::Board;
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

/// `[booking]`.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "each field is documented in config/default.toml")]
pub struct Settings {
    pub hold_secs: u64,
    pub cancel_until_hours: u32,
    pub hold_seats_max: usize,
    pub availability_max_age_ms: u64,
    pub hold_lanes: usize,
    pub hold_batch_max: usize,
    pub hold_waiting_max: usize,
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
    reading: tokio::sync::Mutex<()>,
}

/// The seats of one instance.
#[derive(Clone, Debug)]
pub struct Seats {
    db: Db,
    clock: Clock,
    catalog: Arc<Reader>,
    max_age: Duration,
    slots: moka::sync::Cache<PerformanceId, Arc<Slot>>,
}

impl Seats {
    /// Over this database and catalogue.
    #[must_use]
    pub fn new(db: Db, clock: Clock, catalog: Arc<Reader>, settings: &Settings) -> Self {
        let max_age = Duration::from_millis(settings.availability_max_age_ms);
        Self { db, clock, catalog, max_age, slots: moka::sync::Cache::new(BOARDS_MAX) }
    }

    /// The performance's picture, not older than the configured age.
    ///
    /// # Errors
    /// 404 where there is no such performance.
    pub async fn get_board(&self, performance: PerformanceId) -> Result<Shown, Problem> {
        self.board_within(performance, self.max_age).await
    }

    async fn board_within(&self, performance: PerformanceId, max_age: Duration) -> Result<Shown, Problem> {
        let map = self.catalog.get_seat_map(performance).await?;
        let slot = self.slots.get_with(performance, Arc::default);
        if let Some(shown) = fresh(&slot, self.clock.now(), max_age) {
            return Ok(shown);
        }
        let _turn = slot.reading.lock().await;
        if let Some(shown) = fresh(&slot, self.clock.now(), max_age) {
            return Ok(shown);
        }
        let read_at = self.clock.now();
        let rows =
            self.db.read("seats.list_taken", performance, |conn, id| Box::pin(store::list_taken(conn, *id))).await?;
        let before = slot.newest.read().unwrap_or_else(PoisonError::into_inner).clone();
        let board = Board::new(&map, &rows, read_at, before.as_ref().map(|shown| &*shown.board));
        let shown = match before {
            Some(before) if before.board.version == board.version => Shown { read_at, ..before },
            _ => {
                let body = Cached::json(&board.view(performance), "no-cache")?;
                Shown { board: Arc::new(board), body, read_at }
            }
        };
        *slot.newest.write().unwrap_or_else(PoisonError::into_inner) = Some(shown.clone());
        Ok(shown)
    }

    /// The catalogue behind it.
    #[must_use]
    pub fn catalog(&self) -> &Reader {
        &self.catalog
    }

    /// Seats of a concert over all performances, available and unsold, at most a second or so old.
    ///
    /// # Errors
    /// Where a picture cannot be read.
    pub async fn count(&self, concert: ConcertId) -> Result<(u64, u64), Problem> {
        let concert = self.catalog.get_concert(concert).await?;
        let (mut available, mut unsold) = (0, 0);
        for performance in &concert.performances {
            let shown = self.board_within(performance.id, self.max_age.max(COUNT_MAX_AGE)).await?;
            available += u64::from(shown.board.available());
            unsold += u64::from(shown.board.unsold());
        }
        Ok((available, unsold))
    }
}

fn fresh(slot: &Slot, now: Timestamp, max_age: Duration) -> Option<Shown> {
    let newest = slot.newest.read().unwrap_or_else(PoisonError::into_inner);
    let shown = newest.as_ref()?;
    // A clock that was set back must not keep a picture for ever.
    let age = now.since(shown.read_at).max(shown.read_at.since(now));
    (age <= max_age).then(|| shown.clone())
}

impl Availability for Seats {
    fn available(&self, performance: PerformanceId) -> BoxFuture<'_, Option<SeatsLeft>> {
        Box::pin(async move {
            let shown = self.get_board(performance).await.ok()?;
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
