//! Holding seats and giving them back.

use std::sync::Arc;

use super::batch::HoldSeats;
use super::domain::{HOLD_PAID, HeldSeat, Hold, HoldId, HoldStatus};
use super::limits::HoldLimits;
use super::retention::Walk;
use super::store::{self, HoldRow};
use crate::accounts::UserId;
use crate::booking::seats::filter::{Change, Filter, Hall};
use crate::booking::seats::{self, Seats, Settings};
use crate::catalog::{PerformanceId, Reader};
use crate::payments::{self, Subject};
use crate::platform::clock::Clock;
use crate::platform::combiner::{Bounds, Combiner};
use crate::platform::db::{Db, Script};
use crate::platform::error::Problem;
use crate::platform::http::keyed::{Answer, RequestKey};
use crate::platform::http::{Page, PageParams};
use crate::platform::idempotency::Idempotency;
use crate::platform::latency::Latencies;
use crate::queue::pass::{Halts, Passes};

/// What the service is built from.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The database.
    pub db: Db,
    /// The clock.
    pub clock: Clock,
    /// Keys of requests.
    pub idempotency: Idempotency,
    /// The catalogue.
    pub catalog: Arc<Reader>,
    /// Opens passes.
    pub passes: Passes,
    /// How long holds and payments took lately.
    pub latencies: Latencies,
    /// Refuses what is taken.
    pub filter: Filter,
    /// What is taken, and what to choose.
    pub seats: Arc<Seats>,
    /// Which sales may be halted.
    pub halts: Arc<dyn Halts>,
    /// How much one buyer may ask for.
    pub limits: HoldLimits,
    /// `[booking]`.
    pub settings: Settings,
}

/// The holds of one instance.
#[derive(Clone, Debug)]
pub struct Holds(Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub parts: Parts,
    pub combiner: Combiner<HoldSeats>,
    tidied: Walk,
}

/// What a buyer asks to hold.
#[derive(Debug)]
pub struct Request {
    /// Who asks.
    pub user: UserId,
    /// For which evening.
    pub performance: PerformanceId,
    /// The `Queue-Pass` as it came.
    pub pass: Option<String>,
    /// Which seats.
    pub seats: Asked,
}

/// Which seats a buyer asks for.
#[derive(Debug)]
pub enum Asked {
    /// Those of these labels.
    Named(Vec<String>),
    /// The best ones.
    Best {
        /// How many.
        quantity: u32,
        /// Of this grade, if one is named.
        grade: Option<String>,
    },
}

impl Holds {
    /// Over these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let bounds = Bounds {
            lanes: parts.settings.hold_lanes,
            batch_max: parts.settings.hold_batch_max,
            waiting_max: parts.settings.hold_waiting_max,
        };
        let work = HoldSeats { filter: parts.filter.clone() };
        let combiner = Combiner::new(parts.db.clone(), work, bounds);
        Self(Arc::new(Inner { parts, combiner, tidied: Walk::default() }))
    }

    /// Holds all the seats, or none.
    ///
    /// # Errors
    /// `pass_required`, `invalid_pass`, `pass_expired`, `unknown_seat`, `booking_closed`, `seat_limit_exceeded`, `seats_taken`,
    /// `not_enough_seats`, `sale_stopped`, `rate_limited`; `overloaded` where others were faster every time.
    pub async fn hold(&self, request: Request, key: RequestKey) -> Result<Answer, Problem> {
        let begun = self.0.parts.idempotency.start(request.user.0, key)?;
        let refusal = match Box::pin(self.0.take(request, begun.clone())).await {
            Err(problem) if problem.code().status < 500 => problem,
            other => return other.map_err(Problem::of_write),
        };
        // What took effect once is answered as it was, whatever stands in its way now.
        let Some(begun) = begun else { return Err(refusal) };
        self.0.parts.idempotency.recall(begun).await.map_err(Problem::of_write)?.unwrap_or(Err(refusal))
    }

    /// What [`Holds::tidy`] needs.
    pub(super) fn for_tidying(&self) -> (&Db, &Walk, u32) {
        (&self.0.parts.db, &self.0.tidied, self.0.parts.settings.keep_holds_days)
    }

    /// The user's hold.
    ///
    /// # Errors
    /// 404 where the user has none of that id.
    pub async fn get(&self, user: UserId, hold: HoldId) -> Result<Hold, Problem> {
        self.0
            .parts
            .db
            .read("booking.get_hold", (user, hold), |conn, (user, hold)| {
                Box::pin(async move {
                    let row = store::find(conn, *user, *hold).await?.ok_or_else(|| Problem::not_found("hold"))?;
                    let seats = store::list_seats(conn, &[*hold]).await?;
                    Ok(row.with_seats(seats.into_iter().map(|(_, seat)| seat).collect()))
                })
            })
            .await
    }

    /// The user's holds, newest first.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn list(&self, user: UserId, page: PageParams<HoldId>) -> Result<Page<Hold>, Problem> {
        let before = page.after.unwrap_or(HoldId(uuid::Uuid::max()));
        let limit = page.fetch();
        let found = self
            .0
            .parts
            .db
            .read("booking.list_holds", (user, before, limit), |conn, (user, before, limit)| {
                Box::pin(async move {
                    let rows = store::list(conn, *user, *before, *limit).await?;
                    let ids: Vec<HoldId> = rows.iter().map(|row| row.id).collect();
                    let seats = store::list_seats(conn, &ids).await?;
                    Ok(rows.into_iter().map(|row| with_own(row, &seats)).collect::<Vec<_>>())
                })
            })
            .await?;
        Ok(Page::of(found, &page, |hold| hold.id))
    }

    /// Frees the seats at once. Nothing happens where the hold has ended.
    ///
    /// # Errors
    /// 404 where the user has no such hold, `already_paid`, `payment_in_progress`.
    pub async fn release(&self, user: UserId, hold: HoldId) -> Result<(), Problem> {
        let parts = &self.0.parts;
        let release = parts.db.in_tx_of(user.0, "booking.release", (user, hold), |conn, (user, hold)| {
            Box::pin(async move {
                let row = store::find_for_update(conn, *user, *hold).await?;
                let row = row.ok_or_else(|| Problem::not_found("hold"))?;
                match row.status() {
                    HoldStatus::Paid => return Err(Problem::new(&HOLD_PAID)),
                    HoldStatus::Released | HoldStatus::Expired => return Ok(None),
                    HoldStatus::Held => {}
                }
                let mut script = Script::default();
                let open = payments::ask_in_progress(&mut script, &[Subject::Hold(hold.0)]);
                if !script.run(conn).await?.list(&open)?.is_empty() {
                    return Err(payments::in_progress());
                }
                let held = store::list_seats(conn, &[*hold]).await?;
                let numbers: Vec<u32> = held.iter().map(|(_, seat)| seat.number).collect();
                seats::store::release(conn, row.performance_id, *hold, &numbers).await?;
                store::mark_released(conn, *hold, row.now_at).await?;
                Ok(Some((row.concert_id, row.performance_id, numbers)))
            })
        });
        if let Some((concert, performance, numbers)) = release.await?
            && let Ok(map) = parts.catalog.get_seat_map(performance).await
        {
            let seats_total = map.seats_total();
            parts.filter.settle(Hall { concert, performance, seats_total }, &[Change::Freed(numbers)]).await;
        }
        Ok(())
    }
}

fn with_own(row: HoldRow, seats: &[(HoldId, HeldSeat)]) -> Hold {
    let own = seats.iter().filter(|(hold, _)| *hold == row.id).map(|(_, seat)| seat.clone()).collect();
    row.with_seats(own)
}
