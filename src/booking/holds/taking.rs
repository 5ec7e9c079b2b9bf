//! From a request to its seats: which ones, past the filter, into the next transaction.
//!
//! The best seats are chosen in memory and then taken like named ones. Where another instance was faster, others are chosen.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use super::batch::Wanted;
use super::domain::{HeldSeat, HoldId};
use super::limits::Wish;
use super::marks::Marks;
use super::service::{Asked, Inner, Request};
use crate::accounts::UserId;
use crate::booking::seats::best::{self, Arrangement, Ask, Choice};
use crate::booking::seats::filter::{Claimed, Hall};
use crate::booking::seats::picker::Picker;
use crate::booking::seats::{NOT_ENOUGH_SEATS, SEATS_TAKEN, UNKNOWN_SEAT};
use crate::catalog::domain::Concert;
use crate::catalog::{Seat, SeatMap};
use crate::platform::db::Turn;
use crate::platform::error::{Problem, codes};
use crate::platform::http::keyed::Answer;
use crate::platform::idempotency::Begun;
use crate::queue::pass::{self, BOOKING_CLOSED, PassId};

/// How often seats are chosen for one request, while others keep taking them away.
const CHOICES_MAX: usize = 16;

/// What one buyer wants to take, whichever seats these are.
struct Taker {
    user: UserId,
    pass: PassId,
    concert: Arc<Concert>,
    map: Arc<SeatMap>,
    hall: Hall,
    begun: Option<Arc<Begun>>,
}

/// How the seats lie that are taken.
struct Lie {
    leaves_orphan: bool,
    arrangement: Option<Arrangement>,
}

impl Inner {
    /// Takes the seats that a request asks for, all or none.
    pub(super) async fn take(&self, request: Request, begun: Option<Arc<Begun>>) -> Result<Answer, Problem> {
        let parts = &self.parts;
        parts.limits.check(request.user)?;
        let performance = parts.catalog.get_performance(request.performance).await?;
        let concert = parts.catalog.get_concert(performance.concert_id).await?;
        self.check_sale(&concert).await?;
        let map = parts.catalog.get_seat_map(request.performance).await?;
        let pass = parts.passes.open(request.pass.as_deref(), request.user, concert.id, parts.clock.now())?;
        let hall = Hall { concert: concert.id, performance: request.performance, seats_total: map.seats_total() };
        let taker = Taker { user: request.user, pass: pass.id, concert, map, hall, begun };
        let answer = match request.seats {
            Asked::Named(labels) => self.take_named(&taker, &labels).await,
            Asked::Best { quantity, grade } => self.take_best(&taker, quantity, grade.as_deref()).await,
        };
        parts.limits.note(taker.user, taker.concert.id, &answer);
        answer
    }

    /// Refuses what is over for everybody, before anything else is looked at. MySQL says why: what is in memory may have been
    /// true a moment ago.
    async fn check_sale(&self, concert: &Concert) -> Result<(), Problem> {
        let parts = &self.parts;
        let is_closed = parts.clock.now() >= concert.hours().booking_closes_at;
        if is_closed || parts.halts.may_be_halted(concert.id) {
            parts
                .db
                .read("booking.check_sale", concert.id, |conn, id| Box::pin(pass::refuse_if_stopped(conn, *id)))
                .await?;
        }
        if is_closed { Err(Problem::new(&BOOKING_CLOSED)) } else { Ok(()) }
    }

    /// Waits for the buyer's turn. Of whom MySQL had to refuse lately it is asked first, as long as nothing is kept from others.
    async fn wait_for_turn(&self, taker: &Taker, seats: usize) -> Result<Turn, Problem> {
        let parts = &self.parts;
        let turn = parts.db.turn_of(taker.user.0).await?;
        if parts.limits.is_doubtful(taker.user, taker.concert.id) {
            let Taker { user, pass, ref concert, .. } = *taker;
            let wish = Wish { user, pass, concert: concert.clone(), seats: seats as u64 };
            parts.db.in_tx("booking.check_wish", wish, |conn, wish| Box::pin(wish.check(conn))).await?;
        }
        Ok(turn)
    }

    async fn take_named(&self, taker: &Taker, labels: &[String]) -> Result<Answer, Problem> {
        let numbers = numbers(&taker.map, labels)?;
        let turn = self.wait_for_turn(taker, numbers.len()).await?;
        // What is taken ends here: nothing else has been looked at.
        let mut marks = self.mark(taker, numbers, None).await?;
        let picker = self.parts.seats.get_picker(taker.hall.performance).await?;
        let taken = self.parts.seats.get_board(taker.hall.performance).await?;
        let leaves_orphan = best::leaves_orphan(picker.plan(), taken.board.taken(), &marks.seats);
        marks.picker = Some(picker);
        self.take_marked(taker, turn, marks, &Lie { leaves_orphan, arrangement: None }).await
    }

    async fn take_best(&self, taker: &Taker, quantity: u32, grade: Option<&str>) -> Result<Answer, Problem> {
        let picker = self.parts.seats.get_picker(taker.hall.performance).await?;
        if grade.is_some_and(|code| !picker.plan().has_grade(code)) {
            return Err(Problem::invalid_body("best_available.grade", "the concert has no such grade"));
        }
        let ask = Ask { quantity, grade };
        for choice in 0..CHOICES_MAX {
            let turn = self.wait_for_turn(taker, quantity as usize).await?;
            // Who has lost looks further and further away from where everybody looks first.
            let variety = if choice == 0 { 0 } else { rand::random_range(0..1 << choice.min(6)) };
            let Some(choice) = self.choose(taker, &picker, ask, variety).await? else {
                return Err(Problem::new(&NOT_ENOUGH_SEATS));
            };
            let Choice { seats, arrangement, leaves_orphan } = choice;
            let lie = Lie { leaves_orphan, arrangement: Some(arrangement) };
            let taken = match self.mark(taker, seats, Some(picker.clone())).await {
                Ok(marks) => self.take_marked(taker, turn, marks, &lie).await,
                Err(problem) => Err(problem),
            };
            match taken {
                Err(problem) if problem.code() == &SEATS_TAKEN => {}
                other => return other,
            }
        }
        // There may be seats yet: whether there are enough of them is not known.
        Err(Problem::new(&codes::OVERLOADED).detail("Others were faster every time."))
    }

    /// Seats for a request; none where there are too few. Before that is said, a picture of now is looked at: some may have been
    /// given back since the last one.
    async fn choose(
        &self,
        taker: &Taker,
        picker: &Picker,
        ask: Ask<'_>,
        variety: usize,
    ) -> Result<Option<Choice>, Problem> {
        let choice = picker.choose(ask, variety, self.parts.clock.now());
        if choice.is_some() {
            return Ok(choice);
        }
        self.parts.seats.look_again(taker.hall.performance, picker).await?;
        Ok(picker.choose(ask, variety, self.parts.clock.now()))
    }

    /// Takes seats that are marked for this request, if nobody has them.
    async fn take_marked(&self, taker: &Taker, turn: Turn, marks: Marks, lie: &Lie) -> Result<Answer, Problem> {
        let wanted = Wanted {
            id: HoldId::new(),
            user: taker.user,
            pass: taker.pass,
            hall: taker.hall,
            concert: taker.concert.clone(),
            seats: marks.seats.iter().filter_map(|number| taker.map.seat(*number)).map(held).collect(),
            leaves_orphan: lie.leaves_orphan,
            arrangement: lie.arrangement,
            hold_for: Duration::from_secs(self.parts.settings.hold_secs),
            begun: taker.begun.clone(),
            marks,
            verdict: Mutex::default(),
            _turn: turn,
        };
        let submitted = self.combiner.submit(taker.hall.performance.0, wanted);
        self.parts.latencies.time(submitted).await
    }

    /// Marks the seats for this request, unless the filter knows that they cannot be had. `chooser` is who chose them.
    async fn mark(&self, taker: &Taker, seats: Vec<u32>, chooser: Option<Arc<Picker>>) -> Result<Marks, Problem> {
        let (filter, clock, hall) = (self.parts.filter.clone(), self.parts.clock.clone(), taker.hall);
        let owner = taker.user;
        let mut marks = Marks {
            filter: filter.clone(),
            clock: clock.clone(),
            seats,
            is_chosen: chooser.is_some(),
            picker: chooser,
            claim: None,
            is_over: AtomicBool::new(false),
        };
        // In a task of its own: of a client that goes away in between, the marks are known to somebody who gives them back.
        let marking = tokio::spawn(async move {
            let asked_at = clock.now();
            let claimed = filter.claim_for(Some(owner), hall, &marks.seats, marks.picker.is_some()).await;
            match claimed {
                Claimed::Granted(claim) => marks.claim = Some(claim),
                Claimed::Refused { seats, taken } => {
                    if let Some((picker, taken)) = marks.picker.as_ref().zip(taken) {
                        picker.refresh(&taken, asked_at);
                    }
                    return Err(seats);
                }
                Claimed::Unknown => {}
            }
            Ok(marks)
        });
        let marked = marking.await.map_err(Problem::internal)?;
        marked.map_err(|refused| seats_taken(&taker.map, &refused))
    }
}

/// The numbers of these seats, sorted: the order in which everybody locks.
fn numbers(map: &SeatMap, labels: &[String]) -> Result<Vec<u32>, Problem> {
    let (mut numbers, mut unknown) = (Vec::with_capacity(labels.len()), Vec::new());
    for label in labels {
        match map.index_of(label) {
            Some(number) => numbers.push(number),
            None => unknown.push(label.clone()),
        }
    }
    if !unknown.is_empty() {
        return Err(Problem::new(&UNKNOWN_SEAT).with("seat_ids", unknown));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn held(seat: &Seat) -> HeldSeat {
    HeldSeat { id: seat.label.clone(), grade: seat.grade.to_string(), price: seat.price, number: seat.index }
}

fn seats_taken(map: &SeatMap, seats: &[u32]) -> Problem {
    let labels: Vec<&str> = seats.iter().filter_map(|seat| map.seat(*seat)).map(|seat| seat.label.as_str()).collect();
    Problem::new(&SEATS_TAKEN).with("seat_ids", json!(labels))
}
