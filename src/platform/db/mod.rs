//! MySQL and MariaDB: one pool, and the only way to run SQL in it.
//!
//! Every unit of work has a name (it labels metrics and logs) and runs in a task of its own that the
//! caller awaits. A caller that goes away (a client that disconnects, a timeout) therefore never drops
//! a query in the middle of a packet, which would wedge its connection for ever; the unit runs to its
//! end. A unit that exceeds its own time limit (retries included) or panics has its connection closed, not reused.
//!
//! Units that write run in one transaction under READ COMMITTED and are run again, whole, after a
//! deadlock, a lock wait timeout or a changed snapshot: a body must have no effect outside its
//! transaction. Who must wait for a connection waits in a bounded line.
//!
//! Lock order, everywhere: idempotency key, hold, undecided payment, reservation and its tickets, order, pass, points account, seats by number.
//! What a payment is for is locked before it, a charge's account too. Rows inserted come last, and after them the number of a change that
//! caches hear of.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rand::Rng as _;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::pool::PoolConnection;
use sqlx::{Executor as _, MySql, MySqlConnection, MySqlPool};
use tokio::sync::Semaphore;

use super::breaker::Breaker;
use super::clock::{Clock, Timestamp};
use super::config::{ConfigError, DatabaseSettings};
use super::error::{Fault, Problem, codes};
use super::telemetry::metrics;

mod grants;
mod lanes;
mod migrate;
mod pool;
mod probe;
mod script;
mod sql;
mod text;
pub use grants::grant;
use lanes::Lanes;
pub use lanes::Turn;
pub use migrate::migrate;
use pool::Suspicion;
use probe::Probe;
pub use script::{Outcomes, Script, Slot};
pub use sql::{derived, in_list, rows, union_all};
pub use text::{Literal, Text, parts};

/// Failures in a row after which MySQL is left alone, and for how long.
const BREAKER_THRESHOLD: u32 = 3;
const BREAKER_PAUSE: Duration = Duration::from_millis(500);

/// How long a unit that got an answer proves that the server is there.
const PROOF_MAX: Duration = Duration::from_secs(5);

/// A body of SQL: borrows the connection and its input for as long as it runs.
pub type Body<I, T> = for<'c> fn(&'c mut Conn, &'c I) -> BoxFuture<'c, Result<T, Problem>>;

/// A connection inside a unit of work. Store functions take it; they never begin or commit.
#[derive(Debug)]
pub struct Conn {
    inner: PoolConnection<MySql>,
    offset_micros: i64,
}

impl Conn {
    /// The connection as sqlx wants it.
    pub fn sql(&mut self) -> &mut MySqlConnection {
        &mut self.inner
    }

    /// What statements add to the database's clock: bind it wherever a statement says
    /// `UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND`.
    #[must_use]
    pub const fn offset_micros(&self) -> i64 {
        self.offset_micros
    }
}

/// The pool and its rules.
#[derive(Clone)]
pub struct Db {
    pool: MySqlPool,
    waiting: Arc<Semaphore>,
    settings: Arc<DatabaseSettings>,
    clock: Clock,
    breaker: Breaker,
    lanes: Lanes,
    suspicion: Suspicion,
    probe: Probe,
    /// Connections in use.
    leased: Arc<AtomicUsize>,
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db").field("size", &self.pool.size()).finish_non_exhaustive()
    }
}

impl Db {
    /// A pool that connects when first used.
    ///
    /// # Errors
    /// Where the URL does not parse or the limits make no sense.
    pub fn new(settings: &DatabaseSettings, clock: Clock) -> Result<Self, ConfigError> {
        let refuse = |name, reason: String| ConfigError::Rejected { name, reason };
        if settings.url.is_empty() {
            return Err(refuse("database.url", "not set: mysql://user:password@host:port/database".into()));
        }
        if settings.pool_size == 0 {
            return Err(refuse("database.pool_size", "at least 1".into()));
        }
        let options: MySqlConnectOptions =
            settings.url.expose().parse().map_err(|_| refuse("database.url", "not a mysql:// address".into()))?;
        let probe = Probe::new(options.clone());
        let suspicion = Suspicion::default();
        let pool = pool::build(options, settings, &suspicion);
        let waiting = Arc::new(Semaphore::new(settings.pool_size as usize + settings.waiting_max));
        let breaker = Breaker::new("mysql", BREAKER_THRESHOLD, BREAKER_PAUSE);
        let (settings, leased) = (Arc::new(settings.clone()), Arc::default());
        let lanes = Lanes::new(settings.waiting_per_buyer_max);
        Ok(Self { pool, waiting, settings, clock, breaker, lanes, suspicion, probe, leased })
    }

    /// Runs `body` in one transaction, again after a conflict, and commits if it says Ok.
    ///
    /// The body may run several times: it must do nothing but SQL.
    ///
    /// # Errors
    /// What the body refused with, or `overloaded`, `read_only`, `timed_out` or `internal`.
    pub async fn in_tx<I, T>(&self, name: &'static str, input: I, body: Body<I, T>) -> Result<T, Problem>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.unit(name, Kind::Transaction, self.unit_limit(), input, body).await
    }

    /// Runs statements that only read, each on its own.
    ///
    /// # Errors
    /// As [`Db::in_tx`].
    pub async fn read<I, T>(&self, name: &'static str, input: I, body: Body<I, T>) -> Result<T, Problem>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.unit(name, Kind::Read, self.unit_limit(), input, body).await
    }

    /// As [`Db::read`], with a time limit of its own: for what nobody waits for and takes longer.
    ///
    /// # Errors
    /// As [`Db::in_tx`].
    pub async fn read_within<I, T>(
        &self,
        name: &'static str,
        limit: Duration,
        input: I,
        body: Body<I, T>,
    ) -> Result<T, Problem>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.unit(name, Kind::Read, limit, input, body).await
    }

    /// As [`Db::in_tx`], with a time limit of its own: for what makes many rows at once.
    ///
    /// # Errors
    /// As [`Db::in_tx`].
    pub async fn in_tx_within<I, T>(
        &self,
        name: &'static str,
        limit: Duration,
        input: I,
        body: Body<I, T>,
    ) -> Result<T, Problem>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.unit(name, Kind::Transaction, limit, input, body).await
    }

    /// The time limit of ordinary units.
    #[must_use]
    pub fn unit_limit(&self) -> Duration {
        Duration::from_millis(self.settings.unit_timeout_ms)
    }

    /// A time limit that leaves room for one wait for a lock, or two. The server looks once a second who has waited too long.
    #[must_use]
    pub fn lock_limit(&self) -> Duration {
        let wait = Duration::from_secs(u64::from(self.settings.lock_wait_secs)) + Duration::from_millis(1500);
        wait.min(self.unit_limit())
    }

    async fn unit<I, T>(
        &self,
        name: &'static str,
        kind: Kind,
        limit: Duration,
        input: I,
        body: Body<I, T>,
    ) -> Result<T, Problem>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        let db = self.clone();
        let task = tokio::spawn(async move {
            let started = Instant::now();
            let result = db.run(name, kind, limit, &input, body).await.map_err(|problem| kind.name_failure(problem));
            metrics::db_unit(name, result.as_ref().err().map(Problem::code), started.elapsed());
            result
        });
        match task.await {
            Ok(result) => result,
            Err(error) => Err(Problem::internal(error)),
        }
    }

    async fn run<I, T>(
        &self,
        name: &'static str,
        kind: Kind,
        limit: Duration,
        input: &I,
        body: Body<I, T>,
    ) -> Result<T, Problem> {
        let Ok(_place) = self.waiting.try_acquire() else {
            return Err(Problem::new(&codes::OVERLOADED).fault_of(Fault::Exhausted));
        };
        let deadline = Instant::now() + Duration::from_millis(self.settings.acquire_timeout_ms) + limit;
        let (mut attempt, mut is_fresh) = (0, false);
        loop {
            let Attempt { result, is_repeatable } = self.attempt(kind, (limit, deadline), input, body).await;
            let fault = result.as_ref().err().and_then(Problem::fault);
            match fault {
                Some(fault)
                    if fault.is_retryable() && attempt < self.settings.retries_max && self.may_wait(deadline) =>
                {
                    metrics::db_retry(name, fault);
                    tokio::time::sleep(backoff(attempt)).await;
                    attempt += 1;
                }
                // The connection had broken before this unit came: nobody needs to hear of it.
                Some(Fault::Disconnected) if is_repeatable && !is_fresh => is_fresh = true,
                _ => return result,
            }
        }
    }

    /// Whether one more wait for a lock ends before the deadline. The server looks once a second who has waited too long.
    fn may_wait(&self, deadline: Instant) -> bool {
        Instant::now() + Duration::from_secs(u64::from(self.settings.lock_wait_secs) + 1) < deadline
    }

    /// Runs a unit once, within its limit and until its deadline.
    async fn attempt<I, T>(
        &self,
        kind: Kind,
        (limit, deadline): (Duration, Instant),
        input: &I,
        body: Body<I, T>,
    ) -> Attempt<T> {
        let inner = match self.acquire().await {
            Ok(inner) => inner,
            Err(problem) => return Attempt { result: Err(problem), is_repeatable: false },
        };
        let _lease = Lease::begin(&self.leased);
        let mut conn = Conn { inner, offset_micros: self.clock.offset_micros() };
        // A body that panics leaves its transaction open, which the next unit's START TRANSACTION would commit.
        let work = AssertUnwindSafe(self.work(&mut conn, kind, limit, input, body)).catch_unwind();
        let outcome = tokio::time::timeout_at(deadline.min(Instant::now() + limit).into(), work).await;
        match outcome {
            Ok(Ok((result, reuse))) => {
                let is_lost = result.as_ref().err().and_then(Problem::fault) == Some(Fault::Disconnected);
                if is_lost || !matches!(reuse, Reuse::Safe) {
                    drop(conn.inner.detach());
                } else {
                    pool::give_back(conn.inner);
                }
                if is_lost {
                    self.suspicion.raise();
                    self.breaker.failed(Instant::now());
                } else {
                    self.breaker.succeeded(Instant::now());
                }
                let is_repeatable = matches!((kind, reuse), (Kind::Read, _) | (_, Reuse::Unbegun));
                Attempt { result, is_repeatable }
            }
            Ok(Err(panic)) => {
                drop(conn.inner.detach());
                std::panic::resume_unwind(panic)
            }
            Err(_) => {
                drop(conn.inner.detach());
                self.suspicion.raise();
                self.breaker.failed(Instant::now());
                let problem = Problem::new(&codes::TIMED_OUT).because(anyhow::anyhow!("unit of work over {limit:?}"));
                Attempt { result: Err(problem.unanswered()), is_repeatable: false }
            }
        }
    }

    /// The unit itself; one with a longer limit than usual gets it for its statements too.
    async fn work<I, T>(
        &self,
        conn: &mut Conn,
        kind: Kind,
        limit: Duration,
        input: &I,
        body: Body<I, T>,
    ) -> (Result<T, Problem>, Reuse) {
        let is_long = limit > self.unit_limit();
        if is_long && let Err(error) = pool::limit_statements(conn.sql(), limit).await {
            return (Err(error.into()), Reuse::Unbegun);
        }
        let (result, reuse) = kind.run(conn, input, body).await;
        if is_long && pool::limit_statements(conn.sql(), self.unit_limit()).await.is_err() {
            return (result, Reuse::Unsafe);
        }
        (result, reuse)
    }

    /// A connection, or at once a refusal while MySQL is known to be away.
    async fn acquire(&self) -> Result<PoolConnection<MySql>, Problem> {
        let started = Instant::now();
        if !self.breaker.lets_pass(started) {
            return Err(Problem::new(&codes::READ_ONLY).fault_of(Fault::Disconnected));
        }
        let problem = match self.pool.acquire().await {
            Ok(conn) => return Ok(conn),
            Err(error) => Problem::from(error),
        };
        // The pool says the same whether all connections are busy or none can be made.
        let is_busy = self.leased.load(Ordering::Acquire) > 0 || self.breaker.has_succeeded_since(started);
        let is_away = match problem.fault() {
            Some(Fault::Exhausted) => !is_busy,
            fault => fault == Some(Fault::Disconnected),
        };
        if !is_away {
            return Err(problem);
        }
        self.breaker.failed(Instant::now());
        Err(problem.recoded(&codes::READ_ONLY).fault_of(Fault::Disconnected))
    }

    /// Asks the server for its time and aligns the clock with it.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn align_clock(&self) -> Result<(), Problem> {
        // Measured inside: the wait for a connection says nothing about when the server read its clock.
        let sample = self.read("db.now", (), |conn, ()| {
            Box::pin(async move {
                let started = Instant::now();
                Ok((now(conn).await?, started.elapsed()))
            })
        });
        let (now, round_trip) = sample.await?;
        self.clock.align(now, round_trip);
        Ok(())
    }

    /// Whether the server answers, however busy the pool is.
    pub async fn is_reachable(&self) -> bool {
        let recently = Instant::now().checked_sub(PROOF_MAX);
        recently.is_some_and(|recently| self.breaker.has_answered_since(recently)) || self.probe.ask().await
    }

    /// Connections open and idle, for metrics.
    #[must_use]
    pub fn pool_state(&self) -> (u32, usize) {
        (self.pool.size(), self.pool.num_idle())
    }

    /// Units of work that run or wait for a connection.
    #[must_use]
    pub fn units(&self) -> usize {
        (self.settings.pool_size as usize + self.settings.waiting_max).saturating_sub(self.waiting.available_permits())
    }

    /// Closes the pool once what is running has ended.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Counts a connection as in use until dropped.
struct Lease(Arc<AtomicUsize>);

impl Lease {
    fn begin(leased: &Arc<AtomicUsize>) -> Self {
        leased.fetch_add(1, Ordering::AcqRel);
        Self(leased.clone())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The database's clock, offset included.
const NOW: &str = "SELECT UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND";

/// The database's present instant.
///
/// # Errors
/// Where the statement fails.
pub async fn now(conn: &mut Conn) -> Result<Timestamp, Problem> {
    let offset = conn.offset_micros();
    Ok(sqlx::query_scalar(NOW).bind(offset).fetch_one(conn.sql()).await?)
}

/// What is said of a COMMIT that was not answered.
const COMMIT_UNKNOWN: &str =
    "The database did not confirm. It may have taken effect: repeat it with the same Idempotency-Key.";

#[derive(Clone, Copy)]
enum Kind {
    Transaction,
    Read,
}

/// What came of running a unit once.
struct Attempt<T> {
    result: Result<T, Problem>,
    /// Whether it may run again after its connection broke: it changed nothing.
    is_repeatable: bool,
}

/// Whether a connection may go back to the pool.
#[derive(Clone, Copy)]
enum Reuse {
    Safe,
    Unsafe,
    /// It may not: it broke before anything was done.
    Unbegun,
}

impl Kind {
    /// A read that finds nobody is not refused for writing.
    fn name_failure(self, problem: Problem) -> Problem {
        match self {
            Self::Read if problem.code() == &codes::READ_ONLY => problem.recoded(&codes::UNAVAILABLE),
            _ => problem,
        }
    }

    async fn run<I, T>(self, conn: &mut Conn, input: &I, body: Body<I, T>) -> (Result<T, Problem>, Reuse) {
        if let Self::Read = self {
            return (body(conn, input).await, Reuse::Safe);
        }
        if let Err(error) = conn.sql().execute("START TRANSACTION").await {
            return (Err(error.into()), Reuse::Unbegun);
        }
        match body(conn, input).await {
            Ok(value) => match conn.sql().execute("COMMIT").await {
                Ok(_) => (Ok(value), Reuse::Safe),
                // Whether it was committed is not known: the client repeats with its key and finds out.
                Err(error) => (Err(Problem::from(error).detail(COMMIT_UNKNOWN).unanswered()), Reuse::Unsafe),
            },
            Err(problem) => match conn.sql().execute("ROLLBACK").await {
                Ok(_) => (Err(problem), Reuse::Safe),
                Err(_) => (Err(problem), Reuse::Unsafe),
            },
        }
    }
}

/// Full jitter over a doubling ceiling of 4 to 128 ms.
fn backoff(attempt: u32) -> Duration {
    let ceiling = 4_u64 << attempt.min(5);
    Duration::from_micros(rand::rng().random_range(0..ceiling * 1000))
}
