//! Points: what buyers pay with, as a double-entry ledger.
//!
//! Invariants, audited by [`INVARIANTS`]:
//! - Every transaction has at least two entries, and they sum to zero: money moves, it never appears.
//! - A buyer's balance is never below zero; the guarded statement that takes from it decides.
//! - A buyer's balance is the sum of the buyer's entries, which are numbered without gaps in the order in which
//!   they took effect.
//! - The same payment, refund or charge is booked once; a unique key decides.
//! - A charge by card becomes points, or goes back to the card: the balance has its limit when the money has come, too.
//!
//! Revenue, the card provider and the house's grants have entries but no balance row: theirs is the sum.
//!
//! Tables owned: `points_accounts`, `ledger_transactions`, `ledger_entries`.

mod cards;
pub mod domain;
pub mod http;
pub mod ledger;
pub mod service;
mod store;

pub use cards::ChargesByCard;
pub use domain::{CODES, Kind};
pub use http::router;
pub use service::{Points, Settings};
pub use store::INVARIANTS;

/// The tables that only grow: what was booked stays.
pub const APPEND_ONLY: &[&str] = &["ledger_transactions", "ledger_entries"];
