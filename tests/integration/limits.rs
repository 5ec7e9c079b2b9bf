//! Nothing is unbounded: who is slow, who is too many and what takes too long get an end or a clear answer, and
//! everybody else is served meanwhile.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Api, Buyer, Reply, Wire, World, eventually};

/// Settings with which a request that waits for a lock waits longer than any test.
const PATIENT: [(&str, &str); 2] =
    [("FRONTROW__DATABASE__LOCK_WAIT_SECS", "300"), ("FRONTROW__DATABASE__UNIT_TIMEOUT_MS", "300000")];

async fn charge(api: &Api, buyer: &Buyer) -> Reply {
    let call = api.post("/v1/me/points/charges").bearer(&buyer.token).key("k");
    call.json(&json!({"amount": 5})).send().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_a_head_slowly_is_cut_off() {
    let world = World::with(&[("FRONTROW__HTTP__HEADER_TIMEOUT_SECS", "1")]).await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let (mut drip, mut idle) = (Wire::to(&one.base).await, Wire::to(&one.base).await);
    assert!(drip.send("GET /livez HTTP/1.1\r\nx-slow: ").await);
    assert_eq!(idle.get("/livez").await.expect("an answer").status, 200);
    let mut served = 0;
    // Byte by byte the head never ends; what counts is the time since it began.
    while drip.is_silent().await {
        drip.send("x").await;
        assert_eq!(api.get("/livez").send().await.status, 200, "others are served");
        served += 1;
        assert!(served < 200, "the connection is never cut");
    }
    assert!(served > 0);
    assert!(drip.reply().await.is_none_or(|reply| reply.status == 408));
    assert!(idle.reply().await.is_none_or(|reply| reply.status == 408), "an idle connection ends too");
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_too_many_waits_while_every_place_is_at_work() {
    let world = World::with(&PATIENT).await;
    let one = world.instance().await;
    let narrow = world.instance_with(&[("FRONTROW__HTTP__CONNECTIONS_MAX", "1")]).await;
    let buyer = Buyer::many(&one.state, 1).await.remove(0);
    let lock = world.lock_points(&buyer).await;
    let working = tokio::spawn({
        let (api, buyer) = (Api::over(&[&narrow]), buyer.clone());
        async move { charge(&api, &buyer).await }
    });
    world.wait_for_waiter().await;
    let mut second = Wire::to(&narrow.base).await;
    second.send("GET /livez HTTP/1.1\r\nhost: test\r\n\r\n").await;
    for _ in 0..20 {
        assert!(second.is_silent().await, "one place, one connection");
    }
    drop(lock);
    assert_eq!(working.await.expect("no panic").expect(201)["balance"], 5);
    assert_eq!(second.reply().await.expect("a place is free").status, 200);
    world.end(vec![one, narrow]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_too_many_is_refused_at_once() {
    let world = World::with(&PATIENT).await;
    let one = world.instance_with(&[("FRONTROW__HTTP__REQUESTS_MAX", "1")]).await;
    let api = Api::over(&[&one]);
    let buyer = Buyer::many(&one.state, 1).await.remove(0);
    let lock = world.lock_points(&buyer).await;
    let waiting = tokio::spawn({
        let (api, buyer) = (api.clone(), buyer.clone());
        async move { charge(&api, &buyer).await }
    });
    world.wait_for_waiter().await;
    for path in ["/v1/concerts", "/openapi.json", "/v1/nothing"] {
        let refused = api.get(path).send().await;
        assert_eq!(refused.header("retry-after"), Some("1"));
        refused.expect_problem(503, "overloaded");
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(api.get(path).send().await.status, 200, "{path} is always answered");
    }
    drop(lock);
    assert_eq!(waiting.await.expect("no panic").status, 201);
    assert_eq!(api.get("/v1/concerts").send().await.status, 200);
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_takes_too_long_is_told_and_can_be_repeated() {
    let world = World::with(&PATIENT).await;
    let one = world.instance_with(&[("FRONTROW__HTTP__REQUEST_TIMEOUT_MS", "400")]).await;
    let api = Api::over(&[&one]);
    let buyer = Buyer::many(&one.state, 1).await.remove(0);
    let lock = world.lock_points(&buyer).await;
    let started = Instant::now();
    let late = charge(&api, &buyer).await;
    assert!(started.elapsed() < Duration::from_secs(8), "the limit is far below the default of ten seconds");
    assert!(late.header("retry-after").is_some());
    late.expect_problem(503, "timed_out");
    // Its unit of work goes on: the same key finds it running, and then done.
    charge(&api, &buyer).await.expect_problem(409, "idempotency_key_in_flight");
    drop(lock);
    let repeat = eventually("the first to take effect", || async {
        let reply = charge(&api, &buyer).await;
        (reply.status == 201).then_some(reply)
    })
    .await;
    assert_eq!(repeat.header("idempotency-replayed"), Some("true"));
    assert_eq!(repeat.body["balance"], 5);
    world.end(vec![one]).await;
}
