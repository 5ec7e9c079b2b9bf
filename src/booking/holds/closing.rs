//! Ending anybody's hold: its concert is cancelled, and nobody can pay it any more.

use super::domain::{HoldId, HoldStatus};
use super::store;
use crate::booking::seats;
use crate::platform::db::Conn;
use crate::platform::error::Problem;

/// Ends a hold before its time, if it is live, and frees its seats.
///
/// # Errors
/// Where a statement fails.
pub async fn end_if_live(conn: &mut Conn, hold: HoldId) -> Result<(), Problem> {
    let Some(row) = store::closing::find_for_update(conn, hold).await? else { return Ok(()) };
    if row.status() != HoldStatus::Held {
        return Ok(());
    }
    let held = store::list_seats(conn, &[hold]).await?;
    let numbers: Vec<u32> = held.iter().map(|(_, seat)| seat.number).collect();
    seats::store::release(conn, row.performance_id, hold, &numbers).await?;
    store::mark_released(conn, hold, row.now_at).await
}
