//! A hall in which every other seat is taken, and requests that are refused for it.

use anyhow::Context as _;
use frontrow::app::state::State;
use frontrow::booking::holds::HoldId;
use serde_json::json;
use sqlx::MySqlPool;

use super::halls::Hall;

/// Held for ever, so that no hold ends while anything is measured.
const TAKE: &str =
    "UPDATE seats SET hold_id = ?, held_until = '9999-12-31' WHERE performance_id = ? AND seat_no % 2 = 0";

/// So many requests for two seats of which one is taken, each by another buyer, as lines of values.
pub(super) async fn make(state: &State, sql: &MySqlPool, hall: &Hall, count: u32) -> anyhow::Result<Vec<String>> {
    sqlx::query(TAKE).bind(HoldId::new()).bind(hall.performance).execute(sql).await?;
    hall.make_filter(state, 1).await?;
    let people = state.accounts.create_many(count, "bench: nobody signs in with it").await?;
    let buyers = hall.admit(state, sql, people.iter().map(|(user, _)| *user)).await?;
    let pairs = hall.map.seats_total() / 2;
    let line = |(number, ((_, token), buyer)): (u32, (&(_, String), &super::halls::Buyer))| {
        // Spread over the hall, and in no order that a cache could follow.
        let seat = 2 * (number.wrapping_mul(7919) % pairs);
        let seats = [seat, seat + 1].map(|seat| hall.map.seat(seat).map(|seat| seat.label.clone()));
        let [Some(taken), Some(free)] = seats else { return None };
        let body = json!({"seat_ids": [taken, free]});
        Some(format!("{token}\tQueue-Pass: {}\tContent-Type: application/json\t{body}", buyer.sealed))
    };
    let lines: Option<Vec<String>> = (0..).zip(people.iter().zip(&buyers)).map(line).collect();
    lines.context("no such seat")
}
