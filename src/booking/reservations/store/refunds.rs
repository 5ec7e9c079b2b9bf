//! Reservations on their way back.

use super::ReservationRow;
use crate::accounts::UserId;
use crate::booking::reservations::domain::ReservationId;
use crate::catalog::ConcertId;
use crate::payments::PaymentId;
use crate::platform::clock::Timestamp;
use crate::platform::db::Conn;
use crate::platform::error::Problem;

const FIND_OF_USER_FOR_UPDATE: &str = "SELECT id, hold_id, concert_id, performance_id, payment_id, state, amount, created_at, paid_at, user_id \
     FROM reservations WHERE id = ? AND user_id = ? FOR UPDATE";
const FIND_FOR_UPDATE: &str = "SELECT id, hold_id, concert_id, performance_id, payment_id, state, amount, created_at, paid_at, user_id \
     FROM reservations WHERE id = ? FOR UPDATE";
/// Whoever has it locked is giving it back.
const FIND_CONFIRMED_FOR_UPDATE: &str = "SELECT id, hold_id, concert_id, performance_id, payment_id, state, amount, created_at, paid_at, user_id \
     FROM reservations WHERE id = ? AND state = 1 FOR UPDATE SKIP LOCKED";
const LIST_CONFIRMED: &str =
    "SELECT id FROM reservations WHERE concert_id = ? AND state = 1 AND id > ? ORDER BY id LIMIT ?";
const COUNT_OPEN: &str = "SELECT COUNT(*), CAST(COALESCE(SUM(state = 0), 0) AS SIGNED) FROM reservations WHERE concert_id = ? AND state IN (0, 1)";
/// The servers would rather merge this index with the primary one, and sort.
const LIST_GIVEN_BACK: &str = "SELECT id, payment_id FROM reservations FORCE INDEX (by_concert) \
     WHERE concert_id = ? AND state = ? AND id > ? ORDER BY id LIMIT ?";
const END: &str = "UPDATE reservations SET state = ?, \
     changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND WHERE id = ?";
const END_TICKETS: &str = "UPDATE reservation_seats SET is_live = NULL WHERE reservation_id = ?";
const END_UNUSED_TICKETS: &str = "UPDATE reservation_seats SET is_live = NULL WHERE reservation_id = ? AND (checked_in_at IS NULL OR checked_in_at < ?)";

/// A reservation's row, and whose it is.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(in crate::booking::reservations) struct OwnedRow {
    #[sqlx(flatten)]
    pub row: ReservationRow,
    pub user_id: UserId,
}

/// The user's reservation, locked.
pub(in crate::booking::reservations) async fn find_of_user_for_update(
    conn: &mut Conn,
    user: UserId,
    id: ReservationId,
) -> Result<Option<OwnedRow>, Problem> {
    Ok(sqlx::query_as(FIND_OF_USER_FOR_UPDATE).bind(id).bind(user).fetch_optional(conn.sql()).await?)
}

/// Anybody's reservation, locked.
pub(in crate::booking::reservations) async fn find_for_update(
    conn: &mut Conn,
    id: ReservationId,
) -> Result<Option<OwnedRow>, Problem> {
    Ok(sqlx::query_as(FIND_FOR_UPDATE).bind(id).fetch_optional(conn.sql()).await?)
}

/// The reservation, locked, if it is confirmed and nobody else has it locked.
pub(in crate::booking::reservations) async fn find_confirmed_for_update(
    conn: &mut Conn,
    id: ReservationId,
) -> Result<Option<OwnedRow>, Problem> {
    Ok(sqlx::query_as(FIND_CONFIRMED_FOR_UPDATE).bind(id).fetch_optional(conn.sql()).await?)
}

/// Ends the tickets of a locked reservation, used or not. Returns how many ended.
pub(in crate::booking::reservations) async fn end_tickets(conn: &mut Conn, id: ReservationId) -> Result<u64, Problem> {
    Ok(sqlx::query(END_TICKETS).bind(id).execute(conn.sql()).await?.rows_affected())
}

/// Ends those tickets of a locked reservation that were not used since its performance was last moved, at `postponed_at`.
/// Returns how many ended.
pub(in crate::booking::reservations) async fn end_unused_tickets(
    conn: &mut Conn,
    id: ReservationId,
    postponed_at: Option<Timestamp>,
) -> Result<u64, Problem> {
    Ok(sqlx::query(END_UNUSED_TICKETS).bind(id).bind(postponed_at).execute(conn.sql()).await?.rows_affected())
}

/// Ends a locked reservation in this state.
pub(in crate::booking::reservations) async fn end(
    conn: &mut Conn,
    id: ReservationId,
    state: u8,
) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    sqlx::query(END).bind(state).bind(offset).bind(id).execute(conn.sql()).await?;
    Ok(())
}

/// The concert's confirmed reservations after this one, by their ids: at most `limit`.
///
/// # Errors
/// Where the statement fails.
pub async fn list_confirmed(
    conn: &mut Conn,
    concert: ConcertId,
    after: ReservationId,
    limit: u32,
) -> Result<Vec<ReservationId>, Problem> {
    Ok(sqlx::query_scalar(LIST_CONFIRMED).bind(concert).bind(after).bind(limit).fetch_all(conn.sql()).await?)
}

/// The concert's reservations in this state after this one, by their ids, each with its payment: at most `limit`.
///
/// # Errors
/// Where the statement fails.
pub async fn list_given_back(
    conn: &mut Conn,
    concert: ConcertId,
    state: u8,
    after: ReservationId,
    limit: u32,
) -> Result<Vec<(ReservationId, PaymentId)>, Problem> {
    let list = sqlx::query_as(LIST_GIVEN_BACK).bind(concert).bind(state).bind(after).bind(limit);
    Ok(list.fetch_all(conn.sql()).await?)
}

/// Reservations of the concert that were not given back.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    /// All of them.
    pub all: u64,
    /// Those among them whose payment is not decided.
    pub pending: u64,
}

/// Counts them.
///
/// # Errors
/// Where the statement fails.
pub async fn count_open(conn: &mut Conn, concert: ConcertId) -> Result<Open, Problem> {
    let (all, pending): (i64, i64) = sqlx::query_as(COUNT_OPEN).bind(concert).fetch_one(conn.sql()).await?;
    Ok(Open { all: all.unsigned_abs(), pending: pending.unsigned_abs() })
}
