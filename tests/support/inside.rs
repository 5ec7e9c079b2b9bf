//! Buyers who are inside already: the rows that claims leave, many at once, without the line in front.

use std::time::Duration;

use frontrow::accounts::UserId;
use frontrow::app::state::State;
use frontrow::catalog::ConcertId;
use frontrow::platform::token::KeyRing;
use frontrow::queue::Passes;
use frontrow::queue::pass::{Pass, PassId};
use sqlx::{AssertSqlSafe, MySqlConnection};

/// Rows of one statement.
const ROWS: usize = 500;
/// Longer than any test moves the clock.
const STAY: Duration = Duration::from_hours(24 * 20);

/// A live pass of the sale for each of these users, who have none. Nobody else may be in the line: the places are made up.
pub async fn passes(sql: &mut MySqlConnection, state: &State, concert: ConcertId, users: &[UserId]) -> Vec<String> {
    let keys = KeyRing::parse(&state.config.secrets.token_keys).expect("keys");
    let (seal, now) = (Passes::new(&keys), state.clock.now());
    let taken: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM queue_passes WHERE concert_id = ?")
        .bind(concert)
        .fetch_one(&mut *sql)
        .await
        .expect("a count");
    let first = u64::try_from(taken).expect("a count");
    let made: Vec<Pass> = (first..)
        .zip(users)
        .map(|(arrival, user)| Pass { id: PassId::new(), concert, user: *user, arrival, expires_at: now.plus(STAY) })
        .collect();
    for part in made.chunks(ROWS) {
        let rows = vec!["(?, ?, ?, ?, ?, 1, ?, ?)"; part.len()].join(", ");
        let insert = format!(
            "INSERT INTO queue_passes (id, concert_id, user_id, arrival, place_rank, is_live, expires_at, created_at) VALUES {rows}"
        );
        let mut query = sqlx::query(AssertSqlSafe(insert));
        for pass in part {
            query = query.bind(pass.id).bind(concert).bind(pass.user).bind(pass.arrival).bind(pass.arrival);
            query = query.bind(pass.expires_at).bind(now);
        }
        query.execute(&mut *sql).await.expect("passes");
    }
    made.iter().map(|pass| seal.seal(pass)).collect()
}
