//! Processes of the benchmark itself: another run of this program, told to end by the end of its standard input.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Longest wait for a line.
const PATIENCE: Duration = Duration::from_mins(2);
/// Longest wait for the end.
const GRACE: Duration = Duration::from_secs(30);
/// Clock ticks per second in `/proc`: the same on every Linux that user space sees.
const USER_HZ: f64 = 100.0;

/// Seconds of processor time that a process has used, all threads together.
///
/// # Errors
/// Where it is gone.
pub fn cpu_secs(process: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // After the name in brackets: the state, and from the twelfth word on the user's and the system's ticks.
    let (_, rest) = stat.rsplit_once(") ").context("/proc has changed")?;
    let ticks: Vec<f64> = rest.split(' ').skip(11).take(2).filter_map(|word| word.parse().ok()).collect();
    Ok(ticks.iter().sum::<f64>() / USER_HZ)
}

/// A running one. If this program ends without stopping it, its standard input ends, and so does it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    id: u32,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts this program with these arguments and variables; what it logs goes where ours goes.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(arguments: &[&str], variables: &[(&str, String)]) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("the benchmark cannot start itself")?;
        let id = child.id().context("a process without a number")?;
        let (input, output) = (child.stdin.take(), child.stdout.take().context("no output")?);
        Ok(Self { child, id, input, output: BufReader::new(output).lines() })
    }

    /// The next line of its output.
    ///
    /// # Errors
    /// Where it ends instead, or says nothing for long.
    pub async fn line(&mut self) -> anyhow::Result<String> {
        let line = timeout(PATIENCE, self.output.next_line()).await.context("a process says nothing")??;
        line.context("a process ended early")
    }

    /// Sends it an empty line and gives its answer.
    ///
    /// # Errors
    /// As [`Process::line`].
    pub async fn ask(&mut self) -> anyhow::Result<String> {
        let Some(input) = &mut self.input else { bail!("a process that was told to end") };
        input.write_all(b"\n").await?;
        self.line().await
    }

    /// Seconds of processor time that it has used, all threads together.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn cpu_secs(&self) -> anyhow::Result<f64> {
        cpu_secs(self.id)
    }

    /// Bytes of memory that it has, as the system counts them.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn resident_bytes(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("/proc has changed")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024.0)
    }

    /// Tells it to end and waits until it has.
    pub async fn stop(mut self) {
        drop(self.input.take());
        if timeout(GRACE, self.child.wait()).await.is_err() {
            eprintln!("onsale: process {} does not end: killing it", self.id);
            drop(self.child.kill().await);
        }
    }
}
