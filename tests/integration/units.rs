//! What a unit of database work promises when callers leave, locks clash, bodies fail and time runs out.
//!
//! The traps of the driver and the servers are shown here too, so that a new version that changes one is noticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use frontrow::platform::db::{Conn, Db};
use frontrow::platform::error::{Fault, Problem};
use frontrow::platform::telemetry::metrics;
use futures::StreamExt as _;
use futures::future::join_all;
use sqlx::{AssertSqlSafe, Executor as _, MySqlConnection};
use tokio::sync::{Barrier, Semaphore};

use crate::support::{World, eventually};

const CREATE: &str = "CREATE TABLE boxes (id INT NOT NULL PRIMARY KEY, n INT NOT NULL) ENGINE = InnoDB";
const FILL: &str = "INSERT INTO boxes (id, n) VALUES (1, 0), (2, 0)";
const ADD: &str = "UPDATE boxes SET n = n + 1 WHERE id = ?";
const PUT: &str = "INSERT INTO boxes (id, n) VALUES (?, 0)";
const READ: &str = "SELECT CAST(n AS SIGNED) FROM boxes WHERE id = ?";
const COUNT: &str = "SELECT COUNT(*) FROM boxes WHERE id = ?";
const ME: &str = "SELECT CAST(CONNECTION_ID() AS SIGNED)";

/// A database with two boxes, and units over it.
async fn boxes(settings: &[(&str, &str)]) -> (World, Db) {
    let world = World::new().await;
    let mut sql = world.sql().await;
    sql.execute(CREATE).await.expect("a table");
    sql.execute(FILL).await.expect("two rows");
    let db = world.state(settings).db;
    (world, db)
}

async fn run(conn: &mut Conn, statement: &'static str, id: i64) -> Result<u64, Problem> {
    Ok(sqlx::query(statement).bind(id).execute(conn.sql()).await?.rows_affected())
}

async fn read(conn: &mut Conn, statement: &'static str) -> Result<i64, Problem> {
    Ok(sqlx::query_scalar(statement).fetch_one(conn.sql()).await?)
}

/// What somebody else reads.
async fn seen(sql: &mut MySqlConnection, statement: &'static str, id: i64) -> i64 {
    sqlx::query_scalar(statement).bind(id).fetch_one(sql).await.expect("a number")
}

/// Gives up after so many polls: in the middle of whatever the work is doing by then.
async fn leave_after(polls: u32, work: impl Future) {
    let mut work = std::pin::pin!(work);
    for _ in 0..polls {
        if futures::poll!(work.as_mut()).is_ready() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Asserts that all four connections of the pool can be used at the same time, and again and again.
async fn assert_whole(db: &Db) {
    let meet = Arc::new(Barrier::new(4));
    let together = (0..4).map(|_| {
        db.read("units.together", meet.clone(), |conn, meet| {
            Box::pin(async move {
                read(conn, "SELECT 1").await?;
                meet.wait().await;
                read(conn, "SELECT 1").await
            })
        })
    });
    for answer in join_all(together).await {
        assert_eq!(answer.expect("a connection"), 1);
    }
    for _ in 0..50 {
        let answer = db.read("units.one", (), |conn, ()| Box::pin(read(conn, "SELECT 1"))).await;
        assert_eq!(answer.expect("a connection"), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_leave_wedge_no_connection() {
    let (world, db) = boxes(&[("FRONTROW__DATABASE__POOL_SIZE", "4")]).await;
    let callers = (0..200).map(|caller| {
        let db = db.clone();
        async move {
            // A long answer takes many packets, so that some leave between two of them.
            let work = db.in_tx("units.left", (), |conn, ()| {
                Box::pin(async move {
                    run(conn, ADD, 1).await?;
                    let long: String = sqlx::query_scalar("SELECT REPEAT('x', 200000)").fetch_one(conn.sql()).await?;
                    Ok(long.len())
                })
            });
            leave_after(1 + caller * 4, work).await;
        }
    });
    futures::stream::iter(callers).buffer_unordered(8).collect::<Vec<()>>().await;
    eventually("the units to end", || async {
        let (open, idle) = db.pool_state();
        (open as usize == idle).then_some(())
    })
    .await;
    assert_whole(&db).await;
    // A unit that was begun is finished, whether anybody waits for it or not.
    assert_eq!(seen(&mut world.sql().await, READ, 1).await, 200);
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_over_its_time_loses_its_connection_and_its_changes() {
    let settings = [("FRONTROW__DATABASE__POOL_SIZE", "1"), ("FRONTROW__DATABASE__UNIT_TIMEOUT_MS", "300")];
    let (world, db) = boxes(&settings).await;
    let used = Arc::new(AtomicI64::new(0));
    let slow = db.in_tx("units.slow", used.clone(), |conn, used| {
        Box::pin(async move {
            used.store(read(conn, ME).await?, Ordering::SeqCst);
            run(conn, PUT, 3).await?;
            read(conn, "SELECT SLEEP(3)").await
        })
    });
    assert_eq!(slow.await.expect_err("no time left").code().code, "timed_out");
    let next = db.read("units.next", (), |conn, ()| Box::pin(read(conn, ME))).await.expect("a connection");
    assert_ne!(next, used.load(Ordering::SeqCst), "the connection was used again");
    let mut sql = world.sql().await;
    eventually("the server to roll back", || async {
        // Waits for the row's lock, within the server's limit, as long as the unit's transaction lives.
        let again = db.in_tx("units.put", (), |conn, ()| Box::pin(run(conn, PUT, 3))).await;
        again.is_ok().then_some(())
    })
    .await;
    assert_eq!(seen(&mut sql, COUNT, 3).await, 1);
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_panics_commits_nothing() {
    let (world, db) = boxes(&[("FRONTROW__DATABASE__POOL_SIZE", "1")]).await;
    let failed: Result<(), Problem> = db
        .in_tx("units.panic", (), |conn, ()| {
            Box::pin(async move {
                run(conn, PUT, 3).await?;
                panic!("in the middle of a transaction")
            })
        })
        .await;
    assert_eq!(failed.expect_err("the panic").code().code, "internal");
    db.in_tx("units.next", (), |conn, ()| Box::pin(run(conn, ADD, 1))).await.expect("a clean connection");
    let mut sql = world.sql().await;
    assert_eq!((seen(&mut sql, READ, 1).await, seen(&mut sql, COUNT, 3).await), (1, 0));
    world.end(Vec::new()).await;
}

/// Two transactions that want the same two rows.
struct Crossing {
    order: [i64; 2],
    tries: AtomicU32,
    meet: Arc<Barrier>,
    swallow: bool,
}

async fn cross(conn: &mut Conn, crossing: &Crossing) -> Result<Option<Fault>, Problem> {
    run(conn, ADD, crossing.order[0]).await?;
    if crossing.tries.fetch_add(1, Ordering::SeqCst) == 0 {
        crossing.meet.wait().await;
    }
    match run(conn, ADD, crossing.order[1]).await {
        Err(problem) if crossing.swallow => Ok(problem.fault()),
        other => other.map(|_| None),
    }
}

async fn two_that_cross(db: &Db, name: &'static str, swallow: bool) -> [Result<Option<Fault>, Problem>; 2] {
    let meet = Arc::new(Barrier::new(2));
    let one = |order| Crossing { order, tries: AtomicU32::new(0), meet: meet.clone(), swallow };
    let body = |crossing| db.in_tx(name, crossing, |conn, crossing| Box::pin(cross(conn, crossing)));
    let (first, second) = tokio::join!(body(one([1, 2])), body(one([2, 1])));
    [first, second]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlocks_victim_is_run_again() {
    let (world, db) = boxes(&[]).await;
    for outcome in two_that_cross(&db, "units.deadlock", false).await {
        outcome.expect("both succeed");
    }
    assert!(metrics::db_retries("units.deadlock", "deadlock") >= 1);
    let mut sql = world.sql().await;
    assert_eq!((seen(&mut sql, READ, 1).await, seen(&mut sql, READ, 2).await), (2, 2));
    world.end(Vec::new()).await;
}

/// The trap: after a deadlock the server has rolled back, and COMMIT says Ok all the same. So a body never goes on
/// after a statement's error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_that_is_swallowed_is_lost_without_a_word() {
    let (world, db) = boxes(&[]).await;
    let outcomes = two_that_cross(&db, "units.swallow", true).await.map(|outcome| outcome.expect("COMMIT says Ok"));
    let victims = outcomes.iter().filter(|fault| **fault == Some(Fault::Deadlock)).count();
    assert_eq!(victims, 1, "{outcomes:?}");
    let mut sql = world.sql().await;
    assert_eq!((seen(&mut sql, READ, 1).await, seen(&mut sql, READ, 2).await), (1, 1));
    world.end(Vec::new()).await;
}

/// Writes a row, then wants one that somebody else has locked.
fn put_and_add<'c>(conn: &'c mut Conn, (): &'c ()) -> futures::future::BoxFuture<'c, Result<u64, Problem>> {
    Box::pin(async move {
        run(conn, PUT, 3).await?;
        run(conn, ADD, 1).await
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_never_free_is_refused_and_leaves_nothing() {
    let (world, db) = boxes(&[("FRONTROW__DATABASE__RETRIES_MAX", "1")]).await;
    let mut sql = world.sql().await;
    sql.execute("START TRANSACTION").await.expect("a transaction");
    sqlx::query(ADD).bind(1).execute(&mut sql).await.expect("the lock");
    let refused = db.in_tx("units.lock_wait", (), put_and_add).await.expect_err("the lock is taken");
    assert_eq!((refused.code().code, refused.code().status), ("overloaded", 503));
    assert_eq!(refused.fault(), Some(Fault::LockWait));
    assert_eq!(metrics::db_retries("units.lock_wait", "lock_wait"), 1);
    // The server keeps what a transaction did before its lock wait ended: the unit rolls it back itself.
    assert_eq!(seen(&mut world.sql().await, COUNT, 3).await, 0);
    sql.execute("ROLLBACK").await.expect("the lock is free");
    db.in_tx("units.lock_free", (), put_and_add).await.expect("no lock is left");
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_becomes_free_is_taken_by_a_later_try() {
    let (world, db) = boxes(&[]).await;
    let mut sql = world.sql().await;
    sql.execute("START TRANSACTION").await.expect("a transaction");
    sqlx::query(ADD).bind(1).execute(&mut sql).await.expect("the lock");
    let waiting = tokio::spawn({
        let db = db.clone();
        async move { db.in_tx("units.lock_later", (), put_and_add).await }
    });
    eventually("a second try", || async { (metrics::db_retries("units.lock_later", "lock_wait") > 0).then_some(()) })
        .await;
    sql.execute("COMMIT").await.expect("the lock is free");
    waiting.await.expect("no panic").expect("the lock is to be had");
    assert_eq!((seen(&mut sql, READ, 1).await, seen(&mut sql, COUNT, 3).await), (2, 1));
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_sees_what_others_commit() {
    let (world, db) = boxes(&[]).await;
    let meet = Arc::new(Barrier::new(2));
    let reader = db.in_tx("units.isolation", meet.clone(), |conn, meet| {
        Box::pin(async move {
            let before = read(conn, "SELECT CAST(n AS SIGNED) FROM boxes WHERE id = 1").await?;
            meet.wait().await;
            meet.wait().await;
            Ok((before, read(conn, "SELECT CAST(n AS SIGNED) FROM boxes WHERE id = 1").await?))
        })
    });
    let writer = async {
        let mut sql = world.sql().await;
        meet.wait().await;
        sqlx::query(ADD).bind(1).execute(&mut sql).await.expect("a change");
        meet.wait().await;
    };
    let (seen, ()) = tokio::join!(reader, writer);
    assert_eq!(seen.expect("READ COMMITTED"), (0, 1));
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_waiting_line_is_bounded() {
    let settings = [
        ("FRONTROW__DATABASE__POOL_SIZE", "1"),
        ("FRONTROW__DATABASE__WAITING_MAX", "2"),
        ("FRONTROW__DATABASE__ACQUIRE_TIMEOUT_MS", "60000"),
        ("FRONTROW__DATABASE__UNIT_TIMEOUT_MS", "60000"),
    ];
    let (world, db) = boxes(&settings).await;
    let gate = Arc::new(Semaphore::new(0));
    let mut units = futures::stream::FuturesUnordered::new();
    for _ in 0..8 {
        units.push(db.read("units.line", gate.clone(), |conn, gate| {
            Box::pin(async move {
                let _through = gate.acquire().await.map_err(Problem::internal)?;
                read(conn, "SELECT 1").await
            })
        }));
    }
    // The gate is closed: who is answered now did not wait.
    for _ in 0..5 {
        let refused = units.next().await.expect("an answer").expect_err("the line is full");
        assert_eq!((refused.code().code, refused.fault()), ("overloaded", Some(Fault::Exhausted)));
    }
    gate.add_permits(1);
    while let Some(served) = units.next().await {
        served.expect("who waited is served");
    }
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_connection_for_ever() {
    let settings = [("FRONTROW__DATABASE__POOL_SIZE", "1"), ("FRONTROW__DATABASE__ACQUIRE_TIMEOUT_MS", "100")];
    let (world, db) = boxes(&settings).await;
    let meet = Arc::new(Barrier::new(2));
    let holder = db.read("units.holder", meet.clone(), |conn, meet| {
        Box::pin(async move {
            meet.wait().await;
            meet.wait().await;
            read(conn, "SELECT 1").await
        })
    });
    let waiter = async {
        meet.wait().await;
        let refused = db.read("units.waiter", (), |conn, ()| Box::pin(read(conn, "SELECT 1"))).await;
        meet.wait().await;
        refused.expect_err("no connection").code().code
    };
    let (held, refused) = tokio::join!(holder, waiter);
    assert_eq!((held.expect("a connection"), refused), (1, "overloaded"));
    world.end(Vec::new()).await;
}

/// The trap: the driver counts the rows that were found. An UPDATE that changes nothing says 1, and so does an upsert.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_affected_counts_rows_that_were_found() {
    let (world, db) = boxes(&[]).await;
    let counts = db.in_tx("units.rows", (), |conn, ()| {
        Box::pin(async move {
            let same = run(conn, "UPDATE boxes SET n = 0 WHERE id = ?", 1).await?;
            let upsert = "INSERT INTO boxes (id, n) VALUES (?, 0) ON DUPLICATE KEY UPDATE n = VALUES(n)";
            let (kept, missed) =
                (run(conn, upsert, 1).await?, run(conn, "UPDATE boxes SET n = 0 WHERE id = ?", 9).await?);
            Ok([same, kept, run(conn, upsert, 9).await?, missed])
        })
    });
    assert_eq!(counts.await.expect("four statements"), [1, 1, 1, 0]);
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_fails_is_told() {
    let (world, db) = boxes(&[("FRONTROW__DATABASE__POOL_SIZE", "1")]).await;
    let (used, meet) = (Arc::new(AtomicI64::new(0)), Arc::new(Barrier::new(2)));
    let unit = db.in_tx("units.commit", (used.clone(), meet.clone()), |conn, (used, meet)| {
        Box::pin(async move {
            run(conn, PUT, 3).await?;
            used.store(read(conn, ME).await?, Ordering::SeqCst);
            meet.wait().await;
            meet.wait().await;
            Ok(())
        })
    });
    let killer = async {
        let mut sql = world.sql().await;
        meet.wait().await;
        let kill = format!("KILL {}", used.load(Ordering::SeqCst));
        sql.execute(AssertSqlSafe(kill)).await.expect("killed");
        meet.wait().await;
    };
    let (outcome, ()) = tokio::join!(unit, killer);
    let told = outcome.expect_err("nothing was committed");
    assert_eq!((told.code().code, told.fault()), ("read_only", Some(Fault::Disconnected)));
    let mut sql = world.sql().await;
    assert_eq!(seen(&mut sql, COUNT, 3).await, 0);
    db.in_tx("units.next", (), |conn, ()| Box::pin(run(conn, ADD, 1))).await.expect("a new connection");
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_rolled_back() {
    let (world, db) = boxes(&[]).await;
    let refused: Result<(), Problem> = db
        .in_tx("units.refuse", (), |conn, ()| {
            Box::pin(async move {
                run(conn, PUT, 3).await?;
                Err(Problem::not_found("box"))
            })
        })
        .await;
    assert_eq!(refused.expect_err("the refusal").code().code, "not_found");
    assert_eq!(seen(&mut world.sql().await, COUNT, 3).await, 0);
    world.end(Vec::new()).await;
}
