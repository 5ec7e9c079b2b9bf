//! Payments: what was paid, how, and for what.
//!
//! Table owned: `payments`. A payment by points is settled in the transaction of what it pays for. What a card provider must be
//! able to do is in [`gateway`]; [`stripe`] speaks to one, and [`sandbox`] is one to try things with.

pub mod domain;
pub mod gateway;
pub mod sandbox;
mod settings;
pub mod signature;
pub mod store;
pub mod stripe;

pub use domain::{Method, Payment, PaymentId, PaymentStatus, Subject};
pub use settings::Settings;
pub use store::{INVARIANTS, insert_settled, list, mark_refunded, owe_refund};

/// Where the provider sends its webhooks.
pub const WEBHOOK_PATH: &str = "/v1/payments/webhooks";
