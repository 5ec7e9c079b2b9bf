//! The rows of many reservations, as the transaction that pays their holds makes them.

use super::super::domain::{ReservationId, SoldSeat, ticket_serial};
use crate::accounts::UserId;
use crate::booking::holds::{HeldSeat, HoldId};
use crate::catalog::{ConcertId, PerformanceId};
use crate::payments::PaymentId;
use crate::platform::clock::Timestamp;
use crate::platform::db::{Script, Slot, Text, in_list, parts, rows};
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
    /// Of the seats, in the same order.
    pub tickets: &'a [SoldSeat],
    pub amount: Money,
    pub now: Timestamp,
}

/// Asks for the reservations that earlier payments of these holds left, and that came to nothing.
pub(in crate::booking::reservations) fn ask_failed(
    script: &mut Script,
    holds: &[HoldId],
) -> Slot<(HoldId, ReservationId)> {
    script.add(holds.iter().fold(Text::new(in_list(LIST_FAILED, holds.len())), Text::bind))
}

/// Writes paid reservations with their tickets; of those that are known, as many as are found.
pub(in crate::booking::reservations) fn insert_all(
    script: &mut Script,
    reservations: &[NewReservation<'_>],
) -> Slot<()> {
    let (known, new): (Vec<_>, Vec<_>) = reservations.iter().partition(|one| one.is_known);
    let revived = script.add_all(known.into_iter().map(revive));
    let texts = parts(&new, |_| ROW_LEN).map(|part| {
        part.iter().fold(Text::new(rows(INSERT, part.len())), |text, one| {
            let text = text.bind(&one.id).bind(&one.hold).bind(&one.user).bind(&one.concert).bind(&one.performance);
            let text = text.bind(&one.payment).bind(&u32::try_from(one.seats.len()).unwrap_or(u32::MAX));
            text.bind(&one.amount).bind(&one.now).bind(&one.now).bind(&one.now)
        })
    });
    let _: Slot<()> = script.add_all(texts);
    let tickets: Vec<_> = reservations
        .iter()
        .flat_map(|one| one.tickets.iter().map(move |ticket| (one.id, one.performance, ticket)))
        .collect();
    insert_tickets(script, &tickets);
    revived
}

/// A ticket of a reservation.
pub(in crate::booking::reservations) type Ticket<'a> = (ReservationId, PerformanceId, &'a SoldSeat);

/// Writes tickets.
pub(in crate::booking::reservations) fn insert_tickets(script: &mut Script, tickets: &[Ticket<'_>]) {
    let texts = parts(tickets, |_| SEAT_ROW_LEN).map(|part| {
        part.iter().fold(Text::new(rows(INSERT_SEATS, part.len())), |text, (id, performance, ticket)| {
            let text = text.bind(id).bind(&ticket.number).bind(performance).bind(ticket.id.as_str());
            let serial = ticket.serial.as_deref().unwrap_or_default();
            text.bind(ticket.grade.as_str()).bind(&ticket.price).bind(serial)
        })
    });
    let _: Slot<()> = script.add_all(texts);
}

fn revive(one: &NewReservation<'_>) -> Text {
    Text::new(REVIVE).bind(&one.payment).bind(&one.now).bind(&one.now).bind(&one.now).bind(&one.id)
}

/// A new ticket for each seat.
pub(in crate::booking::reservations) fn tickets(seats: &[HeldSeat]) -> Vec<SoldSeat> {
    let ticket = |seat: &HeldSeat| SoldSeat {
        number: seat.number,
        id: seat.id.clone(),
        grade: seat.grade.clone(),
        price: seat.price,
        serial: Some(ticket_serial()),
    };
    seats.iter().map(ticket).collect()
}
