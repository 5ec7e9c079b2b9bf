//! The demonstration: an arena concert that is open, a club concert that opens soon, an operator and buyers.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::seed::grant;
use super::state::State;
use crate::accounts::UserId;
use crate::accounts::domain::EMAIL_TAKEN;
use crate::accounts::service::Registration;
use crate::catalog::demo;
use crate::platform::config::Secret;
use crate::platform::http::keyed::RequestKey;
use crate::platform::money::Money;

/// The password of every demonstration account.
pub(super) const PASSWORD: &str = "frontrow-dev";
/// The demonstration's operator.
pub(super) const OPERATOR: &str = "operator@example.com";
const BUYERS: u32 = 5;
const POINTS: Money = Money(1_000_000);
const ARENA_TITLE: &str = "Nine Lanterns: the arena night";
/// When the club concert opens, after the start.
const CLUB_OPENS_AFTER: Duration = Duration::from_mins(3);
const DAY: Duration = Duration::from_hours(24);

/// What was made or found.
#[derive(Debug)]
pub(super) struct Demonstration {
    pub arena: String,
    pub club: String,
    pub buyers: Vec<String>,
    pub buyer_token: String,
}

/// Makes the demonstration. Accounts and an arena concert that is still open are found again; the club
/// concert is a new one each time.
pub(super) async fn prepare(state: &State) -> anyhow::Result<Demonstration> {
    let operator = operator(state).await?;
    let mut buyers = Vec::new();
    for number in 1..=BUYERS {
        buyers.push(buyer(state, number).await?);
    }
    let now = state.clock.now();
    let arena = if let Some(id) = open_arena(state).await? {
        id
    } else {
        let concert = json!({
            "title": ARENA_TITLE, "artist": "Nine Lanterns",
            "description": "The whole arena, in the round. Doors open an hour before.",
            "booking_opens_at": now.minus(Duration::from_mins(1)), "booking_closes_at": now.plus(30 * DAY),
            "seat_limit_per_buyer": 4, "grades": demo::arena_grades(),
            "performances": [{"starts_at": now.plus(31 * DAY)}, {"starts_at": now.plus(32 * DAY)}],
            "queue": {"admit_per_second": 50, "max_active": 500, "claim_secs": 60, "session_secs": 600},
        });
        concert_of(state, operator, "Harbour Arena", json!(demo::arena_layout()), concert).await?
    };
    let club = json!({
        "title": "Paper Boats: fifty seats", "artist": "Paper Boats",
        "description": "A small room. It opens three minutes after this server was started.",
        "booking_opens_at": now.plus(CLUB_OPENS_AFTER), "booking_closes_at": now.plus(7 * DAY),
        "seat_limit_per_buyer": 2, "grades": demo::club_grades(), "performances": [{"starts_at": now.plus(8 * DAY)}],
        "queue": {"admit_per_second": 5, "max_active": 20, "claim_secs": 30, "session_secs": 300,
            "lobby_opens_at": now.plus(CLUB_OPENS_AFTER / 3)},
    });
    let club = concert_of(state, operator, "The Cellar", json!(demo::club_layout()), club).await?;
    let buyer_token = state.accounts.log_in(&buyers[0], Secret::new(PASSWORD)).await?.access_token.expose().to_owned();
    Ok(Demonstration { arena, club, buyers, buyer_token })
}

async fn operator(state: &State) -> anyhow::Result<UserId> {
    match state.accounts.create_operator(OPERATOR, Secret::new(PASSWORD)).await {
        Ok((id, _)) => Ok(id),
        Err(problem) if problem.code() == &EMAIL_TAKEN => {
            Ok(state.accounts.log_in(OPERATOR, Secret::new(PASSWORD)).await?.user.id)
        }
        Err(problem) => Err(problem.into()),
    }
}

async fn buyer(state: &State, number: u32) -> anyhow::Result<String> {
    let email = format!("buyer{number}@example.com");
    let registration =
        Registration { email: email.clone(), name: format!("Buyer {number}"), password: Secret::new(PASSWORD) };
    match state.accounts.register(registration).await {
        Ok(user) => grant(state, vec![user.id], POINTS).await?,
        Err(problem) if problem.code() == &EMAIL_TAKEN => {}
        Err(problem) => return Err(problem.into()),
    }
    Ok(email)
}

/// The id of the arena concert of an earlier start, if it can still be booked for a day.
async fn open_arena(state: &State) -> anyhow::Result<Option<String>> {
    let reader = state.catalog.reader();
    for sale in reader.list_live_sales(state.clock.now(), Duration::ZERO, 100).await? {
        let concert = reader.get_concert(sale.concert_id).await?;
        if concert.title == ARENA_TITLE && sale.hours.booking_closes_at > state.clock.now().plus(DAY) {
            return Ok(Some(sale.concert_id.to_string()));
        }
    }
    Ok(None)
}

/// Makes a venue and a concert in it, the way an operator does.
async fn concert_of(
    state: &State,
    operator: UserId,
    venue: &str,
    sections: Value,
    mut concert: Value,
) -> anyhow::Result<String> {
    let no_key = RequestKey { key: None, fingerprint: [0; 32] };
    let venue = serde_json::from_value(json!({"name": venue, "city": "Busan", "sections": sections}))?;
    let made = state.catalog.create_venue(operator, no_key.clone(), venue).await?;
    let made: Value = serde_json::from_slice(&made.body)?;
    concert["venue_id"] = made["id"].clone();
    let made = state.catalog.create_concert(operator, no_key, serde_json::from_value(concert)?).await?;
    let made: Value = serde_json::from_slice(&made.body)?;
    made["id"].as_str().map(str::to_owned).context("a concert without an id")
}
