//! Connections that break all at once, in the middle of transactions, or for one instance alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use frontrow::platform::db::Db;
use futures::future::join_all;
use serde_json::json;
use sqlx::Executor as _;
use tokio::sync::Barrier;

use crate::stage::{POOL, RECOVERY_MAX, Stage, Store, assert_answered};
use crate::support::{Api, Buyer, Fault, History, eventually};

/// Opens every connection that the pool may have.
async fn open_all(db: &Db) {
    eventually("a full pool", || async {
        let meet = Arc::new(Barrier::new(POOL as usize));
        let units = (0..POOL).map(|_| {
            db.read("partitions.open", meet.clone(), |_, meet| {
                Box::pin(async move {
                    meet.wait().await;
                    Ok(())
                })
            })
        });
        // Work in the background may have a connection of its own for a moment.
        tokio::time::timeout(Duration::from_millis(500), join_all(units)).await.ok()?;
        (db.pool_state().0 == POOL).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_end_all_at_once_fail_hardly_anybody() {
    let stage = Stage::set(Store::MySql, true).await;
    for instance in &stage.instances {
        open_all(&instance.state.db).await;
    }
    stage.proxy.cut();
    let history = stage.endure(async {}).await;
    let events = history.events();
    let refused: Vec<Duration> = events.iter().filter(|event| event.status() == 503).map(|event| event.at).collect();
    println!("{} refused, the last one asked after {:?}", refused.len(), refused.iter().max());
    assert!(refused.len() <= 2 * POOL as usize, "{:?}", history.outcomes());
    stage.recover("a cut").await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_end_again_and_again_are_made_anew() {
    let stage = Stage::set(Store::MySql, true).await;
    let cutting = async {
        for _ in 0..40 {
            stage.proxy.cut();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    stage.endure(cutting).await;
    stage.recover("cuts").await;
    stage.end().await;
}

async fn charge(api: &Api, history: &History, buyer: &Buyer, key: &str) -> crate::support::history::Event {
    let call = api.post("/v1/me/points/charges").bearer(&buyer.token).key(key);
    history.send(key, call.json(&json!({"amount": 5}))).await
}

/// The server is left with a transaction that has locks, and whose client it cannot hear.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_cut_off_in_the_middle_of_a_transaction_keeps_no_locks() {
    let stage = Stage::set(Store::MySql, false).await;
    let [one, two] = [&stage.instances[0], &stage.instances[1]].map(|instance| Api::over(&[instance]));
    let buyer = Buyer::many(&stage.instances[1].state, 1).await.remove(0);
    let history = History::default();
    let mut lock = stage.world.lock_points(&buyer).await;
    let (cut_off, ()) = tokio::join!(charge(&one, &history, &buyer, "cut off"), async {
        stage.world.wait_for_waiter().await;
        stage.proxy.set(Fault::BlackHole);
        // Now the server gives the row to a transaction that will say no more.
        lock.execute("COMMIT").await.expect("the buyer has points now");
    });
    assert_answered(&cut_off);
    assert_eq!((cut_off.status(), cut_off.code()), (503, "timed_out"), "{cut_off:?}");
    let started = Instant::now();
    eventually("the locks to be free", || async {
        let event = charge(&two, &history, &buyer, "elsewhere").await;
        assert_answered(&event);
        event.is_success().then_some(())
    })
    .await;
    println!("the locks were free after {:?}", started.elapsed());
    assert_eq!(two.get("/v1/me/points").bearer(&buyer.token).send().await.expect(200)["balance"], 5);
    stage.recover("a transaction cut off").await;
    let repeat = charge(&one, &history, &buyer, "cut off").await;
    assert!(repeat.is_success(), "{repeat:?}");
    assert_eq!(one.get("/v1/me/points").bearer(&buyer.token).send().await.expect(200)["balance"], 10);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_cut_off_alone_is_unready_and_the_other_one_serves() {
    let stage = Stage::set(Store::MySql, false).await;
    stage.proxy.set(Fault::BlackHole);
    stage.wait_until_told(1).await;
    let [alone, other] = [&stage.instances[0], &stage.instances[1]].map(|instance| Api::over(&[instance]));
    // A transaction of the one that is cut off may have had a lock: not for long.
    eventually("the other one to serve", || async {
        let history = History::default();
        for _ in 0..60 {
            let event = stage.crowd.ask(&other, &history).await;
            assert_answered(&event);
        }
        other.get("/readyz").send().await.expect(200);
        assert_eq!(alone.get("/readyz").send().await.status, 503);
        history.events().iter().all(|event| event.status() < 500).then_some(())
    })
    .await;
    stage.undisturbed().await;
    stage.recover("one instance").await;
    stage.end().await;
}

/// A client that has given up must not leave its statement behind, to be added to by the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_ends_at_the_server_too() {
    let stage = Stage::set(Store::MySql, true).await;
    let db = &stage.instances[0].state.db;
    let late = db.read("partitions.late", (), |conn, ()| {
        Box::pin(async move {
            let text = "SELECT COUNT(*) AS left_behind FROM seats a, seats b, seats c WHERE a.seat_no + b.seat_no + c.seat_no < 0";
            Ok(conn.sql().fetch_one(text).await.map(drop)?)
        })
    });
    assert_eq!(late.await.expect_err("too long").code().code, "timed_out");
    let started = Instant::now();
    eventually("the statement to end", || async {
        let running = stage.world.running().await;
        (!running.iter().any(|text| text.contains("left_behind"))).then_some(())
    })
    .await;
    assert!(started.elapsed() < RECOVERY_MAX, "{:?}", started.elapsed());
    stage.end().await;
}
