//! What choosing needs of a seat map, computed once.

use std::ops::Range;
use std::sync::Arc;

use crate::booking::seats::bits::Bits;
use crate::catalog::seat_map::{MapRow, SeatMap};

/// A row of seats, or a standing area. Distances are in half units, so that the middle between two seats is a whole
/// number.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// The index of its first seat.
    pub(super) first: u32,
    /// How many seats.
    pub(super) len: u32,
    /// Whether people stand here: entries are not beside each other.
    pub(super) is_standing: bool,
    /// From the hall's centre line to the first seat, negative to the left. Of a standing area: to its middle.
    left: i64,
    /// From the front. Of a standing area: to its middle.
    depth: i64,
    /// From a seat's middle to its edge: the seats of a row are evenly apart.
    half: i64,
    /// No block of this row has a better score.
    pub(super) bound: u64,
}

impl Row {
    fn new(map: &SeatMap, row: &MapRow, centre: i64) -> Option<Self> {
        let seats = map.row_seats(row);
        let (first, last) = (seats.first()?, seats.last()?);
        let len = row.seats.end - row.seats.start;
        // An entry's number has leading zeros, a seat's never: see the seat map.
        let is_standing = !first.label.ends_with("-1");
        let (left, right, back) = if is_standing {
            let right = seats.iter().map(|seat| seat.x).max()?;
            (i64::from(first.x + right) - centre, i64::from(first.x + right) - centre, last.y)
        } else {
            (2 * i64::from(first.x) - centre, 2 * i64::from(last.x) - centre, first.y)
        };
        let depth = i64::from(first.y + back);
        let half = if is_standing { 0 } else { (right - left) / (2 * i64::from(len - 1).max(1)) };
        // Zero where the row crosses the centre line.
        let aside = left.max(-right).max(0);
        let bound = square(aside) + square(depth);
        Some(Self { first: first.index, len, is_standing, left, depth, half, bound })
    }

    /// The indices of its seats.
    pub(super) const fn seats(&self) -> Range<u32> {
        self.first..self.first + self.len
    }

    /// Where the middle of a block is: from the centre line, and from the front.
    pub(super) fn middle(&self, block: &Range<u32>) -> (i64, i64) {
        (self.left + self.half * i64::from(2 * (block.start - self.first) + (block.end - block.start) - 1), self.depth)
    }

    /// The score of a block, the smaller the better.
    pub(super) fn score(&self, block: &Range<u32>) -> u64 {
        let (aside, depth) = self.middle(block);
        square(aside) + square(depth)
    }

    /// The block of `len` seats with the best score that begins at one of `starts`, the leftmost of equals.
    fn nearest(&self, starts: Range<u32>, len: u32) -> Option<Range<u32>> {
        let last = starts.end.checked_sub(1).filter(|last| *last >= starts.start)?;
        // Blocks come nearer to the centre line up to here, or to the next start.
        let crossing = (-self.left - self.half * (i64::from(len) - 1)).div_euclid((2 * self.half).max(1));
        let crossing = u32::try_from(crossing.max(0)).unwrap_or(u32::MAX).saturating_add(self.first);
        let (before, after) =
            (crossing.clamp(starts.start, last), crossing.saturating_add(1).clamp(starts.start, last));
        let (before, after) = (before..before + len, after..after + len);
        Some(if self.score(&after) < self.score(&before) { after } else { before })
    }

    /// The best place for `len` seats inside a run of free ones, which has as many at least. It leaves no single seat
    /// where that can be avoided: where the run does not have exactly one seat more.
    pub(super) fn place(&self, run: &Range<u32>, len: u32) -> Range<u32> {
        let last = run.end - len;
        let (leftmost, rightmost) = (run.start..run.start + len, last..run.end);
        let inside = self.nearest(run.start + 2..last.saturating_sub(1), len);
        let places = [Some(leftmost.clone()), inside, Some(rightmost)];
        // The first of equals, which is the leftmost.
        places.into_iter().flatten().min_by_key(|block| self.score(block)).unwrap_or(leftmost)
    }

    /// The runs of free seats, from the left.
    pub(super) fn runs(&self, taken: &Bits) -> impl Iterator<Item = Range<u32>> {
        let (mut at, end) = (self.first, self.first + self.len);
        std::iter::from_fn(move || {
            let start = taken.next_clear(at, end);
            at = taken.next_set(start, end);
            (start < end).then_some(start..at)
        })
    }
}

pub(super) fn square(distance: i64) -> u64 {
    let distance = distance.unsigned_abs();
    distance.saturating_mul(distance)
}

/// A section with rows.
#[derive(Clone, Debug)]
pub(super) struct Section {
    /// Its grade, a place in the plan's list.
    pub(super) grade: usize,
    /// Its rows, from the stage backwards.
    pub(super) rows: Range<usize>,
    /// The best bound of its rows.
    bound: u64,
}

/// The rows of a grade.
#[derive(Clone, Debug)]
struct GradeRows {
    code: Arc<str>,
    rows: Vec<u32>,
}

/// What choosing needs of a seat map.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In the order of the map.
    rows: Vec<Row>,
    /// All rows by their bounds.
    ranked: Vec<u32>,
    /// Rows of each grade by their bounds.
    grades: Vec<GradeRows>,
    /// Sections with rows by their bounds.
    sections: Vec<Section>,
    seats_total: u32,
}

impl Plan {
    /// The plan of a map.
    #[must_use]
    pub fn new(map: &SeatMap) -> Self {
        let of_all = |pick: fn(u32, u32) -> u32, from| map.seats().iter().map(|seat| seat.x).fold(from, pick);
        let centre = i64::from(of_all(u32::min, u32::MAX)) + i64::from(of_all(u32::max, 0));
        let mut plan = Self {
            rows: Vec::new(),
            ranked: Vec::new(),
            grades: Vec::new(),
            sections: Vec::new(),
            seats_total: map.seats_total(),
        };
        for section in map.sections() {
            let grade = plan.grade_or_new(&section.grade);
            let begin = plan.rows.len();
            plan.rows.extend(section.rows.iter().filter_map(|row| Row::new(map, row, centre)));
            let rows = begin..plan.rows.len();
            let added = plan.rows.get(rows.clone()).unwrap_or_default();
            let bound = added.iter().map(|row| row.bound).min();
            if let Some(bound) = bound.filter(|_| added.iter().all(|row| !row.is_standing)) {
                plan.sections.push(Section { grade, rows: rows.clone(), bound });
            }
            let numbers = rows.filter_map(|row| u32::try_from(row).ok());
            plan.ranked.extend(numbers.clone());
            if let Some(grade) = plan.grades.get_mut(grade) {
                grade.rows.extend(numbers);
            }
        }
        let Self { rows, ranked, grades, sections, .. } = &mut plan;
        // Stable sorts: equals stay in the order of the map.
        let bound = |row: &u32| rows.get(*row as usize).map(|row| row.bound);
        ranked.sort_by_key(bound);
        for grade in grades {
            grade.rows.sort_by_key(bound);
        }
        sections.sort_by_key(|section| section.bound);
        plan
    }

    fn grade_or_new(&mut self, code: &Arc<str>) -> usize {
        self.grade(code).unwrap_or_else(|| {
            self.grades.push(GradeRows { code: code.clone(), rows: Vec::new() });
            self.grades.len() - 1
        })
    }

    /// Whether any seat has this grade.
    #[must_use]
    pub fn has_grade(&self, code: &str) -> bool {
        self.grade(code).is_some()
    }

    /// How many seats there are, standing entries included.
    #[must_use]
    pub const fn seats_total(&self) -> u32 {
        self.seats_total
    }

    /// The grade's place in the list.
    pub(super) fn grade(&self, code: &str) -> Option<usize> {
        self.grades.iter().position(|grade| *grade.code == *code)
    }

    /// The rows of a grade, or all, by their bounds.
    pub(super) fn ranked(&self, grade: Option<usize>) -> impl Iterator<Item = &Row> {
        let ranked = match grade {
            Some(grade) => self.grades.get(grade).map(|grade| &*grade.rows).unwrap_or_default(),
            None => &*self.ranked,
        };
        ranked.iter().filter_map(|row| self.rows.get(*row as usize))
    }

    /// The sections with rows of a grade, or all, by their bounds.
    pub(super) fn sections(&self, grade: Option<usize>) -> impl Iterator<Item = &Section> {
        self.sections.iter().filter(move |section| grade.is_none_or(|grade| section.grade == grade))
    }

    /// The rows of a section, from the stage backwards.
    pub(super) fn rows_of(&self, section: &Section) -> &[Row] {
        self.rows.get(section.rows.clone()).unwrap_or_default()
    }

    /// The row that a seat belongs to.
    pub(super) fn row_of(&self, seat: u32) -> Option<&Row> {
        let after = self.rows.partition_point(|row| row.first <= seat);
        self.rows.get(after.checked_sub(1)?).filter(|row| row.seats().contains(&seat))
    }
}
