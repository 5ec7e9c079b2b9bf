//! The transaction that pays holds with points: for all the payments that wait for it together, each with a verdict of its own.
//!
//! Locks are taken in the order of everybody: holds, passes, balances, seats, each by their keys; what is new is inserted last.
//! Nothing ties payments together but their buyer, so they share a transaction whatever they are for. One buyer's payments are
//! always in the same lane, so two transactions of one instance never wait for each other.
//!
//! Whatever may refuse a payment is looked at before its seats are sold. A hold that ends after that, while a lock is waited
//! for, fails the whole transaction; run alone, its payment is told so.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::{BoxFuture, join_all};
use serde_json::{Value, json};
use uuid::Uuid;

use super::checkout::CONFIRMED;
use super::domain::{ConcertName, PaymentView, Reservation, ReservationId, ReservationStatus, SoldSeat};
use super::store::paying::{self, NewReservation};
use crate::accounts::UserId;
use crate::booking::holds::domain::{HOLD_EXPIRED, HOLD_PAID};
use crate::booking::holds::store::{HoldRow, OwnedHoldRow};
use crate::booking::holds::{self, HeldSeat, HoldId, HoldStatus};
use crate::booking::seats::filter::{Change, Hall};
use crate::booking::seats::store::Sale;
use crate::booking::seats::{self, Filter};
use crate::catalog::domain::Concert;
use crate::catalog::{ConcertId, Reader};
use crate::payments::{self, Method, PAYMENT_IN_PROGRESS, PaymentId, PaymentStatus, Settled, Subject};
use crate::platform::combiner::{Answers, Work};
use crate::platform::db::{self, Conn, Turn};
use crate::platform::error::Problem;
use crate::platform::http::keyed::{Answer, CREATED};
use crate::platform::idempotency::{self, Begun};
use crate::platform::money::CURRENCY;
use crate::platform::outbox::{self, Wake};
use crate::points;
use crate::queue::pass::{self, Stays};

/// A payment that is asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub user: UserId,
    pub hold: HoldId,
    /// What it is to become.
    pub id: ReservationId,
    pub payment: PaymentId,
    pub catalog: Arc<Reader>,
    pub begun: Option<Arc<Begun>>,
    pub verdict: Mutex<Option<Arc<Verdict>>>,
    /// The buyer's other writes wait until this is done.
    pub _turn: Turn,
}

/// What a transaction was about to commit for a payment.
#[derive(Debug)]
pub(super) struct Verdict {
    answer: Result<Answer, Problem>,
    /// The seats that were sold, where it was paid.
    sold: Option<Sold>,
}

#[derive(Debug)]
struct Sold {
    /// None where the catalogue has no such performance any more.
    hall: Option<Hall>,
    seats: Vec<u32>,
}

impl Wanted {
    fn set(&self, verdict: Option<Arc<Verdict>>) {
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = verdict;
    }

    /// The last verdict.
    fn verdict(&self) -> Option<Arc<Verdict>> {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Pays holds, wakes the relay and tells the filter.
#[derive(Debug)]
pub(super) struct PayHolds {
    pub filter: Filter,
    pub wake: Wake,
}

impl Work for PayHolds {
    type Request = Wanted;
    type Answer = Answer;
    const NAME: &'static str = "checkout.pay";

    fn run<'c>(conn: &'c mut Conn, batch: &'c [Arc<Wanted>]) -> BoxFuture<'c, Result<Answers<Answer>, Problem>> {
        Box::pin(async move {
            // What an earlier run decided says nothing of this one.
            for one in batch {
                one.set(None);
            }
            let mut round = Round { batch, open: (0..batch.len()).collect(), ..Round::default() };
            // Locked first: a payment that another instance is making at this moment is found once its transaction has ended.
            round.lock_holds(conn).await?;
            round.repeat(conn).await?;
            round.check_holds();
            round.check_sales(conn).await?;
            round.check_attempts(conn).await?;
            let stays = round.lock_stays(conn).await?;
            round.take_points(conn).await?;
            let paid = round.sell(conn).await?;
            round.write(conn, paid, stays).await?;
            round.end()
        })
    }

    fn find_out<'c>(
        conn: &'c mut Conn,
        batch: &'c [Arc<Wanted>],
    ) -> BoxFuture<'c, Result<Option<Answers<Answer>>, Problem>> {
        Box::pin(async move {
            let Some(verdicts) = batch.iter().map(|one| one.verdict()).collect::<Option<Vec<_>>>() else {
                return Ok(None);
            };
            let paid = batch.iter().zip(&verdicts).filter(|(_, verdict)| verdict.sold.is_some());
            let paid: Vec<PaymentId> = paid.map(|(one, _)| one.payment).collect();
            // Refusals need no commit.
            let is_settled = paid.is_empty() || payments::has_any_for_update(conn, &paid).await?;
            Ok(is_settled.then(|| verdicts.iter().map(|verdict| Answer::again(&verdict.answer)).collect()))
        })
    }

    fn ended<'a>(&'a self, batch: &'a [Arc<Wanted>], answers: &'a Answers<Answer>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut halls: HashMap<Hall, Vec<u32>> = HashMap::new();
            let mut is_any = false;
            for (one, _) in batch.iter().zip(answers).filter(|(_, answer)| answer.is_ok()) {
                let Some(verdict) = one.verdict() else { continue };
                let Some(sold) = &verdict.sold else { continue };
                is_any = true;
                if let Some(hall) = sold.hall {
                    halls.entry(hall).or_default().extend(&sold.seats);
                }
            }
            if is_any {
                self.wake.now();
            }
            let telling = halls.into_iter().map(async |(hall, seats)| {
                self.filter.settle(hall, &[Change::Sold(seats)]).await;
            });
            join_all(telling).await;
        })
    }
}

/// One run of the transaction.
#[derive(Default)]
struct Round<'b> {
    batch: &'b [Arc<Wanted>],
    /// Those without a verdict, in the order in which they came.
    open: Vec<usize>,
    holds: HashMap<HoldId, OwnedHoldRow>,
    concerts: HashMap<ConcertId, Arc<Concert>>,
    verdicts: HashMap<usize, Arc<Verdict>>,
}

impl Round<'_> {
    fn settle(&mut self, at: usize, answer: Result<Answer, Problem>) {
        self.verdicts.insert(at, Arc::new(Verdict { answer, sold: None }));
    }

    /// Refuses those of the open payments for which `refusal` has a reason. Those of others' holds, or of none, are refused in any
    /// case.
    fn refuse(&mut self, mut refusal: impl FnMut(&OwnedHoldRow) -> Option<Problem>) {
        for at in std::mem::take(&mut self.open) {
            let one = &self.batch[at];
            let hold = self.holds.get(&one.hold).filter(|hold| hold.user_id == one.user);
            match hold.map_or_else(|| Some(Problem::not_found("hold")), &mut refusal) {
                Some(problem) => self.settle(at, Err(problem)),
                None => self.open.push(at),
            }
        }
    }

    /// The open payments' holds.
    fn waiting(&self) -> impl Iterator<Item = &OwnedHoldRow> {
        self.open.iter().filter_map(|at| self.holds.get(&self.batch[*at].hold))
    }

    /// The concerts of the open payments, each once.
    fn waiting_concerts(&self) -> Vec<ConcertId> {
        let concerts: HashSet<ConcertId> = self.waiting().map(|hold| hold.row.concert_id).collect();
        concerts.into_iter().collect()
    }

    async fn lock_holds(&mut self, conn: &mut Conn) -> Result<(), Problem> {
        let mut ids: Vec<HoldId> = self.batch.iter().map(|one| one.hold).collect();
        ids.sort_unstable();
        ids.dedup();
        let found = holds::store::list_for_update(conn, &ids).await?;
        self.holds = found.into_iter().map(|hold| (hold.row.id, hold)).collect();
        Ok(())
    }

    /// Answers payments that took effect before as they were answered then.
    async fn repeat(&mut self, conn: &mut Conn) -> Result<(), Problem> {
        let keyed: Vec<(usize, &Begun)> =
            self.batch.iter().enumerate().filter_map(|(at, one)| Some((at, one.begun.as_deref()?))).collect();
        let begun: Vec<&Begun> = keyed.iter().map(|(_, begun)| *begun).collect();
        let before = idempotency::find_stored(conn, &begun).await?;
        for ((at, _), answer) in keyed.into_iter().zip(before) {
            if let Some(answer) = answer {
                self.settle(at, answer);
            }
        }
        self.open.retain(|at| !self.verdicts.contains_key(at));
        Ok(())
    }

    fn check_holds(&mut self) {
        self.refuse(|hold| match hold.row.status() {
            HoldStatus::Held => None,
            HoldStatus::Paid => Some(Problem::new(&HOLD_PAID)),
            HoldStatus::Released | HoldStatus::Expired => Some(Problem::new(&HOLD_EXPIRED)),
        });
    }

    /// Refuses where the sale is stopped, and finds the concerts of the others.
    async fn check_sales(&mut self, conn: &mut Conn) -> Result<(), Problem> {
        let stopped = pass::list_stopped(conn, &self.waiting_concerts()).await?;
        self.refuse(|hold| stopped.contains(&hold.row.concert_id).then(pass::stopped));
        let Some(catalog) = self.batch.first().map(|one| one.catalog.clone()) else { return Ok(()) };
        for id in self.waiting_concerts() {
            self.concerts.insert(id, catalog.get_concert_within(conn, id).await?);
        }
        Ok(())
    }

    /// Refuses where a card payment of the hold is not decided yet.
    async fn check_attempts(&mut self, conn: &mut Conn) -> Result<(), Problem> {
        let subjects: Vec<Subject> = self.waiting().map(|hold| Subject::Hold(hold.row.id.0)).collect();
        let in_progress = payments::list_in_progress(conn, &subjects).await?;
        self.refuse(|hold| in_progress.contains(&hold.row.id.0).then(|| Problem::new(&PAYMENT_IN_PROGRESS)));
        Ok(())
    }

    /// Locks the buyers' stays, which end with what is paid.
    async fn lock_stays(&self, conn: &mut Conn) -> Result<Stays, Problem> {
        let mut buyers: Vec<(ConcertId, UserId)> =
            self.waiting().map(|hold| (hold.row.concert_id, hold.user_id)).collect();
        buyers.sort_unstable();
        buyers.dedup();
        pass::lock_stays(conn, &buyers).await
    }

    async fn take_points(&mut self, conn: &mut Conn) -> Result<(), Problem> {
        let due = |at: &usize| {
            let one = &self.batch[*at];
            let hold = self.holds.get(&one.hold)?;
            Some(points::Due { user: one.user, amount: hold.row.amount, payment: one.payment.0 })
        };
        let dues: Vec<points::Due> = self.open.iter().filter_map(due).collect();
        let mut told = points::ledger::pay_all(conn, &dues).await?.into_iter();
        self.refuse(|_| told.next().and_then(Result::err));
        Ok(())
    }

    /// Sells the seats of those that are left, whose points are taken.
    async fn sell(&mut self, conn: &mut Conn) -> Result<Vec<Paid>, Problem> {
        let ids: Vec<HoldId> = self.open.iter().map(|at| self.batch[*at].hold).collect();
        let mut seats: HashMap<HoldId, Vec<HeldSeat>> = HashMap::new();
        for (hold, seat) in holds::store::list_seats(conn, &ids).await? {
            seats.entry(hold).or_default().push(seat);
        }
        let failed = paying::list_failed(conn, &ids).await?;
        let mut paid = Vec::with_capacity(ids.len());
        for at in std::mem::take(&mut self.open) {
            let one = self.batch[at].clone();
            let hold = self.holds.get(&one.hold).map(|hold| hold.row.clone());
            let concert = hold.as_ref().and_then(|hold| self.concerts.get(&hold.concert_id)).cloned();
            let (Some(hold), Some(concert)) = (hold, concert) else {
                return Err(Problem::internal(anyhow::anyhow!("a hold without its concert")));
            };
            let failed = failed.get(&one.hold).copied();
            let (id, is_known) = (failed.unwrap_or(one.id), failed.is_some());
            let seats = seats.remove(&one.hold).unwrap_or_default();
            paid.push(Paid { at, one, id, is_known, hold, concert, seats });
        }
        let mut sales: Vec<Sale> = paid.iter().flat_map(Paid::sales).collect();
        sales.sort_unstable();
        let held: u64 = paid.iter().map(|one| u64::from(one.hold.seat_count)).sum();
        let sold = seats::store::sell(conn, &sales).await?;
        if sold == held { Ok(paid) } else { Err(unsold(conn, &paid, sold).await?) }
    }

    /// Writes what follows from the payments whose seats are sold.
    async fn write(&mut self, conn: &mut Conn, paid: Vec<Paid>, stays: Stays) -> Result<(), Problem> {
        let Some(now) = paid.first().map(|one| one.hold.now_at) else { return Ok(()) };
        let settled: Vec<Settled> = paid.iter().map(Paid::settled).collect();
        payments::insert_settled(conn, &settled).await?;
        let ids: Vec<HoldId> = paid.iter().map(|one| one.hold.id).collect();
        let marked = holds::store::mark_paid(conn, &ids, now).await?;
        if marked != ids.len() as u64 {
            return Err(Problem::internal(anyhow::anyhow!("{marked} of {} locked holds were marked", ids.len())));
        }
        let rows: Vec<NewReservation<'_>> = paid.iter().map(Paid::row).collect();
        let tickets = paying::insert_all(conn, &rows).await?;
        let over: HashSet<(ConcertId, UserId)> = paid.iter().map(|one| (one.hold.concert_id, one.one.user)).collect();
        stays.end(conn, |concert, user| over.contains(&(concert, user))).await?;
        let events: Vec<(Uuid, Value)> = paid.iter().map(Paid::event).collect();
        outbox::record_first(conn, CONFIRMED, &events).await?;
        for (one, tickets) in paid.into_iter().zip(tickets) {
            let seats = one.seats.iter().map(|seat| seat.number).collect();
            let sold = Some(Sold { hall: Hall::of(&one.concert, one.hold.performance_id), seats });
            let (at, answer) = (one.at, Answer::json(CREATED, &one.reservation(tickets))?);
            self.verdicts.insert(at, Arc::new(Verdict { answer: Ok(answer), sold }));
        }
        self.keep(conn).await
    }

    /// Stores the new answers of keyed payments.
    async fn keep(&self, conn: &mut Conn) -> Result<(), Problem> {
        let paid = self.verdicts.iter().filter(|(_, verdict)| verdict.sold.is_some());
        let answers: Vec<(&Begun, &Answer)> = paid
            .filter_map(|(at, verdict)| Some((self.batch[*at].begun.as_deref()?, verdict.answer.as_ref().ok()?)))
            .collect();
        idempotency::store(conn, &answers).await
    }

    /// Leaves each verdict with its payment, in case that the commit is not answered.
    fn end(mut self) -> Result<Answers<Answer>, Problem> {
        let mut answers = Vec::with_capacity(self.batch.len());
        for (at, one) in self.batch.iter().enumerate() {
            let verdict = self.verdicts.remove(&at);
            let verdict = verdict.ok_or_else(|| Problem::internal(anyhow::anyhow!("a payment without a verdict")))?;
            answers.push(Answer::again(&verdict.answer));
            one.set(Some(verdict));
        }
        Ok(answers)
    }
}

/// Why not all seats could be sold. Of several holds it is not known which one is to blame: each is tried alone.
async fn unsold(conn: &mut Conn, paid: &[Paid], sold: u64) -> Result<Problem, Problem> {
    // The hold may have ended while this waited for a lock, and somebody else has a seat now.
    if let [one] = paid
        && db::now(conn).await? >= one.hold.expires_at
    {
        return Ok(Problem::new(&HOLD_EXPIRED));
    }
    Ok(Problem::internal(anyhow::anyhow!("only {sold} held seats of {} payments could be sold", paid.len())))
}

/// A payment whose points are taken.
struct Paid {
    /// Its place in the batch.
    at: usize,
    one: Arc<Wanted>,
    id: ReservationId,
    /// Whether an earlier payment, which came to nothing, left a reservation.
    is_known: bool,
    hold: HoldRow,
    concert: Arc<Concert>,
    seats: Vec<HeldSeat>,
}

impl Paid {
    fn sales(&self) -> impl Iterator<Item = Sale> {
        let (performance, hold, reservation) = (self.hold.performance_id, self.hold.id, self.id);
        self.seats.iter().map(move |seat| Sale { performance, seat: seat.number, hold, reservation })
    }

    fn settled(&self) -> Settled {
        let subject = Subject::Hold(self.hold.id.0);
        let (id, user) = (self.one.payment, self.one.user);
        Settled { id, user, method: Method::Points, subject, amount: self.hold.amount }
    }

    fn row(&self) -> NewReservation<'_> {
        NewReservation {
            id: self.id,
            is_known: self.is_known,
            hold: self.hold.id,
            user: self.one.user,
            concert: self.hold.concert_id,
            performance: self.hold.performance_id,
            payment: self.one.payment,
            seats: &self.seats,
            amount: self.hold.amount,
            now: self.hold.now_at,
        }
    }

    fn event(&self) -> (Uuid, Value) {
        let labels: Vec<&str> = self.seats.iter().map(|seat| seat.id.as_str()).collect();
        let facts = json!({"reservation_id": self.id, "user_id": self.one.user, "concert_id": self.hold.concert_id,
            "performance_id": self.hold.performance_id, "seat_ids": labels, "amount": self.hold.amount, "currency": CURRENCY});
        (self.id.0, facts)
    }

    fn reservation(&self, seats: Vec<SoldSeat>) -> Reservation {
        Reservation {
            id: self.id,
            status: ReservationStatus::Confirmed,
            hold_id: self.hold.id,
            performance_id: self.hold.performance_id,
            concert: ConcertName { id: self.hold.concert_id, title: self.concert.title.clone() },
            seats,
            amount: self.hold.amount,
            currency: CURRENCY,
            payment: PaymentView { id: self.one.payment, method: Method::Points, status: PaymentStatus::Succeeded },
            created_at: self.hold.now_at,
            paid_at: Some(self.hold.now_at),
        }
    }
}
