//! The live stays of many buyers, as a transaction of many payments ends them; and whether a place's stay has ended.

use crate::accounts::UserId;
use crate::catalog::ConcertId;
use crate::platform::db::{Conn, Script, Slot, Text, derived, in_list, parts};
use crate::platform::error::Problem;
use crate::queue::domain::PassId;

/// Joined from the list's side, so that rows are locked in its order.
const LIST_OF_USERS_FOR_UPDATE: &str = "SELECT p.id, p.concert_id, p.user_id, p.arrival \
     FROM (SELECT ? AS concert_id, ? AS user_id) AS w STRAIGHT_JOIN queue_passes AS p \
     ON p.concert_id = w.concert_id AND p.user_id = w.user_id AND p.is_live = 1 FOR UPDATE";
const LIST_HALTS: &str = "SELECT is_stopped, is_cancelled, concert_id FROM queue_sales WHERE concert_id IN (?)";
const FIND_ENDED: &str = "SELECT is_live IS NULL OR expires_at <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
     FROM queue_passes WHERE concert_id = ? AND arrival = ?";
/// A buyer of that statement as text, in bytes.
const USER_LEN: usize = 110;

/// A live stay.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
pub(crate) struct Stay {
    pub id: PassId,
    pub concert_id: ConcertId,
    pub user_id: UserId,
    pub arrival: u64,
}

/// Asks for the stays of these buyers (sorted) that have not ended, and locks them.
pub(in crate::queue) fn ask_for_update(script: &mut Script, users: &[(ConcertId, UserId)]) -> Slot<Stay> {
    let texts = parts(users, |_| USER_LEN).map(|part| {
        let text = Text::new(derived(LIST_OF_USERS_FOR_UPDATE, part.len()));
        part.iter().fold(text, |text, (concert, user)| text.bind(concert).bind(user))
    });
    script.add_all(texts)
}

/// Asks whether the sales are stopped, or cancelled.
pub(in crate::queue) fn ask_halts(script: &mut Script, concerts: &[ConcertId]) -> Slot<(bool, bool, ConcertId)> {
    let text = || concerts.iter().fold(Text::new(in_list(LIST_HALTS, concerts.len())), Text::bind);
    script.add_all((!concerts.is_empty()).then(text))
}

/// Whether the place had a stay, and it has ended.
pub(in crate::queue) async fn has_ended(conn: &mut Conn, concert: ConcertId, arrival: u64) -> Result<bool, Problem> {
    let offset = conn.offset_micros();
    let found = sqlx::query_scalar(FIND_ENDED).bind(offset).bind(concert).bind(arrival);
    Ok(found.fetch_optional(conn.sql()).await?.unwrap_or(false))
}
