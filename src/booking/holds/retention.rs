//! Forgetting holds that came to nothing, some weeks after they ended.
//!
//! A hold that was paid is kept, and so is one that somebody tried to pay by card: what became of that payment can be followed
//! from its hold.
//!
//! What is kept is met again and again, and there may be more of it than one run looks at. So each run goes on where the last one
//! on this instance stopped, and only begins anew once it has been at the end.

use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use super::domain::HoldId;
use super::service::Holds;
use super::store::{self, Over, Reached};
use crate::payments::{self, Subject};
use crate::platform::clock::Timestamp;
use crate::platform::db::Conn;
use crate::platform::error::Problem;

/// How much one run looks at.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Holds in one transaction.
    pub rows: u32,
    /// Transactions at most, for each way in which a hold ends.
    pub batches_max: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { rows: 300, batches_max: 100 }
    }
}

/// Before all that has ended.
const START: Reached = Reached { ended: Timestamp::EPOCH, hold: HoldId(Uuid::nil()) };

/// How far this instance has looked, for each way in which a hold ends.
#[derive(Debug)]
pub(super) struct Walk {
    released: Mutex<Reached>,
    expired: Mutex<Reached>,
}

impl Default for Walk {
    fn default() -> Self {
        Self { released: Mutex::new(START), expired: Mutex::new(START) }
    }
}

impl Walk {
    const fn of(&self, over: Over) -> &Mutex<Reached> {
        match over {
            Over::Released => &self.released,
            Over::Expired => &self.expired,
        }
    }

    fn reached(&self, over: Over) -> Reached {
        *self.of(over).lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, over: Over, reached: Reached) {
        *self.of(over).lock().unwrap_or_else(PoisonError::into_inner) = reached;
    }
}

/// Which holds one transaction looks at.
#[derive(Clone, Copy)]
struct Share {
    over: Over,
    /// Those after this one.
    after: Reached,
    keep_days: u32,
    rows: u32,
}

impl Holds {
    /// Forgets holds that were released or ended by time, with their seats, so many days after their end. Returns how many. A run
    /// that has looked at as many as it may is continued by the next one.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn tidy(&self, pace: Pace) -> Result<u64, Problem> {
        let (db, walk, keep_days) = self.for_tidying();
        let mut forgotten = 0;
        for over in [Over::Released, Over::Expired] {
            for _ in 0..pace.batches_max {
                let share = Share { over, after: walk.reached(over), keep_days, rows: pace.rows };
                let tidied = db.in_tx("booking.tidy_holds", share, |conn, share| Box::pin(tidy(conn, *share)));
                let (count, last) = tidied.await?;
                forgotten += count;
                walk.set(over, last.unwrap_or(START));
                if last.is_none() {
                    break;
                }
            }
        }
        Ok(forgotten)
    }
}

/// How many were forgotten, and, where there may be more, the last one that was looked at.
async fn tidy(conn: &mut Conn, share: Share) -> Result<(u64, Option<Reached>), Problem> {
    let found = store::list_over_for_update(conn, share.over, share.after, share.keep_days, share.rows).await?;
    let is_full = found.len() as u64 == u64::from(share.rows);
    let last = found.last().filter(|_| is_full).map(|(hold, ended)| Reached { ended: *ended, hold: *hold });
    let subjects: Vec<Subject> = found.iter().map(|(hold, _)| Subject::Hold(hold.0)).collect();
    let tried = payments::list_tried(conn, &subjects).await?;
    let gone: Vec<HoldId> = found.into_iter().map(|(hold, _)| hold).filter(|hold| !tried.contains(&hold.0)).collect();
    Ok((store::delete_all(conn, &gone).await?, last))
}
