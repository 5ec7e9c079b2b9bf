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
const BARE: &str = "/bare/events";
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
        let mut costs = Vec::with_capacity(stage.pace.rounds);
        for _ in 0..stage.pace.rounds {
            costs.push(cost(stage, &concert, BARE).await?);
        }
        let note = Some("frontrow's events: not served by this build");
        return Ok(Measured { findings: vec![per_tick("a bare stream's event", &costs)], note });
    }
    let both = async |side| cost(stage, &concert, if side == Side::Ours { &path } else { BARE }).await;
    let pairs = interleaved(&stage.pace, both).await?;
    let (ours, theirs): (Vec<Cost>, Vec<Cost>) = pairs.into_iter().map(|pair| (pair.ours, pair.theirs)).unzip();
    let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| (ours.millis_per_tick, theirs.millis_per_tick));
    let against = Finding {
        what: "frontrow's event against a bare stream's".to_owned(),
        figures: Figures::ratios(ratios),
        digits: 3,
        objective: Objective::None,
        behind: String::new(),
    };
    let findings = vec![per_tick("frontrow's event", &ours), per_tick("a bare stream's event", &theirs), against];
    Ok(Measured::from(findings))
}

fn per_tick(what: &str, costs: &[Cost]) -> Finding {
    let rate = Figures::new(costs.iter().map(|cost| cost.ticks_per_sec).collect()).median();
    Finding {
        what: format!("{what} to 10,000 listeners: the server's processor time per tick in ms"),
        figures: Figures::new(costs.iter().map(|cost| cost.millis_per_tick).collect()),
        digits: 2,
        objective: Objective::None,
        behind: format!("{rate:.1} events a second to each"),
    }
}

/// What a stream costs: some seconds without listeners, as many with them.
async fn cost(stage: &Stage, concert: &str, path: &str) -> anyhow::Result<Cost> {
    let without = window(stage, concert, None).await?;
    let mut listeners = open(stage, path).await?;
    let with = window(stage, concert, Some(&mut listeners)).await;
    listeners.stop().await;
    let with = with?;
    let extra = with.cpu - without.cpu / without.secs * with.secs;
    Ok(Cost { millis_per_tick: extra * 1e3 / with.ticks, ticks_per_sec: with.ticks / with.secs })
}

struct Cost {
    millis_per_tick: f64,
    ticks_per_sec: f64,
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
