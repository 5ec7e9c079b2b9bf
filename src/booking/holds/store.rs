//! The rows of holds.

use super::domain::{HeldSeat, Hold, HoldId, HoldStatus};
use crate::accounts::UserId;
use crate::catalog::{ConcertId, PerformanceId};
use crate::platform::audit::Invariant;
use crate::platform::clock::Timestamp;
use crate::platform::db::{Conn, Script, Slot, Text, in_list, parts, rows};
use crate::platform::error::Problem;
use crate::platform::money::Money;

const INSERT: &str = "INSERT INTO holds \
     (id, user_id, concert_id, performance_id, state, seat_count, amount, expires_at, created_at, changed_at) \
     VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?, ?)";
const INSERT_SEATS: &str = "INSERT INTO hold_seats (hold_id, seat_no, label, grade, price) VALUES (?, ?, ?, ?, ?)";
const FIND: &str = "SELECT id, concert_id, performance_id, state, amount, seat_count, expires_at, \
     UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND AS now_at FROM holds WHERE id = ? AND user_id = ?";
const FIND_FOR_UPDATE: &str = "SELECT id, concert_id, performance_id, state, amount, seat_count, expires_at, \
     UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND AS now_at FROM holds WHERE id = ? AND user_id = ? FOR UPDATE";
/// Where a buyer has few rows the servers would rather sort them by another index.
const LIST: &str = "SELECT id, concert_id, performance_id, state, amount, seat_count, expires_at, \
     UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND AS now_at FROM holds FORCE INDEX (by_owner) WHERE user_id = ? AND id < ? ORDER BY id DESC LIMIT ?";
const LIST_SEATS: &str =
    "SELECT hold_id, seat_no, label, grade, price FROM hold_seats WHERE hold_id IN (?) ORDER BY hold_id, seat_no";
const LIST_OWNED_FOR_UPDATE: &str = "SELECT id, user_id, concert_id, performance_id, state, amount, seat_count, expires_at, \
     UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND AS now_at FROM holds WHERE id IN (?) ORDER BY id FOR UPDATE";
const MARK_ALL_PAID: &str = "UPDATE holds SET state = 1, changed_at = ? WHERE state = 0 AND id IN (?)";
/// By buyer, whatever the statistics say: during a sale nearly all holds are live ones of one concert.
const LIST_LIVE_SEAT_COUNTS: &str = "SELECT user_id, seat_count FROM holds FORCE INDEX (by_user) WHERE concert_id = ? AND state = 0 \
     AND expires_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND AND user_id IN (?)";
const LIST_IDS_FOR_UPDATE: &str = "SELECT id FROM holds WHERE id IN (?) ORDER BY id FOR UPDATE";
/// By their ends, so that paid ones are not read past. What somebody is at is left for the next time.
const LIST_OVER_FOR_UPDATE: &str = "SELECT id, expires_at FROM holds WHERE state = ? AND expires_at >= ? AND (expires_at > ? OR id > ?) \
     AND expires_at < UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND - INTERVAL ? DAY ORDER BY expires_at, id LIMIT ? FOR UPDATE SKIP LOCKED";
const DELETE_SEATS: &str = "DELETE FROM hold_seats WHERE hold_id IN (?)";
const DELETE: &str = "DELETE FROM holds WHERE state <> 1 AND id IN (?)";
/// A hold and a seat of it as text, in bytes.
const ROW_LEN: usize = 420;
const SEAT_ROW_LEN: usize = 260;
const SET_STATE: &str = "UPDATE holds SET state = ?, changed_at = ? WHERE id = ?";

pub(super) mod closing;
pub mod counts;

/// What must hold of holds.
pub const INVARIANTS: &[Invariant] = &[
    Invariant {
        name: "held_seat_is_its_holds",
        promise: "every seat of a live hold is held by that hold and by no other, until the hold's end",
        statement: "SELECT CAST(CONCAT('hold ', LOWER(HEX(h.id)), ' seat ', hs.label) AS CHAR) \
             FROM holds AS h JOIN hold_seats AS hs ON hs.hold_id = h.id \
             LEFT JOIN seats AS s ON s.performance_id = h.performance_id AND s.seat_no = hs.seat_no \
             WHERE h.changed_at >= ? AND h.expires_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND AND h.state = 0 \
             AND (s.hold_id IS NULL OR s.hold_id <> h.id OR s.held_until <> h.expires_at) LIMIT ?",
    },
    Invariant {
        name: "seat_limit_per_buyer",
        promise: "no buyer holds and reserves more seats of a concert than its limit",
        // Only the changed rows are scanned; everything else of their buyers is looked up by index. Statistics from before the
        // sale would have the servers look through all that is live, once for each buyer.
        statement: "WITH p AS (SELECT DISTINCT c.user_id, c.concert_id FROM ( \
                 SELECT user_id, concert_id, changed_at FROM holds \
                 UNION ALL SELECT user_id, concert_id, changed_at FROM reservations) AS c WHERE c.changed_at >= ?), \
             a AS (SELECT p.user_id, c.seat_limit_per_buyer AS seats_max, \
                 (SELECT COALESCE(SUM(h.seat_count), 0) FROM holds AS h FORCE INDEX (by_user) WHERE h.user_id = p.user_id AND h.concert_id = p.concert_id \
                     AND h.state = 0 AND h.expires_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) \
                 + (SELECT COALESCE(SUM(r.seat_count), 0) FROM reservations AS r FORCE INDEX (by_limit) WHERE r.user_id = p.user_id \
                     AND r.concert_id = p.concert_id AND r.state = 1) AS seats \
                 FROM p JOIN concerts AS c ON c.id = p.concert_id) \
             SELECT CAST(CONCAT('user ', LOWER(HEX(a.user_id)), ' has ', a.seats, ' of ', a.seats_max) AS CHAR) \
             FROM a WHERE a.seats > a.seats_max LIMIT ?",
    },
];

/// A hold's row.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct HoldRow {
    /// The hold.
    pub id: HoldId,
    /// Its concert.
    pub concert_id: ConcertId,
    /// Its performance.
    pub performance_id: PerformanceId,
    state: u8,
    /// What it costs.
    pub amount: Money,
    /// How many seats it has.
    pub seat_count: u32,
    /// When it ends.
    pub expires_at: Timestamp,
    /// The database's instant of reading.
    pub now_at: Timestamp,
}

impl HoldRow {
    /// Where the hold is.
    #[must_use]
    pub fn status(&self) -> HoldStatus {
        HoldStatus::of(self.state, self.now_at < self.expires_at)
    }

    /// With its seats.
    #[must_use]
    pub fn with_seats(self, seats: Vec<HeldSeat>) -> Hold {
        Hold::new(self.id, self.status(), self.performance_id, seats, self.amount, self.expires_at)
    }
}

/// A hold's row, and whose it is.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct OwnedHoldRow {
    /// Whose it is.
    pub user_id: UserId,
    /// The hold.
    #[sqlx(flatten)]
    pub row: HoldRow,
}

/// How a hold ended that came to nothing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Over {
    /// Its buyer gave it back.
    Released,
    /// By time.
    Expired,
}

/// What a new hold's row says.
#[derive(Debug)]
pub(super) struct NewHold<'a> {
    pub id: HoldId,
    pub user: UserId,
    pub concert: ConcertId,
    pub performance: PerformanceId,
    pub seats: &'a [HeldSeat],
    pub amount: Money,
    pub now: Timestamp,
    pub expires_at: Timestamp,
}

/// Writes new holds and their seats.
pub(super) fn insert_all(script: &mut Script, holds: &[NewHold<'_>]) {
    let texts = parts(holds, |_| ROW_LEN).map(|part| {
        part.iter().fold(Text::new(rows(INSERT, part.len())), |text, hold| {
            let text = text.bind(&hold.id).bind(&hold.user).bind(&hold.concert).bind(&hold.performance);
            let text = text.bind(&u32::try_from(hold.seats.len()).unwrap_or(u32::MAX)).bind(&hold.amount);
            text.bind(&hold.expires_at).bind(&hold.now).bind(&hold.now)
        })
    });
    let _: Slot<()> = script.add_all(texts);
    let seats: Vec<(HoldId, &HeldSeat)> =
        holds.iter().flat_map(|hold| hold.seats.iter().map(|seat| (hold.id, seat))).collect();
    let texts = parts(&seats, |_| SEAT_ROW_LEN).map(|part| {
        part.iter().fold(Text::new(rows(INSERT_SEATS, part.len())), |text, (hold, seat)| {
            let text = text.bind(hold).bind(&seat.number).bind(seat.id.as_str());
            text.bind(seat.grade.as_str()).bind(&seat.price)
        })
    });
    let _: Slot<()> = script.add_all(texts);
}

/// Whether any of these holds is there, once whoever may still be making it has ended.
pub(super) async fn has_any_for_update(conn: &mut Conn, holds: &[HoldId]) -> Result<bool, Problem> {
    let text = Text::new(in_list(LIST_IDS_FOR_UPDATE, holds.len()));
    let found: Vec<(HoldId,)> = holds.iter().fold(text, Text::bind).list(conn).await?;
    Ok(!found.is_empty())
}

pub(super) async fn find(conn: &mut Conn, user: UserId, hold: HoldId) -> Result<Option<HoldRow>, Problem> {
    let offset = conn.offset_micros();
    Ok(sqlx::query_as(FIND).bind(offset).bind(hold).bind(user).fetch_optional(conn.sql()).await?)
}

/// The user's hold, locked.
///
/// # Errors
/// Where the statement fails.
pub async fn find_for_update(conn: &mut Conn, user: UserId, hold: HoldId) -> Result<Option<HoldRow>, Problem> {
    let offset = conn.offset_micros();
    Ok(sqlx::query_as(FIND_FOR_UPDATE).bind(offset).bind(hold).bind(user).fetch_optional(conn.sql()).await?)
}

/// Asks for these holds (sorted), whoever's they are, and locks them.
pub fn ask_owned_for_update(script: &mut Script, offset_micros: i64, holds: &[HoldId]) -> Slot<OwnedHoldRow> {
    let text = Text::new(in_list(LIST_OWNED_FOR_UPDATE, holds.len())).bind(&offset_micros);
    script.add(holds.iter().fold(text, Text::bind))
}

pub(super) async fn list(conn: &mut Conn, user: UserId, before: HoldId, limit: u32) -> Result<Vec<HoldRow>, Problem> {
    let offset = conn.offset_micros();
    Ok(sqlx::query_as(LIST).bind(offset).bind(user).bind(before).bind(limit).fetch_all(conn.sql()).await?)
}

/// A seat of a hold, as its row says.
#[derive(Debug, sqlx::FromRow)]
pub struct SeatRow {
    hold_id: HoldId,
    seat_no: u32,
    label: String,
    grade: String,
    price: Money,
}

impl From<SeatRow> for (HoldId, HeldSeat) {
    fn from(row: SeatRow) -> Self {
        (row.hold_id, HeldSeat { id: row.label, grade: row.grade, price: row.price, number: row.seat_no })
    }
}

/// The seats of these holds, each with its hold.
///
/// # Errors
/// Where the statement fails.
pub async fn list_seats(conn: &mut Conn, holds: &[HoldId]) -> Result<Vec<(HoldId, HeldSeat)>, Problem> {
    if holds.is_empty() {
        return Ok(Vec::new());
    }
    let found = list_seats_text(holds).list::<SeatRow>(conn).await?;
    Ok(found.into_iter().map(Into::into).collect())
}

/// Asks for the seats of these holds.
pub fn ask_seats(script: &mut Script, holds: &[HoldId]) -> Slot<SeatRow> {
    script.add(list_seats_text(holds))
}

fn list_seats_text(holds: &[HoldId]) -> Text {
    holds.iter().fold(Text::new(in_list(LIST_SEATS, holds.len())), Text::bind)
}

/// Asks for the live holds of these users for the concert, by how many seats each has.
pub fn ask_live_seat_counts(
    script: &mut Script,
    offset_micros: i64,
    concert: ConcertId,
    users: &[UserId],
) -> Slot<(UserId, u32)> {
    let text = Text::new(in_list(LIST_LIVE_SEAT_COUNTS, users.len())).bind(&concert).bind(&offset_micros);
    script.add(users.iter().fold(text, Text::bind))
}

/// Marks a locked hold as paid.
///
/// # Errors
/// Where the statement fails.
pub async fn mark_paid(conn: &mut Conn, hold: HoldId, now: Timestamp) -> Result<(), Problem> {
    set_state(conn, hold, 1, now).await
}

/// Marks locked, live holds as paid: as many as are found.
pub fn mark_all_paid(script: &mut Script, holds: &[HoldId], now: Timestamp) -> Slot<()> {
    let text = || holds.iter().fold(Text::new(in_list(MARK_ALL_PAID, holds.len())).bind(&now), Text::bind);
    script.add_all((!holds.is_empty()).then(text))
}

pub(super) async fn mark_released(conn: &mut Conn, hold: HoldId, now: Timestamp) -> Result<(), Problem> {
    set_state(conn, hold, 2, now).await
}

async fn set_state(conn: &mut Conn, hold: HoldId, state: u8, now: Timestamp) -> Result<(), Problem> {
    sqlx::query(SET_STATE).bind(state).bind(now).bind(hold).execute(conn.sql()).await?;
    Ok(())
}

/// How far somebody has looked through holds in the order of their ends: the last hold, and when it ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    pub ended: Timestamp,
    pub hold: HoldId,
}

/// Holds that came to nothing and come after that one, and ended more than so many days ago, locked: in the order of their ends,
/// which are told too.
pub(super) async fn list_over_for_update(
    conn: &mut Conn,
    over: Over,
    after: Reached,
    keep_days: u32,
    limit: u32,
) -> Result<Vec<(HoldId, Timestamp)>, Problem> {
    let state = match over {
        Over::Released => 2_u8,
        Over::Expired => 0,
    };
    let text = Text::new(LIST_OVER_FOR_UPDATE).bind(&state).bind(&after.ended).bind(&after.ended).bind(&after.hold);
    text.bind(&conn.offset_micros()).bind(&keep_days).bind(&limit).list(conn).await
}

/// Deletes locked holds that were not paid, with their seats. Returns how many.
pub(super) async fn delete_all(conn: &mut Conn, holds: &[HoldId]) -> Result<u64, Problem> {
    if holds.is_empty() {
        return Ok(0);
    }
    let of = |statement| holds.iter().fold(Text::new(in_list(statement, holds.len())), Text::bind);
    of(DELETE_SEATS).execute(conn).await?;
    of(DELETE).execute(conn).await
}
