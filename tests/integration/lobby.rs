//! A lobby and its draw: the size counted once, ranks that anybody can recompute, and a seed that nobody sees before.
//!
//! `FRONTROW_CROWD` sets how many come to the large lobby.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use frontrow::accounts::UserId;
use frontrow::catalog::ConcertId;
use frontrow::queue::Queue;
use frontrow::queue::domain::Standing;
use frontrow::queue::draw::{self, Permutation};
use futures::StreamExt as _;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use crate::support::arena::{Plan, text};
use crate::support::{Api, Buyer, Instance, Sale, World, eventually};

/// When the lobby has been open for a minute, and booking opens in an hour.
const OPENS_IN: u32 = 3600;

fn plan(instance: &Instance, queue: &Value) -> Plan {
    let mut queue = queue.clone();
    queue["order"] = json!("draw");
    queue["lobby_opens_at"] = json!(instance.state.clock.now().minus(Duration::from_mins(1)));
    Plan { queue, opens_in_secs: i64::from(OPENS_IN), ..Plan::default() }
}

/// The ranks as anybody recomputes them from what the server publishes.
async fn published_ranks(api: &Api, sale: &Sale) -> Permutation {
    let draw = eventually("the draw", || async {
        let queue = api.get(&format!("/v1/concerts/{}/queue", sale.concert)).send().await.expect(200);
        (!queue["draw"]["seed"].is_null()).then(|| queue["draw"].clone())
    })
    .await;
    let mut seed = [0_u8; 32];
    hex::decode_to_slice(text(&draw["seed"]), &mut seed).expect("64 hex digits");
    assert_eq!(draw::commitment(&seed), text(&draw["commitment"]));
    let concert = api.get(&format!("/v1/concerts/{}", sale.concert)).send().await.expect(200);
    assert_eq!(concert["queue"]["commitment"], draw["commitment"]);
    Permutation::new(&seed, sale.concert.parse().expect("an id"), draw["lobby_size"].as_u64().expect("a size"))
}

/// Gives a place up, and waits until both instances know.
async fn give_up(api: &Api, me: &str, buyer: &Buyer, ticket: &str) {
    assert_eq!(api.delete(me).bearer(&buyer.token).ticket(ticket).send().await.status, 204);
    eventually("both instances to know", || async {
        let (here, there) = (api.get(me).ticket(ticket), api.get(me).ticket(ticket));
        let (here, there) = (here.send().await.expect(200), there.send().await.expect(200));
        (here["status"] == "left" && there["status"] == "left").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_buyers_are_drawn_and_later_ones_stand_behind() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let rules = json!({"admit_per_second": 1000, "max_active": 3, "claim_secs": 60, "session_secs": 600});
    let sale = Sale::new(&api, &one, &plan(&one, &rules)).await;
    let base = format!("/v1/concerts/{}/queue", sale.concert);
    let me = format!("{base}/tickets/me");
    let early = Buyer::many(&one.state, 24).await;
    let mut tickets = Vec::new();
    for buyer in &early {
        tickets.push(buyer.join(&api, &sale).await);
    }
    for (arrival, ticket) in tickets.iter().enumerate() {
        let place = api.get(&me).ticket(ticket).send().await.expect(200);
        assert_eq!((&place["status"], &place["arrival"]), (&json!("lobby"), &json!(arrival)));
        assert!(place["rank"].is_null() && place["ahead"].is_null() && place["eta_seconds"].is_null(), "{place}");
        let claim = api.post(&format!("{base}/passes")).bearer(&early[arrival].token).ticket(ticket).send().await;
        claim.expect_problem(409, "not_called");
    }
    // Two give their places up before anybody knows a rank; one of them comes back.
    for gone in [3, 7] {
        give_up(&api, &me, &early[gone], &tickets[gone]).await;
    }
    tickets[7] = early[7].join(&api, &sale).await;
    let hidden = api.get(&base).send().await.expect(200);
    assert_eq!((&hidden["phase"], &hidden["draw"]["lobby_size"]), (&json!("lobby"), &Value::Null));
    assert!(hidden["draw"]["seed"].is_null());

    world.advance(Duration::from_secs(OPENS_IN.into()));
    let late = Buyer::many(&one.state, 2).await;
    let mut behind = Vec::new();
    for buyer in &late {
        behind.push(buyer.join(&api, &sale).await);
    }
    let ranks = published_ranks(&api, &sale).await;
    assert_eq!(ranks.size(), 25);
    let rank_of = |arrival: u64| ranks.rank_of(arrival).unwrap_or(arrival);
    let mut seen = HashSet::new();
    for ticket in tickets.iter().chain(&behind) {
        let place = eventually("a rank", || async {
            let place = api.get(&me).ticket(ticket).send().await.expect(200);
            (place["status"] != "lobby").then_some(place)
        })
        .await;
        let rank = place["rank"].as_u64().expect("a rank");
        assert_eq!(rank, rank_of(place["arrival"].as_u64().unwrap()), "{place}");
        assert!(seen.insert(rank));
    }
    let place = api.get(&me).ticket(&tickets[3]).send().await.expect(200);
    assert_eq!(place["status"], "left");

    // Whoever is there is let in in the order of the ranks, three at a time.
    let mut order: Vec<usize> = (0..tickets.len()).filter(|number| *number != 3).collect();
    let arrival = |number: usize| if number == 7 { 24 } else { number as u64 };
    order.sort_by_key(|number| rank_of(arrival(*number)));
    for number in order {
        let pass = early[number].claim(&api, &sale, &tickets[number]).await;
        let leave = api.delete(&format!("{base}/passes/me")).bearer(&early[number].token).pass(&pass).send().await;
        assert_eq!(leave.status, 204);
    }
    for (buyer, ticket) in late.iter().zip(&behind) {
        buyer.claim(&api, &sale, ticket).await;
    }
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lobby_that_nobody_came_to_is_drawn_too() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let rules = json!({"admit_per_second": 1000, "max_active": 3, "claim_secs": 60, "session_secs": 600});
    let sale = Sale::new(&api, &one, &plan(&one, &rules)).await;
    world.advance(Duration::from_secs(OPENS_IN.into()));
    assert_eq!(published_ranks(&api, &sale).await.size(), 0);
    let buyer = Buyer::new(&api).await;
    buyer.enter(&api, &sale).await;
    world.end(vec![one]).await;
}

/// Every value of every table, as hex.
async fn dump(world: &World) -> String {
    let mut sql = world.sql().await;
    let mut dump = String::new();
    for table in sql.fetch_all("SHOW TABLES").await.expect("the tables") {
        let table = String::from_utf8(table.try_get_unchecked::<Vec<u8>, _>(0).expect("a name")).expect("text");
        for row in sql.fetch_all(AssertSqlSafe(format!("SELECT * FROM {table}"))).await.expect("rows") {
            for column in 0..row.len() {
                if let Ok(Some(value)) = row.try_get_unchecked::<Option<Vec<u8>>, _>(column) {
                    dump.push_str(&hex::encode(value));
                    dump.push('\n');
                }
            }
        }
    }
    dump
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seed_is_nowhere_before_the_draw() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let rules = json!({"admit_per_second": 1000, "max_active": 3, "claim_secs": 60, "session_secs": 600});
    let sale = Sale::new(&api, &one, &plan(&one, &rules)).await;
    let buyers = Buyer::many(&one.state, 3).await;
    for buyer in &buyers {
        buyer.join(&api, &sale).await;
    }
    let mut said = String::new();
    for path in [format!("/v1/concerts/{}", sale.concert), format!("/v1/concerts/{}/queue", sale.concert)] {
        said += &api.get(&path).bearer(&sale.operator).send().await.expect(200).to_string();
    }
    let redis = world.dump_redis().await;
    let tables = dump(&world).await;
    world.advance(Duration::from_secs(OPENS_IN.into()));
    let ranks = published_ranks(&api, &sale).await;
    assert_eq!(ranks.size(), 3);
    let queue = api.get(&format!("/v1/concerts/{}/queue", sale.concert)).send().await.expect(200);
    let seed = text(&queue["draw"]["seed"]);
    let raw = hex::decode(&seed).expect("hex");
    for (place, text) in [("an answer", said), ("Redis", redis), ("a table", tables)] {
        let commitment = text.contains(&hex::encode(queue["draw"]["commitment"].as_str().unwrap()))
            || text.contains(queue["draw"]["commitment"].as_str().unwrap());
        assert!(commitment || place == "Redis", "{place} was looked through in the wrong form");
        // As it is, as hex, and as the hex of its hex.
        for form in [hex::encode(&raw), hex::encode(seed.as_bytes())] {
            assert!(!text.contains(&form), "the seed stood in {place}");
        }
    }
    world.end(vec![one]).await;
}

struct Waiting {
    user: UserId,
    ticket: String,
    arrival: u64,
}

async fn join_all(queues: &[Arc<Queue>; 2], concert: ConcertId, crowd: usize) -> Vec<Waiting> {
    let join = |number: usize| {
        let queue = queues[number % 2].clone();
        async move {
            let user = UserId::new();
            let (ticket, place, is_new) = queue.join(concert, user, None).await.expect("a place");
            assert!(is_new && place.rank.is_none());
            Waiting { user, ticket, arrival: place.arrival }
        }
    };
    futures::stream::iter((0..crowd).map(join)).buffer_unordered(256).collect().await
}

/// Claims, and leaves again.
async fn pass_through(queue: &Arc<Queue>, concert: ConcertId, one: &Waiting) {
    // An instance may hear of the draw, and of calls, a moment later than the other.
    let pass = eventually("the pass", || async {
        match queue.claim(concert, one.user, Some(&one.ticket)).await {
            Ok((pass, _)) => Some(pass),
            Err(problem) => {
                assert_eq!(problem.code().code, "not_called", "{problem}");
                None
            }
        }
    })
    .await;
    queue.leave_inside(concert, one.user, Some(&pass)).await.expect("the way out");
}

/// Everybody who was drawn is called and let in in the order of the ranks, while the clock is moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_lobby_is_drawn_called_and_let_in_in_order() {
    let crowd: usize = std::env::var("FRONTROW_CROWD").map_or(2_000, |text| text.parse().expect("a number"));
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let rules = json!({"admit_per_second": 10_000, "max_active": 100_000, "claim_secs": 3600, "session_secs": 86_400});
    let hall = json!([{"code": "A", "name": "Hall", "rows": [{"name": "1", "seats": 400}]}]);
    let sale = Sale::new(&api, &one, &Plan { sections: hall, ..plan(&one, &rules) }).await;
    let concert: ConcertId = sale.concert.parse().expect("an id");
    let queues = [one.state.queue.clone(), two.state.queue.clone()];
    let waiting = join_all(&queues, concert, crowd).await;
    let arrivals: HashSet<u64> = waiting.iter().map(|one| one.arrival).collect();
    assert_eq!(arrivals.len(), crowd, "a number was issued twice");
    world.advance(Duration::from_secs(OPENS_IN.into()));
    let ranks = published_ranks(&api, &sale).await;
    assert_eq!(ranks.size(), crowd as u64);

    // In waves: whoever is called claims, on the other instance than the one joined at, and leaves again.
    let mut by_rank: Vec<&Waiting> = waiting.iter().collect();
    by_rank.sort_by_key(|one| ranks.rank_of(one.arrival));
    let (mut let_in, mut turn) = (0, 0);
    while turn < crowd {
        let serving = eventually("further calls", || async {
            // A second on the clock is a second's worth of calls.
            world.advance(Duration::from_secs(1));
            let serving = api.get(&format!("/v1/concerts/{}/queue", sale.concert)).send().await.expect(200);
            let serving = usize::try_from(serving["serving"].as_u64().unwrap()).unwrap().min(crowd);
            (serving > turn).then_some(serving)
        })
        .await;
        let claim = |number: usize| pass_through(&queues[(number + 1) % 2], concert, by_rank[number]);
        let mut claims = futures::stream::iter((turn..serving).map(claim)).buffer_unordered(48);
        let mut passed = 0;
        while claims.next().await.is_some() {
            passed += 1;
        }
        let_in += passed;
        // The last one is called when everybody is, and no sooner.
        let last = by_rank[crowd - 1];
        let place = queues[0].find_place(concert, Some(&last.ticket)).await.expect("a place");
        assert_eq!(place.rank, Some(crowd as u64 - 1));
        assert!(place.standing == Standing::Waiting || place.ahead == Some(0), "{place:?}");
        turn = serving;
    }
    assert_eq!(let_in, crowd);
    let admitted: i64 = sqlx::query_scalar("SELECT COUNT(DISTINCT place_rank) FROM queue_passes")
        .fetch_one(&mut world.sql().await)
        .await
        .expect("a count");
    assert_eq!(usize::try_from(admitted).unwrap(), crowd);
    let unequal: Vec<(u64, u64)> = sqlx::query_as("SELECT arrival, place_rank FROM queue_passes")
        .fetch_all(&mut world.sql().await)
        .await
        .expect("the passes")
        .into_iter()
        .filter(|(arrival, rank)| ranks.rank_of(*arrival) != Some(*rank))
        .collect();
    assert!(unequal.is_empty(), "{unequal:?}");
    println!("{crowd} were drawn, called and let in");
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}
