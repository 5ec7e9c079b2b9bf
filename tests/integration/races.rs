//! Many buyers at the same moment, over two instances.

use std::collections::BTreeMap;

use futures::future::join_all;
use serde_json::json;

use crate::support::arena::Plan;
use crate::support::{Api, Buyer, Sale, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_seat_goes_to_one_of_two_hundred() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    let buyers = Buyer::many(&one.state, 200).await;
    let passes = join_all(buyers.iter().map(|buyer| buyer.enter(&api, &sale))).await;
    let tries =
        buyers.iter().zip(&passes).map(|(buyer, pass)| buyer.try_hold(&api, &sale.performances[0], pass, &["A-1-1"]));
    let mut won = 0;
    for reply in join_all(tries).await {
        if reply.status == 201 {
            won += 1;
        } else {
            assert_eq!(reply.expect_problem(409, "seats_taken")["seat_ids"], json!(["A-1-1"]));
        }
    }
    assert_eq!(won, 1);
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_sent_a_hundred_times_has_one_effect() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let buyer = Buyer::new(&api).await;
    let charge = || {
        let call = api.post("/v1/me/points/charges").bearer(&buyer.token).key("once");
        async { call.json(&json!({"amount": 700})).send().await }
    };
    let replies = join_all((0..100).map(|_| charge())).await;
    let mut seen: BTreeMap<u16, usize> = BTreeMap::new();
    let mut bodies = Vec::new();
    for reply in replies {
        *seen.entry(reply.status).or_default() += 1;
        if reply.status == 201 {
            bodies.push(reply.bytes);
        } else {
            assert!(reply.header("retry-after").is_some());
            reply.expect_problem(409, "idempotency_key_in_flight");
        }
    }
    assert!(!bodies.is_empty(), "{seen:?}");
    assert!(bodies.iter().all(|body| *body == bodies[0]), "every 201 is the same answer");
    let repeat = charge().await;
    assert_eq!(repeat.header("idempotency-replayed"), Some("true"));
    let balance = api.get("/v1/me/points").bearer(&buyer.token).send().await.expect(200);
    assert_eq!(balance["balance"], 700);
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_are_never_more_than_allowed() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let queue = json!({"admit_per_second": 10_000, "max_active": 7, "claim_secs": 60, "session_secs": 600});
    let sale = Sale::new(&api, &one, &Plan { queue, ..Plan::default() }).await;
    let buyers = Buyer::many(&one.state, 60).await;
    let base = format!("/v1/concerts/{}/queue", sale.concert);
    let stay = async |buyer: &Buyer| {
        let pass = buyer.enter(&api, &sale).await;
        let inside = api.get(&base).send().await.expect(200)["active"].as_u64().unwrap();
        assert!(inside <= 7, "{inside} inside");
        let leave = api.delete(&format!("{base}/passes/me")).bearer(&buyer.token).pass(&pass).send().await;
        assert_eq!(leave.status, 204);
    };
    join_all(buyers.iter().map(stay)).await;
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}
