//! Anybody's hold, for when nothing is sold any more.

use super::HoldRow;
use crate::booking::holds::HoldId;
use crate::platform::clock::Timestamp;
use crate::platform::db::Conn;
use crate::platform::error::Problem;

const FIND_FOR_UPDATE: &str = "SELECT id, concert_id, performance_id, state, amount, seat_count, expires_at, \
     UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND AS now_at FROM holds WHERE id = ? FOR UPDATE";

const FIND_MADE_AT: &str = "SELECT created_at FROM holds WHERE id = ?";

/// The hold, locked.
pub(in crate::booking::holds) async fn find_for_update(
    conn: &mut Conn,
    hold: HoldId,
) -> Result<Option<HoldRow>, Problem> {
    let offset = conn.offset_micros();
    Ok(sqlx::query_as(FIND_FOR_UPDATE).bind(offset).bind(hold).fetch_optional(conn.sql()).await?)
}

/// When the hold was made; none where it was forgotten.
///
/// # Errors
/// Where the statement fails.
pub async fn find_made_at(conn: &mut Conn, hold: HoldId) -> Result<Option<Timestamp>, Problem> {
    Ok(sqlx::query_scalar(FIND_MADE_AT).bind(hold).fetch_optional(conn.sql()).await?)
}
