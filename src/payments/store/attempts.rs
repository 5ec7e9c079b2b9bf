//! The rows of attempts to pay by card, and of what the provider told by webhook.
//!
//! An attempt is undecided while `open_subject` is set, which a unique key allows once for everything that is sold; `due_at`
//! says when the provider is asked next, and is empty once there is nothing left to ask. The card itself is never stored.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::accounts::UserId;
use crate::payments::domain::{PaymentId, PaymentStatus, Subject};
use crate::payments::payable::{Ask, Attempt, Request};
use crate::platform::clock::Timestamp;
use crate::platform::db::{Conn, Text, in_list};
use crate::platform::error::Problem;
use crate::platform::money::Money;

const INSERT: &str = "INSERT INTO payments (id, user_id, method, state, subject_kind, subject_id, amount, created_at, changed_at, \
     open_subject, open_key, fingerprint, result_id, due_at) VALUES (?, ?, 1, 0, ?, ?, ?, \
     UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, ?, ?, ?, ?, \
     UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND + INTERVAL ? MICROSECOND)";
const FIND: &str = "SELECT id, user_id, state, subject_kind, subject_id, amount, provider_id, result_id, reason, \
     open_key, fingerprint, created_at FROM payments WHERE id = ? AND method = 1";
const FIND_FOR_UPDATE: &str = "SELECT id, user_id, state, subject_kind, subject_id, amount, provider_id, result_id, reason, \
     open_key, fingerprint, created_at FROM payments WHERE id = ? AND method = 1 FOR UPDATE";
/// The last of those that were tried; by the subject's index, which ends with the id.
const FIND_LAST_OF_SUBJECT: &str = "SELECT id, user_id, state, subject_kind, subject_id, amount, provider_id, result_id, reason, \
     open_key, fingerprint, created_at FROM payments \
     WHERE subject_kind = ? AND subject_id = ? AND method = 1 ORDER BY id DESC LIMIT 1";
/// What was tried before, to pay the same thing. Which ones, where there are more, does not matter: no other is begun then.
const LIST_OF_SUBJECT: &str = "SELECT state, result_id, open_key FROM payments \
     WHERE subject_kind = ? AND subject_id = ? AND method = 1 LIMIT ?";
const DECIDE: &str = "UPDATE payments SET state = ?, reason = ?, \
     due_at = IF(?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, NULL), open_subject = NULL, open_key = NULL, \
     fingerprint = NULL, checks = 0, changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND WHERE id = ? AND state = 0";
/// The request has its answer, so that its key may be forgotten here; whoever recovers goes on at once.
const HAND_OVER: &str = "UPDATE payments SET open_key = NULL, fingerprint = NULL, \
     due_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
     WHERE id = ? AND state = 0";
/// Only the request that began it does this, before it confirms: who finds none knows that nothing was charged.
const SET_INTENT: &str = "UPDATE payments SET provider_id = ? WHERE id = ? AND state = 0 AND open_key IS NOT NULL";
const MARK_GIVEN_BACK: &str = "UPDATE payments SET state = 3, due_at = NULL, \
     changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND WHERE id = ? AND state = 4";

const LIST_DUE_FOR_UPDATE: &str = "SELECT id, user_id, state, subject_kind, subject_id, amount, provider_id, result_id, reason, \
     open_key, fingerprint, created_at FROM payments \
     WHERE state = ? AND due_at <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND ORDER BY due_at LIMIT ? FOR UPDATE SKIP LOCKED";
const LIST_OPEN: &str = "SELECT id, user_id, state, subject_kind, subject_id, amount, provider_id, result_id, reason, \
     open_key, fingerprint, created_at FROM payments WHERE state = ? AND due_at IS NOT NULL ORDER BY due_at LIMIT ?";
const LEASE: &str = "UPDATE payments SET checks = checks + 1, \
     due_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND + INTERVAL ? MICROSECOND WHERE id IN (?)";
/// Twice as late each time, up to a longest pause, and spread, so that what failed together does not come back together. Who
/// was made due meanwhile stays due: a lease lies ahead.
const POSTPONE: &str = "UPDATE payments SET due_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
     + INTERVAL ROUND(LEAST(1000000 * POW(2, LEAST(checks, 20)), ?) * (0.5 + RAND() / 2)) MICROSECOND \
     WHERE due_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND AND id IN (?)";
const GIVE_BACK: &str = "UPDATE payments SET checks = checks - 1, due_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
     WHERE due_at IS NOT NULL AND checks > 0 AND id IN (?)";
const HASTEN: &str =
    "UPDATE payments SET due_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND WHERE id = ? AND due_at IS NOT NULL";
/// No more of each than may be counted at any time.
const MEASURE: &str = "SELECT CAST(COALESCE(SUM(state = 0), 0) AS SIGNED), CAST(COALESCE(SUM(state = 4), 0) AS SIGNED), \
     CAST(COALESCE(TIMESTAMPDIFF(SECOND, MIN(changed_at), UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND), 0) AS SIGNED) \
     FROM ((SELECT state, changed_at FROM payments WHERE state = 0 AND due_at IS NOT NULL ORDER BY due_at LIMIT 10000) \
     UNION ALL (SELECT state, changed_at FROM payments WHERE state = 4 AND due_at IS NOT NULL ORDER BY due_at LIMIT 10000)) AS open_payments";

const INSERT_EVENT: &str =
    "INSERT INTO provider_events (id, received_at) VALUES (?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
/// Long after the provider has stopped sending them again.
const DELETE_OLD_EVENTS: &str = "DELETE FROM provider_events \
     WHERE received_at < UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND - INTERVAL 30 DAY ORDER BY received_at LIMIT ?";

/// Of an id in a list as text, in bytes.
const ID_LEN: usize = 40;

#[derive(sqlx::FromRow)]
struct Row {
    id: PaymentId,
    user_id: UserId,
    state: u8,
    subject_kind: u8,
    subject_id: Uuid,
    amount: Money,
    provider_id: Option<String>,
    result_id: Option<Uuid>,
    reason: Option<String>,
    open_key: Option<Vec<u8>>,
    fingerprint: Option<Vec<u8>>,
    created_at: Timestamp,
}

impl Row {
    fn attempt(self) -> Result<Attempt, Problem> {
        let wrong = |what: &str| Problem::internal(anyhow::anyhow!("payment {}: {what}", self.id));
        let subject =
            Subject::of(self.subject_kind, self.subject_id).ok_or_else(|| wrong("unknown kind of subject"))?;
        let result = self.result_id.ok_or_else(|| wrong("no result"))?;
        let request = self.open_key.zip(self.fingerprint).map(|(key, fingerprint)| Request { key, fingerprint });
        Ok(Attempt {
            id: self.id,
            user: self.user_id,
            status: PaymentStatus::of(self.state),
            subject,
            amount: self.amount,
            intent: self.provider_id,
            result,
            reason: self.reason,
            request,
            created_at: self.created_at,
        })
    }
}

/// A new attempt's row.
#[derive(Debug)]
pub(in crate::payments) struct NewAttempt<'a> {
    /// The payment.
    pub id: PaymentId,
    /// What was asked.
    pub ask: &'a Ask,
    /// How much.
    pub amount: Money,
    /// What it becomes.
    pub result: Uuid,
    /// The request that waits for its answer.
    pub request: &'a Request,
    /// After which others may ask the provider what became of it.
    pub grace: Duration,
}

/// Begins an attempt. Fails as a duplicate where one for the same thing, or by the same request, is not decided.
pub(in crate::payments) async fn insert(conn: &mut Conn, new: &NewAttempt<'_>) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    let (kind, subject) = new.ask.subject.stored();
    sqlx::query(INSERT)
        .bind(new.id)
        .bind(new.ask.user)
        .bind(kind)
        .bind(subject)
        .bind(new.amount)
        .bind(offset)
        .bind(offset)
        .bind(subject)
        .bind(&new.request.key)
        .bind(&new.request.fingerprint)
        .bind(new.result)
        .bind(offset)
        .bind(micros(new.grace))
        .execute(conn.sql())
        .await?;
    Ok(())
}

/// An attempt.
pub(in crate::payments) async fn find(conn: &mut Conn, id: PaymentId) -> Result<Option<Attempt>, Problem> {
    let found: Option<Row> = sqlx::query_as(FIND).bind(id).fetch_optional(conn.sql()).await?;
    found.map(Row::attempt).transpose()
}

/// An attempt, locked.
pub(in crate::payments) async fn find_for_update(conn: &mut Conn, id: PaymentId) -> Result<Option<Attempt>, Problem> {
    let found: Option<Row> = sqlx::query_as(FIND_FOR_UPDATE).bind(id).fetch_optional(conn.sql()).await?;
    found.map(Row::attempt).transpose()
}

/// The last attempt to pay this by card, whoever's it is.
///
/// # Errors
/// Where the statement fails.
pub async fn find_last_of_subject(conn: &mut Conn, subject: Subject) -> Result<Option<Attempt>, Problem> {
    let (kind, id) = subject.stored();
    let found: Option<Row> =
        sqlx::query_as(FIND_LAST_OF_SUBJECT).bind(kind).bind(id).fetch_optional(conn.sql()).await?;
    found.map(Row::attempt).transpose()
}

/// What was tried before to pay something by card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::payments) struct Earlier {
    /// Whether it is not decided.
    pub is_open: bool,
    /// The id of what it becomes or would have become: what is paid for later has the same.
    pub result: Option<Uuid>,
    /// The key of the request that waits for its answer.
    pub key: Option<Vec<u8>>,
}

#[derive(sqlx::FromRow)]
struct EarlierRow {
    state: u8,
    result_id: Option<Uuid>,
    open_key: Option<Vec<u8>>,
}

/// The attempts to pay this by card, at most so many. Whoever has locked it knows that no other begins.
pub(in crate::payments) async fn list_of_subject(
    conn: &mut Conn,
    subject: Subject,
    limit: u32,
) -> Result<Vec<Earlier>, Problem> {
    let (kind, id) = subject.stored();
    let text = Text::new(LIST_OF_SUBJECT).bind(&u32::from(kind)).bind(&id).bind(&limit);
    let earlier = |row: EarlierRow| {
        let is_open = PaymentStatus::of(row.state) == PaymentStatus::Pending;
        Earlier { is_open, result: row.result_id, key: row.open_key }
    };
    Ok(text.list(conn).await?.into_iter().map(earlier).collect())
}

/// Decides an attempt that is not decided. False where it was.
pub(in crate::payments) async fn decide(
    conn: &mut Conn,
    id: PaymentId,
    status: PaymentStatus,
    reason: Option<&str>,
) -> Result<bool, Problem> {
    let offset = conn.offset_micros();
    let done = sqlx::query(DECIDE)
        .bind(status.number())
        .bind(reason)
        .bind(status == PaymentStatus::Refunding)
        .bind(offset)
        .bind(offset)
        .bind(id)
        .execute(conn.sql())
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Leaves an undecided attempt to recovery.
pub(in crate::payments) async fn hand_over(conn: &mut Conn, id: PaymentId) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    sqlx::query(HAND_OVER).bind(offset).bind(offset).bind(id).execute(conn.sql()).await?;
    Ok(())
}

/// Remembers the provider's name for an attempt whose request waits for its answer. False where that is over.
pub(in crate::payments) async fn set_intent(conn: &mut Conn, id: PaymentId, intent: &str) -> Result<bool, Problem> {
    Ok(sqlx::query(SET_INTENT).bind(intent).bind(id).execute(conn.sql()).await?.rows_affected() == 1)
}

/// Notes that the provider has given the money of an attempt back. False where it was not owed.
pub(in crate::payments) async fn mark_given_back(conn: &mut Conn, id: PaymentId) -> Result<bool, Problem> {
    let offset = conn.offset_micros();
    let done = sqlx::query(MARK_GIVEN_BACK).bind(offset).bind(id).execute(conn.sql()).await?;
    Ok(done.rows_affected() == 1)
}

/// Claims what is due in this state, for as long as the lease: nobody else claims it meanwhile. A row that makes no sense to
/// this version is left to others, and does not keep the rest from being looked after.
pub(in crate::payments) async fn claim(
    conn: &mut Conn,
    status: PaymentStatus,
    limit: u32,
    lease: Duration,
) -> Result<Vec<Attempt>, Problem> {
    let offset = conn.offset_micros();
    let due = sqlx::query_as(LIST_DUE_FOR_UPDATE).bind(status.number()).bind(offset).bind(limit);
    let rows: Vec<Row> = due.fetch_all(conn.sql()).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let query = sqlx::query(AssertSqlSafe(in_list(LEASE, rows.len()))).bind(offset).bind(micros(lease));
    rows.iter().fold(query, |query, row| query.bind(row.id)).execute(conn.sql()).await?;
    Ok(understood(rows))
}

/// Open payments in this state, those that are due first.
pub(in crate::payments) async fn list_open(
    conn: &mut Conn,
    status: PaymentStatus,
    limit: u32,
) -> Result<Vec<Attempt>, Problem> {
    let rows = sqlx::query_as(LIST_OPEN).bind(status.number()).bind(limit).fetch_all(conn.sql()).await?;
    Ok(understood(rows))
}

fn understood(rows: Vec<Row>) -> Vec<Attempt> {
    let known = rows.into_iter().filter_map(|row| {
        let id = row.id;
        let attempt = row.attempt();
        attempt
            .inspect_err(|problem| tracing::error!(payment = %id, %problem, "an open payment is not understood"))
            .ok()
    });
    known.collect()
}

/// Has those of these that are still claimed asked about later, each time later still.
pub(in crate::payments) async fn postpone(
    conn: &mut Conn,
    ids: &[PaymentId],
    longest: Duration,
) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    for part in crate::platform::db::parts(ids, |_| ID_LEN) {
        let text = Text::new(in_list(POSTPONE, part.len())).bind(&offset).bind(&micros(longest)).bind(&offset);
        part.iter().fold(text, Text::bind).execute(conn).await?;
    }
    Ok(())
}

/// Gives claimed attempts back that nobody looked at.
pub(in crate::payments) async fn give_back(conn: &mut Conn, ids: &[PaymentId]) -> Result<(), Problem> {
    for part in crate::platform::db::parts(ids, |_| ID_LEN) {
        let text = Text::new(in_list(GIVE_BACK, part.len())).bind(&conn.offset_micros());
        part.iter().fold(text, Text::bind).execute(conn).await?;
    }
    Ok(())
}

/// Makes an attempt due that is undecided or owed back.
pub(in crate::payments) async fn hasten(conn: &mut Conn, id: PaymentId) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    sqlx::query(HASTEN).bind(offset).bind(id).execute(conn.sql()).await?;
    Ok(())
}

/// How many are undecided and owed back, and how many seconds ago the oldest of them entered that state.
pub(in crate::payments) async fn measure(conn: &mut Conn) -> Result<(i64, i64, i64), Problem> {
    let offset = conn.offset_micros();
    Ok(sqlx::query_as(MEASURE).bind(offset).fetch_one(conn.sql()).await?)
}

/// Remembers an event of the provider's. Fails as a duplicate where it is remembered already.
pub(in crate::payments) async fn insert_event(conn: &mut Conn, id: &str) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    sqlx::query(INSERT_EVENT).bind(id).bind(offset).execute(conn.sql()).await?;
    Ok(())
}

/// Forgets events of long ago, at most so many. Returns how many.
pub(in crate::payments) async fn delete_old_events(conn: &mut Conn, limit: u32) -> Result<u64, Problem> {
    let offset = conn.offset_micros();
    Ok(sqlx::query(DELETE_OLD_EVENTS).bind(offset).bind(limit).execute(conn.sql()).await?.rows_affected())
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
