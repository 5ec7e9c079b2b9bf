//! Reservations: holds that were paid, and the checkout that makes them.
//!
//! Tables owned: `reservations`, `reservation_seats`. A unique key over a performance's live reservation seats
//! makes selling a seat twice impossible even for wrong code.

pub mod checkout;
pub mod domain;
pub mod http;
pub mod store;

pub use checkout::Checkout;
pub use domain::ReservationId;
pub use store::INVARIANTS;
