//! The line over Redis as it runs in production: a cluster of three nodes, and a master behind sentinels that is replaced.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;

use crate::support::arena::Plan;
use crate::support::history::Event;
use crate::support::topology::RedisServer;
use crate::support::world::server;
use crate::support::{Api, Buyer, History, Instance, RedisCluster, RedisSentinels, Sale, World, eventually};

const HEAD: &str = include_str!("../../src/queue/lua/line.lua");

async fn world_on(redis: &str) -> World {
    let short = [("FRONTROW__REDIS__COMMAND_TIMEOUT_MS", "400"), ("FRONTROW__REDIS__CONNECT_TIMEOUT_MS", "400")];
    World::on(&server("FRONTROW__DATABASE__URL"), redis, &short).await
}

/// A sale whose line runs every script there is.
fn drawn(one: &Instance) -> Plan {
    let mut plan = Plan::default();
    plan.queue["order"] = json!("draw");
    plan.queue["lobby_opens_at"] = json!(one.state.clock.now().minus(Duration::from_mins(1)));
    plan
}

/// Joins, looks, claims, holds and pays.
async fn buy(api: &Api, sale: &Sale, buyer: &Buyer, seat: &str) {
    let ticket = buyer.join(api, sale).await;
    let me = format!("/v1/concerts/{}/queue/tickets/me", sale.concert);
    eventually("the call", || async {
        let place = api.get(&me).ticket(&ticket).send().await.expect(200);
        (place["status"] == "called").then_some(())
    })
    .await;
    let pass = buyer.claim(api, sale, &ticket).await;
    let hold = buyer.hold(api, &sale.performances[0], &pass, &[seat]).await;
    buyer.try_pay(api, &hold, &hold).await.expect(201);
}

/// As many sales as it takes for every node to have one at least, by the node that has them.
async fn sales_on_every_node(api: &Api, one: &Instance, cluster: &RedisCluster) -> Vec<Vec<Sale>> {
    let mut sales: Vec<Vec<Sale>> = cluster.nodes.iter().map(|_| Vec::new()).collect();
    let mut count = 0;
    while sales.iter().any(Vec::is_empty) || count < 5 {
        let sale = Sale::new(api, one, &drawn(one)).await;
        sales[RedisCluster::owner_of(&format!("{{sale:{}}}", sale.concert))].push(sale);
        count += 1;
        assert!(count < 60, "sales do not spread");
    }
    sales
}

/// Asserts that every script of the line has run on this node.
async fn assert_every_script_ran(node: &RedisServer) {
    let mut count = 0;
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/queue/lua")).expect("the scripts") {
        let path = file.expect("a file").path();
        if path.ends_with("line.lua") {
            continue;
        }
        let own = std::fs::read_to_string(&path).expect("a script");
        // The one that asks which Redis it is touches no line.
        let script = if path.ends_with("run_id.lua") { own } else { HEAD.to_owned() + &own };
        let hash = fred::util::sha1_hash(&script);
        eventually(&format!("{} to run", path.display()), || async {
            let known: Vec<bool> = node.ask(&["SCRIPT", "EXISTS", &hash]).await.convert().expect("flags");
            known[0].then_some(())
        })
        .await;
        count += 1;
    }
    assert!(count >= 6, "{count} scripts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sales_spread_over_a_cluster_and_every_script_runs_there() {
    let cluster = RedisCluster::start().await;
    let world = world_on(&cluster.url()).await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let sales = sales_on_every_node(&api, &one, &cluster).await;
    let buyers = Buyer::many(&one.state, 3).await;
    Buyer::endow(&one.state, &buyers, 1_000_000).await;
    join_all(sales.iter().flatten().map(async |sale| {
        for (number, buyer) in (1..).zip(&buyers) {
            buy(&api, sale, buyer, &format!("A-1-{number}")).await;
        }
    }))
    .await;

    let mut seen = BTreeSet::new();
    for (number, (node, sales)) in cluster.nodes.iter().zip(&sales).enumerate() {
        // What is cached lies anywhere.
        let tags = cluster.tags_on(number).await.into_iter();
        let here: BTreeSet<String> = tags.filter(|tag| tag.starts_with("sale:")).collect();
        let expected: BTreeSet<String> = sales.iter().map(|sale| format!("sale:{}", sale.concert)).collect();
        assert!(!expected.is_empty() && here == expected, "node {number} has {here:?}, not {expected:?}");
        seen.extend(here);
        assert_every_script_ran(node).await;
    }
    assert_eq!(seen.len(), sales.iter().flatten().count());
    let ready = api.get("/readyz").send().await.expect(200);
    assert_eq!(ready["status"], "ready");
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
    cluster.end();
}

async fn join(api: &Api, history: &History, sale: &Sale, buyer: &Buyer) -> Event {
    let path = format!("/v1/concerts/{}/queue/tickets", sale.concert);
    history.send(&sale.concert, api.post(&path).bearer(&buyer.token)).await
}

/// While nobody reaches a line's Redis there is a clear word, or MySQL's answer once that has taken charge.
fn assert_away(event: &Event) {
    assert!(event.is_success() || (event.status(), event.code()) == (503, "unavailable"), "{event:?}");
    assert!(event.is_success() || event.retry_after().is_some(), "{event:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_takes_only_its_own_sales_away() {
    let mut cluster = RedisCluster::start().await;
    let world = world_on(&cluster.url()).await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let sales = sales_on_every_node(&api, &one, &cluster).await;
    let buyers = Buyer::many(&one.state, 2).await;
    Buyer::endow(&one.state, &buyers, 1_000_000).await;
    let dead = 1;
    let mut places = Vec::new();
    for sale in sales.iter().flatten() {
        places.push((sale, buyers[0].join(&api, sale).await));
    }
    // So that what is known of the lines is in MySQL before the loss.
    buy(&api, &sales[dead][0], &buyers[1], "A-2-1").await;

    cluster.nodes[dead].kill();
    let history = History::default();
    eventually("both instances to tell", || async {
        let told = [api.get("/readyz").send().await.body, api.get("/readyz").send().await.body];
        told.iter().all(|ready| ready["checks"]["redis"] == "unreachable").then_some(())
    })
    .await;
    let away = History::default();
    for _ in 0..4 {
        for sale in &sales[dead] {
            let event = join(&api, &away, sale, &buyers[0]).await;
            assert_away(&event);
        }
        let others = sales.iter().enumerate().filter(|(node, _)| *node != dead);
        for sale in others.flat_map(|(_, sales)| sales) {
            let event = join(&api, &history, sale, &buyers[0]).await;
            assert_eq!(event.status(), 200, "{event:?}");
        }
    }
    println!("with a node away: others answer within {:?}, its own within {:?}", history.latency(), away.latency());
    for (node, sales) in sales.iter().enumerate().filter(|(node, _)| *node != dead) {
        buy(&api, &sales[0], &buyers[1], &format!("A-1-{}", node + 1)).await;
    }

    let started = Instant::now();
    cluster.nodes[dead].restart().await;
    for (sale, ticket) in &places {
        buyers[0].claim(&api, sale, ticket).await;
    }
    println!("everybody was let in {:?} after the node was started again", started.elapsed());
    eventually("both instances to be ready", || async { (is_ready(&api).await && is_ready(&api).await).then_some(()) })
        .await;
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
    cluster.end();
}

/// A line in which one is inside and the others wait.
struct Waiting {
    sale: Sale,
    /// With ticket and rank.
    buyers: Vec<(Buyer, String, u64)>,
}

impl Waiting {
    async fn new(api: &Api, one: &Instance, count: u32) -> Self {
        let queue = json!({"admit_per_second": 1000, "max_active": 1, "claim_secs": 600, "session_secs": 3600});
        let sale = Sale::new(api, one, &Plan { queue, ..Plan::default() }).await;
        let mut waiting = Self { sale, buyers: Vec::new() };
        waiting.more(api, one, count).await;
        waiting
    }

    async fn more(&mut self, api: &Api, one: &Instance, count: u32) {
        for buyer in Buyer::many(&one.state, count).await {
            let ticket = buyer.join(api, &self.sale).await;
            let path = format!("/v1/concerts/{}/queue/tickets/me", self.sale.concert);
            let place = eventually("the place", || async {
                let reply = api.get(&path).ticket(&ticket).send().await;
                (reply.status != 503).then_some(reply)
            });
            let rank = place.await.expect(200)["rank"].as_u64().expect("a rank");
            self.buyers.push((buyer, ticket, rank));
        }
    }

    /// Waits until MySQL knows what was issued.
    async fn wait_for_checkpoint(&self, world: &World) {
        let sql = "SELECT issued FROM queue_sales WHERE concert_id = ?";
        let concert: uuid::Uuid = self.sale.concert.parse().expect("an id");
        eventually("the checkpoint", || async {
            let mut mysql = world.sql().await;
            let issued = sqlx::query_scalar(sql).bind(concert).fetch_one(&mut mysql);
            let issued: u64 = issued.await.expect("a line");
            (issued == self.buyers.len() as u64).then_some(())
        })
        .await;
    }

    /// Asserts that no number was given twice and that everybody finds the old place by the ticket.
    async fn assert_kept(&self, api: &Api) {
        let ranks: BTreeSet<u64> = self.buyers.iter().map(|(_, _, rank)| *rank).collect();
        assert_eq!(ranks.len(), self.buyers.len(), "a number was given twice");
        let path = format!("/v1/concerts/{}/queue/tickets", self.sale.concert);
        for (buyer, ticket, rank) in &self.buyers {
            let reply = eventually("the place", || async {
                let reply = api.post(&path).bearer(&buyer.token).ticket(ticket).send().await;
                (reply.status != 503).then_some(reply)
            });
            assert_eq!(reply.await.expect(200)["rank"], *rank);
        }
    }

    /// Lets everybody in, one after the other, and asserts that nobody overtook, but for those whose numbers were lost: they
    /// are called in one step, as soon as the line reaches them.
    async fn let_in(&self, api: &Api, lost: &[u64]) {
        let order = Mutex::new(Vec::new());
        join_all(self.buyers.iter().map(async |(buyer, ticket, rank)| {
            let pass = buyer.claim(api, &self.sale, ticket).await;
            order.lock().expect("no panic").push(*rank);
            let path = format!("/v1/concerts/{}/queue/passes/me", self.sale.concert);
            let left = api.delete(&path).bearer(&buyer.token).pass(&pass).send().await;
            assert_eq!(left.status, 204, "{left:?}");
        }))
        .await;
        let mut order = order.into_inner().expect("no panic");
        assert_eq!(order.len(), self.buyers.len());
        order.retain(|rank| !lost.contains(rank));
        // Of two who are called, the first may be the second to come: a line made anew may call one more.
        let inversions = order.windows(2).filter(|pair| pair[0] > pair[1]).count();
        assert!(inversions <= 1, "{order:?}");
    }
}

/// Whether the instance that is asked says that all is well; until it does, it may well say that it is not ready.
async fn is_ready(api: &Api) -> bool {
    let reply = api.get("/readyz").send().await;
    reply.status == 200 && reply.body["status"] == "ready"
}

/// Waits until a new buyer gets a place through each instance, and until both say that all is well.
async fn wait_until_served(instances: &[&Instance], sale: &Sale, since: Instant) {
    let history = History::default();
    for instance in instances {
        let api = Api::over(&[instance]);
        let buyer = Buyer::many(&instance.state, 1).await.remove(0);
        eventually("a place", || async { join(&api, &history, sale, &buyer).await.is_success().then_some(()) }).await;
        eventually("the instance to be ready", || async { is_ready(&api).await.then_some(()) }).await;
    }
    history.assert_no_server_error();
    println!("served again after {:?}: {:?}", since.elapsed(), history.outcomes());
}

/// Waits until every client of the instances is connected to this server.
async fn wait_until_moved(server: &RedisServer, clients: usize, since: Instant) {
    eventually("every client to move", || async {
        let list = server.ask(&["CLIENT", "LIST", "TYPE", "normal"]).await.as_string()?;
        // Sentinels have names, and who asks is asking.
        let own = list.lines().filter(|line| line.contains(" name= ") && !line.contains("cmd=client|list"));
        (own.count() == clients).then_some(())
    })
    .await;
    println!("all {clients} clients were at the new master after {:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_outlive_the_master_behind_sentinels() {
    let mut redis = RedisSentinels::start().await;
    let world = world_on(&redis.url()).await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let other = Sale::new(&api, &one, &drawn(&one)).await;
    let buyers = Buyer::many(&one.state, 2).await;
    Buyer::endow(&one.state, &buyers, 1_000_000).await;
    buy(&api, &other, &buyers[0], "A-1-1").await;
    assert_every_script_ran(&redis.servers[0]).await;
    let mut line = Waiting::new(&api, &one, 12).await;
    line.wait_for_checkpoint(&world).await;

    // The last of them are known to nobody but the master that dies.
    redis.lose_from_now_on(0).await;
    line.more(&api, &one, 6).await;
    let lost: Vec<u64> = line.buyers[12..].iter().map(|(_, _, rank)| *rank).collect();
    redis.servers[0].kill();
    let started = Instant::now();
    let (master, _) = redis.wait_for_failover(0).await;
    println!("the sentinels had a new master after {:?}", started.elapsed());
    wait_until_moved(&redis.servers[master], 2 * one.state.config.redis.pool_size, started).await;
    wait_until_served(&[&one, &two], &other, started).await;
    line.more(&api, &one, 4).await;
    line.assert_kept(&api).await;
    line.let_in(&api, &lost).await;
    buy(&api, &other, &buyers[1], "A-1-2").await;
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
    redis.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_falls_silent_is_left_and_stays_left() {
    let redis = RedisSentinels::start().await;
    let world = world_on(&redis.url()).await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let other = Sale::new(&api, &one, &Plan::default()).await;
    let mut line = Waiting::new(&api, &one, 8).await;
    line.wait_for_checkpoint(&world).await;

    redis.servers[0].pause();
    let started = Instant::now();
    let (master, _) = redis.wait_for_failover(0).await;
    println!("the sentinels had a new master after {:?}", started.elapsed());
    wait_until_moved(&redis.servers[master], 2 * one.state.config.redis.pool_size, started).await;
    wait_until_served(&[&one, &two], &other, started).await;
    // It comes back and does not know yet that it was replaced.
    redis.servers[0].resume();
    line.more(&api, &one, 4).await;
    redis.wait_until_follows(0).await;
    println!("the old master followed the new one after {:?}", started.elapsed());
    line.more(&api, &one, 4).await;
    line.assert_kept(&api).await;
    line.let_in(&api, &[]).await;
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
    redis.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_away_at_the_start_is_found() {
    let dir = crate::support::topology::folder("redis-late");
    let mut redis = RedisServer::start(&dir, "late", &[], |_| "appendonly no\nsave \"\"\n".to_owned()).await;
    redis.kill();
    let world = world_on(&format!("redis://:late@127.0.0.1:{}", redis.port)).await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    assert_eq!(api.get("/readyz").send().await.expect(200)["status"], "degraded");
    redis.restart().await;
    eventually("the instance to find Redis", || async { is_ready(&api).await.then_some(()) }).await;
    let line = Waiting::new(&api, &one, 2).await;
    line.wait_for_checkpoint(&world).await;

    // Made a replica of nobody: it answers, but takes no writes.
    redis.ask(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let buyer = Buyer::many(&one.state, 1).await.remove(0);
    let history = History::default();
    for _ in 0..8 {
        assert_away(&join(&api, &history, &line.sale, &buyer).await);
    }
    redis.ask(&["REPLICAOF", "NO", "ONE"]).await;
    line.assert_kept(&api).await;
    line.let_in(&api, &[]).await;
    world.end(vec![one]).await;
    drop(redis);
    std::fs::remove_dir_all(dir).expect("the server's folder");
}
