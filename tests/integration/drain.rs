//! Instances that end, in good order or suddenly, under a crowd: nothing that was answered is lost, and nothing that
//! was asked happens twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::{Api, Buyer, Process, Reply, World, eventually};

const CLIENTS: usize = 30;

/// Settings with which a request that waits for a lock waits longer than any test.
const PATIENT: &[(&str, &str)] = &[
    ("FRONTROW__DATABASE__LOCK_WAIT_SECS", "300"),
    ("FRONTROW__DATABASE__UNIT_TIMEOUT_MS", "300000"),
    ("FRONTROW__HTTP__REQUEST_TIMEOUT_MS", "300000"),
    ("FRONTROW__HTTP__DRAIN_TIMEOUT_SECS", "300"),
];

/// Clients that never stop asking, each on connections of its own that it keeps.
struct Crowd {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<(Client, i64)>>,
}

struct Client {
    buyer: Buyer,
    /// One for each instance.
    apis: Vec<Api>,
    /// Whether an instance may break off without an answer, as one that is killed does.
    forgives: bool,
}

impl Client {
    /// Asks until it is answered, at one instance after the other, and with the same key each time.
    async fn ask(&self, turn: usize, charge: Option<i64>) -> Reply {
        let key = uuid::Uuid::new_v4().to_string();
        for attempt in 0..1000 {
            let api = &self.apis[(turn + attempt) % self.apis.len()];
            let call = match charge {
                None => api.get("/v1/me/points"),
                Some(amount) => api.post("/v1/me/points/charges").key(&key).json(&json!({"amount": amount})),
            };
            match call.bearer(&self.buyer.token).try_send().await {
                Ok(reply) if self.forgives && reply.body["code"] == "idempotency_key_in_flight" => {
                    tokio::task::yield_now().await;
                }
                Ok(reply) => return reply,
                Err(error) => assert!(error.is_connect() || self.forgives, "sent, and not answered: {error:?}"),
            }
        }
        panic!("nobody answers");
    }

    /// Reads and charges in turn until it is told to stop. Gives what was charged.
    async fn go_on(&self, stop: &AtomicBool, answered: &AtomicUsize) -> i64 {
        let mut charged = 0;
        for turn in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let amount = i64::try_from(1 + turn % 7).expect("small");
            let charge = (turn % 2 == 0).then_some(amount);
            let reply = self.ask(turn / 2, charge).await;
            assert_eq!(reply.status, if charge.is_some() { 201 } else { 200 }, "{reply:?}");
            charged += charge.unwrap_or_default();
            answered.fetch_add(1, Ordering::Relaxed);
        }
        charged
    }
}

impl Crowd {
    async fn over(world: &World, bases: &[&str], forgives: bool) -> Self {
        let buyers = Buyer::many(&world.state(&[]), u32::try_from(CLIENTS).expect("few")).await;
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let clients = buyers.into_iter().map(|buyer| {
            let (stop, answered) = (stop.clone(), answered.clone());
            let apis = bases.iter().map(|base| Api::at(vec![(*base).to_owned()])).collect();
            let client = Client { buyer, apis, forgives };
            tokio::spawn(async move {
                let charged = client.go_on(&stop, &answered).await;
                (client, charged)
            })
        });
        Self { clients: clients.collect(), stop, answered }
    }

    /// Waits for so many more answers.
    async fn go_on(&self, more: usize) {
        let goal = self.answered.load(Ordering::Relaxed) + more;
        eventually("answers", || async {
            let is_broken = self.clients.iter().any(JoinHandle::is_finished);
            (is_broken || self.answered.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
    }

    /// Stops, and asserts that every charge that was answered was made, once, and nothing else.
    async fn assert_charged(self, survivor: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let api = Api::at(vec![survivor.to_owned()]);
        let mut total = 0;
        for client in self.clients {
            let (client, charged) = client.await.expect("every request is answered");
            let points = api.get("/v1/me/points").bearer(&client.buyer.token).send().await.expect(200);
            assert_eq!(points["balance"].as_i64(), Some(charged));
            total += charged;
        }
        assert!(total > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_is_told_to_end_loses_no_request() {
    let world = World::new().await;
    let (mut first, first_base) = Process::serve(&world, &[]).await;
    let (mut second, second_base) = Process::serve(&world, &[]).await;
    let crowd = Crowd::over(&world, &[&first_base, &second_base], false).await;
    crowd.go_on(5 * CLIENTS).await;
    first.terminate();
    assert_eq!(first.end().await, Some(0), "{}", first.output());
    crowd.go_on(2 * CLIENTS).await;
    crowd.assert_charged(&second_base).await;
    second.terminate();
    assert_eq!(second.end().await, Some(0), "{}", second.output());
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_instance_answered_is_kept_and_the_rest_can_be_repeated() {
    let world = World::new().await;
    let (mut first, first_base) = Process::serve(&world, &[]).await;
    let (_second, second_base) = Process::serve(&world, &[]).await;
    let crowd = Crowd::over(&world, &[&first_base, &second_base], true).await;
    crowd.go_on(5 * CLIENTS).await;
    first.kill();
    assert_eq!(first.end().await, None);
    crowd.go_on(2 * CLIENTS).await;
    crowd.assert_charged(&second_base).await;
    world.end(Vec::new()).await;
}

/// An instance with a charge that waits for a lock, and was told to end.
async fn draining(world: &World) -> (Process, Buyer, sqlx::MySqlConnection, JoinHandle<reqwest::Result<Reply>>) {
    let (process, base) = Process::serve(world, PATIENT).await;
    let buyer = Buyer::many(&world.state(&[]), 1).await.remove(0);
    let lock = world.lock_points(&buyer).await;
    let token = buyer.token.clone();
    let charge = tokio::spawn(async move {
        let api = Api::at(vec![base]);
        let call = api.post("/v1/me/points/charges").bearer(&token).key("k");
        call.json(&json!({"amount": 5})).try_send().await
    });
    world.wait_for_waiter().await;
    process.terminate();
    process.wait_for("draining").await;
    (process, buyer, lock, charge)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_running_is_waited_for() {
    let world = World::new().await;
    let (mut process, _buyer, lock, charge) = draining(&world).await;
    assert!(process.status().is_none() && !charge.is_finished());
    drop(lock);
    let reply = charge.await.expect("no panic").expect("an answer");
    assert_eq!(reply.header("connection"), Some("close"));
    assert_eq!(reply.expect(201)["balance"], 5);
    assert_eq!(process.end().await, Some(0), "{}", process.output());
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_waits_for_nothing() {
    let world = World::new().await;
    let (mut process, buyer, lock, charge) = draining(&world).await;
    assert!(process.status().is_none() && !charge.is_finished());
    process.terminate();
    // The lock is held until after the end: nothing but the signal can have ended it.
    process.end().await;
    assert!(charge.await.expect("no panic").is_err(), "cut off");
    drop(lock);
    let (heir, base) = Process::serve(&world, &[]).await;
    let api = Api::at(vec![base]);
    let repeat = eventually("the key to be free", || async {
        let call = api.post("/v1/me/points/charges").bearer(&buyer.token).key("k");
        let reply = call.json(&json!({"amount": 5})).send().await;
        (reply.status == 201).then_some(reply)
    });
    assert_eq!(repeat.await.body["balance"], 5, "once, whether the first took effect or not");
    drop(heir);
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_make_no_sense_are_named_and_nothing_starts() {
    let world = World::new().await;
    let weak = format!("1:{}", "ab".repeat(32));
    for (name, value, said) in [
        ("FRONTROW__HTTP__ADDRESS", "127.0.0.1:0", "FRONTROW__HTTP__ADDRESS"),
        ("FRONTROW__HTTP__REQUESTS_MAX", "many", "requests_max"),
        ("FRONTROW__SECRETS__TOKEN_KEYS", &weak, "secrets.token_keys"),
        ("FRONTROW__SECRETS__TOKEN_KEYS", "", "secrets.token_keys"),
        ("FRONTROW__DATABASE__URL", "", "database.url"),
        ("FRONTROW__REDIS__URL", "nonsense", "redis.url"),
        ("FRONTROW__LOG__FORMAT", "xml", "log.format"),
        ("FRONTROW__HTTP__ADDR", "nowhere", "nowhere"),
    ] {
        let mut process = Process::spawn(&world, &["serve"], &[(name, value)]);
        let code = process.end().await;
        let output = process.output();
        assert!(code.is_some_and(|code| code != 0) && output.contains(said), "{name}={value}: {code:?} {output}");
        assert!(!output.contains(&weak), "a key is never shown");
    }
    world.end(Vec::new()).await;
}
