//! Giving a reservation back: its tickets are void, its seats free, and its money on the way to where it came from, in one
//! transaction. By the buyer, by an operator, or because the concert is cancelled: what is undone is the same.
//!
//! Points are back at once. What was paid by card is owed from the commit on, and the provider is asked afterwards, by the
//! payments' own recovery.

use std::sync::Arc;

use serde_json::json;

use super::checkout::Checkout;
use super::domain::{NOT_CANCELLABLE, NOT_REFUNDABLE, Reservation, ReservationId, ReservationStatus, SoldSeat};
use super::shown::shown;
use super::store;
use super::store::refunds::OwnedRow;
use crate::accounts::{UserId, actions};
use crate::booking::seats::filter::{Change, Hall};
use crate::booking::seats::{self, News};
use crate::booking::tickets::TicketKeys;
use crate::catalog::Reader;
use crate::catalog::domain::Concert;
use crate::payments::{self, Method, Payment};
use crate::platform::clock::Timestamp;
use crate::platform::db::Conn;
use crate::platform::error::Problem;
use crate::platform::http::keyed::{Answer, OK, RequestKey};
use crate::platform::money::{CURRENCY, Money};
use crate::platform::outbox;
use crate::points;

/// The event that a reservation was given back by its buyer: the second one of every reservation that has it.
const CANCELLED: &str = "reservation.cancelled";
/// The event that the house gave a reservation back: the second one as well, since a reservation is given back once.
const REFUNDED: &str = "reservation.refunded";

/// Who gives a reservation back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// Its buyer, who cannot have used it: for this date, if its performance was moved.
    Buyer {
        /// When the performance was last moved. What opened a gate before that did so for another date.
        postponed_at: Option<Timestamp>,
    },
    /// The house, whatever became of it.
    House,
}

impl By {
    const fn state(self) -> u8 {
        match self {
            Self::Buyer { .. } => ReservationStatus::CANCELLED,
            Self::House => ReservationStatus::REFUNDED,
        }
    }

    const fn topic(self) -> &'static str {
        match self {
            Self::Buyer { .. } => CANCELLED,
            Self::House => REFUNDED,
        }
    }
}

/// A reservation that was given back.
pub(super) struct Undone {
    owned: OwnedRow,
    seats: Vec<SoldSeat>,
    payment: Payment,
}

impl Undone {
    /// As its buyer sees it.
    pub fn shown(self, concert: &Concert, keys: &TicketKeys) -> Reservation {
        shown(&self.owned.row, concert.title.clone(), self.seats, &self.payment, keys)
    }

    /// What the filter is told after the commit.
    pub fn tell(&self, concert: &Concert, news: &News) {
        if let Some(hall) = Hall::of(concert, self.owned.row.performance_id) {
            news.put(hall, Change::Freed(self.seats.iter().map(|seat| seat.number).collect()));
        }
    }
}

/// Gives a confirmed reservation back, whose row is locked.
///
/// # Errors
/// `not_cancellable` where its buyer has used a ticket of it.
pub(super) async fn undo(conn: &mut Conn, mut owned: OwnedRow, by: By) -> Result<Undone, Problem> {
    let (id, user) = (owned.row.id, owned.user_id);
    let sold: Vec<SoldSeat> = store::list_seats(conn, &[id]).await?.into_iter().map(|(_, seat)| seat).collect();
    let ended = match by {
        By::House => store::refunds::end_tickets(conn, id).await?,
        By::Buyer { postponed_at } => store::refunds::end_unused_tickets(conn, id, postponed_at).await?,
    };
    if ended != sold.len() as u64 {
        // Of a locked, confirmed reservation every ticket is live, but one that has opened a gate stays so.
        return Err(Problem::new(&NOT_CANCELLABLE).detail("A ticket of this reservation was used."));
    }
    give_money_back(conn, &owned).await?;
    let numbers: Vec<u32> = sold.iter().map(|seat| seat.number).collect();
    let freed = seats::store::take_back(conn, owned.row.performance_id, id, &numbers).await?;
    if freed != ended {
        return Err(broken(&format!("{freed} of {ended} sold seats were free to give back")));
    }
    store::refunds::end(conn, id, by.state()).await?;
    owned.row.state = by.state();
    let labels: Vec<&str> = sold.iter().map(|seat| seat.id.as_str()).collect();
    let row = &owned.row;
    let facts = json!({"reservation_id": id, "user_id": user, "concert_id": row.concert_id,
        "performance_id": row.performance_id, "seat_ids": labels, "amount": row.amount, "currency": CURRENCY});
    outbox::record(conn, by.topic(), id.0, 2, &facts).await?;
    let payment = find_payment(conn, &owned).await?;
    Ok(Undone { owned, seats: sold, payment })
}

async fn give_money_back(conn: &mut Conn, owned: &OwnedRow) -> Result<(), Problem> {
    let payment = owned.row.payment_id;
    let is_owed = match find_payment(conn, owned).await?.method {
        Method::Points => {
            points::ledger::refund(conn, owned.user_id, owned.row.amount, payment.0).await?;
            payments::mark_refunded(conn, payment).await?
        }
        Method::Card => payments::owe_refund(conn, payment).await?,
    };
    if is_owed { Ok(()) } else { Err(broken("a confirmed reservation whose payment has not succeeded")) }
}

async fn find_payment(conn: &mut Conn, owned: &OwnedRow) -> Result<Payment, Problem> {
    let payment = payments::list(conn, &[owned.row.payment_id]).await?.pop();
    payment.ok_or_else(|| broken("a reservation without its payment"))
}

fn broken(what: &str) -> Problem {
    Problem::internal(anyhow::anyhow!("{what}"))
}

fn is_confirmed(owned: &OwnedRow) -> bool {
    ReservationStatus::of(owned.row.state) == ReservationStatus::Confirmed
}

/// Gives a reservation back because its concert is cancelled, if it is still confirmed. What it cost, or nothing where there was
/// nothing to do, or somebody else is doing it.
///
/// # Errors
/// Where a statement fails.
pub async fn refund_if_confirmed(conn: &mut Conn, id: ReservationId) -> Result<Option<Money>, Problem> {
    let Some(owned) = store::refunds::find_confirmed_for_update(conn, id).await? else { return Ok(None) };
    let amount = owned.row.amount;
    undo(conn, owned, By::House).await?;
    Ok(Some(amount))
}

struct Refunding {
    operator: UserId,
    id: ReservationId,
    catalog: Arc<Reader>,
    keys: TicketKeys,
    news: News,
}

impl Checkout {
    /// Gives anybody's confirmed reservation back: an operator's decision, at any time.
    ///
    /// # Errors
    /// 404, `not_refundable`.
    pub async fn refund(&self, operator: UserId, id: ReservationId, key: RequestKey) -> Result<Answer, Problem> {
        let news = News::default();
        let (catalog, keys) = (self.catalog.clone(), self.keys.clone());
        let refunding = Refunding { operator, id, catalog, keys, news: news.clone() };
        let answer = self
            .idempotency
            .once("booking.refund", operator.0, key, refunding, |conn, refunding| Box::pin(refunding.run(conn)))
            .await?;
        self.wake.now();
        news.tell(&self.filter).await;
        Ok(answer)
    }
}

impl Refunding {
    async fn run(&self, conn: &mut Conn) -> Result<Answer, Problem> {
        let owned = store::refunds::find_for_update(conn, self.id).await?;
        let owned = owned.ok_or_else(|| Problem::not_found("reservation"))?;
        if !is_confirmed(&owned) {
            return Err(Problem::new(&NOT_REFUNDABLE));
        }
        let concert = self.catalog.get_concert_within(conn, owned.row.concert_id).await?;
        let details = json!({"reservation_id": self.id, "amount": owned.row.amount,
            "before": {"status": "confirmed"}, "after": {"status": "refunded"}});
        let undone = undo(conn, owned, By::House).await?;
        actions::record(conn, self.operator, "reservation.refunded", Some(concert.id), &details).await?;
        undone.tell(&concert, &self.news);
        Answer::json(OK, &undone.shown(&concert, &self.keys))
    }
}
