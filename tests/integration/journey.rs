//! The whole way of a buyer, over two instances whose answers alternate, held against the contract.

use serde_json::{Value, json};

use crate::support::arena::{Plan, text};
use crate::support::{Api, Buyer, Instance, Sale, World, assert_members, eventually};

const CONCERT: &[&str] = &[
    "id",
    "title",
    "artist",
    "venue",
    "status",
    "booking_opens_at",
    "booking_closes_at",
    "first_performance_at",
    "price_from",
    "currency",
];
const PLACE: &[&str] = &["status", "arrival", "rank", "ahead", "eta_seconds", "poll_after_ms", "expires_at"];
const HOLD: &[&str] = &["id", "status", "performance_id", "seats", "amount", "currency", "expires_at"];

fn with<'a>(members: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [members, more].concat()
}

/// Rows that sum to 14,594 seats: 40 sections of 364 and a last one of 34.
fn arena() -> Value {
    let rows = |count: u32, seats: u32| -> Vec<Value> {
        (1..=count).map(|row| json!({"name": format!("R{row}"), "seats": seats})).collect()
    };
    let mut sections: Vec<Value> = (101..141)
        .map(|code| json!({"code": code.to_string(), "name": format!("Block {code}"), "rows": rows(14, 26)}))
        .collect();
    sections.push(json!({"code": "201", "name": "Boxes", "rows": rows(2, 17)}));
    Value::Array(sections)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buyer_goes_all_the_way() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let sale = Sale::new(&api, &one, &Plan { sections: arena(), limit: 4, ..Plan::default() }).await;

    let buyer = accounts(&api).await;
    catalogue(&api, &sale).await;
    let pass = line(&api, &sale, &buyer).await;
    let hold = seats_and_hold(&api, &sale, &buyer, &pass).await;
    points(&api, &buyer).await;
    payment(&api, &sale, &buyer, &hold).await;
    sign_out(&api, &one, &two, &buyer).await;

    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}

async fn accounts(api: &Api) -> Buyer {
    let email = format!("{}@example.com", uuid::Uuid::new_v4());
    let registration = json!({"email": email, "password": "a long enough one", "name": "Ada"});
    let user = api.post("/v1/users").json(&registration).send().await.expect(201);
    assert_members(&user, &["id", "email", "name", "role", "created_at", "verified_at"]);
    assert_eq!((user["email"].as_str(), user["role"].as_str()), (Some(email.as_str()), Some("buyer")));
    api.post("/v1/users").json(&registration).send().await.expect_problem(409, "email_taken");

    let wrong = json!({"email": email, "password": "another long one"});
    api.post("/v1/sessions").json(&wrong).send().await.expect_problem(401, "bad_credentials");
    let right = json!({"email": email, "password": "a long enough one"});
    let session = api.post("/v1/sessions").json(&right).send().await.expect(201);
    assert_members(&session, &["access_token", "token_type", "expires_at", "user"]);
    assert_eq!(session["token_type"], "Bearer");
    assert_eq!(session["user"], user);

    let token = text(&session["access_token"]);
    assert_eq!(api.get("/v1/me").bearer(&token).send().await.expect(200), user);
    let reply = api.get("/v1/me").send().await;
    assert!(reply.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")));
    reply.expect_problem(401, "unauthenticated");
    api.post("/v1/admin/venues").bearer(&token).json(&json!({})).send().await.expect_problem(403, "forbidden");
    Buyer { id: text(&user["id"]), token }
}

async fn catalogue(api: &Api, sale: &Sale) {
    let list = api.get("/v1/concerts?status=open&limit=5").send().await;
    let tag = list.header("etag").expect("an ETag").to_owned();
    assert!(tag.starts_with('"') || tag.starts_with("W/\""));
    let list = list.expect(200);
    assert_members(&list, &["items", "next_cursor"]);
    assert_members(&list["items"][0], CONCERT);
    assert_members(&list["items"][0]["venue"], &["id", "name", "city"]);

    let concert = api.get(&format!("/v1/concerts/{}", sale.concert)).send().await.expect(200);
    let more = ["description", "seat_limit_per_buyer", "grades", "performances", "queue"];
    assert_members(&concert, &with(CONCERT, &more));
    assert_members(&concert["grades"][0], &["code", "name", "price"]);
    assert_members(&concert["queue"], &["order", "lobby_opens_at", "commitment"]);
    assert_eq!(concert["status"], "open");
    assert_eq!(concert["price_from"], 10_000);
    assert_eq!(text(&concert["queue"]["commitment"]).len(), 64);

    let evenings = api.get(&format!("/v1/concerts/{}/performances", sale.concert)).send().await.expect(200);
    assert_members(&evenings["items"][0], &["id", "starts_at", "seats_total", "seats_available"]);
    assert_eq!(evenings["items"][0]["seats_total"], 14_594);
    let path = format!("/v1/performances/{}", sale.performances[0]);
    let evening = api.get(&path).send().await.expect(200);
    assert_members(&evening, &["id", "starts_at", "seats_total", "seats_available", "concert"]);

    let nobody = uuid::Uuid::new_v4();
    api.get(&format!("/v1/concerts/{nobody}")).send().await.expect_problem(404, "not_found");
    let refused = api.get("/v1/concerts/nonsense").send().await.expect_problem(422, "invalid_parameter");
    assert_members(&refused["errors"][0], &["field", "message"]);
}

async fn line(api: &Api, sale: &Sale, buyer: &Buyer) -> String {
    let base = format!("/v1/concerts/{}/queue", sale.concert);
    let queue = api.get(&base).send().await.expect(200);
    let members = [
        "concert_id",
        "phase",
        "order",
        "lobby_opens_at",
        "opens_at",
        "issued",
        "serving",
        "waiting",
        "active",
        "max_active",
        "admit_per_second",
        "seats_left",
        "draw",
    ];
    assert_members(&queue, &members);
    assert_members(&queue["draw"], &["commitment", "lobby_size", "seed"]);
    assert_eq!((queue["phase"].as_str(), queue["order"].as_str()), (Some("open"), Some("fifo")));

    let tickets = format!("{base}/tickets");
    let first = api.post(&tickets).bearer(&buyer.token).send().await.expect(201);
    assert_members(&first, &with(PLACE, &["ticket"]));
    let again = api.post(&tickets).bearer(&buyer.token).send().await.expect(200);
    assert_eq!((first["arrival"].as_u64(), again["arrival"].as_u64()), (Some(0), Some(0)));

    let ticket = text(&first["ticket"]);
    let me = format!("{tickets}/me");
    let called = eventually("the call", || async {
        let place = api.get(&me).ticket(&ticket).send().await.expect(200);
        (place["status"] == "called").then_some(place)
    })
    .await;
    assert_members(&called, &with(PLACE, &["claim_by"]));
    api.get(&me).ticket("nonsense").send().await.expect_problem(401, "invalid_ticket");

    let passes = format!("{base}/passes");
    let other = Buyer::new(api).await;
    api.post(&passes).bearer(&other.token).ticket(&ticket).send().await.expect_problem(401, "invalid_ticket");
    let pass = api.post(&passes).bearer(&buyer.token).ticket(&ticket).send().await.expect(201);
    assert_members(&pass, &["pass", "expires_at"]);
    let same = api.post(&passes).bearer(&buyer.token).ticket(&ticket).send().await.expect(201);
    assert_eq!(pass["expires_at"], same["expires_at"]);
    // The other instance hears of the call with its own next tick.
    eventually("both instances to know", || async {
        let place = api.get(&me).ticket(&ticket).send().await.expect(200);
        let other = api.get(&me).ticket(&ticket).send().await.expect(200);
        (place["status"] == "admitted" && other["status"] == "admitted").then_some(())
    })
    .await;
    text(&pass["pass"])
}

async fn seats_and_hold(api: &Api, sale: &Sale, buyer: &Buyer, pass: &str) -> Value {
    let path = format!("/v1/performances/{}", sale.performances[0]);
    let map = api.get(&format!("{path}/seat-map")).send().await;
    assert_eq!(map.header("cache-control"), Some("public, max-age=86400, immutable"));
    let map = map.expect(200);
    assert_members(&map, &["performance_id", "sections"]);
    assert_members(&map["sections"][0], &["code", "name", "grade", "rows"]);
    assert_members(&map["sections"][0]["rows"][0], &["name", "seats"]);
    let seat = &map["sections"][0]["rows"][0]["seats"][0];
    assert_members(seat, &["id", "index", "number", "x", "y"]);
    assert_eq!((seat["id"].as_str(), seat["index"].as_u64()), (Some("101-R1-1"), Some(0)));

    let free = api.get(&format!("{path}/availability")).send().await.expect(200);
    assert_members(&free, &["performance_id", "version", "as_of", "total", "available", "by_grade", "taken"]);
    assert_eq!((free["total"].as_u64(), free["available"].as_u64()), (Some(14_594), Some(14_594)));

    let holds = format!("{path}/holds");
    let wanted = json!({"seat_ids": ["101-R1-2", "101-R1-1"]});
    let without = api.post(&holds).bearer(&buyer.token).json(&wanted).send().await;
    without.expect_problem(403, "pass_required");
    let unknown = buyer.try_hold(api, &sale.performances[0], pass, &["101-R1-1", "999-Z-1"]).await;
    assert_eq!(unknown.expect_problem(404, "unknown_seat")["seat_ids"], json!(["999-Z-1"]));
    let five = ["101-R1-1", "101-R1-2", "101-R1-3", "101-R1-4", "101-R1-5"];
    let over = buyer.try_hold(api, &sale.performances[0], pass, &five).await;
    assert_eq!(over.expect_problem(409, "seat_limit_exceeded")["limit"], 4);

    let hold = api.post(&holds).bearer(&buyer.token).pass(pass).json(&wanted).send().await.expect(201);
    let made: Vec<&str> = HOLD.iter().copied().chain(["leaves_orphan"]).collect();
    assert_members(&hold, &made);
    assert_eq!((hold["status"].as_str(), hold["amount"].as_i64()), (Some("held"), Some(20_000)));
    assert_members(&hold["seats"][0], &["id", "grade", "price"]);
    let other = Buyer::new(api).await;
    let theirs = other.enter(api, sale).await;
    let taken = other.try_hold(api, &sale.performances[0], &theirs, &["101-R1-3", "101-R1-2"]).await;
    assert_eq!(taken.expect_problem(409, "seats_taken")["seat_ids"], json!(["101-R1-2"]));
    let foreign = other.try_hold(api, &sale.performances[0], pass, &["101-R1-9"]).await;
    foreign.expect_problem(401, "invalid_pass");

    let id = text(&hold["id"]);
    let shown = api.get(&format!("/v1/holds/{id}")).bearer(&buyer.token).send().await.expect(200);
    assert_members(&shown, HOLD);
    assert!(HOLD.iter().all(|member| shown[*member] == hold[*member]), "{shown} {hold}");
    api.get(&format!("/v1/holds/{id}")).bearer(&other.token).send().await.expect_problem(404, "not_found");
    let mine = api.get("/v1/me/holds").bearer(&buyer.token).send().await.expect(200);
    assert_eq!(mine["items"], json!([shown]));
    released(api, sale, &other, &theirs).await;
    eventually("the picture of seats", || async {
        let page = api.get(&format!("{path}/seats?status=held")).send().await.expect(200);
        let items = page["items"].as_array().expect("items").clone();
        let ids: Vec<String> = items.iter().map(|seat| text(&seat["id"])).collect();
        (ids == ["101-R1-1", "101-R1-2"]).then(|| {
            assert_members(&items[0], &["id", "index", "section", "row", "number", "grade", "price", "status"]);
        })
    })
    .await;
    hold
}

/// A hold given back is free at once, for whoever comes next.
async fn released(api: &Api, sale: &Sale, buyer: &Buyer, pass: &str) {
    let hold = buyer.hold(api, &sale.performances[0], pass, &["101-R1-7"]).await;
    let path = format!("/v1/holds/{hold}");
    assert_eq!(api.delete(&path).bearer(&buyer.token).send().await.status, 204);
    assert_eq!(api.get(&path).bearer(&buyer.token).send().await.expect(200)["status"], "released");
    let again = buyer.hold(api, &sale.performances[0], pass, &["101-R1-7"]).await;
    assert_eq!(api.delete(&format!("/v1/holds/{again}")).bearer(&buyer.token).send().await.status, 204);
    buyer.try_pay(api, &again, "released").await.expect_problem(410, "hold_expired");
}

async fn points(api: &Api, buyer: &Buyer) {
    let empty = api.get("/v1/me/points").bearer(&buyer.token).send().await.expect(200);
    assert_eq!(empty, json!({"balance": 0, "currency": "KRW"}));
    let charge = |amount: i64| api.post("/v1/me/points/charges").bearer(&buyer.token).json(&json!({"amount": amount}));
    charge(100).send().await.expect_problem(400, "idempotency_key_missing");
    charge(0).key("zero").send().await.expect_problem(422, "amount_out_of_range");
    charge(1_000_001).key("much").send().await.expect_problem(422, "amount_out_of_range");
    let done = charge(15_000).key("\"c1\"").send().await;
    assert_eq!(done.header("idempotency-replayed"), None);
    let repeat = charge(15_000).key("c1").send().await;
    assert_eq!(repeat.header("idempotency-replayed"), Some("true"));
    assert_eq!(repeat.bytes, done.bytes);
    let done = done.expect(201);
    assert_members(&done, &["id", "status", "amount", "balance", "currency"]);
    assert_eq!(done["balance"], 15_000);
    charge(15_001).key("c1").send().await.expect_problem(422, "idempotency_key_reused");
}

async fn payment(api: &Api, sale: &Sale, buyer: &Buyer, hold: &Value) {
    let id = text(&hold["id"]);
    let pay = format!("/v1/holds/{id}/payment");
    let points = json!({"method": "points"});
    let without_key = api.post(&pay).bearer(&buyer.token).json(&points).send().await;
    without_key.expect_problem(400, "idempotency_key_missing");
    let poor = buyer.try_pay(api, &id, "p1").await.expect_problem(402, "insufficient_points");
    assert_eq!((poor["balance"].as_i64(), poor["amount"].as_i64()), (Some(15_000), Some(20_000)));
    buyer.charge(api, 5_500).await;
    // A refusal stored nothing: the same key may be sent again.
    let paid = buyer.try_pay(api, &id, "p1").await;
    let repeat = buyer.try_pay(api, &id, "p1").await;
    assert_eq!(repeat.header("idempotency-replayed"), Some("true"));
    assert_eq!(paid.bytes, repeat.bytes);
    let reservation = paid.expect(201);
    for member in
        ["id", "status", "performance_id", "concert", "seats", "amount", "currency", "payment", "created_at", "paid_at"]
    {
        assert!(!reservation[member].is_null(), "{member} of {reservation}");
    }
    assert_members(&reservation["seats"][0], &["id", "grade", "price", "ticket_code"]);
    assert_members(&reservation["payment"], &["id", "method", "status"]);
    assert_eq!(reservation["status"], "confirmed");
    buyer.try_pay(api, &id, "p2").await.expect_problem(409, "already_paid");
    let release = api.delete(&format!("/v1/holds/{id}")).bearer(&buyer.token).send().await;
    release.expect_problem(409, "already_paid");

    let read = api.get(&format!("/v1/reservations/{}", text(&reservation["id"]))).bearer(&buyer.token).send().await;
    assert_eq!(read.expect(200), reservation);
    let mine = api.get("/v1/me/reservations").bearer(&buyer.token).send().await.expect(200);
    assert_eq!(mine["items"], json!([reservation]));
    let balance = api.get("/v1/me/points").bearer(&buyer.token).send().await.expect(200);
    assert_eq!(balance["balance"], 500);
    let entries = api.get("/v1/me/points/entries?limit=1").bearer(&buyer.token).send().await.expect(200);
    assert_members(&entries["items"][0], &["id", "kind", "amount", "balance_after", "reference", "created_at"]);
    assert_eq!(
        (entries["items"][0]["amount"].as_i64(), entries["items"][0]["kind"].as_str()),
        (Some(-20_000), Some("payment"))
    );
    assert!(entries["next_cursor"].is_string());

    // Paying ended the stay: the place is finished, and a new join gives a new place at the end.
    let tickets = format!("/v1/concerts/{}/queue/tickets", sale.concert);
    let rejoined = api.post(&tickets).bearer(&buyer.token).send().await.expect(201);
    assert!(rejoined["arrival"].as_u64() > Some(0));
}

async fn sign_out(api: &Api, one: &Instance, two: &Instance, buyer: &Buyer) {
    assert_eq!(api.delete("/v1/sessions/current").bearer(&buyer.token).send().await.status, 204);
    for instance in [one, two] {
        let api = Api::over(&[instance]);
        eventually("the revocation", || async {
            (api.get("/v1/me").bearer(&buyer.token).send().await.status == 401).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_and_a_stay_can_be_given_up() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    // One slot: the second buyer is called only when the first one leaves.
    let queue = json!({"admit_per_second": 1000, "max_active": 1, "claim_secs": 60, "session_secs": 600});
    let sale = Sale::new(&api, &one, &Plan { queue, ..Plan::default() }).await;
    let (first, second, third) = (Buyer::new(&api).await, Buyer::new(&api).await, Buyer::new(&api).await);
    let pass = first.enter(&api, &sale).await;
    let (waits, leaves) = (second.join(&api, &sale).await, third.join(&api, &sale).await);

    let base = format!("/v1/concerts/{}/queue", sale.concert);
    let me = format!("{base}/tickets/me");
    let place = api.get(&me).ticket(&waits).send().await.expect(200);
    assert_eq!((place["status"].as_str(), place["ahead"].as_u64()), (Some("waiting"), Some(0)));
    let early = api.post(&format!("{base}/passes")).bearer(&second.token).ticket(&waits).send().await;
    early.expect_problem(409, "not_called");

    assert_eq!(api.delete(&me).bearer(&third.token).ticket(&leaves).send().await.status, 204);
    assert_eq!(api.get(&me).ticket(&leaves).send().await.expect(200)["status"], "left");

    assert_eq!(api.delete(&format!("{base}/passes/me")).bearer(&first.token).pass(&pass).send().await.status, 204);
    let again = api.post(&format!("{base}/tickets")).bearer(&first.token).send().await.expect(201);
    assert_eq!((again["status"].as_str(), again["arrival"].as_u64()), (Some("waiting"), Some(3)));
    second.claim(&api, &sale, &waits).await;
    let gone = first.try_hold(&api, &sale.performances[0], &pass, &["A-1-1"]).await;
    gone.expect_problem(403, "pass_expired");
    world.assert_clean(&one).await;
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_line_opens_and_closes_with_the_clock() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &Plan { opens_in_secs: 3600, ..Plan::default() }).await;
    let buyer = Buyer::new(&api).await;
    let tickets = format!("/v1/concerts/{}/queue/tickets", sale.concert);
    let early = api.post(&tickets).bearer(&buyer.token).send().await.expect_problem(409, "queue_not_open");
    assert!(early["lobby_opens_at"].is_string());
    world.advance(std::time::Duration::from_secs(3601));
    let pass = buyer.enter(&api, &sale).await;
    assert!(!pass.is_empty());
    world.advance(std::time::Duration::from_hours(31 * 24));
    let token = api.post("/v1/sessions").json(&json!({"email": "x@example.com", "password": "a long enough one"}));
    token.send().await.expect_problem(401, "bad_credentials");
    let late = Buyer::new(&api).await;
    api.post(&tickets).bearer(&late.token).send().await.expect_problem(409, "booking_closed");
    world.end(vec![one]).await;
}
