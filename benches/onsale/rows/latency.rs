//! The latency of a waiting poll in a line of 1,000,000 places against one in a line of 1,000.
//!
//! Both sides poll with 1,000 tickets, evenly taken from the whole line, at the same moderate rate: a server that is as
//! busy as it can be would show its throughput in place of its latency.

use std::time::Duration;

use crate::figures::{Figures, Objective};
use crate::load::{Load, Run};
use crate::rounds::{Side, interleaved};
use crate::stage::Stage;
use crate::table::{Finding, Measured};

const SMALL: usize = 1_000;
const LARGE: usize = 1_000_000;
const CONNECTIONS: usize = 16;
const PAUSE: Duration = Duration::from_millis(4);

/// Measures the row.
///
/// # Errors
/// Where a request fails.
pub async fn measure(stage: &Stage) -> anyhow::Result<Measured> {
    let large = line(stage, "large", LARGE).await?;
    let small = line(stage, "small", SMALL).await?;
    let pairs =
        interleaved(&stage.pace, async |side| Ok(stage.run(if side == Side::Ours { &large } else { &small }).await?.0));
    let pairs = pairs.await?;
    let finding = |name: &str, latency: fn(&Run) -> f64| {
        let latencies = pairs.iter().map(|pair| pair.map(latency));
        let (ours, theirs): (Vec<f64>, Vec<f64>) = latencies.clone().unzip();
        let median = |values| Figures::new(values).median();
        Finding {
            what: format!("latency of waiting polls, 1,000,000 places issued against 1,000: {name}"),
            figures: Figures::ratios(latencies),
            digits: 3,
            objective: Objective::NoGrowth,
            behind: format!("{:.0} against {:.0} µs", median(ours), median(theirs)),
        }
    };
    Ok(Measured::from(vec![finding("median", |run| run.p50_micros), finding("p99", |run| run.p99_micros)]))
}

async fn line(stage: &Stage, name: &str, places: usize) -> anyhow::Result<Load> {
    let concert = stage.sale().await?;
    let tickets = stage.places(&concert, places, places / SMALL).await?;
    Ok(Load {
        connections: CONNECTIONS,
        method: "GET",
        url: stage.url(&format!("/v1/concerts/{concert}/queue/tickets/me")),
        header: ("Queue-Ticket", ""),
        values: stage.values(name, tickets.iter())?,
        pause: PAUSE,
    })
}
