//! The rows of many reservations, as the transaction that pays their holds makes them.

use std::collections::HashMap;

use super::super::domain::{ReservationId, SoldSeat, ticket_code};
use crate::accounts::UserId;
use crate::booking::holds::{HeldSeat, HoldId};
use crate::catalog::{ConcertId, PerformanceId};
use crate::payments::PaymentId;
use crate::platform::clock::Timestamp;
use crate::platform::db::{Conn, Text, in_list, parts, rows};
use crate::platform::error::Problem;
use crate::platform::money::Money;

const INSERT: &str = "INSERT INTO reservations (id, hold_id, user_id, concert_id, performance_id, payment_id, state, \
     seat_count, amount, created_at, paid_at, changed_at) VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?)";
const INSERT_SEATS: &str = "INSERT INTO reservation_seats \
     (reservation_id, seat_no, performance_id, label, grade, price, ticket_code, is_live) VALUES (?, ?, ?, ?, ?, ?, ?, 1)";
/// What an earlier payment of the hold left that came to nothing.
const LIST_FAILED: &str = "SELECT hold_id, id FROM reservations WHERE hold_id IN (?) AND state = 2";
const REVIVE: &str = "UPDATE reservations SET state = 1, payment_id = ?, created_at = ?, paid_at = ?, changed_at = ? \
     WHERE id = ? AND state = 2";
/// A reservation and a seat of one as text, in bytes.
const ROW_LEN: usize = 460;
const SEAT_ROW_LEN: usize = 380;

/// What a paid reservation's row says.
#[derive(Debug)]
pub(in crate::booking::reservations) struct NewReservation<'a> {
    pub id: ReservationId,
    /// Whether there is a row already, of a payment that came to nothing.
    pub is_known: bool,
    pub hold: HoldId,
    pub user: UserId,
    pub concert: ConcertId,
    pub performance: PerformanceId,
    pub payment: PaymentId,
    pub seats: &'a [HeldSeat],
    pub amount: Money,
    pub now: Timestamp,
}

/// The reservations of these holds, whose rows are locked, that earlier payments left and that came to nothing.
pub(in crate::booking::reservations) async fn list_failed(
    conn: &mut Conn,
    holds: &[HoldId],
) -> Result<HashMap<HoldId, ReservationId>, Problem> {
    if holds.is_empty() {
        return Ok(HashMap::new());
    }
    let text = Text::new(in_list(LIST_FAILED, holds.len()));
    Ok(holds.iter().fold(text, Text::bind).list::<(HoldId, ReservationId)>(conn).await?.into_iter().collect())
}

/// Writes the reservations with a new ticket for each seat, and gives the tickets of each.
pub(in crate::booking::reservations) async fn insert_all(
    conn: &mut Conn,
    reservations: &[NewReservation<'_>],
) -> Result<Vec<Vec<SoldSeat>>, Problem> {
    let (known, new): (Vec<_>, Vec<_>) = reservations.iter().partition(|one| one.is_known);
    for one in known {
        revive(conn, one).await?;
    }
    for part in parts(&new, |_| ROW_LEN) {
        let text = part.iter().fold(Text::new(rows(INSERT, part.len())), |text, one| {
            let text = text.bind(&one.id).bind(&one.hold).bind(&one.user).bind(&one.concert).bind(&one.performance);
            let text = text.bind(&one.payment).bind(&u32::try_from(one.seats.len()).unwrap_or(u32::MAX));
            text.bind(&one.amount).bind(&one.now).bind(&one.now).bind(&one.now)
        });
        text.execute(conn).await?;
    }
    let sold: Vec<Vec<SoldSeat>> = reservations.iter().map(|one| one.seats.iter().map(ticket).collect()).collect();
    let of_all = reservations.iter().zip(&sold);
    let tickets: Vec<_> = of_all
        .flat_map(|(one, sold)| one.seats.iter().zip(sold).map(move |(seat, ticket)| (one, seat.number, ticket)))
        .collect();
    for part in parts(&tickets, |_| SEAT_ROW_LEN) {
        let text = part.iter().fold(Text::new(rows(INSERT_SEATS, part.len())), |text, (one, number, ticket)| {
            let text = text.bind(&one.id).bind(number).bind(&one.performance).bind(ticket.id.as_str());
            text.bind(ticket.grade.as_str()).bind(&ticket.price).bind(ticket.ticket_code.as_str())
        });
        text.execute(conn).await?;
    }
    Ok(sold)
}

async fn revive(conn: &mut Conn, one: &NewReservation<'_>) -> Result<(), Problem> {
    let text = Text::new(REVIVE).bind(&one.payment).bind(&one.now).bind(&one.now).bind(&one.now).bind(&one.id);
    match text.execute(conn).await? {
        1 => Ok(()),
        found => Err(Problem::internal(anyhow::anyhow!("{found} rows of the reservation {}", one.id))),
    }
}

fn ticket(seat: &HeldSeat) -> SoldSeat {
    SoldSeat { id: seat.id.clone(), grade: seat.grade.clone(), price: seat.price, ticket_code: ticket_code() }
}
