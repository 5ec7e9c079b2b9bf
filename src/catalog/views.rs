//! What visitors are shown: the bodies of the catalogue's answers, made from the domain. Pure.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::domain::{Concert, ConcertId, Headline, Order, Performance, PerformanceId, Status, VenueId, VenueName};
use super::seat_map::{MapSection, SeatMap};
use crate::platform::clock::Timestamp;
use crate::platform::money::{CURRENCY, Money};

/// A concert as lists show it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct ConcertItem {
    /// The concert.
    pub id: ConcertId,
    /// Its title.
    pub title: String,
    /// Who plays.
    pub artist: String,
    /// Where.
    pub venue: VenueName,
    /// Where its sale is.
    pub status: Status,
    /// When booking opens.
    pub booking_opens_at: Timestamp,
    /// When booking ends.
    pub booking_closes_at: Timestamp,
    /// The earliest performance.
    pub first_performance_at: Timestamp,
    /// The cheapest grade.
    pub price_from: Money,
    /// Of every price.
    pub currency: &'static str,
}

impl ConcertItem {
    /// The item of a concert whose status is known.
    #[must_use]
    pub fn of(headline: Headline, status: Status) -> Self {
        Self {
            id: headline.id,
            title: headline.title,
            artist: headline.artist,
            venue: headline.venue,
            status,
            booking_opens_at: headline.hours.booking_opens_at,
            booking_closes_at: headline.hours.booking_closes_at,
            first_performance_at: headline.first_performance_at,
            price_from: headline.price_from,
            currency: CURRENCY,
        }
    }
}

/// A price level.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct GradeView {
    /// Unique within the concert.
    pub code: String,
    /// What buyers read.
    pub name: String,
    /// Of one seat.
    pub price: Money,
}

/// The line of a concert, as far as it was announced.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ConcertQueue)]
pub struct QueueView {
    /// Who comes first.
    pub order: Order,
    /// When the lobby opens, where there is one.
    pub lobby_opens_at: Option<Timestamp>,
    /// Hex SHA-256 of the draw's seed.
    pub commitment: String,
}

/// A performance and what is left of it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct PerformanceView {
    /// The performance.
    pub id: PerformanceId,
    /// When it begins.
    pub starts_at: Timestamp,
    /// Seats in its map.
    pub seats_total: u32,
    /// Neither sold nor held.
    pub seats_available: u32,
}

impl PerformanceView {
    /// The view of a performance of which this many seats are left.
    #[must_use]
    pub const fn of(performance: &Performance, seats_available: u32) -> Self {
        let Performance { id, starts_at, seats_total, .. } = *performance;
        Self { id, starts_at, seats_total, seats_available }
    }
}

/// A performance with its concert.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct PerformanceDetail {
    /// The performance.
    #[serde(flatten)]
    pub performance: PerformanceView,
    /// Its concert.
    pub concert: ConcertItem,
}

/// A concert with all that belongs to it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct ConcertDetail {
    /// What lists show.
    #[serde(flatten)]
    pub item: ConcertItem,
    /// For whoever opens the concert's page.
    pub description: String,
    /// Live holds and reservations of one buyer, over all performances.
    pub seat_limit_per_buyer: u32,
    /// Prices.
    pub grades: Vec<GradeView>,
    /// The evenings, by their start.
    pub performances: Vec<PerformanceView>,
    /// The line.
    pub queue: QueueView,
}

impl ConcertDetail {
    /// The detail of a concert whose status and seats left are known.
    #[must_use]
    pub fn of(concert: &Concert, status: Status, performances: Vec<PerformanceView>) -> Self {
        let grades = concert.grades.iter();
        let grades =
            grades.map(|grade| GradeView { code: grade.code.clone(), name: grade.name.clone(), price: grade.price });
        Self {
            item: ConcertItem::of(concert.headline(), status),
            description: concert.description.clone(),
            seat_limit_per_buyer: concert.seat_limit_per_buyer,
            grades: grades.collect(),
            performances,
            queue: QueueView {
                order: concert.queue_order,
                lobby_opens_at: concert.lobby_opens_at,
                commitment: concert.draw_commitment.clone(),
            },
        }
    }
}

/// A venue, after it was created.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct VenueView {
    /// The venue.
    pub id: VenueId,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub city: String,
    /// Seats and standing places in its layout.
    pub seats_total: u32,
}

/// The fixed layout of a performance.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SeatMapView<'a> {
    /// The performance.
    pub performance_id: PerformanceId,
    /// The sections, in the order in which seats are counted.
    pub sections: Vec<SectionView<'a>>,
}

/// A section of the map.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SectionView<'a> {
    /// Unique within the map.
    pub code: &'a str,
    /// What buyers read.
    pub name: &'a str,
    /// The code of its grade.
    pub grade: &'a str,
    /// Its rows, from the stage backwards; a standing area is one row.
    pub rows: Vec<RowView<'a>>,
}

/// A row of the map.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct RowView<'a> {
    /// Unique within the section.
    pub name: &'a str,
    /// Its seats, by number.
    pub seats: Vec<MapSeatView<'a>>,
}

/// A seat of the map.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct MapSeatView<'a> {
    /// Unique within the map, such as `101-A-12`.
    pub id: &'a str,
    /// Its place in the map, from 0: its bit in the availability.
    pub index: u32,
    /// Its number in the row.
    pub number: u32,
    /// Units from the left, ten from seat to seat.
    pub x: u32,
    /// Units from the front, ten from row to row.
    pub y: u32,
}

impl<'a> SeatMapView<'a> {
    /// The view of a performance's map.
    #[must_use]
    pub fn of(performance_id: PerformanceId, map: &'a SeatMap) -> Self {
        Self { performance_id, sections: map.sections().iter().map(|section| section_view(map, section)).collect() }
    }
}

/// A seat map's body, which owns what it shows.
#[derive(Debug)]
pub struct SeatMapBody {
    /// The performance.
    pub id: PerformanceId,
    /// Its map.
    pub map: Arc<SeatMap>,
}

impl Serialize for SeatMapBody {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        SeatMapView::of(self.id, &self.map).serialize(serializer)
    }
}

fn section_view<'a>(map: &'a SeatMap, section: &'a MapSection) -> SectionView<'a> {
    let rows = section.rows.iter().map(|row| {
        let seats = map.row_seats(row).iter();
        let seats = seats.map(|seat| MapSeatView {
            id: &seat.label,
            index: seat.index,
            number: seat.number,
            x: seat.x,
            y: seat.y,
        });
        RowView { name: &row.name, seats: seats.collect() }
    });
    SectionView { code: &section.code, name: &section.name, grade: &section.grade, rows: rows.collect() }
}
