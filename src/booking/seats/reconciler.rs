//! Keeps the seat filter in order: makes it from MySQL where there is none, and puts right what it says wrongly.
//!
//! The filter is read before MySQL, and a seat is changed only where it is still as it was read, its end included, and MySQL says
//! the same when it is asked again: whatever was told to the filter meanwhile stands. A seat that is marked for a request is left
//! alone: somebody may be asking MySQL for it, and the mark ends by itself.

use std::sync::PoisonError;
use std::time::Duration;

use futures::StreamExt as _;

use super::board::Picture;
use super::filter::{Asked, CALL_LIMIT, Difference, Fate, Filter, Hall};
use super::metrics;
use super::store::{self, TakenSeat};
use crate::catalog::PerformanceId;
use crate::platform::clock::Timestamp;
use crate::platform::error::Problem;

/// Performances compared at the same time by one instance.
const HALLS_AT_ONCE: usize = 4;
/// Filters made at the same time by one instance because somebody missed them.
const MAKING_MAX: usize = 4;
/// How long nobody tries again to make a filter that could not be made.
const MAKING_PAUSE: Duration = Duration::from_millis(500);
/// Seats put right by one script.
const HEALED_AT_ONCE: usize = 2000;

/// Marks a filter as being made here until dropped.
struct Making {
    filter: Filter,
    performance: PerformanceId,
}

impl Drop for Making {
    fn drop(&mut self) {
        self.filter.0.making.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.performance);
    }
}

impl Filter {
    /// Compares every filter that this instance uses to MySQL, if no other instance has done it in this period.
    pub async fn reconcile(&self) {
        let halls: Vec<Hall> = self.0.halls.iter().map(|(_, hall)| hall).collect();
        let reconcile = |hall: Hall| async move {
            match self.reconcile_hall(hall).await {
                Ok(()) => drop(self.0.unkept.end()),
                Err(problem) if self.0.unkept.is_due() => {
                    tracing::warn!(performance = %hall.performance, %problem, "a seat filter cannot be compared to MySQL");
                }
                Err(_) => {}
            }
        };
        futures::stream::iter(halls).for_each_concurrent(HALLS_AT_ONCE, reconcile).await;
    }

    async fn reconcile_hall(&self, hall: Hall) -> Result<(), Problem> {
        // Instances do not come by at the same pace: a turn that is nearly due is due.
        let found = match self.ask(CALL_LIMIT, self.0.filters.take_turn(hall, self.0.period * 3 / 4)).await {
            Asked::Answer(Some(found)) => found,
            Asked::Answer(None) | Asked::Away => return Ok(()),
            Asked::Cold => {
                let Some(_making) = self.begin_making(hall.performance) else { return Ok(()) };
                return self.rebuild(hall).await;
            }
        };
        let rows = self.list_taken(hall).await?;
        for part in differences(&found, &rows, hall.seats_total).chunks(HEALED_AT_ONCE) {
            let part = self.still_different(hall, part).await?;
            if part.is_empty() {
                continue;
            }
            if let Asked::Answer((taken, free)) = self.ask(CALL_LIMIT, self.0.filters.heal(hall, &part)).await {
                metrics::healed(taken, free);
            }
        }
        Ok(())
    }

    /// Those of the seats that MySQL still knows as it did, with their ends as they were before it was asked again. While people
    /// book, most differences are seats that somebody was just getting.
    async fn still_different(&self, hall: Hall, part: &[Difference]) -> Result<Vec<Difference>, Problem> {
        let seats: Vec<u32> = part.iter().map(|one| one.seat).collect();
        let Asked::Answer(ends) = self.ask(CALL_LIMIT, self.0.filters.ends(hall, &seats)).await else {
            return Ok(Vec::new());
        };
        let input = (hall.performance, seats);
        let read = self.0.db.read("seats.list_taken_among", input, |conn, (performance, seats)| {
            Box::pin(store::list_taken_among(conn, *performance, seats))
        });
        let mut rows = read.await?;
        rows.sort_unstable_by_key(|row| row.seat_no);
        let still = part.iter().zip(ends).map(|(one, ends)| Difference { ends, ..*one });
        Ok(still.filter(|one| fate(&rows, one.seat) == one.is).collect())
    }

    /// Makes the filter of a performance in the background, unless this instance is at it already, or at too many.
    pub(super) fn rebuild_soon(&self, hall: Hall) {
        let Some(making) = self.begin_making(hall.performance) else { return };
        let filter = self.clone();
        tokio::spawn(async move {
            let _making = making;
            if let Err(problem) = filter.rebuild(hall).await {
                if filter.0.unkept.is_due() {
                    tracing::warn!(performance = %hall.performance, %problem, "a seat filter cannot be made");
                }
                tokio::time::sleep(MAKING_PAUSE).await;
            }
        });
    }

    fn begin_making(&self, performance: PerformanceId) -> Option<Making> {
        let mut making = self.0.making.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = making.len() < MAKING_MAX && making.insert(performance);
        is_first.then(|| Making { filter: self.clone(), performance })
    }

    async fn rebuild(&self, hall: Hall) -> Result<(), Problem> {
        let rows = self.list_taken(hall).await?;
        let held = rows.iter().filter(|row| !row.is_sold);
        let held: Vec<(u32, Timestamp)> = held.filter_map(|row| Some((row.seat_no, row.held_until?))).collect();
        let picture = Picture::of(&rows, hall.seats_total);
        let made = async { self.0.filters.rebuild(hall, &picture, &held).await.map(Some) };
        match self.ask(CALL_LIMIT, made).await {
            Asked::Answer(true) => metrics::rebuilt(),
            Asked::Answer(false) => {}
            Asked::Cold | Asked::Away => {
                return Err(Problem::internal(anyhow::anyhow!("no answer to the rebuilt filter")));
            }
        }
        Ok(())
    }

    async fn list_taken(&self, hall: Hall) -> Result<Vec<TakenSeat>, Problem> {
        let read =
            self.0.db.read("seats.list_taken", hall.performance, |conn, id| Box::pin(store::list_taken(conn, *id)));
        read.await
    }
}

/// The seats that the filter knows otherwise than MySQL.
fn differences(found: &Picture, rows: &[TakenSeat], seats_total: u32) -> Vec<Difference> {
    let actual = Picture::of(rows, seats_total);
    if *found == actual {
        return Vec::new();
    }
    let mut rows = rows.to_vec();
    rows.sort_unstable_by_key(|row| row.seat_no);
    let differs =
        |seat: &u32| found.status(*seat) != actual.status(*seat) || found.taken.has(*seat) != actual.taken.has(*seat);
    let of = |seat| Difference {
        seat,
        was_taken: found.taken.has(seat),
        was_sold: found.sold.has(seat),
        is: fate(&rows, seat),
        ends: None,
    };
    (0..seats_total).filter(differs).map(of).collect()
}

/// What a seat is by these rows of what is taken, sorted by seat.
fn fate(rows: &[TakenSeat], seat: u32) -> Fate {
    let row = rows.binary_search_by_key(&seat, |row| row.seat_no).ok().and_then(|at| rows.get(at));
    Fate::of(row.map_or(&[], std::slice::from_ref), seat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_differs_by_what_it_is_in_mysql() {
        let until = Timestamp::from_millis(5_000);
        let row = |seat_no, is_sold| TakenSeat { seat_no, is_sold, held_until: until.filter(|_| !is_sold) };
        // In no order: 1 and 3 held, 2 and 4 sold.
        let rows = [row(4, true), row(1, false), row(3, false), row(2, true)];
        assert_eq!(differences(&Picture::of(&rows, 10), &rows, 10), []);
        let mut found = Picture::of(&[row(1, false), row(2, false), row(3, true), row(9, false)], 10);
        found.sold.set(8);
        let seen: Vec<_> =
            differences(&found, &rows, 10).iter().map(|one| (one.seat, one.was_taken, one.was_sold, one.is)).collect();
        let held = Fate::Held(until.unwrap());
        let expected = [
            (2, true, false, Fate::Sold),
            (3, true, true, held),
            (4, false, false, Fate::Sold),
            (8, false, true, Fate::Free),
            (9, true, false, Fate::Free),
        ];
        assert_eq!(seen, expected);
    }
}
