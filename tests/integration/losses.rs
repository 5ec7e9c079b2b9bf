//! Losing Redis loses nothing: five hundred clients join, wait, claim and leave over two instances while their line is wiped,
//! killed, set back, taken away, or out of reach, and everybody keeps the place that was answered once.
//!
//! `FRONTROW_OUTAGE_SECS` sets how long Redis is away for everyone (8 seconds without it; at least 6, as MySQL takes charge
//! after three seconds of silence). How long each took to recover is printed.

use std::time::{Duration, Instant};

use frontrow::queue::draw::Permutation;
use serde_json::json;

use crate::support::arena::text;
use crate::support::losses::{Moment, Opening, Scene, clients, issued_before};
use crate::support::topology::{RedisServer, folder};
use crate::support::{Fault, RedisSentinels, eventually};

const DURABLE: &str = "appendonly yes\nappendfsync always\nsave \"\"\nmaxmemory-policy noeviction\n";
/// How much older the snapshot is than the moment of the loss.
const OLDER: Duration = Duration::from_millis(1500);
/// How long MySQL says nothing.
const STALL: Duration = Duration::from_secs(5);

/// One server for a test, and its folder.
async fn redis_server() -> (RedisServer, std::path::PathBuf) {
    let dir = folder("redis-losses");
    (RedisServer::start(&dir, "losses", &[], |_| DURABLE.to_owned()).await, dir)
}

fn url(redis: &RedisServer) -> String {
    format!("redis://:{}@127.0.0.1:{}", redis.password, redis.port)
}

fn outage() -> Duration {
    let secs = std::env::var("FRONTROW_OUTAGE_SECS").unwrap_or_else(|_| "8".to_owned());
    Duration::from_secs(secs.parse().expect("FRONTROW_OUTAGE_SECS is a number")).max(Duration::from_secs(6))
}

fn clear(redis: RedisServer, dir: &std::path::Path) {
    drop(redis);
    std::fs::remove_dir_all(dir).expect("the server's folder");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_line_is_wiped() {
    let (redis, dir) = redis_server().await;
    let scene = Scene::set(&url(&redis), Opening::Open).await;
    let wipe = async |scene: &Scene| {
        scene.wait_for_crowd().await;
        let began = scene.seen.now();
        redis.ask(&["FLUSHALL"]).await;
        scene.enter(Moment::During);
        (began, scene.seen.now())
    };
    Box::pin(scene.run("FLUSHALL", wipe)).await;
    scene.end().await;
    clear(redis, &dir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_killed_and_comes_back_empty() {
    let (mut redis, dir) = redis_server().await;
    let scene = Scene::set(&url(&redis), Opening::Open).await;
    let kill = async |scene: &Scene| {
        scene.wait_for_crowd().await;
        let began = scene.seen.now();
        redis.kill();
        scene.enter(Moment::During);
        redis.restart_empty().await;
        (began, scene.seen.now())
    };
    Box::pin(scene.run("kill -9, empty restart", kill)).await;
    scene.end().await;
    clear(redis, &dir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_killed_and_comes_back_older() {
    let (mut redis, dir) = redis_server().await;
    let scene = Scene::set(&url(&redis), Opening::Open).await;
    let set_back = async |scene: &Scene| {
        scene.wait_for_crowd().await;
        let saved = redis.save();
        let before = scene.row().await;
        tokio::time::sleep(OLDER).await;
        let began = scene.seen.now();
        redis.kill();
        scene.enter(Moment::During);
        redis.restart_from(&saved).await;
        let ended = scene.seen.now();
        eventually("the line to be made anew", || async { (scene.row().await.epoch > before.epoch).then_some(()) })
            .await;
        (began, ended)
    };
    Box::pin(scene.run("older snapshot", set_back)).await;
    scene.end().await;
    clear(redis, &dir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_master_dies_with_its_last_second() {
    let mut redis = RedisSentinels::start().await;
    let scene = Scene::set(&redis.url(), Opening::Open).await;
    let fail_over = async |scene: &Scene| {
        scene.wait_for_crowd().await;
        redis.lose_from_now_on(0).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let began = scene.seen.now();
        redis.servers[0].kill();
        scene.enter(Moment::During);
        redis.wait_for_failover(0).await;
        (began, scene.seen.now())
    };
    Box::pin(scene.run("Sentinel failover", fail_over)).await;
    scene.end().await;
    redis.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_away_for_everyone() {
    let (redis, dir) = redis_server().await;
    let scene = Scene::set(&url(&redis), Opening::Open).await;
    let away = async |scene: &Scene| {
        scene.wait_for_crowd().await;
        let (began, started) = (scene.seen.now(), Instant::now());
        scene.redis.iter().for_each(|proxy| proxy.set(Fault::BlackHole));
        scene.enter(Moment::During);
        eventually("MySQL to take charge", || async { scene.row().await.is_in_mysql.then_some(()) }).await;
        println!("MySQL took charge after {:?}", started.elapsed());
        for instance in 0..2 {
            eventually("the instance to be degraded", || async {
                let (status, body) = scene.readiness(instance).await;
                (status == 200 && body["status"] == "degraded" && body["checks"]["queue"] == "ok").then_some(())
            })
            .await;
        }
        tokio::time::sleep(outage().saturating_sub(started.elapsed())).await;
        assert!(scene.row().await.is_in_mysql, "while Redis is away MySQL keeps the line");
        scene.redis.iter().for_each(|proxy| proxy.set(Fault::None));
        let (ended, healed) = (scene.seen.now(), Instant::now());
        eventually("Redis to have the line back", || async { (!scene.row().await.is_in_mysql).then_some(()) }).await;
        println!("Redis had the line back {:?} after it was there", healed.elapsed());
        (began, ended)
    };
    Box::pin(scene.run("outage for all", away)).await;
    scene.end().await;
    clear(redis, &dir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_instance_alone_is_cut_off() {
    let (redis, dir) = redis_server().await;
    let scene = Scene::set(&url(&redis), Opening::Open).await;
    let cut_off = async |scene: &Scene| {
        scene.wait_for_crowd().await;
        let before = scene.row().await;
        let (began, started) = (scene.seen.now(), Instant::now());
        scene.redis[0].set(Fault::BlackHole);
        scene.enter(Moment::During);
        eventually("the instance to be unready", || async {
            let (status, body) = scene.readiness(0).await;
            (status == 503 && body["checks"]["queue"] == "cut_off").then_some(())
        })
        .await;
        println!("unready after {:?}", started.elapsed());
        // Longer than the silence after which the line would be moved if nobody reached it.
        tokio::time::sleep(Duration::from_secs(4).saturating_sub(started.elapsed())).await;
        let (status, other) = scene.readiness(1).await;
        assert_eq!((status, &other["status"]), (200, &json!("ready")));
        assert_eq!(scene.row().await, before, "the line stays where the others reach it");
        scene.redis[0].set(Fault::None);
        let ended = scene.seen.now();
        eventually("the instance to be ready", || async { (scene.readiness(0).await.0 == 200).then_some(()) }).await;
        (began, ended)
    };
    Box::pin(scene.run("one instance cut off", cut_off)).await;
    scene.end().await;
    clear(redis, &dir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_stalls() {
    let (redis, dir) = redis_server().await;
    let scene = Scene::set(&url(&redis), Opening::Open).await;
    let stall = async |scene: &Scene| {
        scene.wait_for_crowd().await;
        let before = scene.row().await;
        let began = scene.seen.now();
        scene.mysql.set(Fault::BlackHole);
        scene.enter(Moment::During);
        tokio::time::sleep(STALL).await;
        scene.mysql.set(Fault::None);
        let ended = scene.seen.now();
        assert_eq!(scene.row().await, before, "Redis was there all the time");
        (began, ended)
    };
    Box::pin(scene.run("MySQL stalled", stall)).await;
    scene.end().await;
    clear(redis, &dir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lobby_is_wiped_and_drawn_all_the_same() {
    let (redis, dir) = redis_server().await;
    let scene = Scene::set(&url(&redis), Opening::Lobby).await;
    let wipe = async |scene: &Scene| {
        scene.wait_for_joins(issued_before()).await;
        let began = scene.seen.now();
        redis.ask(&["FLUSHALL"]).await;
        scene.enter(Moment::During);
        (began, scene.seen.now())
    };
    let open = async {
        scene.reaches(Moment::After).await;
        scene.wait_for_joins(clients() as usize - 20).await;
        scene.world.advance(Duration::from_hours(1));
    };
    tokio::join!(Box::pin(scene.run("FLUSHALL in the lobby", wipe)), open);

    // Anybody can recompute the ranks from what is public.
    let draw = scene.apis[0].get(&scene.base).send().await.expect(200)["draw"].clone();
    let mut seed = [0; 32];
    hex::decode_to_slice(text(&draw["seed"]), &mut seed).expect("64 hex digits");
    let size = draw["lobby_size"].as_u64().expect("a size");
    let ranks = Permutation::new(&seed, scene.sale.concert.parse().expect("an id"), size);
    let told = scene.seen.ranks();
    let early = told.iter().filter(|(arrival, _)| *arrival < size).count();
    assert!(early >= issued_before() && told.len() >= clients() as usize, "{early} of {}", told.len());
    for (arrival, rank) in told {
        assert_eq!(rank, ranks.rank_of(arrival).unwrap_or(arrival));
    }
    scene.end().await;
    clear(redis, &dir);
}
