//! Events leave if and only if their transaction was committed, and at least once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fred::interfaces::StreamsInterface as _;
use frontrow::app::state::State;
use frontrow::platform::error::Problem;
use frontrow::platform::outbox::{self, Event, Handler, Relay, Wake};
use frontrow::platform::shutdown::Shutdown;
use serde_json::{Value, json};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::support::{World, eventually};

const TOPIC: &str = "test.happened";
const OTHER: &str = "test.other";
/// Longer than any lease of the relay.
const LEASE: Duration = Duration::from_secs(301);

/// An instance's services, connected.
async fn services(world: &World, settings: &[(&str, &str)]) -> State {
    let state = world.services(settings).await;
    assert!(state.redis.wait_for_connect(Duration::from_secs(30)).await, "Redis");
    state
}

fn relay(state: &State, wake: &Wake) -> Relay {
    Relay::new(state.db.clone(), state.redis.clone(), state.config.outbox.clone(), wake)
}

fn handler<F>(handle: impl Fn(Event) -> F + Send + Sync + 'static) -> Handler
where
    F: Future<Output = Result<(), Problem>> + Send + 'static,
{
    Arc::new(move |event| Box::pin(handle(event)))
}

/// Records events of one topic in one transaction; a refusal rolls all of them back.
async fn record(state: &State, topic: &'static str, events: Vec<(Uuid, u32, Value)>, refuse: bool) {
    let outcome = state.db.in_tx("outbox_test.record", (topic, events, refuse), |conn, (topic, events, refuse)| {
        Box::pin(async move {
            for (aggregate, version, payload) in events {
                outbox::record(conn, topic, *aggregate, *version, payload).await?;
            }
            if *refuse { Err(Problem::not_found("reason")) } else { Ok(()) }
        })
    });
    assert_eq!(outcome.await.is_err(), refuse);
}

async fn record_one(state: &State, topic: &'static str) -> Uuid {
    let aggregate = Uuid::now_v7();
    record(state, topic, vec![(aggregate, 1, json!({}))], false).await;
    aggregate
}

/// What is on the world's stream, oldest first.
async fn stream(world: &World, state: &State) -> Vec<HashMap<String, String>> {
    let client = world.redis().await;
    let entries = client.xrange_values::<String, String, String, _, _, _>(state.redis.key("events"), "-", "+", None);
    entries.await.expect("the stream").into_iter().map(|(_, fields)| fields).collect()
}

async fn aggregates(world: &World, state: &State) -> Vec<String> {
    stream(world, state).await.into_iter().map(|fields| fields["aggregate_id"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_leaves_and_nothing_else() {
    let world = World::new().await;
    let state = services(&world, &[]).await;
    let (kept, lost) = (Uuid::now_v7(), Uuid::now_v7());
    let payload = json!({"title": "서울 \"quoted\"", "amount": 9_007_199_254_740_991_i64, "none": null});
    record(&state, TOPIC, vec![(lost, 1, json!({}))], true).await;
    record(&state, TOPIC, vec![(kept, 1, payload.clone()), (kept, 2, json!([]))], false).await;
    assert_eq!(relay(&state, &Wake::default()).relay_batch().await.expect("a batch"), 2);
    assert_eq!(relay(&state, &Wake::default()).relay_batch().await.expect("a batch"), 0);

    let sent = stream(&world, &state).await;
    assert_eq!(sent.len(), 2);
    let by_version: BTreeMap<&str, &HashMap<String, String>> =
        sent.iter().map(|fields| (fields["version"].as_str(), fields)).collect();
    let first = by_version["1"];
    let mut names: Vec<&str> = first.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["aggregate_id", "id", "payload", "topic", "version"]);
    assert_eq!((first["topic"].as_str(), first["aggregate_id"].clone()), (TOPIC, kept.to_string()));
    assert_eq!(serde_json::from_str::<Value>(&first["payload"]).expect("JSON"), payload);
    assert_eq!(serde_json::from_str::<Value>(&by_version["2"]["payload"]).expect("JSON"), json!([]));
    let rows: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM outbox WHERE state = 1 ORDER BY id")
        .fetch_all(&mut world.sql().await)
        .await
        .expect("the rows");
    let mut ids: Vec<Uuid> = sent.iter().map(|fields| fields["id"].parse().expect("an id")).collect();
    ids.sort_unstable();
    assert_eq!(ids, rows);
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_whose_handler_fails_comes_again() {
    let world = World::new().await;
    let state = services(&world, &[]).await;
    let tries = Arc::new(Mutex::new(Vec::new()));
    let seen = tries.clone();
    let relay = relay(&state, &Wake::default()).on(
        TOPIC,
        handler(move |event| {
            let mut seen = seen.lock().expect("no panic");
            seen.push(event.id);
            let is_done = seen.len() >= 3;
            async move { if is_done { Ok(()) } else { Err(Problem::not_found("listener")) } }
        }),
    );
    let (failing, other) = (record_one(&state, TOPIC).await, record_one(&state, OTHER).await);
    assert_eq!(relay.relay_batch().await.expect("a batch"), 2);
    assert_eq!(aggregates(&world, &state).await, [other.to_string()], "a failure does not hold up others");
    assert_eq!(relay.relay_batch().await.expect("a batch"), 0, "the lease still holds");
    for _ in 0..2 {
        world.advance(LEASE);
        assert_eq!(relay.relay_batch().await.expect("a batch"), 1);
    }
    world.advance(LEASE);
    assert_eq!(relay.relay_batch().await.expect("a batch"), 0, "sent is sent");
    assert_eq!(aggregates(&world, &state).await, [other.to_string(), failing.to_string()]);
    let tries = tries.lock().expect("no panic").clone();
    assert!(tries.len() == 3 && tries.iter().all(|id| *id == tries[0]), "the same event: {tries:?}");
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_relays_share_the_work() {
    let world = World::with(&[("FRONTROW__OUTBOX__BATCH_MAX", "7")]).await;
    let (one, two) = (services(&world, &[]).await, services(&world, &[]).await);
    let events: Vec<(Uuid, u32, Value)> = (0..150).map(|number| (Uuid::now_v7(), number, json!({}))).collect();
    let mut expected: Vec<String> = events.iter().map(|(aggregate, _, _)| aggregate.to_string()).collect();
    record(&one, TOPIC, events, false).await;
    let drain = async |state: &State| {
        let relay = relay(state, &Wake::default());
        let mut claimed = 0;
        loop {
            match relay.relay_batch().await.expect("a batch") {
                0 => return claimed,
                count => claimed += count,
            }
        }
    };
    let (here, there) = tokio::join!(drain(&one), drain(&two));
    assert_eq!(here + there, 150);
    let mut sent = aggregates(&world, &one).await;
    sent.sort_unstable();
    expected.sort_unstable();
    assert_eq!(sent, expected, "each of them once");
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_relay_had_claimed_comes_again() {
    let world = World::new().await;
    let (one, two) = (services(&world, &[]).await, services(&world, &[]).await);
    let event = record_one(&one, TOPIC).await;
    let reached = Arc::new(Notify::new());
    let signal = reached.clone();
    let dying = relay(&one, &Wake::default()).on(
        TOPIC,
        handler(move |_| {
            signal.notify_one();
            std::future::pending()
        }),
    );
    tokio::select! {
        _ = dying.relay_batch() => panic!("the handler never ends"),
        () = reached.notified() => {}
    }
    let heir = relay(&two, &Wake::default());
    assert_eq!(heir.relay_batch().await.expect("a batch"), 0, "the lease still holds");
    world.advance(LEASE);
    assert_eq!(heir.relay_batch().await.expect("a batch"), 1);
    assert_eq!(aggregates(&world, &two).await, [event.to_string()]);
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_events_stay_due() {
    let world = World::new().await;
    let nowhere = world.services(&[("FRONTROW__REDIS__URL", "redis://127.0.0.1:1")]).await;
    let event = record_one(&nowhere, TOPIC).await;
    assert_eq!(relay(&nowhere, &Wake::default()).relay_batch().await.expect("a batch"), 1);
    world.advance(LEASE);
    assert!(Relay::measure(&nowhere.db).await.expect("an age") >= 300);
    let back = services(&world, &[]).await;
    assert_eq!(relay(&back, &Wake::default()).relay_batch().await.expect("a batch"), 1);
    assert_eq!(aggregates(&world, &back).await, [event.to_string()]);
    assert_eq!(Relay::measure(&back.db).await.expect("an age"), 0);
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_woken_relay_does_not_wait_for_its_pause() {
    let world = World::with(&[("FRONTROW__OUTBOX__POLL_MS", "3600000")]).await;
    let state = services(&world, &[]).await;
    let (wake, shutdown) = (Wake::default(), Shutdown::default());
    let first = record_one(&state, TOPIC).await;
    let running = tokio::spawn(relay(&state, &wake).run(shutdown.clone()));
    eventually("the first event", || async { (aggregates(&world, &state).await.len() == 1).then_some(()) }).await;
    let second = record_one(&state, TOPIC).await;
    wake.now();
    eventually("the second event", || async { (aggregates(&world, &state).await.len() == 2).then_some(()) }).await;
    assert_eq!(aggregates(&world, &state).await, [first.to_string(), second.to_string()]);
    shutdown.request();
    running.await.expect("the relay ends with its instance");
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_events_are_forgotten_once_sent() {
    let world = World::new().await;
    let state = services(&world, &[]).await;
    record_one(&state, TOPIC).await;
    assert_eq!(relay(&state, &Wake::default()).relay_batch().await.expect("a batch"), 1);
    record_one(&state, TOPIC).await;
    let tidy = async || Relay::tidy(&state.db, 24, 100).await.expect("tidied");
    world.advance(Duration::from_hours(23));
    assert_eq!(tidy().await, 0, "kept for a day");
    world.advance(Duration::from_hours(2));
    assert_eq!(tidy().await, 1, "what was sent");
    world.advance(Duration::from_hours(1000));
    assert_eq!(tidy().await, 0, "never what was not sent");
    assert_eq!(relay(&state, &Wake::default()).relay_batch().await.expect("a batch"), 1);
    world.end(Vec::new()).await;
}

/// Seconds until the only event is due.
async fn due_in(world: &World, state: &State) -> f64 {
    let query = "SELECT CAST(TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, due_at) / 1000000 AS DOUBLE) FROM outbox";
    let query = sqlx::query_scalar(query).bind(state.clock.offset_micros());
    query.fetch_one(&mut world.sql().await).await.expect("an event")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_event_comes_again_soon_and_later_each_time() {
    let world = World::new().await;
    let state = services(&world, &[]).await;
    let fails = handler(|_| async { panic!("in a handler") });
    let relay = relay(&state, &Wake::default()).on(TOPIC, fails);
    record_one(&state, TOPIC).await;
    for delay in [2.0, 4.0, 8.0, 16.0, 24.0, 24.0] {
        assert_eq!(relay.relay_batch().await.expect("a batch"), 1);
        let due_in = due_in(&world, &state).await;
        assert!((delay * 0.75 - 1.0..=delay * 1.25).contains(&due_in), "{due_in} after {delay}");
        world.advance(Duration::from_secs(31));
    }
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_hangs_holds_up_its_own_event_only() {
    let world = World::new().await;
    let state = services(&world, &[]).await;
    let relay = relay(&state, &Wake::default()).on(TOPIC, handler(|_| std::future::pending()));
    record_one(&state, TOPIC).await;
    let other = record_one(&state, OTHER).await;
    assert_eq!(relay.relay_batch().await.expect("a batch that ends"), 2);
    assert_eq!(aggregates(&world, &state).await, [other.to_string()]);
    assert_eq!(relay.relay_batch().await.expect("a batch"), 0, "one is sent, one is due later");
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_drains_gives_back_what_it_has_not_begun() {
    let world = World::new().await;
    let (one, two) = (services(&world, &[]).await, services(&world, &[]).await);
    let shutdown = Shutdown::default();
    let (end, count) = (shutdown.clone(), 30);
    let stopping = relay(&one, &Wake::default()).on(
        TOPIC,
        handler(move |_| {
            end.request();
            async { Ok(()) }
        }),
    );
    let events = (0..count).map(|number| (Uuid::now_v7(), number, json!({}))).collect();
    record(&one, TOPIC, events, false).await;
    stopping.run(shutdown).await;
    let before = aggregates(&world, &one).await.len();
    assert!((1..=8).contains(&before), "{before} were begun");
    let heir = relay(&two, &Wake::default());
    assert_eq!(heir.relay_batch().await.expect("a batch") + before, 30, "the rest is due at once");
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_record_a_batch_before_it_leaves_and_one_bad_event_holds_up_no_other() {
    let world = World::new().await;
    let state = services(&world, &[]).await;
    let poison = record_one(&state, TOPIC).await;
    let good = [record_one(&state, TOPIC).await, record_one(&state, OTHER).await];
    let batches: Arc<Mutex<Vec<Vec<Uuid>>>> = Arc::default();
    let told = batches.clone();
    let relay = relay(&state, &Wake::default()).recorded_by(Arc::new(move |events| {
        let ids: Vec<Uuid> = events.iter().map(|event| event.aggregate_id).collect();
        let is_bad = ids.contains(&poison);
        told.lock().expect("no panic").push(ids.clone());
        assert!(!(is_bad && ids.len() == 1), "a consumer may panic");
        Box::pin(async move { if is_bad { Err(Problem::not_found("reason")) } else { Ok(()) } })
    }));
    assert_eq!(relay.relay_batch().await.expect("a batch"), 3);
    let seen = batches.lock().expect("no panic").clone();
    assert_eq!(seen.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1, 1, 1], "together, then one by one");
    let mut left = aggregates(&world, &state).await;
    left.sort_unstable();
    let mut expected = good.map(|id| id.to_string());
    expected.sort_unstable();
    assert_eq!(left, expected, "what was not recorded does not leave");
    let due = sqlx::query_scalar::<_, Uuid>("SELECT aggregate_id FROM outbox WHERE state = 0");
    assert_eq!(due.fetch_all(&mut world.sql().await).await.expect("rows"), [poison]);
    world.end(Vec::new()).await;
}
