//! What holds admission back: latency over its objective, and seats that are all held.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::arena::Plan;
use crate::support::{Api, Buyer, Sale, World, eventually};

async fn line_of(api: &Api, sale: &Sale) -> Value {
    let path = format!("/v1/admin/concerts/{}/queue", sale.concert);
    api.get(&path).bearer(&sale.operator).send().await.expect(200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fewer_are_called_while_holds_are_slower_than_their_objective() {
    // No hold is faster than nothing.
    let world = World::with(&[("FRONTROW__QUEUE__SLO_MS", "0")]).await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    let buyer = Buyer::new(&api).await;
    let pass = buyer.enter(&api, &sale).await;
    let full = line_of(&api, &sale).await;
    assert_eq!((full["pace_per_second"].as_f64(), full["store"].as_str()), (Some(1000.0), Some("redis")));

    let slowed = eventually("a lower pace", || async {
        for _ in 0..6 {
            let hold = buyer.hold(&api, &sale.performances[0], &pass, &["A-1-1"]).await;
            let release = api.delete(&format!("/v1/holds/{hold}")).bearer(&buyer.token).send().await;
            assert_eq!(release.status, 204);
        }
        // Two seconds on the clock are one step down.
        world.advance(Duration::from_secs(2));
        let line = line_of(&api, &sale).await;
        (line["pace_per_second"].as_f64()? < 400.0).then_some(line)
    })
    .await;
    assert_eq!(slowed["rules"]["admit_per_second"], 1000, "{slowed}");
    // The instances of all tests of this process write the same gauges: only their names can be told here.
    let reply = api.get("/metrics").send().await;
    let metrics = String::from_utf8_lossy(&reply.bytes);
    for name in ["frontrow_queue_lines_bound{by=\"latency\"}", "frontrow_queue_pace_per_second{limit=\"latency\"}"] {
        assert!(metrics.contains(name), "{name}");
    }

    // Nobody holds any more: half a minute gives the rate back.
    eventually("the rate again", || async {
        world.advance(Duration::from_secs(5));
        let line = line_of(&api, &sale).await;
        (line["pace_per_second"].as_f64() == Some(1000.0)).then_some(())
    })
    .await;
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_waits_for_returns_while_all_seats_are_held() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sections = json!([{"code": "A", "name": "Hall", "rows": [{"name": "1", "seats": 2}]}]);
    let sale = Sale::new(&api, &one, &Plan { sections, ..Plan::default() }).await;
    let (holder, waiting, payer) = (Buyer::new(&api).await, Buyer::new(&api).await, Buyer::new(&api).await);
    let pass = holder.enter(&api, &sale).await;
    holder.hold(&api, &sale.performances[0], &pass, &["A-1-1", "A-1-2"]).await;
    let queue = format!("/v1/concerts/{}/queue", sale.concert);
    let open = eventually("every seat to be held", || async {
        let line = api.get(&queue).send().await.expect(200);
        (line["seats_left"] == 0).then_some(line)
    })
    .await;
    assert_eq!(open["phase"], "open");
    // New places are given: seats may come back.
    let ticket = waiting.join(&api, &sale).await;
    eventually("the seats to bind", || async { (line_of(&api, &sale).await["bound_by"] == "seats").then_some(()) })
        .await;
    let me = format!("{queue}/tickets/me");
    assert_eq!(api.get(&me).ticket(&ticket).send().await.expect(200)["status"], "waiting");

    world.advance(Duration::from_secs(301));
    let pass = waiting.claim(&api, &sale, &ticket).await;
    waiting.charge(&api, 20_000).await;
    let hold = waiting.hold(&api, &sale.performances[0], &pass, &["A-1-1", "A-1-2"]).await;
    waiting.try_pay(&api, &hold, "both").await.expect(201);
    eventually("sold out", || async {
        (api.get(&queue).send().await.expect(200)["phase"] == "sold_out").then_some(())
    })
    .await;
    let late = api.post(&format!("{queue}/tickets")).bearer(&payer.token).send().await;
    late.expect_problem(409, "sold_out");
    world.assert_clean(&one).await;
    world.end(vec![one]).await;
}
