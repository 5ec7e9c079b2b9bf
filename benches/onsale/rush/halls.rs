//! Halls with buyers who may book in them, and putting everything back.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use frontrow::accounts::UserId;
use frontrow::app::state::State;
use frontrow::booking::seats::filter::{self, Claimed};
use frontrow::catalog::{ConcertId, PerformanceId, SeatMap, demo};
use frontrow::platform::config::Secret;
use frontrow::platform::db::rows;
use frontrow::platform::http::keyed::RequestKey;
use frontrow::platform::redis::Script;
use frontrow::queue::pass::{Pass, PassId, Passes};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor as _, MySqlPool};

use super::bare::LIMIT;

/// Of a large hall.
const ROW_SEATS: u32 = 50;
const SECTION_ROWS: u32 = 20;
/// Rows of one INSERT.
const PASSES_AT_ONCE: usize = 500;
/// How long passes live, and the sale is open.
const OPEN: Duration = Duration::from_hours(4);
/// Longest wait for a new filter.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

const INSERT_PASSES: &str = "INSERT INTO queue_passes \
     (id, concert_id, user_id, arrival, place_rank, is_live, expires_at, created_at) VALUES (?, ?, ?, ?, ?, 1, ?, ?)";
const COUNT_HOLDS: &str = "SELECT COUNT(*) FROM holds WHERE performance_id = ? AND state = 0";
const COUNT_HOLD_SEATS: &str = "SELECT COUNT(*), COUNT(DISTINCT hs.seat_no) FROM holds AS h \
     JOIN hold_seats AS hs ON hs.hold_id = h.id WHERE h.performance_id = ? AND h.state = 0";
const COUNT_HELD: &str = "SELECT COUNT(*) FROM seats AS s \
     JOIN hold_seats AS hs ON hs.hold_id = s.hold_id AND hs.seat_no = s.seat_no WHERE s.performance_id = ?";
/// The keys stand in the way of emptying the tables at once.
const EMPTY: &[&str] = &[
    "SET SESSION foreign_key_checks = 0",
    "TRUNCATE TABLE hold_seats",
    "TRUNCATE TABLE holds",
    "SET SESSION foreign_key_checks = 1",
];
const FREE: &str =
    "UPDATE seats SET hold_id = NULL, held_until = NULL WHERE performance_id = ? AND hold_id IS NOT NULL";

/// Forgets a filter.
static FORGET: LazyLock<Script> =
    LazyLock::new(|| Script::new("bench.forget", "return redis.call('DEL', unpack(KEYS))"));

/// Someone with a live pass.
#[derive(Clone, Debug)]
pub(super) struct Buyer {
    pub user: UserId,
    pub pass: PassId,
    /// The pass as its buyer holds it.
    pub sealed: String,
}

/// A performance that is on sale.
#[derive(Clone, Debug)]
pub(super) struct Hall {
    pub concert: ConcertId,
    pub performance: PerformanceId,
    pub map: Arc<SeatMap>,
    pub buyers: Vec<Buyer>,
}

impl Hall {
    /// A new one, made as an operator makes it; its line admits so many a second.
    pub(super) async fn make(state: &State, operator: UserId, seats: u32, admits: u32) -> anyhow::Result<Self> {
        let (sections, grades) = layout(seats);
        let no_key = RequestKey { key: None, fingerprint: [0; 32] };
        let venue = json!({"name": "Bench Hall", "city": "Busan", "sections": sections});
        let made = state.catalog.create_venue(operator, no_key.clone(), serde_json::from_value(venue)?).await?;
        let venue: Value = serde_json::from_slice(&made.body)?;
        let now = state.clock.now();
        let concert = json!({
            "title": "Bench Live", "artist": "The Stopwatches", "venue_id": venue["id"],
            "booking_opens_at": now.minus(Duration::from_secs(1)), "booking_closes_at": now.plus(OPEN),
            "seat_limit_per_buyer": LIMIT, "grades": grades,
            "performances": [{"starts_at": now.plus(6 * OPEN)}],
            "queue": {"admit_per_second": admits, "max_active": 100_000, "claim_secs": 60, "session_secs": OPEN.as_secs()},
        });
        let made = state.catalog.create_concert(operator, no_key, serde_json::from_value(concert)?).await?;
        let made: Value = serde_json::from_slice(&made.body)?;
        let id = |value: &Value| value.as_str().context("no id").map(str::to_owned);
        let concert = id(&made["id"])?.parse().map_err(anyhow::Error::msg)?;
        let performance = id(&made["performances"][0]["id"])?.parse().map_err(anyhow::Error::msg)?;
        let map = state.catalog.reader().get_seat_map(performance).await?;
        Ok(Self { concert, performance, map, buyers: Vec::new() })
    }

    /// Gives these people live passes.
    pub(super) async fn admit(
        &self,
        state: &State,
        sql: &MySqlPool,
        users: impl Iterator<Item = UserId>,
    ) -> anyhow::Result<Vec<Buyer>> {
        let passes = Passes::new(&frontrow::platform::token::KeyRing::parse(&state.config.secrets.token_keys)?);
        let (now, arrived) = (state.clock.now(), self.buyers.len() as u64);
        let expires_at = now.plus(OPEN);
        let made: Vec<Pass> = (arrived..)
            .zip(users)
            .map(|(arrival, user)| Pass { id: PassId::new(), concert: self.concert, user, arrival, expires_at })
            .collect();
        for part in made.chunks(PASSES_AT_ONCE) {
            let mut insert = sqlx::query(AssertSqlSafe(rows(INSERT_PASSES, part.len())));
            for pass in part {
                insert = insert.bind(pass.id).bind(pass.concert).bind(pass.user).bind(pass.arrival).bind(pass.arrival);
                insert = insert.bind(expires_at).bind(now);
            }
            insert.persistent(false).execute(sql).await?;
        }
        Ok(made.iter().map(|pass| Buyer { user: pass.user, pass: pass.id, sealed: passes.seal(pass) }).collect())
    }

    /// Looks whether the tables have so many holds of so many seats each, and no seat twice.
    pub(super) async fn check(&self, sql: &MySqlPool, holds: u64, seats_each: u32) -> anyhow::Result<()> {
        let (holds, id) = (i64::try_from(holds)?, self.performance);
        let found: i64 = sqlx::query_scalar(COUNT_HOLDS).bind(id).fetch_one(sql).await?;
        ensure!(found == holds, "{holds} holds were made, but there are {found}");
        let (seats, different): (i64, i64) = sqlx::query_as(COUNT_HOLD_SEATS).bind(id).fetch_one(sql).await?;
        ensure!(
            seats == i64::from(seats_each) * holds && different == seats,
            "{holds} holds have {seats} seats, {different} different ones"
        );
        let held: i64 = sqlx::query_scalar(COUNT_HELD).bind(id).fetch_one(sql).await?;
        ensure!(held == seats, "{seats} seats are of holds, but {held} are held by them");
        Ok(())
    }

    /// Frees every seat, forgets all holds there are, and has the filter made anew.
    pub(super) async fn clear(&self, state: &State, sql: &MySqlPool) -> anyhow::Result<()> {
        let mut conn = sql.acquire().await?;
        for statement in EMPTY {
            conn.execute(*statement).await?;
        }
        sqlx::query(FREE).bind(self.performance).execute(&mut *conn).await?;
        self.make_filter(state, 0).await
    }

    /// Has the filter made anew, and waits for it. `free` is a seat that is free.
    pub(super) async fn make_filter(&self, state: &State, free: u32) -> anyhow::Result<()> {
        let key = |part| state.redis.key(&format!("seats:{{sale:{}}}:{}:{part}", self.concert, self.performance));
        let keys = ["head", "taken", "sold", "ends"].map(key).to_vec();
        let _: i64 = state.redis.run(&FORGET, keys, Vec::new()).await?;
        let concert = state.catalog.reader().get_concert(self.concert).await?;
        let hall = filter::Hall::of(&concert, self.performance).context("no such performance")?;
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            match state.filter.claim(hall, &[free]).await {
                Claimed::Granted(claim) => {
                    state.filter.give_back(&claim).await;
                    return Ok(());
                }
                Claimed::Refused { .. } => bail!("seat {free} is taken"),
                Claimed::Unknown => tokio::time::sleep(PAUSE).await,
            }
        }
        bail!("the filter is not made")
    }
}

/// Sections and grades: the demonstration's club and arena, or a stadium.
fn layout(seats: u32) -> (Value, Value) {
    match seats {
        demo::CLUB_SEATS => (json!(demo::club_layout()), json!(demo::club_grades())),
        demo::ARENA_SEATS => (json!(demo::arena_layout()), json!(demo::arena_grades())),
        _ => {
            let section_seats = ROW_SEATS * SECTION_ROWS;
            let rows: Vec<Value> =
                (1..=SECTION_ROWS).map(|row| json!({"name": row.to_string(), "seats": ROW_SEATS})).collect();
            let codes: Vec<String> = (0..seats.div_ceil(section_seats)).map(|code| (101 + code).to_string()).collect();
            let sections: Vec<Value> =
                codes.iter().map(|code| json!({"code": code, "name": "Stand", "rows": rows})).collect();
            (json!(sections), json!([{"code": "R", "name": "R", "price": 10_000, "sections": codes}]))
        }
    }
}

/// The operator who makes halls.
pub(super) async fn operator(state: &State) -> anyhow::Result<UserId> {
    let password = Secret::new("bench: nobody signs in with it");
    Ok(state.accounts.create_operator("halls@example.com", password).await?.0)
}
