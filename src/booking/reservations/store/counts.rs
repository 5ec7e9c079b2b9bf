//! Reservations, counted.

use crate::catalog::ConcertId;
use crate::platform::db::Conn;
use crate::platform::error::Problem;
use crate::platform::money::Money;

const COUNT_BY_STATE: &str = "SELECT state, COUNT(*) AS reservations, CAST(COALESCE(SUM(seat_count), 0) AS SIGNED) AS seats, \
     CAST(COALESCE(SUM(amount), 0) AS SIGNED) AS amount, \
     CAST(COALESCE(SUM(IF(paid_at IS NULL, 0, amount)), 0) AS SIGNED) AS paid \
     FROM reservations FORCE INDEX (by_concert) WHERE concert_id = ? GROUP BY state";

/// The reservations of one state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many.
    pub reservations: u64,
    /// Their seats.
    pub seats: u64,
    /// Their price, in won.
    pub amount: Money,
    /// The price of those that were paid, in won.
    pub paid: Money,
}

/// The reservations of a concert by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the state of its name")]
pub struct StateCounts {
    pub pending: Counts,
    pub confirmed: Counts,
    pub cancelled: Counts,
    pub refunded: Counts,
}

#[derive(sqlx::FromRow)]
struct Row {
    state: u8,
    reservations: i64,
    seats: i64,
    amount: Money,
    paid: Money,
}

/// Counts them.
///
/// # Errors
/// Where the statement fails.
pub async fn count_by_state(conn: &mut Conn, concert: ConcertId) -> Result<StateCounts, Problem> {
    let rows: Vec<Row> = sqlx::query_as(COUNT_BY_STATE).bind(concert).fetch_all(conn.sql()).await?;
    let mut states = StateCounts::default();
    for Row { state, reservations, seats, amount, paid } in rows {
        let (reservations, seats) = (reservations.unsigned_abs(), seats.unsigned_abs());
        let place = match state {
            0 => &mut states.pending,
            1 => &mut states.confirmed,
            2 => &mut states.cancelled,
            _ => &mut states.refunded,
        };
        *place = Counts { reservations, seats, amount, paid };
    }
    Ok(states)
}
