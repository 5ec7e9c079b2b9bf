//! The filter in front of the seats: refuses what is taken without MySQL.
//!
//! It is advice, never truth: what it grants is decided by MySQL, and what it says wrongly is put right by the reconciler.

use super::bits::Bits;
use crate::catalog::{ConcertId, PerformanceId};
use crate::platform::clock::Timestamp;

/// A performance as the filter knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hall {
    /// Its concert: the keys of a concert lie together.
    pub concert: ConcertId,
    /// The performance.
    pub performance: PerformanceId,
    /// Seats of its map.
    pub seats_total: u32,
}

/// Seats set aside in the filter for one request, for as long as it may take to ask MySQL.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Where.
    pub hall: Hall,
    /// Which seats.
    pub seats: Vec<u32>,
    /// When the mark ends by itself: what tells it from another one's. Milliseconds of Redis' clock.
    pub mark: i64,
}

/// What the filter says to a request.
#[derive(Clone, Debug)]
pub enum Claimed {
    /// Nobody has the seats, as far as the filter knows: they are set aside while MySQL is asked.
    Granted(Claim),
    /// These of the seats cannot be had. With the bitmap of everything that is taken at this moment.
    Refused {
        /// The seats that cannot be had.
        seats: Vec<u32>,
        /// Everything that is taken.
        taken: Bits,
    },
    /// It does not know: MySQL is to be asked.
    Unknown,
}

/// What has become of seats in MySQL, to be told to the filter after the commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Held until then.
    Held {
        /// The seats.
        seats: Vec<u32>,
        /// When the hold ends.
        until: Timestamp,
    },
    /// Sold, or out of sale.
    Sold(Vec<u32>),
    /// Free.
    Freed(Vec<u32>),
}

/// The filter, as one instance uses it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Filter {}

impl Filter {
    /// Asks for seats: in one step, frees what is due, and sets all of them aside or names those that cannot be had.
    #[expect(clippy::unused_async, reason = "to be filled")]
    pub async fn claim(&self, _hall: Hall, _seats: &[u32]) -> Claimed {
        Claimed::Unknown
    }

    /// Takes the marks of a request back that came to nothing. Those that are not its own any more stay.
    #[expect(clippy::unused_async, reason = "to be filled")]
    pub async fn give_back(&self, _claim: &Claim) {}

    /// Tells what was committed. Where it cannot be told in time, the reconciler will find out.
    #[expect(clippy::unused_async, reason = "to be filled")]
    pub async fn settle(&self, _hall: Hall, _changes: &[Change]) {}
}
