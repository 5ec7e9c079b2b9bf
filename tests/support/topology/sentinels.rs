//! A Redis master with two replicas, and three sentinels that replace it when it is silent for long.
//!
//! Replicas sign in as a user of their own, so that their link can be taken away while everybody else goes on: what the
//! master accepts after that is lost for certain when it dies.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use fred::types::Value;

use super::server::{RedisServer, folder};
use crate::support::eventually;

const NAME: &str = "frontrow";
const SILENCE_MS: u32 = 700;
const REPLICA_USER: &str = "replica";

/// The servers.
pub struct RedisSentinels {
    pub servers: Vec<RedisServer>,
    pub sentinels: Vec<RedisServer>,
    dir: PathBuf,
}

impl RedisSentinels {
    /// Starts them and waits until the replicas are in step and the sentinels know each other.
    pub async fn start() -> Self {
        let dir = folder("redis-sentinels");
        let (password, own) = (secret(), secret());
        let user = format!("user {REPLICA_USER} on >{own} +psync +replconf +ping\n");
        let common = format!(
            "{user}masteruser {REPLICA_USER}\nmasterauth {own}\nrepl-diskless-sync-delay 0\nrepl-timeout 5\n\
             appendonly yes\nappendfsync everysec\nsave \"\"\nmaxmemory-policy noeviction\n"
        );
        let mut servers = vec![RedisServer::start(&dir, &password, &[], |_| common.clone()).await];
        let first = servers[0].port;
        for _ in 0..2 {
            let lines = |_| format!("{common}replicaof 127.0.0.1 {first}\n");
            servers.push(RedisServer::start(&dir, &password, &[], lines).await);
        }
        let guard = secret();
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            let lines = |_| {
                format!(
                    "sentinel monitor {NAME} 127.0.0.1 {first} 2\n\
                     sentinel auth-pass {NAME} {password}\nsentinel sentinel-pass {guard}\n\
                     sentinel down-after-milliseconds {NAME} {SILENCE_MS}\n\
                     sentinel failover-timeout {NAME} 3000\nsentinel parallel-syncs {NAME} 2\n"
                )
            };
            sentinels.push(RedisServer::start(&dir, &guard, &["--sentinel"], lines).await);
        }
        let all = Self { servers, sentinels, dir };
        all.wait_until_whole(0).await;
        all
    }

    /// Waits until this one is the master, as it and the sentinels see it, and two replicas follow it.
    async fn wait_until_whole(&self, master: usize) {
        eventually("two replicas in step", || async {
            let info = self.servers[master].ask(&["INFO", "replication"]).await.as_string()?;
            (info.contains("role:master") && info.matches("state=online").count() == 2).then_some(())
        })
        .await;
        for sentinel in &self.sentinels {
            eventually("the sentinels to know everybody", || async {
                let told = sentinel.ask(&["INFO", "sentinel"]).await.as_string()?;
                let port = self.servers[master].port;
                let fact = format!("status=ok,address=127.0.0.1:{port},slaves=2,sentinels=3");
                told.contains(&fact).then_some(())
            })
            .await;
        }
    }

    /// The setting for frontrow.
    pub fn url(&self) -> String {
        let node = |one: &RedisServer| format!("127.0.0.1:{}", one.port);
        let others: Vec<String> = self.sentinels[1..].iter().map(|one| format!("node={}", node(one))).collect();
        format!(
            "redis-sentinel://default:{}@{}?sentinelServiceName={NAME}&sentinelPassword={}&{}",
            self.servers[0].password,
            node(&self.sentinels[0]),
            self.sentinels[0].password,
            others.join("&")
        )
    }

    /// Which server the sentinels call the master; nothing while they disagree.
    pub async fn master(&self) -> Option<usize> {
        let mut ports = Vec::new();
        for sentinel in &self.sentinels {
            let told = sentinel.try_ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).await?;
            let Value::Array(told) = told else { return None };
            ports.push(told.get(1)?.as_string()?.parse::<u16>().ok()?);
        }
        let port = *ports.first()?;
        let number = self.servers.iter().position(|server| server.port == port);
        number.filter(|_| ports.iter().all(|other| *other == port))
    }

    /// Takes the replicas' link away from the master: what it accepts from now on, no replica hears of.
    pub async fn lose_from_now_on(&self, master: usize) {
        let server = &self.servers[master];
        server.ask(&["ACL", "SETUSER", REPLICA_USER, "off"]).await;
        server.ask(&["CLIENT", "KILL", "USER", REPLICA_USER]).await;
        eventually("the replicas to be gone", || async {
            let info = server.ask(&["INFO", "replication"]).await.as_string()?;
            info.contains("connected_slaves:0").then_some(())
        })
        .await;
    }

    /// Waits until all sentinels name another master than this one, and it is one. Gives its number and the time it took.
    pub async fn wait_for_failover(&self, old: usize) -> (usize, Duration) {
        let started = Instant::now();
        let new = eventually("a new master", || async {
            let new = self.master().await.filter(|new| *new != old)?;
            let role = self.servers[new].try_ask(&["ROLE"]).await?;
            let Value::Array(role) = role else { return None };
            (role.first()?.as_str()? == "master").then_some(new)
        })
        .await;
        (new, started.elapsed())
    }

    /// Waits until the sentinels have made this server follow the new master.
    pub async fn wait_until_follows(&self, server: usize) {
        eventually("the old master to follow", || async {
            let info = self.servers[server].try_ask(&["INFO", "replication"]).await?.as_string()?;
            (info.contains("role:slave") && info.contains("master_link_status:up")).then_some(())
        })
        .await;
    }

    /// Ends them and removes their folder.
    pub fn end(self) {
        drop((self.sentinels, self.servers));
        std::fs::remove_dir_all(&self.dir).expect("the servers' folder");
    }
}

fn secret() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}
