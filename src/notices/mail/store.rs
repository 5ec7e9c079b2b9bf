//! The SQL of `mails`.

use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;

use super::domain::{Kind, Mail, MailId};
use crate::accounts::UserId;
use crate::platform::clock::Timestamp;
use crate::platform::db::{Conn, in_list, rows};
use crate::platform::error::Problem;

const INSERT: &str = "INSERT INTO mails (id, kind, user_id, reference, state, due_at, created_at, changed_at) \
     VALUES (?, ?, ?, ?, 0, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, \
     UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
const OR_KEEP: &str = " ON DUPLICATE KEY UPDATE reference = VALUES(reference)";
const FIND_NEXT_DUE: &str = "SELECT due_at FROM mails WHERE state = 0 ORDER BY due_at LIMIT 1";
const LIST_DUE_FOR_UPDATE: &str = "SELECT id, kind, user_id, reference, attempts, fence, created_at FROM mails \
     WHERE state = 0 AND due_at <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND ORDER BY due_at LIMIT ? FOR UPDATE SKIP LOCKED";
const LEASE: &str = "UPDATE mails SET fence = fence + 1, \
     due_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND + INTERVAL ? SECOND WHERE id IN (?)";
/// Sent, dead or void; not where the claim was lost meanwhile.
const END: &str = "UPDATE mails SET state = ?, attempts = attempts + 1, last_error = ?, \
     changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND WHERE id = ? AND state = 0 AND fence = ?";
const RETRY: &str = "UPDATE mails SET attempts = attempts + 1, last_error = ?, \
     due_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND + INTERVAL ? MICROSECOND, \
     changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND WHERE id = ? AND state = 0 AND fence = ?";
const FORGET: &str = "DELETE FROM mails WHERE user_id = ? AND state = 0";
const DELETE_OLD: &str = "DELETE FROM mails WHERE state = ? \
     AND changed_at < UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND - INTERVAL ? HOUR ORDER BY changed_at LIMIT ?";

/// The stored states of what is over.
pub(super) const SENT: u8 = 1;
pub(super) const DEAD: u8 = 2;
pub(super) const VOID: u8 = 3;

/// Stores mails, due now. Those that are there already stay as they are.
pub(super) async fn insert(conn: &mut Conn, mails: &[(Kind, UserId, Uuid)]) -> Result<(), Problem> {
    if mails.is_empty() {
        return Ok(());
    }
    let offset = conn.offset_micros();
    let text = rows(INSERT, mails.len()) + OR_KEEP;
    let mut query = sqlx::query(AssertSqlSafe(text));
    for (kind, user, reference) in mails {
        query = query.bind(MailId::new()).bind(kind.number()).bind(*user).bind(*reference);
        query = query.bind(offset).bind(offset).bind(offset);
    }
    query.execute(conn.sql()).await?;
    Ok(())
}

/// When the next mail is due, if one waits.
pub(super) async fn find_next_due(conn: &mut Conn) -> Result<Option<Timestamp>, Problem> {
    Ok(sqlx::query_scalar(FIND_NEXT_DUE).fetch_optional(conn.sql()).await?)
}

/// Claims mails that are due, for so many seconds.
pub(super) async fn claim(conn: &mut Conn, limit: u32, lease_secs: u64) -> Result<Vec<Mail>, Problem> {
    let offset = conn.offset_micros();
    let due = sqlx::query(LIST_DUE_FOR_UPDATE).bind(offset).bind(limit).fetch_all(conn.sql()).await?;
    if due.is_empty() {
        return Ok(Vec::new());
    }
    let mut mails = Vec::with_capacity(due.len());
    for row in due {
        let (kind, fence): (u8, u32) = (row.try_get("kind")?, row.try_get("fence")?);
        let kind = Kind::from_number(kind).ok_or_else(|| Problem::internal(anyhow::anyhow!("mails.kind {kind}")))?;
        mails.push(Mail {
            id: row.try_get("id")?,
            kind,
            user: row.try_get("user_id")?,
            reference: row.try_get("reference")?,
            created_at: row.try_get("created_at")?,
            attempts: row.try_get("attempts")?,
            fence: fence.wrapping_add(1),
        });
    }
    let mut lease = sqlx::query(AssertSqlSafe(in_list(LEASE, mails.len()))).bind(offset).bind(lease_secs);
    for mail in &mails {
        lease = lease.bind(mail.id);
    }
    lease.execute(conn.sql()).await?;
    Ok(mails)
}

/// Ends a mail as [`SENT`], [`DEAD`] or [`VOID`]. False where the claim was lost meanwhile.
pub(super) async fn end(conn: &mut Conn, mail: &Mail, state: u8, word: &str) -> Result<bool, Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query(END).bind(state).bind(word).bind(offset).bind(mail.id).bind(mail.fence);
    Ok(query.execute(conn.sql()).await?.rows_affected() == 1)
}

/// Makes a mail due again in so many microseconds. False where the claim was lost meanwhile.
pub(super) async fn retry(conn: &mut Conn, mail: &Mail, word: &str, in_micros: i64) -> Result<bool, Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query(RETRY).bind(word).bind(offset).bind(in_micros).bind(offset).bind(mail.id).bind(mail.fence);
    Ok(query.execute(conn.sql()).await?.rows_affected() == 1)
}

/// Takes back what has not been sent to a user.
pub(super) async fn forget(conn: &mut Conn, user: UserId) -> Result<(), Problem> {
    sqlx::query(FORGET).bind(user).execute(conn.sql()).await?;
    Ok(())
}

/// Deletes mails that have been in this state for long. Returns how many.
pub(super) async fn delete_old(conn: &mut Conn, state: u8, keep_hours: u32, limit: u32) -> Result<u64, Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query(DELETE_OLD).bind(state).bind(offset).bind(keep_hours).bind(limit);
    Ok(query.execute(conn.sql()).await?.rows_affected())
}
