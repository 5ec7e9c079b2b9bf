//! Points: what buyers pay with, as a double-entry ledger.
//!
//! Invariants, audited by [`INVARIANTS`]:
//! - Every transaction has at least two entries, and they sum to zero: money moves, it never appears.
//! - A buyer's balance is never below zero; the guarded statement that takes from it decides.
//! - A buyer's balance is the sum of the buyer's entries, which are numbered without gaps in the order in which
//!   they took effect.
//! - The same payment, refund or charge is booked once; a unique key decides.
//!
//! Revenue, the card provider and the house's grants have entries but no balance row: theirs is the sum.
//!
//! Tables owned: `points_accounts`, `ledger_transactions`, `ledger_entries`.

pub mod domain;
pub mod http;
pub mod ledger;
pub mod service;
mod store;

pub use domain::{CODES, Kind, PAYMENT_METHOD_UNAVAILABLE};
pub use http::router;
pub use service::{Points, Settings};
pub use store::INVARIANTS;
