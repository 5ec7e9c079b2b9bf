//! Which seats of a performance are taken, as one picture.

use serde::Serialize;

use super::bits::Bits;
use super::store::TakenSeat;
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

/// The seats that cannot be held, and those of them that are sold or out of sale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Sold or held.
    pub taken: Bits,
    /// Sold or out of sale.
    pub sold: Bits,
}

impl Picture {
    /// What MySQL says of a performance of so many seats.
    #[must_use]
    pub fn of(rows: &[TakenSeat], seats_total: u32) -> Self {
        let (mut taken, mut sold) = (Bits::new(seats_total as usize), Bits::new(seats_total as usize));
        for row in rows {
            taken.set(row.seat_no);
            if row.is_sold {
                sold.set(row.seat_no);
            }
        }
        Self { taken, sold }
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
    picture: Picture,
}

impl Board {
    /// This picture as of that moment, following `before`.
    #[must_use]
    pub fn new(map: &SeatMap, picture: Picture, as_of: Timestamp, before: Option<&Self>) -> Self {
        let mut by_grade: Vec<GradeLeft> = Vec::new();
        // The seats of a section lie together and have one grade, so seats are counted by ranges.
        for section in map.sections() {
            let Some((first, last)) = section.rows.first().zip(section.rows.last()) else { continue };
            let seats = first.seats.start..last.seats.end;
            let free = seats.end - seats.start - picture.taken.count_in(seats);
            match by_grade.iter_mut().find(|grade| grade.code == *section.grade) {
                Some(grade) => grade.available += free,
                None => by_grade.push(GradeLeft { code: section.grade.to_string(), available: free }),
            }
        }
        let version = match before {
            Some(before) if before.picture == picture => before.version,
            // Starting from the time, a restarted instance goes on above what it said before.
            before => u64::try_from(as_of.millis()).unwrap_or(0).max(before.map_or(0, |before| before.version) + 1),
        };
        Self { version, as_of, total: map.seats_total(), by_grade, picture }
    }

    /// Seats neither sold nor held.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.total.saturating_sub(self.picture.taken.count())
    }

    /// Seats not sold.
    #[must_use]
    pub fn unsold(&self) -> u32 {
        self.total.saturating_sub(self.picture.sold.count())
    }

    /// The seats that cannot be held, sold ones included.
    #[must_use]
    pub const fn taken(&self) -> &Bits {
        &self.picture.taken
    }

    /// The bits of [`Self::taken`], and of the seats that are sold or out of sale.
    #[must_use]
    pub fn bitmaps(&self) -> [&[u8]; 2] {
        [self.picture.taken.bytes(), self.picture.sold.bytes()]
    }

    /// What the seat is.
    #[must_use]
    pub fn status(&self, index: u32) -> SeatStatus {
        self.picture.status(index)
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
            taken: base64::engine::general_purpose::STANDARD.encode(self.picture.taken.bytes()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::demo;

    #[test]
    fn a_board_counts_by_grade_what_is_free() {
        let map = SeatMap::build(&demo::arena_layout(), &demo::arena_grades()).unwrap();
        let mut picture = Picture::of(&[], map.seats_total());
        for seat in map.seats().iter().filter(|seat| seat.index % 7 == 0 || seat.index % 1000 < 300) {
            picture.taken.set(seat.index);
        }
        let now = Timestamp::from_millis(1_000).unwrap();
        let board = Board::new(&map, picture.clone(), now, None);
        for grade in &board.by_grade {
            let seats = map.seats().iter().filter(|seat| *seat.grade == *grade.code);
            assert_eq!(grade.available as usize, seats.filter(|seat| !picture.taken.has(seat.index)).count());
        }
        assert_eq!(board.by_grade.iter().map(|grade| grade.available).sum::<u32>(), board.available());
        let mut codes: Vec<&str> = map.seats().iter().map(|seat| &*seat.grade).collect();
        codes.dedup();
        assert_eq!(board.by_grade[0].code, codes[0]);
    }

    #[test]
    fn a_version_never_goes_back() {
        let map = SeatMap::build(&demo::arena_layout(), &demo::arena_grades()).unwrap();
        let at = |millis| Timestamp::from_millis(millis).unwrap();
        let row = |seat_no, is_sold| TakenSeat { seat_no, is_sold, held_until: None };
        let picture = |rows: &[TakenSeat]| Picture::of(rows, map.seats_total());
        let first = Board::new(&map, picture(&[row(1, false)]), at(1_000), None);
        let same = Board::new(&map, picture(&[row(1, false)]), at(2_000), Some(&first));
        assert_eq!((first.version, same.version), (1_000, 1_000));
        // Sold is news, though nothing else can be held; so is what was before, even where the clock goes back.
        let sold = Board::new(&map, picture(&[row(1, true)]), at(900), Some(&same));
        let freed = Board::new(&map, picture(&[]), at(800), Some(&sold));
        assert_eq!((sold.version, freed.version), (1_001, 1_002));
        assert_eq!((sold.status(1), freed.status(1)), (SeatStatus::Sold, SeatStatus::Available));
        assert_eq!((sold.available() + 1, sold.unsold() + 1), (sold.total, sold.total));
    }
}
