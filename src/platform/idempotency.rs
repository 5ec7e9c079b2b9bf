//! Idempotency keys: a request that took effect takes effect once, however often it is sent.
//!
//! Table owned: `idempotency_keys`, one row per user and key. The row is inserted in the transaction of the effect, before
//! it, and completed with the answer after it: both are there or neither is, so a refusal leaves no
//! row and the key may be used again. Whoever comes while the first is running is told so: on the same
//! instance by a set in memory, which costs no connection; across instances by the row's lock, which is
//! never waited for longer than the lock limit.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::Row as _;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::db::{Body, Conn, Db, Outcomes, Script, Slot, Text, parts, rows, union_all};
use super::error::{Fault, Problem, codes};
use super::http::keyed::{Answer, RequestKey};

/// How long a key is remembered, in hours.
pub const KEEP_HOURS: u32 = 24;

const FIND_FOR_UPDATE: &str = "SELECT fingerprint, status, body, created_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND - INTERVAL 24 HOUR AS is_kept \
     FROM idempotency_keys WHERE user_id = ? AND request_key = ? FOR UPDATE NOWAIT";
const DELETE: &str = "DELETE FROM idempotency_keys WHERE user_id = ? AND request_key = ?";
const INSERT: &str = "INSERT INTO idempotency_keys (user_id, request_key, fingerprint, status, body, created_at) \
     VALUES (?, ?, ?, 0, '', UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
const COMPLETE: &str = "UPDATE idempotency_keys SET status = ?, body = ? WHERE user_id = ? AND request_key = ?";
const DELETE_OLD: &str = "DELETE FROM idempotency_keys \
     WHERE created_at < UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND - INTERVAL 24 HOUR ORDER BY created_at LIMIT ?";

const FIND_STORED: &str = "SELECT fingerprint, status, body, created_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND - INTERVAL 24 HOUR AS is_kept, \
     user_id, request_key FROM idempotency_keys WHERE user_id = ? AND request_key = ?";
const INSERT_STORED: &str = "INSERT INTO idempotency_keys (user_id, request_key, fingerprint, status, body, created_at) \
     VALUES (?, ?, ?, ?, ?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";

/// Of a stored answer's row as text, all but its body.
const ROW_LEN: usize = 800;
/// Refused requests that look their keys up at the same time: they must not take the pool from those that take effect.
const RECALLS_MAX: usize = 4;

type Running = Arc<Mutex<HashSet<(Uuid, String)>>>;

/// Runs effects at most once per user and key.
#[derive(Clone, Debug)]
pub struct Idempotency {
    db: Db,
    running: Running,
    recalls: Arc<Semaphore>,
}

/// Marks a key as running on this instance until dropped.
#[derive(Debug)]
struct Mark {
    running: Running,
    entry: (Uuid, String),
}

impl Mark {
    fn begin(running: &Running, user: Uuid, key: &str) -> Option<Self> {
        let entry = (user, key.to_owned());
        let is_first = running.lock().unwrap_or_else(PoisonError::into_inner).insert(entry.clone());
        is_first.then(|| Self { running: running.clone(), entry })
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.entry);
    }
}

struct Keyed<I> {
    user: Uuid,
    key: String,
    fingerprint: [u8; 32],
    input: I,
    body: Body<I, Answer>,
    /// Lives as long as the unit of work, even when the client is gone.
    _mark: Mark,
}

impl Idempotency {
    /// Over this database.
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { db, running: Arc::default(), recalls: Arc::new(Semaphore::new(RECALLS_MAX)) }
    }

    /// Runs `body` in one transaction with the request's key, or gives the stored answer.
    ///
    /// # Errors
    /// `idempotency_key_in_flight`, `idempotency_key_reused`, and whatever the body refuses with.
    pub async fn once<I: Send + Sync + 'static>(
        &self,
        name: &'static str,
        user: Uuid,
        request: RequestKey,
        input: I,
        body: Body<I, Answer>,
    ) -> Result<Answer, Problem> {
        self.once_within(name, self.db.unit_limit(), user, request, (input, body)).await
    }

    /// As [`Idempotency::once`], with a time limit of its own.
    ///
    /// # Errors
    /// As [`Idempotency::once`].
    pub async fn once_within<I: Send + Sync + 'static>(
        &self,
        name: &'static str,
        limit: Duration,
        user: Uuid,
        request: RequestKey,
        (input, body): (I, Body<I, Answer>),
    ) -> Result<Answer, Problem> {
        let Some(key) = request.key else {
            return self.db.in_tx_of_within(user, name, limit, (input, body)).await;
        };
        let Some(mark) = Mark::begin(&self.running, user, &key) else {
            return Err(in_flight());
        };
        let keyed = Keyed { user, key, fingerprint: request.fingerprint, input, body, _mark: mark };
        self.db.in_tx_of_within(user, name, limit, (keyed, |conn, keyed| run(conn, keyed))).await
    }

    /// Marks a keyed request as running; for requests that share a transaction, which look their keys up together
    /// ([`find_stored`]) and store their answers together ([`store`]). None where the request has no key.
    ///
    /// # Errors
    /// `idempotency_key_in_flight`.
    pub fn start(&self, user: Uuid, request: RequestKey) -> Result<Option<Arc<Begun>>, Problem> {
        let Some(key) = request.key else { return Ok(None) };
        let mark = Mark::begin(&self.running, user, &key).ok_or_else(in_flight)?;
        Ok(Some(Arc::new(Begun { user, key, fingerprint: request.fingerprint, _mark: mark })))
    }

    /// How the request was answered before, for one that is about to be refused.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn recall(&self, request: Arc<Begun>) -> Result<Option<Before>, Problem> {
        let _place = self.recalls.acquire().await.map_err(Problem::internal)?;
        let recall = self.db.read("idempotency.recall", request, |conn, request| {
            Box::pin(async move {
                let mut script = Script::default();
                let asked = ask_stored(&mut script, conn.offset_micros(), &[request.as_ref()]);
                Ok(request.before(&script.run(conn).await?.list(&asked)?))
            })
        });
        recall.await
    }

    /// Forgets keys past their time, at most `limit` of them. Returns how many.
    ///
    /// # Errors
    /// Where the statement fails.
    pub async fn delete_old(&self, limit: u32) -> Result<u64, Problem> {
        self.db
            .in_tx("idempotency.delete_old", limit, |conn, limit| {
                Box::pin(async move {
                    let offset = conn.offset_micros();
                    let done = sqlx::query(DELETE_OLD).bind(offset).bind(*limit).execute(conn.sql()).await?;
                    Ok(done.rows_affected())
                })
            })
            .await
    }
}

/// A keyed request that is running.
#[derive(Debug)]
pub struct Begun {
    user: Uuid,
    key: String,
    fingerprint: [u8; 32],
    /// Lives as long as what is done for the request, even when the client is gone.
    _mark: Mark,
}

/// How a keyed request was answered before.
pub type Before = Result<Answer, Problem>;

/// A stored answer's row.
#[derive(Debug, sqlx::FromRow)]
pub struct Stored {
    fingerprint: Vec<u8>,
    status: u16,
    body: Vec<u8>,
    is_kept: bool,
    user_id: Uuid,
    request_key: Vec<u8>,
}

/// What these requests were answered before: for each the stored answer, or `idempotency_key_reused`, or nothing. Keys past
/// their time are forgotten here, so that they can be stored anew.
///
/// # Errors
/// Where a statement fails.
pub async fn find_stored(
    conn: &mut Conn,
    requests: &[&Begun],
    (outcomes, asked): (&Outcomes, &Slot<Stored>),
) -> Result<Vec<Option<Before>>, Problem> {
    let stored = outcomes.list(asked)?;
    for old in stored.iter().filter(|row| !row.is_kept) {
        Text::new(DELETE).bind(&old.user_id).bind(&old.request_key[..]).execute(conn).await?;
    }
    Ok(requests.iter().map(|request| request.before(&stored)).collect())
}

/// Asks for what these requests were answered before: the answer is for [`find_stored`].
pub fn ask_stored(script: &mut Script, offset_micros: i64, requests: &[&Begun]) -> Slot<Stored> {
    let texts = parts(requests, |request| 2 * request.key.len() + ROW_LEN).map(|part| {
        part.iter().fold(Text::new(union_all(FIND_STORED, part.len())), |text, request| {
            text.bind(&offset_micros).bind(&request.user).bind(request.key.as_bytes())
        })
    });
    script.add_all(texts)
}

impl Begun {
    fn before(&self, stored: &[Stored]) -> Option<Before> {
        let mut kept = stored.iter().filter(|row| row.is_kept);
        let row = kept.find(|row| row.user_id == self.user && row.request_key == self.key.as_bytes())?;
        if row.fingerprint != self.fingerprint {
            return Some(Err(Problem::new(&codes::IDEMPOTENCY_KEY_REUSED)));
        }
        Some(Ok(Answer { status: row.status, body: row.body.clone().into(), replayed: true }))
    }
}

/// Stores the answers of requests that took effect, in the transaction of the effects. A key that another instance is
/// storing, or has just stored, fails the whole statement with [`Fault::Duplicate`].
pub fn store(script: &mut Script, offset_micros: i64, answers: &[(&Begun, &Answer)]) {
    let texts = parts(answers, |(_, answer)| 2 * answer.body.len() + ROW_LEN).map(|part| {
        part.iter().fold(Text::new(rows(INSERT_STORED, part.len())), |text, (request, answer)| {
            let text = text.bind(&request.user).bind(request.key.as_bytes()).bind(&request.fingerprint[..]);
            text.bind(&answer.status).bind(answer.body.as_ref()).bind(&offset_micros)
        })
    });
    let _: Slot<()> = script.add_all(texts);
}

fn in_flight() -> Problem {
    Problem::new(&codes::IDEMPOTENCY_KEY_IN_FLIGHT).retry_after(1)
}

fn run<'c, I: Send + Sync + 'static>(
    conn: &'c mut Conn,
    keyed: &'c Keyed<I>,
) -> BoxFuture<'c, Result<Answer, Problem>> {
    Box::pin(async move {
        if let Some(answer) = claim(conn, keyed).await? {
            return Ok(answer);
        }
        let answer = (keyed.body)(conn, &keyed.input).await?;
        sqlx::query(COMPLETE)
            .bind(answer.status)
            .bind(answer.body.as_ref())
            .bind(keyed.user)
            .bind(keyed.key.as_bytes())
            .execute(conn.sql())
            .await?;
        Ok(answer)
    })
}

/// The stored answer, or nothing once the key belongs to this transaction.
async fn claim<I>(conn: &mut Conn, keyed: &Keyed<I>) -> Result<Option<Answer>, Problem> {
    let offset = conn.offset_micros();
    let found = sqlx::query(FIND_FOR_UPDATE)
        .bind(offset)
        .bind(keyed.user)
        .bind(keyed.key.as_bytes())
        .fetch_optional(conn.sql())
        .await
        .map_err(busy)?;
    if let Some(row) = found {
        if row.try_get::<bool, _>("is_kept")? {
            if row.try_get::<Vec<u8>, _>("fingerprint")? != keyed.fingerprint {
                return Err(Problem::new(&codes::IDEMPOTENCY_KEY_REUSED));
            }
            let body = row.try_get::<Vec<u8>, _>("body")?.into();
            return Ok(Some(Answer { status: row.try_get("status")?, body, replayed: true }));
        }
        sqlx::query(DELETE).bind(keyed.user).bind(keyed.key.as_bytes()).execute(conn.sql()).await?;
    }
    sqlx::query(INSERT)
        .bind(keyed.user)
        .bind(keyed.key.as_bytes())
        .bind(keyed.fingerprint.as_slice())
        .bind(offset)
        .execute(conn.sql())
        .await
        .map_err(busy)?;
    Ok(None)
}

/// Another transaction has the key: it is running, or has just ended; a repeat will tell.
fn busy(error: sqlx::Error) -> Problem {
    let problem = Problem::from(error);
    match problem.fault() {
        Some(Fault::LockWait | Fault::Duplicate) => in_flight(),
        _ => problem,
    }
}
