//! What is sold: venues, concerts, performances, seat maps.

pub mod domain;

pub use domain::{ConcertId, PerformanceId, VenueId};
