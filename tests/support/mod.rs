//! The test kit: a world (one database, one Redis prefix, one clock) with as many instances as a test wants.
//!
//! The servers are started once per run by `scripts/test.sh`; each world has a database and a prefix of its own, so
//! tests run side by side. What must be killed gets servers of its own ([`Servers`]); what must be slow, silent or cut off
//! stands behind a [`Proxy`]; what many clients saw is kept in a [`History`]. Time moves by [`World::advance`], for every clock at once; tests do not sleep to
//! let time pass, they only wait, within bounds, for what happens in the background ([`eventually`]).

pub mod api;
pub mod arena;
pub mod cluster;
pub mod contract;
pub mod crowd;
pub mod filled;
pub mod history;
pub mod inside;
pub mod lines;
pub mod listener;
pub mod losses;
pub mod plans;
pub mod process;
pub mod proxy;
pub mod psp;
pub mod receiver;
pub mod servers;
pub mod statements;
pub mod till;
pub mod topology;
pub mod track;
pub mod traffic;
pub mod wire;
pub mod world;

use std::time::{Duration, Instant};

pub use api::{Api, Call, Reply};
pub use arena::{Buyer, Sale};
pub use cluster::{Cluster, Victim};
pub use crowd::Crowd;
pub use history::History;
pub use listener::Listener;
pub use process::Process;
pub use proxy::{Fault, Proxy};
pub use psp::Psp;
pub use servers::Servers;
pub use till::Till;
pub use topology::{RedisCluster, RedisSentinels};
pub use traffic::Traffic;
pub use wire::Wire;
pub use world::{Instance, World};

/// Longest wait for background work, far above what it takes.
const PATIENCE: Duration = Duration::from_mins(2);
/// The pause between two questions, at first and at most.
const PACE: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(200));

/// How often tests that choose moments at random do so: `FRONTROW_ROUNDS`, else once.
pub fn rounds() -> usize {
    let rounds = std::env::var("FRONTROW_ROUNDS").unwrap_or_else(|_| "1".to_owned());
    rounds.parse().expect("FRONTROW_ROUNDS is a number")
}

/// Asks again and again, ever more slowly, until the answer is there.
pub async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let (started, (mut pace, slowest)) = (Instant::now(), PACE);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "waited too long for {what}");
        tokio::time::sleep(pace).await;
        pace = (pace * 5 / 4).min(slowest);
    }
}

/// Asserts that a JSON object has exactly these members.
#[track_caller]
pub fn assert_members(value: &serde_json::Value, members: &[&str]) {
    let mut found: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut wanted = members.to_vec();
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found, wanted, "members of {value}");
}
