//! Redis: clients with limits on everything, and scripts that are sent once.
//!
//! Redis is speed, not truth: every caller has an answer for its absence. No command waits longer than
//! its timeout, nothing is sent twice by the client itself (a script whose reply is lost may have run),
//! and scripts are written so that the caller may repeat them.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, Instant};

use fred::clients::{Client, Pool};
use fred::interfaces::{ClientLike as _, LuaInterface as _, StreamsInterface as _};
use fred::prelude::FredResult;
use fred::types::config::{Config, ReconnectPolicy, TcpConfig, UnresponsiveConfig};
use fred::types::{Builder, FromValue, Value};

use super::breaker::Breaker;
use super::config::{ConfigError, RedisSettings};
use super::error::{Fault, Problem, codes};
use super::telemetry::metrics;

/// Failures in a row after which Redis is left alone, and for how long.
const BREAKER_THRESHOLD: u32 = 5;
const BREAKER_PAUSE: Duration = Duration::from_millis(500);

/// Errors of a server that is there but cannot serve: starting, failing over, full, busy.
const NOT_NOW: [&str; 6] = ["LOADING", "READONLY", "MASTERDOWN", "OOM", "BUSY", "TRYAGAIN"];

/// A Lua script, named for metrics. Its text states keys, arguments, returns and why it is atomic.
pub struct Script {
    name: &'static str,
    lua: Cow<'static, str>,
    hash: String,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Script {
    /// Wraps the text of a `.lua` file.
    #[must_use]
    pub fn new(name: &'static str, lua: impl Into<Cow<'static, str>>) -> Self {
        let lua = lua.into();
        Self { name, hash: fred::util::sha1_hash(&lua), lua }
    }
}

/// The clients. Clones share them.
#[derive(Clone)]
pub struct Redis {
    pool: Pool,
    prefix: String,
    breaker: Breaker,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Redis {
    /// Clients that connect in the background and reconnect for ever.
    ///
    /// # Errors
    /// Where the URL or the limits make no sense.
    pub fn new(settings: &RedisSettings) -> Result<Self, ConfigError> {
        let refuse = |name, reason: String| ConfigError::Rejected { name, reason };
        if settings.url.is_empty() {
            return Err(refuse("redis.url", "not set: redis://host:port".into()));
        }
        let config = Config::from_url(settings.url.expose())
            .map_err(|_| refuse("redis.url", "not a redis:// address".into()))?;
        let timeout = Duration::from_millis(settings.command_timeout_ms.max(1));
        let pool = Builder::from_config(config)
            .with_config(|config| config.fail_fast = true)
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
            .set_policy(ReconnectPolicy::new_exponential(0, 50, 1000, 2))
            .build_pool(settings.pool_size.max(1))
            .map_err(|error| refuse("redis", error.to_string()))?;
        drop(pool.connect());
        let breaker = Breaker::new("redis", BREAKER_THRESHOLD, BREAKER_PAUSE);
        Ok(Self { pool, prefix: settings.prefix.clone(), breaker })
    }

    /// Waits until the clients are connected, at most `limit`. Whether they are.
    pub async fn wait_for_connect(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.pool.wait_for_connect()).await.is_ok_and(|connected| connected.is_ok())
    }

    /// `prefix:` and this, so that installations and tests stay apart.
    #[must_use]
    pub fn key(&self, suffix: &str) -> String {
        format!("{}:{suffix}", self.prefix)
    }

    /// Runs a script by its hash, sending its text only to a server that does not know it yet.
    ///
    /// # Errors
    /// `unavailable` where Redis does not answer in time; `internal` where the script itself fails.
    pub async fn run<R: FromValue>(&self, script: &Script, keys: Vec<String>, args: Vec<Value>) -> Result<R, Problem> {
        self.command(script.name, async |client| {
            let result = client.evalsha(script.hash.as_str(), keys.clone(), args.clone()).await;
            match result {
                Err(error) if error.details().starts_with("NOSCRIPT") => {
                    client.eval(script.lua.as_ref(), keys, args).await
                }
                other => other,
            }
        })
        .await
    }

    /// Runs a command if Redis is not known to be away, measures it, and tells the breaker.
    async fn command<R>(
        &self,
        name: &'static str,
        run: impl AsyncFnOnce(&Client) -> FredResult<R>,
    ) -> Result<R, Problem> {
        let started = Instant::now();
        if !self.breaker.lets_pass(started) {
            return Err(Problem::new(&codes::UNAVAILABLE).fault_of(Fault::Disconnected));
        }
        let result = run(self.pool.next_connected()).await;
        metrics::redis_command(name, result.is_ok(), started.elapsed());
        let result = result.map_err(|error| problem(name, &error));
        match &result {
            Err(problem) if problem.fault() == Some(Fault::Disconnected) => self.breaker.failed(Instant::now()),
            _ => self.breaker.succeeded(Instant::now()),
        }
        result
    }

    /// Appends an entry to a stream whose length stays near `len_max`.
    ///
    /// # Errors
    /// As [`Redis::run`].
    pub async fn append(&self, stream: &str, len_max: i64, fields: Vec<(&str, String)>) -> Result<(), Problem> {
        self.command("stream.append", async |client| {
            client.xadd(stream, false, ("MAXLEN", "~", len_max), "*", fields).await
        })
        .await
    }

    /// Whether Redis answers.
    ///
    /// # Errors
    /// As [`Redis::run`].
    pub async fn ping(&self) -> Result<(), Problem> {
        self.command("ping", async |client| client.ping::<Value>(None).await.map(drop)).await
    }

    /// Ends the connections.
    pub async fn close(&self) {
        if let Err(error) = self.pool.quit().await {
            tracing::debug!(%error, "redis was already gone");
        }
    }
}

fn problem(name: &'static str, error: &fred::error::Error) -> Problem {
    use fred::error::ErrorKind;
    let cause = anyhow::anyhow!("redis {name}: {error}");
    if NOT_NOW.iter().any(|word| error.details().starts_with(word)) {
        return Problem::new(&codes::UNAVAILABLE).fault_of(Fault::Disconnected).because(cause);
    }
    let is_refused = match error.kind() {
        // Also the kind of what the client says by itself while a connection is lost and made anew.
        ErrorKind::Unknown => is_said_by_redis(error.details()),
        ErrorKind::InvalidCommand | ErrorKind::InvalidArgument | ErrorKind::Parse => true,
        _ => false,
    };
    if is_refused {
        return Problem::internal(cause);
    }
    Problem::new(&codes::UNAVAILABLE).fault_of(Fault::Disconnected).because(cause)
}

/// Redis' own errors begin with a code such as `ERR`; the client writes sentences.
fn is_said_by_redis(details: &str) -> bool {
    let code = details.split_whitespace().next().unwrap_or_default();
    code.len() > 1 && code.bytes().all(|byte| byte.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use fred::error::{Error, ErrorKind};

    use super::problem;

    #[test]
    fn a_lost_connection_is_no_mistake_of_ours() {
        let code = |kind, details: &str| problem("test", &Error::new(kind, details.to_owned())).code().code;
        for details in ["Failed to route command.", "channel closed", "Missing response.", ""] {
            assert_eq!(code(ErrorKind::Unknown, details), "unavailable", "{details}");
        }
        assert_eq!(code(ErrorKind::Unknown, "LOADING Redis is loading the dataset in memory"), "unavailable");
        assert_eq!(code(ErrorKind::Timeout, "Request timed out."), "unavailable");
        assert_eq!(code(ErrorKind::Unknown, "ERR user_script:1: attempt to call a nil value"), "internal");
        assert_eq!(code(ErrorKind::InvalidArgument, "WRONGTYPE Operation against a key"), "internal");
    }
}
