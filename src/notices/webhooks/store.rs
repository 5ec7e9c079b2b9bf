//! The SQL of `webhook_endpoints` and `webhook_deliveries`.

use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;

use super::domain::{Claimed, DeadLetter, Endpoint, EndpointId, EndpointStatus, Target};
use crate::platform::clock::Timestamp;
use crate::platform::config::Secret;
use crate::platform::db::{Conn, in_list, rows, union_all};
use crate::platform::error::Problem;

const INSERT_ENDPOINT: &str = "INSERT INTO webhook_endpoints (id, slot, url, topics, secret_sealed, state, created_at, changed_at) \
     VALUES (?, ?, ?, ?, ?, 0, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
const LIST_TAKEN: &str = "SELECT slot, url FROM webhook_endpoints WHERE state <> 2";
const LIST_ENDPOINTS: &str =
    "SELECT id, url, topics, state, created_at FROM webhook_endpoints WHERE state <> 2 AND id > ? ORDER BY id LIMIT ?";
const LIST_SUBSCRIPTIONS: &str = "SELECT id, topics FROM webhook_endpoints WHERE state = 0";
const REMOVE_ENDPOINT: &str = "UPDATE webhook_endpoints SET state = 2, slot = NULL, url = NULL, topics = '', secret_sealed = '', \
     changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND WHERE id = ? AND state <> 2";
const DISABLE_ENDPOINT: &str = "UPDATE webhook_endpoints SET state = 1, \
     changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND WHERE id = ? AND state = 0";
const LIST_OVER: &str = "SELECT id, state FROM webhook_endpoints WHERE state <> 0";
/// Not at once: a relay may have read it before it was removed, and store deliveries for it a moment later.
const DELETE_ENDPOINT: &str = "DELETE FROM webhook_endpoints WHERE id = ? AND state = 2 \
     AND changed_at < UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND - INTERVAL 1 HOUR";
const LIST_TARGETS: &str = "SELECT id, url, secret_sealed FROM webhook_endpoints WHERE state = 0";
/// One entry of the index, for each endpoint.
const FIND_NEXT_DUE: &str =
    "SELECT endpoint_id, due_at FROM webhook_deliveries WHERE endpoint_id = ? AND state = 0 ORDER BY due_at LIMIT 1";

const INSERT_DELIVERY: &str = "INSERT INTO webhook_deliveries (endpoint_id, event_id, topic, body, state, due_at, created_at, changed_at) \
     VALUES (?, ?, ?, ?, 0, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, \
     UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
const OR_KEEP: &str = " ON DUPLICATE KEY UPDATE event_id = VALUES(event_id)";
const LIST_DUE_FOR_UPDATE: &str = "SELECT event_id, body, attempts, fence FROM webhook_deliveries \
     WHERE endpoint_id = ? AND state = 0 AND due_at <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
     ORDER BY due_at LIMIT ? FOR UPDATE SKIP LOCKED";
const LEASE: &str = "UPDATE webhook_deliveries SET fence = fence + 1, \
     due_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND + INTERVAL ? SECOND WHERE endpoint_id = ? AND event_id IN (?)";
/// Accepted or dead; not where the claim was lost meanwhile.
const END_DELIVERY: &str = "UPDATE webhook_deliveries SET state = ?, attempts = attempts + 1, last_status = ?, last_error = ?, \
     changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND WHERE endpoint_id = ? AND event_id = ? AND state = 0 AND fence = ?";
const RETRY: &str = "UPDATE webhook_deliveries SET attempts = attempts + 1, last_status = ?, last_error = ?, \
     due_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND + INTERVAL ? MICROSECOND, \
     changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND WHERE endpoint_id = ? AND event_id = ? AND state = 0 AND fence = ?";
const LIST_DEAD: &str = "SELECT endpoint_id, event_id, topic, attempts, last_status, last_error, changed_at FROM webhook_deliveries \
     WHERE state = 2 AND changed_at >= ? AND (changed_at > ? OR event_id > ?) ORDER BY changed_at, event_id LIMIT ?";
const LIST_IN_STATE_FOR_UPDATE: &str = "SELECT event_id FROM webhook_deliveries \
     WHERE endpoint_id = ? AND state = ? ORDER BY due_at LIMIT ? FOR UPDATE";
const RESEND: &str = "UPDATE webhook_deliveries SET state = 0, attempts = 0, due_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, \
     changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND WHERE endpoint_id = ? AND event_id IN (?)";
/// What waits for an endpoint that is told of nothing any more.
const BURY: &str = "UPDATE webhook_deliveries SET state = 2, last_error = 'disabled', \
     changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND WHERE endpoint_id = ? AND event_id IN (?)";
const DELETE_OF_ENDPOINT: &str = "DELETE FROM webhook_deliveries WHERE endpoint_id = ? LIMIT ?";
const DELETE_OLD: &str = "DELETE FROM webhook_deliveries WHERE state = ? \
     AND changed_at < UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND - INTERVAL ? HOUR ORDER BY changed_at LIMIT ?";

/// The stored state of a delivery that waits.
const DUE: u8 = 0;
/// That of one that was accepted.
pub(super) const ACCEPTED: u8 = 1;
/// That of a dead letter.
pub(super) const DEAD: u8 = 2;

/// A delivery to be stored.
#[derive(Clone, Debug)]
pub(super) struct NewDelivery {
    pub endpoint: EndpointId,
    pub event: Uuid,
    pub topic: String,
    pub body: Vec<u8>,
}

/// Stores an endpoint in a slot. A slot or an address that somebody else took meanwhile is the fault `Duplicate`.
pub(super) async fn insert_endpoint(
    conn: &mut Conn,
    id: EndpointId,
    slot: u8,
    url: &str,
    topics: &str,
    secret_sealed: &Secret,
) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query(INSERT_ENDPOINT).bind(id).bind(slot).bind(url).bind(topics).bind(secret_sealed.expose());
    query.bind(offset).bind(offset).execute(conn.sql()).await?;
    Ok(())
}

/// The slots and addresses that are taken.
pub(super) async fn list_taken(conn: &mut Conn) -> Result<Vec<(u8, String)>, Problem> {
    let found = sqlx::query(LIST_TAKEN).fetch_all(conn.sql()).await?;
    found.iter().map(|row| Ok((row.try_get("slot")?, row.try_get("url")?))).collect()
}

/// Endpoints after this one, oldest first.
pub(super) async fn list_endpoints(conn: &mut Conn, after: EndpointId, limit: u32) -> Result<Vec<Endpoint>, Problem> {
    let found = sqlx::query(LIST_ENDPOINTS).bind(after).bind(limit).fetch_all(conn.sql()).await?;
    let endpoints = found.iter().map(|row| {
        let (topics, state): (String, u8) = (row.try_get("topics")?, row.try_get("state")?);
        Ok(Endpoint {
            id: row.try_get("id")?,
            url: row.try_get("url")?,
            topics: topics.split(',').map(str::to_owned).collect(),
            status: EndpointStatus::of(state),
            created_at: row.try_get("created_at")?,
        })
    });
    endpoints.collect()
}

/// Active endpoints with their topics.
pub(super) async fn list_subscriptions(conn: &mut Conn) -> Result<Vec<(EndpointId, String)>, Problem> {
    let found = sqlx::query(LIST_SUBSCRIPTIONS).fetch_all(conn.sql()).await?;
    found.iter().map(|row| Ok((row.try_get("id")?, row.try_get("topics")?))).collect()
}

/// Takes an endpoint away, its secret and address with it. False where there is none.
pub(super) async fn remove_endpoint(conn: &mut Conn, id: EndpointId) -> Result<bool, Problem> {
    let offset = conn.offset_micros();
    Ok(sqlx::query(REMOVE_ENDPOINT).bind(offset).bind(id).execute(conn.sql()).await?.rows_affected() == 1)
}

/// Tells an endpoint nothing any more.
pub(super) async fn disable_endpoint(conn: &mut Conn, id: EndpointId) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    sqlx::query(DISABLE_ENDPOINT).bind(offset).bind(id).execute(conn.sql()).await?;
    Ok(())
}

/// Endpoints that are told of nothing any more, and whether they were removed.
pub(super) async fn list_over(conn: &mut Conn) -> Result<Vec<(EndpointId, bool)>, Problem> {
    let found = sqlx::query(LIST_OVER).fetch_all(conn.sql()).await?;
    found.iter().map(|row| Ok((row.try_get("id")?, row.try_get::<u8, _>("state")? == 2))).collect()
}

/// Forgets an endpoint that was removed over an hour ago.
pub(super) async fn delete_endpoint(conn: &mut Conn, id: EndpointId) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    sqlx::query(DELETE_ENDPOINT).bind(id).bind(offset).execute(conn.sql()).await?;
    Ok(())
}

/// Active endpoints, each with when its next delivery is due.
pub(super) async fn list_targets(conn: &mut Conn) -> Result<Vec<Target>, Problem> {
    let found = sqlx::query(LIST_TARGETS).fetch_all(conn.sql()).await?;
    let mut targets = Vec::with_capacity(found.len());
    for row in found {
        let secret: String = row.try_get("secret_sealed")?;
        let (id, url) = (row.try_get("id")?, row.try_get("url")?);
        targets.push(Target { id, url, secret_sealed: Secret::new(secret), due_at: None });
    }
    if targets.is_empty() {
        return Ok(targets);
    }
    let mut next = sqlx::query(AssertSqlSafe(union_all(FIND_NEXT_DUE, targets.len())));
    for target in &targets {
        next = next.bind(target.id);
    }
    for row in next.fetch_all(conn.sql()).await? {
        let id: EndpointId = row.try_get("endpoint_id")?;
        let due_at: Timestamp = row.try_get("due_at")?;
        if let Some(target) = targets.iter_mut().find(|target| target.id == id) {
            target.due_at = Some(due_at);
        }
    }
    Ok(targets)
}

/// Stores deliveries, due now. Those that are there already stay as they are.
pub(super) async fn insert_deliveries(conn: &mut Conn, deliveries: &[NewDelivery]) -> Result<(), Problem> {
    if deliveries.is_empty() {
        return Ok(());
    }
    let offset = conn.offset_micros();
    let text = rows(INSERT_DELIVERY, deliveries.len()) + OR_KEEP;
    let mut query = sqlx::query(AssertSqlSafe(text));
    for delivery in deliveries {
        query = query.bind(delivery.endpoint).bind(delivery.event).bind(&delivery.topic).bind(&delivery.body);
        query = query.bind(offset).bind(offset).bind(offset);
    }
    query.execute(conn.sql()).await?;
    Ok(())
}

/// Claims deliveries of one endpoint that are due, for so many seconds.
pub(super) async fn claim(
    conn: &mut Conn,
    endpoint: EndpointId,
    limit: u32,
    lease_secs: u64,
) -> Result<Vec<Claimed>, Problem> {
    let offset = conn.offset_micros();
    let due = sqlx::query(LIST_DUE_FOR_UPDATE).bind(endpoint).bind(offset).bind(limit);
    let due = due.fetch_all(conn.sql()).await?;
    if due.is_empty() {
        return Ok(Vec::new());
    }
    let claimed = due.iter().map(|row| {
        let fence: u32 = row.try_get("fence")?;
        Ok(Claimed {
            event_id: row.try_get("event_id")?,
            body: row.try_get("body")?,
            attempts: row.try_get("attempts")?,
            fence: fence.wrapping_add(1),
        })
    });
    let claimed: Vec<Claimed> = claimed.collect::<Result<_, Problem>>()?;
    let mut lease =
        sqlx::query(AssertSqlSafe(in_list(LEASE, claimed.len()))).bind(offset).bind(lease_secs).bind(endpoint);
    for delivery in &claimed {
        lease = lease.bind(delivery.event_id);
    }
    lease.execute(conn.sql()).await?;
    Ok(claimed)
}

/// How a try ended, for the row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub endpoint: EndpointId,
    pub event: Uuid,
    pub fence: u32,
    pub status: Option<u16>,
    pub word: &'static str,
}

/// Ends a delivery as [`ACCEPTED`] or [`DEAD`]. False where the claim was lost meanwhile.
pub(super) async fn end_delivery(conn: &mut Conn, ended: Ended, state: u8) -> Result<bool, Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query(END_DELIVERY).bind(state).bind(ended.status).bind(ended.word).bind(offset);
    let query = query.bind(ended.endpoint).bind(ended.event).bind(ended.fence);
    Ok(query.execute(conn.sql()).await?.rows_affected() == 1)
}

/// Makes a delivery due again in so many microseconds. False where the claim was lost meanwhile.
pub(super) async fn retry(conn: &mut Conn, ended: Ended, in_micros: i64) -> Result<bool, Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query(RETRY).bind(ended.status).bind(ended.word).bind(offset).bind(in_micros).bind(offset);
    let query = query.bind(ended.endpoint).bind(ended.event).bind(ended.fence);
    Ok(query.execute(conn.sql()).await?.rows_affected() == 1)
}

/// Dead letters behind the one that died at `after.0` with the event `after.1`, oldest first.
pub(super) async fn list_dead(
    conn: &mut Conn,
    after: (Timestamp, Uuid),
    limit: u32,
) -> Result<Vec<DeadLetter>, Problem> {
    let query = sqlx::query(LIST_DEAD).bind(after.0).bind(after.0).bind(after.1).bind(limit);
    query.fetch_all(conn.sql()).await?.iter().map(dead_letter_of).collect()
}

fn dead_letter_of(row: &MySqlRow) -> Result<DeadLetter, Problem> {
    Ok(DeadLetter {
        endpoint_id: row.try_get("endpoint_id")?,
        event_id: row.try_get("event_id")?,
        topic: row.try_get("topic")?,
        attempts: row.try_get("attempts")?,
        last_status: row.try_get("last_status")?,
        last_error: row.try_get("last_error")?,
        dead_since: row.try_get("changed_at")?,
    })
}

/// Locks deliveries of an endpoint in this state.
async fn list_in_state_for_update(
    conn: &mut Conn,
    endpoint: EndpointId,
    state: u8,
    limit: u32,
) -> Result<Vec<Uuid>, Problem> {
    let query = sqlx::query_scalar(LIST_IN_STATE_FOR_UPDATE).bind(endpoint).bind(state).bind(limit);
    Ok(query.fetch_all(conn.sql()).await?)
}

/// Makes dead letters of an endpoint due as if they had never been tried. Returns how many.
pub(super) async fn resend(conn: &mut Conn, endpoint: EndpointId, limit: u32) -> Result<u64, Problem> {
    let events = list_in_state_for_update(conn, endpoint, DEAD, limit).await?;
    if events.is_empty() {
        return Ok(0);
    }
    let offset = conn.offset_micros();
    let query = sqlx::query(AssertSqlSafe(in_list(RESEND, events.len()))).bind(offset).bind(offset).bind(endpoint);
    let query = events.iter().fold(query, |query, event| query.bind(*event));
    Ok(query.execute(conn.sql()).await?.rows_affected())
}

/// Gives up what waits for an endpoint that is disabled. Returns how many.
pub(super) async fn bury(conn: &mut Conn, endpoint: EndpointId, limit: u32) -> Result<u64, Problem> {
    let events = list_in_state_for_update(conn, endpoint, DUE, limit).await?;
    if events.is_empty() {
        return Ok(0);
    }
    let offset = conn.offset_micros();
    let query = sqlx::query(AssertSqlSafe(in_list(BURY, events.len()))).bind(offset).bind(endpoint);
    let query = events.iter().fold(query, |query, event| query.bind(*event));
    Ok(query.execute(conn.sql()).await?.rows_affected())
}

/// Deletes deliveries of an endpoint that was removed. Returns how many.
pub(super) async fn delete_of_endpoint(conn: &mut Conn, endpoint: EndpointId, limit: u32) -> Result<u64, Problem> {
    Ok(sqlx::query(DELETE_OF_ENDPOINT).bind(endpoint).bind(limit).execute(conn.sql()).await?.rows_affected())
}

/// Deletes deliveries that have been in this state for long. Returns how many.
pub(super) async fn delete_old(conn: &mut Conn, state: u8, keep_hours: u32, limit: u32) -> Result<u64, Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query(DELETE_OLD).bind(state).bind(offset).bind(keep_hours).bind(limit);
    Ok(query.execute(conn.sql()).await?.rows_affected())
}
