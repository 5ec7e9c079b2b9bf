//! The clients of one Redis server, or of the master that sentinels know.
//!
//! Invariants:
//! - A client that gives up is started again: fred's own loop ends on some errors, and its client would stay dead.
//! - A server that says it takes no writes has a new master somewhere: that client asks anew who it is.
//! - Dropping the node ends its connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fred::clients::{Client, Pool};
use fred::error::{Error, ErrorKind};
use fred::interfaces::ClientLike as _;
use fred::prelude::FredResult;
use fred::types::Builder;
use fred::types::config::{Config, ReconnectPolicy, ServerConfig, TcpConfig, UnresponsiveConfig};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::problem;
use crate::platform::breaker::Breaker;
use crate::platform::config::RedisSettings;
use crate::platform::error::Fault;
use crate::platform::telemetry::metrics;

/// Failures in a row after which a server is left alone, and for how long.
const BREAKER_THRESHOLD: u32 = 5;
const BREAKER_PAUSE: Duration = Duration::from_millis(500);
/// The pause before a connection is tried again, at first and at most.
const RECONNECT_MS: (u32, u32) = (50, 1000);
/// How long connections may take to end in good order.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// The clients.
pub(super) struct Node {
    pool: Pool,
    breaker: Breaker,
    /// Set while a client leaves a server that takes no writes.
    is_leaving: Arc<AtomicBool>,
    end: CancellationToken,
    _end_with_it: DropGuard,
}

impl Node {
    /// Clients that connect in the background.
    pub fn new(config: &Config, settings: &RedisSettings) -> FredResult<Self> {
        let size = settings.pool_size.max(1);
        let clients: FredResult<Vec<Client>> =
            (0..size).map(|number| builder(turned(config.clone(), number), settings).build()).collect();
        let clients = clients?;
        let end = CancellationToken::new();
        for client in &clients {
            tokio::spawn(keep_connected(client.clone(), end.clone()));
        }
        Ok(Self {
            pool: Pool::from_clients(clients)?,
            breaker: Breaker::new("redis", BREAKER_THRESHOLD, BREAKER_PAUSE),
            is_leaving: Arc::default(),
            _end_with_it: end.clone().drop_guard(),
            end,
        })
    }

    /// Whether every client is.
    pub fn is_connected(&self) -> bool {
        self.pool.clients().iter().all(Client::is_connected)
    }

    /// Runs a command if the server is not known to be away, measures it, and tells the breaker.
    pub async fn command<R, F>(&self, name: &'static str, run: impl FnOnce(Client) -> F) -> FredResult<R>
    where
        F: Future<Output = FredResult<R>>,
    {
        let started = Instant::now();
        if !self.breaker.lets_pass(started) {
            return Err(Error::new(ErrorKind::Canceled, "left alone for a moment"));
        }
        let client = self.pool.next_connected();
        let result = run(client.clone()).await;
        metrics::redis_command(name, result.is_ok(), started.elapsed());
        match &result {
            Err(error) if is_away(error) => self.breaker.failed(Instant::now()),
            _ => self.breaker.succeeded(Instant::now()),
        }
        if let Err(error) = &result
            && error.details().starts_with("READONLY")
        {
            self.leave(client);
        }
        result
    }

    /// Makes a client look for the master again, one client at a time.
    fn leave(&self, client: &Client) {
        if self.is_leaving.swap(true, Ordering::AcqRel) {
            return;
        }
        let (client, is_leaving) = (client.clone(), self.is_leaving.clone());
        tokio::spawn(async move {
            if let Err(error) = client.force_reconnection().await {
                tracing::warn!(%error, "a client could not leave a Redis that takes no writes");
            }
            is_leaving.store(false, Ordering::Release);
        });
    }

    /// Ends the connections in good order, or else at once.
    pub async fn close(&self) {
        let quit = tokio::time::timeout(CLOSE_MAX, self.pool.quit()).await;
        if !matches!(quit, Ok(Ok(()))) {
            tracing::debug!("redis was already gone");
        }
        self.end.cancel();
    }
}

/// Whether the server could not be reached or cannot serve. Who knows another place for a key is there.
fn is_away(error: &Error) -> bool {
    let is_elsewhere = ["MOVED ", "ASK "].iter().any(|word| error.details().starts_with(word));
    !is_elsewhere && problem("", error).fault() == Some(Fault::Disconnected)
}

/// Drives one client until `end`, whatever happens to it.
async fn keep_connected(client: Client, end: CancellationToken) {
    loop {
        let mut driven = client.connect();
        tokio::select! {
            outcome = &mut driven => {
                tracing::debug!(?outcome, "a client of Redis gave up");
            }
            () = end.cancelled() => {
                driven.abort();
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(RECONNECT_MS.1.into())) => {}
            () = end.cancelled() => return,
        }
    }
}

/// The same sentinels in another order for each client: fred asks the first one that accepts a connection, and one that
/// is silent or behind the times must not mislead all of them.
fn turned(mut config: Config, by: usize) -> Config {
    if let ServerConfig::Sentinel { hosts, .. } = &mut config.server
        && !hosts.is_empty()
    {
        let by = by % hosts.len();
        hosts.rotate_left(by);
    }
    config
}

fn builder(config: Config, settings: &RedisSettings) -> Builder {
    let timeout = Duration::from_millis(settings.command_timeout_ms.max(1));
    let mut builder = Builder::from_config(config);
    builder
        // Else a client whose first attempt fails would never try again.
        .with_config(|config| config.fail_fast = false)
        .with_performance_config(|performance| performance.default_command_timeout = timeout)
        .with_connection_config(|connection| {
            connection.connection_timeout = Duration::from_millis(settings.connect_timeout_ms.max(1));
            connection.internal_command_timeout = timeout;
            connection.max_command_attempts = 1;
            connection.max_command_buffer_len = settings.buffer_max;
            connection.unresponsive =
                UnresponsiveConfig { max_timeout: Some(timeout * 2), interval: Duration::from_millis(500) };
            connection.tcp = TcpConfig { nodelay: Some(true), ..TcpConfig::default() };
        })
        .set_policy(ReconnectPolicy::new_exponential(0, RECONNECT_MS.0, RECONNECT_MS.1, 2));
    builder
}
