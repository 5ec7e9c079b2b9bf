//! The transactional outbox: what must happen after a commit is a row of that commit.
//!
//! Table owned: `outbox`. Redis stream owned: `<prefix>:events`. A relay on every instance claims rows by state
//! (SKIP LOCKED, with a lease), never by "greater than the last id", because ids become visible out of
//! order. A claimed row goes to the consumers, which record in MySQL what they make of it, then to its topic's handler, then to
//! the stream, then is marked sent. One that fails is due again a little later, and later each time. A relay that dies leaves a
//! lease that lapses, so an event may come twice: events carry an id, and consumers and handlers must be repeatable.

use std::collections::HashMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use serde_json::Value;
use sqlx::Row as _;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::clock::Timestamp;
use super::config::OutboxSettings;
use super::db::{Conn, Db, Script, Slot, Text, in_list, parts, rows};
use super::error::{Problem, codes};
use super::redis::Redis;
use super::shutdown::Shutdown;
use super::telemetry::metrics;

const INSERT: &str = "INSERT INTO outbox (id, topic, aggregate_id, version, payload, state, due_at, created_at) \
     VALUES (?, ?, ?, ?, ?, 0, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
const LIST_DUE_FOR_UPDATE: &str = "SELECT id, topic, aggregate_id, version, payload, created_at FROM outbox \
     WHERE state = 0 AND due_at <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND ORDER BY due_at LIMIT ? FOR UPDATE SKIP LOCKED";
/// Longer than a batch takes of which every event takes [`SEND_MAX`], after [`RECORD_MAX`].
const LEASE: &str = "UPDATE outbox SET attempts = attempts + 1, \
     due_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND + INTERVAL 60 SECOND WHERE id IN (?)";
/// About two seconds after the first failure, doubling, at most thirty; spread, so that what failed together does not
/// come back together.
const RETRY: &str = "UPDATE outbox SET due_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
     + INTERVAL ROUND(1000000 * LEAST(24, POW(2, LEAST(attempts, 5))) * (0.75 + RAND() / 2)) MICROSECOND \
     WHERE state = 0 AND id IN (?)";
const GIVE_BACK: &str = "UPDATE outbox SET attempts = attempts - 1, \
     due_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND WHERE state = 0 AND id IN (?)";
const MARK_SENT: &str = "UPDATE outbox SET state = 1 WHERE id IN (?)";
const DELETE_OLD: &str = "DELETE FROM outbox WHERE state = 1 \
     AND due_at < UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND - INTERVAL ? HOUR ORDER BY due_at LIMIT ?";
const OLDEST_SECS: &str = "SELECT CAST(COALESCE(TIMESTAMPDIFF(SECOND, MIN(created_at), UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND), 0) AS SIGNED) \
     FROM (SELECT created_at FROM outbox WHERE state = 0 ORDER BY due_at LIMIT 100) AS pending";

/// Of an event's row as text, all but its payload.
const ROW_LEN: usize = 400;
/// Events of a batch handled at once: a slow handler holds up its own event only.
const PARALLEL: usize = 8;
/// Longest time for one event.
const SEND_MAX: Duration = Duration::from_secs(2);
/// Longest time in which all consumers record a batch.
const RECORD_MAX: Duration = Duration::from_secs(5);

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// The event's own id: consumers drop duplicates by it.
    pub id: Uuid,
    /// What kind of thing happened, such as `reservation.confirmed`.
    pub topic: String,
    /// What it happened to.
    pub aggregate_id: Uuid,
    /// How many events this aggregate had before, plus one: consumers put them in order by it.
    pub version: u32,
    /// The facts.
    pub payload: Value,
    /// When it was recorded, on the database's clock.
    pub occurred_at: Timestamp,
}

/// Records an event in the transaction of its cause.
///
/// # Errors
/// Where the statement fails.
pub async fn record(
    conn: &mut Conn,
    topic: &'static str,
    aggregate_id: Uuid,
    version: u32,
    payload: &Value,
) -> Result<(), Problem> {
    let mut script = Script::default();
    insert(&mut script, conn.offset_micros(), topic, version, &[(aggregate_id, payload.to_string())]);
    script.run(conn).await.map(drop)
}

/// Has a script record the first event of each of these, with its facts.
pub fn record_first(script: &mut Script, offset_micros: i64, topic: &'static str, events: &[(Uuid, Value)]) {
    let events: Vec<(Uuid, String)> =
        events.iter().map(|(aggregate, payload)| (*aggregate, payload.to_string())).collect();
    insert(script, offset_micros, topic, 1, &events);
}

fn insert(script: &mut Script, offset: i64, topic: &'static str, version: u32, events: &[(Uuid, String)]) {
    let texts = parts(events, |(_, payload)| 2 * payload.len() + ROW_LEN).map(|part| {
        part.iter().fold(Text::new(rows(INSERT, part.len())), |text, (aggregate, payload)| {
            let text = text.bind(&Uuid::now_v7()).bind(topic).bind(aggregate).bind(&version);
            text.bind(payload.as_bytes()).bind(&offset).bind(&offset)
        })
    });
    let _: Slot<()> = script.add_all(texts);
}

/// What an instance does with an event besides putting it on the stream. Must be repeatable.
pub type Handler = Arc<dyn Fn(Event) -> BoxFuture<'static, Result<(), Problem>> + Send + Sync>;

/// Who records in MySQL what becomes of events, a batch at a time. Must be repeatable.
pub type Consumer = Arc<dyn Fn(Arc<[Event]>) -> BoxFuture<'static, Result<(), Problem>> + Send + Sync>;

/// Sends what was recorded.
pub struct Relay {
    db: Db,
    redis: Redis,
    settings: OutboxSettings,
    consumers: Vec<Consumer>,
    handlers: HashMap<&'static str, Handler>,
    wake: Arc<Notify>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("topics", &self.handlers.len()).finish_non_exhaustive()
    }
}

/// Tells this instance's relay that a row was just committed.
#[derive(Clone, Debug, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// Call it after the commit. Missing a call only delays the event by the relay's pause.
    pub fn now(&self) {
        self.0.notify_one();
    }
}

impl Relay {
    /// A relay of one instance, woken by `wake`.
    #[must_use]
    pub fn new(db: Db, redis: Redis, settings: OutboxSettings, wake: &Wake) -> Self {
        Self { db, redis, settings, consumers: Vec::new(), handlers: HashMap::new(), wake: wake.0.clone() }
    }

    /// Lets `consumer` record every event, whatever its topic, before anything else is done with it.
    #[must_use]
    pub fn recorded_by(mut self, consumer: Consumer) -> Self {
        self.consumers.push(consumer);
        self
    }

    /// Sends events of `topic` to `handler` too.
    #[must_use]
    pub fn on(mut self, topic: &'static str, handler: Handler) -> Self {
        self.handlers.insert(topic, handler);
        self
    }

    /// Relays until shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        let pause = Duration::from_millis(self.settings.poll_ms);
        while !shutdown.is_requested() {
            let full = match self.relay(&shutdown).await {
                Ok(count) => count >= self.settings.batch_max as usize,
                Err(problem) => {
                    tracing::warn!(%problem, "outbox relay");
                    false
                }
            };
            if !full {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.wake.notified() => {}
                    () = shutdown.requested() => {}
                }
            }
        }
    }

    /// Claims and sends one batch. Returns how many were claimed.
    ///
    /// # Errors
    /// Where MySQL does not answer. What could not be sent stays due.
    pub async fn relay_batch(&self) -> Result<usize, Problem> {
        self.relay(&Shutdown::default()).await
    }

    async fn relay(&self, shutdown: &Shutdown) -> Result<usize, Problem> {
        let limit = self.settings.batch_max;
        let events = self.db.in_tx("outbox.claim", limit, |conn, limit| Box::pin(claim(conn, *limit))).await?;
        let count = events.len();
        let mut settled = Settled::default();
        let events = self.record_all(events, &mut settled.failed).await;
        let mut outcomes = stream::iter(events)
            .map(|event| async move { (event.id, self.send_unless(shutdown, event).await) })
            .buffer_unordered(PARALLEL);
        while let Some((id, outcome)) = outcomes.next().await {
            match outcome {
                Some(true) => settled.sent.push(id),
                Some(false) => settled.failed.push(id),
                None => settled.left.push(id),
            }
        }
        drop(outcomes);
        if count > 0 {
            self.db.in_tx("outbox.settle", settled, |conn, settled| Box::pin(settle(conn, settled))).await?;
        }
        Ok(count)
    }

    /// Lets every consumer record the batch. Gives those events that all of them have; the others have failed.
    async fn record_all(&self, mut events: Vec<Event>, failed: &mut Vec<Uuid>) -> Vec<Event> {
        let deadline = Instant::now() + RECORD_MAX;
        for consumer in &self.consumers {
            if events.is_empty() {
                break;
            }
            let batch: Arc<[Event]> = events.as_slice().into();
            if let Err(problem) = consume(consumer, batch, deadline).await {
                tracing::warn!(%problem, "a batch of events was not recorded: one by one");
                events = record_each(consumer, events, deadline, failed).await;
            }
        }
        events
    }

    /// Whether the event was sent; nothing where draining began before.
    async fn send_unless(&self, shutdown: &Shutdown, event: Event) -> Option<bool> {
        if shutdown.is_requested() {
            return None;
        }
        let topic = event.topic.clone();
        // A handler that panics must not end the relay.
        let sending = AssertUnwindSafe(self.send(event)).catch_unwind();
        let outcome = match tokio::time::timeout(SEND_MAX, sending).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Problem::internal(anyhow::anyhow!("a handler panicked"))),
            Err(_) => Err(Problem::new(&codes::TIMED_OUT)),
        };
        metrics::outbox_event(&topic, outcome.is_ok());
        if let Err(problem) = &outcome {
            tracing::warn!(topic, %problem, "event stays due");
        }
        Some(outcome.is_ok())
    }

    async fn send(&self, event: Event) -> Result<(), Problem> {
        if let Some(handler) = self.handlers.get(event.topic.as_str()) {
            handler(event.clone()).await?;
        }
        let fields = vec![
            ("id", event.id.to_string()),
            ("topic", event.topic),
            ("aggregate_id", event.aggregate_id.to_string()),
            ("version", event.version.to_string()),
            ("payload", event.payload.to_string()),
        ];
        self.redis.append(&self.redis.key("events"), self.settings.stream_len_max, fields).await
    }

    /// Deletes rows sent long ago, at most `limit`, and measures the oldest unsent one.
    ///
    /// # Errors
    /// Where a statement fails.
    pub async fn tidy(db: &Db, keep_hours: u32, limit: u32) -> Result<u64, Problem> {
        db.in_tx("outbox.tidy", (keep_hours, limit), |conn, (keep_hours, limit)| {
            Box::pin(async move {
                let offset = conn.offset_micros();
                let old = sqlx::query(DELETE_OLD).bind(offset).bind(*keep_hours).bind(*limit);
                Ok(old.execute(conn.sql()).await?.rows_affected())
            })
        })
        .await
    }

    /// Age in seconds of the oldest unsent event.
    ///
    /// # Errors
    /// Where the statement fails.
    pub async fn measure(db: &Db) -> Result<i64, Problem> {
        let secs = db
            .read("outbox.measure", (), |conn, ()| {
                Box::pin(async move {
                    let offset = conn.offset_micros();
                    Ok(sqlx::query_scalar::<_, i64>(OLDEST_SECS).bind(offset).fetch_one(conn.sql()).await?)
                })
            })
            .await?;
        metrics::outbox_oldest(secs);
        Ok(secs)
    }
}

/// Runs a consumer, which neither panics nor takes longer.
async fn consume(consumer: &Consumer, events: Arc<[Event]>, deadline: Instant) -> Result<(), Problem> {
    if Instant::now() >= deadline {
        return Err(Problem::new(&codes::TIMED_OUT));
    }
    let consuming = AssertUnwindSafe(async { consumer(events).await }).catch_unwind();
    match tokio::time::timeout_at(deadline, consuming).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(Problem::internal(anyhow::anyhow!("a consumer panicked"))),
        Err(_) => Err(Problem::new(&codes::TIMED_OUT)),
    }
}

/// One of them may be to blame for all: the others go on without it.
async fn record_each(consumer: &Consumer, events: Vec<Event>, deadline: Instant, failed: &mut Vec<Uuid>) -> Vec<Event> {
    let mut recorded = Vec::with_capacity(events.len());
    for event in events {
        match consume(consumer, Arc::new([event.clone()]), deadline).await {
            Ok(()) => recorded.push(event),
            Err(problem) => {
                metrics::outbox_event(&event.topic, false);
                tracing::warn!(topic = event.topic, %problem, "event stays due");
                failed.push(event.id);
            }
        }
    }
    recorded
}

async fn claim(conn: &mut Conn, limit: u32) -> Result<Vec<Event>, Problem> {
    let offset = conn.offset_micros();
    let rows = sqlx::query(LIST_DUE_FOR_UPDATE).bind(offset).bind(limit).fetch_all(conn.sql()).await?;
    let mut events = Vec::with_capacity(rows.len());
    for row in rows {
        let payload: Vec<u8> = row.try_get("payload")?;
        events.push(Event {
            id: row.try_get("id")?,
            topic: row.try_get("topic")?,
            aggregate_id: row.try_get("aggregate_id")?,
            version: row.try_get("version")?,
            payload: serde_json::from_slice(&payload).map_err(Problem::internal)?,
            occurred_at: row.try_get("created_at")?,
        });
    }
    let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
    by_ids(conn, LEASE, Some(offset), &ids).await?;
    Ok(events)
}

/// What became of a batch's events.
#[derive(Default)]
struct Settled {
    sent: Vec<Uuid>,
    failed: Vec<Uuid>,
    left: Vec<Uuid>,
}

async fn settle(conn: &mut Conn, settled: &Settled) -> Result<(), Problem> {
    let offset = Some(conn.offset_micros());
    by_ids(conn, MARK_SENT, None, &settled.sent).await?;
    by_ids(conn, RETRY, offset, &settled.failed).await?;
    by_ids(conn, GIVE_BACK, offset, &settled.left).await
}

async fn by_ids(conn: &mut Conn, statement: &'static str, offset: Option<i64>, ids: &[Uuid]) -> Result<(), Problem> {
    if ids.is_empty() {
        return Ok(());
    }
    let mut query = sqlx::query(sqlx::AssertSqlSafe(in_list(statement, ids.len())));
    if let Some(offset) = offset {
        query = query.bind(offset);
    }
    for id in ids {
        query = query.bind(*id);
    }
    query.execute(conn.sql()).await?;
    Ok(())
}
