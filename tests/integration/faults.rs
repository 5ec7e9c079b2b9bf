//! MySQL or Redis is slow, silent or gone: every request gets its answer in time, what needs neither goes on, nothing
//! piles up, and a moment after the fault everything works again.

use std::time::Duration;

use crate::stage::{Stage, Store};
use crate::support::traffic::WRITES;
use crate::support::{Fault, History};

/// With MySQL away nothing that it keeps may be promised.
fn assert_nothing_promised(history: &History) {
    for event in history.events().iter().filter(|event| WRITES.contains(&event.about.as_str())) {
        assert!(!event.is_success(), "{event:?}");
    }
}

/// A fault under which the store answers nobody.
async fn away(store: Store, faults: &[Fault]) {
    let stage = Stage::set(store, true).await;
    for fault in faults {
        stage.proxy.set(*fault);
    }
    let history = stage.endure(stage.wait_until_told(2)).await;
    if store == Store::MySql {
        assert_nothing_promised(&history);
    }
    stage.recover(&format!("{faults:?}")).await;
    stage.end().await;
}

/// A fault under which the store answers late.
async fn late(store: Store, fault: Fault) {
    let stage = Stage::set(store, true).await;
    stage.proxy.set(fault);
    stage.endure(async {}).await;
    stage.recover(&format!("{fault:?}")).await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_is_slow() {
    late(Store::MySql, Fault::Delay(Duration::from_millis(60))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_drips() {
    late(Store::MySql, Fault::Drip(Duration::from_millis(1))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_falls_silent() {
    away(Store::MySql, &[Fault::BlackHole]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_refuses() {
    away(Store::MySql, &[Fault::Refuse]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_slow() {
    late(Store::Redis, Fault::Delay(Duration::from_millis(60))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_drips() {
    late(Store::Redis, Fault::Drip(Duration::from_millis(1))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_falls_silent() {
    away(Store::Redis, &[Fault::BlackHole]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_refuses() {
    away(Store::Redis, &[Fault::Refuse]).await;
}

/// New connections are accepted and hear nothing.
const DEAF: [Fault; 2] = [Fault::Refuse, Fault::BlackHole];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_accepts_and_says_nothing() {
    away(Store::MySql, &DEAF).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_accepts_and_says_nothing() {
    away(Store::Redis, &DEAF).await;
}
