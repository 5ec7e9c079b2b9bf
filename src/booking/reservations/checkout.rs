//! Checkout: a hold becomes a reservation, in one transaction with the money (`paying.rs`), and is read.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::card;
use super::domain::{Reservation, ReservationId, SoldSeat};
use super::paying::{PayHolds, Wanted};
use super::shown::shown;
use super::store::{self, ReservationRow};
use crate::accounts::UserId;
use crate::booking::holds::{self, HoldId};
use crate::booking::seats::{Filter, Settings};
use crate::booking::tickets::TicketKeys;
use crate::catalog::Reader;
use crate::payments::payable::Ask;
use crate::payments::{self, Attempts, Payment, PaymentId, Subject};
use crate::platform::combiner::{Bounds, Combiner};
use crate::platform::config::Secret;
use crate::platform::db::{Conn, Db};
use crate::platform::error::Problem;
use crate::platform::http::keyed::{Answer, RequestKey};
use crate::platform::http::{Page, PageParams};
use crate::platform::idempotency::Idempotency;
use crate::platform::latency::Latencies;
use crate::platform::outbox::Wake;

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
    combiner: Combiner<PayHolds>,
    latencies: Latencies,
    attempts: Attempts,
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
    /// Takes cards.
    pub attempts: Attempts,
}

impl Checkout {
    /// Over these parts.
    #[must_use]
    pub fn new(parts: Parts, settings: &Settings) -> Self {
        let Parts { db, idempotency, catalog, filter, keys, latencies, wake, attempts } = parts;
        let cancel_until = Duration::from_hours(u64::from(settings.cancel_until_hours));
        let bounds = Bounds {
            lanes: settings.pay_lanes,
            batch_max: settings.hold_batch_max,
            waiting_max: settings.hold_waiting_max,
        };
        let work = PayHolds { filter: filter.clone(), wake: wake.clone() };
        let combiner = Combiner::new(db.clone(), work, bounds);
        Self { db, idempotency, catalog, wake, filter, keys, cancel_until, combiner, latencies, attempts }
    }

    /// Pays a hold with points.
    ///
    /// # Errors
    /// 404 where the user has no such hold, `hold_expired`, `already_paid`, `payment_in_progress`, `insufficient_points`,
    /// `sale_stopped`, `concert_cancelled`.
    pub async fn pay_with_points(&self, user: UserId, hold: HoldId, key: RequestKey) -> Result<Answer, Problem> {
        self.latencies.time(self.submit(user, hold, key)).await
    }

    async fn submit(&self, user: UserId, hold: HoldId, key: RequestKey) -> Result<Answer, Problem> {
        let begun = self.idempotency.start(user.0, key)?;
        let turn = self.db.turn_of(user.0).await?;
        let wanted = Wanted {
            user,
            hold,
            id: ReservationId::new(),
            payment: PaymentId::new(),
            catalog: self.catalog.clone(),
            keys: self.keys.clone(),
            begun,
            verdict: Mutex::default(),
            _turn: turn,
        };
        self.combiner.submit_by(user.0, wanted).await
    }

    /// Pays a hold with a card: 201 the reservation, or 202 where it is not decided yet, or came too late.
    ///
    /// # Errors
    /// 404 where the user has no such hold, `hold_expired`, `already_paid`, `sale_stopped`, and those of
    /// [`Attempts::pay`].
    pub async fn pay_with_card(
        &self,
        user: UserId,
        hold: HoldId,
        card_token: Secret,
        key: RequestKey,
    ) -> Result<Answer, Problem> {
        let ask = Ask { user, subject: Subject::Hold(hold.0), amount: None, card_token };
        self.attempts.pay(ask, key).await
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
                    let seats = list_seats(conn, std::slice::from_ref(&row)).await?;
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
                    let paid: Vec<_> = rows.iter().map(|row| row.payment_id).collect();
                    let seats = list_seats(conn, &rows).await?;
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

/// The tickets of these reservations; of those that have none, the seats that they are for.
async fn list_seats(conn: &mut Conn, rows: &[ReservationRow]) -> Result<Vec<(ReservationId, SoldSeat)>, Problem> {
    let ids: Vec<ReservationId> = rows.iter().map(|row| row.id).collect();
    let mut seats = store::list_seats(conn, &ids).await?;
    let bare: Vec<&ReservationRow> = rows.iter().filter(|row| !seats.iter().any(|(id, _)| *id == row.id)).collect();
    let holds: Vec<HoldId> = bare.iter().map(|row| row.hold_id).collect();
    for (hold, seat) in holds::store::list_seats(conn, &holds).await? {
        let owners = bare.iter().filter(|row| row.hold_id == hold);
        seats.extend(
            owners.flat_map(|row| card::unsold(std::slice::from_ref(&seat)).into_iter().map(|seat| (row.id, seat))),
        );
    }
    Ok(seats)
}
