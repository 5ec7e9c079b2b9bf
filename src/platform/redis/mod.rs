//! Redis: clients with limits on everything, and scripts that are sent once.
//!
//! Redis is speed, not truth: every caller has an answer for its absence. No command waits longer than
//! its timeout, nothing is sent twice by the client itself (a script whose reply is lost may have run),
//! and scripts are written so that the caller may repeat them.
//!
//! It may be one server, a master that sentinels know, or a cluster (`cluster.rs`). In a cluster each node stands alone:
//! what is wrong with one touches no key of another one.

mod cluster;
mod node;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::{ClientLike as _, LuaInterface as _, StreamsInterface as _};
use fred::prelude::FredResult;
use fred::types::config::Config;
use fred::types::{FromValue, Key, Value};
use futures::future::join_all;

use self::cluster::Cluster;
use self::node::Node;
use super::config::{ConfigError, RedisSettings};
use super::error::{Fault, Problem, codes};

/// How often a caller who waits for connections looks whether they are there.
const CONNECT_POLL: Duration = Duration::from_millis(20);

/// Errors of a server that is there but cannot serve: starting, failing over, full, busy, cut off from its replicas or
/// from the rest of its cluster.
const NOT_NOW: [&str; 11] = [
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "OOM",
    "BUSY",
    "UNKILLABLE",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "NOREPLICAS",
    "MISCONF",
    "NOQUORUM",
];

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
    store: Arc<Store>,
    prefix: String,
}

enum Store {
    /// One server, or the one that sentinels call the master.
    One(Node),
    Cluster(Cluster),
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
        let config = Config::from_url(settings.url.expose()).map_err(|_| {
            let reason = "not an address like redis://, redis-sentinel:// or redis-cluster://";
            refuse("redis.url", reason.into())
        })?;
        let store = if config.server.is_clustered() {
            Store::Cluster(Cluster::new(config, settings))
        } else {
            Store::One(Node::new(&config, settings).map_err(|error| refuse("redis", error.to_string()))?)
        };
        Ok(Self { store: Arc::new(store), prefix: settings.prefix.clone() })
    }

    /// Waits until the clients are connected, at most `limit`. Whether they are.
    pub async fn wait_for_connect(&self, limit: Duration) -> bool {
        let connected = async {
            while !self.is_connected() {
                tokio::time::sleep(CONNECT_POLL).await;
            }
        };
        tokio::time::timeout(limit, connected).await.is_ok()
    }

    fn is_connected(&self) -> bool {
        match &*self.store {
            Store::One(node) => node.is_connected(),
            Store::Cluster(cluster) => {
                cluster.owners().is_some_and(|owners| owners.iter().all(|one| one.is_connected()))
            }
        }
    }

    /// `prefix:` and this, so that installations and tests stay apart.
    #[must_use]
    pub fn key(&self, suffix: &str) -> String {
        format!("{}:{suffix}", self.prefix)
    }

    /// Runs a script by its hash, sending its text only to a server that does not know it yet. In a cluster it runs where
    /// the first of its keys is; the others must have the same hash tag.
    ///
    /// # Errors
    /// `unavailable` where Redis does not answer in time; `internal` where the script itself fails.
    pub async fn run<R: FromValue>(&self, script: &Script, keys: Vec<String>, args: Vec<Value>) -> Result<R, Problem> {
        self.run_on(script, keys.into_iter().map(Key::from).collect(), args).await
    }

    /// The same for keys that are cheap to copy.
    ///
    /// # Errors
    /// As [`Redis::run`].
    pub async fn run_on<R: FromValue>(&self, script: &Script, keys: Vec<Key>, args: Vec<Value>) -> Result<R, Problem> {
        let first = keys.first().and_then(Key::as_str).unwrap_or_default();
        let (keys, args) = (&keys, &args);
        let run = move |client: Client| async move {
            let result = client.evalsha(script.hash.as_str(), keys.clone(), args.clone()).await;
            match result {
                Err(error) if error.details().starts_with("NOSCRIPT") => {
                    client.eval(script.lua.as_ref(), keys.clone(), args.clone()).await
                }
                other => other,
            }
        };
        self.command(script.name, first, run).await
    }

    async fn command<R, F>(&self, name: &'static str, key: &str, run: impl Fn(Client) -> F) -> Result<R, Problem>
    where
        F: Future<Output = FredResult<R>>,
    {
        let result = match &*self.store {
            Store::One(node) => node.command(name, run).await,
            Store::Cluster(cluster) => cluster.command(name, key, run).await,
        };
        result.map_err(|error| problem(name, &error))
    }

    /// Appends an entry to a stream whose length stays near `len_max`.
    ///
    /// # Errors
    /// As [`Redis::run`].
    pub async fn append(&self, stream: &str, len_max: i64, fields: Vec<(&str, String)>) -> Result<(), Problem> {
        let fields = &fields;
        let run = move |client: Client| async move {
            client.xadd(stream, false, ("MAXLEN", "~", len_max), "*", fields.clone()).await
        };
        self.command("stream.append", stream, run).await
    }

    /// Whether Redis answers; in a cluster, whether every node does that owns keys.
    ///
    /// # Errors
    /// As [`Redis::run`].
    pub async fn ping(&self) -> Result<(), Problem> {
        let ping = |client: Client| async move { client.ping::<Value>(None).await.map(drop) };
        match &*self.store {
            Store::One(node) => node.command("ping", ping).await.map_err(|error| problem("ping", &error)),
            Store::Cluster(cluster) => {
                let owners = cluster.owners().ok_or_else(|| Problem::new(&codes::UNAVAILABLE))?;
                let answers = join_all(owners.iter().map(|node| node.command("ping", ping))).await;
                answers.into_iter().find_map(Result::err).map_or(Ok(()), |error| Err(problem("ping", &error)))
            }
        }
    }

    /// Ends the connections.
    pub async fn close(&self) {
        match &*self.store {
            Store::One(node) => node.close().await,
            Store::Cluster(cluster) => cluster.close().await,
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
        for details in [
            "LOADING Redis is loading the dataset in memory",
            "READONLY You can't write against a read only replica.",
            "UNKILLABLE Sorry the script already executed write commands",
            "NOREPLICAS Not enough good replicas to write.",
            "MISCONF Errors writing to the AOF file: No space left on device",
        ] {
            assert_eq!(code(ErrorKind::Unknown, details), "unavailable", "{details}");
        }
        for details in ["MOVED 3999 127.0.0.1:6381", "ASK 3999 127.0.0.1:6381", "CLUSTERDOWN The cluster is down"] {
            assert_eq!(code(ErrorKind::Cluster, details), "unavailable", "{details}");
        }
        assert_eq!(code(ErrorKind::Timeout, "Request timed out."), "unavailable");
        assert_eq!(code(ErrorKind::Unknown, "ERR user_script:1: attempt to call a nil value"), "internal");
        assert_eq!(code(ErrorKind::Unknown, "CROSSSLOT Keys in request don't hash to the same slot"), "internal");
        assert_eq!(code(ErrorKind::InvalidArgument, "WRONGTYPE Operation against a key"), "internal");
    }
}
