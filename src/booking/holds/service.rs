//! Holding seats and giving them back.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::domain::{HOLD_PAID, HeldSeat, Hold, HoldId, HoldStatus, SEAT_LIMIT_EXCEEDED};
use super::store::{self, HoldRow, NewHold};
use crate::accounts::UserId;
use crate::booking::reservations;
use crate::booking::seats::{self, SEATS_TAKEN, Settings, UNKNOWN_SEAT};
use crate::catalog::domain::Concert;
use crate::catalog::seat_map::SeatMap;
use crate::catalog::{PerformanceId, Reader};
use crate::platform::clock::Clock;
use crate::platform::db::{Conn, Db};
use crate::platform::error::Problem;
use crate::platform::http::keyed::{Answer, CREATED, RequestKey};
use crate::platform::http::{Page, PageParams};
use crate::platform::idempotency::Idempotency;
use crate::platform::latency::Latencies;
use crate::platform::money::Money;
use crate::queue::pass::{self, BOOKING_CLOSED, Passes};

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
    /// `[booking]`.
    pub settings: Settings,
}

/// The holds of one instance.
#[derive(Clone, Debug)]
pub struct Holds(Arc<Parts>);

/// What a buyer asks to hold.
#[derive(Debug)]
pub struct Request {
    /// Who asks.
    pub user: UserId,
    /// For which evening.
    pub performance: PerformanceId,
    /// The `Queue-Pass` as it came.
    pub pass: Option<String>,
    /// Labels of the seats.
    pub seat_ids: Vec<String>,
}

/// A request with what the catalogue says about it.
struct Holding {
    parts: Arc<Parts>,
    request: Request,
    concert: Arc<Concert>,
    map: Arc<SeatMap>,
}

impl Holds {
    /// Over these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Holds all the seats, or none.
    ///
    /// # Errors
    /// `pass_required`, `invalid_pass`, `pass_expired`, `unknown_seat`, `booking_closed`, `seat_limit_exceeded`, `seats_taken`, `sale_stopped`.
    pub async fn hold(&self, request: Request, key: RequestKey) -> Result<Answer, Problem> {
        let catalog = &self.0.catalog;
        let performance = catalog.get_performance(request.performance).await?;
        let concert = catalog.get_concert(performance.concert_id).await?;
        let map = catalog.get_seat_map(request.performance).await?;
        let user = request.user;
        let holding = Holding { parts: self.0.clone(), request, concert, map };
        let hold =
            self.0.idempotency.once("booking.hold", user.0, key, holding, |conn, holding| Box::pin(holding.run(conn)));
        self.0.latencies.time(hold).await
    }

    /// The user's hold.
    ///
    /// # Errors
    /// 404 where the user has none of that id.
    pub async fn get(&self, user: UserId, hold: HoldId) -> Result<Hold, Problem> {
        self.0
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
    /// 404 where the user has no such hold, `already_paid`.
    pub async fn release(&self, user: UserId, hold: HoldId) -> Result<(), Problem> {
        self.0
            .db
            .in_tx_of(user.0, "booking.release", (user, hold), |conn, (user, hold)| {
                Box::pin(async move {
                    let row = store::find_for_update(conn, *user, *hold).await?;
                    let row = row.ok_or_else(|| Problem::not_found("hold"))?;
                    match row.status() {
                        HoldStatus::Paid => return Err(Problem::new(&HOLD_PAID)),
                        HoldStatus::Released | HoldStatus::Expired => return Ok(()),
                        HoldStatus::Held => {}
                    }
                    let held = store::list_seats(conn, &[*hold]).await?;
                    let numbers: Vec<u32> = held.iter().map(|(_, seat)| seat.number).collect();
                    seats::store::release(conn, row.performance_id, *hold, &numbers).await?;
                    store::mark_released(conn, *hold, row.now_at).await
                })
            })
            .await
    }
}

fn with_own(row: HoldRow, seats: &[(HoldId, HeldSeat)]) -> Hold {
    let own = seats.iter().filter(|(hold, _)| *hold == row.id).map(|(_, seat)| seat.clone()).collect();
    row.with_seats(own)
}

impl Holding {
    async fn run(&self, conn: &mut Conn) -> Result<Answer, Problem> {
        let request = &self.request;
        let concert = self.concert.id;
        let opened = self.parts.passes.open(request.pass.as_deref(), request.user, concert, self.parts.clock.now())?;
        let numbers = self.numbers()?;
        let now = pass::lock_live(conn, opened.id).await?;
        pass::refuse_if_stopped(conn, concert).await?;
        if now >= self.concert.hours().booking_closes_at {
            return Err(Problem::new(&BOOKING_CLOSED));
        }
        self.check_limit(conn, now, numbers.len()).await?;
        let held = self.lock_seats(conn, &numbers).await?;
        let amount = Money::sum(held.iter().map(|seat| seat.price));
        let amount = amount.ok_or_else(|| Problem::internal(anyhow::anyhow!("prices overflow")))?;
        let id = HoldId::new();
        let expires_at = now.plus(Duration::from_secs(self.parts.settings.hold_secs));
        let taken = seats::store::hold(conn, request.performance, id, expires_at, &numbers).await?;
        if taken != numbers.len() as u64 {
            return Err(Problem::internal(anyhow::anyhow!("{taken} of {} locked seats were held", numbers.len())));
        }
        let user = request.user;
        let performance = request.performance;
        let new = NewHold { id, user, concert, performance, seats: &held, amount, now, expires_at };
        store::insert(conn, &new).await?;
        Answer::json(CREATED, &Hold::new(id, HoldStatus::Held, performance, held, amount, expires_at))
    }

    /// The seats' numbers, sorted: the order in which everybody locks.
    fn numbers(&self) -> Result<Vec<u32>, Problem> {
        let (mut numbers, mut unknown) = (Vec::new(), Vec::new());
        for label in &self.request.seat_ids {
            match self.map.index_of(label) {
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

    async fn check_limit(
        &self,
        conn: &mut Conn,
        now: crate::platform::clock::Timestamp,
        wanted: usize,
    ) -> Result<(), Problem> {
        let (user, concert) = (self.request.user, self.concert.id);
        let held = store::count_live_seats(conn, user, concert, now).await?;
        let reserved = reservations::store::count_live_seats(conn, user, concert).await?;
        let limit = self.concert.seat_limit_per_buyer;
        if held + reserved + wanted as u64 > u64::from(limit) {
            return Err(Problem::new(&SEAT_LIMIT_EXCEEDED).with("limit", limit));
        }
        Ok(())
    }

    async fn lock_seats(&self, conn: &mut Conn, numbers: &[u32]) -> Result<Vec<HeldSeat>, Problem> {
        let locked = seats::store::list_for_update(conn, self.request.performance, numbers).await?;
        if locked.len() != numbers.len() {
            let cause = anyhow::anyhow!("{} of {} seats have rows", locked.len(), numbers.len());
            return Err(Problem::internal(cause));
        }
        let taken: Vec<&str> = locked.iter().filter(|seat| seat.is_taken).map(|seat| seat.label.as_str()).collect();
        if !taken.is_empty() {
            return Err(Problem::new(&SEATS_TAKEN).with("seat_ids", json!(taken)));
        }
        let held = |seat: seats::store::LockedSeat| HeldSeat {
            id: seat.label,
            grade: seat.grade,
            price: seat.price,
            number: seat.seat_no,
        };
        Ok(locked.into_iter().map(held).collect())
    }
}
