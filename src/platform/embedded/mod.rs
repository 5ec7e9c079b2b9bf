//! Private MySQL (or MariaDB) and Redis processes, for development and tests, and siblings of the program itself.
//!
//! Purpose: `frontrow dev` and `frontrow services` work on a machine whose packages bring the server
//! programs, without touching the system's own servers. Everything lives below one folder:
//!
//! ```text
//! DIR/lock                    held while a program uses the folder
//! DIR/password                of the database account and of Redis, readable by its owner only
//! DIR/mysql/, DIR/mariadb/    data/, tmp/ and the log of each engine: data is never shared
//! DIR/redis/                  data/, the configuration and the log
//! DIR/NAME/                   the same of a sibling: this program again, with another command
//! ```
//!
//! Invariants:
//! - One program at a time uses the folder. The kernel drops the lock with its holder, however that
//!   ends, so no lock is ever stale.
//! - Servers listen on 127.0.0.1 only, on ports that were free, and ask for the password.
//! - Data outlives its servers: the next start on the same folder finds it. A first start that was
//!   interrupted leaves nothing that looks like data.
//! - A server that ends by itself is started again on the same port and data ([`Services::keep_up`]), as a service manager would.
//! - Servers end with the program, even if it is killed (see [`process`]), and the next start waits
//!   for those that are still busy ending.

use std::fmt;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::future::Future;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

mod mysql;
mod process;
mod redis;
mod sibling;
mod upkeep;

use process::Process;
pub use sibling::Sibling;

/// How often a server is started on another port because the chosen one was taken in the meantime.
const PORT_ATTEMPTS: u32 = 3;
/// How long whoever took a wanted port is given to leave it.
const PORT_PAUSE: Duration = Duration::from_secs(1);

/// The database servers that frontrow knows how to run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Engine {
    /// MySQL.
    MySql,
    /// MariaDB.
    MariaDb,
}

impl Engine {
    /// The name on the command line, which is also the folder of the engine's data.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MySql => "mysql",
            Self::MariaDb => "mariadb",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Engine {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "mysql" => Ok(Self::MySql),
            "mariadb" => Ok(Self::MariaDb),
            _ => bail!("unknown database engine {name:?}: mysql and mariadb are known"),
        }
    }
}

/// What to run, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder of the data; created if absent.
    pub dir: PathBuf,
    /// `None` takes MySQL where it is found, else MariaDB.
    pub engine: Option<Engine>,
}

/// The running servers. Dropping it asks them to end; [`Services::stop`] also waits until they have.
pub struct Services {
    /// URL of the account `frontrow` and its database `frontrow`. The account may create and drop any
    /// database whose name begins with `frontrow`, and read the server's statistics.
    pub database_url: String,
    /// URL of the account `frontrow_server` and the same database. What it may do there is what the first account grants it.
    pub server_url: String,
    /// URL of Redis, password included.
    pub redis_url: String,
    /// The engine behind `database_url`.
    pub engine: Engine,
    /// Process id of the database server.
    pub database_pid: u32,
    /// Process id of Redis.
    pub redis_pid: u32,
    database: Process,
    database_port: u16,
    redis: Process,
    redis_port: u16,
    home: Home,
    // Declared last: fields are dropped in order, and the folder is free only after the servers.
    _lock: File,
}

/// What the servers were started from.
struct Home {
    dir: PathBuf,
    password: String,
    install: mysql::Install,
}

impl Home {
    fn database_url(&self, port: u16) -> String {
        self.url_of("frontrow", port)
    }

    fn server_url(&self, port: u16) -> String {
        self.url_of("frontrow_server", port)
    }

    fn url_of(&self, account: &str, port: u16) -> String {
        format!("mysql://{account}:{}@127.0.0.1:{port}/frontrow?ssl-mode=disabled", self.password)
    }

    fn redis_url(&self, port: u16) -> String {
        format!("redis://default:{}@127.0.0.1:{port}", self.password)
    }
}

impl Services {
    /// Starts both servers and returns when they answer. The first start on a folder also
    /// initialises the database, which takes some seconds.
    ///
    /// # Errors
    /// When the folder is in use by another program or cannot be written, when a server program is
    /// missing, and when a server does not come up: then with the end of its log.
    pub async fn start(options: &Options) -> Result<Self> {
        create_dir(&options.dir)?;
        let dir = fs::canonicalize(&options.dir).with_context(|| format!("no folder {}", options.dir.display()))?;
        let lock = lock(&dir)?;
        let password = password(&dir)?;
        let home = Home { dir, password, install: mysql::locate(options.engine).await? };

        // Not try_join: when one fails, the other one must have ended before this returns.
        let (database, redis) = tokio::join!(
            mysql::start(&home.install, &home.dir, &home.password, None),
            redis::start(&home.dir, &home.password, None)
        );
        match (database, redis) {
            (Ok((database_port, database)), Ok((redis_port, redis))) => Ok(Self {
                database_url: home.database_url(database_port),
                server_url: home.server_url(database_port),
                redis_url: home.redis_url(redis_port),
                engine: home.install.engine,
                database_pid: database.pid(),
                redis_pid: redis.pid(),
                database,
                database_port,
                redis,
                redis_port,
                home,
                _lock: lock,
            }),
            (Err(error), Ok((_, running))) | (Ok((_, running)), Err(error)) => {
                running.stop().await;
                Err(error)
            }
            (Err(error), Err(other)) => Err(error.context(format!("Redis did not start either: {other:#}"))),
        }
    }

    /// Starts the database server again after it was killed, on the data that it left. The URL may be another one.
    ///
    /// # Errors
    /// As [`Services::start`].
    #[cfg(feature = "test-kit")]
    pub async fn restart_database(&mut self) -> Result<()> {
        self.start_database(None).await
    }

    /// As [`Services::restart_database`], for Redis.
    ///
    /// # Errors
    /// As [`Services::start`].
    #[cfg(feature = "test-kit")]
    pub async fn restart_redis(&mut self) -> Result<()> {
        self.start_redis(None).await
    }

    async fn start_database(&mut self, port: Option<u16>) -> Result<()> {
        let (port, process) = mysql::start(&self.home.install, &self.home.dir, &self.home.password, port).await?;
        self.database_url = self.home.database_url(port);
        self.server_url = self.home.server_url(port);
        self.database_pid = process.pid();
        self.database_port = port;
        self.database = process;
        Ok(())
    }

    async fn start_redis(&mut self, port: Option<u16>) -> Result<()> {
        let (port, process) = redis::start(&self.home.dir, &self.home.password, port).await?;
        self.redis_url = self.home.redis_url(port);
        self.redis_pid = process.pid();
        self.redis_port = port;
        self.redis = process;
        Ok(())
    }

    /// Ends both servers in good order and waits until they are gone.
    pub async fn stop(self) {
        tokio::join!(self.database.stop(), self.redis.stop());
    }
}

/// Without the URLs, which hold the password.
impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services")
            .field("engine", &self.engine)
            .field("database_pid", &self.database_pid)
            .field("redis_pid", &self.redis_pid)
            .finish_non_exhaustive()
    }
}

/// Runs `start` on a free port, and on another one if that was lost between choosing and using it. A wanted port is waited
/// for instead.
async fn on_port<T, F>(wanted: Option<u16>, start: impl Fn(u16) -> F) -> Result<(u16, T)>
where
    F: Future<Output = Result<T>>,
{
    let mut attempt = 1;
    loop {
        let port = wanted.map_or_else(free_port, Ok)?;
        match start(port).await {
            Ok(started) => return Ok((port, started)),
            Err(error) if attempt < PORT_ATTEMPTS && error.to_string().contains("ddress already in use") => {
                tracing::warn!(port, "the port was taken meanwhile, trying once more");
                attempt += 1;
                if wanted.is_some() {
                    tokio::time::sleep(PORT_PAUSE).await;
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let addr = listener.and_then(|listener| listener.local_addr()).context("no free port on 127.0.0.1")?;
    Ok(addr.port())
}

/// Creates a folder that only its owner may enter, and its parents.
fn create_dir(dir: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("the folder {} cannot be created", dir.display()))
}

/// Replaces a file that only its owner may read, or leaves the old one as it was.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("new");
    let write = || -> io::Result<()> {
        // Left by a program that was killed while writing it; its mode would be kept.
        if temporary.exists() {
            fs::remove_file(&temporary)?;
        }
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("{} cannot be opened", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            bail!("{} is in use by another program (process {})", dir.display(), holder.trim());
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("{} cannot be locked", path.display()));
        }
    }
    // For the message above only: the lock itself is what counts.
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// The folder's password, made up on first use. Hex, so that URLs and SQL need no quoting.
fn password(dir: &Path) -> Result<String> {
    let path = dir.join("password");
    if let Ok(text) = fs::read_to_string(&path) {
        let known = text.trim();
        if known.len() == 32 && known.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(known.to_owned());
        }
    }
    let password = hex::encode(rand::random::<[u8; 16]>());
    write_secret(&path, &password)?;
    Ok(password)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn scratch() -> PathBuf {
        let dir = std::env::temp_dir().join(format!("frontrow-{}", hex::encode(rand::random::<[u8; 8]>())));
        create_dir(&dir).unwrap();
        dir
    }

    #[test]
    fn a_folder_has_one_user_at_a_time() {
        let dir = scratch();
        let held = lock(&dir).unwrap();
        let refusal = lock(&dir).unwrap_err().to_string();
        assert!(refusal.contains(&format!("process {}", std::process::id())), "{refusal}");
        drop(held);
        lock(&dir).unwrap();
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_password_is_kept_and_private() {
        let dir = scratch();
        let first = password(&dir).unwrap();
        assert_eq!(password(&dir).unwrap(), first);
        let mode = fs::metadata(dir.join("password")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // Cut short by a full disk, say: made anew rather than used.
        fs::write(dir.join("password"), &first[..5]).unwrap();
        let second = password(&dir).unwrap();
        assert_eq!((second.len(), second == first), (32, false));
        fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn a_lost_port_is_replaced_and_other_failures_are_not_retried() {
        let tries = Cell::new(0);
        let start = |outcome: fn(u32) -> Result<()>| {
            let tries = &tries;
            on_port(None, move |_| {
                tries.set(tries.get() + 1);
                std::future::ready(outcome(tries.get()))
            })
        };
        let (port, ()) = start(|n| if n == 1 { bail!("bind: Address already in use") } else { Ok(()) }).await.unwrap();
        assert!(port > 0);
        assert_eq!(tries.replace(0), 2);
        start(|_| bail!("Address already in use")).await.unwrap_err();
        assert_eq!(tries.replace(0), PORT_ATTEMPTS);
        start(|_| bail!("corrupt data")).await.unwrap_err();
        assert_eq!(tries.get(), 1);
    }
}
