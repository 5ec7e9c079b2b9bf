//! The rows of reservations.

use sqlx::AssertSqlSafe;

use super::domain::{ReservationId, ReservationStatus, SoldSeat};
use crate::accounts::UserId;
use crate::booking::holds::{HeldSeat, HoldId};
use crate::catalog::{ConcertId, PerformanceId};
use crate::payments::PaymentId;
use crate::platform::audit::Invariant;
use crate::platform::clock::Timestamp;
use crate::platform::db::{Conn, Script, Slot, Text, in_list};
use crate::platform::error::Problem;
use crate::platform::money::Money;

/// What an earlier attempt to pay the same hold has left is used again; what is decided for good is not touched.
const UPSERT: &str = "INSERT INTO reservations (id, hold_id, user_id, concert_id, performance_id, payment_id, state, \
     seat_count, amount, created_at, paid_at, changed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
     ON DUPLICATE KEY UPDATE payment_id = IF(state IN (0, 2), VALUES(payment_id), payment_id), \
     paid_at = IF(state IN (0, 2), VALUES(paid_at), paid_at), changed_at = IF(state IN (0, 2), VALUES(changed_at), changed_at), \
     state = IF(state IN (0, 2), VALUES(state), state)";
const WITHDRAW: &str = "UPDATE reservations SET state = 2, changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
     WHERE hold_id = ? AND payment_id = ? AND state = 0";
const FIND_BY_HOLD: &str = "SELECT id, hold_id, concert_id, performance_id, payment_id, state, amount, created_at, paid_at \
     FROM reservations WHERE hold_id = ?";
const FIND: &str = "SELECT id, hold_id, concert_id, performance_id, payment_id, state, amount, created_at, paid_at \
     FROM reservations WHERE id = ? AND user_id = ?";
/// Where a buyer has few rows the servers would rather sort them by another index.
const LIST: &str = "SELECT id, hold_id, concert_id, performance_id, payment_id, state, amount, created_at, paid_at \
     FROM reservations FORCE INDEX (by_user) WHERE user_id = ? AND id < ? ORDER BY id DESC LIMIT ?";
const LIST_SEATS: &str = "SELECT reservation_id, seat_no, label, grade, price, ticket_code FROM reservation_seats \
     WHERE reservation_id IN (?) ORDER BY reservation_id, seat_no";
/// A pending one has no seats yet: its hold counts, as long as it lives. By buyer, as the same of holds.
const LIST_LIVE_SEAT_COUNTS: &str = "SELECT user_id, seat_count FROM reservations FORCE INDEX (by_limit) WHERE concert_id = ? AND state = 1 AND user_id IN (?)";

pub mod counts;
pub mod refunds;
pub mod tickets;

/// What must hold of reservations.
pub const INVARIANTS: &[Invariant] = &[
    Invariant {
        name: "reserved_seat_is_sold",
        promise: "every seat of a confirmed reservation is sold to that reservation",
        statement: "SELECT CAST(CONCAT('reservation ', LOWER(HEX(r.id)), ' seat ', rs.label) AS CHAR) \
             FROM reservations AS r JOIN reservation_seats AS rs ON rs.reservation_id = r.id \
             LEFT JOIN seats AS s ON s.performance_id = rs.performance_id AND s.seat_no = rs.seat_no \
             WHERE r.changed_at >= ? AND UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND IS NOT NULL AND r.state = 1 AND (s.reservation_id IS NULL OR s.reservation_id <> r.id OR rs.is_live IS NULL) LIMIT ?",
    },
    Invariant {
        name: "sold_seat_has_reservation",
        promise: "every sold seat belongs to one live reservation (whole database only)",
        statement: "SELECT CAST(CONCAT('performance ', LOWER(HEX(s.performance_id)), ' seat ', s.label) AS CHAR) \
             FROM seats AS s LEFT JOIN reservations AS r ON r.id = s.reservation_id AND r.state = 1 \
             WHERE ? < '1971-01-01' AND UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND IS NOT NULL \
             AND s.reservation_id IS NOT NULL AND r.id IS NULL LIMIT ?",
    },
    Invariant {
        name: "cancelled_reservation_is_undone",
        promise: "a reservation that was given back has no seat any more, and its money has gone back or is owed; nor has one that was not paid",
        statement: "SELECT CAST(CONCAT('reservation ', LOWER(HEX(r.id))) AS CHAR) \
             FROM reservations AS r LEFT JOIN payments AS p ON p.id = r.payment_id \
             WHERE r.changed_at >= ? AND UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND IS NOT NULL AND r.state IN (2, 3) \
             AND (p.state IS NULL OR p.state NOT IN (3, 4) AND NOT (r.state = 2 AND p.state = 2 AND p.method = 1) \
             OR EXISTS (SELECT 1 FROM reservation_seats AS rs WHERE rs.reservation_id = r.id AND rs.is_live = 1) \
             OR EXISTS (SELECT 1 FROM reservation_seats AS rs JOIN seats AS s ON s.performance_id = rs.performance_id \
                 AND s.seat_no = rs.seat_no WHERE rs.reservation_id = r.id AND s.reservation_id = r.id)) LIMIT ?",
    },
    Invariant {
        name: "reservation_matches_its_hold",
        promise: "every reservation has the seats and the amount of its paid hold, and a payment of that amount",
        statement: "SELECT CAST(CONCAT('reservation ', LOWER(HEX(r.id))) AS CHAR) \
             FROM reservations AS r \
             LEFT JOIN holds AS h ON h.id = r.hold_id LEFT JOIN payments AS p ON p.id = r.payment_id \
             WHERE r.changed_at >= ? AND UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND IS NOT NULL AND r.state = 1 AND (h.state IS NULL OR h.state <> 1 OR h.amount <> r.amount OR h.seat_count <> r.seat_count \
             OR p.state IS NULL OR p.state <> 1 OR p.amount <> r.amount \
             OR (SELECT COUNT(*) FROM reservation_seats AS rs WHERE rs.reservation_id = r.id) <> r.seat_count) LIMIT ?",
    },
    Invariant {
        name: "pending_reservation_is_open",
        promise: "a pending reservation has no tickets, and an undecided card payment of its amount",
        statement: "SELECT CAST(CONCAT('reservation ', LOWER(HEX(r.id))) AS CHAR) \
             FROM reservations AS r LEFT JOIN payments AS p ON p.id = r.payment_id \
             WHERE r.changed_at >= ? AND UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND IS NOT NULL AND r.state = 0 \
             AND (p.state IS NULL OR p.state <> 0 OR p.method <> 1 OR p.amount <> r.amount \
             OR EXISTS (SELECT 1 FROM reservation_seats AS rs WHERE rs.reservation_id = r.id)) LIMIT ?",
    },
    Invariant {
        name: "charged_hold_has_tickets",
        promise: "every charged payment of a hold has its confirmed reservation, or the money goes back; none is undecided once the hold is paid",
        statement: "SELECT CAST(CONCAT('payment ', LOWER(HEX(p.id)), ' in state ', p.state) AS CHAR) \
             FROM payments AS p LEFT JOIN holds AS h ON h.id = p.subject_id \
             LEFT JOIN reservations AS r ON r.hold_id = p.subject_id \
             WHERE p.changed_at >= ? AND UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND IS NOT NULL AND p.subject_kind = 0 \
             AND (p.state = 1 AND (r.state IS NULL OR r.state <> 1 OR r.payment_id <> p.id) \
             OR p.state = 0 AND (h.state IS NULL OR h.state = 1)) LIMIT ?",
    },
];

pub(super) mod paying;

/// A reservation's row.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct ReservationRow {
    pub id: ReservationId,
    pub hold_id: HoldId,
    pub concert_id: ConcertId,
    pub performance_id: PerformanceId,
    pub payment_id: PaymentId,
    pub state: u8,
    pub amount: Money,
    pub created_at: Timestamp,
    pub paid_at: Option<Timestamp>,
}

/// What a new reservation's row says.
#[derive(Debug)]
pub(super) struct NewReservation<'a> {
    pub id: ReservationId,
    pub hold: HoldId,
    pub user: UserId,
    pub concert: ConcertId,
    pub performance: PerformanceId,
    pub payment: PaymentId,
    pub seats: &'a [HeldSeat],
    pub amount: Money,
    pub now: Timestamp,
}

/// Writes a reservation in this state, whose seats have no tickets yet. One of the same hold that is pending, or was never paid, becomes this one: it has the
/// same id. Any other stays as it is.
pub(super) async fn upsert(
    conn: &mut Conn,
    new: &NewReservation<'_>,
    status: ReservationStatus,
) -> Result<(), Problem> {
    let is_paid = status == ReservationStatus::Confirmed;
    sqlx::query(UPSERT)
        .bind(new.id)
        .bind(new.hold)
        .bind(new.user)
        .bind(new.concert)
        .bind(new.performance)
        .bind(new.payment)
        .bind(status.number())
        .bind(u32::try_from(new.seats.len()).unwrap_or(u32::MAX))
        .bind(new.amount)
        .bind(new.now)
        .bind(is_paid.then_some(new.now))
        .bind(new.now)
        .execute(conn.sql())
        .await?;
    Ok(())
}

/// Ends a pending reservation whose payment has failed.
pub(super) async fn withdraw(conn: &mut Conn, hold: HoldId, payment: PaymentId) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    sqlx::query(WITHDRAW).bind(offset).bind(hold).bind(payment).execute(conn.sql()).await?;
    Ok(())
}

/// What became of the hold.
pub(super) async fn find_by_hold(conn: &mut Conn, hold: HoldId) -> Result<Option<ReservationRow>, Problem> {
    Ok(sqlx::query_as(FIND_BY_HOLD).bind(hold).fetch_optional(conn.sql()).await?)
}

/// A new ticket for each seat of a reservation that was paid.
pub(super) async fn insert_tickets(conn: &mut Conn, new: &NewReservation<'_>) -> Result<Vec<SoldSeat>, Problem> {
    let sold = paying::tickets(new.seats);
    let tickets: Vec<_> = sold.iter().map(|ticket| (new.id, new.performance, ticket)).collect();
    let mut script = Script::default();
    paying::insert_tickets(&mut script, &tickets);
    script.run(conn).await?;
    Ok(sold)
}

pub(super) async fn find(conn: &mut Conn, user: UserId, id: ReservationId) -> Result<Option<ReservationRow>, Problem> {
    Ok(sqlx::query_as(FIND).bind(id).bind(user).fetch_optional(conn.sql()).await?)
}

pub(super) async fn list(
    conn: &mut Conn,
    user: UserId,
    before: ReservationId,
    limit: u32,
) -> Result<Vec<ReservationRow>, Problem> {
    Ok(sqlx::query_as(LIST).bind(user).bind(before).bind(limit).fetch_all(conn.sql()).await?)
}

#[derive(sqlx::FromRow)]
struct SeatRow {
    reservation_id: ReservationId,
    seat_no: u32,
    label: String,
    grade: String,
    price: Money,
    ticket_code: String,
}

/// The tickets of these reservations, each with its reservation.
pub(super) async fn list_seats(
    conn: &mut Conn,
    ids: &[ReservationId],
) -> Result<Vec<(ReservationId, SoldSeat)>, Problem> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = sqlx::query_as::<_, SeatRow>(AssertSqlSafe(in_list(LIST_SEATS, ids.len())));
    for id in ids {
        query = query.bind(*id);
    }
    let seat = |row: SeatRow| {
        let SeatRow { reservation_id, seat_no: number, label: id, grade, price, ticket_code } = row;
        (reservation_id, SoldSeat { number, id, grade, price, serial: Some(ticket_code) })
    };
    Ok(query.fetch_all(conn.sql()).await?.into_iter().map(seat).collect())
}

/// Asks for the live reservations of these users for the concert, by how many seats each has.
pub fn ask_live_seat_counts(script: &mut Script, concert: ConcertId, users: &[UserId]) -> Slot<(UserId, u32)> {
    let text = Text::new(in_list(LIST_LIVE_SEAT_COUNTS, users.len())).bind(&concert);
    script.add(users.iter().fold(text, Text::bind))
}
