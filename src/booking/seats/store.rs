//! The rows of seats.

use sqlx::AssertSqlSafe;

use crate::booking::holds::HoldId;
use crate::booking::reservations::ReservationId;
use crate::catalog::PerformanceId;
use crate::catalog::seat_map::Seat;
use crate::platform::clock::Timestamp;
use crate::platform::db::{Conn, in_list, rows};
use crate::platform::error::Problem;
use crate::platform::money::Money;

const INSERT: &str = "INSERT INTO seats (performance_id, seat_no, label, grade, price) VALUES (?, ?, ?, ?, ?)";
/// A seat that is held for ever is out of sale.
const LIST_TAKEN: &str = "SELECT seat_no, (reservation_id IS NOT NULL OR held_until >= '9999-01-01') AS is_sold, held_until \
     FROM seats WHERE performance_id = ? AND (reservation_id IS NOT NULL OR held_until > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
const LIST_FOR_UPDATE: &str = "SELECT seat_no, label, grade, price, \
     (reservation_id IS NOT NULL OR (hold_id IS NOT NULL AND held_until > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)) AS is_taken \
     FROM seats WHERE performance_id = ? AND seat_no IN (?) ORDER BY seat_no FOR UPDATE";
const HOLD: &str = "UPDATE seats SET hold_id = ?, held_until = ? WHERE performance_id = ? AND reservation_id IS NULL AND seat_no IN (?)";
const RELEASE: &str =
    "UPDATE seats SET hold_id = NULL, held_until = NULL WHERE performance_id = ? AND hold_id = ? AND seat_no IN (?)";
const SELL: &str = "UPDATE seats SET reservation_id = ?, hold_id = NULL, held_until = NULL \
     WHERE performance_id = ? AND hold_id = ? AND reservation_id IS NULL AND seat_no IN (?)";
const TAKE_BACK: &str =
    "UPDATE seats SET reservation_id = NULL WHERE performance_id = ? AND reservation_id = ? AND seat_no IN (?)";

/// Rows of one INSERT when a performance's seats are made: statements over 16 KiB stall under TLS, where they take two records.
const INSERT_ROWS: usize = 250;

pub(super) async fn insert_all(conn: &mut Conn, performance: PerformanceId, seats: &[Seat]) -> Result<(), Problem> {
    for part in seats.chunks(INSERT_ROWS) {
        let mut query = sqlx::query(AssertSqlSafe(rows(INSERT, part.len())));
        for seat in part {
            query = query.bind(performance).bind(seat.index).bind(&*seat.label).bind(&*seat.grade).bind(seat.price);
        }
        query.persistent(false).execute(conn.sql()).await?;
    }
    Ok(())
}

/// A seat that is not available.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
pub struct TakenSeat {
    /// Its index.
    pub seat_no: u32,
    /// Whether it is sold or out of sale.
    pub is_sold: bool,
    /// When the hold on it ends, where it is not sold.
    pub held_until: Option<Timestamp>,
}

/// Every seat that is not available.
pub(super) async fn list_taken(conn: &mut Conn, performance: PerformanceId) -> Result<Vec<TakenSeat>, Problem> {
    let offset = conn.offset_micros();
    Ok(sqlx::query_as(LIST_TAKEN).bind(performance).bind(offset).fetch_all(conn.sql()).await?)
}

/// A seat, locked.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct LockedSeat {
    /// Its index.
    pub seat_no: u32,
    /// Its id as buyers know it.
    pub label: String,
    /// Its grade.
    pub grade: String,
    /// Its price.
    pub price: Money,
    /// Whether it is sold or held.
    pub is_taken: bool,
}

/// Locks these seats (sorted) and tells what they are.
///
/// # Errors
/// Where the statement fails.
pub async fn list_for_update(
    conn: &mut Conn,
    performance: PerformanceId,
    seats: &[u32],
) -> Result<Vec<LockedSeat>, Problem> {
    let offset = conn.offset_micros();
    let text = in_list(LIST_FOR_UPDATE, seats.len());
    let mut query = sqlx::query_as(AssertSqlSafe(text)).bind(offset).bind(performance);
    for seat in seats {
        query = query.bind(*seat);
    }
    Ok(query.fetch_all(conn.sql()).await?)
}

/// Gives locked, free seats to a hold. Returns how many there were.
///
/// # Errors
/// Where the statement fails.
pub async fn hold(
    conn: &mut Conn,
    performance: PerformanceId,
    hold: HoldId,
    until: Timestamp,
    seats: &[u32],
) -> Result<u64, Problem> {
    let text = in_list(HOLD, seats.len());
    let mut query = sqlx::query(AssertSqlSafe(text)).bind(hold).bind(until).bind(performance);
    for seat in seats {
        query = query.bind(*seat);
    }
    Ok(query.execute(conn.sql()).await?.rows_affected())
}

/// Frees those of the seats that the hold still has.
///
/// # Errors
/// Where the statement fails.
pub async fn release(conn: &mut Conn, performance: PerformanceId, hold: HoldId, seats: &[u32]) -> Result<(), Problem> {
    let text = in_list(RELEASE, seats.len());
    let mut query = sqlx::query(AssertSqlSafe(text)).bind(performance).bind(hold);
    for seat in seats {
        query = query.bind(*seat);
    }
    query.execute(conn.sql()).await?;
    Ok(())
}

/// Sells those of the seats that the hold still has. Returns how many.
///
/// # Errors
/// Where the statement fails.
pub async fn sell(
    conn: &mut Conn,
    performance: PerformanceId,
    hold: HoldId,
    reservation: ReservationId,
    seats: &[u32],
) -> Result<u64, Problem> {
    let text = in_list(SELL, seats.len());
    let mut query = sqlx::query(AssertSqlSafe(text)).bind(reservation).bind(performance).bind(hold);
    for seat in seats {
        query = query.bind(*seat);
    }
    Ok(query.execute(conn.sql()).await?.rows_affected())
}

/// Frees those of the seats that were sold to the reservation. Returns how many.
///
/// # Errors
/// Where the statement fails.
pub async fn take_back(
    conn: &mut Conn,
    performance: PerformanceId,
    reservation: ReservationId,
    seats: &[u32],
) -> Result<u64, Problem> {
    let text = in_list(TAKE_BACK, seats.len());
    let mut query = sqlx::query(AssertSqlSafe(text)).bind(performance).bind(reservation);
    for seat in seats {
        query = query.bind(*seat);
    }
    Ok(query.execute(conn.sql()).await?.rows_affected())
}
