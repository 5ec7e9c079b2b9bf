//! Real users for load tests, and operators.

use std::io::Write as _;

use anyhow::{Context as _, bail};
use rand::RngCore as _;
use serde_json::json;

use super::state::State;
use crate::accounts::UserId;
use crate::platform::config::Secret;
use crate::platform::money::Money;
use crate::points::ledger;

/// Users whose points are granted by one transaction.
const GRANT_BATCH: usize = 500;
/// Most users of one command.
const USERS_MAX: u32 = 1_000_000;

/// Makes `count` buyers with `points` each and prints a JSON line for each. They share the hash of a
/// random password that nobody knows: they sign in by their printed token only.
///
/// # Errors
/// Where the database fails, or the output cannot be written.
pub async fn users(state: &State, count: u32, points: i64) -> anyhow::Result<()> {
    if count > USERS_MAX || !(0..=10_000_000).contains(&points) {
        bail!("at most {USERS_MAX} users, with 0 to 10000000 points each");
    }
    state.db.align_clock().await?;
    let mut password = [0_u8; 24];
    rand::rng().fill_bytes(&mut password);
    let made = state.accounts.create_many(count, &hex::encode(password)).await?;
    if points > 0 {
        for part in made.chunks(GRANT_BATCH) {
            let ids: Vec<UserId> = part.iter().map(|(id, _)| *id).collect();
            grant(state, ids, Money(points)).await?;
        }
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for (id, token) in &made {
        writeln!(out, "{}", json!({"user_id": id, "access_token": token}))?;
    }
    out.flush().context("cannot write")
}

/// Gives points from the house.
pub(super) async fn grant(state: &State, users: Vec<UserId>, points: Money) -> anyhow::Result<()> {
    state
        .db
        .in_tx("points.grant", (users, points), |conn, (users, points)| {
            Box::pin(ledger::grant_many(conn, users, *points))
        })
        .await?;
    Ok(())
}

/// Makes an operator whose password comes from standard input, and prints a JSON line.
///
/// # Errors
/// Where the address is taken, the password is too short, or the database fails.
pub async fn operator(state: &State, email: &str) -> anyhow::Result<()> {
    let mut password = String::new();
    std::io::stdin().read_line(&mut password).context("no password on standard input")?;
    state.db.align_clock().await?;
    let password = Secret::new(password.trim_end_matches(['\r', '\n']));
    let (id, token) = state.accounts.create_operator(email, password).await?;
    println!("{}", json!({"user_id": id, "access_token": token}));
    Ok(())
}
