//! A thousand requests for eight connections: a bounded line waits for a bounded time, the rest is told when to come
//! again, and afterwards everything is as before.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;

use crate::support::traffic::Traffic;
use crate::support::{Api, Buyer, History, World, eventually};

const REQUESTS: u32 = 1000;
const POOL: u32 = 8;
const WAITING: u32 = 512;
const SETTINGS: [(&str, &str); 4] = [
    ("FRONTROW__DATABASE__POOL_SIZE", "8"),
    ("FRONTROW__DATABASE__WAITING_MAX", "512"),
    ("FRONTROW__HTTP__REQUESTS_MAX", "2048"),
    ("FRONTROW__HTTP__REQUEST_TIMEOUT_MS", "10000"),
];
/// What waits for a lock longer than any test: the pool is held.
const HELD: [(&str, &str); 2] =
    [("FRONTROW__DATABASE__LOCK_WAIT_SECS", "300"), ("FRONTROW__DATABASE__UNIT_TIMEOUT_MS", "300000")];
/// The deadline of a request, and what a busy machine may add.
const ANSWER_MAX: Duration = Duration::from_secs(10 + 5);

async fn charge(api: &Api, history: &History, buyer: &Buyer, key: &str) -> u16 {
    let call = api.post("/v1/me/points/charges").bearer(&buyer.token).key(key);
    history.send("charge", call.json(&json!({"amount": 5}))).await.status()
}

/// In time, and either done or told when to come again.
fn assert_bounded(history: &History) {
    assert!(history.others(&["201", "503 overloaded"]).is_empty(), "{:?}", history.outcomes());
    for event in history.events() {
        assert!(event.took < ANSWER_MAX, "{event:?}");
        let reply = event.reply.as_ref().expect("an answer");
        assert!(event.is_success() || reply.header("retry-after") == Some("1"), "{event:?}");
    }
    let (median, longest) = history.latency();
    println!("{:?}, median {median:?}, longest {longest:?}", history.outcomes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_at_once_on_eight_connections() {
    let world = World::with(&SETTINGS).await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one]);
    let buyers = Buyer::many(&one.state, REQUESTS).await;
    for wave in 0..2 {
        let (history, key) = (History::default(), format!("wave {wave}"));
        let sampling = async {
            let mut peak = (0, 0);
            loop {
                peak = (one.state.db.units().max(peak.0), one.state.db.pool_state().0.max(peak.1));
                assert!(peak.0 <= (POOL + WAITING) as usize && peak.1 <= POOL, "{peak:?}");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let storm = join_all(buyers.iter().map(|buyer| charge(&api, &history, buyer, &key)));
        tokio::select! {
            never = sampling => never,
            _ = storm => {}
        }
        assert_bounded(&history);
        assert!(history.count("201") > 0);
        // Whoever was refused comes again with the same key, a few at a time, until all are served.
        let again = async |buyer: &Buyer| {
            eventually("the charge", || async {
                (charge(&api, &History::default(), buyer, &key).await == 201).then_some(())
            })
            .await;
        };
        for some in buyers.chunks(POOL as usize * 4) {
            join_all(some.iter().map(again)).await;
        }
    }
    let balance = api.get("/v1/me/points").bearer(&buyers[0].token).send().await.expect(200);
    assert_eq!(balance["balance"], 10);
    world.assert_clean(&two).await;
    world.end(vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_is_held_refuses_and_comes_back() {
    let world = World::with(&SETTINGS).await;
    let (one, two) = (world.instance_with(&HELD).await, world.instance().await);
    let (api, other) = (Api::over(&[&one]), Api::over(&[&two]));
    let crowd = Traffic::enter(&other, &two.state, 4).await;
    let mut buyers = Buyer::many(&one.state, REQUESTS).await;
    let holders = buyers.split_off((REQUESTS - POOL) as usize);
    let locks = join_all(holders.iter().map(|buyer| world.lock_points(buyer))).await;
    let (history, patient) = (History::default(), History::default());
    let held = join_all(holders.iter().map(|buyer| charge(&api, &patient, buyer, "held")));
    let storm = async {
        eventually("a pool that is held", || async { (world.running().await.len() >= POOL as usize).then_some(()) })
            .await;
        let started = Instant::now();
        let all = join_all(buyers.iter().map(|buyer| charge(&api, &history, buyer, "late"))).await;
        assert!(all.iter().all(|status| *status == 503), "{:?}", history.outcomes());
        // The other instance has a pool of its own.
        crowd.try_journey(&other).await.expect("the other instance serves");
        println!("refused within {:?}", started.elapsed());
        assert_eq!(api.get("/readyz").send().await.status, 200, "busy is not away");
        assert_eq!(api.get("/livez").send().await.status, 200);
        drop(locks);
    };
    let (held, ()) = tokio::join!(held, storm);
    assert_bounded(&history);
    assert!(held.iter().all(|status| *status == 201), "{:?}", patient.outcomes());
    let after = History::default();
    for some in buyers[..100].chunks(POOL as usize) {
        join_all(some.iter().map(|buyer| charge(&api, &after, buyer, "late"))).await;
    }
    assert_eq!(after.count("201"), 100, "no error afterwards: {:?}", after.outcomes());
    eventually("the pool to be at rest", || async {
        let (open, idle) = one.state.db.pool_state();
        (open as usize == idle && one.state.db.units() == 0).then_some(())
    })
    .await;
    world.assert_clean(&two).await;
    world.end(vec![one, two]).await;
}
