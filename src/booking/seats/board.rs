//! Which seats of a performance are taken, as one picture.

use serde::Serialize;

use super::bits::Bits;
use crate::catalog::PerformanceId;
use crate::catalog::seat_map::SeatMap;
use crate::platform::clock::Timestamp;

/// What a seat is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SeatStatus {
    /// Can be held.
    Available,
    /// Somebody is deciding.
    Held,
    /// Sold.
    Sold,
}

/// Seats of one grade that can be held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct GradeLeft {
    /// The grade.
    pub code: String,
    /// Seats neither sold nor held.
    pub available: u32,
}

/// The picture of one performance at one moment.
#[derive(Clone, Debug)]
pub struct Board {
    /// Rises whenever the picture changes; never goes back on one instance.
    pub version: u64,
    /// When it was first seen with this version.
    pub as_of: Timestamp,
    /// Seats in the map.
    pub total: u32,
    /// Per grade, in the order of the map.
    pub by_grade: Vec<GradeLeft>,
    taken: Bits,
    sold: Bits,
}

impl Board {
    /// The picture after the rows `(seat number, is sold)` of all taken seats, following `before`.
    #[must_use]
    pub fn new(map: &SeatMap, rows: &[(u32, bool)], as_of: Timestamp, before: Option<&Self>) -> Self {
        let seats = map.seats();
        let (mut taken, mut sold) = (Bits::new(seats.len()), Bits::new(seats.len()));
        for (index, is_sold) in rows {
            taken.set(*index);
            if *is_sold {
                sold.set(*index);
            }
        }
        let mut by_grade: Vec<GradeLeft> = Vec::new();
        for seat in seats {
            let is_free = u32::from(!taken.has(seat.index));
            match by_grade.iter_mut().find(|grade| grade.code == *seat.grade) {
                Some(grade) => grade.available += is_free,
                None => by_grade.push(GradeLeft { code: seat.grade.to_string(), available: is_free }),
            }
        }
        let version = match before {
            Some(before) if before.taken == taken && before.sold == sold => before.version,
            // Starting from the time, a restarted instance goes on above what it said before.
            before => u64::try_from(as_of.millis()).unwrap_or(0).max(before.map_or(0, |before| before.version) + 1),
        };
        let total = u32::try_from(seats.len()).unwrap_or(u32::MAX);
        Self { version, as_of, total, by_grade, taken, sold }
    }

    /// Seats neither sold nor held.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.total.saturating_sub(self.taken.count())
    }

    /// Seats not sold.
    #[must_use]
    pub fn unsold(&self) -> u32 {
        self.total.saturating_sub(self.sold.count())
    }

    /// The seats that cannot be held, sold ones included.
    #[must_use]
    pub const fn taken(&self) -> &Bits {
        &self.taken
    }

    /// What the seat is.
    #[must_use]
    pub fn status(&self, index: u32) -> SeatStatus {
        if self.sold.has(index) {
            SeatStatus::Sold
        } else if self.taken.has(index) {
            SeatStatus::Held
        } else {
            SeatStatus::Available
        }
    }

    /// The public form.
    #[must_use]
    pub fn view(&self, performance: PerformanceId) -> BoardView {
        use base64::Engine as _;
        BoardView {
            performance_id: performance,
            version: self.version,
            as_of: self.as_of,
            total: self.total,
            available: self.available(),
            by_grade: self.by_grade.clone(),
            taken: base64::engine::general_purpose::STANDARD.encode(self.taken.bytes()),
        }
    }
}

/// Which seats are taken.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct BoardView {
    /// The performance.
    pub performance_id: PerformanceId,
    /// Rises whenever the picture changes; never goes back on one instance.
    pub version: u64,
    /// When it was first seen with this version.
    pub as_of: Timestamp,
    /// Seats in the map.
    pub total: u32,
    /// Seats neither sold nor held.
    pub available: u32,
    /// Per grade.
    pub by_grade: Vec<GradeLeft>,
    /// Base64 of a bitmap: bit i (least significant first) is the seat with index i.
    pub taken: String,
}
