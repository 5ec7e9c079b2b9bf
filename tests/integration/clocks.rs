//! Expiry on a moved clock: a second before an end, and a second after it.

use std::time::Duration;

use serde_json::json;

use crate::support::arena::Plan;
use crate::support::{Api, Buyer, Sale, World, eventually};

const HOLD: u64 = 300;
const SESSION: u64 = 600;
const CLAIM: u64 = 60;

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_ends_on_time_against_another_buyer() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    let (ada, ben) = (Buyer::new(&api).await, Buyer::new(&api).await);
    let (hers, his) = (ada.enter(&api, &sale).await, ben.enter(&api, &sale).await);
    let evening = &sale.performances[0];
    let hold = ada.hold(&api, evening, &hers, &["A-1-1"]).await;

    world.advance(secs(HOLD - 1));
    ben.try_hold(&api, evening, &his, &["A-1-1"]).await.expect_problem(409, "seats_taken");
    world.advance(secs(2));
    let path = format!("/v1/holds/{hold}");
    assert_eq!(api.get(&path).bearer(&ada.token).send().await.expect(200)["status"], "expired");
    let next = ben.hold(&api, evening, &his, &["A-1-1"]).await;

    // What Ada does with her old hold changes nothing for Ben.
    ada.charge(&api, 100_000).await;
    ada.try_pay(&api, &hold, "late").await.expect_problem(410, "hold_expired");
    assert_eq!(api.delete(&path).bearer(&ada.token).send().await.status, 204);
    ben.charge(&api, 100_000).await;
    ben.try_pay(&api, &next, "in time").await.expect(201);
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_ends_on_time_against_a_payment() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    let (early, late) = (Buyer::new(&api).await, Buyer::new(&api).await);
    let mut holds = Vec::new();
    for (buyer, seat) in [(&early, "A-1-1"), (&late, "A-1-2")] {
        buyer.charge(&api, 50_000).await;
        let pass = buyer.enter(&api, &sale).await;
        holds.push(buyer.hold(&api, &sale.performances[0], &pass, &[seat]).await);
    }
    world.advance(secs(HOLD - 5));
    early.try_pay(&api, &holds[0], "k").await.expect(201);
    world.advance(secs(6));
    late.try_pay(&api, &holds[1], "k").await.expect_problem(410, "hold_expired");
    let balance = api.get("/v1/me/points").bearer(&late.token).send().await.expect(200);
    assert_eq!(balance["balance"], 50_000);
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_ends_on_time_and_its_slot_is_free() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let queue = json!({"admit_per_second": 1000, "max_active": 1, "claim_secs": 60, "session_secs": 600});
    let sale = Sale::new(&api, &one, &Plan { queue, ..Plan::default() }).await;
    let (ada, ben) = (Buyer::new(&api).await, Buyer::new(&api).await);
    let hers = ada.enter(&api, &sale).await;
    let ticket = ben.join(&api, &sale).await;
    let evening = &sale.performances[0];

    world.advance(secs(SESSION - 5));
    ada.hold(&api, evening, &hers, &["A-1-1"]).await;
    let claim = format!("/v1/concerts/{}/queue/passes", sale.concert);
    let early = api.post(&claim).bearer(&ben.token).ticket(&ticket).send().await;
    early.expect_problem(409, "not_called");

    world.advance(secs(6));
    ada.try_hold(&api, evening, &hers, &["A-1-2"]).await.expect_problem(403, "pass_expired");
    ben.claim(&api, &sale, &ticket).await;
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_nobody_claims_lapses() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let queue = json!({"admit_per_second": 1000, "max_active": 1, "claim_secs": 60, "session_secs": 600});
    let sale = Sale::new(&api, &one, &Plan { queue, ..Plan::default() }).await;
    let (ada, ben) = (Buyer::new(&api).await, Buyer::new(&api).await);
    let (hers, his) = (ada.join(&api, &sale).await, ben.join(&api, &sale).await);
    let me = format!("/v1/concerts/{}/queue/tickets/me", sale.concert);
    eventually("the call", || async {
        (api.get(&me).ticket(&hers).send().await.expect(200)["status"] == "called").then_some(())
    })
    .await;
    world.advance(secs(CLAIM - 1));
    assert_eq!(api.get(&me).ticket(&hers).send().await.expect(200)["status"], "called");
    world.advance(secs(2));
    assert_eq!(api.get(&me).ticket(&hers).send().await.expect(200)["status"], "lapsed");
    let claim = format!("/v1/concerts/{}/queue/passes", sale.concert);
    let late = api.post(&claim).bearer(&ada.token).ticket(&hers).send().await;
    late.expect_problem(410, "ticket_lapsed");
    ben.claim(&api, &sale, &his).await;
    world.end(vec![one]).await;
}
