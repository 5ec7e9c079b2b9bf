//! The load generator: wrk, one thread, with requests that each carry a value of a file (`load.lua`).
//!
//! A run with errors is no measurement: answers other than 2xx and 3xx, lost connections and timeouts all fail it. Where
//! refusals are what is measured, every answer must be one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command;

/// Where `cargo bench` runs it, the package's folder is the working one.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/onsale/load.lua");
/// How long wrk may take besides the measured time: it first puts its requests together.
const SLACK: Duration = Duration::from_mins(1);

/// What is sent.
#[derive(Clone, Debug)]
pub struct Load {
    /// Connections, each with one request at a time.
    pub connections: usize,
    /// The method.
    pub method: &'static str,
    /// The address.
    pub url: String,
    /// The header that carries the value, and what stands before it.
    pub header: (&'static str, &'static str),
    /// The values, one a line. What follows in a line after a tab is another header, or, where it begins with `{`, a body.
    pub values: PathBuf,
    /// The mean pause of a connection between two requests: none keeps the server as busy as it can be.
    pub pause: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    /// Answers.
    pub requests: f64,
    /// Answers per second.
    pub rate: f64,
    /// The median latency.
    pub p50_micros: f64,
    /// What one in a hundred exceeds.
    pub p99_micros: f64,
}

/// The version, which also tells that there is one.
///
/// # Errors
/// Where wrk is not installed.
pub fn version() -> anyhow::Result<String> {
    let output = std::process::Command::new("wrk").arg("-v").output().context("no wrk: run scripts/setup.sh bench")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split(" Copyright").next().unwrap_or_default().trim().to_owned())
}

/// Sends it for so long.
///
/// # Errors
/// Where wrk fails, or any request did.
pub async fn run(load: &Load, length: Duration) -> anyhow::Result<Run> {
    let text = output_of(load, length).await?;
    read(&text).with_context(|| format!("{} {}", load.method, load.url))
}

/// Sends what is to be refused for so long.
///
/// # Errors
/// Where wrk fails, or any request was not refused.
pub async fn run_refused(load: &Load, length: Duration) -> anyhow::Result<Run> {
    let text = output_of(load, length).await?;
    read_refused(&text).with_context(|| format!("{} {}", load.method, load.url))
}

async fn output_of(load: &Load, length: Duration) -> anyhow::Result<String> {
    let (host, target) = parts(&load.url)?;
    let mut command = Command::new("wrk");
    command.args(["--threads", "1", "--timeout", "10s", "--script", SCRIPT]);
    command.args(["--connections", &load.connections.to_string(), "--duration", &format!("{}s", length.as_secs())]);
    command.args([&host, "--"]).arg(Path::new(&load.values));
    command.args([load.method, &target, load.header.0, load.header.1, &load.pause.as_millis().to_string()]);
    let output = tokio::time::timeout(length + SLACK, command.kill_on_drop(true).output());
    let output = output.await.context("wrk does not end")?.context("wrk cannot be run")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("wrk failed: {text}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(text.into_owned())
}

/// `http://host:port` and the rest.
fn parts(url: &str) -> anyhow::Result<(String, String)> {
    let rest = url.strip_prefix("http://").context("an address of http")?;
    let slash = rest.find('/').unwrap_or(rest.len());
    Ok((format!("http://{}", &rest[..slash]), rest[slash..].to_owned()))
}

/// Reads the line that the script ends with.
///
/// # Errors
/// Where there is none, or it tells of an error.
pub fn read(output: &str) -> anyhow::Result<Run> {
    read_where(output, |_| 0.0)
}

/// The same where every answer is to be a refusal.
///
/// # Errors
/// Where there is none, or it tells of another error, or of an answer that is no refusal.
pub fn read_refused(output: &str) -> anyhow::Result<Run> {
    read_where(output, |requests| requests)
}

fn read_where(output: &str, refusals: impl Fn(f64) -> f64) -> anyhow::Result<Run> {
    let line =
        output.lines().find_map(|line| line.strip_prefix("RESULT ")).context("wrk said nothing of its result")?;
    let numbers: Vec<f64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [requests, micros, connect, read, write, timeout, status, p50_micros, p99_micros] = numbers[..] else {
        bail!("not a result of load.lua: {line}");
    };
    // Counts: exact in a float.
    let others = (status - refusals(requests)).abs();
    if connect + read + write + timeout + others > 0.0 {
        bail!(
            "of {requests} requests {status} were refused and {timeout} timed out; \
             connections failed: {connect} to open, {read} to read, {write} to write"
        );
    }
    if requests == 0.0 || micros <= 0.0 {
        bail!("no request was answered");
    }
    Ok(Run { requests, rate: requests * 1e6 / micros, p50_micros, p99_micros })
}
