//! Payments: what was paid, how, and for what.
//!
//! Table owned: `payments`. A payment by points is settled in the transaction of what it pays for.

pub mod domain;
pub mod gateway;
pub mod store;

pub use domain::{CODES, Method, Payment, PaymentId, PaymentStatus, Settled, Subject, in_progress};
pub use store::{
    INVARIANTS, ask_in_progress, has_any_for_update, insert_settled, list, list_tried, mark_refunded, owe_refund,
};
