//! Holds, counted.

use serde::Serialize;

use crate::catalog::ConcertId;
use crate::platform::db::Conn;
use crate::platform::error::Problem;
use crate::platform::money::Money;

/// Found by their ends, since whatever still lives is little beside what a concert has had.
const COUNT_LIVE: &str = "SELECT COUNT(*) AS live, CAST(COALESCE(SUM(seat_count), 0) AS SIGNED) AS seats, \
     CAST(COALESCE(SUM(amount), 0) AS SIGNED) AS amount FROM holds FORCE INDEX (by_end) \
     WHERE concert_id = ? AND state = 0 AND expires_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND";

/// Holds of a concert that can still be paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct HoldCounts {
    /// How many.
    pub live: i64,
    /// Their seats.
    pub seats: i64,
    /// What they come to, in won.
    pub amount: Money,
}

/// Counts them.
///
/// # Errors
/// Where the statement fails.
pub async fn count_live(conn: &mut Conn, concert: ConcertId) -> Result<HoldCounts, Problem> {
    let offset = conn.offset_micros();
    Ok(sqlx::query_as(COUNT_LIVE).bind(concert).bind(offset).fetch_one(conn.sql()).await?)
}
