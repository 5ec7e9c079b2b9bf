//! Real processes over servers of their own, any of which may be killed at any moment.

use std::net::SocketAddr;

use frontrow::app::state::State;
use sqlx::Connection as _;

use super::{Api, Process, Proxy, Servers, World, eventually};

const OPEN_TRANSACTIONS: &str = "SELECT COUNT(*) FROM information_schema.innodb_trx";
const OPEN_CONNECTIONS: &str =
    "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()";

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Victim {
    /// One of the instances; another one each time.
    Instance,
    /// Redis, which finds its data again.
    Redis,
    /// Redis, which comes back with nothing.
    RedisAndItsData,
    /// MySQL or MariaDB.
    Database,
}

/// An instance behind an address that stays when it is replaced.
struct Node {
    process: Process,
    front: Proxy,
}

/// The processes, the servers, and the world that they share.
pub struct Cluster {
    pub world: World,
    pub servers: Servers,
    /// The services in the test's own process, for preparing; boxed, as futures that own a cluster would be large.
    pub state: Box<State>,
    nodes: Vec<Node>,
    kills: usize,
}

impl Cluster {
    /// So many instances, ready.
    pub async fn start(instances: usize) -> Self {
        Box::pin(Self::start_with(instances, &[])).await
    }

    /// The same, with these settings for every instance.
    pub async fn start_with(instances: usize, extra: &[(&str, &str)]) -> Self {
        let servers = Servers::start().await;
        let world = World::on(&servers.mysql_url(), &servers.redis_url(), extra).await;
        let mut nodes = Vec::new();
        for _ in 0..instances {
            let (process, base) = Process::serve(&world, &[]).await;
            nodes.push(Node { process, front: Proxy::to(address(&base)).await });
        }
        let state = Box::new(world.state(&[]));
        Self { world, servers, state, nodes, kills: 0 }
    }

    /// A client of all instances in turn.
    pub fn api(&self) -> Api {
        Api::at(self.bases())
    }

    /// Where the instances are found, whichever process is behind it.
    pub fn bases(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.front.base()).collect()
    }

    /// `kill -9`. Returns when the victim is gone.
    pub async fn kill(&mut self, victim: Victim) {
        match victim {
            Victim::Instance => {
                let node = self.kills % self.nodes.len();
                self.nodes[node].process.kill();
                assert_eq!(self.nodes[node].process.end().await, None, "ended by a signal");
            }
            Victim::Redis | Victim::RedisAndItsData => self.servers.kill_redis().await,
            Victim::Database => self.servers.kill_mysql().await,
        }
    }

    /// Starts what was killed last.
    pub async fn restart(&mut self, victim: Victim) {
        match victim {
            Victim::Instance => {
                let (process, base) = Process::serve(&self.world, &[]).await;
                let node = self.kills % self.nodes.len();
                self.nodes[node].front.retarget(address(&base));
                self.nodes[node].process = process;
            }
            Victim::Redis => self.servers.restart_redis().await,
            Victim::RedisAndItsData => self.servers.restart_redis_empty().await,
            Victim::Database => self.servers.restart_mysql().await,
        }
        self.kills += 1;
    }

    /// Asserts that `frontrow audit` finds the whole database in order.
    pub async fn assert_audited(&self) {
        let mut audit = Process::spawn(&self.world, &["audit"], &[]);
        let code = audit.end().await;
        assert_eq!(code, Some(0), "{}", audit.output());
    }

    /// Asserts that no transaction and no connection is left of those that were killed or of their heirs, which end in
    /// good order; then ends the servers.
    pub async fn end(mut self) {
        self.wait_for_none("transactions", OPEN_TRANSACTIONS).await;
        for node in &mut self.nodes {
            node.process.terminate();
            assert_eq!(node.process.end().await, Some(0), "{}", node.process.output());
        }
        self.state.redis.close().await;
        self.state.db.close().await;
        self.wait_for_none("connections", OPEN_CONNECTIONS).await;
        self.servers.end().await;
    }

    async fn wait_for_none(&self, what: &str, count: &'static str) {
        eventually(&format!("open {what} to end"), || async {
            let mut sql = self.world.sql().await;
            // The server fails to list what others run while one of them has bound bytes that are no text.
            let open: i64 = sqlx::query_scalar(count).fetch_one(&mut sql).await.ok()?;
            sql.close().await.expect("closing");
            (open == 0).then_some(())
        })
        .await;
    }
}

fn address(base: &str) -> SocketAddr {
    base.strip_prefix("http://").and_then(|address| address.parse().ok()).expect("host and port")
}
