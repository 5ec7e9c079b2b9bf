//! Listening to a line: the same bytes for everybody, as many listeners as there are places, and an end in good order.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures::future::join_all;
use serde_json::json;

use crate::support::arena::Plan;
use crate::support::listener::Frame;
use crate::support::{Api, Buyer, Instance, Listener, Sale, Wire, World, eventually};

/// Listeners at once.
const MANY: usize = 1000;
/// Connections opened at a time: fewer than fit into the listener's backlog.
const BURST: usize = 100;
/// Events after which a listener that does not read must be gone: far more than any buffer holds, and than are sent while a
/// blocked write has its time.
const EVENTS_MAX: u64 = 200_000;

/// A line that calls nobody by itself.
fn still() -> Plan {
    let queue = json!({"admit_per_second": 1, "max_active": 1, "claim_secs": 3600, "session_secs": 3600});
    Plan { queue, ..Plan::default() }
}

fn path(sale: &Sale) -> String {
    format!("/v1/concerts/{}/queue/events", sale.concert)
}

async fn listen(api: &Api, sale: &Sale) -> Listener {
    let listener = api.get(&path(sale)).listen().await;
    assert_eq!(listener.status(), 200);
    listener
}

async fn world(settings: &[(&str, &str)]) -> (World, Instance, Api, Sale) {
    let mut all = vec![("FRONTROW__QUEUE__EVENTS_MS", "1")];
    all.extend(settings);
    let world = World::with(&all).await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &still()).await;
    (world, one, api, sale)
}

/// Joins by so many more; how many were issued at least.
async fn join(one: &Instance, api: &Api, sale: &Sale, count: u32) {
    for buyer in Buyer::many(&one.state, count).await {
        buyer.join(api, sale).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_gets_the_same_bytes_and_nobody_what_they_have() {
    let (world, one, api, sale) = world(&[]).await;
    let mut first = api.get(&path(&sale)).header("accept-encoding", "gzip, br").listen().await;
    assert_eq!((first.status(), first.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!((first.header("cache-control"), first.header("x-accel-buffering")), (Some("no-store"), Some("no")));
    assert_eq!((first.header("content-encoding"), first.header("content-length")), (None, None));
    let begin = first.frame().await.expect("when to come again");
    assert!(begin.retry().is_some_and(|retry| (1000..=5000).contains(&retry)), "{begin:?}");
    let now = first.event().await.expect("the state at once").data();
    let members: BTreeSet<&str> = now.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(members, BTreeSet::from(["admit_per_second", "at", "issued", "phase", "seats_left", "serving"]));
    assert_eq!((&now["issued"], &now["admit_per_second"]), (&json!(0), &json!(1)));

    let mut second = listen(&api, &sale).await;
    join(&one, &api, &sale, 3).await;
    let is_done = |data: &serde_json::Value| data["issued"] == 3 && data["serving"] == 1;
    let mut last = [first.event_with(is_done).await, second.event_with(is_done).await];
    while last[0].id() != last[1].id() {
        // One of them has seen an event in between that the other one's network was too slow for.
        let behind = usize::from(last[0].id() > last[1].id());
        last[behind] = [&mut first, &mut second][behind].event().await.expect("an event");
    }
    assert_eq!(last[0], last[1]);

    // Whoever has the current one waits for the next; whoever has an older one gets it at once.
    let id = last[0].id();
    let mut current = api.get(&path(&sale)).header("last-event-id", &id.to_string()).listen().await;
    let mut older = api.get(&path(&sale)).header("last-event-id", &(id - 1).to_string()).listen().await;
    assert_eq!(older.event().await.expect("the current one"), last[0]);
    assert!(current.frame().await.expect("when to come again").retry().is_some());
    join(&one, &api, &sale, 1).await;
    let next = current.event().await.expect("the next one");
    assert!(next.id() > id && next.data()["issued"] == 4, "{next:?}");
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_hear_of_a_change() {
    let (world, one, api, sale) = world(&[]).await;
    let mut listeners = Vec::new();
    while listeners.len() < MANY {
        listeners.extend(join_all((0..BURST).map(|_| listen(&api, &sale))).await);
    }
    join(&one, &api, &sale, 1).await;
    let heard = join_all(listeners.iter_mut().map(|it| it.event_with(|data| data["issued"] == 1))).await;
    let mut by_id: HashMap<i64, &Frame> = HashMap::new();
    for frame in &heard {
        assert_eq!(*by_id.entry(frame.id()).or_insert(frame), frame, "one event, other bytes");
    }
    assert_eq!(heard.len(), MANY);
    drop(listeners);
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_too_many_is_refused_until_there_is_a_place() {
    let (world, one, api, sale) = world(&[("FRONTROW__QUEUE__LISTENERS_MAX", "2")]).await;
    let (first, second) = (listen(&api, &sale).await, listen(&api, &sale).await);
    let refused = api.get(&path(&sale)).send().await;
    assert!(refused.header("retry-after").is_some());
    refused.expect_problem(503, "overloaded");
    assert_eq!(api.get(&format!("/v1/concerts/{}/queue", sale.concert)).send().await.status, 200);
    drop(first);
    // Whoever asks for the head alone keeps no place.
    for _ in 0..5 {
        eventually("a place", || async {
            let head = api.call(reqwest::Method::HEAD, &path(&sale)).send().await;
            assert!(matches!(head.status, 200 | 503));
            (head.status == 200).then_some(())
        })
        .await;
    }
    eventually("a place", || async { (api.get(&path(&sale)).listen().await.status() == 200).then_some(()) }).await;
    drop(second);
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_is_dropped_and_the_others_go_on() {
    // No tick comes between: what happens in the line, the test says.
    let settings = [
        ("FRONTROW__HTTP__WRITE_TIMEOUT_SECS", "1"),
        ("FRONTROW__QUEUE__MISSED_EVENTS_MAX", "2"),
        ("FRONTROW__QUEUE__TICK_MS", "3600000"),
    ];
    let (world, one, api, sale) = world(&settings).await;
    let mut good = listen(&api, &sale).await;
    let mut slow = Wire::narrow(&one.base, 4096).await;
    assert!(slow.send(&format!("GET {} HTTP/1.1\r\nhost: test\r\n\r\n", path(&sale))).await);
    let line = one.state.queue.get_sale(sale.concert.parse().expect("an id")).await.expect("the sale");
    let dropped = "frontrow_queue_listeners_dropped_total";
    let before = api.metric(dropped).await;
    let mut issued = 1_000_000;
    // An empty line is nothing to a server, as long as there is one.
    while slow.send("\r\n").await {
        issued += 1;
        world.advance(Duration::from_secs(1));
        line.mark_issued(issued);
        line.publish(one.state.clock.now());
        good.event_with(|data| data["issued"].as_u64() >= Some(issued)).await;
        assert!(issued < 1_000_000 + EVENTS_MAX, "whoever does not read is kept");
    }
    assert!(issued > 1_000_000 + 10, "dropped after {issued}, before it could have missed anything");
    eventually("the drop to be counted", || async { (api.metric(dropped).await > before).then_some(()) }).await;
    world.advance(Duration::from_secs(1));
    line.mark_issued(2_000_000);
    line.publish(one.state.clock.now());
    good.event_with(|data| data["issued"].as_u64() > Some(2_000_000)).await;
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_filled_and_takes_nothing_from_others() {
    let settings = [
        ("FRONTROW__QUEUE__HEARTBEAT_MS", "100"),
        ("FRONTROW__HTTP__HEADER_TIMEOUT_SECS", "1"),
        ("FRONTROW__HTTP__WRITE_TIMEOUT_SECS", "1"),
        ("FRONTROW__HTTP__REQUEST_TIMEOUT_MS", "1500"),
        ("FRONTROW__HTTP__REQUESTS_MAX", "1"),
    ];
    let (world, one, api, sale) = world(&settings).await;
    let mut listener = listen(&api, &sale).await;
    // Three times as long as any of these limits.
    let mut heartbeats = 0;
    while heartbeats < 45 {
        heartbeats += usize::from(listener.frame().await.expect("the stream goes on").is_heartbeat());
        assert_eq!(api.get(&format!("/v1/concerts/{}/queue", sale.concert)).send().await.status, 200);
    }
    join(&one, &api, &sale, 1).await;
    listener.event_with(|data| data["issued"] == 1).await;
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_instance_sends_its_listeners_elsewhere_spread_out() {
    let settings = [("FRONTROW__HTTP__DRAIN_IDLE_MS", "100000"), ("FRONTROW__HTTP__DRAIN_TIMEOUT_SECS", "200")];
    let (world, one, api, sale) = world(&settings).await;
    let mut listeners = join_all((0..50).map(|_| listen(&api, &sale))).await;
    for listener in &mut listeners {
        listener.event().await.expect("the state");
    }
    let mut late = Wire::to(&one.base).await;
    assert_eq!(late.get("/livez").await.expect("an answer").status, 200);
    one.shutdown.request();
    // Idle connections are kept for longer than this test may take: the streams do not wait for that.
    let mut moments = BTreeSet::new();
    for listener in &mut listeners {
        let mut last = None;
        while let Some(frame) = listener.frame().await {
            last = Some(frame);
        }
        let retry = last.and_then(|frame| frame.retry()).expect("when to come again, as the last word");
        assert!((1000..=5000).contains(&retry));
        moments.insert(retry);
    }
    assert!(moments.len() > 25, "{moments:?}");
    // Who asks now, on a connection that was open, is sent away in the same manner.
    late.send(&format!("GET {} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n", path(&sale))).await;
    let reply = late.reply().await.expect("an answer");
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    drop((listeners, late, api));
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_sale_has_a_last_event() {
    let (world, one, api, sale) = world(&[]).await;
    let mut listener = listen(&api, &sale).await;
    listener.event().await.expect("the state");
    world.advance(Duration::from_hours(24 * 31));
    let last = listener.event_with(|data| data["phase"] == "closed").await;
    assert_eq!(listener.frame().await, None, "nothing comes after it");
    let mut late = listen(&api, &sale).await;
    assert_eq!(late.event().await.map(|event| event.id()), Some(last.id()));
    assert_eq!(late.frame().await, None);
    let again = api.get(&path(&sale)).header("last-event-id", &last.id().to_string()).send().await;
    assert_eq!((again.status, again.bytes.len()), (204, 0), "there is no need to come again");
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_listens_early_hears_of_the_opening() {
    let world = World::with(&[("FRONTROW__QUEUE__EVENTS_MS", "1")]).await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &Plan { opens_in_secs: 7200, ..still() }).await;
    let mut listener = listen(&api, &sale).await;
    assert_eq!(listener.event().await.expect("the state").data()["phase"], "scheduled");
    // Read again meanwhile, as what is not live is.
    for _ in 0..3 {
        api.get(&format!("/v1/concerts/{}/queue", sale.concert)).send().await.expect(200);
        world.advance(Duration::from_secs(5));
    }
    world.advance(Duration::from_hours(2));
    listener.event_with(|data| data["phase"] == "open").await;
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_goes_before_a_buyer_is_kept_waiting() {
    let (world, one, api, sale) = world(&[("FRONTROW__HTTP__HEADER_TIMEOUT_SECS", "300")]).await;
    let narrow = world.instance_with(&[("FRONTROW__HTTP__CONNECTIONS_MAX", "4")]).await;
    let mut listeners = Vec::new();
    for _ in 0..4 {
        let mut listener = listen(&Api::over(&[&narrow]), &sale).await;
        listener.event().await.expect("the state");
        listeners.push(listener);
    }
    let mut wire = Wire::to(&narrow.base).await;
    assert_eq!(wire.get("/livez").await.expect("a place").status, 200);
    // Those who stay hear what happens.
    join(&one, &api, &sale, 1).await;
    let mut heard = 0;
    for mut listener in listeners {
        while let Some(event) = listener.event().await {
            if event.data()["issued"] == 1 {
                heard += 1;
                break;
            }
        }
    }
    assert!((1..4).contains(&heard), "{heard} of 4 still listen");
    world.end(vec![one, narrow]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_public_state_is_ready_and_follows_what_happens() {
    let (world, one, api, sale) = world(&[]).await;
    let line = format!("/v1/concerts/{}/queue", sale.concert);
    let (tag, whole) = eventually("the line to come to rest", || async {
        let (first, second) = (api.get(&line).send().await, api.get(&line).send().await);
        let tag = first.header("etag").expect("a tag").to_owned();
        let known = api.get(&line).header("if-none-match", &tag).send().await;
        assert!(known.status == 200 || (known.status == 304 && known.bytes.is_empty()));
        assert_eq!(first.header("cache-control"), Some("public, max-age=1"));
        (known.status == 304 && first.bytes == second.bytes).then_some((tag, first.bytes))
    })
    .await;
    join(&one, &api, &sale, 2).await;
    eventually("the change to be seen", || async {
        let reply = api.get(&line).header("if-none-match", &tag).send().await;
        (reply.status == 200 && reply.bytes != whole && reply.expect(200)["issued"] == 2).then_some(())
    })
    .await;
    // By time alone, and without a tick: at once.
    let later = Sale::new(&api, &one, &Plan { opens_in_secs: 3600, ..still() }).await;
    let line = format!("/v1/concerts/{}/queue", later.concert);
    assert_eq!(api.get(&line).send().await.expect(200)["phase"], "scheduled");
    world.advance(Duration::from_secs(3601));
    assert_eq!(api.get(&line).send().await.expect(200)["phase"], "open");
    world.end(vec![one]).await;
}
