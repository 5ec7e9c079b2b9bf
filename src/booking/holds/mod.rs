//! Holds: seats set aside for one buyer for a few minutes.
//!
//! A hold takes all its seats or none. It lives until `expires_at` by the database's clock; seats whose hold
//! has ended are free without anybody doing anything. The limit per buyer and concert counts live holds
//! and reservations; as holding needs the buyer's one live pass and locks its row, one buyer's holds
//! come one after the other and the count cannot be overtaken. Requests that come while a transaction is running share the
//! next one (`batch.rs`).
//!
//! Tables owned: `holds`, `hold_seats`.

mod batch;
mod closing;
pub mod domain;
pub mod http;
mod limits;
mod marks;
pub mod retention;
mod service;
pub mod store;
mod taking;

pub use closing::end_if_live;
pub use domain::{CODES, HeldSeat, Hold, HoldId, HoldStatus};
pub use limits::HoldLimits;
pub use service::{Asked, Holds, Parts, Request};
pub use store::INVARIANTS;
