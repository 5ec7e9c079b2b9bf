//! Random changes, faults, clocks and wipes over two instances, one of which is cut off from its stores again and again: no reader
//! of an instance is shown an older version after a newer one, nor an unmarked version that was out of date longer than the
//! stated bound.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use sqlx::Executor as _;

use crate::cache::{ALONE, plan};
use crate::support::proxy::sabotage::Sabotage;
use crate::support::{Api, Fault, Instance, Proxy, Sale, World, rounds};

/// `cache.news_max_ms`: what is not marked is never further behind.
const BOUND: Duration = Duration::from_secs(1);
const STEPS: usize = 250;

/// Two instances, the second one behind proxies.
struct Stage {
    world: World,
    instances: Vec<Instance>,
    apis: [Api; 2],
    mysql: Proxy,
    redis: Proxy,
    sale: Sale,
    /// When each version was certainly committed.
    committed: Vec<Instant>,
    /// The newest version that a reader of each instance was shown.
    seen: [usize; 2],
    marked: usize,
    read: usize,
}

impl Stage {
    async fn set(sabotage: Option<&std::sync::Arc<Sabotage>>) -> Self {
        let quick = [("FRONTROW__DATABASE__ACQUIRE_TIMEOUT_MS", "300"), ("FRONTROW__REDIS__COMMAND_TIMEOUT_MS", "200")];
        let world = World::with(&[ALONE, quick[0], quick[1]]).await;
        let mysql = match sabotage {
            Some(sabotage) => world.mysql_sabotaged(sabotage).await,
            None => world.mysql_proxy().await,
        };
        let redis = world.redis_proxy().await;
        let one = world.instance().await;
        let (mysql_name, mysql_url) = world.mysql_through(&mysql);
        let (redis_name, redis_url) = world.redis_through(&redis);
        let two = world.instance_with(&[(mysql_name, &mysql_url), (redis_name, &redis_url)]).await;
        let apis = [Api::over(&[&one]), Api::over(&[&two])];
        let sale = Sale::new(&apis[0], &one, &plan()).await;
        let instances = vec![one, two];
        let mut stage = Self {
            world,
            instances,
            apis,
            mysql,
            redis,
            sale,
            committed: Vec::new(),
            seen: [0; 2],
            marked: 0,
            read: 0,
        };
        stage.change().await;
        stage
    }

    async fn change(&mut self) {
        let version = self.committed.len();
        let call = self.apis[0].patch(&format!("/v1/admin/concerts/{}", self.sale.concert)).bearer(&self.sale.operator);
        call.json(&json!({"description": version.to_string()})).send().await.expect(200);
        self.committed.push(Instant::now());
    }

    /// Reads, and says what is wrong with the answer.
    async fn look(&mut self, which: usize) -> Option<String> {
        let asked = Instant::now();
        let path = format!("/v1/concerts/{}", self.sale.concert);
        let reply = self.apis[which].get(&path).send().await;
        if reply.status != 200 {
            let is_cut_off = which == 1 && (self.mysql.fault() != Fault::None || self.redis.fault() != Fault::None);
            // It may take a moment until it is well again.
            return (!is_cut_off && reply.status != 503).then(|| format!("{}: {}", reply.status, reply.body));
        }
        self.read += 1;
        let version: usize = reply.body["description"].as_str()?.parse().ok()?;
        let least = self.committed.iter().rposition(|at| *at + BOUND <= asked).unwrap_or(0);
        let is_marked = reply.header("warning").is_some();
        self.marked += usize::from(is_marked);
        let before = std::mem::replace(&mut self.seen[which], version);
        if version < before {
            return Some(format!("instance {which} showed {version} after {before}"));
        }
        (!is_marked && version < least)
            .then(|| format!("instance {which} showed {version}, {least} is older than the bound"))
    }

    async fn step(&mut self, rng: &mut StdRng) -> Option<String> {
        match rng.random_range(0..100) {
            0..20 => self.change().await,
            20..65 => {
                let which = rng.random_range(0..2);
                return self.look(which).await;
            }
            65..69 => self.mysql.set(Fault::Refuse),
            69..71 => self.mysql.set(Fault::BlackHole),
            71..74 => self.mysql.set(Fault::None),
            74..76 => self.redis.set(Fault::Refuse),
            76..79 => self.redis.set(Fault::None),
            79..80 => self.redis.cut(),
            80..82 => self.world.wipe_redis().await,
            82..84 => {
                // News are lost: an instance that has not heard of them yet sees that some are missing.
                self.world.sql().await.execute("DELETE FROM cache_changes").await.expect("a deletion");
            }
            84..86 => self.world.advance(Duration::from_secs(rng.random_range(1..400))),
            86..88 => self.world.rewind(Duration::from_secs(rng.random_range(1..400))),
            // Time for news to come, and for the bound to pass.
            _ => tokio::time::sleep(Duration::from_millis(rng.random_range(1..700))).await,
        }
        None
    }

    /// Runs a number of steps. Gives what went wrong first.
    async fn run(&mut self, rng: &mut StdRng) -> Option<String> {
        for step in 0..STEPS {
            if let Some(wrong) = self.step(rng).await {
                return Some(format!("step {step}: {wrong}"));
            }
        }
        self.mysql.set(Fault::None);
        self.redis.set(Fault::None);
        None
    }

    async fn end(self) {
        self.mysql.set(Fault::None);
        self.redis.set(Fault::None);
        self.world.end(self.instances).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reader_goes_back_or_sees_what_is_long_out_of_date() {
    for _ in 0..rounds() {
        let seed = rand::rng().random();
        let mut stage = Stage::set(None).await;
        let wrong = stage.run(&mut StdRng::seed_from_u64(seed)).await;
        assert_eq!(wrong, None, "seed {seed}");
        println!("seed {seed}: {} versions, {} reads, {} marked", stage.committed.len(), stage.read, stage.marked);
        stage.end().await;
    }
}

/// An instance that hears nothing, and takes that for no news.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_hears_nothing_is_noticed() {
    let sabotage = Sabotage::of_whole_sql(
        "SELECT change_no, generation FROM cache_state WHERE id = 1",
        "SELECT change_no * 0 AS change_no, generation FROM cache_state WHERE id = 1",
    );
    let mut stage = Stage::set(Some(&sabotage)).await;
    let mut wrong = None;
    for _ in 0..20 {
        wrong = stage.look(1).await;
        if wrong.is_some() {
            break;
        }
        stage.change().await;
        tokio::time::sleep(BOUND).await;
    }
    assert!(sabotage.hits() > 0 && wrong.is_some(), "the model does not notice");
    stage.end().await;
}
