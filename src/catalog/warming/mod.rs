//! The warmer: what a crowd will ask for is in every cache before the crowd comes.
//!
//! A row says that a concert is to be warm for an occasion: its lobby opens, its booking opens, or an operator says so. The
//! rows of openings are derived from the concerts' hours by every instance, about every second, so nobody who writes hours has
//! to think of them, and an opening that moves takes its row with it. When a row is due, one instance claims it, loads the
//! concert, its performances, seat maps and the seats left, anew and into the tier that all share, and counts the round up.
//! Every instance follows: it takes what the shared tier has now into its own memory, and says so in a row of its own.
//!
//! Invariants: a claim whose lease lapsed changes nothing; an instance whose memory does not have a concert of which the doors
//! open soon, or are open, loads it whatever the rows say, so that one that joins late, or has lost its memory, is warm a
//! moment later; what the shared tier lost (a wipe, an outage) is loaded again, the nearest opening first and at a bounded
//! rate. Nobody waits for the warmer: an instance serves while it warms itself.
//!
//! Tables owned: `warmings`, `warm_memories`. Key in Redis: `warm:marks`, which tells whether the shared tier still has what was
//! loaded into it.
//!
//! Reading order: [`domain`] (pure), [`kept`] (what is loaded), [`service`] (what an instance does), [`orders`] (what
//! operators ask), [`admin`].

pub mod admin;
pub mod domain;
pub(super) mod kept;
mod metrics;
pub mod orders;
mod redis;
pub mod service;
mod store;

pub use domain::{CODES, CacheView, Occasion};
pub use service::{Parts, Warmer};
