//! Forgetting holds that came to nothing, some weeks after they ended.
//!
//! A hold that was paid is kept, and so is one that somebody tried to pay by card: what became of that payment can be followed
//! from its hold.

use super::domain::HoldId;
use super::service::Holds;
use super::store::{self, Over};
use crate::payments::{self, Subject};
use crate::platform::clock::Timestamp;
use crate::platform::db::Conn;
use crate::platform::error::Problem;

/// Holds looked at in one transaction, and transactions of one run at most for each way in which a hold ends.
const ROWS: u32 = 300;
const BATCHES_MAX: u32 = 100;

/// Which holds one transaction looks at.
#[derive(Clone, Copy)]
struct Share {
    over: Over,
    /// They ended after this.
    after: Timestamp,
    keep_days: u32,
}

impl Holds {
    /// Forgets holds that were released or ended by time, with their seats, so many days after their end. Returns how many.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn tidy(&self) -> Result<u64, Problem> {
        let (db, keep_days) = self.for_tidying();
        let mut forgotten = 0;
        for over in [Over::Released, Over::Expired] {
            let mut share = Share { over, after: Timestamp::EPOCH, keep_days };
            for _ in 0..BATCHES_MAX {
                let tidied = db.in_tx("booking.tidy_holds", share, |conn, share| Box::pin(tidy(conn, *share)));
                let (count, last) = tidied.await?;
                forgotten += count;
                match last {
                    Some(last) => share.after = last,
                    None => break,
                }
            }
        }
        Ok(forgotten)
    }
}

/// How many were forgotten, and, where there may be more, when the last one that was looked at ended.
async fn tidy(conn: &mut Conn, share: Share) -> Result<(u64, Option<Timestamp>), Problem> {
    let found = store::list_over_for_update(conn, share.over, share.after, share.keep_days, ROWS).await?;
    let last = found.last().filter(|_| found.len() as u64 == u64::from(ROWS)).map(|(_, ended)| *ended);
    let subjects: Vec<Subject> = found.iter().map(|(hold, _)| Subject::Hold(hold.0)).collect();
    let tried = payments::list_tried(conn, &subjects).await?;
    let gone: Vec<HoldId> = found.into_iter().map(|(hold, _)| hold).filter(|hold| !tried.contains(&hold.0)).collect();
    Ok((store::delete_all(conn, &gone).await?, last))
}
