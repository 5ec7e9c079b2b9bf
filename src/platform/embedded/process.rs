//! Server processes that never outlive the program.
//!
//! Purpose: start a server, wait until it is ready, end it, and explain what went wrong.
//!
//! Invariants:
//! - Each server has a keeper: a thread of its own that starts it, reaps it, and lives as long as it
//!   does. The kernel signals the server when that *thread* ends (`setpriv --pdeathsig`), so the
//!   server ends with the program even if the program is killed; a thread of the async runtime would
//!   be the wrong parent, since those come and go.
//! - Dropping the handle is the order to end: SIGTERM, a bounded wait, SIGKILL.
//! - Only the keeper reaps, and only the keeper signals a living server, so a signal never reaches a
//!   stranger that was given the same process id.
//! - A server has its own process group: Ctrl-C in a terminal reaches the program alone, which drains
//!   before it ends its servers.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::{self, File};
use std::future::Future;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};

/// How soon a keeper notices that its server has ended by itself.
const KEEPER_POLL: Duration = Duration::from_millis(100);
/// How often an ending server is looked at, and a starting one asked whether it is ready.
const POLL: Duration = Duration::from_millis(30);
/// How long a server may take to disappear after SIGKILL.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// How much of a log goes into an error message.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: u64 = 8 * 1024;

/// Runs as the future server, between `setpriv` and the server itself. If the program died before the
/// death signal was armed, the parent is a different one by now. The process id is noted before the
/// server opens its data, so that the next program can wait for this one.
const GUARD: &str = r#"
[ "$PPID" = "$1" ] || exit 1
echo "$$" >"$2" || exit 1
shift 2
exec "$@"
"#;

/// How to start a server.
pub struct Launch<'a> {
    /// For messages.
    pub name: &'static str,
    /// Absolute, since the working folder is another one.
    pub program: &'a Path,
    /// The server's arguments.
    pub args: Vec<OsString>,
    /// Variables over those that the program has itself: what other users of the machine must not read in a list of processes.
    pub env: Vec<(&'static str, String)>,
    /// The working folder. A running server is recognised by it.
    pub home: &'a Path,
    /// The folder for temporary files.
    pub tmp: &'a Path,
    /// Gets the server's output. The previous run's log is kept beside it, with the suffix `.old`.
    pub log: &'a Path,
    /// Where the process id is noted.
    pub pid_file: &'a Path,
    /// What the kernel sends when the program is gone.
    pub death_signal: &'static str,
    /// How long the server may take to end.
    pub grace: Duration,
}

/// A running server.
pub struct Process {
    name: &'static str,
    pid: u32,
    log: PathBuf,
    // Never sent on: its end is the message.
    held: mpsc::Sender<Infallible>,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    /// Starts the server; it may still fail before it is ready.
    ///
    /// # Errors
    /// When the log cannot be written or `setpriv` cannot be run.
    pub async fn spawn(launch: Launch<'_>) -> Result<Self> {
        let command = launch.command()?;
        let (held, handle) = mpsc::channel();
        let (born, birth) = oneshot::channel();
        let (end, ended) = watch::channel(None);
        let grace = launch.grace;
        thread::Builder::new()
            .name(format!("{}-keeper", launch.name))
            .spawn(move || keep(command, grace, &handle, born, &end))
            .context("no thread for a server's keeper")?;
        let pid = birth
            .await
            .context("a server's keeper ended")?
            .with_context(|| format!("{} cannot be started through setpriv (package util-linux)", launch.name))?;
        Ok(Self { name: launch.name, pid, log: launch.log.to_owned(), held, ended })
    }

    /// For messages.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The process id.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Resolves when the server has ended; without a status where none could be had.
    pub async fn ended(&self) -> Option<ExitStatus> {
        let mut ended = self.ended.clone();
        ended.wait_for(Option::is_some).await.ok().and_then(|status| *status)
    }

    /// Waits until `probe` says yes.
    ///
    /// # Errors
    /// When the server ends or `limit` passes first. The message has the end of the log.
    pub async fn wait_ready<F>(&self, limit: Duration, mut probe: impl FnMut() -> F) -> Result<()>
    where
        F: Future<Output = bool>,
    {
        let ready = async {
            while !probe().await {
                sleep(POLL).await;
            }
        };
        tokio::select! {
            status = self.ended() => bail!("{} ended while starting ({})\n{}", self.name, describe(status), tail(&self.log)),
            in_time = timeout(limit, ready) => in_time.map_err(|_elapsed| {
                anyhow::anyhow!("{} was not ready after {} s\n{}", self.name, limit.as_secs(), tail(&self.log))
            }),
        }
    }

    /// Waits until the program has done its work, for one that is expected to end by itself.
    ///
    /// # Errors
    /// When it fails or `limit` passes first. The message has the end of the log.
    pub async fn wait_success(self, limit: Duration) -> Result<()> {
        match timeout(limit, self.ended()).await {
            Ok(Some(status)) if status.success() => Ok(()),
            Ok(status) => bail!("{} failed ({})\n{}", self.name, describe(status), tail(&self.log)),
            Err(_) => bail!("{} was not done after {} s\n{}", self.name, limit.as_secs(), tail(&self.log)),
        }
    }

    /// Ends the server and waits until it is gone.
    pub async fn stop(self) {
        let Self { name, held, mut ended, .. } = self;
        drop(held);
        // An error means that the keeper is gone, and with it the server.
        let status = ended.wait_for(Option::is_some).await.ok().and_then(|status| *status);
        tracing::info!(server = name, status = describe(status), "server stopped");
    }
}

impl Launch<'_> {
    fn command(&self) -> Result<Command> {
        if self.log.exists() {
            fs::rename(self.log, self.log.with_extension("log.old")).context("the old log cannot be renamed")?;
        }
        let output = File::create(self.log).with_context(|| format!("{} cannot be written", self.log.display()))?;
        let errors = output.try_clone().context("the log cannot be opened twice")?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", self.death_signal, "--", "sh", "-c", GUARD, "sh", &std::process::id().to_string()])
            .arg(self.pid_file)
            .arg(self.program)
            .args(&self.args)
            .current_dir(self.home)
            .env("TMPDIR", self.tmp)
            // Some servers refuse to start under a locale that the machine does not have.
            .env("LC_ALL", "C")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        Ok(command)
    }
}

/// The keeper's life.
fn keep(
    mut command: Command,
    grace: Duration,
    handle: &mpsc::Receiver<Infallible>,
    born: oneshot::Sender<io::Result<u32>>,
    end: &watch::Sender<Option<ExitStatus>>,
) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            // Whoever waits for the birth may have gone; then nobody is left to be told.
            let _ = born.send(Err(error));
            return;
        }
    };
    let _ = born.send(Ok(child.id()));
    while handle.recv_timeout(KEEPER_POLL) == Err(mpsc::RecvTimeoutError::Timeout) {
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => {
                end.send_replace(Some(status));
                return;
            }
            Err(error) => {
                tracing::error!(%error, pid = child.id(), "a server cannot be watched");
                break;
            }
        }
    }
    end.send_replace(end_child(&mut child, grace));
}

fn end_child(child: &mut Child, grace: Duration) -> Option<ExitStatus> {
    signal(child.id(), "TERM");
    let deadline = Instant::now() + grace;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(None) => thread::sleep(POLL),
            Ok(Some(status)) => return Some(status),
            Err(_) => break,
        }
    }
    tracing::warn!(pid = child.id(), grace_secs = grace.as_secs(), "a server did not end in time, killing it");
    child.kill().ok()?;
    child.wait().ok()
}

/// Ends a server that a killed program left behind, which is usually busy ending already. The folder's
/// lock must be held: then a process that works in `home` under the noted id can only be that server.
///
/// # Errors
/// When it is still there after SIGKILL.
pub async fn end_predecessor(pid_file: &Path, home: &Path, grace: Duration) -> Result<()> {
    let Some(pid) = living(pid_file, home) else { return Ok(()) };
    tracing::info!(pid, "waiting for the server of a program that was killed");
    for (name, patience) in [("TERM", grace), ("KILL", KILL_WAIT)] {
        signal(pid, name);
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if living(pid_file, home).is_none() {
                return Ok(());
            }
            sleep(POLL).await;
        }
    }
    bail!("process {pid} still works in {} and does not end", home.display())
}

fn living(pid_file: &Path, home: &Path) -> Option<u32> {
    let pid = fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
    // A process that is gone, or a zombie, has no working folder.
    let folder = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    (folder == home).then_some(pid)
}

/// Sends a signal through the shell, which has `kill` built in: the standard library knows SIGKILL alone.
fn signal(pid: u32, name: &str) {
    let sent = Command::new("sh")
        .args(["-c", r#"kill -s "$1" "$2""#, "sh", name, &pid.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if let Err(error) = sent {
        tracing::warn!(%error, pid, signal = name, "a signal could not be sent");
    }
}

fn describe(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "status unknown".to_owned(), |status| status.to_string())
}

/// The end of a log, for a message.
fn tail(log: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let start = file.metadata()?.len().saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = match read() {
        Ok(bytes) => bytes,
        Err(error) => return format!("({} cannot be read: {error})", log.display()),
    };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
    format!("the end of {}:\n{last}", log.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            let dir = std::env::temp_dir().join(format!("frontrow-{}", hex::encode(rand::random::<[u8; 8]>())));
            fs::create_dir(&dir).unwrap();
            Self(dir.canonicalize().unwrap())
        }

        async fn run(&self, script: &str, grace: Duration) -> Process {
            Process::spawn(Launch {
                name: "scratch",
                program: Path::new("/bin/sh"),
                args: vec!["-c".into(), script.into()],
                env: vec![("SCRATCH", "kept private".to_owned())],
                home: &self.0,
                tmp: &self.0,
                log: &self.0.join("server.log"),
                pid_file: &self.0.join("server.pid"),
                death_signal: "TERM",
                grace,
            })
            .await
            .unwrap()
        }

        async fn wait_for_log(&self, text: &str) {
            while !fs::read_to_string(self.0.join("server.log")).unwrap().contains(text) {
                sleep(POLL).await;
            }
        }

        fn living(&self) -> Option<u32> {
            living(&self.0.join("server.pid"), &self.0)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_failed_start_is_explained_by_the_log() {
        let scratch = Scratch::new();
        let process = scratch.run("echo no room left, $SCRATCH; exit 3", LONG).await;
        let error = process.wait_ready(LONG, || async { false }).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no room left, kept private"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_is_never_ready_is_given_up() {
        let scratch = Scratch::new();
        let process = scratch.run("echo still loading; exec sleep 600", LONG).await;
        scratch.wait_for_log("loading").await;
        let error = process.wait_ready(POLL, || async { false }).await.unwrap_err().to_string();
        assert!(error.contains("not ready") && error.contains("still loading"), "{error}");
        process.stop().await;
    }

    #[tokio::test]
    async fn dropping_the_handle_ends_the_server() {
        let scratch = Scratch::new();
        let process = scratch.run("echo up; exec sleep 600", LONG).await;
        scratch.wait_for_log("up").await;
        assert_eq!(scratch.living(), Some(process.pid()));
        drop(process);
        timeout(LONG, async {
            while scratch.living().is_some() {
                sleep(POLL).await;
            }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn a_server_that_ignores_the_order_is_killed() {
        let scratch = Scratch::new();
        let process = scratch.run("trap '' TERM; echo deaf; exec sleep 600", POLL).await;
        scratch.wait_for_log("deaf").await;
        timeout(LONG, process.stop()).await.unwrap();
        assert_eq!(scratch.living(), None);
    }

    #[tokio::test]
    async fn only_a_process_in_the_same_folder_is_a_predecessor() {
        let scratch = Scratch::new();
        // This very test: alive, but somewhere else.
        fs::write(scratch.0.join("server.pid"), std::process::id().to_string()).unwrap();
        assert_eq!(scratch.living(), None);

        let process = scratch.run("echo up; exec sleep 600", LONG).await;
        scratch.wait_for_log("up").await;
        end_predecessor(&scratch.0.join("server.pid"), &scratch.0, LONG).await.unwrap();
        assert_eq!(scratch.living(), None);
        process.stop().await;
    }
}
