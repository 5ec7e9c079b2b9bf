//! The far tier: Redis. Its scripts, its keys, and whether it may be used.
//!
//! Keys owned: `cache:{<cache>.<format>:<key>}:value`, `…:lease` and `…:fence`. Each value has a hash tag of its own: its three keys
//! are together, and values spread over a cluster. The format is a part of the key, so that during an upgrade old and new instances keep
//! theirs side by side instead of overwriting each other's. Every key has an end.
//!
//! Once it was away, or could not be told of a change, it is left alone until the generation was raised: whatever it held before
//! is a miss then.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fred::types::Value;

use super::codec::{self, FORMAT, Head, What};
use super::metrics;
use crate::platform::error::Problem;
use crate::platform::redis::{Redis, Script};

static TAKE: LazyLock<Script> = LazyLock::new(|| script("cache.take", include_str!("lua/take.lua")));
static PUT: LazyLock<Script> = LazyLock::new(|| script("cache.put", include_str!("lua/put.lua")));
static HOLD: LazyLock<Script> = LazyLock::new(|| script("cache.hold", include_str!("lua/hold.lua")));
static WITHDRAW: LazyLock<Script> = LazyLock::new(|| script("cache.withdraw", include_str!("lua/withdraw.lua")));

/// A script with the shared head in front.
fn script(name: &'static str, lua: &str) -> Script {
    Script::new(name, format!("{}{lua}", include_str!("lua/entry.lua")))
}

/// Failures in a row after which Redis counts as having been away.
const FAILURES_MAX: u32 = 3;
/// How long a withdrawal stands: longer than any load takes.
const WITHDRAWN_FOR: Duration = Duration::from_mins(2);

/// A place for one value.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub cache: &'static str,
    /// The format of the cache's values.
    pub format: u8,
    /// The key as text.
    pub key: String,
}

/// What a value must be like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub generation: u64,
    /// The last change that must be in it.
    pub version: u64,
    /// When it may have been made, in microseconds since 1970.
    pub made: (i64, i64),
}

/// The answer to who looks for a value.
#[derive(Debug)]
pub(super) enum Taken {
    Found(Bytes),
    /// The caller loads, under this number.
    Yours(u64),
    /// Another one loads, for so long at most.
    Others(Duration),
    /// There is one; it was not asked for.
    There,
    /// There is nothing, and no lease was asked for.
    None,
}

/// What is wanted besides a value that is there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    /// The lease, for so long, where there is none.
    Lease(Duration),
    /// Nothing.
    Value,
    /// Not even the value, only whether there is one.
    Whether,
}

/// Redis as a cache.
#[derive(Debug)]
pub(super) struct Far {
    redis: Redis,
    failures: AtomicU32,
    is_off: AtomicBool,
}

impl Far {
    pub fn new(redis: Redis) -> Self {
        Self { redis, failures: AtomicU32::new(0), is_off: AtomicBool::new(false) }
    }

    /// Whether it is left alone.
    pub fn is_off(&self) -> bool {
        self.is_off.load(Ordering::Acquire)
    }

    /// Leaves it alone: it may hold what is no longer true.
    pub fn turn_off(&self) {
        if !self.is_off.swap(true, Ordering::AcqRel) {
            tracing::warn!("Redis is not used as a cache until the generation was raised");
            metrics::far_off(true);
        }
    }

    /// Uses it again.
    pub fn turn_on(&self) {
        self.failures.store(0, Ordering::Release);
        if self.is_off.swap(false, Ordering::AcqRel) {
            tracing::info!("Redis is used as a cache again");
            metrics::far_off(false);
        }
    }

    /// Whether Redis answers.
    pub async fn answers(&self) -> bool {
        self.redis.ping().await.is_ok()
    }

    /// Looks for a value. `heard` is the last change that the caller has heard of.
    pub async fn take(&self, place: &Place, wanted: Wanted, ask: Ask, heard: u64) -> Result<Taken, Problem> {
        let ask = match ask {
            Ask::Lease(lasts) => millis(lasts),
            Ask::Value => "0".into(),
            Ask::Whether => "-1".into(),
        };
        let args = vec![
            u64::from(place.format).to_string().into(),
            wanted.generation.to_string().into(),
            wanted.version.to_string().into(),
            wanted.made.0.to_string().into(),
            wanted.made.1.to_string().into(),
            ask,
            heard.to_string().into(),
        ];
        let mut reply = self.run(&TAKE, place, args).await?;
        let second = if reply.len() > 1 { reply.swap_remove(1) } else { Value::Null };
        let number = second.as_string().and_then(|text| text.parse::<u64>().ok());
        let taken = match (word(&reply).as_str(), number) {
            ("none", _) => Some(Taken::None),
            ("there", _) => Some(Taken::There),
            ("yours", Some(fence)) => Some(Taken::Yours(fence)),
            ("taken", Some(left)) => Some(Taken::Others(Duration::from_millis(left))),
            ("found", _) => second.into_bytes().map(Taken::Found),
            _ => None,
        };
        taken.ok_or_else(|| Problem::internal(anyhow::anyhow!("script answered {reply:?}")))
    }

    /// Keeps a value for so long, unless something newer is there, and ends the lease. Whether it was kept.
    pub async fn put(
        &self,
        place: &Place,
        value: Vec<u8>,
        kept_for: Duration,
        is_broken: bool,
        fence: u64,
    ) -> Result<bool, Problem> {
        let broken = if is_broken { "1" } else { "0" };
        let args = vec![Value::Bytes(value.into()), millis(kept_for), fence.to_string().into(), broken.into()];
        Ok(word(&self.run(&PUT, place, args).await?) == "kept")
    }

    /// Makes a lease last on. Whether it is still the caller's.
    pub async fn hold(&self, place: &Place, fence: u64, lasts: Duration) -> Result<bool, Problem> {
        let args = vec![fence.to_string().into(), millis(lasts)];
        Ok(word(&self.run(&HOLD, place, args).await?) == "held")
    }

    /// Ends a lease under which nothing was loaded.
    pub async fn give_back(&self, place: &Place, fence: u64) {
        // Else it ends by itself.
        drop(self.hold(place, fence, Duration::ZERO).await);
    }

    /// Makes void what was loaded before this change.
    pub async fn withdraw(&self, place: &Place, generation: u64, change: u64) -> Result<(), Problem> {
        let order = codec::Order { generation, version: change, fence: 0 };
        let head = Head { format: place.format, what: What::Withdrawn, order, made_at: 0 };
        let args = vec![Value::Bytes(codec::write(&head, &[]).into()), millis(WITHDRAWN_FOR)];
        self.run(&WITHDRAW, place, args).await.map(drop)
    }

    async fn run(&self, script: &Script, place: &Place, args: Vec<Value>) -> Result<Vec<Value>, Problem> {
        let Place { cache, format, key } = place;
        let keys = ["value", "lease", "fence"]
            .map(|part| self.redis.key(&format!("cache:{{{cache}.{FORMAT}.{format}:{key}}}:{part}")))
            .to_vec();
        // The client's future is large, and callers keep it in theirs.
        let result = Box::pin(self.redis.run(script, keys, args)).await;
        match &result {
            Ok(_) => self.failures.store(0, Ordering::Release),
            Err(_) if self.failures.fetch_add(1, Ordering::AcqRel) + 1 >= FAILURES_MAX => self.turn_off(),
            Err(_) => {}
        }
        result
    }
}

fn millis(time: Duration) -> Value {
    time.as_millis().to_string().into()
}

fn word(reply: &[Value]) -> String {
    reply.first().and_then(Value::as_string).unwrap_or_default()
}
