//! The transaction that pays holds with points: for all the payments that wait for it together, each with a verdict of its own.
//!
//! Locks are taken in the order of everybody: holds, passes, balances, seats, each by their keys; what is new is inserted last.
//! Payments share a transaction whatever they are for. One buyer's are always in the same lane, so two transactions of one
//! instance never wait for each other.
//!
//! It takes three trips to the server: what is known by hold, what is known by buyer, and all that is written. Whatever may
//! refuse a payment is looked at before that. A hold that ends while a lock is waited for fails the whole transaction; run
//! alone, its payment is told so.

mod paid;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::{BoxFuture, join_all};
use uuid::Uuid;

use self::paid::Paid;
use super::checkout::CONFIRMED;
use super::domain::ReservationId;
use super::store::paying::{self, NewReservation};
use crate::accounts::UserId;
use crate::booking::holds::domain::{HOLD_EXPIRED, HOLD_PAID};
use crate::booking::holds::store::OwnedHoldRow;
use crate::booking::holds::{self, HeldSeat, HoldId, HoldStatus};
use crate::booking::seats::filter::{Change, Hall};
use crate::booking::seats::store::Sale;
use crate::booking::seats::{self, Filter};
use crate::booking::tickets::TicketKeys;
use crate::catalog::domain::Concert;
use crate::catalog::{ConcertId, Reader};
use crate::payments::{self, PaymentId, Subject};
use crate::platform::combiner::{Answers, Work};
use crate::platform::db::{self, Conn, Outcomes, Script, Turn};
use crate::platform::error::Problem;
use crate::platform::http::keyed::{Answer, CREATED};
use crate::platform::idempotency::{self, Before, Begun};
use crate::platform::outbox::{self, Wake};
use crate::points;
use crate::points::domain::{Due, Movement, Purses};
use crate::points::ledger::AskedPurses;
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
    pub keys: TicketKeys,
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
            let first = round.ask(conn).await?;
            round.repeat(&first.before);
            round.check_holds();
            let Some(second) = round.ask_buyers(conn).await? else { return round.end() };
            round.check(&first, &second);
            round.find_concerts(conn).await?;
            let (purses, movements) = round.take_points(conn, &second).await?;
            let paid = round.paid()?;
            round.write(conn, paid, second.stays, (&purses, &movements)).await?;
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

/// What is known of a payment's keys and hold before its buyer is looked at.
struct First {
    /// What each payment was answered before, if it was.
    before: Vec<Option<Before>>,
    /// Holds that are being paid by card.
    in_progress: HashSet<Uuid>,
}

/// What is known of those who pay. The rows of their stays and balances are locked.
struct Second {
    stays: Stays,
    purses: AskedPurses,
    outcomes: Outcomes,
}

/// One run of the transaction.
#[derive(Default)]
struct Round<'b> {
    batch: &'b [Arc<Wanted>],
    /// Those without a verdict, in the order in which they came.
    open: Vec<usize>,
    /// Whoever's they are; their rows are locked.
    holds: HashMap<HoldId, OwnedHoldRow>,
    seats: HashMap<HoldId, Vec<HeldSeat>>,
    /// What earlier payments of these holds left, which came to nothing.
    failed: HashMap<HoldId, ReservationId>,
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

    /// Everything that is known by hold, in one round trip. The holds are locked first: a payment that another instance is making
    /// at this moment is found once its transaction has ended.
    async fn ask(&mut self, conn: &mut Conn) -> Result<First, Problem> {
        let offset = conn.offset_micros();
        let ids: BTreeSet<HoldId> = self.batch.iter().map(|one| one.hold).collect();
        let ids: Vec<HoldId> = ids.into_iter().collect();
        let subjects: Vec<Subject> = ids.iter().map(|id| Subject::Hold(id.0)).collect();
        let begun: Vec<&Begun> = self.batch.iter().filter_map(|one| one.begun.as_deref()).collect();

        let mut script = Script::default();
        let holds = holds::store::ask_owned_for_update(&mut script, offset, &ids);
        let stored = idempotency::ask_stored(&mut script, offset, &begun);
        let in_progress = payments::ask_in_progress(&mut script, &subjects);
        let failed = paying::ask_failed(&mut script, &ids);
        let seats = holds::store::ask_seats(&mut script, &ids);
        let outcomes = script.run(conn).await?;

        self.holds = outcomes.list(&holds)?.into_iter().map(|hold| (hold.row.id, hold)).collect();
        self.failed = outcomes.list(&failed)?.into_iter().collect();
        for (hold, seat) in outcomes.list(&seats)?.into_iter().map(<(HoldId, HeldSeat)>::from) {
            self.seats.entry(hold).or_default().push(seat);
        }
        let in_progress = outcomes.list(&in_progress)?.into_iter().map(|(hold,)| hold).collect();
        let mut found = idempotency::read_stored(conn, &begun, (&outcomes, &stored)).await?.into_iter();
        let before = self.batch.iter().map(|one| one.begun.as_ref().and_then(|_| found.next()?)).collect();
        Ok(First { before, in_progress })
    }

    /// Answers payments that took effect before as they were answered then.
    fn repeat(&mut self, before: &[Option<Before>]) {
        for (at, before) in before.iter().enumerate() {
            if let Some(before) = before {
                self.settle(at, Answer::again(before));
            }
        }
        self.open.retain(|at| !self.verdicts.contains_key(at));
    }

    fn check_holds(&mut self) {
        self.refuse(|hold| match hold.row.status() {
            HoldStatus::Held => None,
            HoldStatus::Paid => Some(Problem::new(&HOLD_PAID)),
            HoldStatus::Released | HoldStatus::Expired => Some(Problem::new(&HOLD_EXPIRED)),
        });
    }

    /// Everything that is known by buyer, in one round trip; their stays, which end with what is paid, and then their balances
    /// are locked. None where nobody is left.
    async fn ask_buyers(&self, conn: &mut Conn) -> Result<Option<Second>, Problem> {
        let buyers: BTreeSet<(ConcertId, UserId)> =
            self.waiting().map(|hold| (hold.row.concert_id, hold.user_id)).collect();
        let buyers: Vec<(ConcertId, UserId)> = buyers.into_iter().collect();
        if buyers.is_empty() {
            return Ok(None);
        }
        let mut script = Script::default();
        let stays = pass::ask_stays(&mut script, &buyers);
        let purses = points::ledger::ask_purses(&mut script, buyers.iter().map(|(_, user)| *user));
        let outcomes = script.run(conn).await?;
        Ok(Some(Second { stays: stays.read(&outcomes)?, purses, outcomes }))
    }

    fn check(&mut self, first: &First, second: &Second) {
        self.refuse(|hold| {
            let halt = second.stays.halts.get(&hold.row.concert_id).copied().unwrap_or_default();
            let in_progress = || first.in_progress.contains(&hold.row.id.0).then(payments::in_progress);
            halt.refusal().or_else(in_progress)
        });
    }

    async fn find_concerts(&mut self, conn: &mut Conn) -> Result<(), Problem> {
        let Some(catalog) = self.batch.first().map(|one| one.catalog.clone()) else { return Ok(()) };
        let concerts: BTreeSet<ConcertId> = self.waiting().map(|hold| hold.row.concert_id).collect();
        for id in concerts {
            self.concerts.insert(id, catalog.get_concert_within(conn, id).await?);
        }
        Ok(())
    }

    /// Takes the points in memory, and refuses who has too few.
    async fn take_points(&mut self, conn: &mut Conn, second: &Second) -> Result<(Purses, Vec<Movement>), Problem> {
        let due = |at: &usize| {
            let one = &self.batch[*at];
            let hold = self.holds.get(&one.hold)?;
            Some(Due { user: one.user, amount: hold.row.amount, payment: one.payment.0 })
        };
        let dues: Vec<Due> = self.open.iter().filter_map(due).collect();
        let mut purses = second.purses.read(conn, &second.outcomes, &dues).await?;
        let (mut told, mut movements) = (points::ledger::take_all(&mut purses, &dues)?.into_iter(), Vec::new());
        self.refuse(|_| match told.next()? {
            Ok(movement) => {
                movements.push(movement);
                None
            }
            Err(problem) => Some(problem),
        });
        Ok((purses, movements))
    }

    fn paid(&mut self) -> Result<Vec<Paid>, Problem> {
        let mut paid = Vec::with_capacity(self.open.len());
        for at in std::mem::take(&mut self.open) {
            let one = self.batch[at].clone();
            let hold = self.holds.get(&one.hold).map(|hold| hold.row.clone());
            let concert = hold.as_ref().and_then(|hold| self.concerts.get(&hold.concert_id)).cloned();
            let (Some(hold), Some(concert)) = (hold, concert) else {
                return Err(Problem::internal(anyhow::anyhow!("a hold without its concert")));
            };
            let failed = self.failed.get(&one.hold).copied();
            let (id, is_known) = (failed.unwrap_or(one.id), failed.is_some());
            let seats = self.seats.remove(&one.hold).unwrap_or_default();
            let tickets = paying::tickets(&seats);
            paid.push(Paid { at, one, id, is_known, hold, concert, seats, tickets });
        }
        Ok(paid)
    }

    /// Writes everything, in one round trip or a few. Seats come before what is inserted.
    async fn write(
        &mut self,
        conn: &mut Conn,
        paid: Vec<Paid>,
        stays: Stays,
        (purses, movements): (&Purses, &[Movement]),
    ) -> Result<(), Problem> {
        let Some(now) = paid.first().map(|one| one.hold.now_at) else { return Ok(()) };
        for one in &paid {
            let seats = one.seats.iter().map(|seat| seat.number).collect();
            let sold = Some(Sold { hall: Hall::of(&one.concert, one.hold.performance_id), seats });
            let answer = Ok(Answer::json(CREATED, &one.reservation())?);
            self.verdicts.insert(one.at, Arc::new(Verdict { answer, sold }));
        }
        let (mut script, offset) = (Script::default(), conn.offset_micros());
        let sales: BTreeSet<Sale> = paid.iter().flat_map(Paid::sales).collect();
        let sold = seats::store::sell_all(&mut script, offset, &sales.into_iter().collect::<Vec<_>>());
        let taking = points::ledger::write_taken(&mut script, offset, purses, movements);
        let ids: Vec<HoldId> = paid.iter().map(|one| one.hold.id).collect();
        let marked = holds::store::mark_all_paid(&mut script, &ids, now);
        payments::insert_settled(&mut script, offset, &paid.iter().map(Paid::settled).collect::<Vec<_>>());
        let rows: Vec<NewReservation<'_>> = paid.iter().map(Paid::row).collect();
        let revived = paying::insert_all(&mut script, &rows);
        let over: HashSet<(ConcertId, UserId)> = paid.iter().map(|one| (one.hold.concert_id, one.one.user)).collect();
        stays.end(&mut script, offset, |concert, user| over.contains(&(concert, user)));
        outbox::record_first(&mut script, offset, CONFIRMED, &paid.iter().map(Paid::event).collect::<Vec<_>>());
        idempotency::store(&mut script, offset, &self.answers());
        let outcomes = script.run(conn).await?;

        let held: u64 = paid.iter().map(|one| u64::from(one.hold.seat_count)).sum();
        if outcomes.affected(&sold) != held {
            return Err(unsold(conn, &paid, outcomes.affected(&sold)).await?);
        }
        taking.check(&outcomes)?;
        let found = [outcomes.affected(&marked), outcomes.affected(&revived)];
        let wanted = [paid.len() as u64, paid.iter().filter(|one| one.is_known).count() as u64];
        if found != wanted {
            let cause = anyhow::anyhow!("{found:?} locked holds and known reservations of {wanted:?}");
            return Err(Problem::internal(cause));
        }
        Ok(())
    }

    /// The new answers of keyed payments.
    fn answers(&self) -> Vec<(&Begun, &Answer)> {
        let paid = self.verdicts.iter().filter(|(_, verdict)| verdict.sold.is_some());
        paid.filter_map(|(at, verdict)| Some((self.batch[*at].begun.as_deref()?, verdict.answer.as_ref().ok()?)))
            .collect()
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
