//! Booking: seats, holds, payment, reservations.
//!
//! Invariants: a seat is sold at most once and held by at most one hold at a time, and MySQL alone decides it; a hold
//! takes all its seats or none; a hold ends by the comparison of times in the database, whether or not
//! anything sweeps; payment, seats, points, reservation, the end of the pass and the outgoing event are
//! one transaction.
//!
//! Locks are taken in this order: idempotency key, hold, reservation and its tickets, pass, points account, seats by number.

pub mod aftermath;
pub mod holds;
pub mod reservations;
pub mod seats;
pub mod statistics;
pub mod tickets;

/// The problem codes of booking.
pub const CODES: &[&[&crate::platform::error::Code]] =
    &[seats::CODES, holds::CODES, reservations::CODES, tickets::CODES];
