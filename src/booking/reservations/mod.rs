//! Reservations: holds that were paid, the checkout that makes them, and the cancellation that undoes them.
//!
//! Tables owned: `reservations`, `reservation_seats`. A unique key over a performance's live reservation seats
//! makes selling a seat twice impossible even for wrong code.

mod cancellation;
pub mod card;
pub mod checkout;
pub mod domain;
pub mod http;
mod paying;
pub mod store;

pub use card::HoldsByCard;
pub use checkout::{Checkout, Parts};
pub use domain::{CODES, ReservationId};
pub use store::INVARIANTS;
