//! One payment of a round, once its points are taken: the rows and the answer that it becomes.

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::Wanted;
use crate::booking::holds::HeldSeat;
use crate::booking::holds::store::HoldRow;
use crate::booking::reservations::domain::{
    ConcertName, PaymentView, Reservation, ReservationId, ReservationStatus, SoldSeat,
};
use crate::booking::reservations::store::paying::NewReservation;
use crate::booking::seats::store::Sale;
use crate::catalog::domain::Concert;
use crate::payments::{Method, PaymentStatus, Settled, Subject};
use crate::platform::money::CURRENCY;

/// A payment whose points are taken.
pub(super) struct Paid {
    /// Its place in the batch.
    pub at: usize,
    pub one: Arc<Wanted>,
    pub id: ReservationId,
    /// Whether an earlier payment, which came to nothing, left a reservation.
    pub is_known: bool,
    pub hold: HoldRow,
    pub concert: Arc<Concert>,
    pub seats: Vec<HeldSeat>,
    pub tickets: Vec<SoldSeat>,
}

impl Paid {
    pub fn sales(&self) -> impl Iterator<Item = Sale> {
        let (performance, hold, reservation) = (self.hold.performance_id, self.hold.id, self.id);
        self.seats.iter().map(move |seat| Sale { performance, seat: seat.number, hold, reservation })
    }

    pub fn settled(&self) -> Settled {
        let subject = Subject::Hold(self.hold.id.0);
        let (id, user) = (self.one.payment, self.one.user);
        Settled { id, user, method: Method::Points, subject, amount: self.hold.amount }
    }

    pub fn row(&self) -> NewReservation<'_> {
        NewReservation {
            id: self.id,
            is_known: self.is_known,
            hold: self.hold.id,
            user: self.one.user,
            concert: self.hold.concert_id,
            performance: self.hold.performance_id,
            payment: self.one.payment,
            seats: &self.seats,
            tickets: &self.tickets,
            amount: self.hold.amount,
            now: self.hold.now_at,
        }
    }

    pub fn event(&self) -> (Uuid, Value) {
        let labels: Vec<&str> = self.seats.iter().map(|seat| seat.id.as_str()).collect();
        let facts = json!({"reservation_id": self.id, "user_id": self.one.user, "concert_id": self.hold.concert_id,
            "performance_id": self.hold.performance_id, "seat_ids": labels, "amount": self.hold.amount, "currency": CURRENCY});
        (self.id.0, facts)
    }

    pub fn reservation(&self) -> Reservation {
        Reservation {
            id: self.id,
            status: ReservationStatus::Confirmed,
            hold_id: self.hold.id,
            performance_id: self.hold.performance_id,
            concert: ConcertName { id: self.hold.concert_id, title: self.concert.title.clone() },
            seats: self.one.keys.show(self.hold.performance_id, self.tickets.clone()),
            amount: self.hold.amount,
            currency: CURRENCY,
            payment: PaymentView { id: self.one.payment, method: Method::Points, status: PaymentStatus::Succeeded },
            created_at: self.hold.now_at,
            paid_at: Some(self.hold.now_at),
        }
    }
}
