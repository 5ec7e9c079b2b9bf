//! What 10,000 listeners of a line's events cost: the server's processor time per tick, less what it uses without them.
//!
//! Beside it a bare stream that sends one ready event per tick to as many listeners. While all are measured buyers keep
//! joining, so that each tick has something to tell.

use std::time::Instant;

use anyhow::{Context as _, ensure};

use crate::figures::{Figures, Objective};
use crate::process::Process;
use crate::rounds::{Side, interleaved};
use crate::stage::Stage;
use crate::table::{Finding, Measured};

const LISTENERS: usize = 10_000;
/// Joins a second.
const JOINS: u64 = 20;

/// Measures the row.
///
/// # Errors
/// Where listeners are lost or receive nothing.
pub async fn measure(stage: &Stage) -> anyhow::Result<Measured> {
    let concert = stage.sale().await?;
    let path = format!("/v1/concerts/{concert}/queue/events");
    if !is_served(stage, &path).await? {
        return Ok(Measured::Skipped("not served by this build"));
    }
    let pairs = interleaved(&stage.pace, async |side| {
        let path = if side == Side::Ours { &path } else { "/bare/events" };
        let without = window(stage, &concert, None).await?;
        let mut listeners = open(stage, path).await?;
        let with = window(stage, &concert, Some(&mut listeners)).await;
        listeners.stop().await;
        let with = with?;
        // Both for as many seconds as the window with listeners had.
        let extra = with.cpu - without.cpu / without.secs * with.secs;
        Ok(Cost { millis_per_tick: extra * 1e3 / with.ticks, ticks: with.ticks / with.secs })
    });
    let pairs = pairs.await?;
    let costs: Vec<(f64, f64)> = pairs.iter().map(|pair| pair.map(|cost| cost.millis_per_tick)).collect();
    let (ours, theirs): (Vec<f64>, Vec<f64>) = costs.iter().copied().unzip();
    let (rate, bare_rate): (Vec<f64>, Vec<f64>) = pairs.iter().map(|pair| pair.map(|cost| cost.ticks)).unzip();
    let median = |values| Figures::new(values).median();
    let behind = format!("{:.1} events a second to each listener", median(rate));
    let bare = format!("{:.2} ms for the bare stream, {:.1} events a second", median(theirs), median(bare_rate));
    Ok(Measured::Findings(vec![
        Finding {
            what: "events to 10,000 listeners: the server's processor time per tick in ms".to_owned(),
            figures: Figures::new(ours),
            digits: 2,
            objective: Objective::None,
            behind,
        },
        Finding {
            what: "the same against a bare stream".to_owned(),
            figures: Figures::ratios(costs),
            digits: 3,
            objective: Objective::None,
            behind: bare,
        },
    ]))
}

struct Cost {
    millis_per_tick: f64,
    ticks: f64,
}

struct Window {
    cpu: f64,
    secs: f64,
    /// Events that each listener received.
    ticks: f64,
}

async fn is_served(stage: &Stage, path: &str) -> anyhow::Result<bool> {
    let mut listener = Process::start(&["listen", &stage.address, path, "1"], &[])?;
    let said = listener.line().await;
    listener.stop().await;
    match said?.as_str() {
        "listening" => Ok(true),
        "404" | "405" => Ok(false),
        other => anyhow::bail!("{path} answered {other}"),
    }
}

async fn open(stage: &Stage, path: &str) -> anyhow::Result<Process> {
    let mut listeners = Process::start(&["listen", &stage.address, path, &LISTENERS.to_string()], &[])?;
    let said = listeners.line().await?;
    ensure!(said == "listening", "{path} answered {said}");
    Ok(listeners)
}

/// Some seconds with buyers joining.
async fn window(stage: &Stage, concert: &str, mut listeners: Option<&mut Process>) -> anyhow::Result<Window> {
    let received = async |listeners: &mut Option<&mut Process>| match listeners {
        Some(listeners) => events(listeners).await,
        None => Ok(0.0),
    };
    let (events, cpu, started) = (received(&mut listeners).await?, stage.server.cpu_secs()?, Instant::now());
    let mut beat = tokio::time::interval(std::time::Duration::from_millis(1000 / JOINS));
    while started.elapsed() < stage.pace.length {
        beat.tick().await;
        stage.places(concert, 1, 1).await?;
    }
    let (secs, cpu) = (started.elapsed().as_secs_f64(), stage.server.cpu_secs()? - cpu);
    let ticks = (received(&mut listeners).await? - events) / f64::from(u32::try_from(LISTENERS)?);
    ensure!(listeners.is_none() || ticks > 0.0, "the listeners receive nothing");
    Ok(Window { cpu, secs, ticks })
}

async fn events(listeners: &mut Process) -> anyhow::Result<f64> {
    let said = listeners.ask().await?;
    let (events, left) = said.split_once(' ').context("not a count")?;
    ensure!(left.parse::<usize>()? == LISTENERS, "only {left} listeners are left of {LISTENERS}");
    Ok(events.parse()?)
}
