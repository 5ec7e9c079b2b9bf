//! What was answered with 2xx survives `kill -9` of an instance, of Redis and of the database.
//!
//! The private servers flush the redo log and the binary log at each commit (`platform/embedded/mysql.rs`), as the promise
//! requires. A killed process loses what it held in memory, not what the operating system holds: these tests say
//! nothing about a loss of power, for which those settings are meant too. `FRONTROW_ROUNDS` repeats each scenario with
//! other moments of death.

use rand::Rng as _;
use tokio::sync::Semaphore;

use crate::support::proxy::sabotage::Sabotage;
use crate::support::{Api, Cluster, Crowd, History, Victim, World, rounds};

const BUYERS: usize = 500;

/// Five hundred pay, and the victim is killed after about one and about two thirds of them. Others go on paying while it
/// is away, but not all: there is always somebody in the middle of a payment.
async fn payments_outlive(victim: Victim) {
    let mut cluster = Cluster::start(2).await;
    let settings = "SELECT CAST(@@innodb_flush_log_at_trx_commit AS SIGNED), CAST(@@sync_binlog AS SIGNED)";
    let durable: (i64, i64) =
        sqlx::query_as(settings).fetch_one(&mut cluster.world.sql().await).await.expect("settings");
    assert_eq!(durable, (1, 1), "the promise is made for durable settings");
    let api = cluster.api();
    for _ in 0..rounds() {
        let crowd = Crowd::ready(&api, &cluster.state, BUYERS).await;
        let history = History::default();
        let permits = Semaphore::new(BUYERS / 2);
        let crashes = async {
            for third in 1..=2 {
                let later = rand::rng().random_range(0..BUYERS / 20);
                history.reaches(third * BUYERS / 3 + later).await;
                cluster.kill(victim).await;
                cluster.restart(victim).await;
                permits.add_permits(if third == 1 { BUYERS / 3 } else { BUYERS });
            }
        };
        tokio::join!(crowd.pay(&api, &history, &permits), crashes);

        history.assert_no_server_error();
        let felt = history.others(&["201"]);
        if victim == Victim::Redis {
            let away = ["0", "503 unavailable", "503 read_only"];
            assert!(away.iter().all(|outcome| history.count(outcome) == 0), "paying needs no Redis: {felt:?}");
        } else {
            assert!(!felt.is_empty(), "nobody was disturbed");
        }
        let broken = crowd.broken_promises(&api, &history).await;
        assert!(broken.is_empty(), "{felt:?} {broken:#?}");
        cluster.assert_audited().await;
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_outlive_an_instance() {
    payments_outlive(Victim::Instance).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_outlive_redis() {
    payments_outlive(Victim::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_outlive_the_database() {
    payments_outlive(Victim::Database).await;
}

/// The check above can fail: an instance whose commits are undone on their way to the server is found out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_success_that_was_never_committed_is_noticed() {
    let world = World::new().await;
    let honest = world.instance().await;
    let api = Api::over(&[&honest]);
    let crowd = Crowd::ready(&api, &honest.state, 3).await;
    let sabotage = Sabotage::of_whole_sql("COMMIT", "ROLLBACK");
    let proxy = world.mysql_sabotaged(&sabotage).await;
    let (name, url) = world.mysql_through(&proxy);
    let liar = world.instance_with(&[(name, &url)]).await;

    let history = History::default();
    crowd.pay(&Api::over(&[&liar]), &history, &Semaphore::new(BUYERS)).await;
    assert_eq!(history.count("201"), crowd.members.len(), "{:?}", history.outcomes());
    assert!(sabotage.hits() > 0);
    let broken = crowd.broken_promises(&api, &history).await;
    for member in &crowd.members {
        for what in ["no such reservation", "the balance is wrong", "the repeat was not from memory"] {
            let told = format!("{}: {what}", member.key);
            assert!(broken.contains(&told), "{told} is not among {broken:#?}");
        }
    }
    world.end(vec![honest, liar]).await;
}
