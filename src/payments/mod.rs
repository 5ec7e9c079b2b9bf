//! Payments: what was paid, how, and for what.
//!
//! Table owned: `payments`. A payment by points is settled in the transaction of what it pays for.

pub mod domain;
pub mod gateway;
pub mod store;

pub use domain::{CODES, Method, PAYMENT_IN_PROGRESS, Payment, PaymentId, PaymentStatus, Settled, Subject};
pub use store::{INVARIANTS, has_any_for_update, insert_settled, list, list_in_progress, mark_refunded, owe_refund};
