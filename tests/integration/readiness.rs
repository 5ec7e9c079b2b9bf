//! Readiness tells whether MySQL is there, not whether it is busy; an end has a limit whatever runs.

use std::time::{Duration, Instant};

use frontrow::platform::db::Db;
use sqlx::Executor as _;

use crate::support::{Api, World, eventually};

const POOL: u32 = 4;

/// A unit that waits for a lock that somebody else has.
async fn blocked(db: Db) {
    let waited = db.in_tx("readiness_test.blocked", (), |conn, ()| {
        Box::pin(async move {
            let text = "SELECT id FROM boxes WHERE id = 1 FOR UPDATE";
            Ok(sqlx::query_scalar::<_, i32>(text).fetch_one(conn.sql()).await?)
        })
    });
    waited.await.expect_err("the lock is never free");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_whose_units_wait_for_a_lock_is_ready() {
    let pool = POOL.to_string();
    let settings = [
        ("FRONTROW__DATABASE__POOL_SIZE", pool.as_str()),
        ("FRONTROW__DATABASE__LOCK_WAIT_SECS", "60"),
        ("FRONTROW__DATABASE__UNIT_TIMEOUT_MS", "9000"),
        ("FRONTROW__DATABASE__ACQUIRE_TIMEOUT_MS", "3000"),
    ];
    let world = World::new().await;
    let one = world.instance_with(&settings).await;
    let mut sql = world.sql().await;
    sql.execute("CREATE TABLE boxes (id INT NOT NULL PRIMARY KEY) ENGINE = InnoDB").await.expect("a table");
    sql.execute("INSERT INTO boxes (id) VALUES (1)").await.expect("a row");
    sql.execute("START TRANSACTION").await.expect("a transaction");
    sql.execute("SELECT id FROM boxes FOR UPDATE").await.expect("the lock");
    let waiting: Vec<_> = (0..64).map(|_| tokio::spawn(blocked(one.state.db.clone()))).collect();
    eventually("a full pool", || async { (one.state.db.pool_state() == (POOL, 0)).then_some(()) }).await;
    let (api, started) = (Api::over(&[&one]), Instant::now());
    // Longer than an answer of before counts for.
    while started.elapsed() < Duration::from_secs(7) {
        let asked = Instant::now();
        let all = futures::future::join_all((0..8).map(|_| api.get("/readyz").send())).await;
        for reply in all {
            assert_eq!(reply.expect(200)["checks"]["mysql"], "ok", "after {:?}", started.elapsed());
        }
        assert!(asked.elapsed() < Duration::from_secs(2), "it waited for the pool");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    sql.execute("ROLLBACK").await.expect("an end");
    for unit in waiting {
        unit.abort();
    }
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn background_work_that_never_ends_does_not_keep_an_instance_from_ending() {
    let world = World::new().await;
    let one = world.instance_with(&[("FRONTROW__HTTP__DRAIN_TIMEOUT_SECS", "1")]).await;
    one.shutdown.spawn(std::future::pending());
    tokio::time::timeout(Duration::from_secs(15), one.stop()).await.expect("the end");
    world.end(Vec::new()).await;
}
