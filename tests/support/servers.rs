//! MySQL (or MariaDB) and Redis of one test's own, to be killed and started again.
//!
//! Instances reach them through proxies, so that their addresses stay the same when a server comes back on another port.

use std::path::{Path, PathBuf};

use frontrow::platform::embedded::{Engine, Options, Services};
use sqlx::{Connection as _, MySqlConnection};

use super::process::send_signal;
use super::world::{address_of, server, through};
use super::{Proxy, eventually};

/// The servers. Dropping them asks them to end.
pub struct Servers {
    services: Services,
    dir: PathBuf,
    /// In front of MySQL.
    pub mysql: Proxy,
    /// In front of Redis.
    pub redis: Proxy,
}

impl Servers {
    /// Starts servers of the engine that the run tests.
    pub async fn start() -> Self {
        let name = format!("servers-{}", uuid::Uuid::new_v4().simple());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let engine = Some(engine_of_the_run().await);
        let services = Services::start(&Options { dir: dir.clone(), engine }).await.expect("servers of its own");
        let mysql = Proxy::to(address_of(&services.database_url)).await;
        let redis = Proxy::to(address_of(&services.redis_url)).await;
        Self { services, dir, mysql, redis }
    }

    /// MySQL's URL, through its proxy.
    pub fn mysql_url(&self) -> String {
        through(&self.services.database_url, &self.mysql)
    }

    /// Redis' URL, through its proxy.
    pub fn redis_url(&self) -> String {
        through(&self.services.redis_url, &self.redis)
    }

    /// `kill -9` of MySQL. Returns when it is gone.
    pub async fn kill_mysql(&self) {
        kill(self.services.database_pid).await;
    }

    /// `kill -9` of Redis. Returns when it is gone.
    pub async fn kill_redis(&self) {
        kill(self.services.redis_pid).await;
    }

    /// Starts MySQL again, on the data that it left.
    pub async fn restart_mysql(&mut self) {
        self.services.restart_database().await.expect("MySQL recovers");
        self.mysql.retarget(address_of(&self.services.database_url));
    }

    /// Starts Redis again, on the data that it left.
    pub async fn restart_redis(&mut self) {
        self.services.restart_redis().await.expect("Redis comes back");
        self.redis.retarget(address_of(&self.services.redis_url));
    }

    /// Starts Redis again with nothing in it.
    pub async fn restart_redis_empty(&mut self) {
        std::fs::remove_dir_all(self.dir.join("redis/data")).expect("the data of Redis");
        self.restart_redis().await;
    }

    /// Copies what Redis has on disk at this moment, for [`Servers::restart_redis_from`].
    pub fn save_redis(&self) -> OldSnapshot {
        let saved = self.dir.join("redis").join(format!("saved-{}", uuid::Uuid::new_v4().simple()));
        copy(&self.dir.join("redis/data"), &saved);
        OldSnapshot(saved)
    }

    /// Starts Redis again on an older copy of its data.
    pub async fn restart_redis_from(&mut self, saved: &OldSnapshot) {
        let data = self.dir.join("redis/data");
        std::fs::remove_dir_all(&data).expect("the data of Redis");
        copy(&saved.0, &data);
        self.restart_redis().await;
    }

    /// As [`Services::keep_up`].
    pub async fn keep_up(&mut self) -> &'static str {
        self.services.keep_up().await
    }

    /// Where Redis notes its process when it begins.
    pub fn redis_pid_file(&self) -> PathBuf {
        self.dir.join("redis/server.pid")
    }

    /// Ends both and removes their data.
    pub async fn end(self) {
        self.services.stop().await;
        std::fs::remove_dir_all(&self.dir).expect("the servers' folder");
    }
}

/// What Redis had on disk at some moment.
pub struct OldSnapshot(PathBuf);

impl OldSnapshot {
    /// Whether this text is in the append-only files.
    pub fn has(&self, text: &str) -> bool {
        let files = std::fs::read_dir(self.0.join("appendonlydir")).expect("the append-only files");
        let mut texts = files.map(|file| std::fs::read(file.expect("a file").path()).expect("its bytes"));
        texts.any(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
    }
}

/// Copies a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("its type").is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("a copy");
        }
    }
}

/// `kill -9` of a process. Returns when it is gone.
pub async fn kill(pid: u32) {
    send_signal(pid, "-KILL");
    eventually("the server to be gone", || async {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie has ended, whoever reaps it.
        let state = status.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        matches!(state, None | Some('Z' | 'X')).then_some(())
    })
    .await;
}

async fn engine_of_the_run() -> Engine {
    let mut sql = MySqlConnection::connect(&server("FRONTROW__DATABASE__URL")).await.expect("the run's server");
    let version: String = sqlx::query_scalar("SELECT VERSION()").fetch_one(&mut sql).await.expect("its version");
    if version.contains("MariaDB") { Engine::MariaDb } else { Engine::MySql }
}
