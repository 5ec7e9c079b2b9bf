//! Anybody's hold, for when nothing is sold any more.

use super::HoldRow;
use crate::booking::holds::HoldId;
use crate::platform::db::Conn;
use crate::platform::error::Problem;

const FIND_FOR_UPDATE: &str = "SELECT id, concert_id, performance_id, state, amount, seat_count, expires_at, \
     UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND AS now_at FROM holds WHERE id = ? FOR UPDATE";

/// The hold, locked.
pub(in crate::booking::holds) async fn find_for_update(
    conn: &mut Conn,
    hold: HoldId,
) -> Result<Option<HoldRow>, Problem> {
    let offset = conn.offset_micros();
    Ok(sqlx::query_as(FIND_FOR_UPDATE).bind(offset).bind(hold).fetch_optional(conn.sql()).await?)
}
