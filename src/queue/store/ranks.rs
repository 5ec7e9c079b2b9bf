//! The ranks of a line that MySQL keeps, as far as they do not merely wait.

use crate::catalog::ConcertId;
use crate::platform::clock::Timestamp;
use crate::platform::db::{Conn, in_list, rows};
use crate::platform::error::Problem;

const LIST_AT: &str = "SELECT state, ends_at FROM queue_ranks WHERE concert_id = ? AND epoch = ? AND place = ?";
const LIST_AMONG: &str =
    "SELECT place, state, ends_at FROM queue_ranks WHERE concert_id = ? AND epoch = ? AND place IN (?)";
const LIST_AHEAD: &str = "SELECT place, state FROM queue_ranks WHERE concert_id = ? AND epoch = ? AND place >= ? \
     AND place < ? AND state IN (6, 8)";
const LIST_IN_STATE: &str = "SELECT place FROM queue_ranks WHERE concert_id = ? AND epoch = ? AND state = ? LIMIT ?";
const LIST_GONE: &str = "SELECT place, state, seq FROM queue_ranks WHERE concert_id = ? AND epoch = ? AND seq > ? \
     ORDER BY seq LIMIT ?";
const INSERT_RANKS: &str =
    "INSERT INTO queue_ranks (concert_id, epoch, place, state, ends_at, seq) VALUES (?, ?, ?, ?, ?, ?)";
const DELETE_STATE: &str = "DELETE FROM queue_ranks WHERE concert_id = ? AND epoch = ? AND place = ? AND state = ?";
const DELETE_ENDED: &str =
    "DELETE FROM queue_ranks WHERE concert_id = ? AND epoch = ? AND state = ? AND ends_at <= ? LIMIT ?";
const DELETE_AMONG: &str = "DELETE FROM queue_ranks WHERE concert_id = ? AND epoch = ? AND state = ? AND place IN (?)";
const LIST_ENDED: &str =
    "SELECT place FROM queue_ranks WHERE concert_id = ? AND epoch = ? AND state = ? AND ends_at <= ? LIMIT ?";
const UPDATE_END: &str =
    "UPDATE queue_ranks SET ends_at = ? WHERE concert_id = ? AND epoch = ? AND place = ? AND state = ?";
const COUNT_INSIDE: &str = "SELECT COUNT(IF(state = 3 AND ends_at > ?, 1, NULL)), \
     COUNT(IF(state = 2 AND ends_at > ? AND place < ?, 1, NULL)) \
     FROM queue_ranks WHERE concert_id = ? AND epoch = ? AND state IN (2, 3)";
const COUNT_CROWD: &str = "SELECT COUNT(IF(state = 3 AND ends_at > ?, 1, NULL)), COUNT(IF(state = 2, 1, NULL)), \
     COUNT(IF(state < 3, 1, NULL)), COUNT(IF(state < 3 AND ends_at > ?, 1, NULL)), COUNT(IF(state < 3 AND ends_at > ?, 1, NULL)), \
     COUNT(IF(state < 3 AND ends_at > ?, 1, NULL)), COUNT(IF(state < 3 AND ends_at > ?, 1, NULL)), \
     COUNT(IF(state < 3 AND ends_at > ?, 1, NULL)), COUNT(IF(state < 3 AND ends_at > ?, 1, NULL)), \
     COUNT(IF(state < 3 AND ends_at > ?, 1, NULL)), COUNT(IF(state < 3 AND ends_at > ?, 1, NULL)) \
     FROM queue_ranks WHERE concert_id = ? AND epoch = ? AND state IN (1, 2, 3)";
const DELETE_STALE: &str = "DELETE FROM queue_ranks WHERE concert_id = ? AND epoch < ? LIMIT ?";

/// Rows written by one statement.
const BATCH_MAX: usize = 500;

/// What a rank is besides waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[repr(u8)]
pub(crate) enum State {
    Called = 1,
    /// Called, and asked while all slots were taken.
    Present = 2,
    Admitted = 3,
    Finished = 4,
    /// Left after its call.
    Left = 5,
    /// Given up before its call.
    Gone = 6,
    /// Given up before the draw: the place is an arrival.
    GoneEarly = 7,
    /// A rank of the lobby that nobody is known to have.
    Ghost = 8,
}

/// Whose ranks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub concert: ConcertId,
    pub epoch: u32,
}

/// A rank, or the arrival of a place that was given up before the draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct RankRow {
    pub place: u64,
    pub state: State,
    pub ends_at: Option<Timestamp>,
    #[sqlx(default)]
    pub seq: Option<u64>,
}

/// All that is known of one place.
pub(crate) async fn list_at(conn: &mut Conn, key: Key, place: u64) -> Result<Vec<(State, Option<Timestamp>)>, Problem> {
    Ok(sqlx::query_as(LIST_AT).bind(key.concert).bind(key.epoch).bind(place).fetch_all(conn.sql()).await?)
}

/// All that is known of these places.
pub(crate) async fn list_among(conn: &mut Conn, key: Key, places: &[u64]) -> Result<Vec<RankRow>, Problem> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let statement = in_list(LIST_AMONG, places.len());
    let mut query = sqlx::query_as(sqlx::AssertSqlSafe(statement)).bind(key.concert).bind(key.epoch);
    for place in places {
        query = query.bind(*place);
    }
    Ok(query.fetch_all(conn.sql()).await?)
}

/// Ranks from the first to below the second that were given up or are ghosts.
pub(crate) async fn list_ahead(
    conn: &mut Conn,
    key: Key,
    (from, below): (u64, u64),
) -> Result<Vec<(u64, State)>, Problem> {
    let query = sqlx::query_as(LIST_AHEAD).bind(key.concert).bind(key.epoch).bind(from).bind(below);
    Ok(query.fetch_all(conn.sql()).await?)
}

pub(crate) async fn list_in_state(conn: &mut Conn, key: Key, state: State, limit: u64) -> Result<Vec<u64>, Problem> {
    let query = sqlx::query_scalar(LIST_IN_STATE).bind(key.concert).bind(key.epoch).bind(state).bind(limit);
    Ok(query.fetch_all(conn.sql()).await?)
}

/// Places given up after the one with this sequence number, in their order.
pub(crate) async fn list_gone(
    conn: &mut Conn,
    key: Key,
    seq: u64,
    limit: u64,
) -> Result<Vec<(u64, State, u64)>, Problem> {
    let query = sqlx::query_as(LIST_GONE).bind(key.concert).bind(key.epoch).bind(seq).bind(limit);
    Ok(query.fetch_all(conn.sql()).await?)
}

/// How many are inside, present and called, and how many calls end after each of these instants.
pub(crate) async fn count_crowd(
    conn: &mut Conn,
    key: Key,
    now: Timestamp,
    after: [Timestamp; 8],
) -> Result<([u64; 3], [u64; 8]), Problem> {
    let mut query = sqlx::query_as(COUNT_CROWD).bind(now);
    for instant in after {
        query = query.bind(instant);
    }
    let counts: [i64; 11] = {
        let row: (i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64) =
            query.bind(key.concert).bind(key.epoch).fetch_one(conn.sql()).await?;
        row.into()
    };
    let mut counts = counts.into_iter().map(|count| u64::try_from(count).unwrap_or(0));
    let mut next = || counts.next().unwrap_or(0);
    Ok((std::array::from_fn(|_| next()), std::array::from_fn(|_| next())))
}

/// Slots in use, and how many present ranks come before `rank`.
pub(crate) async fn count_inside(conn: &mut Conn, key: Key, now: Timestamp, rank: u64) -> Result<(i64, i64), Problem> {
    let query = sqlx::query_as(COUNT_INSIDE).bind(now).bind(now).bind(rank).bind(key.concert).bind(key.epoch);
    Ok(query.fetch_one(conn.sql()).await?)
}

/// Adds rows that are not there yet.
pub(crate) async fn insert_all(conn: &mut Conn, key: Key, ranks: &[RankRow]) -> Result<(), Problem> {
    for batch in ranks.chunks(BATCH_MAX) {
        let mut query = sqlx::query(sqlx::AssertSqlSafe(rows(INSERT_RANKS, batch.len())));
        for rank in batch {
            query = query.bind(key.concert).bind(key.epoch).bind(rank.place);
            query = query.bind(rank.state).bind(rank.ends_at).bind(rank.seq);
        }
        query.execute(conn.sql()).await?;
    }
    Ok(())
}

pub(crate) async fn delete(conn: &mut Conn, key: Key, place: u64, state: State) -> Result<(), Problem> {
    let query = sqlx::query(DELETE_STATE).bind(key.concert).bind(key.epoch).bind(place).bind(state);
    query.execute(conn.sql()).await?;
    Ok(())
}

/// Deletes rows of one state.
pub(crate) async fn delete_among(conn: &mut Conn, key: Key, state: State, places: &[u64]) -> Result<(), Problem> {
    for batch in places.chunks(BATCH_MAX) {
        let statement = in_list(DELETE_AMONG, batch.len());
        let mut query = sqlx::query(sqlx::AssertSqlSafe(statement)).bind(key.concert).bind(key.epoch).bind(state);
        for place in batch {
            query = query.bind(*place);
        }
        query.execute(conn.sql()).await?;
    }
    Ok(())
}

/// Deletes some of the rows of a state whose time is over, and says how many.
pub(crate) async fn delete_ended(
    conn: &mut Conn,
    key: Key,
    state: State,
    now: Timestamp,
    limit: u64,
) -> Result<u64, Problem> {
    let query = sqlx::query(DELETE_ENDED).bind(key.concert).bind(key.epoch).bind(state).bind(now).bind(limit);
    Ok(query.execute(conn.sql()).await?.rows_affected())
}

/// Some of the places in a state whose time is over.
pub(crate) async fn list_ended(
    conn: &mut Conn,
    key: Key,
    state: State,
    now: Timestamp,
    limit: u64,
) -> Result<Vec<u64>, Problem> {
    let query = sqlx::query_scalar(LIST_ENDED).bind(key.concert).bind(key.epoch).bind(state).bind(now).bind(limit);
    Ok(query.fetch_all(conn.sql()).await?)
}

/// Gives these places another state and end.
pub(crate) async fn turn(
    conn: &mut Conn,
    key: Key,
    places: &[u64],
    was: State,
    (state, ends_at): (State, Option<Timestamp>),
) -> Result<(), Problem> {
    delete_among(conn, key, was, places).await?;
    let turned: Vec<RankRow> =
        places.iter().map(|place| RankRow { place: *place, state, ends_at, seq: None }).collect();
    insert_all(conn, key, &turned).await
}

pub(crate) async fn update_end(
    conn: &mut Conn,
    key: Key,
    place: u64,
    state: State,
    ends_at: Timestamp,
) -> Result<(), Problem> {
    let query = sqlx::query(UPDATE_END).bind(ends_at).bind(key.concert).bind(key.epoch).bind(place).bind(state);
    query.execute(conn.sql()).await?;
    Ok(())
}

/// Deletes some of the ranks of earlier epochs, and says how many.
pub(crate) async fn delete_stale(conn: &mut Conn, key: Key, limit: u64) -> Result<u64, Problem> {
    let query = sqlx::query(DELETE_STALE).bind(key.concert).bind(key.epoch).bind(limit);
    Ok(query.execute(conn.sql()).await?.rows_affected())
}
