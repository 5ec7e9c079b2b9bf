//! The rows of cancelled concerts.

use std::time::Duration;

use crate::accounts::UserId;
use crate::catalog::ConcertId;
use crate::platform::clock::Timestamp;
use crate::platform::db::Conn;
use crate::platform::error::Problem;
use crate::platform::money::Money;

const INSERT: &str = "INSERT INTO concert_cancellations (concert_id, operator_id, requested_at) \
     VALUES (?, ?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
const FIND: &str = "SELECT concert_id, state, done, refunded_amount, requested_at, finished_at \
     FROM concert_cancellations WHERE concert_id = ?";
const LIST_RUNNING: &str = "SELECT concert_id, requested_at, requested_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND AS may_have_holds \
     FROM concert_cancellations WHERE state = 0 AND requested_at >= ? AND (requested_at > ? OR concert_id > ?) \
     ORDER BY requested_at, concert_id LIMIT ?";
const COUNT_REFUND: &str =
    "UPDATE concert_cancellations SET done = done + 1, refunded_amount = refunded_amount + ? WHERE concert_id = ?";
const FINISH: &str = "UPDATE concert_cancellations SET state = 1, finished_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
     WHERE concert_id = ? AND state = 0 AND requested_at <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND";

/// A cancellation's row.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct CancellationRow {
    pub concert_id: ConcertId,
    pub state: u8,
    pub done: u32,
    pub refunded_amount: Money,
    pub requested_at: Timestamp,
    pub finished_at: Option<Timestamp>,
}

pub(super) async fn insert(conn: &mut Conn, concert: ConcertId, operator: UserId) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    sqlx::query(INSERT).bind(concert).bind(operator).bind(offset).execute(conn.sql()).await?;
    Ok(())
}

pub(super) async fn find(conn: &mut Conn, concert: ConcertId) -> Result<Option<CancellationRow>, Problem> {
    Ok(sqlx::query_as(FIND).bind(concert).fetch_optional(conn.sql()).await?)
}

/// Where a cancellation stands among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct Place {
    pub requested_at: Timestamp,
    pub concert_id: ConcertId,
}

/// A concert whose money is still given back.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
pub(super) struct Running {
    #[sqlx(flatten)]
    pub place: Place,
    /// Whether it was cancelled so lately that holds of it may still live.
    pub may_have_holds: bool,
}

/// Concerts after that place whose money is still given back, the oldest cancellation first. Holds of one that was cancelled so
/// long ago have ended.
pub(super) async fn list_running(
    conn: &mut Conn,
    holds_end_after: Duration,
    after: Place,
    limit: u32,
) -> Result<Vec<Running>, Problem> {
    let since = conn.offset_micros().saturating_sub(micros(holds_end_after));
    let Place { requested_at, concert_id } = after;
    let list = sqlx::query_as(LIST_RUNNING).bind(since).bind(requested_at).bind(requested_at).bind(concert_id);
    Ok(list.bind(limit).fetch_all(conn.sql()).await?)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// Counts one that was given back in this transaction.
pub(super) async fn count_refund(conn: &mut Conn, concert: ConcertId, amount: Money) -> Result<(), Problem> {
    sqlx::query(COUNT_REFUND).bind(amount).bind(concert).execute(conn.sql()).await?;
    Ok(())
}

/// Ends a running cancellation that is at least so old.
pub(super) async fn finish(conn: &mut Conn, concert: ConcertId, age: Duration) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    let finish = sqlx::query(FINISH).bind(offset).bind(concert).bind(offset.saturating_sub(micros(age)));
    finish.execute(conn.sql()).await?;
    Ok(())
}
