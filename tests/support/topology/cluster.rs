//! A Redis Cluster of three masters without replicas.
//!
//! What a dead node owned is away until it comes back; the others go on, as `cluster-require-full-coverage no` has it.

use std::collections::HashSet;
use std::path::PathBuf;

use super::server::{RedisServer, folder, free_port};
use crate::support::eventually;

const SLOTS: u16 = 16_384;
const NODES: usize = 3;

/// The cluster.
pub struct RedisCluster {
    pub nodes: Vec<RedisServer>,
    dir: PathBuf,
}

impl RedisCluster {
    /// Starts it and waits until every node knows every slot.
    pub async fn start() -> Self {
        let dir = folder("redis-cluster");
        let password = hex::encode(rand::random::<[u8; 16]>());
        let (mut nodes, mut buses) = (Vec::new(), Vec::new());
        for _ in 0..NODES {
            let bus = free_port();
            let lines = |_| {
                format!(
                    "cluster-enabled yes\ncluster-port {bus}\ncluster-node-timeout 1000\n\
                     cluster-require-full-coverage no\nmasterauth {password}\n\
                     appendonly yes\nappendfsync everysec\nsave \"\"\nmaxmemory-policy noeviction\n"
                )
            };
            nodes.push(RedisServer::start(&dir, &password, &[], lines).await);
            buses.push(bus);
        }
        let cluster = Self { nodes, dir };
        for (number, node) in (0_u16..).zip(&cluster.nodes) {
            let share = SLOTS.div_ceil(3);
            let (from, to) = (number * share, ((number + 1) * share).min(SLOTS) - 1);
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]).await;
            // Else all begin at 0 and would have to agree on who is who first.
            node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]).await;
        }
        let first = &cluster.nodes[0];
        for (node, bus) in cluster.nodes.iter().zip(&buses).skip(1) {
            first.ask(&["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), &bus.to_string()]).await;
        }
        cluster.wait_until_whole().await;
        cluster
    }

    /// Waits until every node sees a cluster in order.
    pub async fn wait_until_whole(&self) {
        for node in &self.nodes {
            eventually("the cluster to be whole", || async {
                let info = node.ask(&["CLUSTER", "INFO"]).await.as_string().unwrap_or_default();
                let facts = ["cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:3"];
                facts.iter().all(|fact| info.contains(fact)).then_some(())
            })
            .await;
        }
    }

    /// The setting for frontrow.
    pub fn url(&self) -> String {
        let node = |one: &RedisServer| format!("127.0.0.1:{}", one.port);
        let others: Vec<String> = self.nodes[1..].iter().map(|one| format!("node={}", node(one))).collect();
        format!("redis-cluster://default:{}@{}?{}", self.nodes[0].password, node(&self.nodes[0]), others.join("&"))
    }

    /// Which node owns a key.
    pub fn owner_of(key: &str) -> usize {
        usize::from(fred::util::redis_keyslot(key.as_bytes()) / SLOTS.div_ceil(3))
    }

    /// The hash tags (what stands in braces) of the keys on a node.
    pub async fn tags_on(&self, node: usize) -> HashSet<String> {
        let keys: Vec<String> = self.nodes[node].ask(&["KEYS", "*"]).await.convert().expect("keys");
        let tag = |key: &String| key.split_once('{')?.1.split_once('}').map(|(tag, _)| tag.to_owned());
        keys.iter().filter_map(tag).collect()
    }

    /// Ends it and removes its folder.
    pub fn end(self) {
        drop(self.nodes);
        std::fs::remove_dir_all(&self.dir).expect("the servers' folder");
    }
}
