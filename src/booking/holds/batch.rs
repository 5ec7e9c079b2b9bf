//! The transaction that holds seats: for all the requests that wait for it together, each with a verdict of its own.
//!
//! Locks are taken in the order of everybody: passes, then seats, each by their keys. Only seats that can be had are locked, and
//! seats that somebody else has locked are waited for beside the lane only, by those who would get nothing otherwise.
//! One buyer's holds come one after the other because each needs the buyer's one live pass, whose row is locked, so the
//! limit cannot be overtaken; within a batch the requests count one after the other.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use serde_json::json;

use super::domain::{HeldSeat, Hold, HoldId, HoldStatus, MadeHold};
use super::limits::over_limit;
use super::marks::Marks;
use super::store::{self, NewHold};
use crate::accounts::UserId;
use crate::booking::reservations;
use crate::booking::seats::best::Arrangement;
use crate::booking::seats::filter::{Change, Filter, Hall};
use crate::booking::seats::store::TakenSeat;
use crate::booking::seats::{self, SEATS_TAKEN};
use crate::catalog::domain::Concert;
use crate::platform::clock::Timestamp;
use crate::platform::combiner::{Answers, Work};
use crate::platform::db::{self, Conn, Script, Turn};
use crate::platform::error::{Fault, Problem};
use crate::platform::http::keyed::{Answer, CREATED};
use crate::platform::idempotency::{self, Before, Begun};
use crate::platform::money::Money;
use crate::queue::pass::{self, BOOKING_CLOSED, Halt, PassId};

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
    lost: Vec<TakenSeat>,
}

impl Wanted {
    fn set(&self, verdict: Option<Verdict>) {
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = verdict;
    }

    fn lost(&self) -> Vec<TakenSeat> {
        let verdict = self.verdict.lock().unwrap_or_else(PoisonError::into_inner);
        verdict.as_ref().map(|verdict| verdict.lost.clone()).unwrap_or_default()
    }

    /// The last verdict's answer, and whether a hold was made.
    fn verdict(&self) -> Option<(Result<Answer, Problem>, Option<Timestamp>)> {
        let verdict = self.verdict.lock().unwrap_or_else(PoisonError::into_inner);
        let Verdict { answer, until, .. } = verdict.as_ref()?;
        Some((Answer::again(answer), *until))
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
        Box::pin(Round::run(conn, batch, Others::ArePassedBy))
    }

    fn run_waiting<'c>(
        conn: &'c mut Conn,
        batch: &'c [Arc<Wanted>],
    ) -> BoxFuture<'c, Result<Answers<Answer>, Problem>> {
        Box::pin(Round::run(conn, batch, Others::AreWaitedFor))
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
            let (mut held, mut kept, mut back) = (Vec::new(), Vec::new(), Vec::new());
            for (one, answer) in batch.iter().zip(answers) {
                match (answer, one.verdict().and_then(|(_, until)| until)) {
                    (Ok(answer), Some(until)) if !answer.replayed => {
                        one.marks.keep();
                        let seats = one.marks.seats.clone();
                        match &one.marks.claim {
                            Some(_) => kept.push(Change::Kept { seats, until }),
                            None => held.push(Change::Held { seats, until }),
                        }
                    }
                    (Err(problem), _) if problem.is_unanswered() => one.marks.leave(),
                    (Err(problem), _) if problem.code() != &SEATS_TAKEN => back.push((one, Vec::new())),
                    // A repeat of what was answered before finds its own seats taken.
                    _ => back.push((one, one.lost())),
                }
            }
            let Some(hall) = batch.first().map(|first| first.hall) else { return };
            if !kept.is_empty() {
                self.filter.settle_beside(hall, kept);
            }
            let giving_back = join_all(back.iter().map(|(one, lost)| one.marks.give_back(lost)));
            let telling = async {
                if !held.is_empty() {
                    self.filter.settle(hall, &held).await;
                }
            };
            tokio::join!(giving_back, telling);
        })
    }
}

/// What the database says before anything is decided.
struct Facts {
    hall: Hall,
    concert: Arc<Concert>,
    /// The database's present instant.
    now: Timestamp,
    /// Those of the passes that are live; their rows are locked.
    live: HashSet<PassId>,
    halt: Halt,
    /// What each request was answered before, if it was.
    before: Vec<Option<Before>>,
    /// How many seats of the concert these buyers have.
    counts: HashMap<UserId, u64>,
    /// Those of the seats that can be had; their rows are locked.
    free: HashSet<u32>,
    /// Those of the others that somebody has. The rest can be had, once somebody has let go of their rows.
    taken: HashMap<u32, TakenSeat>,
}

/// What is done about those who have locked a seat's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    ArePassedBy,
    AreWaitedFor,
}

/// One run of the transaction. All its requests are for one performance.
struct Round<'b> {
    batch: &'b [Arc<Wanted>],
    /// Those without a verdict, in the order in which they came.
    open: Vec<usize>,
    verdicts: HashMap<usize, Verdict>,
}

impl Facts {
    fn is_locked(&self, seat: u32) -> bool {
        !self.free.contains(&seat) && !self.taken.contains_key(&seat)
    }
}

/// Who has these seats, of which it is only known that they cannot be locked as free ones.
async fn list_taken(conn: &mut Conn, hall: Hall, seats: &[u32]) -> Result<HashMap<u32, TakenSeat>, Problem> {
    if seats.is_empty() {
        return Ok(HashMap::new());
    }
    let (mut script, offset) = (Script::default(), conn.offset_micros());
    let asked = seats::store::ask_taken_among(&mut script, offset, hall.performance, seats);
    let taken = script.run(conn).await?.list(&asked)?;
    Ok(taken.into_iter().map(|seat: TakenSeat| (seat.seat_no, seat)).collect())
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut sorted: Vec<T> = items.collect();
    sorted.sort_unstable();
    sorted.dedup();
    sorted
}

impl<'b> Round<'b> {
    async fn run(conn: &mut Conn, batch: &'b [Arc<Wanted>], others: Others) -> Result<Answers<Answer>, Problem> {
        // What an earlier run decided says nothing of this one.
        for one in batch {
            one.set(None);
        }
        let mut round = Self { batch, open: (0..batch.len()).collect(), verdicts: HashMap::new() };
        let Some(facts) = round.ask(conn, others).await? else { return Ok(Vec::new()) };
        round.repeat(&facts);
        round.check_sale(&facts);
        round.refuse(|one| (!facts.live.contains(&one.pass)).then(pass::expired));
        round.check_limits(&facts);
        round.take(&facts);
        round.write(conn, &facts).await?;
        round.end()
    }

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

    /// Everything that must be known, in one round trip. The passes are locked first: a request that another instance is doing
    /// at this moment is found once its transaction has ended. None where nobody asks.
    async fn ask(&self, conn: &mut Conn, others: Others) -> Result<Option<Facts>, Problem> {
        let Some(first) = self.batch.first() else { return Ok(None) };
        let (hall, concert, offset) = (first.hall, first.concert.clone(), conn.offset_micros());
        let passes = sorted(self.batch.iter().map(|one| one.pass));
        let users = sorted(self.batch.iter().map(|one| one.user));
        let seats = sorted(self.batch.iter().flat_map(|one| &one.seats).map(|seat| seat.number));
        let begun: Vec<&Begun> = self.batch.iter().filter_map(|one| one.begun.as_deref()).collect();

        let mut script = Script::default();
        let asked = pass::ask(&mut script, offset, concert.id, &passes);
        let stored = idempotency::ask_stored(&mut script, offset, &begun);
        let held = store::ask_live_seat_counts(&mut script, offset, concert.id, &users);
        let reserved = reservations::store::ask_live_seat_counts(&mut script, concert.id, &users);
        let ask_free = match others {
            Others::ArePassedBy => seats::store::ask_unlocked_free_for_update,
            Others::AreWaitedFor => seats::store::ask_free_for_update,
        };
        let free = ask_free(&mut script, offset, hall.performance, &seats);
        let outcomes = script.run(conn).await?;

        let pass::Found { live, now, halt } = asked.read(&outcomes)?;
        let now = match now {
            Some(now) => now,
            None => db::now(conn).await?,
        };
        let mut counts: HashMap<UserId, u64> = HashMap::new();
        for (user, seats) in outcomes.list(&held)?.into_iter().chain(outcomes.list(&reserved)?) {
            *counts.entry(user).or_default() += u64::from(seats);
        }
        let free: HashSet<u32> = outcomes.list(&free)?.into_iter().map(|(seat,)| seat).collect();
        let missing: Vec<u32> = seats.into_iter().filter(|seat| !free.contains(seat)).collect();
        let taken = list_taken(conn, hall, &missing).await?;
        let mut found = idempotency::read_stored(conn, &begun, (&outcomes, &stored)).await?.into_iter();
        let before = self.batch.iter().map(|one| one.begun.as_ref().and_then(|_| found.next()?)).collect();
        Ok(Some(Facts { hall, concert, now, live, halt, before, counts, free, taken }))
    }

    /// Answers requests that took effect before as they were answered then.
    fn repeat(&mut self, facts: &Facts) {
        for (at, before) in facts.before.iter().enumerate() {
            if let Some(before) = before {
                self.settle(at, Answer::again(before));
            }
        }
        self.open.retain(|at| !self.verdicts.contains_key(at));
    }

    fn check_sale(&mut self, facts: &Facts) {
        let is_closed = facts.now >= facts.concert.hours().booking_closes_at;
        self.refuse(|_| match facts.halt.refusal() {
            Some(refusal) => Some(refusal),
            None => is_closed.then(|| Problem::new(&BOOKING_CLOSED)),
        });
    }

    /// Refuses who would have more seats of the concert than its limit.
    fn check_limits(&mut self, facts: &Facts) {
        let (mut counts, limit) = (facts.counts.clone(), facts.concert.seat_limit_per_buyer);
        self.refuse(|one| {
            let count = counts.entry(one.user).or_default();
            if *count + one.seats.len() as u64 > u64::from(limit) {
                return Some(over_limit(&facts.concert));
            }
            // Counted even if its seats turn out to be taken: one buyer has one request at a time in a batch.
            *count += one.seats.len() as u64;
            None
        });
    }

    /// Gives the seats to whoever came first.
    fn take(&mut self, facts: &Facts) {
        let mut free = facts.free.clone();
        self.refuse(|one| {
            let gone: Vec<&HeldSeat> = one.seats.iter().filter(|seat| !free.contains(&seat.number)).collect();
            if !gone.is_empty() {
                let labels: Vec<&str> = gone.iter().map(|seat| seat.id.as_str()).collect();
                let refusal = Problem::new(&SEATS_TAKEN).with("seat_ids", json!(labels));
                // Where somebody is at all of them who has none of them yet, waiting may help.
                let may_come = gone.iter().all(|seat| facts.is_locked(seat.number));
                return Some(if may_come { refusal.fault_of(Fault::LockWait) } else { refusal });
            }
            for seat in &one.seats {
                free.remove(&seat.number);
            }
            None
        });
        // Which of its seats others have outside of this batch.
        for (at, verdict) in &mut self.verdicts {
            let seats = self.batch[*at].seats.iter();
            verdict.lost = seats.filter_map(|seat| facts.taken.get(&seat.number).copied()).collect();
        }
    }

    /// Writes the holds of whoever is left, and their answers, in one round trip.
    async fn write(&mut self, conn: &mut Conn, facts: &Facts) -> Result<(), Problem> {
        let mut holds = Vec::with_capacity(self.open.len());
        for at in std::mem::take(&mut self.open) {
            let one = &*self.batch[at];
            let amount = Money::sum(one.seats.iter().map(|seat| seat.price));
            let amount = amount.ok_or_else(|| Problem::internal(anyhow::anyhow!("prices overflow")))?;
            let until = facts.now.plus(one.hold_for);
            let hold = Hold::new(one.id, HoldStatus::Held, facts.hall.performance, one.seats.clone(), amount, until);
            let made = MadeHold { hold, leaves_orphan: one.leaves_orphan, arrangement: one.arrangement };
            let answer = Answer::json(CREATED, &made)?;
            self.verdicts.insert(at, Verdict { answer: Ok(answer), until: Some(until), lost: Vec::new() });
            holds.push(NewHold {
                id: one.id,
                user: one.user,
                concert: facts.hall.concert,
                performance: facts.hall.performance,
                seats: &one.seats,
                amount,
                now: facts.now,
                expires_at: until,
            });
        }
        if holds.is_empty() {
            return Ok(());
        }
        let seats_of = |hold: &NewHold<'_>| {
            let (id, until) = (hold.id, hold.expires_at);
            hold.seats.iter().map(move |seat| (seat.number, id, until)).collect::<Vec<_>>()
        };
        let taken: Vec<_> = holds.iter().flat_map(seats_of).collect();
        let mut script = Script::default();
        store::insert_all(&mut script, &holds);
        let held = seats::store::hold(&mut script, facts.hall.performance, &taken);
        idempotency::store(&mut script, conn.offset_micros(), &self.answers());
        let changed = script.run(conn).await?.affected(&held);
        if changed != taken.len() as u64 {
            return Err(Problem::internal(anyhow::anyhow!("{changed} of {} locked seats were held", taken.len())));
        }
        Ok(())
    }

    /// The new answers of keyed requests.
    fn answers(&self) -> Vec<(&Begun, &Answer)> {
        let made = self.verdicts.iter().filter(|(_, verdict)| verdict.until.is_some());
        made.filter_map(|(at, verdict)| Some((self.batch[*at].begun.as_deref()?, verdict.answer.as_ref().ok()?)))
            .collect()
    }

    /// Leaves each verdict with its request, in case that the commit is not answered.
    fn end(mut self) -> Result<Answers<Answer>, Problem> {
        let mut answers = Vec::with_capacity(self.batch.len());
        for (at, one) in self.batch.iter().enumerate() {
            let verdict = self.verdicts.remove(&at);
            let verdict = verdict.ok_or_else(|| Problem::internal(anyhow::anyhow!("a request without a verdict")))?;
            answers.push(Answer::again(&verdict.answer));
            one.set(Some(verdict));
        }
        Ok(answers)
    }
}
