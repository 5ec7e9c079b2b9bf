//! Cancellation: the buyer gives a reservation back. The seats are free and the money is back, or owed to the card, in one
//! transaction.

use std::sync::Arc;
use std::time::Duration;

use super::checkout::Checkout;
use super::domain::{NOT_CANCELLABLE, ReservationId, ReservationStatus};
use super::refunds::{By, undo};
use super::store;
use super::store::ReservationRow;
use crate::accounts::UserId;
use crate::booking::holds;
use crate::booking::seats::News;
use crate::booking::tickets::TicketKeys;
use crate::catalog::Reader;
use crate::catalog::changes::{self, Date};
use crate::platform::clock::Timestamp;
use crate::platform::db::{self, Conn};
use crate::platform::error::Problem;
use crate::platform::http::keyed::{Answer, OK, RequestKey};

/// Pages that were read before a move, and instances that had not heard of it, may have shown the old date for so long.
const SHOWN_EVERYWHERE: Duration = Duration::from_secs(30);

struct Cancelling {
    user: UserId,
    id: ReservationId,
    catalog: Arc<Reader>,
    keys: TicketKeys,
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
        let (catalog, keys, until) = (self.catalog.clone(), self.keys.clone(), self.cancel_until);
        let cancelling = Cancelling { user, id, catalog, keys, until, news: news.clone() };
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
        let owned = store::refunds::find_of_user_for_update(conn, self.user, self.id).await?;
        let owned = owned.ok_or_else(|| Problem::not_found("reservation"))?;
        let concert = self.catalog.get_concert_within(conn, owned.row.concert_id).await?;
        let date = self.check(conn, &owned.row).await?;
        let undone = undo(conn, owned, By::Buyer { postponed_at: date.postponed_at }).await?;
        undone.tell(&concert, &self.news);
        Answer::json(OK, &undone.shown(&concert, &self.keys))
    }

    /// The date that the reservation is good for, where it can still be given back.
    async fn check(&self, conn: &mut Conn, row: &ReservationRow) -> Result<Date, Problem> {
        let is_confirmed = ReservationStatus::of(row.state) == ReservationStatus::Confirmed;
        // Read here, not from memory: another instance may have moved the date a moment ago.
        let date = changes::find_date(conn, row.performance_id).await?;
        let date = date.ok_or_else(|| Problem::internal(anyhow::anyhow!("no such performance")))?;
        let chosen_at = match date.postponed_at {
            None => None,
            Some(_) => holds::store::closing::find_made_at(conn, row.hold_id).await?,
        };
        let deadline = deadline(date.starts_at, date.postponed_at, chosen_at, self.until);
        if !is_confirmed || db::now(conn).await? >= deadline {
            return Err(Problem::new(&NOT_CANCELLABLE));
        }
        Ok(date)
    }
}

/// Until when a reservation can be given back: some time before its performance; or until it begins, if it was moved after the
/// buyer had chosen seats for another date, whenever those were paid.
fn deadline(
    starts_at: Timestamp,
    postponed_at: Option<Timestamp>,
    chosen_at: Option<Timestamp>,
    until: Duration,
) -> Timestamp {
    let moved = postponed_at.zip(chosen_at);
    let is_for_another_date = moved.is_some_and(|(postponed, chosen)| chosen <= postponed.plus(SHOWN_EVERYWHERE));
    if is_for_another_date { starts_at } else { starts_at.minus(until) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_chose_another_date_may_cancel_until_the_new_one() {
        let secs = |secs: i64| Timestamp::from_millis(secs * 1000).unwrap();
        let until = Duration::from_hours(24);
        let (starts_at, day_before) = (secs(360_000), secs(360_000 - 86_400));
        let cases = [
            (None, Some(100), day_before),
            (Some(200), Some(100), starts_at),
            (Some(200), Some(230), starts_at),
            (Some(200), Some(231), day_before),
            (Some(200), None, day_before),
        ];
        for (postponed, chosen, expected) in cases {
            let found = deadline(starts_at, postponed.map(secs), chosen.map(secs), until);
            assert_eq!(found, expected, "{postponed:?} {chosen:?}");
        }
    }
}
