//! A value of two kilobytes that is in Redis and not in memory, through the cache, against a handler that sends one GET and returns
//! what comes: what leases, heads, checksums and versions cost besides the way to Redis and back.
//!
//! Requests go through many values one after the other, so that hardly two at once ask for the same one, which would be one look. That
//! the answers came from Redis is checked against the cache's own count.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::availability::side_by_side;
use crate::far::{HEADER, NAME};
use crate::figures::Objective;
use crate::stage::Stage;
use crate::table::Measured;

const VALUES: u32 = 1_000;
const OURS: &str = "/bench/far";
const THEIRS: &str = "/bench/get";
const PATIENCE: Duration = Duration::from_secs(20);

/// Measures the row.
///
/// # Errors
/// Where a request fails, the two sides do not answer alike, or answers came from elsewhere than Redis.
pub async fn measure(stage: &Stage) -> anyhow::Result<Measured> {
    let numbers: Vec<String> = (0..VALUES).map(|number| number.to_string()).collect();
    make(stage, &numbers).await?;
    let values = stage.values("far", numbers.iter())?;
    let before = Counts::of(stage).await?;
    let what = "a value of 2 kB that is in Redis, against a bare handler with one GET";
    let findings = side_by_side(stage, [OURS, THEIRS], (HEADER, ""), &values, what, Objective::AtLeast(0.8)).await?;
    let after = Counts::of(stage).await?;
    let (looked, found) = (after.misses - before.misses, after.far_hits - before.far_hits);
    ensure!(looked > 0.0 && found >= 0.99 * looked, "of {looked} reads {found} were answered by Redis");
    ensure!(after.loads <= before.loads, "{} values were loaded", after.loads - before.loads);
    Ok(Measured::from(Vec::from(findings)))
}

struct Counts {
    misses: f64,
    far_hits: f64,
    loads: f64,
}

impl Counts {
    async fn of(stage: &Stage) -> anyhow::Result<Self> {
        let count = async |name: &str, label: &str| {
            stage.metric(&format!("frontrow_cache_{name}_total{{cache=\"{NAME}\"{label}}}")).await
        };
        Ok(Self {
            misses: count("misses", "").await?,
            far_hits: count("hits", ",tier=\"far\"").await?,
            loads: count("loads", ",result=\"ok\"").await?,
        })
    }
}

/// Brings the values into Redis, for either side, and looks whether both answer with them.
async fn make(stage: &Stage, numbers: &[String]) -> anyhow::Result<()> {
    for number in numbers {
        // The first time there is none yet.
        drop(stage.ask("GET", THEIRS, (HEADER, ""), number).await?);
        let theirs = stage.ask("GET", THEIRS, (HEADER, ""), number).await?;
        let ours = stage.ask("GET", OURS, (HEADER, ""), number).await?;
        ensure!(ours == theirs && ours.status == 200, "not alike: {ours:?} and {theirs:?}");
    }
    // What was loaded is written beside the answer: it is there once nothing is loaded any more.
    let started = Instant::now();
    loop {
        let before = Counts::of(stage).await?;
        for number in numbers {
            stage.ask("GET", OURS, (HEADER, ""), number).await?;
        }
        if Counts::of(stage).await?.loads <= before.loads {
            return Ok(());
        }
        ensure!(started.elapsed() < PATIENCE, "the values do not come into Redis");
    }
}
