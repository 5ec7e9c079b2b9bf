//! One `redis-server` of a test's own, in a folder of its own, that ends with the test.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::ClientLike as _;
use fred::types::config::Config;
use fred::types::{Builder, ClusterHash, CustomCommand, Value};
use rand::Rng as _;

use crate::support::eventually;
use crate::support::process::send_signal;
use crate::support::servers::copy;

/// Below the ports that the operating system gives to whoever connects, so that a killed server finds its own again.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Longest answer to one question.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Where a server keeps its append-only files.
const AOF: &str = "appendonlydir";

/// The server. Dropping it kills it.
pub struct RedisServer {
    child: Child,
    dir: PathBuf,
    arguments: Vec<String>,
    pub port: u16,
    pub password: String,
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    loop {
        let port = rand::rng().random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A folder for the servers of one test.
pub fn folder(name: &str) -> PathBuf {
    let name = format!("{name}-{}", uuid::Uuid::new_v4().simple());
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir(&dir).expect("a folder");
    dir
}

impl RedisServer {
    /// A server with these lines in its configuration, which it may rewrite, and these arguments. It asks for the password.
    /// Its port is its own unless somebody took it in this moment: then it is tried again on another one.
    pub async fn start(parent: &Path, password: &str, arguments: &[&str], lines: impl Fn(u16) -> String) -> Self {
        loop {
            let port = free_port();
            let dir = parent.join(port.to_string());
            fs::create_dir_all(&dir).expect("a folder");
            let common = format!("bind 127.0.0.1\nport {port}\ndir ./\nrequirepass {password}\ndaemonize no\n");
            fs::write(dir.join("redis.conf"), common + &lines(port)).expect("a configuration");
            let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
            let child = spawn(&dir, &arguments);
            let mut server = Self { child, dir, arguments, port, password: password.to_owned() };
            if server.answers().await {
                return server;
            }
            assert!(server.log().contains("ddress already in use"), "{}", server.log());
        }
    }

    /// Waits until it answers. False if it ended instead.
    async fn answers(&mut self) -> bool {
        eventually("a Redis server to answer", || {
            let is_over = self.child.try_wait().expect("a child of ours").is_some();
            let asked = self.try_ask(&["PING"]);
            async move {
                if is_over {
                    return Some(false);
                }
                asked.await.filter(|answer| answer.as_str().as_deref() == Some("PONG")).map(|_| true)
            }
        })
        .await
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("server.log")).unwrap_or_default()
    }

    /// What it answers; nothing where it does not, or where it refuses.
    pub fn try_ask(&self, words: &[&str]) -> impl Future<Output = Option<Value>> + use<> {
        let config = Config::from_url(&format!("redis://:{}@127.0.0.1:{}", self.password, self.port));
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        async move {
            let asking = async {
                let client: Client = Builder::from_config(config.expect("a URL")).build().expect("a client");
                client.init().await.ok()?;
                let (command, rest) = words.split_first().expect("a command");
                let command = CustomCommand::new(command.clone(), ClusterHash::FirstKey, false);
                let answer = client.custom::<Value, String>(command, rest.to_vec()).await.ok();
                drop(client.quit().await);
                answer
            };
            tokio::time::timeout(ANSWER_MAX, asking).await.ok().flatten()
        }
    }

    /// What it answers.
    pub async fn ask(&self, words: &[&str]) -> Value {
        let answer = self.try_ask(words).await;
        answer.unwrap_or_else(|| panic!("{words:?} was not answered: {}", self.log()))
    }

    /// `kill -9`. Returns when it is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child of ours");
        self.child.wait().expect("its end");
    }

    /// Stops it without ending it: it is there and says nothing.
    pub fn pause(&self) {
        send_signal(self.child.id(), "-STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        send_signal(self.child.id(), "-CONT");
    }

    /// Copies what it has on disk at this moment, for [`RedisServer::restart_from`].
    pub fn save(&self) -> PathBuf {
        let saved = self.dir.join(format!("saved-{}", uuid::Uuid::new_v4().simple()));
        copy(&self.dir.join(AOF), &saved);
        saved
    }

    /// Starts it again with nothing in it.
    pub async fn restart_empty(&mut self) {
        fs::remove_dir_all(self.dir.join(AOF)).expect("its data");
        self.restart().await;
    }

    /// Starts it again on an older copy of its data.
    pub async fn restart_from(&mut self, saved: &Path) {
        let data = self.dir.join(AOF);
        fs::remove_dir_all(&data).expect("its data");
        copy(saved, &data);
        self.restart().await;
    }

    /// Starts it again after it was killed, at the same address, on what it left.
    pub async fn restart(&mut self) {
        self.child = spawn(&self.dir, &self.arguments);
        assert!(self.answers().await, "{}", self.log());
    }
}

fn spawn(dir: &Path, arguments: &Vec<String>) -> Child {
    let log = File::create(dir.join("server.log")).expect("a log");
    // Ends with the test even if that is killed.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "redis-server", "./redis.conf"])
        .args(arguments)
        .current_dir(dir)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("one file for both"))
        .stderr(log)
        .spawn()
        .expect("setpriv and redis-server")
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // Both fail only where it has been reaped already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
