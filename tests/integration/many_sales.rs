//! A hundred sales at once on one Redis: each is fair to itself, and no other one is felt in it.
//!
//! `FRONTROW_BUYERS` sets how many buyers each has (8 without it).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use rand::seq::SliceRandom as _;
use serde_json::json;

use crate::support::arena::{Plan, text};
use crate::support::{Api, Buyer, Instance, Sale, World, eventually};

const SALES: usize = 100;
const ACTIVE_MAX: usize = 5;
const AT_ONCE: usize = 48;
const ROUNDS: usize = 5;

fn buyers() -> u32 {
    let buyers = std::env::var("FRONTROW_BUYERS").unwrap_or_else(|_| "8".to_owned());
    buyers.parse().expect("FRONTROW_BUYERS is a number")
}

/// Somebody's place in one of the lines.
struct Place {
    sale: usize,
    buyer: usize,
    ticket: String,
    rank: u64,
}

/// What was seen of one line.
#[derive(Default)]
struct Seen {
    /// The highest `serving`, and whether it ever went back on an instance.
    serving: BTreeMap<usize, u64>,
    went_back: bool,
    active_max: u64,
    /// Ranks in the order in which they were let in.
    admitted: Vec<u64>,
}

async fn open_sales(api: &Api, one: &Instance) -> Vec<Sale> {
    let email = format!("operator-{}@example.com", uuid::Uuid::new_v4());
    let secret = frontrow::platform::config::Secret::new("a long enough one");
    let (_, operator) = one.state.accounts.create_operator(&email, secret).await.expect("an operator");
    let queue = json!({"admit_per_second": 200, "max_active": ACTIVE_MAX, "claim_secs": 600, "session_secs": 3600});
    let sections = json!([{"code": "A", "name": "Club", "rows": [{"name": "1", "seats": 30}]}]);
    let plan = Plan { sections, queue, ..Plan::default() };
    let made = (0..SALES).map(|_| Sale::made_by(api, operator.clone(), one.state.clock.now(), &plan));
    stream::iter(made).buffered(8).collect().await
}

/// Everybody joins every line, in an order of its own, through either instance.
async fn join_all(api: &Api, sales: &[Sale], buyers: &[Buyer]) -> Vec<Place> {
    let mut arrivals: Vec<(usize, usize)> =
        (0..sales.len()).flat_map(|sale| (0..buyers.len()).map(move |buyer| (sale, buyer))).collect();
    arrivals.shuffle(&mut rand::rng());
    let join = async |(sale, buyer): (usize, usize)| {
        let path = format!("/v1/concerts/{}/queue/tickets", sales[sale].concert);
        let reply = eventually("a place", || async {
            let reply = api.post(&path).bearer(&buyers[buyer].token).send().await;
            (reply.status != 503).then_some(reply)
        })
        .await;
        assert!(matches!(reply.status, 200 | 201), "{reply:?}");
        let rank = reply.body["rank"].as_u64().expect("a rank");
        Place { sale, buyer, ticket: text(&reply.body["ticket"]), rank }
    };
    stream::iter(arrivals).map(join).buffer_unordered(AT_ONCE).collect().await
}

/// Looks at a line through one instance and takes note.
async fn look(api: &Api, instance: usize, sale: &Sale, seen: &Mutex<Seen>) {
    let line = api.get(&format!("/v1/concerts/{}/queue", sale.concert)).send().await.expect(200);
    let number = |name: &str| line[name].as_u64().expect("a number");
    let mut seen = seen.lock().expect("no panic");
    seen.active_max = seen.active_max.max(number("active"));
    let before = seen.serving.insert(instance, number("serving")).unwrap_or_default();
    seen.went_back |= number("serving") < before;
}

/// Takes the places of one line in the order of their ranks, as many at a time as may be inside. Nobody behind them is let in.
async fn walk(api: &Api, sale: &Sale, buyers: &[Buyer], places: &[&Place], seen: &Mutex<Seen>) {
    let base = format!("/v1/concerts/{}/queue", sale.concert);
    for group in places.chunks(ACTIVE_MAX) {
        let mut inside = Vec::new();
        for place in group {
            let pass = buyers[place.buyer].claim(api, sale, &place.ticket).await;
            seen.lock().expect("no panic").admitted.push(place.rank);
            inside.push((place.buyer, pass));
        }
        let last = group.iter().map(|place| place.rank).max();
        if let Some(next) = places.iter().find(|place| Some(place.rank) > last) {
            let early = api.post(&format!("{base}/passes")).bearer(&buyers[next.buyer].token).ticket(&next.ticket);
            early.send().await.expect_problem(409, "not_called");
        }
        for (buyer, pass) in inside {
            let leave = api.delete(&format!("{base}/passes/me")).bearer(&buyers[buyer].token).pass(&pass);
            assert_eq!(leave.send().await.status, 204);
        }
    }
}

/// The middle and the longest of these.
fn spread(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}

/// How long one instance takes for every line once: to reread the rules, to count the seats, to tick (which counts the
/// seats too) and to write the checkpoints. The tickers of both instances are at work meanwhile.
async fn measure(one: &Instance, sales: &[Sale]) {
    let live = one.state.queue.refresh().await.expect("the live sales");
    assert_eq!(live.len(), sales.len());
    let mut rounds = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        let started = Instant::now();
        one.state.queue.refresh().await.expect("the live sales");
        rounds[0].push(started.elapsed());
        let started = Instant::now();
        let counts = live.iter().map(|sale| one.state.seats.count(sale.concert));
        let counts: Vec<_> = stream::iter(counts).buffer_unordered(8).collect().await;
        rounds[1].push(started.elapsed());
        let started = Instant::now();
        let ticks = live.iter().map(|sale| one.state.queue.tick(sale));
        let ticks: Vec<_> = stream::iter(ticks).buffer_unordered(8).collect().await;
        rounds[2].push(started.elapsed());
        let started = Instant::now();
        let kept = live.iter().map(|sale| one.state.queue.checkpoint(sale));
        let kept: Vec<_> = stream::iter(kept).buffer_unordered(8).collect().await;
        rounds[3].push(started.elapsed());
        assert!(counts.iter().all(Result::is_ok) && ticks.iter().chain(&kept).all(Result::is_ok), "{ticks:?} {kept:?}");
    }
    let [rules, counts, ticks, checkpoints] = rounds.map(spread);
    println!(
        "{SALES} sales, middle and longest of {ROUNDS}: \
         rules {rules:?}, seats {counts:?}, ticks {ticks:?}, checkpoints {checkpoints:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_sales_are_each_fair_to_themselves() {
    let world = World::with(&[("FRONTROW__QUEUE__TICK_MS", "200")]).await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let each = [Api::over(&[&one]), Api::over(&[&two])];
    let mut started = Instant::now();
    let mut lap = |what: &str| println!("{what}: {:?}", std::mem::replace(&mut started, Instant::now()).elapsed());
    let sales = open_sales(&api, &one).await;
    let buyers = Buyer::many(&one.state, buyers()).await;
    lap("a hundred sales were made");
    let mut places = join_all(&api, &sales, &buyers).await;
    lap("everybody joined");
    measure(&one, &sales).await;
    lap("measured");

    places.sort_by_key(|place| (place.sale, place.rank));
    let seen: Vec<Mutex<Seen>> = sales.iter().map(|_| Mutex::default()).collect();
    let by_sale = |sale: usize| -> Vec<&Place> { places.iter().filter(|place| place.sale == sale).collect() };
    let walks = stream::iter(0..SALES).map(async |sale| {
        walk(&api, &sales[sale], &buyers, &by_sale(sale), &seen[sale]).await;
    });
    let watching = async {
        loop {
            for (sale, seen) in sales.iter().zip(&seen) {
                for (number, api) in each.iter().enumerate() {
                    look(api, number, sale, seen).await;
                }
            }
        }
    };
    tokio::select! {
        () = watching => {}
        () = walks.buffer_unordered(SALES).collect() => {}
    }
    lap("everybody was let in");

    for (number, seen) in seen.into_iter().enumerate() {
        let seen = seen.into_inner().expect("no panic");
        let ranks: BTreeSet<u64> = by_sale(number).iter().map(|place| place.rank).collect();
        // A line that two instances made at the same moment may have a gap in its numbers.
        assert_eq!(ranks.len(), buyers.len(), "a number was given twice");
        assert_eq!(seen.admitted, ranks.into_iter().collect::<Vec<u64>>(), "in order");
        assert!(!seen.went_back && seen.active_max <= ACTIVE_MAX as u64, "{} inside", seen.active_max);
    }
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}
