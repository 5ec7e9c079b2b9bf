//! The SQL of `users`, `session_revocations` and `operator_actions`; that of tokens in mails is in `store/proofs.rs`.

use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;

use super::actions::Action;
use super::domain::{ActionId, NewUser, Revocation, Role, SessionId, User, UserId};
use crate::catalog::ConcertId;
use crate::platform::clock::Timestamp;
use crate::platform::db::{Conn, rows};
use crate::platform::error::Problem;

pub(super) mod proofs;

const INSERT_USER: &str = "INSERT INTO users (id, email, name, password_hash, role, created_at, verified_at) \
     VALUES (?, ?, ?, ?, ?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, IF(?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, NULL))";
const FIND_USER: &str =
    "SELECT id, email, name, role, created_at, verified_at FROM users WHERE id = ? AND erased_at IS NULL";
const FIND_USER_FOR_UPDATE: &str =
    "SELECT id, email, name, role, created_at, verified_at FROM users WHERE id = ? AND erased_at IS NULL FOR UPDATE";
const FIND_ID: &str = "SELECT id FROM users WHERE email = ?";
const VERIFY_USER: &str = "UPDATE users SET verified_at = COALESCE(verified_at, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) \
     WHERE id = ? AND erased_at IS NULL";
const SET_PASSWORD: &str = "UPDATE users SET password_hash = ?, \
     verified_at = COALESCE(verified_at, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) WHERE id = ? AND erased_at IS NULL";
const FIND_LOGIN_FOR_UPDATE: &str = "SELECT id, email, name, role, created_at, verified_at, password_hash, \
     UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND AS read_at FROM users WHERE email = ? FOR UPDATE";
const ERASE_USER: &str = "UPDATE users SET email = NULL, name = '', password_hash = '', \
     erased_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND WHERE id = ? AND erased_at IS NULL";
const INSERT_REVOCATION: &str = "INSERT INTO session_revocations (id, session_id, user_id, created_at, expires_at) \
     VALUES (?, ?, ?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, ?)";
const INSERT_USER_REVOCATION: &str = "INSERT INTO session_revocations \
     (id, session_id, user_id, created_at, expires_at) \
     SELECT ?, NULL, ?, t.now, t.now + INTERVAL ? SECOND \
     FROM (SELECT UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND AS now) t";
const FIND_REVOCATION: &str =
    "SELECT id, session_id, user_id, created_at, expires_at FROM session_revocations WHERE id = ?";
/// 60 seconds: [`super::domain::REVOCATION_MARGIN`].
const LIST_REVOCATIONS: &str = "SELECT id, session_id, user_id, created_at, expires_at FROM session_revocations \
     WHERE created_at >= ? AND (created_at > ? OR id > ?) \
     AND expires_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND - INTERVAL 60 SECOND \
     ORDER BY created_at, id LIMIT ?";
const DELETE_EXPIRED: &str = "DELETE FROM session_revocations \
     WHERE expires_at < UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND - INTERVAL 1 HOUR ORDER BY expires_at LIMIT ?";
const INSERT_ACTION: &str = "INSERT INTO operator_actions (id, operator_id, action, concert_id, details, created_at) \
     VALUES (?, ?, ?, ?, ?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
const LIST_ACTIONS: &str = "SELECT id, operator_id, action, concert_id, details, created_at FROM operator_actions \
     WHERE id < ? ORDER BY id DESC LIMIT ?";
const LIST_ACTIONS_ON_CONCERT: &str = "SELECT id, operator_id, action, concert_id, details, created_at \
     FROM operator_actions WHERE concert_id = ? AND id < ? ORDER BY id DESC LIMIT ?";

/// What signing in reads.
#[derive(Clone, Debug)]
pub(super) struct Login {
    pub user: User,
    pub password_hash: String,
    /// When the row was read, on the database's clock.
    pub read_at: Timestamp,
}

/// Stores users who share one password hash. A taken address is the fault `Duplicate`, and nobody is stored.
pub(super) async fn insert_users(conn: &mut Conn, users: &[NewUser], password_hash: &str) -> Result<(), Problem> {
    if users.is_empty() {
        return Ok(());
    }
    let offset = conn.offset_micros();
    let mut query = sqlx::query(AssertSqlSafe(rows(INSERT_USER, users.len())));
    for user in users {
        query = query.bind(user.id).bind(&user.email).bind(&user.name).bind(password_hash);
        query = query.bind(user.role.number()).bind(offset).bind(user.is_verified).bind(offset);
    }
    query.execute(conn.sql()).await?;
    Ok(())
}

/// The user, unless erased.
pub(super) async fn find_user(conn: &mut Conn, user: UserId) -> Result<Option<User>, Problem> {
    let found = sqlx::query(FIND_USER).bind(user).fetch_optional(conn.sql()).await?;
    found.as_ref().map(user_of).transpose()
}

/// The same, one after the other where several ask.
pub(super) async fn find_user_for_update(conn: &mut Conn, user: UserId) -> Result<Option<User>, Problem> {
    let found = sqlx::query(FIND_USER_FOR_UPDATE).bind(user).fetch_optional(conn.sql()).await?;
    found.as_ref().map(user_of).transpose()
}

/// Whose address this is.
pub(super) async fn find_id(conn: &mut Conn, email: &str) -> Result<Option<UserId>, Problem> {
    Ok(sqlx::query_scalar(FIND_ID).bind(email).fetch_optional(conn.sql()).await?)
}

/// Notes that a user reads the mail of their address. False where they were erased.
pub(super) async fn verify_user(conn: &mut Conn, user: UserId) -> Result<bool, Problem> {
    let offset = conn.offset_micros();
    Ok(sqlx::query(VERIFY_USER).bind(offset).bind(user).execute(conn.sql()).await?.rows_affected() == 1)
}

/// Gives a user another password; whoever may do that reads the mail of the address. False where they were erased.
pub(super) async fn set_password(conn: &mut Conn, user: UserId, password_hash: &str) -> Result<bool, Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query(SET_PASSWORD).bind(password_hash).bind(offset).bind(user);
    Ok(query.execute(conn.sql()).await?.rows_affected() == 1)
}

/// The user with this address. The lock waits for whoever is erasing them right now, so that no session begins
/// behind the revocation that ends them all.
pub(super) async fn find_login_for_update(conn: &mut Conn, email: &str) -> Result<Option<Login>, Problem> {
    let offset = conn.offset_micros();
    let found = sqlx::query(FIND_LOGIN_FOR_UPDATE).bind(offset).bind(email).fetch_optional(conn.sql()).await?;
    let Some(row) = found else { return Ok(None) };
    let login =
        Login { user: user_of(&row)?, password_hash: row.try_get("password_hash")?, read_at: row.try_get("read_at")? };
    Ok(Some(login))
}

/// Removes what identifies the user. False where that was done before.
pub(super) async fn erase_user(conn: &mut Conn, user: UserId) -> Result<bool, Problem> {
    let offset = conn.offset_micros();
    let done = sqlx::query(ERASE_USER).bind(offset).bind(user).execute(conn.sql()).await?;
    Ok(done.rows_affected() == 1)
}

/// Takes one session back.
pub(super) async fn insert_session_revocation(
    conn: &mut Conn,
    session: SessionId,
    user: UserId,
    expires_at: Timestamp,
) -> Result<Revocation, Problem> {
    let (offset, id) = (conn.offset_micros(), Uuid::now_v7());
    let query = sqlx::query(INSERT_REVOCATION).bind(id).bind(session).bind(user).bind(offset).bind(expires_at);
    query.execute(conn.sql()).await?;
    get_revocation(conn, id).await
}

/// Takes all sessions of the user back that exist now and live at most `session_secs`.
pub(super) async fn insert_user_revocation(
    conn: &mut Conn,
    user: UserId,
    session_secs: u64,
) -> Result<Revocation, Problem> {
    let (offset, id) = (conn.offset_micros(), Uuid::now_v7());
    let query = sqlx::query(INSERT_USER_REVOCATION).bind(id).bind(user).bind(session_secs).bind(offset);
    query.execute(conn.sql()).await?;
    get_revocation(conn, id).await
}

async fn get_revocation(conn: &mut Conn, id: Uuid) -> Result<Revocation, Problem> {
    revocation_of(&sqlx::query(FIND_REVOCATION).bind(id).fetch_one(conn.sql()).await?)
}

/// Revocations that still matter, oldest first, behind the one made at `after.0` with the id `after.1`.
pub(super) async fn list_revocations(
    conn: &mut Conn,
    after: (Timestamp, Uuid),
    limit: u32,
) -> Result<Vec<Revocation>, Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query(LIST_REVOCATIONS).bind(after.0).bind(after.0).bind(after.1).bind(offset).bind(limit);
    query.fetch_all(conn.sql()).await?.iter().map(revocation_of).collect()
}

/// Forgets revocations whose tokens expired over an hour ago.
pub(super) async fn delete_expired_revocations(conn: &mut Conn, limit: u32) -> Result<u64, Problem> {
    let offset = conn.offset_micros();
    Ok(sqlx::query(DELETE_EXPIRED).bind(offset).bind(limit).execute(conn.sql()).await?.rows_affected())
}

/// Adds an entry to the log of what operators did.
pub(super) async fn insert_action(
    conn: &mut Conn,
    id: ActionId,
    operator: UserId,
    action: &str,
    concert: Option<ConcertId>,
    details: &str,
) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query(INSERT_ACTION).bind(id).bind(operator).bind(action).bind(concert).bind(details);
    query.bind(offset).execute(conn.sql()).await?;
    Ok(())
}

/// Entries before this one, the newest first: on one concert, or all.
pub(super) async fn list_actions(
    conn: &mut Conn,
    concert: Option<ConcertId>,
    before: ActionId,
    limit: u32,
) -> Result<Vec<Action>, Problem> {
    let query = match concert {
        Some(concert) => sqlx::query(LIST_ACTIONS_ON_CONCERT).bind(concert),
        None => sqlx::query(LIST_ACTIONS),
    };
    query.bind(before).bind(limit).fetch_all(conn.sql()).await?.iter().map(action_of).collect()
}

fn action_of(row: &MySqlRow) -> Result<Action, Problem> {
    let details: String = row.try_get("details")?;
    Ok(Action {
        id: row.try_get("id")?,
        operator_id: row.try_get("operator_id")?,
        action: row.try_get("action")?,
        concert_id: row.try_get("concert_id")?,
        details: serde_json::from_str(&details).map_err(Problem::internal)?,
        at: row.try_get("created_at")?,
    })
}

fn user_of(row: &MySqlRow) -> Result<User, Problem> {
    let number: u8 = row.try_get("role")?;
    let role = Role::from_number(number).ok_or_else(|| Problem::internal(anyhow::anyhow!("users.role {number}")))?;
    Ok(User {
        id: row.try_get("id")?,
        email: row.try_get("email")?,
        name: row.try_get("name")?,
        role,
        created_at: row.try_get("created_at")?,
        verified_at: row.try_get("verified_at")?,
    })
}

fn revocation_of(row: &MySqlRow) -> Result<Revocation, Problem> {
    Ok(Revocation {
        id: row.try_get("id")?,
        session: row.try_get("session_id")?,
        user: row.try_get("user_id")?,
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
    })
}
