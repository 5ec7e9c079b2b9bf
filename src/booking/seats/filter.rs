//! The filter in front of the seats: refuses what is taken without MySQL.
//!
//! It is advice, never truth: what it grants is decided by MySQL, and what it says wrongly is put right by the reconciler
//! (`reconciler.rs`).
//!
//! Invariants:
//! - Nobody waits long for it: who gets no answer in [`CLAIM_WAIT`] asks MySQL, and after [`FAILURES_MAX`] failures in a row
//!   it is left alone for [`PAUSE`].
//! - Of all who ask for a seat at once, over all instances, one goes to MySQL.
//! - What it is told, and what it remembers, is bounded; what could not be told is found out by the reconciler.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::bits::Bits;
use super::board::Picture;
use super::metrics;
use super::redis::{Filters, Warm};
use super::service::Settings;
use super::store::TakenSeat;
use crate::accounts::UserId;
use crate::catalog::domain::Concert;
use crate::catalog::{ConcertId, PerformanceId};
use crate::platform::breaker::Breaker;
use crate::platform::clock::{Clock, Timestamp};
use crate::platform::db::Db;
use crate::platform::error::Problem;
use crate::platform::redis::Redis;
use crate::platform::telemetry::Seldom;

/// How long a request's mark on its seats lasts: longer than a unit of work in MySQL takes.
pub const MARK: Duration = Duration::from_secs(10);
/// Longest wait for an answer that somebody waits for.
const CLAIM_WAIT: Duration = Duration::from_millis(150);
/// How long an answer waits until the filter knows of it. Past it, telling goes on beside.
const TELL_WAIT: Duration = Duration::from_millis(50);
/// Longest time of telling, and of what nobody waits for.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(2);
/// What is being told at once at most. Further news is dropped.
const TELLING_MAX: usize = 256;
/// Failures in a row after which the filter is left alone, and for how long.
const FAILURES_MAX: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);
/// Performances kept in order at once by one instance at most, and for how long after they were last asked for.
const HALLS_MAX: u64 = 2000;
const HALL_IDLE: Duration = Duration::from_mins(1);

/// A performance as the filter knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hall {
    /// Its concert: the keys of a concert lie together.
    pub concert: ConcertId,
    /// The performance.
    pub performance: PerformanceId,
    /// Seats of its map.
    pub seats_total: u32,
}

impl Hall {
    /// This performance of the concert, if it is one of its.
    #[must_use]
    pub fn of(concert: &Concert, performance: PerformanceId) -> Option<Self> {
        let found = concert.performances.iter().find(|one| one.id == performance)?;
        Some(Self { concert: concert.id, performance, seats_total: found.seats_total })
    }
}

/// Seats set aside in the filter for one request, for as long as it may take to ask MySQL.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Where.
    pub hall: Hall,
    /// Which seats.
    pub seats: Vec<u32>,
    /// When the mark ends by itself: what tells it from another one's. Milliseconds of Redis' clock.
    pub mark: i64,
}

/// What the filter says to a request.
#[derive(Clone, Debug)]
pub enum Claimed {
    /// Nobody has the seats, as far as the filter knows: they are set aside while MySQL is asked.
    Granted(Claim),
    /// These of the seats cannot be had.
    Refused {
        /// The seats that cannot be had.
        seats: Vec<u32>,
        /// Everything that is taken at this moment, where that was asked for.
        taken: Option<Bits>,
    },
    /// It does not know: MySQL is to be asked.
    Unknown,
}

/// What has become of seats in MySQL, to be told to the filter after the commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Held until then.
    Held {
        /// The seats.
        seats: Vec<u32>,
        /// When the hold ends.
        until: Timestamp,
    },
    /// Held until then by the request whose mark is on them: nobody can have them, whether this is told or not. One that has
    /// been freed meanwhile stays free.
    Kept {
        /// The seats.
        seats: Vec<u32>,
        /// When the hold ends.
        until: Timestamp,
    },
    /// Sold, or out of sale.
    Sold(Vec<u32>),
    /// Free.
    Freed(Vec<u32>),
}

/// What a seat is in MySQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Held(Timestamp),
    Sold,
    Free,
}

impl Fate {
    /// What a seat is by these rows of what is taken.
    pub(super) fn of(taken: &[TakenSeat], seat: u32) -> Self {
        match taken.iter().find(|row| row.seat_no == seat) {
            None => Self::Free,
            Some(TakenSeat { is_sold: false, held_until: Some(until), .. }) => Self::Held(*until),
            Some(_) => Self::Sold,
        }
    }
}

/// A seat that the filter knows otherwise than MySQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub seat: u32,
    /// What the filter said of it before MySQL was asked.
    pub was_taken: bool,
    pub was_sold: bool,
    /// What it is.
    pub is: Fate,
    /// When it was to be free by itself, in milliseconds of the filter's clock, as it was before MySQL was asked again.
    pub ends: Option<i64>,
}

/// What somebody sees who looks at a filter.
#[derive(Clone, Debug)]
pub(super) enum Look {
    /// What the caller knows.
    Same,
    New {
        version: u64,
        picture: Picture,
    },
}

/// The filter, as one instance uses it. Clones share it.
#[derive(Clone, Debug)]
pub struct Filter(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub filters: Filters,
    pub db: Db,
    /// Whether it is asked at all.
    is_on: bool,
    /// How often each filter is compared to MySQL.
    pub period: Duration,
    /// Performances that this instance keeps in order.
    pub halls: moka::sync::Cache<PerformanceId, Hall>,
    /// Performances whose filter is being made here.
    pub making: Mutex<HashSet<PerformanceId>>,
    pub unkept: Seldom,
    breaker: Breaker,
    unanswered: Seldom,
    telling: Arc<Semaphore>,
}

/// What came of asking Redis.
pub(super) enum Asked<T> {
    Answer(T),
    /// There is no filter of this performance.
    Cold,
    /// Redis did not answer, or is left alone.
    Away,
}

impl Filter {
    /// Over this Redis, kept in order from this database.
    #[must_use]
    pub fn new(db: Db, redis: Redis, clock: Clock, settings: &Settings) -> Self {
        Self(Arc::new(Inner {
            filters: Filters::new(redis, clock),
            db,
            is_on: settings.seat_filter,
            period: Duration::from_millis(settings.reconcile_ms),
            halls: moka::sync::Cache::builder().max_capacity(HALLS_MAX).time_to_idle(HALL_IDLE).build(),
            making: Mutex::default(),
            unkept: Seldom::default(),
            breaker: Breaker::new("seat_filter", FAILURES_MAX, PAUSE),
            unanswered: Seldom::default(),
            telling: Arc::new(Semaphore::new(TELLING_MAX)),
        }))
    }

    /// Asks for seats: in one step, frees what is due, and sets all of them aside or names those that cannot be had.
    pub async fn claim(&self, hall: Hall, seats: &[u32]) -> Claimed {
        self.claim_for(None, hall, seats, false).await
    }

    /// The same, and a refusal tells everything that is taken: for whoever chooses others then.
    pub async fn claim_or_see(&self, hall: Hall, seats: &[u32]) -> Claimed {
        self.claim_for(None, hall, seats, true).await
    }

    /// The same for this buyer, whose own marks are no obstacle: they are of a request that is repeated.
    pub async fn claim_for(&self, owner: Option<UserId>, hall: Hall, seats: &[u32], wants_all: bool) -> Claimed {
        if seats.is_empty() || seats.iter().any(|seat| *seat >= hall.seats_total) {
            return Claimed::Unknown;
        }
        self.keep(hall);
        let claimed = match self.ask(CLAIM_WAIT, self.0.filters.claim(hall, seats, owner, wants_all)).await {
            Asked::Answer(claimed) => claimed,
            Asked::Cold => {
                self.rebuild_soon(hall);
                Claimed::Unknown
            }
            Asked::Away => Claimed::Unknown,
        };
        metrics::claimed(&claimed);
        claimed
    }

    /// Takes the marks of a request back that came to nothing. Those that are not its own any more stay.
    pub async fn give_back(&self, claim: &Claim) {
        self.give_back_but(claim, &[]).await;
    }

    /// The same, and where there was a mark on one of these seats, the filter knows from now on that it is taken: MySQL has said
    /// so.
    pub async fn give_back_but(&self, claim: &Claim, taken: &[TakenSeat]) {
        let (filter, claim) = (self.clone(), claim.clone());
        let fates = claim.seats.iter().map(|seat| (*seat, Fate::of(taken, *seat))).collect::<Vec<_>>();
        self.tell(async move { filter.ask(CALL_LIMIT, filter.0.filters.give_back(&claim, &fates)).await }).await;
    }

    /// Tells what was committed. Where it cannot be told in time, the reconciler will find out.
    pub async fn settle(&self, hall: Hall, changes: &[Change]) {
        let (filter, changes) = (self.clone(), changes.to_vec());
        self.tell(async move { filter.ask(CALL_LIMIT, filter.0.filters.settle(hall, &changes)).await }).await;
    }

    /// The same without waiting for it: for what others can see already.
    pub fn settle_beside(&self, hall: Hall, changes: Vec<Change>) {
        let filter = self.clone();
        drop(self.start(async move { filter.ask(CALL_LIMIT, filter.0.filters.settle(hall, &changes)).await }));
    }

    /// What is taken, if it is not the version that the caller knows. Whoever looks at a filter keeps it in order; where one
    /// that is to be there is missing, it is made in the background.
    pub(super) async fn look(&self, hall: Hall, known: Option<u64>) -> Option<Look> {
        match self.ask(CLAIM_WAIT, self.0.filters.look(hall, known)).await {
            Asked::Answer(look) => {
                self.keep(hall);
                return Some(look);
            }
            Asked::Cold if self.0.halls.contains_key(&hall.performance) => self.rebuild_soon(hall),
            Asked::Cold | Asked::Away => {}
        }
        None
    }

    /// From now on this performance is on sale: its filter is made and kept in order for as long as it is asked for.
    pub(super) fn keep(&self, hall: Hall) {
        self.0.halls.get_with(hall.performance, || hall);
    }

    /// Waits a moment for telling, which goes on in any case.
    async fn tell(&self, telling: impl Future<Output = Asked<()>> + Send + 'static) {
        if let Some(telling) = self.start(telling) {
            drop(tokio::time::timeout(TELL_WAIT, telling).await);
        }
    }

    /// Begins to tell, unless too much is being told.
    fn start(&self, telling: impl Future<Output = Asked<()>> + Send + 'static) -> Option<JoinHandle<()>> {
        let Ok(place) = self.0.telling.clone().try_acquire_owned() else {
            metrics::untold();
            return None;
        };
        Some(tokio::spawn(async move {
            let _place = place;
            if let Asked::Away = telling.await {
                metrics::untold();
            }
        }))
    }

    /// Waits for an answer for at most this long, unless Redis was away a moment ago.
    pub(super) async fn ask<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<Warm<T>, Problem>>,
    ) -> Asked<T> {
        if !self.0.is_on || !self.0.breaker.lets_pass(Instant::now()) {
            return Asked::Away;
        }
        let problem = match tokio::time::timeout(limit, call).await {
            Ok(Ok(answer)) => {
                self.0.breaker.succeeded(Instant::now());
                return answer.map_or(Asked::Cold, Asked::Answer);
            }
            Ok(Err(problem)) => Some(problem),
            Err(_) => None,
        };
        self.0.breaker.failed(Instant::now());
        if self.0.unanswered.is_due() {
            let problem = problem.map_or_else(|| format!("no answer in {limit:?}"), |problem| problem.to_string());
            tracing::warn!(%problem, "the seat filter does not answer: MySQL is asked instead");
        }
        Asked::Away
    }
}
