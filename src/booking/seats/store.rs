//! The rows of seats.

use sqlx::AssertSqlSafe;

use super::blocks::BlockId;
use crate::booking::holds::HoldId;
use crate::booking::reservations::ReservationId;
use crate::catalog::PerformanceId;
use crate::catalog::seat_map::Seat;
use crate::platform::audit::Invariant;
use crate::platform::clock::Timestamp;
use crate::platform::db::{Conn, Script, Slot, Text, derived, in_list, parts, rows};
use crate::platform::error::Problem;

const INSERT: &str = "INSERT INTO seats (performance_id, seat_no, label, grade, price) VALUES (?, ?, ?, ?, ?)";
/// A seat that is held for ever is out of sale.
const LIST_TAKEN: &str = "SELECT seat_no, (reservation_id IS NOT NULL OR held_until >= '9999-01-01') AS is_sold, held_until \
     FROM seats WHERE performance_id = ? AND (reservation_id IS NOT NULL OR held_until > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
const LIST_TAKEN_AMONG: &str = "SELECT seat_no, (reservation_id IS NOT NULL OR held_until >= '9999-01-01') AS is_sold, held_until \
     FROM seats WHERE performance_id = ? AND (reservation_id IS NOT NULL OR held_until > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) AND seat_no IN (?)";
const LIST_FREE_FOR_UPDATE: &str = "SELECT seat_no FROM seats WHERE performance_id = ? AND reservation_id IS NULL \
     AND (hold_id IS NULL OR held_until <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) AND seat_no IN (?) ORDER BY seat_no FOR UPDATE";
/// What somebody is at is passed by.
const LIST_UNLOCKED_FREE_FOR_UPDATE: &str = "SELECT seat_no FROM seats WHERE performance_id = ? AND reservation_id IS NULL \
     AND (hold_id IS NULL OR held_until <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) AND seat_no IN (?) ORDER BY seat_no FOR UPDATE SKIP LOCKED";
/// An UPDATE with a join cannot make a seat, as an upsert could.
const HOLD: &str = "UPDATE seats AS s JOIN (SELECT ? AS seat_no, ? AS hold_id, ? AS held_until) AS h ON h.seat_no = s.seat_no \
     SET s.hold_id = h.hold_id, s.held_until = h.held_until WHERE s.performance_id = ? AND s.reservation_id IS NULL";
/// A seat of that statement as text, in bytes.
const HOLD_ROW_LEN: usize = 120;
const RELEASE: &str =
    "UPDATE seats SET hold_id = NULL, held_until = NULL WHERE performance_id = ? AND hold_id = ? AND seat_no IN (?)";
const SELL: &str = "UPDATE seats SET reservation_id = ?, hold_id = NULL, held_until = NULL \
     WHERE performance_id = ? AND hold_id = ? AND held_until > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
     AND reservation_id IS NULL AND seat_no IN (?)";
/// The same for many, joined from the list's side, so that rows are locked in its order.
const SELL_ALL: &str = "UPDATE (SELECT ? AS performance_id, ? AS seat_no, ? AS hold_id, ? AS reservation_id) AS w \
     STRAIGHT_JOIN seats AS s ON s.performance_id = w.performance_id AND s.seat_no = w.seat_no \
     SET s.reservation_id = w.reservation_id, s.hold_id = NULL, s.held_until = NULL \
     WHERE s.hold_id = w.hold_id AND s.held_until > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND AND s.reservation_id IS NULL";
/// A seat of that statement as text, in bytes.
const SELL_ROW_LEN: usize = 160;
const SELL_FREE: &str = "UPDATE seats SET reservation_id = ?, hold_id = NULL, held_until = NULL \
     WHERE performance_id = ? AND reservation_id IS NULL \
     AND (hold_id IS NULL OR held_until <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) AND seat_no IN (?)";
const LIST_LIVE_HOLDS: &str = "SELECT hold_id FROM seats WHERE performance_id = ? AND hold_id IS NOT NULL \
     AND held_until > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND AND held_until < '9999-01-01' LIMIT ?";
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

/// Those of the seats that are taken.
///
/// # Errors
/// Where the statement fails.
pub async fn list_taken_among(
    conn: &mut Conn,
    performance: PerformanceId,
    seats: &[u32],
) -> Result<Vec<TakenSeat>, Problem> {
    let offset = conn.offset_micros();
    let statement = in_list(LIST_TAKEN_AMONG, seats.len());
    let query = sqlx::query_as(AssertSqlSafe(statement)).bind(performance).bind(offset);
    let query = seats.iter().fold(query, |query, seat| query.bind(*seat));
    Ok(query.fetch_all(conn.sql()).await?)
}

/// Asks for those of the seats (sorted) that can be held, and locks them.
pub fn ask_free_for_update(
    script: &mut Script,
    offset_micros: i64,
    performance: PerformanceId,
    seats: &[u32],
) -> Slot<(u32,)> {
    let text = Text::new(in_list(LIST_FREE_FOR_UPDATE, seats.len())).bind(&performance).bind(&offset_micros);
    script.add(seats.iter().fold(text, Text::bind))
}

/// The same of those that nobody else has locked: it waits for nobody.
pub fn ask_unlocked_free_for_update(
    script: &mut Script,
    offset_micros: i64,
    performance: PerformanceId,
    seats: &[u32],
) -> Slot<(u32,)> {
    let text = Text::new(in_list(LIST_UNLOCKED_FREE_FOR_UPDATE, seats.len())).bind(&performance).bind(&offset_micros);
    script.add(seats.iter().fold(text, Text::bind))
}

/// Asks for those of the seats that are taken.
pub fn ask_taken_among(
    script: &mut Script,
    offset_micros: i64,
    performance: PerformanceId,
    seats: &[u32],
) -> Slot<TakenSeat> {
    let text = Text::new(in_list(LIST_TAKEN_AMONG, seats.len())).bind(&performance).bind(&offset_micros);
    script.add(seats.iter().fold(text, Text::bind))
}

/// Gives locked, free seats to holds, each until its end.
pub fn hold(script: &mut Script, performance: PerformanceId, seats: &[(u32, HoldId, Timestamp)]) -> Slot<()> {
    let texts = parts(seats, |_| HOLD_ROW_LEN).map(|part| {
        let text = part.iter().fold(Text::new(derived(HOLD, part.len())), |text, (seat, hold, until)| {
            text.bind(seat).bind(hold).bind(until)
        });
        text.bind(&performance)
    });
    script.add_all(texts)
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

/// Sells those of the seats that the hold still has: it must not have ended while its payment waited for a lock, as whoever
/// counts the buyer's seats meanwhile leaves it out. Returns how many.
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
    let offset = conn.offset_micros();
    let text = in_list(SELL, seats.len());
    let mut query = sqlx::query(AssertSqlSafe(text)).bind(reservation).bind(performance).bind(hold).bind(offset);
    for seat in seats {
        query = query.bind(*seat);
    }
    Ok(query.execute(conn.sql()).await?.rows_affected())
}

/// Sells locked, free seats, which nobody holds any more. Returns how many.
///
/// # Errors
/// Where the statement fails.
pub async fn sell_free(
    conn: &mut Conn,
    performance: PerformanceId,
    reservation: ReservationId,
    seats: &[u32],
) -> Result<u64, Problem> {
    let text = Text::new(in_list(SELL_FREE, seats.len())).bind(&reservation).bind(&performance);
    seats.iter().fold(text.bind(&conn.offset_micros()), Text::bind).execute(conn).await
}

/// A seat of a hold that becomes a reservation's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sale {
    /// The performance.
    pub performance: PerformanceId,
    /// The seat's number.
    pub seat: u32,
    /// Who has it.
    pub hold: HoldId,
    /// Who gets it.
    pub reservation: ReservationId,
}

/// Sells those of the seats (sorted) that their holds still have, as [`sell`] does for one: as many as are found.
pub fn sell_all(script: &mut Script, offset_micros: i64, sales: &[Sale]) -> Slot<()> {
    let texts = parts(sales, |_| SELL_ROW_LEN).map(|part| {
        let text = part.iter().fold(Text::new(derived(SELL_ALL, part.len())), |text, sale| {
            text.bind(&sale.performance).bind(&sale.seat).bind(&sale.hold).bind(&sale.reservation)
        });
        text.bind(&offset_micros)
    });
    script.add_all(texts)
}

/// The holds that have seats of the performance now, as `limit` of these seats tell them.
///
/// # Errors
/// Where the statement fails.
pub async fn list_live_holds(conn: &mut Conn, performance: PerformanceId, limit: u32) -> Result<Vec<HoldId>, Problem> {
    let list = sqlx::query_scalar(LIST_LIVE_HOLDS).bind(performance).bind(conn.offset_micros()).bind(limit);
    let mut found: Vec<HoldId> = list.fetch_all(conn.sql()).await?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
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

/// Nothing holds a seat past that year but a block.
const LIST_FREE_OR_BLOCKED_FOR_UPDATE: &str = "SELECT seat_no, (held_until IS NOT NULL AND held_until >= '9999-01-01') AS is_blocked \
     FROM seats WHERE performance_id = ? AND reservation_id IS NULL \
     AND (hold_id IS NULL OR held_until >= '9999-01-01' OR held_until <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) \
     AND seat_no IN (?) ORDER BY seat_no FOR UPDATE";
const BLOCK: &str = "UPDATE seats SET hold_id = ?, held_until = '9999-12-31 23:59:59' \
     WHERE performance_id = ? AND reservation_id IS NULL \
     AND (hold_id IS NULL OR held_until <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) AND seat_no IN (?)";
const UNBLOCK: &str = "UPDATE seats SET hold_id = NULL, held_until = NULL \
     WHERE performance_id = ? AND reservation_id IS NULL AND held_until >= '9999-01-01' AND seat_no IN (?)";
/// A seat's number in a list as text, in bytes.
const NUMBER_LEN: usize = 12;

/// What must hold of seats.
pub const INVARIANTS: &[Invariant] = &[Invariant {
    name: "held_seat_has_hold",
    promise: "every held seat has a live hold that ends with it, or none and no end where it is blocked (whole database only)",
    statement: "SELECT CAST(CONCAT('performance ', LOWER(HEX(s.performance_id)), ' seat ', s.label) AS CHAR) \
         FROM seats AS s LEFT JOIN holds AS h ON h.id = s.hold_id \
         WHERE ? < '1971-01-01' AND s.held_until > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
         AND NOT (h.id IS NULL AND s.hold_id IS NOT NULL AND s.held_until = '9999-12-31 23:59:59') \
         AND NOT (h.id IS NOT NULL AND h.state = 0 AND h.performance_id = s.performance_id AND h.expires_at = s.held_until) LIMIT ?",
}];

/// Those of the seats (sorted) that can be blocked or are, in the same order and locked, each with whether it is blocked.
pub(super) async fn list_free_or_blocked_for_update(
    conn: &mut Conn,
    performance: PerformanceId,
    seats: &[u32],
) -> Result<Vec<(u32, bool)>, Problem> {
    let mut found = Vec::with_capacity(seats.len());
    for part in parts(seats, |_| NUMBER_LEN) {
        let text = Text::new(in_list(LIST_FREE_OR_BLOCKED_FOR_UPDATE, part.len()));
        let text = text.bind(&performance).bind(&conn.offset_micros());
        let rows: Vec<(u32, bool)> = part.iter().fold(text, Text::bind).list(conn).await?;
        found.extend(rows);
    }
    Ok(found)
}

/// Takes locked, free seats out of sale, as a block of this id. Returns how many there were.
pub(super) async fn block(
    conn: &mut Conn,
    performance: PerformanceId,
    block: BlockId,
    seats: &[u32],
) -> Result<u64, Problem> {
    let mut blocked = 0;
    for part in parts(seats, |_| NUMBER_LEN) {
        let text = Text::new(in_list(BLOCK, part.len())).bind(&block).bind(&performance).bind(&conn.offset_micros());
        blocked += part.iter().fold(text, Text::bind).execute(conn).await?;
    }
    Ok(blocked)
}

/// Frees those of the seats that are blocked. Returns how many there were.
pub(super) async fn unblock(conn: &mut Conn, performance: PerformanceId, seats: &[u32]) -> Result<u64, Problem> {
    let mut freed = 0;
    for part in parts(seats, |_| NUMBER_LEN) {
        let text = Text::new(in_list(UNBLOCK, part.len())).bind(&performance);
        freed += part.iter().fold(text, Text::bind).execute(conn).await?;
    }
    Ok(freed)
}
