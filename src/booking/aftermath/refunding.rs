//! Giving the money of cancelled concerts back, a few reservations a second on each instance.
//!
//! There is no leader and no lease: every instance takes reservations that are still confirmed, in no order, each in a
//! transaction that passes by what another one has locked. So one that dies leaves nothing behind, and the others just go on.

use std::sync::PoisonError;
use std::time::Duration;

use rand::seq::SliceRandom as _;
use uuid::Uuid;

use super::cancellation::Aftermath;
use super::store;
use crate::booking::holds::{self, HoldId};
use crate::booking::reservations::store::refunds::{count_open, list_confirmed};
use crate::booking::reservations::{self, ReservationId};
use crate::booking::seats;
use crate::catalog::ConcertId;
use crate::catalog::domain::Concert;
use crate::platform::db::Conn;
use crate::platform::error::{Fault, Problem};

/// Cancellations worked on at once. Further ones wait for these.
const RUNNING_MAX: u32 = 20;
/// Held seats looked at in one performance at once.
const HELD_MAX: u32 = 200;

impl Aftermath {
    /// Gives back at most a second's share of what is to be given back. To be called every second.
    ///
    /// # Errors
    /// Where MySQL does not answer: the next call goes on.
    pub async fn give_back(&self) -> Result<(), Problem> {
        let input = (self.hold_for + self.grace(), RUNNING_MAX);
        let running = self.db.read("aftermath.list_running", input, |conn, (holds_end_after, limit)| {
            Box::pin(store::list_running(conn, *holds_end_after, *limit))
        });
        let running = running.await?;
        let is_running = |concert: &ConcertId| running.iter().any(|one| one.concert_id == *concert);
        self.looked.lock().unwrap_or_else(PoisonError::into_inner).retain(|concert, _| is_running(concert));
        let mut left = self.refunds_per_second_max;
        for one in running {
            if one.may_have_holds {
                let concert = self.catalog.reader().get_concert(one.concert_id).await?;
                self.free_holds(&concert).await?;
            }
            left = left.saturating_sub(self.give_some_back(one.concert_id, left).await?);
            if left == 0 {
                break;
            }
        }
        Ok(())
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

    /// Gives up to `limit` reservations of a concert back, and ends its cancellation where there are none. How many it looked at.
    async fn give_some_back(&self, concert: ConcertId, limit: u32) -> Result<u32, Problem> {
        let looked = || self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let after = looked().get(&concert).copied().unwrap_or(ReservationId(Uuid::nil()));
        let input = (concert, after, limit);
        let list = self.db.read("aftermath.list_confirmed", input, |conn, (concert, after, limit)| {
            Box::pin(list_confirmed(conn, *concert, *after, *limit))
        });
        let mut ids = list.await?;
        match ids.last() {
            Some(last) if ids.len() == limit as usize => drop(looked().insert(concert, *last)),
            // From the beginning again: what could not be given back, and what was paid meanwhile.
            _ => drop(looked().remove(&concert)),
        }
        if ids.is_empty() {
            if after.0.is_nil() {
                self.finish(concert).await?;
            }
            return Ok(0);
        }
        // Instances that work on the same ones would mostly meet each other.
        ids.shuffle(&mut rand::rng());
        for id in &ids {
            self.give_one_back(concert, *id).await?;
        }
        self.wake.now();
        Ok(u32::try_from(ids.len()).unwrap_or(limit))
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
