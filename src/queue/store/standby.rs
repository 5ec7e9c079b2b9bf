//! The head of a line that MySQL keeps.

use sqlx::mysql::MySqlArguments;
use sqlx::query::Query;

use crate::catalog::ConcertId;
use crate::platform::clock::Timestamp;
use crate::platform::db::Conn;
use crate::platform::error::Problem;

const FIND_LINE_FOR_UPDATE: &str = "SELECT epoch, issued, serving, calls_made, gone_seq, gaps, amnesty_by, lobby_size, is_drawn, \
     tokens, ticked_at, pace, cut_at, came, faded_at FROM queue_lines WHERE concert_id = ? FOR UPDATE";
// Evaluated when the line is locked already: whoever waited long for it sees the present.
const FIND_CHARGE_IN_SHARE_MODE: &str = "SELECT epoch, in_charge, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND AS now_at \
     FROM queue_sales WHERE concert_id = ? LOCK IN SHARE MODE";
const INSERT_LINE: &str = "INSERT INTO queue_lines (epoch, issued, serving, calls_made, gone_seq, gaps, amnesty_by, lobby_size, \
     is_drawn, tokens, ticked_at, pace, cut_at, came, faded_at, concert_id) \
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
const UPDATE_LINE: &str = "UPDATE queue_lines SET epoch = ?, issued = ?, serving = ?, calls_made = ?, gone_seq = ?, gaps = ?, \
     amnesty_by = ?, lobby_size = ?, is_drawn = ?, tokens = ?, ticked_at = ?, pace = ?, cut_at = ?, came = ?, faded_at = ? \
     WHERE concert_id = ?";
const LIST_STALE: &str = "SELECT s.concert_id, s.epoch FROM queue_lines AS l JOIN queue_sales AS s ON s.concert_id = l.concert_id \
     WHERE l.tidied_epoch < s.epoch LIMIT ?";
const UPDATE_TIDIED: &str = "UPDATE queue_lines SET tidied_epoch = ? WHERE concert_id = ?";

/// What MySQL keeps of a line besides its ranks.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub(crate) struct LineRow {
    pub epoch: u32,
    pub issued: u64,
    pub serving: u64,
    pub calls_made: u64,
    pub gone_seq: u64,
    pub gaps: String,
    pub amnesty_by: Timestamp,
    pub lobby_size: Option<u64>,
    pub is_drawn: bool,
    pub tokens: f64,
    pub ticked_at: Option<Timestamp>,
    pub pace: Option<f64>,
    pub cut_at: Option<Timestamp>,
    pub came: String,
    pub faded_at: Option<Timestamp>,
}

/// Who keeps the line, and the time.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct ChargeRow {
    pub epoch: u32,
    pub in_charge: u8,
    pub now_at: Timestamp,
}

/// The line, which nobody else moves before the transaction ends.
pub(crate) async fn find_line_for_update(conn: &mut Conn, concert: ConcertId) -> Result<Option<LineRow>, Problem> {
    Ok(sqlx::query_as(FIND_LINE_FOR_UPDATE).bind(concert).fetch_optional(conn.sql()).await?)
}

/// Who keeps the line: nobody else before the transaction ends.
pub(crate) async fn lock_charge(conn: &mut Conn, concert: ConcertId) -> Result<Option<ChargeRow>, Problem> {
    let offset = conn.offset_micros();
    Ok(sqlx::query_as(FIND_CHARGE_IN_SHARE_MODE).bind(offset).bind(concert).fetch_optional(conn.sql()).await?)
}

pub(crate) async fn insert_line(conn: &mut Conn, concert: ConcertId, line: &LineRow) -> Result<(), Problem> {
    bound(sqlx::query(INSERT_LINE), line).bind(concert).execute(conn.sql()).await?;
    Ok(())
}

pub(crate) async fn update_line(conn: &mut Conn, concert: ConcertId, line: &LineRow) -> Result<(), Problem> {
    bound(sqlx::query(UPDATE_LINE), line).bind(concert).execute(conn.sql()).await?;
    Ok(())
}

type Statement<'q> = Query<'q, sqlx::MySql, MySqlArguments>;

fn bound<'q>(query: Statement<'q>, line: &'q LineRow) -> Statement<'q> {
    query
        .bind(line.epoch)
        .bind(line.issued)
        .bind(line.serving)
        .bind(line.calls_made)
        .bind(line.gone_seq)
        .bind(&line.gaps)
        .bind(line.amnesty_by)
        .bind(line.lobby_size)
        .bind(line.is_drawn)
        .bind(line.tokens)
        .bind(line.ticked_at)
        .bind(line.pace)
        .bind(line.cut_at)
        .bind(&line.came)
        .bind(line.faded_at)
}

/// Lines that may have ranks of earlier epochs than the sale's, with that one.
pub(crate) async fn list_stale(conn: &mut Conn, limit: u32) -> Result<Vec<(ConcertId, u32)>, Problem> {
    Ok(sqlx::query_as(LIST_STALE).bind(limit).fetch_all(conn.sql()).await?)
}

/// Notes that a line has no ranks of earlier epochs.
pub(crate) async fn update_tidied(conn: &mut Conn, concert: ConcertId, epoch: u32) -> Result<(), Problem> {
    sqlx::query(UPDATE_TIDIED).bind(epoch).bind(concert).execute(conn.sql()).await?;
    Ok(())
}
