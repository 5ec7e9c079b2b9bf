//! What the catalogue needs from features above it. They implement it; the composition root wires it.

use futures::future::BoxFuture;

use serde_json::Value;

use super::domain::{ConcertId, PerformanceId, QueueSettings};
use super::seat_map::SeatMap;
use crate::accounts::UserId;
use crate::platform::db::Conn;
use crate::platform::error::Problem;

/// Creates a concert's waiting line. The queue implements it.
pub trait SaleSetup: Send + Sync {
    /// Creates the concert's sale in this transaction, whose concert row is there already, and returns the draw's
    /// public commitment (64 hex digits).
    fn create<'c>(
        &'c self,
        conn: &'c mut Conn,
        concert: ConcertId,
        queue: &'c QueueSettings,
    ) -> BoxFuture<'c, Result<String, Problem>>;
}

/// Makes the seats of a performance real. Booking implements it.
pub trait SeatSetup: Send + Sync {
    /// Creates every seat of the map in this transaction, whose performance row is there already.
    fn create<'c>(
        &'c self,
        conn: &'c mut Conn,
        performance: PerformanceId,
        map: &'c SeatMap,
    ) -> BoxFuture<'c, Result<(), Problem>>;
}

/// Seats of one performance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeatsLeft {
    /// Neither sold nor held.
    pub available: u32,
    /// Not sold: available or held.
    pub unsold: u32,
}

/// Tells how many seats are left. Booking implements it.
pub trait Availability: Send + Sync {
    /// What is left, from memory or from the database; nothing only where neither can tell right now.
    fn available(&self, performance: PerformanceId) -> BoxFuture<'_, Option<SeatsLeft>>;
}

/// Where it is written down what operators do; the log is another feature's.
pub trait ActionLog: Send + Sync {
    /// Writes an entry in the transaction of what it tells of.
    fn record<'c>(
        &'c self,
        conn: &'c mut Conn,
        operator: UserId,
        action: &'static str,
        concert: ConcertId,
        details: &'c Value,
    ) -> BoxFuture<'c, Result<(), Problem>>;
}
