//! The live stays of many buyers, as a transaction of many payments ends them.

use std::collections::HashSet;

use crate::accounts::UserId;
use crate::catalog::ConcertId;
use crate::platform::db::{Conn, Text, derived, in_list, parts};
use crate::platform::error::Problem;
use crate::queue::domain::PassId;

/// Joined from the list's side, so that rows are locked in its order.
const LIST_OF_USERS_FOR_UPDATE: &str = "SELECT p.id, p.concert_id, p.user_id, p.arrival \
     FROM (SELECT ? AS concert_id, ? AS user_id) AS w STRAIGHT_JOIN queue_passes AS p \
     ON p.concert_id = w.concert_id AND p.user_id = w.user_id AND p.is_live = 1 FOR UPDATE";
const LIST_STOPPED: &str = "SELECT is_stopped, concert_id FROM queue_sales WHERE concert_id IN (?)";
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

/// The stays of these buyers (sorted) that have not ended, locked.
pub(in crate::queue) async fn list_of_users_for_update(
    conn: &mut Conn,
    users: &[(ConcertId, UserId)],
) -> Result<Vec<Stay>, Problem> {
    let mut stays = Vec::new();
    for part in parts(users, |_| USER_LEN) {
        let text = Text::new(derived(LIST_OF_USERS_FOR_UPDATE, part.len()));
        let text = part.iter().fold(text, |text, (concert, user)| text.bind(concert).bind(user));
        stays.extend(text.list::<Stay>(conn).await?);
    }
    Ok(stays)
}

/// Those of the sales that are stopped.
pub(in crate::queue) async fn list_stopped(
    conn: &mut Conn,
    concerts: &[ConcertId],
) -> Result<HashSet<ConcertId>, Problem> {
    if concerts.is_empty() {
        return Ok(HashSet::new());
    }
    let text = Text::new(in_list(LIST_STOPPED, concerts.len()));
    let found: Vec<(bool, ConcertId)> = concerts.iter().fold(text, Text::bind).list(conn).await?;
    Ok(found.into_iter().filter(|(is_stopped, _)| *is_stopped).map(|(_, concert)| concert).collect())
}
