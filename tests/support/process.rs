//! Real processes of the program, for what only a process can do: signals, exit codes, sudden death.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;

use super::world::FREE;
use super::{Api, World, eventually};

/// This build of the program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_frontrow");

/// A build of the program with the world's settings and nothing else of ours.
pub fn command(program: &Path, world: &World) -> Command {
    with_settings(Command::new(program), world)
}

fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("FRONTROW__") || name.starts_with("FRONTROW_PSP_") {
            command.env_remove(name);
        }
    }
    command
}

fn with_settings(command: Command, world: &World) -> Command {
    let mut command = without_settings(command);
    command.envs(world.environment().iter().cloned()).env("FRONTROW__HTTP__ADDR", "127.0.0.1:0");
    command
}

/// Of this build: an earlier one may not know the limits.
fn without_limits<'a>(extra: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    FREE.iter().chain(extra).copied().collect()
}

/// A running or ended process. Dropping it kills and reaps it.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `frontrow <arguments>` with the world's settings and these over them, and nothing else of ours.
    pub fn spawn(world: &World, arguments: &[&str], extra: &[(&str, &str)]) -> Self {
        Self::spawn_program(Path::new(PROGRAM), world, arguments, &without_limits(extra))
    }

    /// The same with another build of the program.
    pub fn spawn_program(program: &Path, world: &World, arguments: &[&str], extra: &[(&str, &str)]) -> Self {
        Self::launch(command(program, world), arguments, extra)
    }

    /// Starts `frontrow <arguments>` with these variables and nothing else of ours: no world.
    pub fn alone(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::launch(without_settings(Command::new(PROGRAM)), arguments, variables)
    }

    /// The same, with so many open files allowed.
    pub fn spawn_with_files(files: u32, world: &World, arguments: &[&str], extra: &[(&str, &str)]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\""), PROGRAM]);
        Self::launch(with_settings(shell, world), arguments, extra)
    }

    fn launch(mut command: Command, arguments: &[&str], extra: &[(&str, &str)]) -> Self {
        let name = format!("process-{}.log", uuid::Uuid::new_v4().simple());
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let output = File::create(&log).expect("a log file");
        command.envs(extra.iter().copied()).args(arguments).stdin(Stdio::null());
        command.stdout(output.try_clone().expect("one file for both")).stderr(output);
        Self { child: command.spawn().expect("the program starts"), log }
    }

    /// Starts an instance and waits until it is ready. Gives its address too.
    pub async fn serve(world: &World, extra: &[(&str, &str)]) -> (Self, String) {
        Self::serve_program(Path::new(PROGRAM), world, &without_limits(extra)).await
    }

    /// The same with another build of the program.
    pub async fn serve_program(program: &Path, world: &World, extra: &[(&str, &str)]) -> (Self, String) {
        let mut process = Self::spawn_program(program, world, &["serve"], extra);
        let base = process.ready().await;
        (process, base)
    }

    /// Waits until a starting instance is ready and gives its address.
    pub async fn ready(&mut self) -> String {
        // The port was chosen by the operating system, so no other process can take it before.
        let base = eventually("the instance to say its address", || {
            assert!(self.status().is_none(), "the instance ended while starting: {}", self.output());
            let address = self.output().lines().find_map(address_of);
            async move { address }
        })
        .await;
        let api = Api::at(vec![base.clone()]);
        eventually("the instance to be ready", || async {
            (api.try_get("/readyz").await?.status == 200).then_some(())
        })
        .await;
        base
    }

    /// The process' number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Sends SIGKILL.
    pub fn kill(&self) {
        self.signal("-KILL");
    }

    fn signal(&self, signal: &str) {
        send_signal(self.child.id(), signal);
    }

    /// What it said so far, on both outputs.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).expect("its log")
    }

    /// How it ended, if it did.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours")
    }

    /// Waits until it has said this.
    pub async fn wait_for(&self, text: &str) {
        eventually(text, || async { self.output().contains(text).then_some(()) }).await;
    }

    /// Waits for its end and gives its exit code; none where a signal ended it.
    pub async fn end(&mut self) -> Option<i32> {
        let status = eventually("the process to end", || {
            let status = self.status();
            async move { status }
        });
        status.await.code()
    }
}

/// Sends a signal to a process of ours.
pub fn send_signal(pid: u32, signal: &str) {
    // The shell's own kill: a bare Debian has no program of that name.
    let line = format!("kill {signal} {pid}");
    let sent = Command::new("sh").args(["-c", &line]).status().expect("a shell");
    assert!(sent.success(), "{signal} could not be sent");
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where it has been reaped already.
        drop(self.child.kill());
        drop(self.child.wait());
        if !std::thread::panicking() {
            drop(fs::remove_file(&self.log));
        }
    }
}

fn address_of(line: &str) -> Option<String> {
    let event: Value = serde_json::from_str(line).ok()?;
    (event["message"] == "serving").then_some(())?;
    Some(format!("http://{}", event["addr"].as_str()?))
}
