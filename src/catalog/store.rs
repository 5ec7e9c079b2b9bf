//! The SQL of venues, concerts and performances.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use super::changes::Date;
use super::domain::{
    Concert, ConcertId, Grade, Headline, Hours, LiveSale, Order, Performance, PerformanceId, Status, VenueId, VenueName,
};
use super::input::NewVenue;
use super::layout::Section;
use crate::platform::clock::Timestamp;
use crate::platform::db::{Conn, in_list, rows};
use crate::platform::error::Problem;
use crate::platform::money::Money;

const INSERT_VENUE: &str = "INSERT INTO venues (id, name, city, layout, seats_total, created_at) \
     VALUES (?, ?, ?, ?, ?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
const FIND_VENUE: &str = "SELECT id, name, city, layout FROM venues WHERE id = ?";
const INSERT_CONCERT: &str = "INSERT INTO concerts (id, venue_id, title, artist, description, booking_opens_at, \
     booking_closes_at, seat_limit_per_buyer, grades, first_performance_at, price_from, queue_order, lobby_opens_at, \
     draw_commitment, created_at) \
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
const SET_COMMITMENT: &str = "UPDATE concerts SET draw_commitment = ? WHERE id = ?";
const UPDATE_CONCERT: &str = "UPDATE concerts SET title = ?, artist = ?, description = ?, booking_opens_at = ?, \
     booking_closes_at = ?, seat_limit_per_buyer = ? WHERE id = ?";
const INSERT_PERFORMANCES: &str =
    "INSERT INTO performances (id, concert_id, starts_at, seats_total) VALUES (?, ?, ?, ?)";
const FIND_CONCERT_ID_FOR_UPDATE: &str = "SELECT id FROM concerts WHERE id = ? FOR UPDATE";
const FIND_CONCERT: &str = "SELECT c.id, c.title, c.artist, c.venue_id, v.name AS venue_name, v.city, c.booking_opens_at, \
     c.booking_closes_at, c.lobby_opens_at, c.first_performance_at, c.price_from, c.description, c.seat_limit_per_buyer, \
     c.grades, c.queue_order, c.draw_commitment \
     FROM concerts c JOIN venues v ON v.id = c.venue_id WHERE c.id = ?";
const LIST_PERFORMANCES: &str =
    "SELECT id, concert_id, starts_at, seats_total FROM performances WHERE concert_id = ? ORDER BY starts_at, id";
const FIND_CONCERT_OF: &str = "SELECT concert_id FROM performances WHERE id = ?";
const FIND_DATE: &str = "SELECT concert_id, starts_at, postponed_at, postponements FROM performances WHERE id = ?";
const FIND_DATE_FOR_UPDATE: &str =
    "SELECT concert_id, starts_at, postponed_at, postponements FROM performances WHERE id = ? FOR UPDATE";
const POSTPONE: &str = "UPDATE performances SET starts_at = ?, \
     postponed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, postponements = postponements + 1 WHERE id = ?";
const SET_FIRST_PERFORMANCE: &str = "UPDATE concerts SET first_performance_at = \
     (SELECT MIN(p.starts_at) FROM performances AS p WHERE p.concert_id = ?) WHERE id = ?";
const CLOSE_BOOKING: &str = "UPDATE concerts \
     SET booking_closes_at = LEAST(booking_closes_at, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) WHERE id = ?";
const LIST_PERFORMANCE_IDS: &str = "SELECT concert_id, id FROM performances WHERE concert_id IN (?)";
const FIND_SEATING: &str =
    "SELECT v.layout, c.grades FROM concerts c JOIN venues v ON v.id = c.venue_id WHERE c.id = ?";
const LIST_HEADLINES: &str = "SELECT c.id, c.title, c.artist, c.venue_id, v.name AS venue_name, v.city, \
     c.booking_opens_at, c.booking_closes_at, c.lobby_opens_at, c.first_performance_at, c.price_from \
     FROM concerts c JOIN venues v ON v.id = c.venue_id \
     WHERE c.id < ? AND (c.title LIKE ? ESCAPE '!' OR c.artist LIKE ? ESCAPE '!') \
     AND COALESCE(c.lobby_opens_at, c.booking_opens_at) BETWEEN ? AND ? \
     AND c.booking_opens_at BETWEEN ? AND ? AND c.booking_closes_at BETWEEN ? AND ? \
     ORDER BY c.id DESC LIMIT ?";
const LIST_LIVE_SALES: &str = "SELECT id, queue_order, lobby_opens_at, booking_opens_at, booking_closes_at FROM concerts \
     WHERE booking_closes_at > ? AND COALESCE(lobby_opens_at, booking_opens_at) <= ? \
     ORDER BY booking_opens_at DESC, id LIMIT ?";

/// Which concerts a list shows.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    /// Only those of which time alone tells this status.
    pub status: Option<Status>,
    /// Only those whose title or artist contains it.
    pub q: Option<String>,
    /// Only those older than it.
    pub after: Option<ConcertId>,
    /// At most so many.
    pub limit: u32,
    /// The instant at which the status is told.
    pub now: Timestamp,
}

#[derive(FromRow)]
struct HeadlineRow {
    id: ConcertId,
    title: String,
    artist: String,
    venue_id: VenueId,
    venue_name: String,
    city: String,
    booking_opens_at: Timestamp,
    booking_closes_at: Timestamp,
    lobby_opens_at: Option<Timestamp>,
    first_performance_at: Timestamp,
    price_from: Money,
}

impl From<HeadlineRow> for Headline {
    fn from(row: HeadlineRow) -> Self {
        Self {
            id: row.id,
            title: row.title,
            artist: row.artist,
            venue: VenueName { id: row.venue_id, name: row.venue_name, city: row.city },
            hours: Hours {
                lobby_opens_at: row.lobby_opens_at,
                booking_opens_at: row.booking_opens_at,
                booking_closes_at: row.booking_closes_at,
            },
            first_performance_at: row.first_performance_at,
            price_from: row.price_from,
        }
    }
}

#[derive(FromRow)]
struct ConcertRow {
    #[sqlx(flatten)]
    headline: HeadlineRow,
    description: String,
    seat_limit_per_buyer: u32,
    grades: Vec<u8>,
    queue_order: u8,
    draw_commitment: String,
}

#[derive(FromRow)]
struct PerformanceRow {
    id: PerformanceId,
    concert_id: ConcertId,
    starts_at: Timestamp,
    seats_total: u32,
}

impl From<PerformanceRow> for Performance {
    fn from(row: PerformanceRow) -> Self {
        Self { id: row.id, concert_id: row.concert_id, starts_at: row.starts_at, seats_total: row.seats_total }
    }
}

#[derive(FromRow)]
struct LiveSaleRow {
    id: ConcertId,
    queue_order: u8,
    lobby_opens_at: Option<Timestamp>,
    booking_opens_at: Timestamp,
    booking_closes_at: Timestamp,
}

pub(super) async fn insert_venue(
    conn: &mut Conn,
    id: VenueId,
    venue: &NewVenue,
    seats_total: u32,
) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    let layout = serde_json::to_vec(&venue.sections).map_err(Problem::internal)?;
    let insert = sqlx::query(INSERT_VENUE).bind(id).bind(&venue.name).bind(&venue.city).bind(layout);
    insert.bind(seats_total).bind(offset).execute(conn.sql()).await?;
    Ok(())
}

pub(super) async fn find_venue(conn: &mut Conn, id: VenueId) -> Result<Option<(VenueName, Vec<Section>)>, Problem> {
    let found: Option<(VenueId, String, String, Vec<u8>)> =
        sqlx::query_as(FIND_VENUE).bind(id).fetch_optional(conn.sql()).await?;
    let Some((id, name, city, layout)) = found else { return Ok(None) };
    let sections = serde_json::from_slice(&layout).map_err(Problem::internal)?;
    Ok(Some((VenueName { id, name, city }, sections)))
}

pub(super) async fn insert_concert(conn: &mut Conn, concert: &Concert) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    let grades = serde_json::to_vec(&concert.grades).map_err(Problem::internal)?;
    sqlx::query(INSERT_CONCERT)
        .bind(concert.id)
        .bind(concert.venue.id)
        .bind(&concert.title)
        .bind(&concert.artist)
        .bind(&concert.description)
        .bind(concert.booking_opens_at)
        .bind(concert.booking_closes_at)
        .bind(concert.seat_limit_per_buyer)
        .bind(grades)
        .bind(concert.first_performance_at)
        .bind(concert.price_from)
        .bind(concert.queue_order.stored())
        .bind(concert.lobby_opens_at)
        .bind(&concert.draw_commitment)
        .bind(offset)
        .execute(conn.sql())
        .await?;
    Ok(())
}

pub(super) async fn set_commitment(conn: &mut Conn, id: ConcertId, commitment: &str) -> Result<(), Problem> {
    sqlx::query(SET_COMMITMENT).bind(commitment).bind(id).execute(conn.sql()).await?;
    Ok(())
}

/// Writes what a change may touch.
pub(super) async fn update_concert(conn: &mut Conn, concert: &Concert) -> Result<(), Problem> {
    let update = sqlx::query(UPDATE_CONCERT).bind(&concert.title).bind(&concert.artist).bind(&concert.description);
    let update = update.bind(concert.booking_opens_at).bind(concert.booking_closes_at);
    update.bind(concert.seat_limit_per_buyer).bind(concert.id).execute(conn.sql()).await?;
    Ok(())
}

pub(super) async fn insert_performances(conn: &mut Conn, performances: &[Arc<Performance>]) -> Result<(), Problem> {
    let mut insert = sqlx::query(AssertSqlSafe(rows(INSERT_PERFORMANCES, performances.len())));
    for performance in performances {
        insert = insert.bind(performance.id).bind(performance.concert_id);
        insert = insert.bind(performance.starts_at).bind(performance.seats_total);
    }
    insert.execute(conn.sql()).await?;
    Ok(())
}

/// The concert, locked until the transaction ends.
pub(super) async fn find_concert_for_update(conn: &mut Conn, id: ConcertId) -> Result<Option<Concert>, Problem> {
    let locked: Option<ConcertId> =
        sqlx::query_scalar(FIND_CONCERT_ID_FOR_UPDATE).bind(id).fetch_optional(conn.sql()).await?;
    if locked.is_none() {
        return Ok(None);
    }
    find_concert(conn, id).await
}

pub(super) async fn find_concert(conn: &mut Conn, id: ConcertId) -> Result<Option<Concert>, Problem> {
    let found: Option<ConcertRow> = sqlx::query_as(FIND_CONCERT).bind(id).fetch_optional(conn.sql()).await?;
    let Some(row) = found else { return Ok(None) };
    let performances: Vec<PerformanceRow> = sqlx::query_as(LIST_PERFORMANCES).bind(id).fetch_all(conn.sql()).await?;
    let Headline { id, title, artist, venue, hours, first_performance_at, price_from } = row.headline.into();
    Ok(Some(Concert {
        id,
        title,
        artist,
        venue,
        lobby_opens_at: hours.lobby_opens_at,
        booking_opens_at: hours.booking_opens_at,
        booking_closes_at: hours.booking_closes_at,
        first_performance_at,
        price_from,
        description: row.description,
        seat_limit_per_buyer: row.seat_limit_per_buyer,
        grades: serde_json::from_slice(&row.grades).map_err(Problem::internal)?,
        queue_order: Order::from_stored(row.queue_order)?,
        draw_commitment: row.draw_commitment,
        performances: performances.into_iter().map(|row| Arc::new(row.into())).collect(),
    }))
}

/// The concert of a performance.
pub(super) async fn find_concert_of(conn: &mut Conn, id: PerformanceId) -> Result<Option<ConcertId>, Problem> {
    Ok(sqlx::query_scalar(FIND_CONCERT_OF).bind(id).fetch_optional(conn.sql()).await?)
}

type DateRow = (ConcertId, Timestamp, Option<Timestamp>, u32);

fn date_of((concert_id, starts_at, postponed_at, postponements): DateRow) -> Date {
    Date { concert_id, starts_at, postponed_at, postponements }
}

pub(super) async fn find_date(conn: &mut Conn, id: PerformanceId) -> Result<Option<Date>, Problem> {
    let found: Option<DateRow> = sqlx::query_as(FIND_DATE).bind(id).fetch_optional(conn.sql()).await?;
    Ok(found.map(date_of))
}

pub(super) async fn find_date_for_update(conn: &mut Conn, id: PerformanceId) -> Result<Option<Date>, Problem> {
    let found: Option<DateRow> = sqlx::query_as(FIND_DATE_FOR_UPDATE).bind(id).fetch_optional(conn.sql()).await?;
    Ok(found.map(date_of))
}

pub(super) async fn postpone(conn: &mut Conn, id: PerformanceId, starts_at: Timestamp) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    sqlx::query(POSTPONE).bind(starts_at).bind(offset).bind(id).execute(conn.sql()).await?;
    Ok(())
}

pub(super) async fn set_first_performance(conn: &mut Conn, id: ConcertId) -> Result<(), Problem> {
    sqlx::query(SET_FIRST_PERFORMANCE).bind(id).bind(id).execute(conn.sql()).await?;
    Ok(())
}

pub(super) async fn close_booking(conn: &mut Conn, id: ConcertId) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    sqlx::query(CLOSE_BOOKING).bind(offset).bind(id).execute(conn.sql()).await?;
    Ok(())
}

/// The performances of several concerts, in no order.
pub(super) async fn list_performance_ids(
    conn: &mut Conn,
    concerts: &[ConcertId],
) -> Result<Vec<(ConcertId, PerformanceId)>, Problem> {
    if concerts.is_empty() {
        return Ok(Vec::new());
    }
    let mut list = sqlx::query_as(AssertSqlSafe(in_list(LIST_PERFORMANCE_IDS, concerts.len())));
    for id in concerts {
        list = list.bind(*id);
    }
    Ok(list.fetch_all(conn.sql()).await?)
}

/// What a concert's seat map is made of.
pub(super) async fn find_seating(
    conn: &mut Conn,
    id: ConcertId,
) -> Result<Option<(Vec<Section>, Vec<Grade>)>, Problem> {
    let found: Option<(Vec<u8>, Vec<u8>)> = sqlx::query_as(FIND_SEATING).bind(id).fetch_optional(conn.sql()).await?;
    let Some((layout, grades)) = found else { return Ok(None) };
    let layout = serde_json::from_slice(&layout).map_err(Problem::internal)?;
    Ok(Some((layout, serde_json::from_slice(&grades).map_err(Problem::internal)?)))
}

pub(super) async fn list_headlines(conn: &mut Conn, listing: &Listing) -> Result<Vec<Headline>, Problem> {
    let after = listing.after.map_or(Uuid::max(), |ConcertId(id)| id);
    let pattern = pattern(listing.q.as_deref().unwrap_or_default());
    let window = Window::of(listing.status, listing.now);
    let mut list = sqlx::query_as::<_, HeadlineRow>(LIST_HEADLINES).bind(after).bind(&pattern).bind(&pattern);
    for (from, until) in [window.line_opens, window.booking_opens, window.booking_closes] {
        list = list.bind(from).bind(until);
    }
    let found = list.bind(listing.limit).fetch_all(conn.sql()).await?;
    Ok(found.into_iter().map(Headline::from).collect())
}

/// Sales that have not closed at `now` and whose doors open by `by`, the earliest booking first.
pub(super) async fn list_live_sales(
    conn: &mut Conn,
    now: Timestamp,
    by: Timestamp,
    limit: u32,
) -> Result<Vec<LiveSale>, Problem> {
    let list = sqlx::query_as::<_, LiveSaleRow>(LIST_LIVE_SALES).bind(now).bind(by).bind(limit);
    let found = list.fetch_all(conn.sql()).await?;
    let sales = found.into_iter().map(|row| {
        let order = Order::from_stored(row.queue_order)?;
        let LiveSaleRow { lobby_opens_at, booking_opens_at, booking_closes_at, .. } = row;
        Ok(LiveSale { concert_id: row.id, order, hours: Hours { lobby_opens_at, booking_opens_at, booking_closes_at } })
    });
    sales.collect()
}

/// Matches whatever contains `q`, its wildcards taken literally.
fn pattern(q: &str) -> String {
    let mut pattern = String::with_capacity(q.len() + 2);
    pattern.push('%');
    for c in q.chars() {
        if matches!(c, '!' | '%' | '_') {
            pattern.push('!');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

type Span = (Timestamp, Timestamp);

/// A status as spans of time, both ends included, so that one statement serves every status.
#[derive(Debug)]
struct Window {
    line_opens: Span,
    booking_opens: Span,
    booking_closes: Span,
}

impl Window {
    fn of(status: Option<Status>, now: Timestamp) -> Self {
        // What a DATETIME can hold: 1970 to 9999.
        let first = Timestamp::from_millis(0).unwrap_or(now);
        let last = Timestamp::from_millis(253_402_300_799_999).unwrap_or(now);
        let (any, past, future) = ((first, last), (first, now), (now.plus(std::time::Duration::from_micros(1)), last));
        let (line_opens, booking_opens, booking_closes) = match status {
            None => (any, any, any),
            Some(Status::Scheduled) => (future, future, any),
            Some(Status::Lobby) => (past, future, any),
            Some(Status::Open | Status::SoldOut) => (any, past, future),
            Some(Status::Closed) => (any, any, past),
        };
        Self { line_opens, booking_opens, booking_closes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_are_taken_literally() {
        assert_eq!(pattern(""), "%%");
        assert_eq!(pattern("100%_!"), "%100!%!_!!%");
    }

    #[test]
    fn a_window_holds_exactly_the_hours_of_its_status() {
        let at = |secs: i64| Timestamp::from_millis(secs * 1000).unwrap();
        let lobbies = [None, Some(at(10)), Some(at(20))];
        for lobby_opens_at in lobbies {
            let hours = Hours { lobby_opens_at, booking_opens_at: at(20), booking_closes_at: at(30) };
            for now in [9, 10, 15, 20, 29, 30, 31].map(at) {
                for status in [Status::Scheduled, Status::Lobby, Status::Open, Status::Closed] {
                    let window = Window::of(Some(status), now);
                    let within = |(from, until): Span, time| from <= time && time <= until;
                    let is_shown = within(window.line_opens, hours.line_opens_at())
                        && within(window.booking_opens, hours.booking_opens_at)
                        && within(window.booking_closes, hours.booking_closes_at);
                    assert_eq!(is_shown, Status::at(now, &hours) == status, "{status:?} {hours:?} {now}");
                }
            }
        }
    }
}
