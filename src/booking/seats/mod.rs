//! Seats: which are taken, and how buyers see it.
//!
//! Table owned: `seats`. A seat is held while `held_until` lies ahead, and sold once it has a reservation; one that is held
//! for ever is out of sale.
//!
//! Redis keys owned: `seats:{sale:<concert>}:<performance>:*`, the filter (`lua/filter.lua` describes them).

pub mod best;
pub mod bits;
pub mod board;
pub mod filter;
pub mod http;
mod metrics;
mod news;
pub mod picker;
mod reconciler;
mod redis;
mod service;
pub mod store;

pub use board::{Board, SeatStatus};
pub use filter::Filter;
pub use news::News;
pub use service::{NewSeats, Seats, Settings};

crate::problem_codes! {
    UNKNOWN_SEAT = 404 "unknown_seat" "Unknown seat" "The performance has no seat of that name; seat_ids names them.";
    SEATS_TAKEN = 409 "seats_taken" "Seats taken" "Somebody else was faster; seat_ids names the seats that cannot be had. None was held.";
    NOT_ENOUGH_SEATS = 409 "not_enough_seats" "Not enough seats" "So many seats are not free, of that grade if one was named. Held ones may come back.";
}
