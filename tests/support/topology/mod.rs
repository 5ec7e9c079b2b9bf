//! Redis as it runs in production, made of plain `redis-server` processes: a cluster, and a master behind sentinels.

mod cluster;
mod sentinels;
mod server;

pub use cluster::RedisCluster;
pub use sentinels::RedisSentinels;
pub use server::{RedisServer, folder};
