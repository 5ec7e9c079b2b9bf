//! The line in MySQL: a sale's rules and checkpoint, and the passes.

use std::time::{Duration, Instant};

use sqlx::Row as _;
use sqlx::mysql::MySqlRow;

use super::domain::{Halt, InCharge, PassId, Rules};
use super::pass::Pass;
use crate::accounts::UserId;
use crate::catalog::ConcertId;
use crate::catalog::domain::Order;
use crate::platform::audit::Invariant;
use crate::platform::clock::Timestamp;
use crate::platform::db::{Conn, Script, Slot, Text, in_list, parts};
use crate::platform::error::Problem;

const INSERT_SALE: &str = "INSERT INTO queue_sales \
     (concert_id, admit_per_second, max_active, claim_secs, session_secs, seed_sealed) VALUES (?, ?, ?, ?, ?, ?)";
const FIND_SALE: &str = "SELECT concert_id, admit_per_second, max_active, claim_secs, session_secs, is_paused, joins_closed, is_stopped, \
     rules_version, epoch, issued_ceiling, issued, serving, gaps, lobby_size, seed_sealed, in_charge, run_id, \
     TIMESTAMPDIFF(MICROSECOND, checkpointed_at, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) AS checkpoint_age \
     FROM queue_sales WHERE concert_id = ?";
const FIND_SALE_FOR_UPDATE: &str = "SELECT concert_id, admit_per_second, max_active, claim_secs, session_secs, is_paused, joins_closed, is_stopped, \
     rules_version, epoch, issued_ceiling, issued, serving, gaps, lobby_size, seed_sealed, in_charge, run_id, \
     TIMESTAMPDIFF(MICROSECOND, checkpointed_at, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) AS checkpoint_age \
     FROM queue_sales WHERE concert_id = ? FOR UPDATE";
const LIST_SALES: &str = "SELECT concert_id, admit_per_second, max_active, claim_secs, session_secs, is_paused, joins_closed, is_stopped, \
     rules_version, epoch, issued_ceiling, issued, serving, gaps, lobby_size, seed_sealed, in_charge, run_id, \
     TIMESTAMPDIFF(MICROSECOND, checkpointed_at, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) AS checkpoint_age \
     FROM queue_sales WHERE concert_id IN (?)";
const UPDATE_RULES: &str = "UPDATE queue_sales SET \
     earlier_max_active = IF(max_active > ?, GREATEST(max_active, IF(earlier_until > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, earlier_max_active, 0)), earlier_max_active), \
     earlier_until = IF(max_active > ?, GREATEST(UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND + INTERVAL session_secs + 5 SECOND, \
         COALESCE((SELECT MAX(p.expires_at) FROM queue_passes AS p WHERE p.concert_id = ? AND p.is_live = 1), '1970-01-01')), earlier_until), \
     admit_per_second = ?, max_active = ?, claim_secs = ?, session_secs = ?, is_paused = ?, \
     joins_closed = ?, is_stopped = ?, rules_version = rules_version + 1 WHERE concert_id = ?";
const RAISE_CEILING: &str =
    "UPDATE queue_sales SET issued_ceiling = GREATEST(issued_ceiling, ?) WHERE concert_id = ? AND epoch = ?";
const RAISE_EPOCH: &str = "UPDATE queue_sales SET epoch = epoch + 1, in_charge = ?, run_id = ?, gaps = ?, serving = ?, \
     checkpointed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND WHERE concert_id = ? AND epoch = ?";
const COMMIT_LOBBY: &str =
    "UPDATE queue_sales SET lobby_size = ? WHERE concert_id = ? AND epoch = ? AND lobby_size IS NULL";
const CHECKPOINT: &str = "UPDATE queue_sales SET serving = GREATEST(serving, ?), issued = GREATEST(issued, ?), \
     checkpointed_at = LEAST(UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, \
         GREATEST(UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, COALESCE(checkpointed_at, '1970-01-01'))) \
     WHERE concert_id = ? AND epoch = ?";
const FIND_EPOCH_IN_SHARE_MODE: &str =
    "SELECT epoch, is_stopped, is_cancelled FROM queue_sales WHERE concert_id = ? LOCK IN SHARE MODE";
const FIND_HALT: &str = "SELECT is_stopped, is_cancelled FROM queue_sales WHERE concert_id = ?";
const CANCEL: &str = "UPDATE queue_sales SET is_stopped = 1, is_cancelled = 1, rules_version = rules_version + 1 \
     WHERE concert_id = ?";
const LIST_LIVE_PASSES: &str = "SELECT arrival, expires_at FROM queue_passes WHERE concert_id = ? AND is_live = 1 \
     AND expires_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND LIMIT 100000";
const FIND_LAST_ADMITTED: &str = "SELECT MAX(arrival) FROM queue_passes WHERE concert_id = ?";
const FIND_LAST_ADMITTED_RANK: &str = "SELECT MAX(place_rank) FROM queue_passes WHERE concert_id = ?";
const FIND_BY_PLACE_FOR_UPDATE: &str = "SELECT id, user_id, expires_at, \
     (is_live IS NOT NULL AND expires_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) AS live \
     FROM queue_passes WHERE concert_id = ? AND arrival = ? FOR UPDATE";
const FIND_BY_USER_FOR_UPDATE: &str =
    "SELECT id, arrival FROM queue_passes WHERE concert_id = ? AND user_id = ? AND is_live = 1 FOR UPDATE";
/// By id, whatever the statistics say: of few passes the servers would rather read all, and wait for those of others.
const LIST_BY_ID_FOR_UPDATE: &str = "SELECT id, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND AS now_at, expires_at, is_live IS NOT NULL AS live \
     FROM queue_passes FORCE INDEX (PRIMARY) WHERE id IN (?) ORDER BY id FOR UPDATE";
const COUNT_LIVE: &str = "SELECT COUNT(*) FROM queue_passes WHERE concert_id = ? AND is_live = 1 \
     AND expires_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND";
const LIST_LIVE_FOR_UPDATE: &str = "SELECT id, arrival FROM queue_passes WHERE concert_id = ? AND is_live = 1 \
     AND expires_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND AND created_at <= ? LIMIT ? FOR UPDATE";
const END_PASSES: &str = "UPDATE queue_passes SET is_live = NULL, \
     ended_at = LEAST(expires_at, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) WHERE is_live = 1 AND id IN (?)";
const INSERT_PASS: &str = "INSERT INTO queue_passes (id, concert_id, user_id, arrival, place_rank, is_live, expires_at, created_at) \
     VALUES (?, ?, ?, ?, ?, 1, ?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
const INSERT_ENDED_PASS: &str = "INSERT INTO queue_passes (id, concert_id, user_id, arrival, place_rank, is_live, expires_at, ended_at, created_at) \
     VALUES (?, ?, ?, ?, ?, NULL, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, \
     UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
const END_PASS: &str = "UPDATE queue_passes SET is_live = NULL, \
     ended_at = LEAST(expires_at, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) WHERE id = ? AND is_live = 1";

/// An id in a list as text, in bytes.
const ID_LEN: usize = 40;

pub(super) mod places;
pub(super) mod ranks;
pub(super) mod standby;
pub(super) mod stays;

/// What must hold of the line. A second of margin covers the distance between the clocks of Redis,
/// which ends slots, and MySQL, which ends passes.
pub const INVARIANTS: &[Invariant] = &[Invariant {
    name: "passes_within_cap",
    promise: "never more than max_active passes live at once per sale, unless an operator lowered it while they were",
    // Only the passes that live now are read, by their ends: not every sale that ever was.
    statement: "SELECT CAST(CONCAT('concert ', LOWER(HEX(s.concert_id)), ': ', COUNT(*), ' live passes, cap ', MAX(s.max_active)) AS CHAR) \
         FROM queue_passes AS p JOIN queue_sales AS s ON s.concert_id = p.concert_id \
         WHERE ? IS NOT NULL AND p.is_live = 1 AND p.expires_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND + INTERVAL 1 SECOND \
         GROUP BY s.concert_id HAVING COUNT(*) > MAX(GREATEST(s.max_active, \
         IF(s.earlier_until > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, s.earlier_max_active, 0))) LIMIT ?",
}];

/// A sale as MySQL knows it.
#[derive(Clone, Debug)]
pub struct SaleRow {
    /// Which sale.
    pub concert: ConcertId,
    /// Its rules.
    pub rules: Rules,
    /// How often they were changed.
    pub rules_version: u32,
    /// Which making of the line in Redis is the valid one.
    pub epoch: u32,
    /// No index at or above it was issued.
    pub ceiling: u64,
    /// Indices issued, as of the last checkpoint.
    pub issued: u64,
    /// Ranks called, as of the last checkpoint.
    pub serving: u64,
    /// Ranks that nobody is known to have: `from-below,` pairs.
    pub gaps: String,
    /// How many came early; known after the lobby closed.
    pub lobby_size: Option<u64>,
    /// The draw's seed, sealed.
    pub seed_sealed: String,
    /// Who keeps the line.
    pub in_charge: InCharge,
    /// The Redis that the line was last made in.
    pub run_id: String,
    /// How long ago somebody wrote down how far the line is.
    pub checkpoint_age: Option<Duration>,
}

impl SaleRow {
    fn of(row: &MySqlRow) -> Result<Self, Problem> {
        let rules = Rules {
            admit_per_second: row.try_get("admit_per_second")?,
            max_active: row.try_get("max_active")?,
            claim_secs: row.try_get("claim_secs")?,
            session_secs: row.try_get("session_secs")?,
            is_paused: row.try_get::<u8, _>("is_paused")? != 0,
            joins_closed: row.try_get::<u8, _>("joins_closed")? != 0,
            is_stopped: row.try_get::<u8, _>("is_stopped")? != 0,
        };
        let age: Option<i64> = row.try_get("checkpoint_age")?;
        Ok(Self {
            concert: row.try_get("concert_id")?,
            rules,
            rules_version: row.try_get("rules_version")?,
            epoch: row.try_get("epoch")?,
            ceiling: row.try_get("issued_ceiling")?,
            issued: row.try_get("issued")?,
            serving: row.try_get("serving")?,
            gaps: row.try_get("gaps")?,
            lobby_size: row.try_get("lobby_size")?,
            seed_sealed: row.try_get("seed_sealed")?,
            in_charge: match row.try_get::<u8, _>("in_charge")? {
                0 => InCharge::Usual,
                _ => InCharge::Standby,
            },
            run_id: row.try_get("run_id")?,
            // A clock that was set back makes it negative: that is no age.
            checkpoint_age: age.map(|micros| Duration::from_micros(micros.try_into().unwrap_or(0))),
        })
    }
}

pub(super) async fn insert_sale(
    conn: &mut Conn,
    concert: ConcertId,
    rules: &Rules,
    seed_sealed: &str,
) -> Result<(), Problem> {
    sqlx::query(INSERT_SALE)
        .bind(concert)
        .bind(rules.admit_per_second)
        .bind(rules.max_active)
        .bind(rules.claim_secs)
        .bind(rules.session_secs)
        .bind(seed_sealed)
        .execute(conn.sql())
        .await?;
    Ok(())
}

pub(super) async fn find_sale(conn: &mut Conn, concert: ConcertId) -> Result<Option<SaleRow>, Problem> {
    let offset = conn.offset_micros();
    let found = sqlx::query(FIND_SALE).bind(offset).bind(concert).fetch_optional(conn.sql()).await?;
    found.as_ref().map(SaleRow::of).transpose()
}

pub(super) async fn find_sale_for_update(conn: &mut Conn, concert: ConcertId) -> Result<Option<SaleRow>, Problem> {
    let offset = conn.offset_micros();
    let found = sqlx::query(FIND_SALE_FOR_UPDATE).bind(offset).bind(concert).fetch_optional(conn.sql()).await?;
    found.as_ref().map(SaleRow::of).transpose()
}

pub(super) async fn list_sales(conn: &mut Conn, concerts: &[ConcertId]) -> Result<Vec<SaleRow>, Problem> {
    if concerts.is_empty() {
        return Ok(Vec::new());
    }
    let offset = conn.offset_micros();
    let mut query = sqlx::query(sqlx::AssertSqlSafe(in_list(LIST_SALES, concerts.len()))).bind(offset);
    for concert in concerts {
        query = query.bind(*concert);
    }
    query.fetch_all(conn.sql()).await?.iter().map(SaleRow::of).collect()
}

pub(super) async fn update_rules(conn: &mut Conn, concert: ConcertId, rules: &Rules) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    sqlx::query(UPDATE_RULES)
        .bind(rules.max_active)
        .bind(offset)
        .bind(rules.max_active)
        .bind(offset)
        .bind(concert)
        .bind(rules.admit_per_second)
        .bind(rules.max_active)
        .bind(rules.claim_secs)
        .bind(rules.session_secs)
        .bind(rules.is_paused)
        .bind(rules.joins_closed)
        .bind(rules.is_stopped)
        .bind(concert)
        .execute(conn.sql())
        .await?;
    Ok(())
}

pub(super) async fn raise_ceiling(conn: &mut Conn, concert: ConcertId, epoch: u32, to: u64) -> Result<(), Problem> {
    sqlx::query(RAISE_CEILING).bind(to).bind(concert).bind(epoch).execute(conn.sql()).await?;
    Ok(())
}

/// Makes a new making of the line the valid one: whoever comes with the epoch of `row` changes nothing any more.
pub(super) async fn raise_epoch(conn: &mut Conn, row: &SaleRow) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    sqlx::query(RAISE_EPOCH)
        .bind(u8::from(row.in_charge == InCharge::Standby))
        .bind(&row.run_id)
        .bind(&row.gaps)
        .bind(row.serving)
        .bind(offset)
        .bind(row.concert)
        .bind(row.epoch)
        .execute(conn.sql())
        .await?;
    Ok(())
}

/// Writes down how many came early, once, and only as the valid making of the line counted them.
pub(super) async fn commit_lobby(conn: &mut Conn, concert: ConcertId, epoch: u32, size: u64) -> Result<(), Problem> {
    sqlx::query(COMMIT_LOBBY).bind(size).bind(concert).bind(epoch).execute(conn.sql()).await?;
    Ok(())
}

/// How far a line is, as its store has said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    pub concert: ConcertId,
    pub epoch: u32,
    pub serving: u64,
    pub issued: u64,
    /// When the store said so.
    pub at: Instant,
}

/// Writes down how far a line is, as of when its store said so and not of now: the time proves that somebody reached it.
pub(super) async fn checkpoint(conn: &mut Conn, progress: &Progress) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    let age = i64::try_from(progress.at.elapsed().as_micros()).unwrap_or(i64::MAX);
    sqlx::query(CHECKPOINT)
        .bind(progress.serving)
        .bind(progress.issued)
        .bind(offset)
        .bind(offset.saturating_sub(age))
        .bind(progress.concert)
        .bind(progress.epoch)
        .execute(conn.sql())
        .await?;
    Ok(())
}

/// The sale's epoch, and whether it is halted: nobody can change either before the transaction ends.
pub(super) async fn lock_epoch(conn: &mut Conn, concert: ConcertId) -> Result<Option<(u32, Halt)>, Problem> {
    let found = sqlx::query_as(FIND_EPOCH_IN_SHARE_MODE).bind(concert).fetch_optional(conn.sql()).await?;
    Ok(found.map(|(epoch, is_stopped, is_cancelled)| (epoch, Halt::from((is_stopped, is_cancelled)))))
}

/// Whether the sale is halted, as of this statement.
pub(super) async fn find_halt(conn: &mut Conn, concert: ConcertId) -> Result<Halt, Problem> {
    let found: Option<(bool, bool)> = sqlx::query_as(FIND_HALT).bind(concert).fetch_optional(conn.sql()).await?;
    Ok(found.map(Halt::from).unwrap_or_default())
}

/// Ends the sale for good.
pub(super) async fn cancel(conn: &mut Conn, concert: ConcertId) -> Result<(), Problem> {
    sqlx::query(CANCEL).bind(concert).execute(conn.sql()).await?;
    Ok(())
}

/// The same, for a script.
pub(super) fn find_halt_text(concert: ConcertId) -> Text {
    Text::new(FIND_HALT).bind(&concert)
}

/// The highest rank that was ever let in: it was called, and so was everybody before.
pub(super) async fn find_last_admitted(
    conn: &mut Conn,
    concert: ConcertId,
    order: Order,
) -> Result<Option<u64>, Problem> {
    let find = match order {
        Order::Fifo => FIND_LAST_ADMITTED,
        Order::Draw => FIND_LAST_ADMITTED_RANK,
    };
    Ok(sqlx::query_scalar(find).bind(concert).fetch_one(conn.sql()).await?)
}

/// Places of those inside, with the end of their stay.
pub(super) async fn list_live_passes(conn: &mut Conn, concert: ConcertId) -> Result<Vec<(u64, Timestamp)>, Problem> {
    let offset = conn.offset_micros();
    Ok(sqlx::query_as(LIST_LIVE_PASSES).bind(concert).bind(offset).fetch_all(conn.sql()).await?)
}

/// A pass row found by its place.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct PlacePass {
    pub id: PassId,
    pub user_id: UserId,
    pub expires_at: Timestamp,
    pub live: bool,
}

pub(super) async fn find_by_place_for_update(
    conn: &mut Conn,
    concert: ConcertId,
    arrival: u64,
) -> Result<Option<PlacePass>, Problem> {
    let offset = conn.offset_micros();
    Ok(sqlx::query_as(FIND_BY_PLACE_FOR_UPDATE)
        .bind(offset)
        .bind(concert)
        .bind(arrival)
        .fetch_optional(conn.sql())
        .await?)
}

/// The id and place of the pass that this user has or had last, if it was not ended.
pub(super) async fn find_by_user_for_update(
    conn: &mut Conn,
    concert: ConcertId,
    user: UserId,
) -> Result<Option<(PassId, u64)>, Problem> {
    Ok(sqlx::query_as(FIND_BY_USER_FOR_UPDATE).bind(concert).bind(user).fetch_optional(conn.sql()).await?)
}

pub(super) async fn insert_pass(conn: &mut Conn, pass: &Pass, rank: u64) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    sqlx::query(INSERT_PASS)
        .bind(pass.id)
        .bind(pass.concert)
        .bind(pass.user)
        .bind(pass.arrival)
        .bind(rank)
        .bind(pass.expires_at)
        .bind(offset)
        .execute(conn.sql())
        .await?;
    Ok(())
}

/// Takes the place's row for a stay that never was.
pub(super) async fn insert_ended_pass(conn: &mut Conn, pass: &Pass, rank: u64) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    let insert = sqlx::query(INSERT_ENDED_PASS).bind(pass.id).bind(pass.concert).bind(pass.user).bind(pass.arrival);
    insert.bind(rank).bind(offset).bind(offset).bind(offset).execute(conn.sql()).await?;
    Ok(())
}

pub(super) async fn end_pass(conn: &mut Conn, id: PassId) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    sqlx::query(END_PASS).bind(offset).bind(id).execute(conn.sql()).await?;
    Ok(())
}

/// A pass row as its holder's transaction sees it, locked.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct LockedPass {
    pub id: PassId,
    pub now_at: Timestamp,
    pub expires_at: Timestamp,
    pub live: bool,
}

pub(super) async fn list_by_id_for_update(conn: &mut Conn, ids: &[PassId]) -> Result<Vec<LockedPass>, Problem> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    list_by_id_for_update_text(conn.offset_micros(), ids).list(conn).await
}

/// The same, for a script.
pub(super) fn list_by_id_for_update_text(offset_micros: i64, ids: &[PassId]) -> Text {
    let text = Text::new(in_list(LIST_BY_ID_FOR_UPDATE, ids.len())).bind(&offset_micros);
    ids.iter().fold(text, Text::bind)
}

/// How many are inside.
pub(super) async fn count_live(conn: &mut Conn, concert: ConcertId) -> Result<i64, Problem> {
    let offset = conn.offset_micros();
    Ok(sqlx::query_scalar(COUNT_LIVE).bind(concert).bind(offset).fetch_one(conn.sql()).await?)
}

/// Some of those who are inside and got their pass by then, with their places.
pub(super) async fn list_live_for_update(
    conn: &mut Conn,
    concert: ConcertId,
    made_by: Timestamp,
    limit: u32,
) -> Result<Vec<(PassId, u64)>, Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query_as(LIST_LIVE_FOR_UPDATE).bind(concert).bind(offset).bind(made_by).bind(limit);
    Ok(query.fetch_all(conn.sql()).await?)
}

/// Ends those of the passes that are live.
pub(super) fn end_passes(script: &mut Script, offset_micros: i64, ids: &[PassId]) {
    let texts = parts(ids, |_| ID_LEN).map(|part| {
        let text = Text::new(in_list(END_PASSES, part.len())).bind(&offset_micros);
        part.iter().fold(text, Text::bind)
    });
    let _: Slot<()> = script.add_all(texts);
}
