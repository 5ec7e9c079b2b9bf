//! A private Redis.
//!
//! Invariants:
//! - Memory is bounded and nothing is evicted: over the limit, writes are refused with an error, which
//!   frontrow treats as an outage. Evicting would lose counters silently.
//! - What Redis holds survives a restart but for the last second.

use std::env;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::process::{self, Launch, Process};
use super::{create_dir, on_port, write_secret};

const READY_LIMIT: Duration = Duration::from_mins(1);
const GRACE: Duration = Duration::from_secs(10);
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// Starts Redis below `dir` and returns its port with it: the wanted one, or any.
///
/// # Errors
/// When there is no `redis-server`, or it does not come up.
pub async fn start(dir: &Path, password: &str, port: Option<u16>) -> Result<(u16, Process)> {
    let program = locate().context("redis-server was not found: scripts/setup.sh run installs it")?;
    let home = dir.join("redis");
    create_dir(&home.join("data"))?;
    let data = fs::canonicalize(home.join("data")).context("Redis has no data folder")?;
    process::end_predecessor(&home.join("server.pid"), &data, GRACE).await?;
    let server = Server { program, home, data, password };
    on_port(port, |port| server.start(port)).await
}

struct Server<'a> {
    program: PathBuf,
    home: PathBuf,
    data: PathBuf,
    password: &'a str,
}

impl Server<'_> {
    async fn start(&self, port: u16) -> Result<Process> {
        let configuration = self.home.join("redis.conf");
        write_secret(&configuration, &configured(port, self.password))?;
        let process = Process::spawn(Launch {
            name: "redis",
            program: &self.program,
            args: vec![configuration.into()],
            env: Vec::new(),
            home: &self.data,
            tmp: &self.data,
            log: &self.home.join("server.log"),
            pid_file: &self.home.join("server.pid"),
            death_signal: "TERM",
            grace: GRACE,
        })
        .await?;
        process.wait_ready(READY_LIMIT, || answers(port, self.password)).await?;
        tracing::info!(port, pid = process.pid(), "redis started");
        Ok(process)
    }
}

/// The append-only file keeps everything but the last second; snapshots beside it (`save`) would add
/// forks and disk traffic and no safety. `dir` is the working folder. Logical databases cost next to
/// nothing, and tests may take one each.
fn configured(port: u16, password: &str) -> String {
    format!(
        "bind 127.0.0.1\n\
         port {port}\n\
         requirepass {password}\n\
         daemonize no\n\
         dir ./\n\
         databases 1024\n\
         appendonly yes\n\
         appendfsync everysec\n\
         save \"\"\n\
         maxmemory 512mb\n\
         maxmemory-policy noeviction\n"
    )
}

/// Whether Redis knows the password and has loaded its data. It refuses PING while it loads.
async fn answers(port: u16, password: &str) -> bool {
    const EXPECTED: &[u8] = b"+OK\r\n+PONG\r\n";
    let ask = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        stream.write_all(format!("AUTH {password}\r\nPING\r\n").as_bytes()).await.ok()?;
        let mut answer = [0; EXPECTED.len()];
        stream.read_exact(&mut answer).await.ok()?;
        Some(answer == EXPECTED)
    };
    timeout(PROBE_LIMIT, ask).await.ok().flatten().unwrap_or(false)
}

fn locate() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin"].map(PathBuf::from))
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("redis-server"))
        .find(|program| program.is_file())
}
