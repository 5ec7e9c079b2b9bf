//! Payments: what was paid, how, and for what.
//!
//! Table owned: `payments`. A payment by points is settled in the transaction of what it pays for.

pub mod domain;
pub mod store;

pub use domain::{Method, Payment, PaymentId, PaymentStatus, Subject};
pub use store::{INVARIANTS, insert_settled, list, mark_refunded};
