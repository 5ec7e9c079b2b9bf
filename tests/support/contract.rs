//! The operations that `/openapi.json` describes, and a site on which each of them has something to work with.
//!
//! Tests that go through all operations take them from here, so that a new one cannot be forgotten: one that these
//! tables do not know fails whoever asks for its address or its body.

use std::collections::VecDeque;
use std::sync::Mutex;

use reqwest::Method;
use serde_json::{Value, json};

use super::arena::{Plan, text};
use super::{Api, Buyer, Call, Instance, Reply, Sale, World, eventually};

/// Looks like the token in a mail, and is none.
const NO_TOKEN: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// One operation of the document.
#[derive(Clone, Debug)]
pub struct Operation {
    pub method: Method,
    pub path: String,
    description: Value,
}

/// Every operation of the document that an instance serves.
pub async fn operations(api: &Api) -> Vec<Operation> {
    let document = api.get("/openapi.json").send().await.expect(200);
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let description = &item[method.as_str().to_lowercase()];
            if description.is_object() {
                found.push(Operation { method, path: path.clone(), description: description.clone() });
            }
        }
    }
    found
}

impl Operation {
    /// `GET /v1/concerts/{id}`.
    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// Whether a client of ours sends it a body. What the payment provider sends is not looked at unless the provider has
    /// signed it.
    pub fn takes_body(&self) -> bool {
        self.description["requestBody"].is_object() && !self.takes("Stripe-Signature")
    }

    pub fn takes_id(&self) -> bool {
        self.path.contains("{id}")
    }

    /// The description of a parameter; null where there is none of that name.
    pub fn parameter(&self, name: &str) -> &Value {
        let parameters = self.description["parameters"].as_array().expect("parameters");
        parameters.iter().find(|parameter| parameter["name"] == name).unwrap_or(&Value::Null)
    }

    pub fn takes(&self, parameter: &str) -> bool {
        self.parameter(parameter).is_object()
    }

    /// Whether only somebody who is signed in may call it.
    pub fn is_signed_in(&self) -> bool {
        self.description["security"].is_array()
    }

    /// Whether only operators may call it.
    pub fn is_operators(&self) -> bool {
        self.description["tags"][0] == "operator"
    }

    /// Whether it ends the token that it is called with.
    pub fn ends_session(&self) -> bool {
        matches!(self.name().as_str(), "DELETE /v1/me" | "DELETE /v1/sessions/current")
    }

    /// Whether buyers of the concert cannot do afterwards what they could before, or it is about an operation of that kind.
    pub fn stops_others(&self) -> bool {
        matches!(
            self.name().as_str(),
            "POST /v1/admin/concerts/{id}/stop"
                | "POST /v1/admin/concerts/{id}/resume"
                | "DELETE /v1/admin/concerts/{id}/queue/passes"
                | "POST /v1/admin/concerts/{id}/cancellation"
                | "GET /v1/admin/concerts/{id}/cancellation"
                | "POST /v1/admin/reservations/{id}/refund"
                | "POST /v1/admin/tickets/{code}/check-in"
        )
    }

    pub fn documents(&self, status: u16) -> bool {
        self.description["responses"][status.to_string()].is_object()
    }

    /// Asserts that an answer is one that the document promises: its status, its type, and the members of a problem.
    #[track_caller]
    pub fn assert_documented(&self, reply: &Reply, sent: &str) {
        let (name, body) = (self.name(), String::from_utf8_lossy(&reply.bytes));
        assert!(reply.status < 500, "{name} answered {} to {sent}: {body}", reply.status);
        assert!(self.documents(reply.status), "{name} does not say that it answers {} to {sent}: {body}", reply.status);
        if reply.status >= 400 {
            let code = reply.body["code"].as_str().unwrap_or_default().to_owned();
            assert!(!code.is_empty(), "{name} answered no problem to {sent}: {body}");
            reply.clone().expect_problem(reply.status, &code);
        }
    }

    /// Asserts a documented refusal of this status and code.
    #[track_caller]
    pub fn assert_refused(&self, reply: &Reply, status: u16, code: &str, sent: &str) {
        self.assert_documented(reply, sent);
        let found = (reply.status, reply.body["code"].as_str());
        assert_eq!(found, (status, Some(code)), "{} to {sent}: {}", self.name(), reply.body);
    }
}

/// Every byte of it, as an address may hold it.
pub fn percent_encoded(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| ['%', hex_digit(byte >> 4), hex_digit(byte & 15)]).collect()
}

fn hex_digit(value: u8) -> char {
    char::from(b"0123456789ABCDEF"[usize::from(value)])
}

/// A sale with an owner who has one of everything, and somebody else.
pub struct Site {
    pub world: World,
    pub instance: Instance,
    pub api: Api,
    pub sale: Sale,
    /// Has the ticket, the pass, the charge, the hold and the reservation.
    pub owner: Buyer,
    pub other: Buyer,
    pub ticket: String,
    pub pass: String,
    /// Of points.
    pub charge: String,
    /// Not paid.
    pub hold: String,
    pub reservation: String,
    /// Of a seat of it.
    pub ticket_code: String,
    /// Somebody else's reservation, for what the owner must not lose, with the code of its one ticket.
    foreign: (String, String),
    /// Subscribed to what does not happen here.
    pub webhook: String,
    /// For what would take from the owner what the other operations need.
    elsewhere: Sale,
    /// Buyers whose sessions may be ended.
    spare: Mutex<VecDeque<Buyer>>,
}

impl Site {
    pub async fn new() -> Self {
        Self::in_world(World::new().await).await
    }

    pub async fn in_world(world: World) -> Self {
        let instance = world.instance().await;
        let api = Api::over(&[&instance]);
        let sale = Sale::new(&api, &instance, &Plan { limit: 20, ..Plan::default() }).await;
        let elsewhere = Sale::made_by(&api, sale.operator.clone(), instance.state.clock.now(), &Plan::default()).await;
        let (owner, other) = (Buyer::new(&api).await, Buyer::new(&api).await);
        let charge = owner.charge(&api, 1_000_000).await;
        let pass = owner.enter(&api, &sale).await;
        let paid = owner.hold(&api, &sale.performances[0], &pass, &["A-1-1"]).await;
        let paid = owner.try_pay(&api, &paid, "paid").await.expect(201);
        let (reservation, ticket_code) = (text(&paid["id"]), text(&paid["seats"][0]["ticket_code"]));
        let foreign = Self::somebodys(&api, &elsewhere).await;
        // Paying has ended the first stay; the line learns it a moment later.
        let ticket = eventually("a new place", || async {
            let joined = api.post(&format!("/v1/concerts/{}/queue/tickets", sale.concert)).bearer(&owner.token);
            let joined = joined.send().await;
            (joined.status == 201).then(|| text(&joined.body["ticket"]))
        })
        .await;
        let pass = owner.claim(&api, &sale, &ticket).await;
        let hold = owner.hold(&api, &sale.performances[0], &pass, &["A-1-2"]).await;
        let body = json!({"url": "https://hooks.example.com/", "topics": ["reservation.cancelled"]});
        let webhook = api.post("/v1/admin/webhooks").bearer(&sale.operator).json(&body).send().await.expect(201);
        let webhook = text(&webhook["id"]);
        let spare = Mutex::new(Buyer::many(&instance.state, 400).await.into());
        Self {
            world,
            instance,
            api,
            sale,
            owner,
            other,
            ticket,
            pass,
            charge,
            hold,
            reservation,
            ticket_code,
            foreign,
            webhook,
            elsewhere,
            spare,
        }
    }

    /// A reservation of somebody's, and the code of its ticket.
    async fn somebodys(api: &Api, sale: &Sale) -> (String, String) {
        let buyer = Buyer::new(api).await;
        buyer.charge(api, 100_000).await;
        let pass = buyer.enter(api, sale).await;
        let hold = buyer.hold(api, &sale.performances[0], &pass, &["A-1-1"]).await;
        let paid = buyer.try_pay(api, &hold, "paid").await.expect(201);
        (text(&paid["id"]), text(&paid["seats"][0]["ticket_code"]))
    }

    pub async fn end(self) {
        self.world.assert_clean(&self.instance).await;
        self.world.end(vec![self.instance]).await;
    }

    /// An id for the path that exists and is the owner's.
    pub fn id(&self, operation: &Operation) -> &str {
        let (path, name) = (operation.path.trim_start_matches("/v1/").trim_start_matches("admin/"), operation.name());
        match path.split('/').next() {
            Some("concerts") if operation.stops_others() => &self.elsewhere.concert,
            Some("concerts") => &self.sale.concert,
            Some("performances") => &self.sale.performances[0],
            Some("holds") => &self.hold,
            Some("reservations") if operation.stops_others() => &self.foreign.0,
            Some("reservations") => &self.reservation,
            Some("webhooks") => &self.webhook,
            Some("me") => &self.charge,
            _ => panic!("{name} takes an id of what this site does not have: add it here"),
        }
    }

    /// The operation's address, with what exists in place of its parameters.
    pub fn path(&self, operation: &Operation) -> String {
        if operation.takes_id() { self.path_with(operation, self.id(operation)) } else { self.path_with(operation, "") }
    }

    /// The same with this id.
    pub fn path_with(&self, operation: &Operation, id: &str) -> String {
        let code = if operation.stops_others() { &self.foreign.1 } else { "not_found" };
        let path = operation.path.replace("{code}", code).replace("{id}", id).replace("{token}", NO_TOKEN);
        let path = path.replace("{picture}", &format!("{}.svg", self.ticket_code));
        assert!(!path.contains('{'), "{} has a parameter that this site does not know: add it here", operation.name());
        path
    }

    /// A body of the documented shape; a new operation's is added here.
    pub fn body(&self, operation: &Operation) -> Option<Value> {
        if !operation.takes_body() {
            return None;
        }
        let email = format!("{}@example.com", uuid::Uuid::new_v4());
        let section = json!({"code": "A", "name": "Hall", "rows": [{"name": "1", "seats": 2}]});
        Some(match operation.name().as_str() {
            "POST /v1/users" => json!({"email": email, "password": "a long enough one", "name": "A Buyer"}),
            "POST /v1/sessions" => json!({"email": email, "password": "a long enough one"}),
            "POST /v1/users/verifications" => json!({"token": NO_TOKEN}),
            "POST /v1/password-resets" => json!({"email": email}),
            "PUT /v1/password-resets/{token}" => json!({"password": "a long enough one"}),
            "POST /v1/admin/webhooks" => {
                json!({"url": format!("https://hooks.example.com/{email}"), "topics": ["reservation.cancelled"]})
            }
            "POST /v1/me/points/charges" => json!({"amount": 1, "card_token": null}),
            "POST /v1/performances/{id}/holds" => json!({"seat_ids": ["A-2-1"]}),
            "POST /v1/holds/{id}/payment" => json!({"method": "points", "coupon_id": null}),
            "POST /v1/admin/venues" => json!({"name": "Hall", "city": "Busan", "sections": [section]}),
            "POST /v1/admin/concerts" => json!({
                "title": "A Concert", "artist": "A Band", "description": "Loud.", "venue_id": self.sale.venue,
                "booking_opens_at": "2030-01-01T00:00:00Z", "booking_closes_at": "2030-02-01T00:00:00Z",
                "seat_limit_per_buyer": 4,
                "grades": [{"code": "R", "name": "Regular", "price": 1000, "sections": ["A"]}],
                "performances": [{"starts_at": "2030-03-01T00:00:00Z"}],
                "queue": {"order": "fifo", "lobby_opens_at": null, "admit_per_second": 1, "max_active": 1,
                    "claim_secs": 60, "session_secs": 60},
            }),
            "PATCH /v1/admin/concerts/{id}" => json!({"title": "Another", "seat_limit_per_buyer": 20}),
            "PATCH /v1/admin/concerts/{id}/queue" => {
                json!({"paused": false, "max_active": 1000, "claim_secs": 3600, "joins_closed": false})
            }
            "POST /v1/admin/performances/{id}/blocks" | "DELETE /v1/admin/performances/{id}/blocks" => {
                json!({"seat_ids": ["A-2-9"]})
            }
            "POST /v1/admin/performances/{id}/postponement" => json!({"starts_at": "2099-01-01T00:00:00Z"}),
            name => panic!("{name} takes a body that this site does not know: add it here"),
        })
    }

    /// Somebody who may call it.
    pub fn token(&self, operation: &Operation) -> String {
        if operation.ends_session() {
            return self.spare.lock().expect("no panic").pop_front().expect("spare buyers").token;
        }
        if operation.is_operators() { self.sale.operator.clone() } else { self.owner.token.clone() }
    }

    /// A call with everything that it needs, but for its body.
    pub fn call(&self, operation: &Operation) -> Call<'_> {
        self.call_at(operation, &self.path(operation), &[])
    }

    /// The same at another address, and without these headers.
    pub fn call_at(&self, operation: &Operation, path: &str, without: &[&str]) -> Call<'_> {
        let mut call = self.api.call(operation.method.clone(), path);
        if operation.is_signed_in() && !without.contains(&"Authorization") {
            call = call.bearer(&self.token(operation));
        }
        let fresh = uuid::Uuid::new_v4().to_string();
        for (name, value) in [("Queue-Ticket", &self.ticket), ("Queue-Pass", &self.pass), ("Idempotency-Key", &fresh)] {
            if operation.takes(name) && !without.contains(&name) {
                call = call.header(name, value);
            }
        }
        call
    }
}
