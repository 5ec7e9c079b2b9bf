//! The stage of faults: instances that reach MySQL or Redis through a proxy, a crowd inside a sale, a line that does not
//! move; and what must be true during a fault and after it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::arena::Plan;
use crate::support::history::Event;
use crate::support::{Api, Buyer, Fault, History, Instance, Proxy, Sale, Traffic, World, eventually};

const REQUEST_TIMEOUT_MS: u64 = 2000;
/// Connections of each instance.
pub const POOL: u32 = 24;
/// Requests going at any time.
const AT_ONCE: usize = 16;
/// A request's deadline, and what a busy machine may add.
const ANSWER_MAX: Duration = Duration::from_millis(REQUEST_TIMEOUT_MS + 4000);
/// How long a fault lasts at least.
pub const FAULT: Duration = Duration::from_millis(1500);
/// The promise: after this everything works again.
pub const RECOVERY_MAX: Duration = Duration::from_secs(5);
const RECOVERIES_MAX: usize = 3;

/// The defaults' proportions, in a fraction of their time.
const LIMITS: [(&str, &str); 10] = [
    ("FRONTROW__HTTP__REQUEST_TIMEOUT_MS", "2000"),
    ("FRONTROW__DATABASE__POOL_SIZE", "24"),
    ("FRONTROW__DATABASE__WAITING_MAX", "64"),
    ("FRONTROW__DATABASE__ACQUIRE_TIMEOUT_MS", "300"),
    ("FRONTROW__DATABASE__UNIT_TIMEOUT_MS", "1000"),
    ("FRONTROW__DATABASE__LOCK_WAIT_SECS", "1"),
    ("FRONTROW__REDIS__COMMAND_TIMEOUT_MS", "200"),
    ("FRONTROW__REDIS__CONNECT_TIMEOUT_MS", "400"),
    ("FRONTROW__CACHE__SOFT_SECS", "600"),
    ("FRONTROW__HTTP__DRAIN_TIMEOUT_SECS", "5"),
];

#[derive(Clone, Copy, PartialEq)]
pub enum Store {
    MySql,
    Redis,
}

/// Instances that reach one of their stores through a proxy, and a crowd inside.
pub struct Stage {
    pub world: World,
    pub instances: Vec<Instance>,
    pub api: Api,
    pub proxy: Proxy,
    pub store: Store,
    pub crowd: Traffic,
    /// A line that does not move, and somebody who waits in it.
    paused: Sale,
    waiting: String,
}

impl Stage {
    /// The first instance reaches `store` through the proxy; the others too, or directly.
    pub async fn set(store: Store, others_too: bool) -> Self {
        let world = World::with(&LIMITS).await;
        let (proxy, (name, value)) = match store {
            Store::MySql => {
                let proxy = world.mysql_proxy().await;
                let setting = world.mysql_through(&proxy);
                (proxy, setting)
            }
            Store::Redis => {
                let proxy = world.redis_proxy().await;
                let setting = world.redis_through(&proxy);
                (proxy, setting)
            }
        };
        let behind = [(name, value.as_str())];
        let one = world.instance_with(&behind).await;
        let two = world.instance_with(if others_too { &behind } else { &[] }).await;
        let api = Api::over(&[&one, &two]);
        let crowd = Traffic::enter(&api, &one.state, 8).await;
        let paused = Sale::new(&api, &one, &Plan::default()).await;
        let rules = format!("/v1/admin/concerts/{}/queue", paused.concert);
        api.patch(&rules).bearer(&paused.operator).json(&json!({"paused": true})).send().await.expect(200);
        eventually("the line to stand on both", || async {
            let line = format!("/v1/concerts/{}/queue", paused.concert);
            let phases = [api.get(&line).send().await.expect(200), api.get(&line).send().await.expect(200)];
            phases.iter().all(|line| line["phase"] == "paused").then_some(())
        })
        .await;
        let buyer = Buyer::many(&one.state, 1).await.remove(0);
        let waiting = buyer.join(&api, &paused).await;
        let stage = Self { world, instances: vec![one, two], api, proxy, store, crowd, paused, waiting };
        stage.settle().await;
        stage.undisturbed().await;
        stage
    }

    /// Waits until a good number of requests goes well on all instances: a busy machine may refuse some.
    async fn settle(&self) {
        eventually("everything to go well", || async {
            let history = History::default();
            let enough = async {
                while history.events().len() < 60 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            self.crowd.keep_busy(&self.api, &history, self.instances.len(), enough).await;
            history.events().iter().all(|event| (200..500).contains(&event.status())).then_some(())
        })
        .await;
    }

    /// What needs neither store.
    pub async fn undisturbed(&self) {
        let line = format!("/v1/concerts/{}/queue", self.paused.concert);
        let performance = &self.crowd.sale.performances[0];
        for path in ["/livez", &line, &format!("/v1/performances/{performance}/seat-map")] {
            for _ in &self.instances {
                assert_eq!(self.api.get(path).send().await.status, 200, "{path}");
            }
        }
        for path in [format!("/v1/concerts/{}", self.crowd.sale.concert), format!("/v1/performances/{performance}")] {
            for _ in &self.instances {
                self.api.get(&path).send().await.expect(200);
            }
        }
        for _ in &self.instances {
            let place = self.api.get(&format!("{line}/tickets/me")).ticket(&self.waiting).send().await.expect(200);
            assert_eq!((place["status"].as_str(), place["ahead"].as_u64()), (Some("waiting"), Some(0)));
        }
    }

    /// Waits until the first `count` instances say which dependency is away.
    pub async fn wait_until_told(&self, count: usize) {
        let (status, away, there) = match self.store {
            Store::MySql => (503, "mysql", "redis"),
            Store::Redis => (200, "redis", "mysql"),
        };
        for instance in &self.instances[..count] {
            let api = Api::over(&[instance]);
            eventually("the instance to tell", || async {
                let reply = api.get("/readyz").send().await;
                let checks = &reply.body["checks"];
                (reply.status == status && checks[away] == "unreachable" && checks[there] == "ok").then_some(())
            })
            .await;
        }
    }

    /// Traffic for a while, and to the end of `meanwhile`; then what must be true of every answer.
    pub async fn endure(&self, meanwhile: impl Future<Output = ()>) -> History {
        let history = History::default();
        let meanwhile = async {
            let started = Instant::now();
            let mut peak = 0;
            let sampling = async {
                loop {
                    peak = self.instances.iter().map(|one| one.state.db.units()).max().unwrap_or(0).max(peak);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::select! {
                () = sampling => {}
                () = meanwhile => {}
            }
            while started.elapsed() < FAULT {
                self.undisturbed().await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            peak
        };
        // One for each request under way, and what the instance does by itself.
        let most = AT_ONCE * 2;
        let peak = self.crowd.keep_busy(&self.api, &history, AT_ONCE, meanwhile).await;
        for event in history.events() {
            assert_answered(&event);
        }
        assert!(peak <= most, "{peak} units of work piled up behind {AT_ONCE} requests");
        let (_, longest) = history.latency();
        println!(
            "{} requests, longest {longest:?}, {peak} units at most: {:?}",
            history.events().len(),
            history.outcomes()
        );
        history
    }

    /// Ends the fault and waits until the whole way of a buyer works on every instance. Where that takes too long, the
    /// fault comes back and it is measured again: a busy machine is slow once, a defect each time.
    pub async fn recover(&self, what: &str) {
        let fault = self.proxy.fault();
        let mut took = Vec::new();
        for _ in 0..RECOVERIES_MAX {
            self.proxy.set(Fault::None);
            let started = Instant::now();
            for instance in &self.instances {
                let api = Api::over(&[instance]);
                eventually("recovery", || async { self.crowd.try_journey(&api).await.ok() }).await;
            }
            took.push(started.elapsed());
            if started.elapsed() < RECOVERY_MAX {
                println!("{what}: recovered after {took:?}");
                return;
            }
            self.proxy.set(fault);
            tokio::time::sleep(FAULT).await;
        }
        panic!("{what}: recovered after {took:?}");
    }

    /// Nothing is left of it: pools at rest and within their size, nothing broken, every key answered.
    pub async fn end(self) {
        for instance in &self.instances {
            eventually("the pool to be at rest", || async {
                let (open, idle) = instance.state.db.pool_state();
                (open as usize == idle && instance.state.db.units() == 0).then_some(())
            })
            .await;
            assert!(instance.state.db.pool_state().0 <= POOL);
        }
        self.crowd.assert_kept(&self.api, 150).await;
        self.settle().await;
        self.world.assert_clean(&self.instances[0]).await;
        self.world.end(self.instances).await;
    }
}

/// In time, and either an answer or a clear word about when to try again.
pub fn assert_answered(event: &Event) {
    let clear = ["read_only", "unavailable", "timed_out", "overloaded"];
    assert!(event.took < ANSWER_MAX, "{} took {:?}: {event:?}", event.about, event.took);
    match event.status() {
        200..=499 => {}
        503 => {
            let reply = event.reply.as_ref().expect("a status has its reply");
            assert!(clear.contains(&event.code()), "{event:?}");
            assert!(reply.header("retry-after").is_some(), "{event:?}");
            assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{event:?}");
        }
        _ => panic!("{event:?}"),
    }
}
