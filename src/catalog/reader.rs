//! What other features ask the catalogue: concerts, performances, seat maps, live sales. Kept in this process.
//!
//! A concert or a performance may be as old as the cache's time to live on other instances than the one that changed it.
//! Seat maps never change; they are facts rather than answers, and are kept even where the cache
//! is off. The performances of a concert share one map.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::cache::{Bounds, Cache, Weigh};
use super::domain::{Concert, ConcertId, LiveSale, Performance, PerformanceId};
use super::seat_map::SeatMap;
use super::store;
use crate::platform::clock::Timestamp;
use crate::platform::config::CacheSettings;
use crate::platform::db::{Conn, Db};
use crate::platform::error::Problem;

/// How long what never changes is kept.
pub(super) const FIXED_TTL: Duration = Duration::from_hours(1);
/// What counts as one entry of a cache: larger things count as several.
pub(super) const ENTRY_BYTES: usize = 16 * 1024;
/// Memory of one seat in a map, labels included.
const SEAT_BYTES: usize = 160;

/// How many entries so many bytes count as.
pub(super) fn entries(bytes: usize) -> u32 {
    u32::try_from(bytes / ENTRY_BYTES + 1).unwrap_or(u32::MAX)
}

impl Weigh for Arc<Performance> {}

impl Weigh for Arc<Concert> {
    fn weight(&self) -> u32 {
        entries(self.description.len())
    }
}

impl Weigh for Arc<SeatMap> {
    fn weight(&self) -> u32 {
        entries(self.seats().len() * SEAT_BYTES)
    }
}

/// A map that others keep: found in one step, and counted where it is kept.
#[derive(Clone, Debug)]
struct Known(Weak<SeatMap>);

impl Weigh for Known {}

/// Reads the catalogue. Clones share what is kept.
#[derive(Clone, Debug)]
pub struct Reader {
    db: Db,
    ttl: Duration,
    concerts: Cache<ConcertId, Arc<Concert>>,
    performances: Cache<PerformanceId, Arc<Performance>>,
    maps: Cache<ConcertId, Arc<SeatMap>>,
    /// The maps above by their performances, as those who look at seats ask all the time.
    known_maps: Cache<PerformanceId, Known>,
}

impl Reader {
    /// A reader that has nothing in memory yet.
    #[must_use]
    pub fn new(db: Db, settings: &CacheSettings) -> Self {
        let ttl = if settings.enabled { Duration::from_secs(settings.ttl_secs) } else { Duration::ZERO };
        let short = Bounds { ttl, weight_max: settings.entries_max };
        let fixed = Bounds { ttl: FIXED_TTL, weight_max: settings.entries_max };
        Self {
            db,
            ttl: ttl.min(FIXED_TTL),
            concerts: Cache::new(short),
            performances: Cache::new(short),
            maps: Cache::new(fixed),
            known_maps: Cache::new(fixed),
        }
    }

    /// The concert with its performances.
    ///
    /// # Errors
    /// 404, or what the database refuses with.
    pub async fn get_concert(&self, id: ConcertId) -> Result<Arc<Concert>, Problem> {
        let load = || {
            let db = self.db.clone();
            async move {
                let found =
                    db.read("catalog.get_concert", id, |conn, id| Box::pin(store::find_concert(conn, *id))).await?;
                Ok(found.map(Arc::new))
            }
        };
        self.concerts.find(id, load).await?.ok_or_else(|| Problem::not_found("concert"))
    }

    /// Reads the concert anew and keeps it with its performances.
    ///
    /// # Errors
    /// As [`Reader::get_concert`].
    pub(super) async fn renew_concert(&self, id: ConcertId) -> Result<Arc<Concert>, Problem> {
        let load = async {
            let found =
                self.db.read("catalog.get_concert", id, |conn, id| Box::pin(store::find_concert(conn, *id))).await?;
            Ok(found.map(Arc::new))
        };
        let concert = self.concerts.renew(id, load).await?.ok_or_else(|| Problem::not_found("concert"))?;
        for performance in &concert.performances {
            self.performances.renew(performance.id, async { Ok(Some(performance.clone())) }).await?;
        }
        Ok(concert)
    }

    /// The concert if it is kept.
    pub(super) async fn peek_concert(&self, id: ConcertId) -> Option<Arc<Concert>> {
        self.concerts.peek(id).await
    }

    /// How long all that belongs to a concert is kept.
    pub(super) const fn keeps_for(&self) -> Duration {
        self.ttl
    }

    /// The concert, for a transaction that has a connection already: waiting for another one inside it could
    /// stop the whole pool.
    ///
    /// # Errors
    /// 404, or what the database refuses with.
    pub async fn get_concert_within(&self, conn: &mut Conn, id: ConcertId) -> Result<Arc<Concert>, Problem> {
        if let Some(concert) = self.concerts.peek(id).await {
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
        let load = || {
            let db = self.db.clone();
            async move {
                let find =
                    db.read("catalog.get_performance", id, |conn, id| Box::pin(store::find_performance(conn, *id)));
                Ok(find.await?.map(Arc::new))
            }
        };
        self.performances.find(id, load).await?.ok_or_else(|| Problem::not_found("performance"))
    }

    /// The performance's seat map.
    ///
    /// # Errors
    /// 404, or what the database refuses with.
    pub async fn get_seat_map(&self, id: PerformanceId) -> Result<Arc<SeatMap>, Problem> {
        if let Some(map) = self.known_maps.peek(id).await.and_then(|known| known.0.upgrade()) {
            return Ok(map);
        }
        let concert = self.get_performance(id).await?.concert_id;
        let load = || {
            let db = self.db.clone();
            async move {
                let find = db.read("catalog.get_seat_map", concert, |conn, concert| {
                    Box::pin(store::find_seating(conn, *concert))
                });
                let Some((layout, grades)) = find.await? else { return Ok(None) };
                Ok(Some(Arc::new(SeatMap::build(&layout, &grades).map_err(Problem::internal)?)))
            }
        };
        let map = self.maps.find(concert, load).await?.ok_or_else(|| Problem::not_found("performance"))?;
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

    /// Makes this instance read every concert and performance anew.
    pub fn forget_concerts(&self) {
        self.concerts.clear();
        self.performances.clear();
    }
}
