//! Seats: which are taken, and how buyers see it.
//!
//! Table owned: `seats`. A seat is held while `held_until` lies ahead, and sold once it has a reservation.

pub mod best;
pub mod bits;
pub mod board;
pub mod filter;
pub mod http;
pub mod picker;
mod service;
pub mod store;

pub use board::{Board, SeatStatus};
pub use service::{NewSeats, Seats, Settings};

crate::problem_codes! {
    UNKNOWN_SEAT = 404 "unknown_seat" "Unknown seat" "The performance has no seat of that name; seat_ids names them.";
    SEATS_TAKEN = 409 "seats_taken" "Seats taken" "Somebody else was faster; seat_ids names the seats that cannot be had. None was held.";
}
