//! Cancellation: the buyer gives a reservation back. The seats are free and the money is back in one transaction.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::checkout::{Checkout, shown};
use super::domain::{NOT_CANCELLABLE, ReservationId, ReservationStatus};
use super::store::{self, ReservationRow};
use crate::accounts::UserId;
use crate::booking::seats::filter::{Change, Hall};
use crate::booking::seats::{self, News};
use crate::catalog::Reader;
use crate::catalog::domain::Concert;
use crate::payments;
use crate::platform::db::{self, Conn};
use crate::platform::error::Problem;
use crate::platform::http::keyed::{Answer, OK, RequestKey};
use crate::platform::money::CURRENCY;
use crate::platform::outbox;
use crate::points;

/// The event that a reservation was given back by its buyer: the second one of every reservation that has it.
const CANCELLED: &str = "reservation.cancelled";

struct Cancelling {
    user: UserId,
    id: ReservationId,
    catalog: Arc<Reader>,
    until: Duration,
    news: News,
}

impl Checkout {
    /// Gives the user's reservation back.
    ///
    /// # Errors
    /// 404 where the user has none of that id, `not_cancellable`.
    pub async fn cancel(&self, user: UserId, id: ReservationId, key: RequestKey) -> Result<Answer, Problem> {
        let news = News::default();
        let (catalog, until) = (self.catalog.clone(), self.cancel_until);
        let cancelling = Cancelling { user, id, catalog, until, news: news.clone() };
        let answer = self
            .idempotency
            .once("booking.cancel", user.0, key, cancelling, |conn, cancelling| Box::pin(cancelling.run(conn)))
            .await?;
        self.wake.now();
        news.tell(&self.filter).await;
        Ok(answer)
    }
}

impl Cancelling {
    async fn run(&self, conn: &mut Conn) -> Result<Answer, Problem> {
        let row = store::find_for_update(conn, self.user, self.id).await?;
        let mut row = row.ok_or_else(|| Problem::not_found("reservation"))?;
        let concert = self.catalog.get_concert_within(conn, row.concert_id).await?;
        self.check(conn, &row, &concert).await?;
        points::ledger::refund(conn, self.user, row.amount, row.payment_id.0).await?;
        let numbers = store::list_seat_numbers(conn, self.id).await?;
        let freed = seats::store::take_back(conn, row.performance_id, self.id, &numbers).await?;
        if freed != numbers.len() as u64 || !payments::mark_refunded(conn, row.payment_id).await? {
            let cause = anyhow::anyhow!("{freed} of {} sold seats were free to give back", numbers.len());
            return Err(Problem::internal(cause));
        }
        store::mark_cancelled(conn, self.id).await?;
        let sold: Vec<_> = store::list_seats(conn, &[self.id]).await?.into_iter().map(|(_, seat)| seat).collect();
        let labels: Vec<&str> = sold.iter().map(|seat| seat.id.as_str()).collect();
        let facts = json!({"reservation_id": self.id, "user_id": self.user, "concert_id": row.concert_id,
            "performance_id": row.performance_id, "seat_ids": labels, "amount": row.amount, "currency": CURRENCY});
        outbox::record(conn, CANCELLED, self.id.0, 2, &facts).await?;
        if let Some(hall) = Hall::of(&concert, row.performance_id) {
            self.news.put(hall, Change::Freed(numbers));
        }
        row.state = ReservationStatus::CANCELLED;
        let payment = payments::list(conn, &[row.payment_id]).await?.pop();
        let payment = payment.ok_or_else(|| Problem::internal(anyhow::anyhow!("a reservation without its payment")))?;
        Answer::json(OK, &shown(&row, concert.title.clone(), sold, &payment))
    }

    async fn check(&self, conn: &mut Conn, row: &ReservationRow, concert: &Concert) -> Result<(), Problem> {
        let performance = concert.performances.iter().find(|one| one.id == row.performance_id);
        let performance = performance.ok_or_else(|| Problem::internal(anyhow::anyhow!("no such performance")))?;
        let is_confirmed = ReservationStatus::of(row.state) == ReservationStatus::Confirmed;
        if !is_confirmed || db::now(conn).await? >= performance.starts_at.minus(self.until) {
            return Err(Problem::new(&NOT_CANCELLABLE));
        }
        Ok(())
    }
}
