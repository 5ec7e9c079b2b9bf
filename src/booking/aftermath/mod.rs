//! What follows when a concert does not take place as it was sold: cancelled, with everybody's money given back, or moved to
//! another date.
//!
//! Invariants:
//! - From the commit of a cancellation on nothing of the concert is held, paid or claimed, on any instance: those transactions
//!   read it in MySQL.
//! - Whoever has paid gets the money back once, whichever instances die meanwhile: what is still to be given back is told by the
//!   reservations' own states, and each is given back in a transaction of its own, with the sums of the progress.
//! - A cancellation is finished only when no payment that had begun before it can still be committed.
//!
//! Table owned: `concert_cancellations`.

pub mod admin;
mod cancellation;
pub mod domain;
mod postponement;
mod refunding;
mod store;

pub use cancellation::Aftermath;
