//! Copies who has which place to MySQL, in batches, a moment after the line gave it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::metrics;
use super::service::Queue;
use super::store::places::{self, PlaceRow};
use crate::platform::error::Problem;

/// Places that wait to be copied at most. Past it the oldest stay uncopied: their tickets still prove them.
const WAITING_MAX: usize = 50_000;
/// Places copied by one statement.
const BATCH_MAX: usize = 500;

/// Lines that are over and looked at by one call.
const OVER_MAX: usize = 100;

/// Places that wait to be copied.
#[derive(Debug, Default)]
pub(super) struct Copying(Mutex<VecDeque<PlaceRow>>);

impl Copying {
    /// Notes a place.
    pub fn add(&self, place: PlaceRow) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() == WAITING_MAX {
            waiting.pop_front();
            metrics::place_not_copied();
        }
        waiting.push_back(place);
    }

    fn take(&self) -> Vec<PlaceRow> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.len().min(BATCH_MAX);
        waiting.drain(..count).collect()
    }

    fn put_back(&self, batch: Vec<PlaceRow>) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for place in batch.into_iter().rev() {
            if waiting.len() == WAITING_MAX {
                metrics::place_not_copied();
            } else {
                waiting.push_front(place);
            }
        }
    }
}

impl Queue {
    /// Copies whatever waits.
    ///
    /// # Errors
    /// Where MySQL does not answer: what was not copied waits for the next call.
    pub async fn copy_places(&self) -> Result<(), Problem> {
        loop {
            let batch = self.copying.take();
            if batch.is_empty() {
                return Ok(());
            }
            let copy = self
                .parts
                .db
                .in_tx("queue.copy_places", batch.clone(), |conn, batch| Box::pin(places::insert_all(conn, batch)));
            if let Err(problem) = copy.await {
                self.copying.put_back(batch);
                return Err(problem);
            }
        }
    }
}

impl Queue {
    /// Deletes up to `limit` places of lines that are long over, and says how many.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn tidy_places(&self, limit: u32) -> Result<u64, Problem> {
        let (limit, mut deleted) = (u64::from(limit), 0);
        for _ in 0..OVER_MAX {
            let delete = self
                .parts
                .db
                .in_tx("queue.tidy_places", limit - deleted, |conn, limit| Box::pin(places::delete_old(conn, *limit)));
            let Some(more) = delete.await? else { break };
            deleted += more;
            if deleted >= limit {
                break;
            }
        }
        Ok(deleted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::UserId;
    use crate::catalog::ConcertId;

    #[test]
    fn what_waits_is_bounded_and_keeps_its_order() {
        let copying = Copying::default();
        let concert = ConcertId::new();
        let place = |arrival| PlaceRow { concert, arrival, user: UserId::new() };
        (0..WAITING_MAX as u64 + 10).for_each(|arrival| copying.add(place(arrival)));
        let batch = copying.take();
        assert_eq!((batch.len(), batch[0].arrival), (BATCH_MAX, 10));
        copying.put_back(batch);
        assert_eq!(copying.0.lock().unwrap().len(), WAITING_MAX);
        assert_eq!(copying.take()[0].arrival, 10);
    }
}
