//! What any server needs, without a business word in it.

pub mod audit;
pub mod breaker;
pub mod cache;
pub mod clock;
pub mod combiner;
pub mod config;
pub mod db;
pub mod embedded;
pub mod error;
pub mod http;
pub mod id;
pub mod idempotency;
pub mod instances;
pub mod jobs;
pub mod json;
pub mod latency;
pub mod limits;
pub mod money;
pub mod outbox;
#[cfg(test)]
pub(crate) mod properties;
pub mod redis;
pub mod shutdown;
pub mod telemetry;
pub mod token;
