//! A reservation as its buyer sees it. Pure.

use super::domain::{ConcertName, PaymentView, Reservation, ReservationStatus, SoldSeat};
use super::store::ReservationRow;
use crate::booking::tickets::TicketKeys;
use crate::payments::Payment;
use crate::platform::money::CURRENCY;

/// A reservation as its buyer sees it.
pub(super) fn shown(
    row: &ReservationRow,
    title: String,
    seats: Vec<SoldSeat>,
    payment: &Payment,
    keys: &TicketKeys,
) -> Reservation {
    Reservation {
        id: row.id,
        status: ReservationStatus::of(row.state),
        hold_id: row.hold_id,
        performance_id: row.performance_id,
        concert: ConcertName { id: row.concert_id, title },
        seats: keys.show(row.performance_id, seats),
        amount: row.amount,
        currency: CURRENCY,
        payment: PaymentView { id: payment.id, method: payment.method, status: payment.status },
        created_at: row.created_at,
        paid_at: row.paid_at,
    }
}
