//! The line keeps its promises when Redis forgets it, and obeys its operator.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;
use serde_json::json;

use crate::support::arena::{Plan, text};
use crate::support::{Api, Buyer, Sale, World, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_survive_the_loss_of_redis() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let queue = json!({"admit_per_second": 1000, "max_active": 2, "claim_secs": 60, "session_secs": 600});
    let sale = Sale::new(&api, &one, &Plan { queue, ..Plan::default() }).await;
    let buyers = Buyer::many(&one.state, 8).await;
    let mut tickets = Vec::new();
    for buyer in &buyers {
        tickets.push(buyer.join(&api, &sale).await);
    }
    // The first is inside, the second is called and has not come yet, the others wait.
    let inside = buyers[0].claim(&api, &sale, &tickets[0]).await;
    let base = format!("/v1/concerts/{}/queue", sale.concert);
    eventually("the second call", || async { (api.get(&base).send().await.expect(200)["serving"] == 2).then_some(()) })
        .await;
    eventually("the checkpoint", || async {
        let sql = "SELECT serving FROM queue_sales";
        let serving: u64 = sqlx::query_scalar(sql).fetch_one(&mut world.sql().await).await.unwrap();
        (serving == 2).then_some(())
    })
    .await;

    world.wipe_redis().await;

    // Whoever presents a ticket has that place again; a newcomer stands behind everybody.
    let tickets_path = format!("{base}/tickets");
    let mut arrivals = HashSet::new();
    for (index, (buyer, ticket)) in buyers.iter().zip(&tickets).enumerate() {
        let place = eventually("the line to be rebuilt", || async {
            let reply = api.post(&tickets_path).bearer(&buyer.token).ticket(ticket).send().await;
            (reply.status != 503).then_some(reply)
        })
        .await;
        let place = place.expect(200);
        assert_eq!(place["arrival"], index);
        arrivals.insert(place["arrival"].as_u64().unwrap());
    }
    let newcomer = Buyer::new(&api).await;
    let late = api.post(&tickets_path).bearer(&newcomer.token).send().await.expect(201);
    assert!(arrivals.insert(late["arrival"].as_u64().unwrap()), "a number issued twice");

    // The one inside goes on, the one who was called may claim, and the line goes on to the newcomer in order.
    buyers[0].hold(&api, &sale.performances[0], &inside, &["A-1-1"]).await;
    for (buyer, ticket) in buyers.iter().zip(&tickets).skip(1) {
        let pass = buyer.claim(&api, &sale, ticket).await;
        let leave = api.delete(&format!("{base}/passes/me")).bearer(&buyer.token).pass(&pass).send().await;
        assert_eq!(leave.status, 204);
    }
    newcomer.claim(&api, &sale, &text(&late["ticket"])).await;
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_instance_that_finds_redis_empty_calls_nobody_early() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    // One is inside for ten minutes, everybody else waits.
    let queue = json!({"admit_per_second": 1000, "max_active": 1, "claim_secs": 60, "session_secs": 600});
    let sale = Sale::new(&api, &one, &Plan { queue, ..Plan::default() }).await;
    let buyers = Buyer::many(&one.state, 6).await;
    buyers[0].enter(&api, &sale).await;
    let mut tickets = Vec::new();
    for buyer in &buyers[1..] {
        tickets.push(buyer.join(&api, &sale).await);
    }
    eventually("the checkpoint", || async {
        let sql = "SELECT issued FROM queue_sales";
        let issued: u64 = sqlx::query_scalar(sql).fetch_one(&mut world.sql().await).await.unwrap();
        (issued == 6).then_some(())
    })
    .await;
    one.stop().await;
    world.wipe_redis().await;

    let two = world.instance().await;
    let api = Api::over(&[&two]);
    let base = format!("/v1/concerts/{}/queue", sale.concert);
    eventually("the line to be rebuilt", || async {
        (api.get(&base).send().await.expect(200)["active"] == 1).then_some(())
    })
    .await;
    for (buyer, ticket) in buyers[1..].iter().zip(&tickets) {
        let place = api.get(&format!("{base}/tickets/me")).ticket(ticket).send().await.expect(200);
        assert_eq!(place["status"], "waiting", "{place}");
        let claim = api.post(&format!("{base}/passes")).bearer(&buyer.token).ticket(ticket).send().await;
        claim.expect_problem(409, "not_called");
    }
    world.assert_clean(&two).await;
    world.end(vec![two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stay_that_is_over_takes_no_slot_after_a_loss() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let queue = json!({"admit_per_second": 1000, "max_active": 1, "claim_secs": 60, "session_secs": 600});
    let sale = Sale::new(&api, &one, &Plan { queue, ..Plan::default() }).await;
    let (first, second) = (Buyer::new(&api).await, Buyer::new(&api).await);
    let ticket = first.join(&api, &sale).await;
    let pass = first.claim(&api, &sale, &ticket).await;
    let base = format!("/v1/concerts/{}/queue", sale.concert);
    let leave = api.delete(&format!("{base}/passes/me")).bearer(&first.token).pass(&pass).send().await;
    assert_eq!(leave.status, 204);
    world.wipe_redis().await;

    eventually("a clear answer", || async {
        let again = api.post(&format!("{base}/passes")).bearer(&first.token).ticket(&ticket).send().await;
        if again.status != 410 {
            again.expect_problem(409, "not_called");
            return None;
        }
        again.expect_problem(410, "ticket_lapsed");
        Some(())
    })
    .await;
    second.enter(&api, &sale).await;
    world.assert_clean(&one).await;
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_pass_ends_no_new_stay_and_a_sold_out_sale_keeps_places() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sections = json!([{"code": "A", "name": "Hall", "rows": [{"name": "1", "seats": 1}]}]);
    let sale = Sale::new(&api, &one, &Plan { sections, ..Plan::default() }).await;
    let buyer = Buyer::new(&api).await;
    buyer.charge(&api, 10_000).await;
    let old = buyer.enter(&api, &sale).await;
    let path = format!("/v1/concerts/{}/queue/passes/me", sale.concert);
    assert_eq!(api.delete(&path).bearer(&buyer.token).pass(&old).send().await.status, 204);
    let tickets = format!("/v1/concerts/{}/queue/tickets", sale.concert);
    let ticket = eventually("a new place", || async {
        let reply = api.post(&tickets).bearer(&buyer.token).send().await;
        (reply.status == 201).then(|| text(&reply.body["ticket"]))
    })
    .await;
    let new = buyer.claim(&api, &sale, &ticket).await;
    assert_eq!(api.delete(&path).bearer(&buyer.token).pass(&old).send().await.status, 204);
    let hold = buyer.hold(&api, &sale.performances[0], &new, &["A-1-1"]).await;

    let waiting = Buyer::new(&api).await;
    let place = api.post(&tickets).bearer(&waiting.token).send().await.expect(201);
    buyer.try_pay(&api, &hold, "all of it").await.expect(201);
    let late = Buyer::new(&api).await;
    let queue = format!("/v1/concerts/{}/queue", sale.concert);
    eventually("sold out", || async {
        (api.get(&queue).send().await.expect(200)["phase"] == "sold_out").then_some(())
    })
    .await;
    api.post(&tickets).bearer(&late.token).send().await.expect_problem(409, "sold_out");
    let again = api.post(&tickets).bearer(&waiting.token).send().await.expect(200);
    assert_eq!(again["arrival"], place["arrival"]);
    world.assert_clean(&one).await;
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_are_never_issued_twice_while_redis_is_wiped() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let queue = json!({"admit_per_second": 1, "max_active": 1, "claim_secs": 60, "session_secs": 600});
    let sale = Sale::new(&api, &one, &Plan { queue, ..Plan::default() }).await;
    let buyers = Buyer::many(&one.state, 120).await;
    let path = format!("/v1/concerts/{}/queue/tickets", sale.concert);
    let join = async |buyer: &Buyer| {
        eventually("a place", || async {
            let reply = api.post(&path).bearer(&buyer.token).send().await;
            (reply.status != 503).then(|| reply.body["arrival"].as_u64().expect("an arrival"))
        })
        .await
    };
    let wipes = async {
        for _ in 0..5 {
            world.wipe_redis().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (arrivals, ()) = tokio::join!(join_all(buyers.iter().map(join)), wipes);
    let different: HashSet<u64> = arrivals.iter().copied().collect();
    assert_eq!(different.len(), arrivals.len(), "{arrivals:?}");
    world.end(vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_is_obeyed_on_every_instance() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    let base = format!("/v1/concerts/{}/queue", sale.concert);
    let rules = format!("/v1/admin/concerts/{}/queue", sale.concert);
    let change = |body| api.patch(&rules).bearer(&sale.operator).json(&body).send();
    let both = async |phase: &str| {
        eventually("both instances to follow", || async {
            let (first, second) = (api.get(&base).send().await.expect(200), api.get(&base).send().await.expect(200));
            (first["phase"] == phase && second["phase"] == phase).then_some(())
        })
        .await;
    };

    let changed = change(json!({"paused": true, "max_active": 3})).await.expect(200);
    assert_eq!((changed["paused"].as_bool(), changed["max_active"].as_u64()), (Some(true), Some(3)));
    both("paused").await;
    let buyer = Buyer::new(&api).await;
    let ticket = buyer.join(&api, &sale).await;
    let claim = api.post(&format!("{base}/passes")).bearer(&buyer.token).ticket(&ticket).send().await;
    claim.expect_problem(409, "not_called");
    change(json!({"paused": false})).await.expect(200);
    both("open").await;
    buyer.claim(&api, &sale, &ticket).await;

    change(json!({"max_active": 0})).await.expect_problem(422, "invalid_body");
    change(json!({"speed": 1})).await.expect_problem(422, "invalid_body");
    let foreign = api.patch(&rules).bearer(&buyer.token).json(&json!({"paused": true})).send().await;
    foreign.expect_problem(403, "forbidden");
    world.end(vec![one, two]).await;
}

/// Leaving while a claim is on its way must not leave a stay behind that no slot counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_while_claiming_is_out() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let (claims, leaves) = (Api::over(&[&one]), Api::over(&[&two]));
    let hall = json!([{"code": "A", "name": "Hall", "rows": [{"name": "1", "seats": 100}]}]);
    let sale = Sale::new(&claims, &one, &Plan { sections: hall, ..Plan::default() }).await;
    let buyers = Buyer::many(&one.state, 40).await;
    let base = format!("/v1/concerts/{}/queue", sale.concert);
    let mut tickets = Vec::new();
    for buyer in &buyers {
        tickets.push(buyer.join(&claims, &sale).await);
    }
    eventually("everybody to be called", || async {
        let seen = [claims.get(&base).send().await.expect(200), leaves.get(&base).send().await.expect(200)];
        seen.iter().all(|line| line["serving"] == 40).then_some(())
    })
    .await;
    let both = |number: usize| {
        let (token, ticket) = (&buyers[number].token, &tickets[number]);
        let claim = claims.post(&format!("{base}/passes")).bearer(token).ticket(ticket);
        let leave = leaves.delete(&format!("{base}/tickets/me")).bearer(token).ticket(ticket);
        async move {
            let later = Duration::from_micros(300 * number as u64);
            let (claim, leave) = tokio::join!(claim.send(), async {
                tokio::time::sleep(later).await;
                leave.send().await
            });
            assert!(matches!(claim.status, 201 | 410), "{claim:?}");
            assert_eq!(leave.status, 204, "{leave:?}");
            claim.status
        }
    };
    let statuses = join_all((0..buyers.len()).map(both)).await;
    println!(
        "{} of {} claims were let in first",
        statuses.iter().filter(|status| **status == 201).count(),
        buyers.len()
    );
    let live = "SELECT COUNT(*) FROM queue_passes WHERE is_live = 1";
    let live: i64 = sqlx::query_scalar(live).fetch_one(&mut world.sql().await).await.expect("a count");
    assert_eq!(live, 0, "stays of places that were given up");
    eventually("the slots to be free", || async {
        (claims.get(&base).send().await.expect(200)["active"] == 0).then_some(())
    })
    .await;
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}
