//! Checkout: a hold becomes a reservation, in one transaction with the money.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::domain::{ConcertName, PaymentView, Reservation, ReservationId, ReservationStatus, SoldSeat};
use super::shown::shown;
use super::store::{self, NewReservation, ReservationRow};
use crate::accounts::UserId;
use crate::booking::holds::domain::{HOLD_EXPIRED, HOLD_PAID};
use crate::booking::holds::store::HoldRow;
use crate::booking::holds::{self, HeldSeat, HoldId, HoldStatus};
use crate::booking::seats::filter::{Change, Hall};
use crate::booking::seats::{self, Filter, News, Settings};
use crate::booking::tickets::TicketKeys;
use crate::catalog::Reader;
use crate::payments::{self, Method, Payment, PaymentStatus, Subject};
use crate::platform::db::{self, Conn, Db};
use crate::platform::error::Problem;
use crate::platform::http::keyed::{Answer, CREATED, RequestKey};
use crate::platform::http::{Page, PageParams};
use crate::platform::idempotency::Idempotency;
use crate::platform::latency::Latencies;
use crate::platform::money::CURRENCY;
use crate::platform::outbox::{self, Wake};
use crate::points;
use crate::queue::pass;

/// The event that a reservation was paid.
pub const CONFIRMED: &str = "reservation.confirmed";

/// Paying, and reading what was paid.
#[derive(Clone, Debug)]
pub struct Checkout {
    pub(super) db: Db,
    pub(super) idempotency: Idempotency,
    pub(super) catalog: Arc<Reader>,
    pub(super) wake: Wake,
    pub(super) filter: Filter,
    pub(super) keys: TicketKeys,
    pub(super) cancel_until: Duration,
    latencies: Latencies,
}

/// What [`Checkout`] is built from.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The database.
    pub db: Db,
    /// Keys of requests.
    pub idempotency: Idempotency,
    /// The catalogue.
    pub catalog: Arc<Reader>,
    /// Hears which seats are sold and free.
    pub filter: Filter,
    /// Who signs tickets.
    pub keys: TicketKeys,
    /// How long holds and payments took lately.
    pub latencies: Latencies,
    /// Wakes the relay.
    pub wake: Wake,
}

struct Paying {
    user: UserId,
    hold: HoldId,
    catalog: Arc<Reader>,
    keys: TicketKeys,
    news: News,
}

impl Checkout {
    /// Over these parts.
    #[must_use]
    pub fn new(parts: Parts, settings: &Settings) -> Self {
        let Parts { db, idempotency, catalog, filter, keys, latencies, wake } = parts;
        let cancel_until = Duration::from_hours(u64::from(settings.cancel_until_hours));
        Self { db, idempotency, catalog, wake, filter, keys, cancel_until, latencies }
    }

    /// Pays a hold with points.
    ///
    /// # Errors
    /// 404 where the user has no such hold, `hold_expired`, `already_paid`, `insufficient_points`, `sale_stopped`, `concert_cancelled`.
    pub async fn pay_with_points(&self, user: UserId, hold: HoldId, key: RequestKey) -> Result<Answer, Problem> {
        let news = News::default();
        let (catalog, keys) = (self.catalog.clone(), self.keys.clone());
        let paying = Paying { user, hold, catalog, keys, news: news.clone() };
        let pay = self.idempotency.once("checkout.pay", user.0, key, paying, |conn, paying| Box::pin(paying.run(conn)));
        let answer = self.latencies.time(pay).await?;
        self.wake.now();
        news.tell(&self.filter).await;
        Ok(answer)
    }

    /// The user's reservation.
    ///
    /// # Errors
    /// 404 where the user has none of that id.
    pub async fn get(&self, user: UserId, id: ReservationId) -> Result<Reservation, Problem> {
        let (row, seats, payments) = self
            .db
            .read("booking.get_reservation", (user, id), |conn, (user, id)| {
                Box::pin(async move {
                    let row = store::find(conn, *user, *id).await?;
                    let row = row.ok_or_else(|| Problem::not_found("reservation"))?;
                    let seats = store::list_seats(conn, &[*id]).await?;
                    let payments = payments::list(conn, &[row.payment_id]).await?;
                    Ok((row, seats, payments))
                })
            })
            .await?;
        self.show(row, &seats, &payments).await
    }

    /// The user's reservations, newest first.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn list(&self, user: UserId, page: PageParams<ReservationId>) -> Result<Page<Reservation>, Problem> {
        let before = page.after.unwrap_or(ReservationId(uuid::Uuid::max()));
        let limit = page.fetch();
        let (rows, seats, payments) = self
            .db
            .read("booking.list_reservations", (user, before, limit), |conn, (user, before, limit)| {
                Box::pin(async move {
                    let rows = store::list(conn, *user, *before, *limit).await?;
                    let ids: Vec<ReservationId> = rows.iter().map(|row| row.id).collect();
                    let paid: Vec<_> = rows.iter().map(|row| row.payment_id).collect();
                    let seats = store::list_seats(conn, &ids).await?;
                    let payments = payments::list(conn, &paid).await?;
                    Ok((rows, seats, payments))
                })
            })
            .await?;
        let mut shown = Vec::with_capacity(rows.len());
        for row in rows {
            shown.push(self.show(row, &seats, &payments).await?);
        }
        Ok(Page::of(shown, &page, |reservation| reservation.id))
    }

    async fn show(
        &self,
        row: ReservationRow,
        seats: &[(ReservationId, SoldSeat)],
        payments: &[Payment],
    ) -> Result<Reservation, Problem> {
        let payment = payments.iter().find(|payment| payment.id == row.payment_id);
        let payment = payment.ok_or_else(|| Problem::internal(anyhow::anyhow!("a reservation without its payment")))?;
        let concert = self.catalog.get_concert(row.concert_id).await?;
        let seats = seats.iter().filter(|(id, _)| *id == row.id).map(|(_, seat)| seat.clone()).collect();
        Ok(shown(&row, concert.title.clone(), seats, payment, &self.keys))
    }
}

impl Paying {
    async fn run(&self, conn: &mut Conn) -> Result<Answer, Problem> {
        let hold = holds::store::find_for_update(conn, self.user, self.hold).await?;
        let hold = hold.ok_or_else(|| Problem::not_found("hold"))?;
        match hold.status() {
            HoldStatus::Held => {}
            HoldStatus::Paid => return Err(Problem::new(&HOLD_PAID)),
            HoldStatus::Released | HoldStatus::Expired => return Err(Problem::new(&HOLD_EXPIRED)),
        }
        pass::refuse_if_stopped(conn, hold.concert_id).await?;
        let concert = self.catalog.get_concert_within(conn, hold.concert_id).await?;
        pass::end_live(conn, hold.concert_id, self.user).await?;
        let payment = payments::PaymentId::new();
        points::ledger::pay(conn, self.user, hold.amount, payment.0).await?;
        let held = holds::store::list_seats(conn, &[self.hold]).await?;
        let held: Vec<HeldSeat> = held.into_iter().map(|(_, seat)| seat).collect();
        let id = ReservationId::new();
        let numbers: Vec<u32> = held.iter().map(|seat| seat.number).collect();
        let sold = seats::store::sell(conn, hold.performance_id, self.hold, id, &numbers).await?;
        if sold != u64::from(hold.seat_count) {
            // The hold may have ended while this waited for a lock, and somebody else has a seat now.
            if db::now(conn).await? >= hold.expires_at {
                return Err(Problem::new(&HOLD_EXPIRED));
            }
            return Err(Problem::internal(anyhow::anyhow!("{sold} of {} held seats could be sold", hold.seat_count)));
        }
        let subject = Subject::Hold(self.hold.0);
        payments::insert_settled(conn, payment, self.user, Method::Points, subject, hold.amount).await?;
        holds::store::mark_paid(conn, self.hold, hold.now_at).await?;
        let reservation = self.reserve(conn, &hold, payment, id, &held, concert.title.clone()).await?;
        if let Some(hall) = Hall::of(&concert, hold.performance_id) {
            self.news.put(hall, Change::Sold(numbers));
        }
        Answer::json(CREATED, &reservation)
    }

    async fn reserve(
        &self,
        conn: &mut Conn,
        hold: &HoldRow,
        payment: payments::PaymentId,
        id: ReservationId,
        held: &[HeldSeat],
        title: String,
    ) -> Result<Reservation, Problem> {
        let new = NewReservation {
            id,
            hold: self.hold,
            user: self.user,
            concert: hold.concert_id,
            performance: hold.performance_id,
            payment,
            seats: held,
            amount: hold.amount,
            now: hold.now_at,
        };
        let seats = store::insert(conn, &new).await?;
        let labels: Vec<&str> = held.iter().map(|seat| seat.id.as_str()).collect();
        let facts = json!({"reservation_id": id, "user_id": self.user, "concert_id": hold.concert_id,
            "performance_id": hold.performance_id, "seat_ids": labels, "amount": hold.amount, "currency": CURRENCY});
        outbox::record(conn, CONFIRMED, id.0, 1, &facts).await?;
        Ok(Reservation {
            id,
            status: ReservationStatus::Confirmed,
            hold_id: self.hold,
            performance_id: hold.performance_id,
            concert: ConcertName { id: hold.concert_id, title },
            seats: self.keys.show(hold.performance_id, seats),
            amount: hold.amount,
            currency: CURRENCY,
            payment: PaymentView { id: payment, method: Method::Points, status: PaymentStatus::Succeeded },
            created_at: hold.now_at,
            paid_at: Some(hold.now_at),
        })
    }
}
