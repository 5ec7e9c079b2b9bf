//! House seats: taken out of sale by the operator, and given back.
//!
//! The row of a blocked seat looks held: by the id of its block, of which there is no hold, and without end. So whoever asks
//! whether a seat is held leaves it alone, instances of the version before included, and no clock ever frees it.
//!
//! Invariants:
//! - A request blocks all its seats or none; one that is sold, or held by somebody who is still deciding, is refused.
//! - Both orders may be repeated: what is blocked already, or not blocked any more, is as it was asked for.
//! - The log of actions has every order, with the seats that it changed.

use std::sync::Arc;

use serde::Serialize;
use serde_json::json;

use super::filter::{Change, Filter, Hall};
use super::{News, SEATS_TAKEN, UNKNOWN_SEAT, store};
use crate::accounts::{UserId, actions};
use crate::catalog::seat_map::SeatMap;
use crate::catalog::{PerformanceId, Reader, Seat};
use crate::platform::db::{Conn, Db};
use crate::platform::error::Problem;
use crate::platform::http::keyed::{Answer, CREATED, RequestKey};
use crate::platform::idempotency::Idempotency;

/// Seats that one order names at most: they are locked together.
pub const SEATS_MAX: usize = 2000;
/// Of an entry of the log, what its runs of seats may take, in characters.
const RUNS_CHARS_MAX: usize = 1600;

crate::id_types! {
    /// Seats that were blocked together.
    BlockId;
}

/// The house seats of one instance.
#[derive(Clone, Debug)]
pub struct Blocks {
    /// The database.
    pub db: Db,
    /// Keys of requests.
    pub idempotency: Idempotency,
    /// The catalogue.
    pub catalog: Arc<Reader>,
    /// Hears what is out of sale.
    pub filter: Filter,
}

/// What an operator asks for.
#[derive(Debug)]
pub struct Order {
    /// Who asks.
    pub operator: UserId,
    /// For which evening.
    pub performance: PerformanceId,
    /// Labels of the seats, each once.
    pub seat_ids: Vec<String>,
}

/// Seats that are out of sale.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct BlockView {
    /// The performance.
    pub performance_id: PerformanceId,
    /// Labels of the seats, in the order of the map.
    pub seat_ids: Vec<String>,
}

/// An order whose seats are known.
struct Changing {
    operator: UserId,
    hall: Hall,
    map: Arc<SeatMap>,
    /// By number: the order in which everybody locks.
    seats: Vec<u32>,
    news: News,
}

impl Blocks {
    /// Takes all the seats out of sale, or none: 201 with the seats, those that were blocked before among them.
    ///
    /// # Errors
    /// 404, `unknown_seat`, `seats_taken`, or what keys and the database refuse with.
    pub async fn block(&self, order: Order, key: RequestKey) -> Result<Answer, Problem> {
        let changing = Box::pin(self.changing(order)).await?;
        let news = changing.news.clone();
        let answer = self
            .idempotency
            .once("seats.block", changing.operator.0, key, changing, |conn, changing| Box::pin(changing.block(conn)))
            .await?;
        news.tell(&self.filter).await;
        Ok(answer)
    }

    /// Puts those of the seats that are blocked on sale again. The others stay as they are.
    ///
    /// # Errors
    /// 404, `unknown_seat`, or what the database refuses with.
    pub async fn give_back(&self, order: Order) -> Result<(), Problem> {
        let changing = Box::pin(self.changing(order)).await?;
        let (operator, news) = (changing.operator.0, changing.news.clone());
        self.db
            .in_tx_of(operator, "seats.give_back", changing, |conn, changing| Box::pin(changing.give_back(conn)))
            .await?;
        news.tell(&self.filter).await;
        Ok(())
    }

    async fn changing(&self, order: Order) -> Result<Changing, Problem> {
        let concert = self.catalog.get_performance(order.performance).await.map_err(Problem::of_write)?.concert_id;
        let map = self.catalog.get_seat_map(order.performance).await.map_err(Problem::of_write)?;
        let seats = numbers(&map, &order.seat_ids)?;
        let hall = Hall { concert, performance: order.performance, seats_total: map.seats_total() };
        Ok(Changing { operator: order.operator, hall, map, seats, news: News::default() })
    }
}

impl Changing {
    async fn block(&self, conn: &mut Conn) -> Result<Answer, Problem> {
        let performance = self.hall.performance;
        let found = store::list_free_or_blocked_for_update(conn, performance, &self.seats).await?;
        let is_found = |seat: &u32| found.binary_search_by_key(seat, |(seat, _)| *seat).is_ok();
        let taken: Vec<u32> = self.seats.iter().copied().filter(|seat| !is_found(seat)).collect();
        if !taken.is_empty() {
            let problem = Problem::new(&SEATS_TAKEN).detail("These seats are sold or held. None was blocked.");
            return Err(problem.with("seat_ids", json!(self.labels(&taken))));
        }
        let free: Vec<u32> = found.iter().filter(|(_, is_blocked)| !is_blocked).map(|(seat, _)| *seat).collect();
        let blocked = store::block(conn, performance, BlockId::new(), &free).await?;
        if blocked != free.len() as u64 {
            return Err(Problem::internal(anyhow::anyhow!("{blocked} of {} free seats were blocked", free.len())));
        }
        self.note(conn, "seats.blocked", &free).await?;
        self.news.put(self.hall, Change::Sold(self.seats.clone()));
        Answer::json(CREATED, &BlockView { performance_id: performance, seat_ids: self.labels(&self.seats) })
    }

    async fn give_back(&self, conn: &mut Conn) -> Result<(), Problem> {
        let performance = self.hall.performance;
        let found = store::list_free_or_blocked_for_update(conn, performance, &self.seats).await?;
        let blocked: Vec<u32> = found.iter().filter(|(_, is_blocked)| *is_blocked).map(|(seat, _)| *seat).collect();
        let freed = store::unblock(conn, performance, &blocked).await?;
        if freed != blocked.len() as u64 {
            return Err(Problem::internal(anyhow::anyhow!("{freed} of {} blocked seats were free", blocked.len())));
        }
        self.note(conn, "seats.given_back", &blocked).await?;
        if !blocked.is_empty() {
            self.news.put(self.hall, Change::Freed(blocked));
        }
        Ok(())
    }

    fn labels(&self, seats: &[u32]) -> Vec<String> {
        seats.iter().filter_map(|seat| self.map.seat(*seat)).map(|seat| seat.label.clone()).collect()
    }

    /// Writes the order and the seats that it changed into the log, in as many entries as that takes.
    async fn note(&self, conn: &mut Conn, action: &'static str, changed: &[u32]) -> Result<(), Problem> {
        for runs in entries(&runs(&self.map, changed)) {
            let details =
                json!({"performance_id": self.hall.performance, "seats": changed.len(), "first_and_last": runs});
            actions::record(conn, self.operator, action, Some(self.hall.concert), &details).await?;
        }
        Ok(())
    }
}

/// The numbers of the seats of these labels, in order.
fn numbers(map: &SeatMap, labels: &[String]) -> Result<Vec<u32>, Problem> {
    let (mut seats, mut unknown) = (Vec::with_capacity(labels.len()), Vec::new());
    for label in labels {
        match map.index_of(label) {
            Some(seat) => seats.push(seat),
            None => unknown.push(label.as_str()),
        }
    }
    if !unknown.is_empty() {
        return Err(Problem::new(&UNKNOWN_SEAT).with("seat_ids", json!(unknown)));
    }
    seats.sort_unstable();
    Ok(seats)
}

/// The first and the last seat of each run of neighbours in a row.
type Run<'m> = [&'m str; 2];

fn runs<'m>(map: &'m SeatMap, seats: &[u32]) -> Vec<Run<'m>> {
    let seats: Vec<&Seat> = seats.iter().filter_map(|seat| map.seat(*seat)).collect();
    let are_neighbours = |a: &&Seat, b: &&Seat| a.index + 1 == b.index && (&a.section, &a.row) == (&b.section, &b.row);
    let ends = seats.chunk_by(are_neighbours).filter_map(|run| Some([run.first()?, run.last()?]));
    ends.map(|ends| ends.map(|seat| seat.label.as_str())).collect()
}

/// The runs, cut into what entries of the log can take. One entry at least.
fn entries<'m>(runs: &[Run<'m>]) -> Vec<Vec<Run<'m>>> {
    // The list has brackets of its own.
    const BRACKETS: usize = 2;
    let (mut entries, mut entry, mut chars) = (Vec::new(), Vec::new(), BRACKETS);
    for run in runs {
        // With brackets, quotes and commas.
        let length = run[0].len() + run[1].len() + 8;
        if chars + length > RUNS_CHARS_MAX {
            entries.push(std::mem::take(&mut entry));
            chars = BRACKETS;
        }
        chars += length;
        entry.push(*run);
    }
    entries.push(entry);
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::demo;

    fn arena() -> SeatMap {
        SeatMap::build(&demo::arena_layout(), &demo::arena_grades()).unwrap()
    }

    #[test]
    fn neighbours_in_a_row_are_one_run() {
        let map = arena();
        let rows: Vec<_> = map.sections().iter().flat_map(|section| &section.rows).collect();
        let (first, second) = (rows[0].seats.clone(), rows[1].seats.clone());
        let label = |index: u32| map.seats()[index as usize].label.as_str();
        // The last two of a row and the first of the next one, and one that stands alone.
        let seats = [first.end - 2, first.end - 1, second.start, second.start + 2];
        let expected =
            [[label(first.end - 2), label(first.end - 1)], [label(second.start); 2], [label(second.start + 2); 2]];
        assert_eq!(runs(&map, &seats), expected);
        assert_eq!(runs(&map, &[]), [[""; 2]; 0]);
    }

    #[test]
    fn an_order_for_many_seats_takes_several_entries_and_every_order_takes_one() {
        let map = arena();
        let scattered: Vec<u32> = (0..2 * u32::try_from(SEATS_MAX).unwrap()).step_by(2).collect();
        let all = runs(&map, &scattered);
        assert_eq!(all.len(), SEATS_MAX);
        let cut = entries(&all);
        assert!(cut.len() > 1);
        assert_eq!(cut.concat(), all);
        for entry in &cut {
            assert!(!entry.is_empty());
            assert!(json!(entry).to_string().len() <= RUNS_CHARS_MAX);
        }
        assert_eq!(entries(&[]), [Vec::<Run<'_>>::new()]);
    }
}
