//! `frontrow psp`: a card provider to try things with, a process of its own, that speaks the calls of Stripe's API which
//! frontrow makes, and misbehaves on command.
//!
//! Invariants:
//! - A call that is carried out is carried out to its end, and kept under its idempotency key, whether or not its client waits:
//!   the same key is answered by the same bytes, and by an error where anything else was asked.
//! - The books tell the truth whatever the answers said: money moves where an intent succeeds or a refund arrives, and the
//!   totals count it for ever. They live in memory, and end with the process.
//! - Nothing is unbounded: what there is no room for is refused (429) or counted as forgotten or lost.
//!
//! | file | what |
//! | --- | --- |
//! | `domain` | intents, charges, refunds as a machine; the cards |
//! | `asked` | a request's parameters, and what it does |
//! | `behaviour` | how it misbehaves |
//! | `service` | idempotency keys, chance, calls to their end |
//! | `webhooks` | telling the shop |
//! | `http` | the addresses, and an accept loop that can drop a connection |

mod asked;
pub mod behaviour;
pub mod domain;
pub mod http;
pub mod service;
pub mod webhooks;

pub use http::{Options, serve};
