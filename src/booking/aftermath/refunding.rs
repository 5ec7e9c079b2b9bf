//! Giving the money of cancelled concerts back, a few reservations a second on each instance.
//!
//! There is no leader and no lease: every instance takes reservations that are still confirmed, in no order, each in a
//! transaction that passes by what another one has locked. So one that dies leaves nothing behind, and the others just go on.
//!
//! Concerts take turns: a round begins behind the last one that had a share of the round before. So neither those that cannot be
//! finished nor one with very many reservations keep the others waiting, and what goes wrong with one does not end the round.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use rand::seq::SliceRandom as _;
use uuid::Uuid;

use super::cancellation::Aftermath;
use super::store::{self, Place, Running};
use crate::booking::holds::{self, HoldId};
use crate::booking::reservations::store::refunds::{count_open, list_confirmed};
use crate::booking::reservations::{self, ReservationId};
use crate::booking::seats;
use crate::catalog::ConcertId;
use crate::catalog::domain::Concert;
use crate::platform::clock::Timestamp;
use crate::platform::db::Conn;
use crate::platform::error::{Fault, Problem};

/// Cancellations worked on in one round. Further ones have their turn in the next.
const RUNNING_MAX: usize = 20;
/// Held seats looked at in one performance at once.
const HELD_MAX: u32 = 200;

/// Before all cancellations.
const START: Place = Place { requested_at: Timestamp::EPOCH, concert_id: ConcertId(Uuid::nil()) };

/// What an instance remembers of running cancellations from one round to the next.
#[derive(Debug)]
pub(super) struct Turns {
    /// The one that was worked on last.
    last: Place,
    /// Of each, the reservation up to which this instance has looked: one that cannot be given back does not stand before the
    /// others for ever.
    looked: HashMap<ConcertId, ReservationId>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { last: START, looked: HashMap::new() }
    }
}

impl Aftermath {
    /// Gives back at most a second's share of what is to be given back. To be called every second.
    ///
    /// # Errors
    /// Where MySQL does not answer, or something went wrong with one of the concerts: the next call goes on.
    pub async fn give_back(&self) -> Result<(), Problem> {
        let mut left = self.refunds_per_second_max;
        let mut failed = None;
        for one in self.next_running().await? {
            self.turns().last = one.place;
            let concert = one.place.concert_id;
            let freed = if one.may_have_holds { self.free_holds_of(concert).await } else { Ok(()) };
            for problem in [freed, self.give_some_back(concert, &mut left).await].into_iter().filter_map(Result::err) {
                if self.stuck.is_due() {
                    tracing::error!(%concert, %problem, "a cancelled concert is held up");
                }
                failed = Some(problem);
            }
            if left == 0 {
                break;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running cancellations whose turn it is: those behind the last one, then the others from the first on.
    async fn next_running(&self) -> Result<Vec<Running>, Problem> {
        let last = self.turns().last;
        let mut running = self.list_running(last, RUNNING_MAX).await?;
        if running.len() < RUNNING_MAX && last != START {
            let first = self.list_running(START, RUNNING_MAX - running.len()).await?;
            let is_new = |one: &Running| !running.iter().any(|known| known.place == one.place);
            let first: Vec<Running> = first.into_iter().filter(is_new).collect();
            running.extend(first);
        }
        if running.len() < RUNNING_MAX {
            // These are all: of others nothing needs to be remembered.
            let is_running = |concert: &ConcertId| running.iter().any(|one| one.place.concert_id == *concert);
            self.turns().looked.retain(|concert, _| is_running(concert));
        }
        Ok(running)
    }

    async fn list_running(&self, after: Place, limit: usize) -> Result<Vec<Running>, Problem> {
        let input = (self.hold_for + self.grace(), after, u32::try_from(limit).unwrap_or(u32::MAX));
        let running = self.db.read("aftermath.list_running", input, |conn, (holds_end_after, after, limit)| {
            Box::pin(store::list_running(conn, *holds_end_after, *after, *limit))
        });
        running.await
    }

    async fn free_holds_of(&self, concert: ConcertId) -> Result<(), Problem> {
        let concert = self.catalog.reader().get_concert(concert).await?;
        self.free_holds(&concert).await
    }

    /// How long what had found a concert on sale may still be committed: no unit of work lives longer, and its server ends what
    /// is left of it.
    fn grace(&self) -> Duration {
        2 * self.db.unit_limit()
    }

    /// Ends live holds, so that nobody waits for what cannot be paid any more.
    async fn free_holds(&self, concert: &Concert) -> Result<(), Problem> {
        for performance in &concert.performances {
            let input = (performance.id, HELD_MAX);
            let held: Vec<HoldId> = self
                .db
                .read("aftermath.list_holds", input, |conn, (performance, limit)| {
                    Box::pin(seats::store::list_live_holds(conn, *performance, *limit))
                })
                .await?;
            for hold in held {
                let end =
                    self.db.in_tx("aftermath.end_hold", hold, |conn, hold| Box::pin(holds::end_if_live(conn, *hold)));
                end.await?;
            }
        }
        Ok(())
    }

    /// Gives up to `left` reservations of a concert back, fewer by which `left` is then, and ends its cancellation where there are
    /// none.
    async fn give_some_back(&self, concert: ConcertId, left: &mut u32) -> Result<(), Problem> {
        let limit = *left;
        let after = self.turns().looked.get(&concert).copied().unwrap_or(ReservationId(Uuid::nil()));
        let input = (concert, after, limit);
        let list = self.db.read("aftermath.list_confirmed", input, |conn, (concert, after, limit)| {
            Box::pin(list_confirmed(conn, *concert, *after, *limit))
        });
        let mut ids = list.await?;
        match ids.last() {
            Some(last) if ids.len() == limit as usize => drop(self.turns().looked.insert(concert, *last)),
            // From the beginning again: what could not be given back, and what was paid meanwhile.
            _ => drop(self.turns().looked.remove(&concert)),
        }
        if ids.is_empty() {
            return if after.0.is_nil() { self.finish(concert).await } else { Ok(()) };
        }
        // Instances that work on the same ones would mostly meet each other.
        ids.shuffle(&mut rand::rng());
        for id in &ids {
            *left = left.saturating_sub(1);
            self.give_one_back(concert, *id).await?;
        }
        self.wake.now();
        Ok(())
    }

    async fn give_one_back(&self, concert: ConcertId, id: ReservationId) -> Result<(), Problem> {
        let refund = self
            .db
            .in_tx("aftermath.refund", (concert, id), |conn, (concert, id)| Box::pin(refund(conn, *concert, *id)));
        match refund.await {
            // Something is wrong with this one. It is tried again; the others do not wait for it.
            Err(problem) if !is_away(&problem) => {
                if self.seldom.is_due() {
                    tracing::error!(%concert, reservation = %id, %problem, "a reservation of a cancelled concert cannot be given back");
                }
                Ok(())
            }
            result => result,
        }
    }

    /// Ends a cancellation once nothing is left to give back, and nothing can come any more: a payment that had found the
    /// concert on sale is committed by then, or never.
    async fn finish(&self, concert: ConcertId) -> Result<(), Problem> {
        let input = (concert, self.grace());
        let finish =
            self.db.in_tx("aftermath.finish", input, |conn, (concert, age)| Box::pin(finish(conn, *concert, *age)));
        finish.await
    }
}

/// Whether the database is what failed, and the next one would fail as well.
fn is_away(problem: &Problem) -> bool {
    let is_away = matches!(problem.fault(), Some(Fault::Disconnected | Fault::ReadOnly | Fault::Exhausted));
    is_away || problem.is_unanswered()
}

async fn refund(conn: &mut Conn, concert: ConcertId, id: ReservationId) -> Result<(), Problem> {
    match reservations::refund_if_confirmed(conn, id).await? {
        Some(amount) => store::count_refund(conn, concert, amount).await,
        None => Ok(()),
    }
}

async fn finish(conn: &mut Conn, concert: ConcertId, age: Duration) -> Result<(), Problem> {
    if count_open(conn, concert).await?.all > 0 {
        return Ok(());
    }
    store::finish(conn, concert, age).await
}
