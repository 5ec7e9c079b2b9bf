//! Holds that are paid by card: what payments must know of them.
//!
//! The provider takes its time, and a hold goes on ending by the clock. So when the money has come, the hold may be over. Then
//! the buyer gets the same seats all the same, if all of them are free, the sale goes on, and the buyer's limit allows it; else
//! the money goes back. The reservation says which, under the id that it had while it was pending.

use std::sync::Arc;

use serde_json::json;

use super::checkout::CONFIRMED;
use super::domain::{ReservationId, ReservationStatus, SoldSeat};
use super::shown::shown;
use super::store::{self, NewReservation, ReservationRow};
use crate::accounts::UserId;
use crate::booking::holds::domain::{HOLD_EXPIRED, HOLD_PAID};
use crate::booking::holds::store::HoldRow;
use crate::booking::holds::{self, HeldSeat, HoldId, HoldStatus};
use crate::booking::seats::filter::{Change, Filter, Hall};
use crate::booking::seats::{self, News};
use crate::booking::tickets::TicketKeys;
use crate::catalog::Reader;
use crate::catalog::domain::Concert;
use crate::payments::domain::PAYMENT_METHOD_UNAVAILABLE;
use crate::payments::payable::{After, Ask, Attempt, Delivery, Payable, Step, Told};
use crate::payments::{Method, Payment, PaymentStatus, Subject};
use crate::platform::db::{self, Conn, Script};
use crate::platform::error::Problem;
use crate::platform::http::keyed::{ACCEPTED, Answer, CREATED};
use crate::platform::money::{CURRENCY, Money};
use crate::platform::outbox;
use crate::points;
use crate::queue::pass;

/// The event that a payment came too late, and goes back: the only one of a reservation that was never confirmed.
pub const REFUNDED: &str = "reservation.refunded";

/// Why the money goes back.
const TOO_LATE: &str = "too_late";
const PAID_OTHERWISE: &str = "paid_otherwise";

/// Holds that are paid by card.
#[derive(Clone, Debug)]
pub struct HoldsByCard {
    catalog: Arc<Reader>,
    filter: Filter,
    keys: TicketKeys,
}

impl Payable for HoldsByCard {
    fn quote<'c>(&'c self, conn: &'c mut Conn, ask: &'c Ask) -> Step<'c, Result<Money, Problem>> {
        Box::pin(async move {
            let hold = holds::store::find_for_update(conn, ask.user, hold_of(ask.subject)?).await?;
            let Some(hold) = hold else { return Ok(Err(Problem::not_found("hold"))) };
            let refusal = match hold.status() {
                HoldStatus::Paid => Some(Problem::new(&HOLD_PAID)),
                HoldStatus::Released | HoldStatus::Expired => Some(Problem::new(&HOLD_EXPIRED)),
                HoldStatus::Held if hold.amount == Money::ZERO => {
                    Some(Problem::new(&PAYMENT_METHOD_UNAVAILABLE).detail("It costs nothing: pay with points."))
                }
                HoldStatus::Held => pass::find_halt(conn, hold.concert_id).await?.refusal(),
            };
            Ok(refusal.map_or(Ok(hold.amount), Err))
        })
    }

    fn lock<'c>(&'c self, conn: &'c mut Conn, attempt: &'c Attempt) -> Step<'c, ()> {
        Box::pin(async move { get_hold(conn, attempt).await.map(drop) })
    }

    fn deliver<'c>(&'c self, conn: &'c mut Conn, attempt: &'c Attempt) -> Step<'c, Delivery> {
        Box::pin(async move {
            points::ledger::card_paid(conn, attempt.amount, attempt.id.0).await?;
            let late = Late::of(self, conn, attempt).await?;
            if late.hold.status() == HoldStatus::Paid {
                let answer = late.other(conn).await?;
                return Ok(Delivery::Impossible(PAID_OTHERWISE, Told::only(answer)));
            }
            // The stay inside ends with the payment; that of a late one may be for other seats by now.
            // A sale that was stopped after the card was asked for goes on for those who have paid; one that is cancelled does not.
            let is_off = pass::find_halt(conn, late.hold.concert_id).await?.is_cancelled;
            let is_in_time = !is_off && late.hold.status() == HoldStatus::Held && late.sell_held(conn).await?;
            if is_in_time || late.sell_again(conn).await? {
                let (answer, after) = late.confirm(conn, &self.filter).await?;
                return Ok(Delivery::Delivered(Told { answer, after }));
            }
            Ok(Delivery::Impossible(TOO_LATE, Told::only(late.give_up(conn).await?)))
        })
    }

    fn pend<'c>(&'c self, conn: &'c mut Conn, attempt: &'c Attempt) -> Step<'c, Answer> {
        Box::pin(async move {
            let pending = Late::of(self, conn, attempt).await?;
            let row = pending.write(conn, ReservationStatus::Pending).await?;
            pending.answer(&row, unsold(&pending.held), PaymentStatus::Pending)
        })
    }

    fn withdraw<'c>(&'c self, conn: &'c mut Conn, attempt: &'c Attempt) -> Step<'c, ()> {
        Box::pin(async move { store::withdraw(conn, hold_of(attempt.subject)?, attempt.id).await })
    }

    fn refunded<'c>(&'c self, conn: &'c mut Conn, attempt: &'c Attempt) -> Step<'c, ()> {
        Box::pin(points::ledger::card_refunded(conn, attempt.amount, attempt.id.0))
    }
}

impl HoldsByCard {
    /// Holds of this catalogue; the filter hears what is sold.
    #[must_use]
    pub const fn new(catalog: Arc<Reader>, filter: Filter, keys: TicketKeys) -> Self {
        Self { catalog, filter, keys }
    }
}

fn hold_of(subject: Subject) -> Result<HoldId, Problem> {
    match subject {
        Subject::Hold(id) => Ok(HoldId(id)),
        Subject::Charge(_) => Err(Problem::internal(anyhow::anyhow!("{subject:?} is no hold"))),
    }
}

async fn get_hold(conn: &mut Conn, attempt: &Attempt) -> Result<HoldRow, Problem> {
    let hold = holds::store::find_for_update(conn, attempt.user, hold_of(attempt.subject)?).await?;
    hold.ok_or_else(|| Problem::internal(anyhow::anyhow!("payment {} pays for a hold that is not there", attempt.id)))
}

/// The seats of a hold as its buyer sees them while there are no tickets for them.
pub(super) fn unsold(held: &[HeldSeat]) -> Vec<SoldSeat> {
    let unsold = |seat: &HeldSeat| {
        let HeldSeat { id, grade, price, number } = seat.clone();
        SoldSeat { number, id, grade, price, serial: None }
    };
    held.iter().map(unsold).collect()
}

/// A hold whose attempt is looked at again, by now perhaps too late.
struct Late<'a> {
    attempt: &'a Attempt,
    hold: HoldRow,
    held: Vec<HeldSeat>,
    /// Of the seats, sorted.
    numbers: Vec<u32>,
    concert: Arc<Concert>,
    keys: &'a TicketKeys,
}

impl<'a> Late<'a> {
    async fn of(cards: &'a HoldsByCard, conn: &mut Conn, attempt: &'a Attempt) -> Result<Self, Problem> {
        let hold = get_hold(conn, attempt).await?;
        let held = holds::store::list_seats(conn, &[hold.id]).await?;
        let held: Vec<HeldSeat> = held.into_iter().map(|(_, seat)| seat).collect();
        let numbers = held.iter().map(|seat| seat.number).collect();
        let concert = cards.catalog.get_concert_within(conn, hold.concert_id).await?;
        Ok(Self { attempt, hold, held, numbers, concert, keys: &cards.keys })
    }

    fn user(&self) -> UserId {
        self.attempt.user
    }

    fn id(&self) -> ReservationId {
        ReservationId(self.attempt.result)
    }

    /// Sells the seats that the hold still has: all, or none where it has ended while this waited for a lock. The buyer's stay ends
    /// with a sale only.
    async fn sell_held(&self, conn: &mut Conn) -> Result<bool, Problem> {
        pass::lock_stay(conn, self.hold.concert_id, self.user()).await?;
        let sold = seats::store::sell(conn, self.hold.performance_id, self.hold.id, self.id(), &self.numbers).await?;
        let is_sold = self.all_or_none(sold)?;
        if is_sold {
            pass::end_live(conn, self.hold.concert_id, self.user()).await?;
        }
        Ok(is_sold)
    }

    /// Sells the same seats again, where nobody has them and nothing stands against it.
    async fn sell_again(&self, conn: &mut Conn) -> Result<bool, Problem> {
        pass::lock_stay(conn, self.hold.concert_id, self.user()).await?;
        // Whose stay has ended has no row there. Two late payments of one buyer must not both find the limit free.
        points::ledger::lock(conn, self.user()).await?;
        let now = db::now(conn).await?;
        let performance = self.concert.performances.iter().find(|one| one.id == self.hold.performance_id);
        let is_on = performance.is_some_and(|one| now < one.starts_at)
            && now < self.concert.hours().booking_closes_at
            && pass::find_halt(conn, self.hold.concert_id).await?.refusal().is_none();
        if !is_on || !self.is_within_limit(conn).await? {
            return Ok(false);
        }
        let mut script = Script::default();
        let offset = conn.offset_micros();
        let free = seats::store::ask_free_for_update(&mut script, offset, self.hold.performance_id, &self.numbers);
        let free = script.run(conn).await?.list(&free)?;
        if free.len() != self.numbers.len() {
            return Ok(false);
        }
        let sold = seats::store::sell_free(conn, self.hold.performance_id, self.id(), &self.numbers).await?;
        self.all_or_none(sold)
    }

    fn all_or_none(&self, sold: u64) -> Result<bool, Problem> {
        match sold {
            0 => Ok(false),
            sold if sold == self.numbers.len() as u64 => Ok(true),
            sold => Err(Problem::internal(anyhow::anyhow!("{sold} of {} seats could be sold", self.numbers.len()))),
        }
    }

    async fn is_within_limit(&self, conn: &mut Conn) -> Result<bool, Problem> {
        let (concert, users) = (self.hold.concert_id, [self.user()]);
        let mut script = Script::default();
        let held = holds::store::ask_live_seat_counts(&mut script, conn.offset_micros(), concert, &users);
        let reserved = store::ask_live_seat_counts(&mut script, concert, &users);
        let outcomes = script.run(conn).await?;
        let has: u64 =
            outcomes.list(&held)?.into_iter().chain(outcomes.list(&reserved)?).map(|(_, seats)| u64::from(seats)).sum();
        Ok(has + self.numbers.len() as u64 <= u64::from(self.concert.seat_limit_per_buyer))
    }

    async fn write(&self, conn: &mut Conn, status: ReservationStatus) -> Result<ReservationRow, Problem> {
        store::upsert(conn, &self.new_row(), status).await?;
        let row = store::find_by_hold(conn, self.hold.id).await?;
        let row = row.filter(|row| row.payment_id == self.attempt.id && row.state == status.number());
        row.ok_or_else(|| Problem::internal(anyhow::anyhow!("hold {} has another reservation", self.hold.id)))
    }

    fn new_row(&self) -> NewReservation<'_> {
        NewReservation {
            id: self.id(),
            hold: self.hold.id,
            user: self.user(),
            concert: self.hold.concert_id,
            performance: self.hold.performance_id,
            payment: self.attempt.id,
            seats: &self.held,
            amount: self.hold.amount,
            now: self.hold.now_at,
        }
    }

    /// The seats are the buyer's.
    async fn confirm(&self, conn: &mut Conn, filter: &Filter) -> Result<(Answer, Option<After>), Problem> {
        holds::store::mark_paid(conn, self.hold.id, self.hold.now_at).await?;
        let row = self.write(conn, ReservationStatus::Confirmed).await?;
        let tickets = store::insert_tickets(conn, &self.new_row()).await?;
        outbox::record(conn, CONFIRMED, self.id().0, 1, &self.facts()).await?;
        let hall = Hall::of(&self.concert, self.hold.performance_id);
        let after = hall.map(|hall| {
            let (news, filter) = (News::default(), filter.clone());
            news.put(hall, Change::Sold(self.numbers.clone()));
            let after: After = Box::pin(async move { news.tell(&filter).await });
            after
        });
        Ok((self.answer(&row, tickets, PaymentStatus::Succeeded)?, after))
    }

    /// The money goes back.
    async fn give_up(&self, conn: &mut Conn) -> Result<Answer, Problem> {
        let row = self.write(conn, ReservationStatus::Refunded).await?;
        outbox::record(conn, REFUNDED, self.id().0, 1, &self.facts()).await?;
        self.answer(&row, unsold(&self.held), PaymentStatus::Refunding)
    }

    /// The hold was paid otherwise meanwhile, by an instance that knows nothing of cards: the answer is what came of that.
    async fn other(&self, conn: &mut Conn) -> Result<Answer, Problem> {
        let row = store::find_by_hold(conn, self.hold.id).await?;
        let row =
            row.ok_or_else(|| Problem::internal(anyhow::anyhow!("hold {} was paid for nothing", self.hold.id)))?;
        let tickets: Vec<_> = store::list_seats(conn, &[row.id]).await?.into_iter().map(|(_, seat)| seat).collect();
        let payment = crate::payments::list(conn, &[row.payment_id]).await?.pop();
        let payment = payment.ok_or_else(|| Problem::internal(anyhow::anyhow!("a reservation without its payment")))?;
        Answer::json(ACCEPTED, &shown(&row, self.concert.title.clone(), tickets, &payment, self.keys))
    }

    fn answer(&self, row: &ReservationRow, seats: Vec<SoldSeat>, paid: PaymentStatus) -> Result<Answer, Problem> {
        let Attempt { id, amount, .. } = *self.attempt;
        let payment = Payment { id, method: Method::Card, status: paid, amount };
        // Only what has come to a good end was created.
        let code = if paid == PaymentStatus::Succeeded { CREATED } else { ACCEPTED };
        Answer::json(code, &shown(row, self.concert.title.clone(), seats, &payment, self.keys))
    }

    fn facts(&self) -> serde_json::Value {
        let labels: Vec<&str> = self.held.iter().map(|seat| seat.id.as_str()).collect();
        json!({"reservation_id": self.id(), "user_id": self.user(), "concert_id": self.hold.concert_id,
            "performance_id": self.hold.performance_id, "seat_ids": labels, "amount": self.hold.amount, "currency": CURRENCY})
    }
}
