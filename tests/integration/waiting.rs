//! What waiting costs, and how full the house is when most of those called do not come.
//!
//! `FRONTROW_CROWD` sets how many different tickets are polled with.

use std::collections::BTreeMap;
use std::time::Duration;

use fred::interfaces::ClientLike as _;
use fred::types::InfoKind;
use frontrow::accounts::UserId;
use frontrow::app::state::State;
use frontrow::catalog::ConcertId;
use frontrow::queue;
use futures::StreamExt as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use sqlx::{Executor as _, Row as _};

use crate::support::arena::Plan;
use crate::support::servers::Servers;
use crate::support::{Api, Sale, World};

const POLLS: usize = 100_000;

/// Commands that Redis and statements that MySQL have been sent, without those of the counting itself.
async fn sent(world: &World) -> (u64, u64) {
    let redis = world.redis().await;
    let stats: String = redis.info(Some(InfoKind::CommandStats)).await.expect("the statistics");
    redis.quit().await.expect("closing");
    let calls = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
    // Of a counting connection's own, and of connections that merely live.
    let own = ["info", "auth", "hello", "ping", "client", "quit", "select", "config", "command"];
    let scripted = calls.filter(|(name, _)| !own.iter().any(|own| name.starts_with(own)));
    let redis = scripted
        .map(|(_, rest)| rest.split(',').next().and_then(|calls| calls.parse::<u64>().ok()).expect("a count"))
        .sum();
    let row = world.sql().await.fetch_one("SHOW GLOBAL STATUS LIKE 'Com_select'").await.expect("MySQL's counters");
    let selects = row.try_get::<String, _>("Value").expect("a count").parse().expect("a number");
    (redis, selects)
}

/// A sale made over an instance that then ends, so that nothing happens in the background.
async fn quiet_sale(world: &World, queue: serde_json::Value) -> (State, ConcertId) {
    let instance = world.instance().await;
    let hall =
        json!([{"code": "A", "name": "Hall", "rows": [{"name": "1", "seats": 500}, {"name": "2", "seats": 500}]}]);
    let sale = Sale::new(&Api::over(&[&instance]), &instance, &Plan { sections: hall, queue, ..Plan::default() }).await;
    instance.stop().await;
    (world.services(&[]).await, sale.concert.parse().expect("an id"))
}

async fn join(state: &State, concert: ConcertId, crowd: usize) -> Vec<(UserId, String)> {
    let join = |_| async move {
        let user = UserId::new();
        let (ticket, place, _) = state.queue.join(concert, user, None).await.expect("a place");
        (place.arrival, user, ticket)
    };
    let mut places: Vec<_> = futures::stream::iter(0..crowd).map(join).buffer_unordered(128).collect().await;
    places.sort_by_key(|(arrival, ..)| *arrival);
    places.into_iter().map(|(_, user, ticket)| (user, ticket)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_costs_no_command() {
    let crowd: usize = std::env::var("FRONTROW_CROWD").map_or(2_000, |text| text.parse().expect("a number"));
    let servers = Servers::start().await;
    let world = World::on(&servers.mysql_url(), &servers.redis_url(), &[]).await;
    let rules = json!({"admit_per_second": 1, "max_active": 1, "claim_secs": 60, "session_secs": 600});
    let (state, concert) = quiet_sale(&world, rules).await;
    let queue = &state.queue;
    let sale = queue.get_sale(concert).await.expect("the sale");
    queue.tick(&sale).await.expect("the line");
    let tickets = join(&state, concert, crowd).await;
    queue.tick(&sale).await.expect("the line");
    let serving = usize::try_from(sale.view(|state| state.snapshot.serving)).unwrap();
    assert!(serving <= 1 && tickets.len() > serving);

    let before = sent(&world).await;
    for number in 0..POLLS {
        let (_, ticket) = &tickets[serving + number % (tickets.len() - serving)];
        let place = queue.find_place(concert, Some(ticket)).await.expect("a place");
        assert_eq!(place.ahead, Some((number % (tickets.len() - serving)) as u64));
    }
    let after = sent(&world).await;
    // The counting after the polls has asked once itself, and connecting asks a little.
    assert_eq!(after.0, before.0, "polls sent commands to Redis");
    let idle = sent(&world).await;
    assert_eq!(after.1 - before.1, idle.1 - after.1, "polls sent statements to MySQL");

    // A called rank's poll does ask, so the counting sees what there is to see.
    queue.find_place(concert, Some(&tickets[0].1)).await.expect("a place");
    assert!(sent(&world).await.0 > after.0);
    println!("{POLLS} polls with {} tickets sent nothing", tickets.len() - serving);
    drop(state);
    world.end(Vec::new()).await;
    servers.end().await;
}

/// A house of which most of those called never see the inside.
struct House<'a> {
    state: &'a State,
    concert: ConcertId,
    /// By arrival.
    tickets: &'a [(UserId, String)],
    /// Ranks whose holders have heard that they are called.
    told: u64,
    /// By the second: who comes to claim, and who leaves with which pass.
    coming: BTreeMap<u32, Vec<usize>>,
    leaving: BTreeMap<u32, Vec<(usize, String)>>,
}

impl House<'_> {
    async fn step(&mut self, sale: &queue::sale::Sale, now: u32, chance: &mut StdRng) {
        let queue = &self.state.queue;
        for (number, pass) in self.leaving.remove(&now).unwrap_or_default() {
            let (user, _) = &self.tickets[number];
            queue.leave_inside(self.concert, *user, Some(&pass)).await.expect("the way out");
            // What the relay does, which does not run here.
            queue.free_slot(self.concert, number as u64).await.expect("the slot");
        }
        queue.tick(sale).await.expect("the line");
        let serving = sale.view(|state| state.snapshot.serving);
        for rank in std::mem::replace(&mut self.told, serving)..serving {
            if chance.random_bool(0.3) {
                let when = now + chance.random_range(0..5);
                self.coming.entry(when).or_default().push(usize::try_from(rank).expect("a rank"));
            }
        }
        for number in self.coming.remove(&now).unwrap_or_default() {
            let (user, ticket) = &self.tickets[number];
            match queue.claim(self.concert, *user, Some(ticket)).await {
                Ok((pass, _)) => {
                    self.leaving.entry(now + chance.random_range(60..120)).or_default().push((number, pass));
                }
                // All slots are taken: keep asking.
                Err(problem) => {
                    assert_eq!(problem.code().code, "not_called");
                    self.coming.entry(now + 1).or_default().push(number);
                }
            }
        }
        queue.tick(sale).await.expect("the line");
    }
}

/// Seven of ten never come. Those who come do so within five seconds, and stay one to two minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_house_stays_full_though_most_do_not_come() {
    const CAP: u32 = 60;
    const SETTLING: u32 = 300;
    const SECONDS: u32 = 600;
    let world = World::new().await;
    let rules = json!({"admit_per_second": 50, "max_active": CAP, "claim_secs": 20, "session_secs": 600});
    let (state, concert) = quiet_sale(&world, rules).await;
    let queue = &state.queue;
    let sale = queue.get_sale(concert).await.expect("the sale");
    queue.tick(&sale).await.expect("the line");
    let tickets = join(&state, concert, 2_500).await;
    let mut house =
        House { state: &state, concert, tickets: &tickets, told: 0, coming: BTreeMap::new(), leaving: BTreeMap::new() };
    let mut chance = StdRng::seed_from_u64(7);
    let (mut used, mut most) = (0.0, 0);
    for second in 0..SECONDS {
        world.advance(Duration::from_secs(1));
        house.step(&sale, second, &mut chance).await;
        let active = sale.view(|state| state.snapshot.active);
        most = most.max(active);
        if second >= SETTLING {
            used += f64::from(u32::try_from(active).expect("a few")) / f64::from(SECONDS - SETTLING);
        }
    }
    let share = used / f64::from(CAP);
    let (no_show, serving) = sale.view(|state| (state.snapshot.no_show, state.snapshot.serving));
    println!(
        "{:.1} % of the slots were used; {serving} were called; {:.0} % did not come",
        share * 100.0,
        no_show * 100.0
    );
    assert!(most <= CAP.into(), "{most} were inside");
    assert!((0.6..0.8).contains(&no_show), "{no_show}");
    assert!(share >= 0.9, "{share}");
    drop(state);
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_places_are_forgotten_a_week_after_the_line() {
    let world = World::new().await;
    let rules = json!({"admit_per_second": 1, "max_active": 1, "claim_secs": 60, "session_secs": 600});
    let (state, concert) = quiet_sale(&world, rules).await;
    let queue = &state.queue;
    let sale = queue.get_sale(concert).await.expect("the sale");
    queue.tick(&sale).await.expect("the line");
    join(&state, concert, 12).await;
    queue.copy_places().await.expect("copies");
    queue.tick(&sale).await.expect("the line");
    queue.checkpoint(&sale).await.expect("a checkpoint");
    let copies = async || -> i64 {
        let count = sqlx::query_scalar("SELECT COUNT(*) FROM queue_places");
        count.fetch_one(&mut world.sql().await).await.expect("a count")
    };
    assert_eq!((queue.tidy_places(5).await.expect("tidying"), copies().await), (0, 12));
    world.advance(Duration::from_hours(24 * 7 + 1));
    assert_eq!((queue.tidy_places(5).await.expect("tidying"), copies().await), (5, 7));
    assert_eq!((queue.tidy_places(50).await.expect("tidying"), copies().await), (7, 0));
    assert_eq!(queue.tidy_places(50).await.expect("tidying"), 0);
    drop(state);
    world.end(Vec::new()).await;
}

/// Places given up are stepped over at once: whoever stands behind many of them is called soon, and must be told to ask soon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stands_behind_places_that_were_given_up_asks_in_time() {
    // However slow the machine: the line moves by one a second, and so many are left for most of a minute.
    const CROWD: usize = 100;
    let world = World::new().await;
    let rules = json!({"admit_per_second": 1, "max_active": 100, "claim_secs": 5, "session_secs": 600});
    let (state, concert) = quiet_sale(&world, rules).await;
    let queue = &state.queue;
    let sale = queue.get_sale(concert).await.expect("the sale");
    queue.tick(&sale).await.expect("the line");
    let places = join(&state, concert, CROWD).await;
    let told = async || queue.find_place(concert, Some(&places[CROWD - 1].1)).await.expect("a place");
    queue.tick(&sale).await.expect("the line");
    let before = told().await;
    assert!(before.poll_after_ms > 5_000, "{before:?}");
    for (user, ticket) in &places[1..CROWD - 1] {
        queue.leave(concert, *user, Some(ticket)).await.expect("given up");
    }
    queue.tick(&sale).await.expect("the line");
    let after = told().await;
    // Called in two seconds at the latest, or already, and for five.
    assert!(after.poll_after_ms < 4_000 && after.eta_seconds.unwrap_or(0) <= 2, "{after:?}");
    drop(state);
    world.end(Vec::new()).await;
}
