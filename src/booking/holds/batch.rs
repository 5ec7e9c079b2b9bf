//! The transaction that holds seats: for all the requests that wait for it together, each with a verdict of its own.
//!
//! Locks are taken in the order of everybody: passes, then seats, each by their keys. Only seats that can be had are locked.
//! One buyer's holds come one after the other because each needs the buyer's one live pass, whose row is locked, so the
//! limit cannot be overtaken; within a batch the requests count one after the other.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use serde_json::json;

use super::domain::{HeldSeat, Hold, HoldId, HoldStatus, MadeHold, SEAT_LIMIT_EXCEEDED};
use super::marks::Marks;
use super::store::{self, NewHold};
use crate::accounts::UserId;
use crate::booking::reservations;
use crate::booking::seats::best::Arrangement;
use crate::booking::seats::filter::{Change, Filter, Hall};
use crate::booking::seats::{self, SEATS_TAKEN};
use crate::catalog::domain::Concert;
use crate::platform::clock::Timestamp;
use crate::platform::combiner::{Answers, Work};
use crate::platform::db::{Conn, Turn};
use crate::platform::error::Problem;
use crate::platform::http::keyed::{Answer, CREATED};
use crate::platform::idempotency::{self, Begun};
use crate::platform::money::Money;
use crate::queue::pass::{self, BOOKING_CLOSED, PassId};

/// A request for seats that are named.
#[derive(Debug)]
pub(super) struct Wanted {
    pub id: HoldId,
    pub user: UserId,
    pub pass: PassId,
    pub hall: Hall,
    pub concert: Arc<Concert>,
    /// By number: the order in which everybody locks.
    pub seats: Vec<HeldSeat>,
    pub leaves_orphan: bool,
    pub arrangement: Option<Arrangement>,
    pub hold_for: Duration,
    pub begun: Option<Arc<Begun>>,
    pub marks: Marks,
    pub verdict: Mutex<Option<Verdict>>,
    /// The buyer's other writes wait until this is done.
    pub _turn: Turn,
}

/// What a transaction was about to commit for a request.
#[derive(Debug)]
pub(super) struct Verdict {
    answer: Result<Answer, Problem>,
    /// The end of the hold, where one was made.
    until: Option<Timestamp>,
    /// Seats that others have.
    lost: Vec<u32>,
}

impl Wanted {
    fn set(&self, verdict: Option<Verdict>) {
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = verdict;
    }

    fn lost(&self) -> Vec<u32> {
        let verdict = self.verdict.lock().unwrap_or_else(PoisonError::into_inner);
        verdict.as_ref().map(|verdict| verdict.lost.clone()).unwrap_or_default()
    }

    /// The last verdict's answer, and whether a hold was made.
    fn verdict(&self) -> Option<(Result<Answer, Problem>, Option<Timestamp>)> {
        let verdict = self.verdict.lock().unwrap_or_else(PoisonError::into_inner);
        let Verdict { answer, until, .. } = verdict.as_ref()?;
        Some((copy(answer), *until))
    }
}

fn copy(answer: &Result<Answer, Problem>) -> Result<Answer, Problem> {
    match answer {
        Ok(answer) => Ok(answer.clone()),
        Err(problem) => Err(problem.again()),
    }
}

/// Makes holds, and tells the filter.
#[derive(Debug)]
pub(super) struct HoldSeats {
    pub filter: Filter,
}

impl Work for HoldSeats {
    type Request = Wanted;
    type Answer = Answer;
    const NAME: &'static str = "booking.hold";

    fn run<'c>(conn: &'c mut Conn, batch: &'c [Arc<Wanted>]) -> BoxFuture<'c, Result<Answers<Answer>, Problem>> {
        Box::pin(async move {
            // What an earlier run decided says nothing of this one.
            for one in batch {
                one.set(None);
            }
            let mut round = Round { batch, open: (0..batch.len()).collect(), verdicts: HashMap::new() };
            // Locked first: a request that another instance is doing at this moment is found once its transaction has ended.
            let (now, live) = round.lock_passes(conn).await?;
            round.repeat(conn).await?;
            round.refuse(|one| (!live.contains(&one.pass)).then(pass::expired));
            round.check_sale(conn, now).await?;
            round.check_limits(conn, now).await?;
            round.take(conn, now).await?;
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
            let made = batch.iter().zip(&verdicts).filter(|(_, (_, until))| until.is_some());
            let made: Vec<HoldId> = made.map(|(one, _)| one.id).collect();
            // Refusals need no commit.
            let is_settled = made.is_empty() || store::has_any_for_update(conn, &made).await?;
            Ok(is_settled.then(|| verdicts.into_iter().map(|(answer, _)| answer).collect()))
        })
    }

    fn ended<'a>(&'a self, batch: &'a [Arc<Wanted>], answers: &'a Answers<Answer>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let (mut held, mut back) = (Vec::new(), Vec::new());
            for (one, answer) in batch.iter().zip(answers) {
                match (answer, one.verdict().and_then(|(_, until)| until)) {
                    (Ok(answer), Some(until)) if !answer.replayed => {
                        one.marks.keep();
                        held.push(Change::Held { seats: one.marks.seats.clone(), until });
                    }
                    (Err(problem), _) if problem.is_unanswered() => one.marks.leave(),
                    (Err(problem), _) if problem.code() == &SEATS_TAKEN => back.push((one, one.lost())),
                    _ => back.push((one, Vec::new())),
                }
            }
            let giving_back = join_all(back.iter().map(|(one, lost)| one.marks.give_back(lost)));
            let telling = async {
                if let (Some(first), false) = (batch.first(), held.is_empty()) {
                    self.filter.settle(first.hall, &held).await;
                }
            };
            tokio::join!(giving_back, telling);
        })
    }
}

/// One run of the transaction. All its requests are for one performance.
struct Round<'b> {
    batch: &'b [Arc<Wanted>],
    /// Those without a verdict, in the order in which they came.
    open: Vec<usize>,
    verdicts: HashMap<usize, Verdict>,
}

impl Round<'_> {
    fn settle(&mut self, at: usize, answer: Result<Answer, Problem>) {
        self.verdicts.insert(at, Verdict { answer, until: None, lost: Vec::new() });
    }

    /// Refuses those of the open requests for which `refusal` has one.
    fn refuse(&mut self, mut refusal: impl FnMut(&Wanted) -> Option<Problem>) {
        for at in std::mem::take(&mut self.open) {
            match refusal(&self.batch[at]) {
                Some(problem) => self.settle(at, Err(problem)),
                None => self.open.push(at),
            }
        }
    }

    fn waiting(&self) -> impl Iterator<Item = &Wanted> {
        self.open.iter().map(|at| &*self.batch[*at])
    }

    /// Answers requests that took effect before as they were answered then.
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

    /// Locks the passes. Tells the database's present instant, and which of them are live.
    async fn lock_passes(&self, conn: &mut Conn) -> Result<(Timestamp, HashSet<PassId>), Problem> {
        let mut passes: Vec<PassId> = self.waiting().map(|one| one.pass).collect();
        passes.sort_unstable();
        passes.dedup();
        pass::lock_live(conn, &passes).await
    }

    async fn check_sale(&mut self, conn: &mut Conn, now: Timestamp) -> Result<(), Problem> {
        let Some(concert) = self.waiting().next().map(|one| one.concert.clone()) else { return Ok(()) };
        let halt = pass::find_halt(conn, concert.id).await?;
        let is_closed = now >= concert.hours().booking_closes_at;
        self.refuse(|_| match &halt {
            Some(halt) => Some(halt.again()),
            None => is_closed.then(|| Problem::new(&BOOKING_CLOSED)),
        });
        Ok(())
    }

    /// Refuses who would have more seats of the concert than its limit.
    async fn check_limits(&mut self, conn: &mut Conn, now: Timestamp) -> Result<(), Problem> {
        let users: Vec<UserId> = self.waiting().map(|one| one.user).collect();
        let Some(concert) = self.waiting().next().map(|one| one.concert.clone()) else { return Ok(()) };
        let held = store::list_live_seat_counts(conn, concert.id, &users, now).await?;
        let reserved = reservations::store::list_live_seat_counts(conn, concert.id, &users).await?;
        let mut counts: HashMap<UserId, u64> = HashMap::new();
        for (user, seats) in held.into_iter().chain(reserved) {
            *counts.entry(user).or_default() += u64::from(seats);
        }
        let limit = concert.seat_limit_per_buyer;
        self.refuse(|one| {
            let count = counts.entry(one.user).or_default();
            if *count + one.seats.len() as u64 > u64::from(limit) {
                return Some(Problem::new(&SEAT_LIMIT_EXCEEDED).with("limit", limit));
            }
            // Counted even if its seats turn out to be taken: one buyer has one request at a time in a batch.
            *count += one.seats.len() as u64;
            None
        });
        Ok(())
    }

    /// Gives the seats to whoever came first, and writes the holds.
    async fn take(&mut self, conn: &mut Conn, now: Timestamp) -> Result<(), Problem> {
        let mut wanted: Vec<u32> = self.waiting().flat_map(|one| &one.seats).map(|seat| seat.number).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let Some(hall) = self.waiting().next().map(|one| one.hall) else { return Ok(()) };
        let locked: HashSet<u32> =
            seats::store::list_free_for_update(conn, hall.performance, &wanted).await?.into_iter().collect();
        let mut free = locked.clone();
        self.refuse(|one| {
            let taken = one.seats.iter().filter(|seat| !free.contains(&seat.number)).map(|seat| seat.id.as_str());
            let taken: Vec<&str> = taken.collect();
            if !taken.is_empty() {
                return Some(Problem::new(&SEATS_TAKEN).with("seat_ids", json!(taken)));
            }
            for seat in &one.seats {
                free.remove(&seat.number);
            }
            None
        });
        self.note_lost(&locked);
        self.write(conn, hall, now).await
    }

    /// Notes for each refused request which of its seats others have outside of this batch.
    fn note_lost(&mut self, locked: &HashSet<u32>) {
        for (at, verdict) in self.verdicts.iter_mut().filter(|(_, verdict)| verdict.answer.is_err()) {
            let seats = self.batch[*at].seats.iter().map(|seat| seat.number);
            verdict.lost = seats.filter(|seat| !locked.contains(seat)).collect();
        }
    }

    async fn write(&mut self, conn: &mut Conn, hall: Hall, now: Timestamp) -> Result<(), Problem> {
        let mut holds = Vec::with_capacity(self.open.len());
        for at in std::mem::take(&mut self.open) {
            let one = &*self.batch[at];
            let amount = Money::sum(one.seats.iter().map(|seat| seat.price));
            let amount = amount.ok_or_else(|| Problem::internal(anyhow::anyhow!("prices overflow")))?;
            let until = now.plus(one.hold_for);
            let hold = Hold::new(one.id, HoldStatus::Held, hall.performance, one.seats.clone(), amount, until);
            let made = MadeHold { hold, leaves_orphan: one.leaves_orphan, arrangement: one.arrangement };
            let answer = Answer::json(CREATED, &made)?;
            self.verdicts.insert(at, Verdict { answer: Ok(answer), until: Some(until), lost: Vec::new() });
            holds.push(NewHold {
                id: one.id,
                user: one.user,
                concert: hall.concert,
                performance: hall.performance,
                seats: &one.seats,
                amount,
                now,
                expires_at: until,
            });
        }
        if holds.is_empty() {
            return Ok(());
        }
        store::insert_all(conn, &holds).await?;
        let taken: Vec<_> = holds
            .iter()
            .flat_map(|hold| hold.seats.iter().map(|seat| (seat.number, hold.id, hold.expires_at)))
            .collect();
        let changed = seats::store::hold(conn, hall.performance, &taken).await?;
        if changed != taken.len() as u64 {
            return Err(Problem::internal(anyhow::anyhow!("{changed} of {} locked seats were held", taken.len())));
        }
        self.keep(conn).await
    }

    /// Stores the new answers of keyed requests.
    async fn keep(&self, conn: &mut Conn) -> Result<(), Problem> {
        let made = self.verdicts.iter().filter(|(_, verdict)| verdict.until.is_some());
        let answers: Vec<(&Begun, &Answer)> = made
            .filter_map(|(at, verdict)| Some((self.batch[*at].begun.as_deref()?, verdict.answer.as_ref().ok()?)))
            .collect();
        idempotency::store(conn, &answers).await
    }

    /// Leaves each verdict with its request, in case that the commit is not answered.
    fn end(mut self) -> Result<Answers<Answer>, Problem> {
        let mut answers = Vec::with_capacity(self.batch.len());
        for (at, one) in self.batch.iter().enumerate() {
            let verdict = self.verdicts.remove(&at);
            let verdict = verdict.ok_or_else(|| Problem::internal(anyhow::anyhow!("a request without a verdict")))?;
            answers.push(copy(&verdict.answer));
            one.set(Some(verdict));
        }
        Ok(answers)
    }
}
