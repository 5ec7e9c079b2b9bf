//! Clients that disconnect at random moments, through proxies that cut every message into small pieces: between client
//! and instance, and between the instances and their stores. Whatever a departing client interrupts, nothing is stuck.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use fred::interfaces::{ClientLike as _, SortedSetsInterface as _};

use futures::future::join_all;
use rand::Rng as _;

use crate::support::arena::Plan;
use crate::support::world::address_of;
use crate::support::{Api, Buyer, Fault, History, Process, Proxy, Sale, Traffic, Wire, World, eventually};

/// Requests that are given up before their answer.
const LEFT: usize = 5000;
const AT_ONCE: usize = 24;
/// Bytes that arrive together at most.
const PIECE_MAX: usize = 48;
/// Longest time until a client leaves, at first. It becomes longer with each that leaves and shorter with each that is
/// answered, so that on any machine about one in six is answered and the others leave at every stage of their request.
const STAY_MICROS: u64 = 50_000;
const POOL: u64 = 12;
const SETTINGS: [(&str, &str); 1] = [("FRONTROW__DATABASE__POOL_SIZE", "12")];
/// Requests measured before and after.
const MEASURED: usize = 200;
/// How much slower afterwards is still the same: what is stuck costs seconds.
const SAME: u32 = 3;

/// The median time of requests of every kind, sent one after the other.
async fn median(crowd: &Traffic, api: &Api) -> Duration {
    let history = History::default();
    for _ in 0..MEASURED {
        let event = crowd.ask(api, &history).await;
        assert!((200..500).contains(&event.status()), "{event:?}");
    }
    history.latency().0
}

/// Sends requests and leaves, until enough were left without an answer.
async fn leave_often(crowd: &Traffic, api: &Api) -> (usize, usize) {
    let (left, answered) = (AtomicUsize::default(), AtomicUsize::default());
    let stay_max = AtomicU64::new(STAY_MICROS);
    let worker = async || {
        while left.load(Ordering::Relaxed) < LEFT {
            let request = crowd.next();
            let most = stay_max.load(Ordering::Relaxed);
            let stay = Duration::from_micros(rand::rng().random_range(0..most));
            let reply = tokio::time::timeout(stay, request.call(api).try_send()).await;
            if reply.is_ok() {
                answered.fetch_add(1, Ordering::Relaxed);
                stay_max.store(most - most / 20, Ordering::Relaxed);
            } else {
                left.fetch_add(1, Ordering::Relaxed);
                stay_max.store(most + most / 100, Ordering::Relaxed);
            }
            let reply = reply.ok().map(|reply| reply.expect("the instance does not hang up"));
            if let Some(reply) = &reply {
                assert!(reply.status < 500 || reply.header("retry-after").is_some(), "{reply:?}");
                assert_ne!(reply.status, 500, "{reply:?}");
            }
            crowd.learn(&request, reply.as_ref());
        }
    };
    join_all((0..AT_ONCE).map(|_| worker())).await;
    (left.into_inner(), answered.into_inner())
}

/// Nobody works, no connection is in use, and the server has no transaction that stays open.
async fn assert_at_rest(world: &World, instances: &[Api]) {
    for api in instances {
        eventually("nobody to be worked for", || async {
            // Whoever asks is one.
            (api.metric("frontrow_http_requests_active").await == 1).then_some(())
        })
        .await;
        eventually("the pool to be whole", || async {
            let metrics = api.metrics().await;
            let [used, idle] =
                ["used", "idle"].map(|state| format!("frontrow_db_pool_connections{{state=\"{state}\"}}"));
            let (used, idle) = (metrics[&used], metrics[&idle]);
            assert!(used + idle <= POOL, "{used} used and {idle} idle");
            (used == 0).then_some(())
        })
        .await;
    }
    eventually("no transaction to be open for long", || async {
        (world.transactions_over(Duration::from_secs(2)).await? == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_clients_leave_and_nothing_is_stuck() {
    let world = World::with(&SETTINGS).await;
    let (mysql, redis) = (world.mysql_proxy().await, world.redis_proxy().await);
    let stores = [world.mysql_through(&mysql), world.redis_through(&redis)];
    let stores: Vec<(&str, &str)> = stores.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let services = world.services(&[]).await;
    let (mut one, first) = Process::serve(&world, &stores).await;
    let (mut two, second) = Process::serve(&world, &stores).await;
    let instances = [Api::at(vec![first.clone()]), Api::at(vec![second.clone()])];
    let api = Api::at(vec![first.clone(), second.clone()]);
    let front = [proxy_of(&first).await, proxy_of(&second).await];
    let fragile = Api::at(front.iter().map(Proxy::base).collect());
    let crowd = Traffic::enter(&api, &services, 24).await;
    let set = |fault| [&mysql, &redis, &front[0], &front[1]].map(|proxy| proxy.set(fault));
    median(&crowd, &api).await;
    let before = median(&crowd, &api).await;
    set(Fault::Split(PIECE_MAX));
    let (left, answered) = leave_often(&crowd, &fragile).await;
    set(Fault::None);
    println!("{left} left, {answered} were answered, {} keys", crowd.keys_used());
    assert!(left >= LEFT && answered > LEFT / 50, "{left} left, {answered} answered");
    assert_at_rest(&world, &instances).await;
    let after = eventually("the latency of before", || async {
        let after = median(&crowd, &api).await;
        (after <= before * SAME).then_some(after)
    })
    .await;
    println!("median {before:?} before, {after:?} after");
    crowd.assert_kept(&api, 400).await;
    for instance in &instances {
        crowd.try_journey(instance).await.expect("the whole way of a buyer");
    }
    let report = frontrow::app::audit::run(&services.db, &services.config.jobs, None).await;
    assert!(report.is_clean, "{report:#?}");
    one.terminate();
    two.terminate();
    assert_eq!((one.end().await, two.end().await), (Some(0), Some(0)));
    services.db.close().await;
    services.redis.close().await;
    world.end(Vec::new()).await;
}

async fn proxy_of(base: &str) -> Proxy {
    Proxy::to(address_of(&base.replacen("http://", "http://@", 1))).await
}

/// A slot of Redis whose pass was never written would stay taken by nobody until it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_while_a_slot_is_taken_has_a_pass() {
    let world = World::new().await;
    let redis = world.redis_proxy().await;
    let (name, url) = world.redis_through(&redis);
    let patient = ("FRONTROW__REDIS__COMMAND_TIMEOUT_MS", "10000");
    let instance = world.instance_with(&[(name, &url), patient]).await;
    let api = Api::over(&[&instance]);
    let sale = Sale::new(&api, &instance, &Plan::default()).await;
    let buyer = Buyer::many(&instance.state, 1).await.remove(0);
    let ticket = buyer.join(&api, &sale).await;
    let line = format!("/v1/concerts/{}/queue", sale.concert);
    eventually("the call", || async {
        let place = api.get(&format!("{line}/tickets/me")).ticket(&ticket).send().await.expect(200);
        (place["status"] == "called").then_some(())
    })
    .await;
    redis.set(Fault::Delay(Duration::from_millis(400)));
    let mut wire = Wire::to(&instance.base).await;
    let head = format!("authorization: Bearer {}\r\nqueue-ticket: {ticket}\r\ncontent-length: 0", buyer.token);
    wire.send(&format!("POST {line}/passes HTTP/1.1\r\nhost: test\r\n{head}\r\n\r\n")).await;
    let direct = world.redis().await;
    let slots = format!("{}:{{sale:{}}}:slots", instance.state.config.redis.prefix, sale.concert);
    eventually("the slot", || async { (direct.zcard::<u64, _>(&slots).await.expect("Redis") == 1).then_some(()) })
        .await;
    // The answer of Redis is still on its way.
    drop(wire);
    eventually("the pass", || async {
        let mut sql = world.sql().await;
        let passes: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM queue_passes WHERE is_live = 1")
            .fetch_one(&mut sql)
            .await
            .expect("the passes");
        (passes == 1).then_some(())
    })
    .await;
    redis.set(Fault::None);
    direct.quit().await.expect("closing");
    world.assert_clean(&instance).await;
    world.end(vec![instance]).await;
}
