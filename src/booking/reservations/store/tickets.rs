//! Single tickets: found by what is random in their codes, and used up.

use crate::accounts::UserId;
use crate::booking::reservations::domain::ReservationId;
use crate::catalog::PerformanceId;
use crate::platform::clock::Timestamp;
use crate::platform::db::Conn;
use crate::platform::error::Problem;

const FIND: &str = "SELECT reservation_id, seat_no, performance_id, label, grade, ticket_code, is_live IS NOT NULL AS is_live, checked_in_at \
     FROM reservation_seats WHERE ticket_code = ?";
const CHECK_IN: &str = "UPDATE reservation_seats SET checked_in_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, \
     checked_in_by = ? WHERE ticket_code = ? AND is_live = 1 AND (checked_in_at IS NULL OR checked_in_at < ?)";

/// A ticket's row.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct TicketRow {
    /// Its reservation.
    pub reservation_id: ReservationId,
    /// The seat's index in the map.
    pub seat_no: u32,
    /// The performance.
    pub performance_id: PerformanceId,
    /// The seat's label.
    pub label: String,
    /// The seat's grade.
    pub grade: String,
    /// What is random in its code.
    #[sqlx(rename = "ticket_code")]
    pub serial: String,
    /// Whether its reservation was not given back.
    pub is_live: bool,
    /// When it opened a gate.
    pub checked_in_at: Option<Timestamp>,
}

/// The ticket.
///
/// # Errors
/// Where the statement fails.
pub async fn find(conn: &mut Conn, serial: &str) -> Result<Option<TicketRow>, Problem> {
    Ok(sqlx::query_as(FIND).bind(serial).fetch_optional(conn.sql()).await?)
}

/// The ticket, if it is of this reservation of the user's.
///
/// # Errors
/// Where a statement fails.
pub async fn find_of(
    conn: &mut Conn,
    user: UserId,
    reservation: ReservationId,
    serial: &str,
) -> Result<Option<TicketRow>, Problem> {
    if super::find(conn, user, reservation).await?.is_none() {
        return Ok(None);
    }
    Ok(find(conn, serial).await?.filter(|ticket| ticket.reservation_id == reservation))
}

/// Uses the ticket up. False where it is not live, or was used before; what it was used for before its performance was moved, at
/// `postponed_at`, does not count.
///
/// # Errors
/// Where the statement fails.
pub async fn check_in(
    conn: &mut Conn,
    serial: &str,
    operator: UserId,
    postponed_at: Option<Timestamp>,
) -> Result<bool, Problem> {
    let offset = conn.offset_micros();
    let mark = sqlx::query(CHECK_IN).bind(offset).bind(operator).bind(serial).bind(postponed_at);
    Ok(mark.execute(conn.sql()).await?.rows_affected() == 1)
}
