//! What the figures were measured on.

use std::fmt::Write as _;
use std::fs;

use anyhow::Context as _;
use frontrow::platform::clock::Clock;

use crate::stage::Stage;

/// Where and with what, as a Markdown list.
///
/// # Errors
/// Where a server does not tell its version.
pub async fn facts(stage: &Stage, wrk: &str) -> anyhow::Result<String> {
    let pace = stage.pace;
    let mut text = String::from("# frontrow benchmarks\n\n");
    let processors = std::thread::available_parallelism().context("no processor")?;
    let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    writeln!(text, "- begun: {}", Clock::default().now())?;
    writeln!(
        text,
        "- machine: {processors} processors ({}), {memory} of memory",
        field("/proc/cpuinfo", "model name").unwrap_or_default()
    )?;
    writeln!(text, "- load generator: {wrk}, one thread, on the same machine")?;
    writeln!(
        text,
        "- servers: {}, Redis {}, private and on the same machine",
        stage.database_version().await?,
        stage.redis_version().await?
    )?;
    writeln!(
        text,
        "- build: {}, {}",
        env!("CARGO_PKG_VERSION"),
        if cfg!(debug_assertions) { "debug: these figures mean nothing" } else { "release" }
    )?;
    writeln!(
        text,
        "- rounds: {} of {} s each side, interleaved, after one for warmth",
        pace.rounds,
        pace.length.as_secs()
    )?;
    writeln!(text, "- load average before: {}", load_average()?)?;
    Ok(text)
}

/// How busy the machine was by the end.
///
/// # Errors
/// Where there is no `/proc`.
pub fn closing() -> anyhow::Result<String> {
    Ok(format!("Ended {}; load average {}.", Clock::default().now(), load_average()?))
}

fn load_average() -> anyhow::Result<String> {
    let text = fs::read_to_string("/proc/loadavg").context("no /proc")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

/// The value of the first `name: value` of a file.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
