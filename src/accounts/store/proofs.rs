//! The SQL of `user_tokens`: what proves that somebody reads a user's mail.

use sqlx::Row as _;

use crate::accounts::domain::UserId;
use crate::platform::db::Conn;
use crate::platform::error::Problem;

const INSERT: &str = "INSERT INTO user_tokens (hash, user_id, kind, created_at, expires_at) \
     VALUES (?, ?, ?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, \
     UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND + INTERVAL ? SECOND)";
const COUNT_RECENT: &str = "SELECT COUNT(*) FROM user_tokens WHERE user_id = ? AND kind = ? \
     AND created_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND - INTERVAL 1 HOUR";
const FIND: &str = "SELECT user_id, used_at IS NOT NULL AS is_used FROM user_tokens \
     WHERE hash = ? AND kind = ? AND expires_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND";
/// The one statement that uses a token: of those who run it at the same time, one finds it unused.
const USE_UP: &str = "UPDATE user_tokens SET used_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
     WHERE hash = ? AND kind = ? AND used_at IS NULL AND expires_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND";
const DELETE_OF_USER: &str = "DELETE FROM user_tokens WHERE user_id = ?";
const DELETE_OTHERS: &str = "DELETE FROM user_tokens WHERE user_id = ? AND kind = ? AND hash <> ?";
const DELETE_EXPIRED: &str = "DELETE FROM user_tokens \
     WHERE expires_at < UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND - INTERVAL 24 HOUR ORDER BY expires_at LIMIT ?";

/// SHA-256 of a token.
pub(in crate::accounts) type Hash = [u8; 32];

/// Stores a token that is good for so many seconds.
pub(in crate::accounts) async fn insert(
    conn: &mut Conn,
    hash: &Hash,
    user: UserId,
    kind: u8,
    life_secs: u64,
) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query(INSERT).bind(&hash[..]).bind(user).bind(kind).bind(offset).bind(offset).bind(life_secs);
    query.execute(conn.sql()).await?;
    Ok(())
}

/// How many tokens of a kind were made for a user within an hour.
pub(in crate::accounts) async fn count_recent(conn: &mut Conn, user: UserId, kind: u8) -> Result<i64, Problem> {
    let offset = conn.offset_micros();
    Ok(sqlx::query_scalar(COUNT_RECENT).bind(user).bind(kind).bind(offset).fetch_one(conn.sql()).await?)
}

/// Whose token this is, and whether it was used, unless it has expired.
pub(in crate::accounts) async fn find(
    conn: &mut Conn,
    hash: &Hash,
    kind: u8,
) -> Result<Option<(UserId, bool)>, Problem> {
    let offset = conn.offset_micros();
    let found = sqlx::query(FIND).bind(&hash[..]).bind(kind).bind(offset).fetch_optional(conn.sql()).await?;
    found.map(|row| Ok((row.try_get("user_id")?, row.try_get("is_used")?))).transpose()
}

/// Uses a token. False where it was used before, has expired, or never was.
pub(in crate::accounts) async fn use_up(conn: &mut Conn, hash: &Hash, kind: u8) -> Result<bool, Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query(USE_UP).bind(offset).bind(&hash[..]).bind(kind).bind(offset);
    Ok(query.execute(conn.sql()).await?.rows_affected() == 1)
}

/// Takes all tokens of a user back.
pub(in crate::accounts) async fn delete_of_user(conn: &mut Conn, user: UserId) -> Result<(), Problem> {
    sqlx::query(DELETE_OF_USER).bind(user).execute(conn.sql()).await?;
    Ok(())
}

/// Takes a user's other tokens of this kind back.
pub(in crate::accounts) async fn delete_others(
    conn: &mut Conn,
    user: UserId,
    kind: u8,
    hash: &Hash,
) -> Result<(), Problem> {
    sqlx::query(DELETE_OTHERS).bind(user).bind(kind).bind(&hash[..]).execute(conn.sql()).await?;
    Ok(())
}

/// Forgets tokens that expired over a day ago.
pub(in crate::accounts) async fn delete_expired(conn: &mut Conn, limit: u32) -> Result<u64, Problem> {
    let offset = conn.offset_micros();
    Ok(sqlx::query(DELETE_EXPIRED).bind(offset).bind(limit).execute(conn.sql()).await?.rows_affected())
}
