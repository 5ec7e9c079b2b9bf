//! What the catalogue keeps in the two tiers, how it is written for other instances, and how changes of it are announced.
//!
//! Whoever changes what is written here raises the number of the format: instances of both releases then keep theirs apart.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use ring::digest;
use serde::{Deserialize, Serialize};

use super::domain::{Concert, ConcertId, Grade, Headline, PerformanceId};
use super::layout::Section;
use super::seat_map::SeatMap;
use crate::platform::cache::{Keep, Kind, Lifetimes, news};
use crate::platform::db::Conn;
use crate::platform::error::Problem;
use crate::platform::http::Cached;

/// What never changes may be kept by everybody for good.
pub(super) const FOR_GOOD: &str = "public, max-age=86400, immutable";

const CONCERTS: &str = "concerts";
const LISTS: &str = "concert_lists";

/// Memory of one seat in a map, labels included.
const SEAT_BYTES: usize = 160;
/// And of a performance, a grade or a section.
const PART_BYTES: usize = 128;

/// Concerts with their performances.
pub(super) const fn concerts(lifetimes: Lifetimes) -> Kind {
    Kind::new(CONCERTS, 1, lifetimes)
}

/// Pages of the list of all concerts.
pub(super) const fn lists(lifetimes: Lifetimes) -> Kind {
    Kind::new(LISTS, 1, lifetimes)
}

/// Which concert a performance is of.
pub(super) const EVENINGS: Kind = Kind::fixed("performances", 1);
/// Layouts with their grades, by concert. They are facts rather than answers: kept also where the cache is off.
pub(super) const SEATINGS: Kind = Kind { is_always_on: true, ..Kind::fixed("seatings", 1) };
/// Seat maps as they are sent. Packing one takes longer than to read it: kept also where the cache is off.
pub(super) const MAPS: Kind = Kind { is_always_on: true, is_composed: true, ..Kind::fixed("seat_maps", 1) };

/// Announces, as the last statement of a transaction, that a concert or one of its performances is another one now.
pub(super) async fn announce(conn: &mut Conn, concert: ConcertId) -> Result<(), Problem> {
    news::announce(conn, &[(CONCERTS, Some(concert.to_string())), (LISTS, None)]).await
}

/// Announces in the same way that there is one more concert.
pub(super) async fn announce_new(conn: &mut Conn) -> Result<(), Problem> {
    news::announce(conn, &[(LISTS, None)]).await
}

fn read<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

impl Keep for Arc<Concert> {
    fn weight(&self) -> usize {
        let texts = self.title.len() + self.artist.len() + self.description.len();
        size_of::<Concert>() + texts + (self.performances.len() + self.grades.len()) * PART_BYTES
    }

    async fn encode(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self.as_ref()).ok()
    }

    async fn decode(bytes: Bytes) -> Option<Self> {
        read(&bytes).map(Self::new)
    }
}

impl Keep for ConcertId {
    fn weight(&self) -> usize {
        size_of::<Self>()
    }

    async fn encode(&self) -> Option<Vec<u8>> {
        Some(self.to_string().into_bytes())
    }

    async fn decode(bytes: Bytes) -> Option<Self> {
        std::str::from_utf8(&bytes).ok()?.parse().ok()
    }
}

/// A concert as lists show it, and its performances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listed {
    pub headline: Headline,
    pub performances: Vec<PerformanceId>,
}

impl Keep for Arc<Vec<Listed>> {
    fn weight(&self) -> usize {
        let of = |row: &Listed| size_of::<Listed>() + row.headline.title.len() + row.performances.len() * 16;
        self.iter().map(of).sum()
    }

    async fn encode(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self.as_ref()).ok()
    }

    async fn decode(bytes: Bytes) -> Option<Self> {
        read(&bytes).map(Self::new)
    }
}

/// A page of the list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PageKey {
    /// Only those whose title or artist contains it.
    pub q: Option<String>,
    /// Only those older than it.
    pub after: Option<ConcertId>,
    /// At most so many.
    pub limit: u32,
}

/// A hash: what people look for may be any text.
impl fmt::Display for PageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = self.after.map(|id| id.to_string()).unwrap_or_default();
        let text = format!("{} {after} {}", self.limit, self.q.as_deref().unwrap_or_default());
        let hash = digest::digest(&digest::SHA256, text.as_bytes());
        f.write_str(&hex::encode(&hash.as_ref()[..16]))
    }
}

/// No page can be told from its hash, nor needs to be: changes are announced for all of them.
impl FromStr for PageKey {
    type Err = ();

    fn from_str(_: &str) -> Result<Self, ()> {
        Err(())
    }
}

/// What a concert's seat map is made of.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    layout: Vec<Section>,
    grades: Vec<Grade>,
}

/// A concert's seat map and what it is made of, which is a hundredth of it.
#[derive(Clone, Debug)]
pub(super) struct Seating {
    plan: Arc<Plan>,
    pub map: Arc<SeatMap>,
}

impl Seating {
    /// Builds the map.
    ///
    /// # Errors
    /// `internal` where layout and grades do not fit.
    pub fn new(layout: Vec<Section>, grades: Vec<Grade>) -> Result<Self, Problem> {
        Self::of(Plan { layout, grades })
    }

    fn of(plan: Plan) -> Result<Self, Problem> {
        let map = SeatMap::build(&plan.layout, &plan.grades).map_err(Problem::internal)?;
        Ok(Self { plan: Arc::new(plan), map: Arc::new(map) })
    }
}

impl Keep for Seating {
    fn weight(&self) -> usize {
        let rows: usize = self.plan.layout.iter().map(|section| 1 + section.rows.as_ref().map_or(0, Vec::len)).sum();
        self.map.seats().len() * SEAT_BYTES + rows * PART_BYTES
    }

    async fn encode(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self.plan.as_ref()).ok()
    }

    async fn decode(bytes: Bytes) -> Option<Self> {
        Self::of(read(&bytes)?).ok()
    }
}

/// A seat map as it is sent.
#[derive(Clone, Debug)]
pub(super) struct MapBody(pub Cached);

impl Keep for MapBody {
    fn weight(&self) -> usize {
        self.0.weight()
    }

    async fn encode(&self) -> Option<Vec<u8>> {
        self.0.stored().await
    }

    async fn decode(bytes: Bytes) -> Option<Self> {
        Cached::restored(bytes, FOR_GOOD).await.map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::domain::{Order, Performance, VenueId, VenueName};
    use super::*;
    use crate::platform::clock::Timestamp;
    use crate::platform::money::Money;

    fn concert() -> Concert {
        let at = |micros: i64| Timestamp::from_micros(1_764_000_000_000_001 + micros).unwrap();
        let id = ConcertId::new();
        let evening = Performance { id: PerformanceId::new(), concert_id: id, starts_at: at(7), seats_total: 3 };
        Concert {
            id,
            title: "Night \u{1F3B8}".into(),
            artist: "A".into(),
            venue: VenueName { id: VenueId::new(), name: "Hall".into(), city: "Seoul".into() },
            lobby_opens_at: Some(at(1)),
            booking_opens_at: at(2),
            booking_closes_at: at(3),
            first_performance_at: at(7),
            price_from: Money(5),
            description: String::new(),
            seat_limit_per_buyer: 4,
            grades: vec![Grade { code: "R".into(), name: "R".into(), price: Money(5), sections: vec!["A".into()] }],
            queue_order: Order::Draw,
            draw_commitment: "ab".into(),
            performances: vec![Arc::new(evening)],
        }
    }

    #[tokio::test]
    async fn other_instances_read_what_was_written_to_the_microsecond() {
        let concert = Arc::new(concert());
        let written = concert.encode().await.unwrap();
        assert_eq!(Arc::<Concert>::decode(written.into()).await.unwrap(), concert);
        let listed = Arc::new(vec![Listed { headline: concert.headline(), performances: vec![PerformanceId::new()] }]);
        let written = listed.encode().await.unwrap();
        assert_eq!(Arc::<Vec<Listed>>::decode(written.into()).await.unwrap(), listed);
        assert_eq!(ConcertId::decode(concert.id.encode().await.unwrap().into()).await, Some(concert.id));
        assert!(Arc::<Concert>::decode(Bytes::from_static(b"{}")).await.is_none());
    }

    #[tokio::test]
    async fn a_map_is_made_again_from_its_plan() {
        let seating = Seating::new(super::super::demo::club_layout(), super::super::demo::club_grades()).unwrap();
        let other = Seating::decode(seating.encode().await.unwrap().into()).await.unwrap();
        assert_eq!(seating.map.seats(), other.map.seats());
    }

    #[test]
    fn pages_have_names_of_their_own() {
        let page = |q: Option<&str>, limit| PageKey { q: q.map(str::to_owned), after: None, limit }.to_string();
        let names = [page(None, 20), page(None, 21), page(Some("a"), 20), page(Some("{a}:b"), 20)];
        assert_eq!(names.iter().collect::<std::collections::HashSet<_>>().len(), names.len());
        assert_eq!(page(Some("a"), 20), names[2]);
    }
}
