//! A Redis Cluster: which node owns which keys, and clients for each of them.
//!
//! fred's own clustered client keeps one line of commands for all nodes and connects to all or to none, so one dead node
//! stops every command. Here each node has clients and a breaker of its own.
//!
//! Invariants:
//! - A command goes to the node that owns its key as far as is known; if that one names another one (`MOVED`), it goes
//!   there, once: a command that was moved has not run.
//! - Whatever shows that the picture is old (`MOVED`, `CLUSTERDOWN`, a node that does not answer) makes it be read again,
//!   never more often than each [`LOOK_PAUSE`], in the background.
//! - While a slot is on its way from one node to another (`ASK`, `TRYAGAIN`), its keys are unavailable.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::ClientLike as _;
use fred::prelude::FredResult;
use fred::types::config::{Config, ServerConfig};
use fred::types::{ClusterHash, CustomCommand, Value};
use futures::future::join_all;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::node::Node;
use crate::platform::config::RedisSettings;

/// The least time between two looks at the cluster, and the most.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Host and port.
type Address = (String, u16);

/// The cluster.
pub(super) struct Cluster {
    inner: Arc<Inner>,
    end: CancellationToken,
    _end_with_it: DropGuard,
}

struct Inner {
    config: Config,
    settings: RedisSettings,
    /// The nodes that the URL names.
    seeds: Vec<Address>,
    picture: RwLock<Picture>,
    /// Somebody saw that the picture is old.
    is_old: Notify,
}

#[derive(Default)]
struct Picture {
    slots: Slots,
    nodes: HashMap<Address, Arc<Node>>,
}

/// First slot of a range → its last one and its owner.
type Slots = BTreeMap<u16, (u16, Address)>;

impl Cluster {
    /// Looks for the nodes in the background.
    pub fn new(config: Config, settings: &RedisSettings) -> Self {
        let seeds = config.server.hosts().iter().map(|server| (server.host.to_string(), server.port)).collect();
        let inner = Arc::new(Inner {
            config,
            settings: settings.clone(),
            seeds,
            picture: RwLock::default(),
            is_old: Notify::new(),
        });
        let end = CancellationToken::new();
        tokio::spawn(keep_looking(Arc::downgrade(&inner), end.clone()));
        Self { inner, _end_with_it: end.clone().drop_guard(), end }
    }

    /// The nodes that own keys; nothing while they are not known.
    pub fn owners(&self) -> Option<Vec<Arc<Node>>> {
        self.inner.view(|picture| {
            let owners: Vec<&Address> = picture.slots.values().map(|(_, owner)| owner).collect();
            let nodes = picture.nodes.iter().filter(|(address, _)| owners.contains(address));
            (!owners.is_empty()).then(|| nodes.map(|(_, node)| node.clone()).collect())
        })
    }

    /// Runs a command where this key is.
    pub async fn command<R, F>(&self, name: &'static str, key: &str, run: impl Fn(Client) -> F) -> FredResult<R>
    where
        F: Future<Output = FredResult<R>>,
    {
        let slot = fred::util::redis_keyslot(key.as_bytes());
        let Some((address, node)) = self.inner.view(|picture| picture.owner_of(slot)) else {
            self.inner.is_old.notify_one();
            return Err(Error::new(ErrorKind::Cluster, "no node is known for this key"));
        };
        let result = node.command(name, &run).await;
        let Err(error) = &result else { return result };
        if says_that_it_is_old(error) {
            self.inner.is_old.notify_one();
        }
        match moved_to(error.details(), &address.0) {
            Some(owner) => self.inner.node_at(&owner)?.command(name, run).await,
            None => result,
        }
    }

    /// Ends the connections.
    pub async fn close(&self) {
        self.end.cancel();
        let nodes: Vec<Arc<Node>> = self.inner.view(|picture| picture.nodes.values().cloned().collect());
        join_all(nodes.iter().map(|node| node.close())).await;
    }
}

impl Picture {
    fn owner_of(&self, slot: u16) -> Option<(Address, Arc<Node>)> {
        let (_, (last, owner)) = self.slots.range(..=slot).next_back()?;
        let node = self.nodes.get(owner).filter(|_| slot <= *last)?;
        Some((owner.clone(), node.clone()))
    }
}

impl Inner {
    fn view<T>(&self, read: impl FnOnce(&Picture) -> T) -> T {
        read(&self.picture.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The clients of a node, made if it is new.
    fn node_at(&self, address: &Address) -> FredResult<Arc<Node>> {
        let mut picture = self.picture.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = picture.nodes.get(address) {
            return Ok(node.clone());
        }
        let mut config = self.config.clone();
        config.server = ServerConfig::new_centralized(address.0.clone(), address.1);
        let node = Arc::new(Node::new(&config, &self.settings)?);
        picture.nodes.insert(address.clone(), node.clone());
        Ok(node)
    }

    /// Asks one node after the other until one has told who owns what.
    async fn look(&self) {
        let mut addresses: Vec<Address> = self.view(|picture| picture.nodes.keys().cloned().collect());
        // Whoever is connected can tell soonest.
        addresses.sort_by_key(|address| !self.view(|picture| picture.nodes[address].is_connected()));
        let unknown = self.seeds.iter().filter(|seed| !addresses.contains(seed));
        let all: Vec<Address> = addresses.iter().chain(unknown).cloned().collect();
        for address in all {
            let told = match self.node_at(&address) {
                Ok(node) => node.command("cluster.slots", ask_for_slots).await,
                Err(error) => Err(error),
            };
            match told.map(|told| slots_of(&told, &address.0)) {
                Ok(Some(slots)) => return self.adopt(slots),
                Ok(None) => tracing::warn!(?address, "a node of the cluster told nothing that makes sense"),
                Err(error) => tracing::debug!(?address, %error, "a node of the cluster did not tell who owns what"),
            }
        }
        tracing::warn!("no node of the Redis cluster tells who owns what");
        // Once one is back, it is asked soon.
        self.is_old.notify_one();
    }

    fn adopt(&self, slots: Slots) {
        let owners: Vec<Address> = slots.values().map(|(_, owner)| owner.clone()).collect();
        for owner in &owners {
            if let Err(error) = self.node_at(owner) {
                tracing::error!(%error, "no clients for a node of the cluster");
            }
        }
        let mut picture = self.picture.write().unwrap_or_else(PoisonError::into_inner);
        picture.nodes.retain(|address, _| owners.contains(address));
        picture.slots = slots;
    }
}

async fn keep_looking(cluster: Weak<Inner>, end: CancellationToken) {
    loop {
        let Some(inner) = cluster.upgrade() else { return };
        tokio::select! {
            () = inner.look() => {}
            () = end.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_PAUSE) => {}
            () = end.cancelled() => return,
        }
        tokio::select! {
            () = inner.is_old.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = end.cancelled() => return,
        }
    }
}

async fn ask_for_slots(client: Client) -> FredResult<Value> {
    let command = CustomCommand::new_static("CLUSTER", ClusterHash::FirstKey, false);
    client.custom(command, vec!["SLOTS"]).await
}

/// `CLUSTER SLOTS`: ranges, each with its owner before the replicas. A node that does not know its own host leaves it out.
fn slots_of(told: &Value, asked: &str) -> Option<Slots> {
    let list = |value: &Value| match value {
        Value::Array(list) => Some(list.clone()),
        _ => None,
    };
    let number = |value: Option<&Value>| value.and_then(Value::as_u64).and_then(|number| u16::try_from(number).ok());
    let mut slots = Slots::new();
    for range in list(told)? {
        let range = list(&range)?;
        let owner = list(range.get(2)?)?;
        let host = owner.first().and_then(Value::as_string).filter(|host| !host.is_empty() && host != "?");
        let owner = (host.unwrap_or_else(|| asked.to_owned()), number(owner.get(1))?);
        slots.insert(number(range.first())?, (number(range.get(1))?, owner));
    }
    (!slots.is_empty()).then_some(slots)
}

/// `MOVED <slot> <host>:<port>`, where the host may be left out if it is the one that says so.
fn moved_to(details: &str, asked: &str) -> Option<Address> {
    let (_, place) = details.strip_prefix("MOVED ")?.split_once(' ')?;
    let (host, port) = place.trim().rsplit_once(':')?;
    let host = if host.is_empty() { asked } else { host };
    Some((host.to_owned(), port.parse().ok()?))
}

fn says_that_it_is_old(error: &Error) -> bool {
    let words = ["MOVED ", "ASK ", "CLUSTERDOWN", "READONLY", "MASTERDOWN"];
    words.iter().any(|word| error.details().starts_with(word))
        || matches!(error.kind(), ErrorKind::IO | ErrorKind::Timeout | ErrorKind::Canceled | ErrorKind::Routing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_key_is_followed() {
        let to = |details| moved_to(details, "10.0.0.1");
        assert_eq!(to("MOVED 3999 10.0.0.2:6381"), Some(("10.0.0.2".into(), 6381)));
        assert_eq!(to("MOVED 3999 :6381"), Some(("10.0.0.1".into(), 6381)));
        assert_eq!(to("MOVED 3999 fd00::2:6381"), Some(("fd00::2".into(), 6381)));
        assert_eq!((to("ASK 3999 10.0.0.2:6381"), to("MOVED"), to("MOVED 1 a:b")), (None, None, None));
    }

    #[test]
    fn the_owners_are_read_from_what_a_node_tells() {
        let node = |host: Value, port: i64| Value::Array(vec![host, Value::Integer(port), "id".into()]);
        let range = |from: i64, to: i64, owner| Value::Array(vec![from.into(), to.into(), owner]);
        let told = Value::Array(vec![
            range(0, 5460, node("10.0.0.2".into(), 7000)),
            range(5461, 16383, node(Value::Null, 7001)),
        ]);
        let slots = slots_of(&told, "10.0.0.1").expect("slots");
        let owners = [(0, (5460, ("10.0.0.2".to_owned(), 7000))), (5461, (16383, ("10.0.0.1".to_owned(), 7001)))];
        assert_eq!(slots, Slots::from(owners));
        for nonsense in [Value::Null, Value::Array(Vec::new()), Value::Array(vec![Value::Null])] {
            assert_eq!(slots_of(&nonsense, "10.0.0.1"), None, "{nonsense:?}");
        }
    }
}
