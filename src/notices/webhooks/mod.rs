//! Webhooks out: endpoints that operators subscribe to events, by the Standard Webhooks specification.
//!
//! Invariants:
//! - The relay marks an event as sent only once it lies in a row for every active endpoint that asked for its topic. The
//!   primary key (endpoint, event) makes a repeat harmless.
//! - A row is claimed by one instance at a time, with a lease and a fence; it may be sent twice, never forgotten. What was
//!   tried as often as it may be is a dead letter, which stays until it is sent again by command or grows old.
//! - One endpoint never has more than `notices.parallel_per_endpoint` deliveries under way on an instance, so that a slow one
//!   slows nobody else.
//! - No request goes to an address that is not public, unless `notices.private_addresses` has it: the address that was
//!   checked is the one that is connected to. Redirects are not followed.
//! - Secrets are stored sealed and shown once. Bodies hold ids and facts of a sale, nothing about persons.
//!
//! Tables owned: `webhook_endpoints`, `webhook_deliveries`.

mod address;
pub mod admin;
mod courier;
mod dispatcher;
pub mod domain;
mod metrics;
pub mod service;
mod signature;
mod store;

pub use dispatcher::Dispatcher;
pub use domain::{CODES, EndpointId, TOPICS};
pub use service::{ActionLog, Order, Webhooks};
