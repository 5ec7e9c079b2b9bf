//! The copy of who has which place.

use crate::accounts::UserId;
use crate::catalog::ConcertId;
use crate::platform::db::{Conn, rows};
use crate::platform::error::Problem;

const INSERT_PLACES: &str = "INSERT INTO queue_places (concert_id, arrival, user_id) VALUES (?, ?, ?)";
const OR_KEEP: &str = " ON DUPLICATE KEY UPDATE arrival = VALUES(arrival)";
const MARK_LEFT: &str = "INSERT INTO queue_places (concert_id, arrival, user_id, has_left) VALUES (?, ?, ?, 1) \
     ON DUPLICATE KEY UPDATE has_left = 1";
const FIND_NEWEST: &str = "SELECT MAX(arrival) FROM queue_places WHERE concert_id = ?";
// Whether it is over as far as these tables know: given up, or its pass has ended.
const FIND_NEWEST_OF: &str = "SELECT p.arrival, (p.has_left = 1 OR (s.id IS NOT NULL \
     AND (s.is_live IS NULL OR s.expires_at <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND))) AS is_over \
     FROM queue_places AS p LEFT JOIN queue_passes AS s ON s.concert_id = p.concert_id AND s.arrival = p.arrival \
     WHERE p.concert_id = ? AND p.user_id = ? ORDER BY p.arrival DESC LIMIT 1";
const LIST_LEFT: &str = "SELECT arrival FROM queue_places WHERE concert_id = ? AND has_left = 1 AND arrival >= ? \
     ORDER BY arrival LIMIT ?";

/// A place to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlaceRow {
    pub concert: ConcertId,
    pub arrival: u64,
    pub user: UserId,
}

/// Copies places; those that are there already stay as they are.
pub(crate) async fn insert_all(conn: &mut Conn, places: &[PlaceRow]) -> Result<(), Problem> {
    if places.is_empty() {
        return Ok(());
    }
    let statement = rows(INSERT_PLACES, places.len()) + OR_KEEP;
    let mut query = sqlx::query(sqlx::AssertSqlSafe(statement));
    for place in places {
        query = query.bind(place.concert).bind(place.arrival).bind(place.user);
    }
    query.execute(conn.sql()).await?;
    Ok(())
}

/// Writes down that a place was given up.
pub(crate) async fn mark_left(conn: &mut Conn, place: &PlaceRow) -> Result<(), Problem> {
    sqlx::query(MARK_LEFT).bind(place.concert).bind(place.arrival).bind(place.user).execute(conn.sql()).await?;
    Ok(())
}

/// The newest place of a user, and whether it is known to be over.
pub(crate) async fn find_newest_of(
    conn: &mut Conn,
    concert: ConcertId,
    user: UserId,
) -> Result<Option<(u64, bool)>, Problem> {
    let offset = conn.offset_micros();
    Ok(sqlx::query_as(FIND_NEWEST_OF).bind(offset).bind(concert).bind(user).fetch_optional(conn.sql()).await?)
}

/// The highest arrival that was copied.
pub(crate) async fn find_newest(conn: &mut Conn, concert: ConcertId) -> Result<Option<u64>, Problem> {
    Ok(sqlx::query_scalar(FIND_NEWEST).bind(concert).fetch_one(conn.sql()).await?)
}

/// Arrivals of places given up, from `from` on, in ascending order.
pub(crate) async fn list_left(
    conn: &mut Conn,
    concert: ConcertId,
    from: u64,
    limit: usize,
) -> Result<Vec<u64>, Problem> {
    Ok(sqlx::query_scalar(LIST_LEFT).bind(concert).bind(from).bind(limit as u64).fetch_all(conn.sql()).await?)
}
