//! Lanes: what one buyer writes on an instance is written one after the other.
//!
//! One buyer's writes meet at the same rows (the balance, the pass), so they cannot run side by side in any case. Left
//! to the row locks, each that waits keeps a connection, and one buyer with many requests at once takes the whole pool
//! from everybody. In a lane they wait in memory instead. A lane lives as long as somebody is in it; who may wait in it
//! is bounded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use super::{Body, Conn, Db};
use crate::platform::error::Problem;
use crate::platform::telemetry::metrics;

/// The name of this limit.
const LIMIT: &str = "writes-at-once";

/// The lanes of one instance. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Lanes {
    lanes: Arc<Mutex<HashMap<Uuid, Lane>>>,
    waiting_max: usize,
}

#[derive(Debug)]
struct Lane {
    turn: Arc<Semaphore>,
    inside: usize,
}

/// A place in a lane, until dropped.
#[derive(Debug)]
struct Place {
    lanes: Lanes,
    user: Uuid,
}

/// The turn of whoever is first in a lane, until dropped.
#[derive(Debug)]
pub struct Turn {
    _permit: OwnedSemaphorePermit,
    _place: Place,
}

impl Lanes {
    pub(super) fn new(waiting_max: usize) -> Self {
        Self { lanes: Arc::default(), waiting_max }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the user's turn, or refuses where too many wait for it already.
    async fn enter(&self, user: Uuid) -> Result<Turn, Problem> {
        let (turn, place) = {
            let mut lanes = self.lock();
            let lane = lanes.entry(user).or_insert_with(|| Lane { turn: Arc::new(Semaphore::new(1)), inside: 0 });
            if lane.inside > self.waiting_max {
                metrics::rate_limited(LIMIT);
                return Err(Problem::rate_limited(LIMIT, self.waiting_max + 1, 1));
            }
            lane.inside += 1;
            (lane.turn.clone(), Place { lanes: self.clone(), user })
        };
        let permit = turn.acquire_owned().await.map_err(Problem::internal)?;
        Ok(Turn { _permit: permit, _place: place })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lanes = self.lanes.lock();
        if let Some(lane) = lanes.get_mut(&self.user) {
            lane.inside -= 1;
            if lane.inside == 0 {
                lanes.remove(&self.user);
            }
        }
    }
}

struct InLane<I, T> {
    input: I,
    body: Body<I, T>,
    /// Lives as long as the unit of work, even when the client is gone.
    _turn: Turn,
}

impl Db {
    /// Waits for the user's turn to write. It lasts until it is dropped: it must live as long as what is written.
    ///
    /// # Errors
    /// `rate_limited` where too much of the user's waits already.
    pub async fn turn_of(&self, user: Uuid) -> Result<Turn, Problem> {
        self.lanes.enter(user).await
    }

    /// As [`Db::in_tx`], after what the user is writing already.
    ///
    /// # Errors
    /// As [`Db::in_tx`], and `rate_limited` where too much of the user's waits already.
    pub async fn in_tx_of<I, T>(&self, user: Uuid, name: &'static str, input: I, body: Body<I, T>) -> Result<T, Problem>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.in_tx_of_within(user, name, self.unit_limit(), (input, body)).await
    }

    /// The same, with a time limit of its own.
    ///
    /// # Errors
    /// As [`Db::in_tx_of`].
    pub async fn in_tx_of_within<I, T>(
        &self,
        user: Uuid,
        name: &'static str,
        limit: Duration,
        (input, body): (I, Body<I, T>),
    ) -> Result<T, Problem>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        let turn = self.lanes.enter(user).await?;
        let lane = InLane { input, body, _turn: turn };
        self.in_tx_within(name, limit, lane, |conn, lane| run(conn, lane)).await
    }
}

fn run<'c, I: Send + Sync, T: Send>(conn: &'c mut Conn, lane: &'c InLane<I, T>) -> BoxFuture<'c, Result<T, Problem>> {
    (lane.body)(conn, &lane.input)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_lane_has_one_turn_at_a_time_and_a_bounded_wait() {
        let (lanes, user) = (Lanes::new(1), Uuid::now_v7());
        let first = lanes.enter(user).await.expect("a turn");
        let mut second = Box::pin(lanes.enter(user));
        assert!(second.as_mut().now_or_never().is_none(), "it waits");
        let third = lanes.enter(user).now_or_never().expect("at once");
        assert_eq!(third.expect_err("a refusal").code().code, "rate_limited");
        assert!(lanes.enter(Uuid::now_v7()).now_or_never().is_some(), "others have lanes of their own");
        drop(first);
        drop(second.now_or_never().expect("its turn").expect("a turn"));
        assert!(lanes.lock().is_empty(), "nothing is left of an empty lane");
    }

    #[tokio::test]
    async fn who_goes_away_while_waiting_leaves_no_trace() {
        let (lanes, user) = (Lanes::new(8), Uuid::now_v7());
        let first = lanes.enter(user).await.expect("a turn");
        let mut gone = Box::pin(lanes.enter(user));
        assert!(gone.as_mut().now_or_never().is_none());
        drop(gone);
        drop(first);
        assert!(lanes.lock().is_empty());
        assert!(lanes.enter(user).now_or_never().is_some());
    }
}
