//! Reservations: holds that were paid, the checkout that makes them, and what undoes them.
//!
//! Tables owned: `reservations`, `reservation_seats`. A unique key over a performance's live reservation seats
//! makes selling a seat twice impossible even for wrong code.

pub mod admin;
mod cancellation;
pub mod card;
pub mod checkout;
pub mod domain;
pub mod http;
mod paying;
mod refunds;
mod shown;
pub mod store;

pub use card::HoldsByCard;
pub use checkout::{Checkout, Parts};
pub use domain::{CODES, ReservationId};
pub use refunds::refund_if_confirmed;
pub use store::INVARIANTS;
