//! Operators, concerts and buyers, made over the API the way people make them.

use std::time::Duration;

use frontrow::accounts::UserId;
use frontrow::app::state::State;
use frontrow::platform::clock::Timestamp;
use frontrow::platform::config::Secret;
use frontrow::platform::money::Money;
use frontrow::points::ledger;
use serde_json::{Value, json};

use super::{Api, Instance, eventually};

/// A concert on sale.
#[derive(Clone, Debug)]
pub struct Sale {
    /// The operator's access token.
    pub operator: String,
    /// The venue's id.
    pub venue: String,
    /// The concert's id.
    pub concert: String,
    /// Its performances' ids.
    pub performances: Vec<String>,
}

/// What a test's concert is like.
#[derive(Clone, Debug)]
pub struct Plan {
    pub sections: Value,
    pub price: i64,
    pub limit: u32,
    pub performances: u32,
    /// When booking opens, from now; negative is in the past.
    pub opens_in_secs: i64,
    pub queue: Value,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            sections: json!([{"code": "A", "name": "Hall", "rows": [{"name": "1", "seats": 10}, {"name": "2", "seats": 10}]}]),
            price: 10_000,
            limit: 4,
            performances: 1,
            opens_in_secs: -1,
            queue: json!({"admit_per_second": 1000, "max_active": 1000, "claim_secs": 60, "session_secs": 600}),
        }
    }
}

/// Somebody with a token.
#[derive(Clone, Debug)]
pub struct Buyer {
    pub id: String,
    pub token: String,
}

impl Buyer {
    /// Registers and signs in over the API.
    pub async fn new(api: &Api) -> Self {
        let email = format!("{}@example.com", uuid::Uuid::new_v4());
        let body = json!({"email": email, "password": "a long enough one", "name": "A Buyer"});
        api.post("/v1/users").json(&body).send().await.expect(201);
        let session = json!({"email": email, "password": "a long enough one"});
        let session = api.post("/v1/sessions").json(&session).send().await.expect(201);
        Self { id: text(&session["user"]["id"]), token: text(&session["access_token"]) }
    }

    /// Makes many at once, without hashing a password for each.
    pub async fn many(state: &State, count: u32) -> Vec<Self> {
        let made = state.accounts.create_many(count, "a long enough one").await.expect("buyers");
        made.into_iter().map(|(id, token)| Self { id: id.to_string(), token }).collect()
    }

    /// Gives each of them points, at once.
    pub async fn endow(state: &State, buyers: &[Self], points: i64) {
        let users: Vec<UserId> = buyers.iter().map(|buyer| UserId(buyer.id.parse().expect("an id"))).collect();
        let grant = state.db.in_tx("points.grant", (users, Money(points)), |conn, (users, points)| {
            Box::pin(ledger::grant_many(conn, users, *points))
        });
        grant.await.expect("points");
    }

    /// Charges points without a card, and gives the charge.
    pub async fn charge(&self, api: &Api, amount: i64) -> String {
        let key = uuid::Uuid::new_v4().to_string();
        let call = api.post("/v1/me/points/charges").bearer(&self.token).key(&key);
        text(&call.json(&json!({"amount": amount})).send().await.expect(201)["id"])
    }

    /// Joins the line and gives the ticket. While a line is being made, it answers that it is not there yet.
    pub async fn join(&self, api: &Api, sale: &Sale) -> String {
        let path = format!("/v1/concerts/{}/queue/tickets", sale.concert);
        let reply = eventually("a place", || async {
            let reply = api.post(&path).bearer(&self.token).send().await;
            (reply.status != 503).then_some(reply)
        })
        .await;
        assert!(matches!(reply.status, 200 | 201), "{reply:?}");
        text(&reply.body["ticket"])
    }

    /// Joins, waits for the call, claims, and gives the pass.
    pub async fn enter(&self, api: &Api, sale: &Sale) -> String {
        let ticket = self.join(api, sale).await;
        self.claim(api, sale, &ticket).await
    }

    /// Waits for the call and claims.
    pub async fn claim(&self, api: &Api, sale: &Sale, ticket: &str) -> String {
        let path = format!("/v1/concerts/{}/queue/passes", sale.concert);
        eventually("the pass", || async {
            let reply = api.post(&path).bearer(&self.token).ticket(ticket).send().await;
            match reply.status {
                409 => drop(reply.expect_problem(409, "not_called")),
                503 => drop(reply.expect_problem(503, "unavailable")),
                _ => return Some(text(&reply.expect(201)["pass"])),
            }
            None
        })
        .await
    }

    /// Tries to hold seats.
    pub async fn try_hold(&self, api: &Api, performance: &str, pass: &str, seats: &[&str]) -> super::Reply {
        let call = api.post(&format!("/v1/performances/{performance}/holds")).bearer(&self.token).pass(pass);
        call.json(&json!({"seat_ids": seats})).send().await
    }

    /// Holds seats and gives the hold's id.
    pub async fn hold(&self, api: &Api, performance: &str, pass: &str, seats: &[&str]) -> String {
        text(&self.try_hold(api, performance, pass, seats).await.expect(201)["id"])
    }

    /// Tries to pay a hold with points.
    pub async fn try_pay(&self, api: &Api, hold: &str, key: &str) -> super::Reply {
        let call = api.post(&format!("/v1/holds/{hold}/payment")).bearer(&self.token).key(key);
        call.json(&json!({"method": "points"})).send().await
    }
}

impl Sale {
    /// A concert as planned, made by an operator of its own.
    pub async fn new(api: &Api, instance: &Instance, plan: &Plan) -> Self {
        Self::made_with(api, &instance.state, plan).await
    }

    /// The same, where the instances are processes.
    pub async fn made_with(api: &Api, state: &State, plan: &Plan) -> Self {
        let email = format!("operator-{}@example.com", uuid::Uuid::new_v4());
        let made = state.accounts.create_operator(&email, Secret::new("a long enough one")).await;
        let (_, operator) = made.expect("an operator");
        Self::made_by(api, operator, state.clock.now(), plan).await
    }

    /// A concert as planned, made by an operator who is there already.
    pub async fn made_by(api: &Api, operator: String, now: Timestamp, plan: &Plan) -> Self {
        let venue = json!({"name": "Hall", "city": "Busan", "sections": plan.sections});
        let venue = api.post("/v1/admin/venues").bearer(&operator).json(&venue).send().await.expect(201);
        let opens = match u64::try_from(plan.opens_in_secs) {
            Ok(secs) => now.plus(Duration::from_secs(secs)),
            Err(_) => now.minus(Duration::from_secs(plan.opens_in_secs.unsigned_abs())),
        };
        let day = Duration::from_hours(24);
        let codes: Vec<&Value> = plan.sections.as_array().expect("sections").iter().map(|s| &s["code"]).collect();
        let starts: Vec<Value> =
            (0..plan.performances).map(|n| json!({"starts_at": now.plus(day * (40 + n))})).collect();
        let concert = json!({
            "title": "A Concert", "artist": "A Band", "description": "Loud.", "venue_id": venue["id"],
            "booking_opens_at": opens, "booking_closes_at": now.plus(day * 30),
            "seat_limit_per_buyer": plan.limit,
            "grades": [{"code": "R", "name": "Regular", "price": plan.price, "sections": codes}],
            "performances": starts, "queue": plan.queue,
        });
        let made = api.post("/v1/admin/concerts").bearer(&operator).json(&concert).send().await.expect(201);
        let performances = made["performances"].as_array().expect("performances");
        let performances = performances.iter().map(|one| text(&one["id"])).collect();
        Self { operator, venue: text(&venue["id"]), concert: text(&made["id"]), performances }
    }
}

/// A JSON string's text.
#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a string, not {value}")).to_owned()
}
