//! How connections are made, trusted and given back.
//!
//! - The server ends a connection that says nothing for a while ([`silence`]), so that whoever is cut off in the middle
//!   of a transaction does not keep its locks: no end of the connection comes through a broken network.
//! - The server ends a read that its client no longer waits for.
//! - A connection that was idle when another one broke, or for long, proves itself before it is used: connections tend
//!   to break together, and each would fail a request of its own.
//! - A connection is given back with a ping, within a limit: one that is in the middle of a packet, or cut off, is closed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySql, MySqlConnection, MySqlPool};

use crate::platform::config::DatabaseSettings;

/// Longest wait for the ping that a connection must answer before it is used again.
const PING_MAX: Duration = Duration::from_millis(700);
/// The server lets a statement live so much longer than whoever waits for it.
const STATEMENT_MARGIN: Duration = Duration::from_secs(1);

/// When a connection broke last. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Suspicion(Arc<Mutex<Option<Instant>>>);

impl Suspicion {
    /// A connection broke: whatever is idle now may be broken too.
    pub(super) fn raise(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether it holds for a connection that has been idle for so long.
    fn covers(&self, idle_for: Duration) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|raised| raised.elapsed() <= idle_for)
    }
}

/// How long a connection may say nothing, in a transaction or not: twice the time of a unit, two seconds at least.
fn silence(settings: &DatabaseSettings) -> Duration {
    Duration::from_secs((settings.unit_timeout_ms * 2).div_ceil(1000).max(2))
}

/// A pool that connects when first used.
pub(super) fn build(options: MySqlConnectOptions, settings: &DatabaseSettings, suspicion: &Suspicion) -> MySqlPool {
    let silence = silence(settings);
    let (lock_secs, silence_secs) = (settings.lock_wait_secs.max(1), silence.as_secs());
    let limits = format!(
        "SET SESSION innodb_lock_wait_timeout = {lock_secs}, lock_wait_timeout = {lock_secs}, \
         wait_timeout = {silence_secs}, net_read_timeout = {silence_secs}, net_write_timeout = {silence_secs}"
    );
    let limits = Arc::new([
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED".to_owned(),
        limits,
        statement_limit(Duration::from_millis(settings.unit_timeout_ms)),
    ]);
    let suspicion = suspicion.clone();
    MySqlPoolOptions::new()
        .max_connections(settings.pool_size)
        .acquire_timeout(Duration::from_millis(settings.acquire_timeout_ms))
        .idle_timeout(silence / 2)
        .test_before_acquire(false)
        .after_connect(move |conn, _| {
            let limits = limits.clone();
            Box::pin(async move {
                for limit in limits.iter() {
                    conn.execute(AssertSqlSafe(limit.clone())).await?;
                }
                Ok(())
            })
        })
        .before_acquire(move |conn, meta| {
            let is_doubtful = meta.idle_for >= silence / 2 || suspicion.covers(meta.idle_for);
            Box::pin(async move { Ok(!is_doubtful || answers(conn).await) })
        })
        .connect_lazy_with(options.statement_cache_capacity(256))
}

async fn answers(conn: &mut MySqlConnection) -> bool {
    tokio::time::timeout(PING_MAX, conn.ping()).await.is_ok_and(|pong| pong.is_ok())
}

/// The longest time of a statement that only reads; MariaDB bounds every statement. Each server reads its own part
/// and takes the other's for a comment.
fn statement_limit(limit: Duration) -> String {
    let limit = limit + STATEMENT_MARGIN;
    let (millis, secs) = (limit.as_millis(), limit.as_secs_f64());
    format!(
        "SET SESSION sql_auto_is_null = 0 /*!80000 , max_execution_time = {millis} */ /*M! , max_statement_time = {secs} */"
    )
}

/// Lets the connection's statements take so long.
pub(super) async fn limit_statements(conn: &mut MySqlConnection, limit: Duration) -> sqlx::Result<()> {
    conn.execute(AssertSqlSafe(statement_limit(limit))).await.map(drop)
}

/// Gives a connection back, in the background: the pool pings it first, and is not waited for longer than the limit.
pub(super) fn give_back(mut conn: PoolConnection<MySql>) {
    let giving = conn.return_to_pool();
    tokio::spawn(async move {
        // Dropped in the middle of the ping, the connection is closed.
        if tokio::time::timeout(PING_MAX, giving).await.is_err() {
            tracing::debug!("a connection did not answer its last ping");
        }
    });
}
