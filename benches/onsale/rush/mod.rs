//! A rush for seats inside the server under test: many buyers who hold seats at once, without requests over HTTP, by the
//! function that the endpoint calls or by one bare transaction each.
//!
//! What is to be done comes as a [`Task`] and goes on in the background, for as long as it takes; the answer is fetched.

mod bare;
mod bare_pay;
mod buyers;
mod client;
mod halls;
mod journeys;
mod refusals;
mod sale;
pub mod server;
mod till;

pub use client::{Refusals, Spent};

use serde::{Deserialize, Serialize};

/// What the server under test is told to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Makes a hall of so many seats, and buyers with live passes. The answer is its number.
    Hall {
        /// Seats.
        seats: u32,
        /// How many buyers.
        buyers: usize,
    },
    /// Has buyers hold seats. The answer is a [`Rushed`].
    Rush(Rush),
    /// Has buyers ask for the best seats, on two instances, until each has asked once. The answer is a [`SoldOut`].
    Sell {
        /// The hall's number.
        hall: usize,
        /// Seats that each asks for.
        quantity: u32,
        /// Requests under way at once on each instance.
        at_once: usize,
    },
    /// Looks whether the hall has so many holds and no seat twice, and then forgets them all.
    Clear {
        /// The hall's number.
        hall: usize,
        /// How many.
        holds: u64,
        /// Seats of each.
        seats: u32,
    },
    /// Gives a hall's buyers points, and a hold of two seats each. What was held and paid before is forgotten.
    Fill {
        /// The hall's number.
        hall: usize,
    },
    /// Has buyers pay what they hold. The answer is a [`Rushed`].
    Pay {
        /// Who pays.
        maker: Maker,
        /// Payments under way at once.
        at_once: usize,
        /// How long.
        millis: u64,
    },
    /// Looks whether there are so many payments, and nothing is missing of any.
    Audit {
        /// How many.
        paid: u64,
    },
    /// Makes a sale of so many seats, and has people go the whole way. The answer is [`Travelled`].
    Journeys {
        /// Seats.
        seats: u32,
        /// Journeys under way at once.
        at_once: usize,
        /// How long journeys begin.
        millis: u64,
    },
    /// Takes every other seat of a hall out of sale. The answer is requests that are refused for it, as lines of a
    /// [`crate::load::Load`]'s values, each by another buyer.
    Refusals {
        /// The hall's number.
        hall: usize,
        /// How many.
        count: u32,
    },
}

/// Who makes a hold, or a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Maker {
    /// The function that the endpoint calls.
    Service,
    /// One transaction for each.
    Bare,
}

/// A rush.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Rush {
    /// The hall's number.
    pub hall: usize,
    /// Who makes the holds.
    pub maker: Maker,
    /// Requests under way at once.
    pub at_once: usize,
    /// How long. It ends earlier where no seat is left.
    pub millis: u64,
    /// Every so many requests one names a seat that is taken; none for 0.
    pub refused_every: u32,
    /// Whether each hold is given back at once, and its seats are used again.
    pub gives_back: bool,
}

/// How a hall was sold out.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct SoldOut {
    /// Until the last hold was made.
    pub secs: f64,
    /// Until everybody was answered.
    pub answered_secs: f64,
    /// Holds by instance.
    pub holds: [f64; 2],
    /// Who was told that there are not enough seats.
    pub refused: f64,
    /// Who was told that others were faster, after as many choices as are made for one request.
    pub beaten: f64,
}

/// What came of journeys.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Travelled {
    /// How many came to their end.
    pub journeys: f64,
    /// How long it took.
    pub secs: f64,
    /// The median time of one, waiting included.
    pub p50_micros: f64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Rushed {
    /// Holds made.
    pub holds: f64,
    /// Requests refused.
    pub refused: f64,
    /// How long it took.
    pub secs: f64,
    /// The median time of a hold.
    pub p50_micros: f64,
    /// What one hold in a hundred exceeds.
    pub p99_micros: f64,
}
