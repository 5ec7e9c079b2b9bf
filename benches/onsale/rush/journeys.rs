//! Whole journeys: join, be called, claim, hold the best two seats, pay.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use frontrow::accounts::UserId;
use frontrow::app::state::State;
use frontrow::booking::holds::{Asked, HoldId, Request};
use frontrow::platform::http::keyed::RequestKey;
use serde_json::Value;
use sqlx::MySqlPool;

use super::Travelled;
use super::buyers::number;
use super::halls::Hall;
use super::till;

/// How often somebody who waits asks whether it is their turn.
const PAUSE: Duration = Duration::from_millis(50);

/// Has so many at once go the whole way, for so long. Journeys that have begun by then are ended, and count.
pub(super) async fn run(
    state: State,
    sql: &MySqlPool,
    hall: Hall,
    (at_once, millis): (usize, u64),
) -> anyhow::Result<Travelled> {
    let users: Vec<UserId> =
        std::iter::repeat_with(UserId::new).take(usize::try_from(hall.map.seats_total() / 2)?).collect();
    till::endow(sql, &users).await?;
    let (hall, users, next) = (Arc::new(hall), Arc::new(users), Arc::new(AtomicUsize::new(0)));
    let started = Instant::now();
    let until = started + Duration::from_millis(millis);
    let travel = || {
        let (state, hall, users, next) = (state.clone(), hall.clone(), users.clone(), next.clone());
        tokio::spawn(async move {
            let mut micros = Vec::new();
            while Instant::now() < until {
                let user = users.get(next.fetch_add(1, Ordering::Relaxed)).context("everybody has travelled")?;
                let started = Instant::now();
                journey(&state, &hall, *user).await?;
                micros.push(u64::try_from(started.elapsed().as_micros())?);
            }
            anyhow::Ok(micros)
        })
    };
    let tasks: Vec<_> = (0..at_once).map(|_| travel()).collect();
    let mut micros = Vec::new();
    for task in tasks {
        micros.extend(task.await??);
    }
    let secs = started.elapsed().as_secs_f64();
    micros.sort_unstable();
    ensure!(!micros.is_empty(), "nobody came to the end");
    let half = micros[micros.len() / 2];
    Ok(Travelled { journeys: number(micros.len() as u64), secs, p50_micros: number(half) })
}

async fn journey(state: &State, hall: &Hall, user: UserId) -> anyhow::Result<()> {
    let (ticket, ..) = state.queue.join(hall.concert, user, None).await?;
    let pass = loop {
        match state.queue.claim(hall.concert, user, Some(&ticket)).await {
            Ok((pass, _)) => break pass,
            Err(problem) if problem.code().code == "not_called" => tokio::time::sleep(PAUSE).await,
            Err(problem) => return Err(problem.into()),
        }
    };
    let seats = Asked::Best { quantity: 2, grade: None };
    let request = Request { user, performance: hall.performance, pass: Some(pass), seats };
    let key = |name: &str| RequestKey { key: Some(format!("{name} {}", user.0)), fingerprint: [7; 32] };
    let held = Box::pin(state.holds.hold(request, key("hold"))).await?;
    let held: Value = serde_json::from_slice(&held.body)?;
    let hold: HoldId = held["id"].as_str().context("a hold without an id")?.parse().map_err(anyhow::Error::msg)?;
    state.checkout.pay_with_points(user, hold, key("pay")).await?;
    Ok(())
}
