//! A private MySQL or MariaDB.
//!
//! Invariants:
//! - A folder named `data` is complete: it is initialised under another name and renamed at the end.
//! - Commits are durable (redo log and binary log are flushed at each commit), as in production: tests
//!   and load figures mean what they say.
//! - Nothing but 127.0.0.1 and the server's own socket can connect, and over TCP only the accounts
//!   `frontrow`, which owns the schema, and `frontrow_server`, which has the rights that the first one gives it. Administrators use the socket `data/mysqld.sock`, where `root` has the folder's
//!   password (MySQL) or is the operating system's `root` (MariaDB).

use std::env;
use std::ffi::OsString;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use super::process::{self, Launch, Process};
use super::{Engine, create_dir, on_port, write_secret};

const READY_LIMIT: Duration = Duration::from_mins(1);
const INITIALISE_LIMIT: Duration = Duration::from_mins(3);
const GRACE: Duration = Duration::from_secs(30);
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// Prefix of data folders that are still being initialised.
const UNFINISHED: &str = "data.new-";

/// The names under which an engine's server is installed.
const fn programs(engine: Engine) -> &'static [&'static str] {
    match engine {
        Engine::MySql => &["mysqld"],
        Engine::MariaDb => &["mariadbd", "mysqld"],
    }
}

/// Where a server was found.
pub struct Install {
    /// Which one it is.
    pub engine: Engine,
    server: PathBuf,
}

/// Finds the server of the wanted engine; of either, MySQL first, where none is named.
///
/// # Errors
/// When there is none.
pub async fn locate(wanted: Option<Engine>) -> Result<Install> {
    let engines = wanted.map_or_else(|| vec![Engine::MySql, Engine::MariaDb], |engine| vec![engine]);
    let folders = folders();
    for &engine in &engines {
        for server in candidates(&folders, programs(engine)) {
            if identify(&server).await == Some(engine) {
                return Ok(Install { engine, server });
            }
        }
    }
    let names: Vec<&str> = engines.iter().map(|engine| engine.name()).collect();
    bail!("no server of {} was found: scripts/setup.sh installs one", names.join(" or "))
}

/// Both engines call their server `mysqld`, but say who they are.
async fn identify(server: &Path) -> Option<Engine> {
    let output = Command::new(server).arg("--version").kill_on_drop(true).output();
    let output = timeout(READY_LIMIT, output).await.ok()?.ok()?;
    if !output.status.success() {
        return None;
    }
    let is_mariadb = String::from_utf8_lossy(&output.stdout).contains("MariaDB");
    Some(if is_mariadb { Engine::MariaDb } else { Engine::MySql })
}

/// The named copy first, then the project's own, then the system's.
fn folders() -> Vec<PathBuf> {
    let prefix = env::var_os("FRONTROW_MYSQL_PREFIX").filter(|prefix| !prefix.is_empty()).map(PathBuf::from);
    let here = env::current_dir().ok();
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    // Above the working folder only packages count: any other folder there may belong to somebody else.
    let packages = [&here, &package].into_iter().flatten().flat_map(|start| start.ancestors());
    let packages = packages.filter(|above| above.join("Cargo.toml").is_file()).map(Path::to_owned);
    let project: Vec<PathBuf> = packages.chain(here.clone()).map(|folder| folder.join(".frontrow/mysql")).collect();
    let path = env::var_os("PATH").unwrap_or_default();
    // Servers live in folders that are not on everybody's path.
    let usual = ["/usr/local/sbin", "/usr/sbin", "/usr/local/bin", "/usr/bin"].map(PathBuf::from);
    prefix
        .into_iter()
        .chain(project)
        .map(|prefix| prefix.join("bin"))
        .chain(env::split_paths(&path))
        .chain(usual)
        // Servers are started in another working folder.
        .filter_map(|folder| std::path::absolute(folder).ok())
        .collect()
}

fn candidates(folders: &[PathBuf], names: &[&str]) -> Vec<PathBuf> {
    let every = folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
    every.filter(|program| program.is_file()).collect()
}

/// Starts the server below `dir`, initialising its data if there is none yet, and returns its port
/// with it: the wanted one, or any.
///
/// # Errors
/// When the data cannot be initialised or the server does not come up.
pub async fn start(install: &Install, dir: &Path, password: &str, port: Option<u16>) -> Result<(u16, Process)> {
    let home = dir.join(install.engine.name());
    create_dir(&home.join("tmp"))?;
    let data = home.join("data");
    let server = Server { install, home: &home, password };
    server.remove_unfinished();
    if !data.exists() {
        server.initialise(&data).await?;
    }
    let data = fs::canonicalize(data).context("the database has no data folder")?;
    process::end_predecessor(&home.join("server.pid"), &data, GRACE).await?;
    on_port(port, |port| server.start(&data, port)).await
}

struct Server<'a> {
    install: &'a Install,
    home: &'a Path,
    password: &'a str,
}

impl Server<'_> {
    const fn engine(&self) -> Engine {
        self.install.engine
    }

    async fn initialise(&self, data: &Path) -> Result<()> {
        tracing::info!(engine = %self.engine(), folder = %data.display(), "initialising the database, once");
        // A name of its own: what an interrupted start left running may still write to the old one.
        let fresh = format!("{UNFINISHED}{}", hex::encode(rand::random::<[u8; 4]>()));
        let (program, mut args) = match self.engine() {
            Engine::MySql => (self.install.server.clone(), initialise_mysql()),
            Engine::MariaDb => {
                let names = ["mariadb-install-db", "mysql_install_db"];
                let found = candidates(&folders(), &names).into_iter().next();
                (
                    found.context("mariadb-install-db was not found: scripts/setup.sh mariadb installs it")?,
                    initialise_mariadb(),
                )
            }
        };
        // Relative to the working folder: MariaDB's script does not quote paths.
        args.push(format!("--datadir=./{fresh}").into());
        let process = Process::spawn(Launch {
            name: "database initialisation",
            program: &program,
            args,
            env: Vec::new(),
            home: self.home,
            tmp: &self.home.join("tmp"),
            log: &self.home.join("initialise.log"),
            pid_file: &self.home.join("initialise.pid"),
            // There is nothing to save, and MySQL does not listen to SIGTERM at this stage.
            death_signal: "KILL",
            grace: Duration::ZERO,
        })
        .await?;
        process.wait_success(INITIALISE_LIMIT).await?;
        fs::rename(self.home.join(&fresh), data).context("the initialised data cannot be renamed")
    }

    /// What cannot be removed now, since an interrupted initialisation still writes, goes next time.
    fn remove_unfinished(&self) {
        for entry in fs::read_dir(self.home).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED)
                && let Err(error) = fs::remove_dir_all(entry.path())
            {
                tracing::warn!(%error, folder = %entry.path().display(), "an unfinished data folder stays");
            }
        }
    }

    async fn start(&self, data: &Path, port: u16) -> Result<Process> {
        let init_file = self.home.join("accounts.sql");
        write_secret(&init_file, &accounts(self.engine(), self.password))?;
        let mut args = settings(self.engine());
        args.push(flag("--datadir=", data));
        args.push(flag("--init-file=", &init_file));
        args.push(format!("--port={port}").into());
        let process = Process::spawn(Launch {
            name: self.engine().name(),
            program: &self.install.server,
            args,
            env: Vec::new(),
            home: data,
            tmp: &self.home.join("tmp"),
            log: &self.home.join("server.log"),
            pid_file: &self.home.join("server.pid"),
            death_signal: "TERM",
            grace: GRACE,
        })
        .await?;
        process.wait_ready(READY_LIMIT, || greets(port)).await?;
        tracing::info!(engine = %self.engine(), port, pid = process.pid(), "database started");
        Ok(process)
    }
}

/// What both engines understand. Beyond durability: relative names are resolved in the data folder,
/// which keeps the socket's path below the 107 characters that the system allows, wherever the folder
/// is; without name resolution `localhost` in an account means the socket; binary logs are written for
/// their cost alone and go soon, so that a long load test does not fill the disk.
const SETTINGS: &[&str] = &[
    "--no-defaults",
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--socket=mysqld.sock",
    "--pid-file=mysqld.pid",
    "--character-set-server=utf8mb4",
    "--default-time-zone=+00:00",
    "--max-connections=500",
    "--innodb-buffer-pool-size=512M",
    "--innodb-flush-log-at-trx-commit=1",
    "--sync-binlog=1",
    "--server-id=1",
    "--log-bin=binlog",
    "--max-binlog-size=64M",
    "--binlog-expire-logs-seconds=600",
    "--local-infile=OFF",
];

/// `performance_schema` stays on: tests count statements with it. Without certificates the server
/// offers no encryption, which between two processes of one machine would only cost time.
const SETTINGS_MYSQL: &[&str] =
    &["--mysqlx=OFF", "--secure-file-priv=NULL", "--auto-generate-certs=OFF", "--innodb-redo-log-capacity=256M"];

/// The collation nearest to MySQL's default: case and accents are ignored, trailing blanks are not.
const SETTINGS_MARIADB: &[&str] =
    &["--collation-server=utf8mb4_unicode_520_nopad_ci", "--innodb-log-file-size=256M", "--performance-schema=ON"];

fn settings(engine: Engine) -> Vec<OsString> {
    let own = match engine {
        Engine::MySql => SETTINGS_MYSQL,
        Engine::MariaDb => SETTINGS_MARIADB,
    };
    let mut args: Vec<OsString> = SETTINGS.iter().chain(own).map(Into::into).collect();
    args.extend(as_root());
    args
}

fn initialise_mysql() -> Vec<OsString> {
    let mut args: Vec<OsString> =
        ["--no-defaults", "--initialize", "--auto-generate-certs=OFF", "--character-set-server=utf8mb4"]
            .map(Into::into)
            .into();
    args.extend(as_root());
    args
}

fn initialise_mariadb() -> Vec<OsString> {
    // Forced, because it would refuse to work where `localhost` has no entry, and nothing here goes by names.
    let options = [
        "--no-defaults",
        "--force",
        "--skip-test-db",
        "--skip-name-resolve",
        "--auth-root-authentication-method=socket",
    ];
    let mut args: Vec<OsString> = options.map(Into::into).into();
    args.extend(as_root());
    args
}

/// Both engines refuse to run as root unless told so; an ordinary account cannot choose.
fn as_root() -> Option<OsString> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0);
    is_root.then(|| "--user=root".into())
}

fn flag(name: &str, path: &Path) -> OsString {
    let mut flag = OsString::from(name);
    flag.push(path);
    flag
}

/// Run by the server at every start, before it accepts connections; one statement per line. `%` stands
/// for any ending: tests make a database each.
fn accounts(engine: Engine, password: &str) -> String {
    let root = match engine {
        // Replaces the one-time password of the initialisation.
        Engine::MySql => format!("ALTER USER 'root'@'localhost' IDENTIFIED BY '{password}';\n"),
        Engine::MariaDb => String::new(),
    };
    format!(
        "{root}\
         CREATE DATABASE IF NOT EXISTS frontrow;\n\
         CREATE USER IF NOT EXISTS 'frontrow'@'127.0.0.1' IDENTIFIED BY '{password}';\n\
         ALTER USER 'frontrow'@'127.0.0.1' IDENTIFIED BY '{password}';\n\
         GRANT ALL PRIVILEGES ON `frontrow%`.* TO 'frontrow'@'127.0.0.1' WITH GRANT OPTION;\n\
         CREATE USER IF NOT EXISTS 'frontrow_server'@'127.0.0.1' IDENTIFIED BY '{password}';\n\
         ALTER USER 'frontrow_server'@'127.0.0.1' IDENTIFIED BY '{password}';\n\
         GRANT PROCESS ON *.* TO 'frontrow'@'127.0.0.1', 'frontrow_server'@'127.0.0.1';\n\
         GRANT SELECT ON performance_schema.* TO 'frontrow'@'127.0.0.1', 'frontrow_server'@'127.0.0.1';\n"
    )
}

/// Whether the server greets a connection. It listens earlier, but greets only after the init file.
async fn greets(port: u16) -> bool {
    const PROTOCOL: u8 = 10;
    let listen = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        // Three bytes of length, one of sequence, then the protocol's version.
        let mut greeting = [0; 5];
        stream.read_exact(&mut greeting).await.ok()?;
        Some(greeting[4] == PROTOCOL)
    };
    timeout(PROBE_LIMIT, listen).await.ok().flatten().unwrap_or(false)
}
