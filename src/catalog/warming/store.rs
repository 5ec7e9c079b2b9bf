//! The SQL of `warmings` and `warm_memories`.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::domain::{Kept, Occasion, Progress, Warming};
use crate::catalog::domain::ConcertId;
use crate::platform::clock::Timestamp;
use crate::platform::db::{Conn, in_list, rows};
use crate::platform::error::Problem;
use crate::platform::instances::InstanceId;

const LIST_OF: &str = "SELECT concert_id, occasion, opens_at, state, due_at, leased_until, round, attempts, filled_at, last_error \
     FROM warmings WHERE concert_id IN (?)";
/// What operators ordered lately, whether or not its sale is near.
const LIST_ORDERED: &str = "SELECT concert_id, occasion, opens_at, state, due_at, leased_until, round, attempts, filled_at, last_error \
     FROM warmings WHERE occasion = 2 AND opens_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND - INTERVAL ? SECOND \
     ORDER BY opens_at DESC LIMIT ?";
const INSERT: &str = "INSERT INTO warmings (concert_id, occasion, opens_at, state, due_at, fence, round, attempts, last_error, changed_at) \
     VALUES (?, ?, ?, 0, ?, 0, 0, 0, '', UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
/// Where the opening is another than before, everything begins anew, and whoever is at it comes too late. The opening itself
/// stands last: what stands before is decided by the old one.
const OR_MOVE: &str = " ON DUPLICATE KEY UPDATE state = IF(opens_at = VALUES(opens_at), state, 0), \
     due_at = IF(opens_at = VALUES(opens_at), due_at, VALUES(due_at)), \
     fence = IF(opens_at = VALUES(opens_at), fence, fence + 1), \
     leased_until = IF(opens_at = VALUES(opens_at), leased_until, NULL), \
     attempts = IF(opens_at = VALUES(opens_at), attempts, 0), \
     changed_at = VALUES(changed_at), opens_at = VALUES(opens_at)";
/// An order is carried out now, however far another one is.
const OR_AGAIN: &str = " ON DUPLICATE KEY UPDATE state = 0, due_at = VALUES(due_at), fence = fence + 1, leased_until = NULL, \
     attempts = 0, changed_at = VALUES(changed_at), opens_at = VALUES(opens_at)";
/// Who waits longest first.
const FIND_DUE_FOR_UPDATE: &str = "SELECT concert_id, occasion, fence, round, attempts FROM warmings \
     WHERE state = 0 AND due_at <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
     AND (leased_until IS NULL OR leased_until <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) \
     ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED";
const LEASE: &str = "UPDATE warmings SET fence = fence + 1, \
     leased_until = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND + INTERVAL ? SECOND WHERE concert_id = ? AND occasion = ?";
const EXTEND: &str = "UPDATE warmings SET leased_until = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND + INTERVAL ? SECOND \
     WHERE concert_id = ? AND occasion = ? AND fence = ?";
const FINISH: &str = "UPDATE warmings SET state = 1, round = round + 1, attempts = 0, last_error = '', leased_until = NULL, \
     filled_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
     WHERE concert_id = ? AND occasion = ? AND state = 0 AND fence = ?";
const FAIL: &str = "UPDATE warmings SET state = ?, attempts = attempts + 1, last_error = ?, leased_until = NULL, \
     due_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND + INTERVAL ? MICROSECOND, changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
     WHERE concert_id = ? AND occasion = ? AND state = 0 AND fence = ?";
/// Only what is as it was seen: of several instances that notice the same loss one has an effect.
const RENEW: &str = "UPDATE warmings SET state = 0, attempts = 0, leased_until = NULL, \
     due_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND + INTERVAL ? MICROSECOND, changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
     WHERE concert_id = ? AND occasion = ? AND state = 1 AND round = ?";
const DELETE_OLD: &str = "DELETE FROM warmings WHERE occasion = ? \
     AND opens_at < UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND - INTERVAL ? HOUR ORDER BY opens_at LIMIT ?";

const INSERT_MEMORY: &str =
    "INSERT INTO warm_memories (concert_id, instance_id, since, kept_until) VALUES (?, ?, ?, ?)";
const OR_KEEP_NEWER: &str = " ON DUPLICATE KEY UPDATE since = VALUES(since), kept_until = VALUES(kept_until)";
const DELETE_MEMORY: &str = "DELETE FROM warm_memories WHERE concert_id = ? AND instance_id = ?";
const LIST_MEMORIES: &str = "SELECT instance_id, since, kept_until FROM warm_memories WHERE concert_id = ?";
const DELETE_ENDED: &str = "DELETE FROM warm_memories \
     WHERE kept_until < UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND - INTERVAL ? HOUR ORDER BY kept_until LIMIT ?";

/// As `warmings.state` keeps it.
const fn stored(progress: Progress) -> u8 {
    match progress {
        Progress::Due => 0,
        Progress::Filled => 1,
        Progress::GivenUp => 2,
    }
}

fn warming_of(row: &MySqlRow) -> Result<Warming, Problem> {
    let progress = match row.try_get::<u8, _>("state")? {
        0 => Progress::Due,
        1 => Progress::Filled,
        _ => Progress::GivenUp,
    };
    Ok(Warming {
        concert_id: row.try_get("concert_id")?,
        occasion: Occasion::from_stored(row.try_get("occasion")?)?,
        opens_at: row.try_get("opens_at")?,
        progress,
        due_at: row.try_get("due_at")?,
        leased_until: row.try_get("leased_until")?,
        round: row.try_get("round")?,
        attempts: row.try_get("attempts")?,
        filled_at: row.try_get("filled_at")?,
        last_error: row.try_get("last_error")?,
    })
}

/// The rows of these concerts.
pub(super) async fn list_of(conn: &mut Conn, concerts: &[ConcertId]) -> Result<Vec<Warming>, Problem> {
    if concerts.is_empty() {
        return Ok(Vec::new());
    }
    let query = sqlx::query(AssertSqlSafe(in_list(LIST_OF, concerts.len())));
    let query = concerts.iter().fold(query, |query, concert| query.bind(*concert));
    query.fetch_all(conn.sql()).await?.iter().map(warming_of).collect()
}

/// Orders of the last so many seconds, the newest first.
pub(super) async fn list_ordered(conn: &mut Conn, within_secs: u32, limit: u32) -> Result<Vec<Warming>, Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query(LIST_ORDERED).bind(offset).bind(within_secs).bind(limit);
    query.fetch_all(conn.sql()).await?.iter().map(warming_of).collect()
}

/// Makes rows of these openings, due so long before each; what is there for the same opening stays as it is.
pub(super) async fn plan(
    conn: &mut Conn,
    openings: &[(ConcertId, Occasion, Timestamp)],
    lead: Duration,
) -> Result<(), Problem> {
    if openings.is_empty() {
        return Ok(());
    }
    let offset = conn.offset_micros();
    let mut query = sqlx::query(AssertSqlSafe(rows(INSERT, openings.len()) + OR_MOVE));
    for (concert, occasion, opens_at) in openings {
        query = query.bind(*concert).bind(occasion.stored()).bind(*opens_at).bind(opens_at.minus(lead)).bind(offset);
    }
    query.execute(conn.sql()).await?;
    Ok(())
}

/// Makes the row of an order given now, due at once.
pub(super) async fn order(conn: &mut Conn, concert: ConcertId, now: Timestamp) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query(AssertSqlSafe(format!("{INSERT}{OR_AGAIN}"))).bind(concert);
    query.bind(Occasion::Order.stored()).bind(now).bind(now).bind(offset).execute(conn.sql()).await?;
    Ok(())
}

/// A claimed row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub concert: ConcertId,
    pub occasion: Occasion,
    /// Of this claim.
    pub fence: u32,
    /// How often it was filled before.
    pub round: u32,
    /// Failed tries before this one.
    pub attempts: u32,
}

/// Claims what has been due longest, for so many seconds.
pub(super) async fn claim(conn: &mut Conn, lease_secs: u32) -> Result<Option<Claim>, Problem> {
    let offset = conn.offset_micros();
    let found = sqlx::query(FIND_DUE_FOR_UPDATE).bind(offset).bind(offset).fetch_optional(conn.sql()).await?;
    let Some(row) = found else { return Ok(None) };
    let fence: u32 = row.try_get("fence")?;
    let claim = Claim {
        concert: row.try_get("concert_id")?,
        occasion: Occasion::from_stored(row.try_get("occasion")?)?,
        fence: fence.wrapping_add(1),
        round: row.try_get("round")?,
        attempts: row.try_get("attempts")?,
    };
    let lease = sqlx::query(LEASE).bind(offset).bind(lease_secs).bind(claim.concert).bind(claim.occasion.stored());
    lease.execute(conn.sql()).await?;
    Ok(Some(claim))
}

/// Keeps a claim for so many seconds more.
pub(super) async fn extend(conn: &mut Conn, claim: Claim, lease_secs: u32) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query(EXTEND).bind(offset).bind(lease_secs);
    let query = query.bind(claim.concert).bind(claim.occasion.stored()).bind(claim.fence);
    query.execute(conn.sql()).await?;
    Ok(())
}

/// The shared tier is filled. False where the claim was lost meanwhile.
pub(super) async fn finish(conn: &mut Conn, claim: Claim) -> Result<bool, Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query(FINISH).bind(offset).bind(offset);
    let query = query.bind(claim.concert).bind(claim.occasion.stored()).bind(claim.fence);
    Ok(query.execute(conn.sql()).await?.rows_affected() == 1)
}

/// It failed with this word: due again after the pause, or given up where there is none. False where the claim was lost meanwhile.
pub(super) async fn fail(conn: &mut Conn, claim: Claim, pause: Option<Duration>, word: &str) -> Result<bool, Problem> {
    let offset = conn.offset_micros();
    let progress = if pause.is_some() { Progress::Due } else { Progress::GivenUp };
    let pause = micros(pause.unwrap_or_default());
    let query = sqlx::query(FAIL).bind(stored(progress)).bind(word).bind(offset).bind(pause).bind(offset);
    let query = query.bind(claim.concert).bind(claim.occasion.stored()).bind(claim.fence);
    Ok(query.execute(conn.sql()).await?.rows_affected() == 1)
}

/// Makes a filled row due again, so much later. False where it is not as it was seen any more.
pub(super) async fn renew(conn: &mut Conn, seen: &Warming, later: Duration) -> Result<bool, Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query(RENEW).bind(offset).bind(micros(later)).bind(offset);
    let query = query.bind(seen.concert_id).bind(seen.occasion.stored()).bind(seen.round);
    Ok(query.execute(conn.sql()).await?.rows_affected() == 1)
}

/// Deletes rows of this occasion whose opening is so many hours past. Returns how many.
pub(super) async fn delete_old(
    conn: &mut Conn,
    occasion: Occasion,
    keep_hours: u32,
    limit: u32,
) -> Result<u64, Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query(DELETE_OLD).bind(occasion.stored()).bind(offset).bind(keep_hours).bind(limit);
    Ok(query.execute(conn.sql()).await?.rows_affected())
}

/// Writes down what an instance has in memory.
pub(super) async fn put_memory(
    conn: &mut Conn,
    concert: ConcertId,
    instance: InstanceId,
    kept: Kept,
) -> Result<(), Problem> {
    let query = sqlx::query(AssertSqlSafe(format!("{INSERT_MEMORY}{OR_KEEP_NEWER}")));
    query.bind(concert).bind(instance).bind(kept.since).bind(kept.until).execute(conn.sql()).await?;
    Ok(())
}

/// An instance does not have it any more.
pub(super) async fn delete_memory(conn: &mut Conn, concert: ConcertId, instance: InstanceId) -> Result<(), Problem> {
    sqlx::query(DELETE_MEMORY).bind(concert).bind(instance).execute(conn.sql()).await?;
    Ok(())
}

/// What instances have in memory of a concert, as they said.
pub(super) async fn list_memories(conn: &mut Conn, concert: ConcertId) -> Result<BTreeMap<InstanceId, Kept>, Problem> {
    let found = sqlx::query(LIST_MEMORIES).bind(concert).fetch_all(conn.sql()).await?;
    let memories = found.iter().map(|row| {
        let kept = Kept { since: row.try_get("since")?, until: row.try_get("kept_until")? };
        Ok((row.try_get("instance_id")?, kept))
    });
    memories.collect()
}

/// Deletes what ended so many hours ago. Returns how many.
pub(super) async fn delete_ended(conn: &mut Conn, keep_hours: u32, limit: u32) -> Result<u64, Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query(DELETE_ENDED).bind(offset).bind(keep_hours).bind(limit);
    Ok(query.execute(conn.sql()).await?.rows_affected())
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
