//! What other features ask the catalogue: concerts, performances, seat maps, live sales. Kept in this process and in Redis.
//!
//! A concert, its performances included, is as new on every instance as the last news of changes
//! ([`crate::platform::cache`]). Seat maps never change; they are facts rather than answers, and are kept even where the cache
//! is off. The performances of a concert share one map.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::cache::{Bounds, Cache, Weigh};
use super::domain::{Concert, ConcertId, LiveSale, Performance, PerformanceId};
use super::kept::{self, EVENINGS, SEATINGS, Seating};
use super::seat_map::SeatMap;
use super::store;
use crate::platform::cache::{Caches, Found, Lifetimes, Loader, Need, TwoTier};
use crate::platform::clock::Timestamp;
use crate::platform::config::CacheSettings;
use crate::platform::db::{Conn, Db};
use crate::platform::error::Problem;

/// How long a map is known by its performance.
const KNOWN_TTL: Duration = Duration::from_hours(1);

/// A map that others keep: found in one step, and counted where it is kept.
#[derive(Clone, Debug)]
struct Known(Weak<SeatMap>);

impl Weigh for Known {}

/// Reads the catalogue. Clones share what is kept.
#[derive(Clone, Debug)]
pub struct Reader {
    db: Db,
    pub(super) concerts: TwoTier<ConcertId, Arc<Concert>>,
    /// Which concert a performance is of.
    pub(super) evenings: TwoTier<PerformanceId, ConcertId>,
    pub(super) seatings: TwoTier<ConcertId, Seating>,
    /// The maps above by their performances, as those who look at seats ask all the time.
    known_maps: Cache<PerformanceId, Known>,
}

impl Reader {
    /// A reader that has nothing in memory yet.
    #[must_use]
    pub fn new(db: Db, settings: &CacheSettings, caches: &Arc<Caches>) -> Self {
        let lifetimes = Lifetimes::configured(settings);
        Self {
            concerts: TwoTier::new(caches, kept::concerts(lifetimes), concerts_of(&db)),
            evenings: TwoTier::new(caches, EVENINGS, evenings_of(&db)),
            seatings: TwoTier::new(caches, SEATINGS, seatings_of(&db)),
            known_maps: Cache::new(Bounds { ttl: KNOWN_TTL, weight_max: settings.entries_max }),
            db,
        }
    }

    /// The concert with its performances.
    ///
    /// # Errors
    /// 404, or what the database refuses with.
    pub async fn get_concert(&self, id: ConcertId) -> Result<Arc<Concert>, Problem> {
        self.concerts.find(&id, Need::Booking).await?.or_absent("concert")
    }

    /// The concert as somebody who looks around is shown it, with its age where that must be said.
    pub(super) async fn shown_concert(&self, id: ConcertId) -> Result<(Arc<Concert>, Found<()>), Problem> {
        let Found { value, stale_secs, stamp } = self.concerts.find(&id, Need::Browsing).await?;
        let concert = value.ok_or_else(|| Problem::not_found("concert"))?;
        Ok((concert, Found { value: None, stale_secs, stamp }))
    }

    /// The concert, for a transaction that has a connection already: waiting for another one inside it could
    /// stop the whole pool.
    ///
    /// # Errors
    /// 404, or what the database refuses with.
    pub async fn get_concert_within(&self, conn: &mut Conn, id: ConcertId) -> Result<Arc<Concert>, Problem> {
        if let Some(concert) = self.concerts.peek(&id) {
            return Ok(concert);
        }
        let found = store::find_concert(conn, id).await?;
        found.map(Arc::new).ok_or_else(|| Problem::not_found("concert"))
    }

    /// The performance.
    ///
    /// # Errors
    /// 404, or what the database refuses with.
    pub async fn get_performance(&self, id: PerformanceId) -> Result<Arc<Performance>, Problem> {
        let concert = self.get_concert(self.concert_of(id, Need::Booking).await?).await?;
        performance_of(&concert, id)
    }

    /// The concert of a performance.
    pub(super) async fn concert_of(&self, id: PerformanceId, need: Need) -> Result<ConcertId, Problem> {
        self.evenings.find(&id, need).await?.or_absent("performance")
    }

    /// The performance's seat map.
    ///
    /// # Errors
    /// 404, or what the database refuses with.
    pub async fn get_seat_map(&self, id: PerformanceId) -> Result<Arc<SeatMap>, Problem> {
        if let Some(map) = self.known_maps.peek(id).await.and_then(|known| known.0.upgrade()) {
            return Ok(map);
        }
        let concert = self.concert_of(id, Need::Booking).await?;
        let map = self.seatings.find(&concert, Need::Booking).await?.or_absent("performance")?.map;
        self.known_maps.put(id, Known(Arc::downgrade(&map))).await;
        Ok(map)
    }

    /// Sales that have not closed at `now` and whose lobby or booking has opened or opens within `lead`: at most
    /// `limit`, the earliest booking first. Read from the database each time.
    ///
    /// # Errors
    /// What the database refuses with.
    pub async fn list_live_sales(&self, now: Timestamp, lead: Duration, limit: u32) -> Result<Vec<LiveSale>, Problem> {
        let input = (now, now.plus(lead), limit);
        self.db
            .read("catalog.list_live_sales", input, |conn, (now, by, limit)| {
                Box::pin(store::list_live_sales(conn, *now, *by, *limit))
            })
            .await
    }
}

/// One of the concert's performances.
pub(super) fn performance_of(concert: &Concert, id: PerformanceId) -> Result<Arc<Performance>, Problem> {
    let found = concert.performances.iter().find(|performance| performance.id == id);
    found.cloned().ok_or_else(|| Problem::not_found("performance"))
}

fn concerts_of(db: &Db) -> Loader<ConcertId, Arc<Concert>> {
    let db = db.clone();
    Arc::new(move |id| {
        let db = db.clone();
        Box::pin(async move {
            let find = db.read("catalog.get_concert", id, |conn, id| Box::pin(store::find_concert(conn, *id)));
            Ok(find.await?.map(Arc::new))
        })
    })
}

fn evenings_of(db: &Db) -> Loader<PerformanceId, ConcertId> {
    let db = db.clone();
    Arc::new(move |id| {
        let db = db.clone();
        Box::pin(async move {
            db.read("catalog.get_performance", id, |conn, id| Box::pin(store::find_concert_of(conn, *id))).await
        })
    })
}

fn seatings_of(db: &Db) -> Loader<ConcertId, Seating> {
    let db = db.clone();
    Arc::new(move |concert| {
        let db = db.clone();
        Box::pin(async move {
            let find =
                db.read("catalog.get_seat_map", concert, |conn, concert| Box::pin(store::find_seating(conn, *concert)));
            let Some((layout, grades)) = find.await? else { return Ok(None) };
            Seating::new(layout, grades).map(Some)
        })
    })
}
