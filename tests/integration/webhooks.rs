//! Webhooks: what happened reaches whoever asked for it, signed, at least once, and nobody else can make the server go where it
//! must not.

use std::sync::Arc;
use std::time::Duration;

use frontrow::app::state::State;
use frontrow::notices::webhooks::{Dispatcher, Order};
use frontrow::platform::config::Secret;
use frontrow::platform::db::Script;
use frontrow::platform::error::Problem;
use frontrow::platform::http::keyed::{self, RequestKey};
use frontrow::platform::outbox::{self, Event};
use futures::future::join_all;
use serde_json::{Value, json};
use sqlx::Row as _;
use uuid::Uuid;

use crate::support::arena::{Plan, text};
use crate::support::receiver::{Answer, Receiver};
use crate::support::{Api, Buyer, Fault, Process, Sale, World, assert_members, eventually};

const TOPIC: &str = "reservation.confirmed";
/// Webhooks may go to this machine, and are looked for all the time.
const HERE: [(&str, &str); 3] = [
    ("FRONTROW__NOTICES__PLAIN_HTTP", "true"),
    ("FRONTROW__NOTICES__PRIVATE_ADDRESSES", "127.0.0.0/8"),
    ("FRONTROW__NOTICES__POLL_MS", "50"),
];
/// Longer than any lease of a delivery.
const LEASE: Duration = Duration::from_mins(10);

async fn operator(state: &State) -> String {
    let email = format!("operator-{}@example.com", Uuid::now_v7());
    state.accounts.create_operator(&email, Secret::new("a long enough one")).await.expect("an operator").1
}

/// Subscribes an address by the services, and gives the endpoint's id and its secret.
async fn subscribe(state: &State, url: &str) -> (String, String) {
    let made = try_subscribe(state, url).await.expect("a place");
    let made: Value = serde_json::from_slice(&made.body).expect("JSON");
    (text(&made["id"]), text(&made["secret"]))
}

async fn try_subscribe(state: &State, url: &str) -> Result<keyed::Answer, Problem> {
    let (operator, topics) = (frontrow::accounts::UserId::new(), vec![TOPIC.to_owned()]);
    let no_key = RequestKey { key: None, fingerprint: [0; 32] };
    state.webhooks.subscribe(Order { operator, url: url.to_owned(), topics }, no_key).await
}

/// Records so many events, each of a thing of its own; they are relayed by whoever relays.
async fn happen(state: &State, count: usize) -> Vec<Uuid> {
    let things: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
    let recorded = state.db.in_tx("webhooks_test.happen", things.clone(), |conn, things| {
        Box::pin(async move {
            let events: Vec<(Uuid, Value)> =
                things.iter().map(|id| (*id, json!({"reservation_id": id, "user_id": Uuid::now_v7()}))).collect();
            let mut script = Script::default();
            outbox::record_first(&mut script, conn.offset_micros(), TOPIC, &events);
            script.run(conn).await.map(drop)
        })
    });
    recorded.await.expect("recorded");
    state.wake.now();
    things
}

/// An event that was relayed.
fn event(thing: Uuid) -> Event {
    let occurred_at = frontrow::platform::clock::Timestamp::from_millis(1_700_000_000_000).expect("a time");
    Event {
        id: Uuid::now_v7(),
        topic: TOPIC.to_owned(),
        aggregate_id: thing,
        version: 1,
        payload: json!({}),
        occurred_at,
    }
}

/// State, tries and the last word of every delivery.
async fn deliveries(world: &World) -> Vec<(u8, u32, String)> {
    let rows = sqlx::query("SELECT state, attempts, last_error FROM webhook_deliveries ORDER BY event_id");
    let rows = rows.fetch_all(&mut world.sql().await).await.expect("deliveries");
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

async fn wait_for_deliveries(world: &World, expected: &[(u8, u32, &str)]) {
    let expected: Vec<(u8, u32, String)> =
        expected.iter().map(|(state, tries, word)| (*state, *tries, (*word).to_owned())).collect();
    eventually("deliveries to be written down", || async { (deliveries(world).await == expected).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_is_told_of_until_it_is_accepted() {
    let world = World::with(&HERE).await;
    let (one, other) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &other]);
    let receiver = Receiver::answering(|number| Answer::Status(if number < 2 { 500 } else { 200 })).await;
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    let body = json!({"url": receiver.url(), "topics": [TOPIC, "reservation.cancelled"]});
    let made = api.post("/v1/admin/webhooks").bearer(&sale.operator).json(&body).send().await.expect(201);
    let buyer = Buyer::new(&api).await;
    buyer.charge(&api, 100_000).await;
    let pass = buyer.enter(&api, &sale).await;
    let hold = buyer.hold(&api, &sale.performances[0], &pass, &["A-1-1", "A-1-2"]).await;
    let paid = buyer.try_pay(&api, &hold, "pay").await.expect(201);

    let all = eventually("the third try", || async {
        world.advance(Duration::from_secs(30));
        Some(receiver.received()).filter(|all| all.len() >= 3)
    })
    .await;
    wait_for_deliveries(&world, &[(1, 3, "")]).await;

    let secret = text(&made["secret"]);
    let mut times: Vec<i64> = Vec::new();
    for delivery in &all {
        assert!(delivery.is_signed_with(&secret), "{delivery:?}");
        assert_eq!(delivery.headers["content-type"], "application/json");
        assert_eq!((&delivery.headers["webhook-id"], &delivery.body), (&all[0].headers["webhook-id"], &all[0].body));
        times.push(delivery.headers["webhook-timestamp"].parse().expect("seconds"));
    }
    assert!(times[1] - times[0] >= 4 && times[2] - times[1] >= 240, "each try has its own time: {times:?}");
    let now = one.state.clock.now().millis() / 1000;
    assert!(times[2] <= now && now - times[2] < 3600, "{times:?}");
    let mut forged = all[0].clone();
    forged.body.push(b' ');
    assert!(!forged.is_signed_with(&secret), "the check above can fail");

    let told = all[0].json();
    assert_members(&told, &["id", "type", "version", "aggregate_id", "sequence", "occurred_at", "data"]);
    assert!(all[0].body.starts_with(format!("{{\"id\":\"{}\",\"type\"", all[0].headers["webhook-id"]).as_bytes()));
    let expected = (json!(TOPIC), json!(1), paid["id"].clone(), json!(1));
    let found = (&told["type"], &told["version"], &told["aggregate_id"], &told["sequence"]);
    assert_eq!(found, (&expected.0, &expected.1, &expected.2, &expected.3));
    assert_eq!(told["data"]["seat_ids"], json!(["A-1-1", "A-1-2"]));
    assert_eq!(told["data"]["user_id"], json!(buyer.id));

    // What follows has the next number.
    let cancel = api.post(&format!("/v1/reservations/{}/cancellation", text(&paid["id"]))).bearer(&buyer.token);
    cancel.key("cancel").send().await.expect(200);
    let told = receiver.wait_for(4).await[3].json();
    assert_eq!((&told["type"], &told["sequence"]), (&json!("reservation.cancelled"), &json!(2)));
    world.assert_clean(&one).await;
    world.end(vec![one, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_relayed_again_is_delivered_once() {
    let world = World::with(&HERE).await;
    let state = world.services(&[]).await;
    let receiver = Receiver::accepting().await;
    subscribe(&state, &receiver.url()).await;
    let batch: Arc<[Event]> = (0..50).map(|_| event(Uuid::now_v7())).collect();
    let again = (0..8).map(|_| state.webhooks.record(batch.clone()));
    for outcome in join_all(again).await {
        outcome.expect("recorded");
    }
    assert_eq!(deliveries(&world).await.len(), 50);
    // Two who send at the same time never have the same one.
    let dispatchers: Vec<Dispatcher> =
        (0..2).map(|_| Dispatcher::new(state.webhooks.clone(), state.clock.clone()).expect("a client")).collect();
    while join_all(dispatchers.iter().map(|one| async { one.dispatch().await.expect("MySQL") }))
        .await
        .iter()
        .sum::<usize>()
        > 0
        || deliveries(&world).await.iter().any(|(state, ..)| *state == 0)
    {
        join_all(dispatchers.iter().map(Dispatcher::settle)).await;
    }
    state.webhooks.record(batch.clone()).await.expect("recorded");
    assert!(deliveries(&world).await.iter().all(|delivery| *delivery == (1, 1, String::new())));
    let mut ids: Vec<String> =
        receiver.received().into_iter().map(|delivery| delivery.headers["webhook-id"].clone()).collect();
    ids.sort_unstable();
    let mut expected: Vec<String> = batch.iter().map(|event| event.id.to_string()).collect();
    expected.sort_unstable();
    assert_eq!(ids, expected);
    world.end(Vec::new()).await;
}

/// Through the relay as well, and whatever Redis does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_do_not_wait_for_redis() {
    let world = World::with(&HERE).await;
    let proxy = world.redis_proxy().await;
    let (name, url) = world.redis_through(&proxy);
    let one = world.instance_with(&[(name, &url)]).await;
    let receiver = Receiver::accepting().await;
    subscribe(&one.state, &receiver.url()).await;
    proxy.set(Fault::Refuse);
    happen(&one.state, 3).await;
    receiver.wait_for(3).await;
    proxy.set(Fault::None);
    eventually("the events to leave", || async {
        let open = sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM outbox WHERE state = 0");
        (open.fetch_one(&mut world.sql().await).await.expect("a count") == 0).then_some(())
    })
    .await;
    wait_for_deliveries(&world, &[(1, 1, ""); 3]).await;
    assert_eq!(receiver.received().len(), 3, "the events came to the relay again, not to the receiver");
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_gone_is_told_no_more() {
    let world = World::with(&HERE).await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let token = operator(&one.state).await;
    let receiver = Receiver::answering(|_| Answer::Status(410)).await;
    let (id, _) = subscribe(&one.state, &receiver.url()).await;
    happen(&one.state, 1).await;
    wait_for_deliveries(&world, &[(2, 1, "gone")]).await;
    let listed = api.get("/v1/admin/webhooks").bearer(&token).send().await.expect(200);
    assert_eq!((&listed["items"][0]["id"], &listed["items"][0]["status"]), (&json!(id), &json!("disabled")));
    assert!(listed["items"][0]["secret"].is_null());
    let other = Receiver::accepting().await;
    subscribe(&one.state, &other.url()).await;
    happen(&one.state, 5).await;
    other.wait_for(5).await;
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(deliveries(&world).await.len(), 6, "nothing waits for who is told no more");
    let refused = one.state.webhooks.resend(Some(id.parse().expect("an id"))).await.expect_err("not active");
    assert_eq!(refused.code().code, "not_found");
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_endpoint_holds_up_nobody_else() {
    let world = World::with(&HERE).await;
    let settings = [("FRONTROW__NOTICES__PARALLEL_PER_ENDPOINT", "2"), ("FRONTROW__NOTICES__TIMEOUT_MS", "600000")];
    let one = world.instance_with(&settings).await;
    let hanging = Receiver::answering(|_| Answer::Nothing).await;
    let quick = Receiver::accepting().await;
    subscribe(&one.state, &hanging.url()).await;
    subscribe(&one.state, &quick.url()).await;
    happen(&one.state, 2).await;
    hanging.wait_for(2).await;
    happen(&one.state, 60).await;
    quick.wait_for(62).await;
    assert_eq!(hanging.received().len(), 2, "no more than may be under way");
    // All two of them hang still, and what waits for them is there.
    let waiting = sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM webhook_deliveries WHERE state = 0");
    assert!(waiting.fetch_one(&mut world.sql().await).await.expect("a count") >= 62);
    drop(hanging);
    one.shutdown.force();
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_always_fails_is_dead_and_sent_again_by_command() {
    let world = World::with(&HERE).await;
    let state = world.services(&[]).await;
    let receiver = Receiver::answering(|_| Answer::Status(503)).await;
    let (endpoint, _) = subscribe(&state, &receiver.url()).await;
    let told = event(Uuid::now_v7());
    state.webhooks.record(Arc::new([told.clone()])).await.expect("recorded");
    let dispatcher = Dispatcher::new(state.webhooks.clone(), state.clock.clone()).expect("a client");
    let mut waits = Vec::new();
    for tries in 1..=8 {
        assert_eq!(dispatcher.dispatch().await.expect("MySQL"), 1, "try {tries}");
        dispatcher.settle().await;
        let due = "SELECT TIMESTAMPDIFF(SECOND, changed_at, due_at) FROM webhook_deliveries";
        waits.push(sqlx::query_scalar::<_, i64>(due).fetch_one(&mut world.sql().await).await.expect("a wait"));
        assert_eq!(dispatcher.dispatch().await.expect("MySQL"), 0, "not before its time");
        world.advance(Duration::from_hours(13));
    }
    assert_eq!(deliveries(&world).await, [(2, 8, "refused".to_owned())]);
    let about = [5, 300, 1800, 7200, 18_000, 36_000, 36_000];
    for (wait, about) in waits.iter().zip(about) {
        assert!((about * 79 / 100 - 1..=about * 121 / 100).contains(wait), "{waits:?}");
    }
    assert_eq!(receiver.received().len(), 8);

    let mut command = Process::spawn(&world, &["webhooks", "dead"], &HERE);
    assert_eq!(command.end().await, Some(0), "{}", command.output());
    let line: Value = serde_json::from_str(command.output().trim()).expect("one JSON line");
    assert_eq!((&line["endpoint_id"], &line["event_id"]), (&json!(endpoint), &json!(told.id)));
    assert_eq!((&line["attempts"], &line["last_status"], &line["topic"]), (&json!(8), &json!(503), &json!(TOPIC)));
    let mut neither = Process::spawn(&world, &["webhooks", "resend"], &HERE);
    assert_eq!(neither.end().await, Some(2), "{}", neither.output());
    let mut command = Process::spawn(&world, &["webhooks", "resend", "--endpoint", &endpoint], &HERE);
    assert_eq!(command.end().await, Some(0), "{}", command.output());
    assert!(command.output().contains("1 deliveries"), "{}", command.output());
    receiver.answer(|_| Answer::Status(200));
    assert_eq!(dispatcher.dispatch().await.expect("MySQL"), 1);
    dispatcher.settle().await;
    assert_eq!(deliveries(&world).await, [(1, 1, String::new())]);
    assert_eq!(state.webhooks.resend(None).await.expect("MySQL"), 0);
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_instance_was_about_to_send_is_sent_by_another() {
    let world = World::with(&HERE).await;
    let state = world.services(&[]).await;
    let receiver = Receiver::answering(|_| Answer::Nothing).await;
    let (_, secret) = subscribe(&state, &receiver.url()).await;
    let (mut victim, _) = Process::serve(&world, &[]).await;
    let things = happen(&state, 1).await;
    receiver.wait_for(1).await;
    victim.kill();
    assert_eq!(victim.end().await, None, "ended by a signal");
    wait_for_deliveries(&world, &[(0, 0, "")]).await;
    // Another event, that nobody had relayed by then.
    let later = happen(&state, 1).await;
    receiver.answer(|_| Answer::Status(200));
    world.advance(LEASE);
    let heir = world.instance().await;
    let all = receiver.wait_for(3).await;
    wait_for_deliveries(&world, &[(1, 1, ""), (1, 1, "")]).await;
    let mut told: Vec<String> = all[1..].iter().map(|delivery| text(&delivery.json()["aggregate_id"])).collect();
    told.sort_unstable();
    let mut expected = [things[0].to_string(), later[0].to_string()];
    expected.sort_unstable();
    assert_eq!(told, expected);
    assert!(all.iter().all(|delivery| delivery.is_signed_with(&secret)));
    world.end(vec![heir]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_leads_the_server_into_the_house() {
    // Plain HTTP, so that only the address stands in the way.
    let world = World::with(&[HERE[0], HERE[2]]).await;
    let state = world.services(&[]).await;
    let inside = Receiver::accepting().await;
    for url in [inside.url(), format!("http://[::1]:{}/", inside.port()), "http://169.254.169.254/".to_owned()] {
        let refused = try_subscribe(&state, &url).await;
        assert_eq!(refused.expect_err("not public").code().code, "invalid_body", "{url}");
    }
    // A name is looked at when something is sent: by then it may mean anything.
    subscribe(&state, &format!("http://localhost:{}/", inside.port())).await;
    state.webhooks.record(Arc::new([event(Uuid::now_v7())])).await.expect("recorded");
    let dispatcher = Dispatcher::new(state.webhooks.clone(), state.clock.clone()).expect("a client");
    assert_eq!(dispatcher.dispatch().await.expect("MySQL"), 1);
    dispatcher.settle().await;
    assert_eq!(deliveries(&world).await, [(0, 1, "forbidden_address".to_owned())]);
    assert!(inside.received().is_empty());

    // What was allowed when it was subscribed need not be any more.
    let loose = world.state(&[HERE[1]]);
    subscribe(&loose, &inside.url()).await;
    state.webhooks.record(Arc::new([event(Uuid::now_v7())])).await.expect("recorded");
    assert!(dispatcher.dispatch().await.expect("MySQL") >= 2);
    dispatcher.settle().await;
    assert!(deliveries(&world).await.iter().all(|(_, _, word)| word == "forbidden_address"));
    assert!(inside.received().is_empty());
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_are_not_followed() {
    let world = World::with(&HERE).await;
    let state = world.services(&[]).await;
    let target = Receiver::accepting().await;
    let url = target.url();
    let receiver = Receiver::answering(move |_| Answer::Redirect(url.clone())).await;
    subscribe(&state, &receiver.url()).await;
    state.webhooks.record(Arc::new([event(Uuid::now_v7())])).await.expect("recorded");
    let dispatcher = Dispatcher::new(state.webhooks.clone(), state.clock.clone()).expect("a client");
    assert_eq!(dispatcher.dispatch().await.expect("MySQL"), 1);
    dispatcher.settle().await;
    assert_eq!(deliveries(&world).await, [(0, 1, "refused".to_owned())]);
    assert_eq!((receiver.received().len(), target.received().len()), (1, 0));
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_are_few_and_each_address_is_subscribed_once() {
    let world = World::with(&HERE).await;
    let settings = [("FRONTROW__NOTICES__ENDPOINTS_MAX", "3")];
    let (one, other) = (world.instance_with(&settings).await, world.instance_with(&settings).await);
    let api = Api::over(&[&one, &other]);
    let token = operator(&one.state).await;
    let subscribe = async |url: String| {
        let body = json!({"url": url, "topics": [TOPIC]});
        api.post("/v1/admin/webhooks").bearer(&token).json(&body).send().await
    };
    let replies = join_all((0..12).map(|n| subscribe(format!("https://hooks.example.com/{}", n / 2)))).await;
    let (made, refused): (Vec<_>, Vec<_>) = replies.into_iter().partition(|reply| reply.status == 201);
    assert_eq!(made.len(), 3);
    for reply in refused {
        let code = text(&reply.body["code"]);
        assert!(matches!(code.as_str(), "webhooks_full" | "webhook_exists"), "{code}");
        reply.expect_problem(409, &code);
    }
    let urls: std::collections::BTreeSet<String> = made.iter().map(|reply| text(&reply.body["url"])).collect();
    assert_eq!(urls.len(), 3, "each once");
    let full = subscribe("https://hooks.example.com/more".to_owned()).await.expect_problem(409, "webhooks_full");
    assert_eq!(full["limit"], 3);

    let gone = text(&made[0].body["id"]);
    api.delete(&format!("/v1/admin/webhooks/{gone}")).bearer(&token).send().await.expect(204);
    api.delete(&format!("/v1/admin/webhooks/{gone}")).bearer(&token).send().await.expect_problem(404, "not_found");
    subscribe(text(&made[0].body["url"])).await.expect(201);
    let actions = api.get("/v1/admin/actions").bearer(&token).send().await.expect(200);
    let actions: Vec<String> =
        actions["items"].as_array().expect("items").iter().map(|item| text(&item["action"])).collect();
    assert_eq!(actions.iter().filter(|action| *action == "webhooks.subscribed").count(), 4);
    assert_eq!(actions.iter().filter(|action| *action == "webhooks.removed").count(), 1);

    // Secrets are nowhere in the clear.
    let rows =
        sqlx::query_scalar::<_, String>("SELECT CONCAT(secret_sealed, COALESCE(url, '')) FROM webhook_endpoints");
    let stored = rows.fetch_all(&mut world.sql().await).await.expect("endpoints").join(" ");
    for reply in &made {
        let secret = text(&reply.body["secret"]);
        assert!(!stored.contains(secret.trim_start_matches("whsec_")));
    }
    world.end(vec![one, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_is_repeated_with_its_secret() {
    let world = World::with(&HERE).await;
    let (one, other) = (world.instance().await, world.instance().await);
    let (first, second) = (Api::over(&[&one]), Api::over(&[&other]));
    let token = operator(&one.state).await;
    let subscribe = async |api: &Api, url: &str, key: &str| {
        let body = json!({"url": url, "topics": [TOPIC]});
        api.post("/v1/admin/webhooks").bearer(&token).key(key).json(&body).send().await
    };
    let url = "https://hooks.example.com/one";
    let made = subscribe(&first, url, "once").await;
    let repeat = subscribe(&second, url, "once").await;
    assert_eq!((repeat.header("idempotency-replayed"), &repeat.bytes), (Some("true"), &made.bytes));
    let made = made.expect(201);
    assert_eq!(repeat.expect(201)["id"], made["id"]);
    subscribe(&first, "https://hooks.example.com/two", "once").await.expect_problem(422, "idempotency_key_reused");
    subscribe(&first, url, "another").await.expect_problem(409, "webhook_exists");
    let listed = first.get("/v1/admin/webhooks").bearer(&token).send().await.expect(200);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));

    // What is kept for the repeat does not tell the secret.
    let kept = "SELECT CONVERT(body USING utf8mb4) FROM idempotency_keys WHERE request_key = 'once'";
    let kept: String = sqlx::query_scalar(kept).fetch_one(&mut world.sql().await).await.expect("an answer");
    let secret = text(&made["secret"]);
    assert!(secret.starts_with("whsec_") && kept.contains(&text(&made["id"])), "{kept}");
    assert!(!kept.contains("whsec_") && !kept.contains(secret.trim_start_matches("whsec_")), "{kept}");
    world.end(vec![one, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_is_forgotten_a_part_at_a_time() {
    let world = World::with(&HERE).await;
    let state = world.services(&[]).await;
    let receiver = Receiver::accepting().await;
    let (kept, _) = subscribe(&state, &receiver.url()).await;
    let (removed, _) = subscribe(&state, "http://127.0.0.1:9/").await;
    let batch: Arc<[Event]> = (0..10).map(|_| event(Uuid::now_v7())).collect();
    state.webhooks.record(batch).await.expect("recorded");
    let removed = removed.parse().expect("an id");
    state.webhooks.remove(frontrow::accounts::UserId::new(), removed).await.expect("removed");
    let dispatcher = Dispatcher::new(state.webhooks.clone(), state.clock.clone()).expect("a client");
    while dispatcher.dispatch().await.expect("MySQL") > 0 {
        dispatcher.settle().await;
    }
    let count = async |condition: &str| {
        let sql = format!("SELECT COUNT(*) FROM webhook_deliveries WHERE {condition}");
        let count = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(sql));
        count.fetch_one(&mut world.sql().await).await.expect("a count")
    };
    assert_eq!((count("state = 1").await, count("state = 0").await), (10, 10));
    assert_eq!(state.webhooks.tidy(4).await.expect("MySQL"), 4, "of the endpoint that was removed");
    assert_eq!((count("state = 1").await, count("state = 0").await), (10, 6));
    while state.webhooks.tidy(4).await.expect("MySQL") > 0 {}
    let endpoints = "SELECT COUNT(*) FROM webhook_endpoints";
    let endpoints =
        async || sqlx::query_scalar::<_, i64>(endpoints).fetch_one(&mut world.sql().await).await.expect("a count");
    assert_eq!((count("TRUE").await, endpoints().await), (10, 2), "its row waits for whoever had read it");
    world.advance(Duration::from_hours(167));
    state.webhooks.tidy(4).await.expect("MySQL");
    assert_eq!((count("TRUE").await, endpoints().await), (10, 1));
    world.advance(Duration::from_hours(2));
    assert_eq!(state.webhooks.tidy(4).await.expect("MySQL"), 4);
    while state.webhooks.tidy(4).await.expect("MySQL") > 0 {}
    assert_eq!(count("TRUE").await, 0);

    // What waits for an endpoint that says gone is given up.
    receiver.answer(|_| Answer::Status(410));
    let settings = [("FRONTROW__NOTICES__PARALLEL_PER_ENDPOINT", "1")];
    let narrow = world.state(&settings);
    let batch: Arc<[Event]> = (0..5).map(|_| event(Uuid::now_v7())).collect();
    narrow.webhooks.record(batch).await.expect("recorded");
    let dispatcher = Dispatcher::new(narrow.webhooks.clone(), narrow.clock.clone()).expect("a client");
    assert_eq!(dispatcher.dispatch().await.expect("MySQL"), 1);
    dispatcher.settle().await;
    assert_eq!(dispatcher.dispatch().await.expect("MySQL"), 0);
    assert_eq!((count("state = 2").await, count("state = 0").await), (1, 4));
    while narrow.webhooks.tidy(3).await.expect("MySQL") > 0 {}
    assert_eq!((count("state = 2").await, count("state = 0").await), (5, 0));
    world.advance(Duration::from_hours(721));
    while narrow.webhooks.tidy(3).await.expect("MySQL") > 0 {}
    assert_eq!(count("TRUE").await, 0, "{kept}");
    world.end(Vec::new()).await;
}
