//! The seat map of a performance: every seat with its label, index, grade, price and place. Pure, and immutable
//! once built.
//!
//! Seats are in the order of the layout: by section, by row, by number; `index` counts them from 0. A label is
//! `section-row-number`; entries of a standing area are numbered with at least four digits (`F-S-0001`).
//!
//! Coordinates are whole units, ten from one seat to the next, and (0, 0) is the front left. Sections stand
//! side by side in the order of the layout, twenty units apart, in lines no wider than [`LINE_WIDTH`]; a section
//! that does not fit any more begins a new line behind the deepest section of the line before. Lines are
//! centred on the widest. Within a section rows go back from the stage, each centred on the section. A standing area
//! is a block about as wide as deep, filled from the front left.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::domain::Grade;
use super::layout::Section;
use crate::platform::error::Problem;
use crate::platform::money::Money;

/// Units from one seat to the next, and from one row to the next.
const PITCH: u32 = 10;
/// Units between sections.
const GAP: u32 = 20;
/// Widest line of sections, in units, unless a single section is wider.
pub const LINE_WIDTH: u32 = 1_600;
/// Fewest digits of a standing entry's number.
const STANDING_DIGITS: usize = 4;

/// One seat, or one entry of a standing area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its public id, such as `101-A-12`.
    pub label: String,
    /// Its place in the map, from 0.
    pub index: u32,
    /// Its section's code.
    pub section: Arc<str>,
    /// Its row's name.
    pub row: Arc<str>,
    /// Its number in the row, from 1.
    pub number: u32,
    /// Its grade's code.
    pub grade: Arc<str>,
    /// Its grade's price.
    pub price: Money,
    /// Units from the left.
    pub x: u32,
    /// Units from the front.
    pub y: u32,
}

/// A row of the map.
#[derive(Clone, Debug)]
pub struct MapRow {
    /// Its name.
    pub name: Arc<str>,
    /// The indices of its seats.
    pub seats: Range<u32>,
}

/// A section of the map.
#[derive(Clone, Debug)]
pub struct MapSection {
    /// Its code.
    pub code: Arc<str>,
    /// What buyers read.
    pub name: String,
    /// The code of its grade.
    pub grade: Arc<str>,
    /// Its rows, from the stage backwards.
    pub rows: Vec<MapRow>,
}

/// Every seat of a performance.
#[derive(Clone, Debug)]
pub struct SeatMap {
    seats: Vec<Seat>,
    sections: Vec<MapSection>,
    by_code: HashMap<Arc<str>, usize>,
}

impl SeatMap {
    /// The map of a checked layout, priced by `grades`.
    ///
    /// # Errors
    /// 422 `invalid_body` where a section belongs to no grade or to several, or a grade names a section that is not
    /// there.
    pub fn build(layout: &[Section], grades: &[Grade]) -> Result<Self, Problem> {
        let assigned = assign(layout, grades)?;
        let mut map = Self { seats: Vec::new(), sections: Vec::new(), by_code: HashMap::new() };
        for ((section, grade), block) in layout.iter().zip(assigned).zip(place(layout)) {
            map.by_code.insert(section.code.as_str().into(), map.sections.len());
            map.add(section, grade, &block);
        }
        Ok(map)
    }

    fn add(&mut self, section: &Section, grade: &Grade, block: &Block) {
        let (code, grade_code): (Arc<str>, Arc<str>) = (section.code.as_str().into(), grade.code.as_str().into());
        let mut rows = Vec::new();
        for (depth, sold) in (0_u32..).zip(section.sold_rows()) {
            let name: Arc<str> = sold.name.into();
            let first = self.next_index();
            let digits = sold.seats.to_string().len().max(STANDING_DIGITS);
            for position in 0..sold.seats {
                let number = position + 1;
                let (label, (x, y)) = if section.is_standing() {
                    (format!("{code}-{name}-{number:0digits$}"), block.entry(position))
                } else {
                    (format!("{code}-{name}-{number}"), block.seat(depth, position, sold.seats))
                };
                let (section, row, grade_code) = (code.clone(), name.clone(), grade_code.clone());
                let index = first + position;
                self.seats.push(Seat {
                    label,
                    index,
                    section,
                    row,
                    number,
                    grade: grade_code,
                    price: grade.price,
                    x,
                    y,
                });
            }
            rows.push(MapRow { name, seats: first..self.next_index() });
        }
        self.sections.push(MapSection { code, name: section.name.clone(), grade: grade_code, rows });
    }

    /// How many seats there are: layouts are bounded far below `u32`.
    fn next_index(&self) -> u32 {
        u32::try_from(self.seats.len()).unwrap_or(u32::MAX)
    }

    /// Every seat, by its index.
    #[must_use]
    pub fn seats(&self) -> &[Seat] {
        &self.seats
    }

    /// How many seats there are.
    #[must_use]
    pub fn seats_total(&self) -> u32 {
        self.next_index()
    }

    /// The seat at `index`.
    #[must_use]
    pub fn seat(&self, index: u32) -> Option<&Seat> {
        self.seats.get(usize::try_from(index).ok()?)
    }

    /// Every section, in the layout's order.
    #[must_use]
    pub fn sections(&self) -> &[MapSection] {
        &self.sections
    }

    /// The seats of one row.
    #[must_use]
    pub fn row_seats(&self, row: &MapRow) -> &[Seat] {
        self.seats.get(row.seats.start as usize..row.seats.end as usize).unwrap_or_default()
    }

    /// The index of the seat with exactly this label.
    #[must_use]
    pub fn index_of(&self, label: &str) -> Option<u32> {
        let mut parts = label.splitn(3, '-');
        let section = self.sections.get(*self.by_code.get(parts.next()?)?)?;
        let name = parts.next()?;
        let row = section.rows.iter().find(|row| row.name.as_ref() == name)?;
        let number: u32 = parts.next()?.parse().ok()?;
        let index = row.seats.start.checked_add(number.checked_sub(1)?)?;
        // The comparison refuses other spellings of the number, such as `012` or `+12`.
        self.seat(index).filter(|seat| seat.label == label).map(|seat| seat.index)
    }
}

/// The grade of each section, in the layout's order.
fn assign<'g>(layout: &[Section], grades: &'g [Grade]) -> Result<Vec<&'g Grade>, Problem> {
    let position: HashMap<&str, usize> =
        layout.iter().enumerate().map(|(index, section)| (section.code.as_str(), index)).collect();
    let mut assigned: Vec<Option<&Grade>> = vec![None; layout.len()];
    for (g, grade) in grades.iter().enumerate() {
        for (s, code) in grade.sections.iter().enumerate() {
            let refuse = |message| Problem::invalid_body(&format!("grades[{g}].sections[{s}]"), message);
            let place = position.get(code.as_str()).and_then(|index| assigned.get_mut(*index));
            let place = place.ok_or_else(|| refuse("the venue has no such section"))?;
            if place.replace(grade).is_some() {
                return Err(refuse("this section has a grade already"));
            }
        }
    }
    let pairs = layout.iter().zip(assigned);
    let complete = pairs.map(|(section, grade)| {
        grade.ok_or_else(|| Problem::invalid_body("grades", format!("section {} belongs to no grade", section.code)))
    });
    complete.collect()
}

/// Where a section stands. Width and depth are in seats, the corner is in units.
struct Block {
    width: u32,
    depth: u32,
    left: u32,
    front: u32,
}

impl Block {
    fn of(section: &Section) -> Self {
        let rows = section.sold_rows();
        let (width, depth) = if let Some(capacity) = section.capacity {
            let width = capacity.isqrt() + u32::from(capacity.isqrt().pow(2) < capacity);
            (width, capacity.div_ceil(width.max(1)))
        } else {
            (rows.iter().map(|row| row.seats).max().unwrap_or(0), u32::try_from(rows.len()).unwrap_or(u32::MAX))
        };
        Self { width, depth, left: 0, front: 0 }
    }

    fn seat(&self, row: u32, position: u32, row_seats: u32) -> (u32, u32) {
        (self.left + (self.width - row_seats) * PITCH / 2 + position * PITCH, self.front + row * PITCH)
    }

    fn entry(&self, position: u32) -> (u32, u32) {
        let width = self.width.max(1);
        (self.left + position % width * PITCH, self.front + position / width * PITCH)
    }
}

/// Puts the sections side by side, line behind line.
fn place(layout: &[Section]) -> Vec<Block> {
    let mut blocks: Vec<Block> = layout.iter().map(Block::of).collect();
    let (mut right, mut front, mut deepest, mut line) = (0, 0, 0, 0);
    let mut lines = Vec::new();
    for block in &mut blocks {
        let width = block.width * PITCH;
        if right > 0 && right + GAP + width > LINE_WIDTH {
            front += deepest * PITCH + GAP;
            (right, deepest, line) = (0, 0, line + 1);
        }
        block.left = if right == 0 { 0 } else { right + GAP };
        block.front = front;
        right = block.left + width;
        deepest = deepest.max(block.depth);
        lines.push((line, right));
    }
    let mut widths: HashMap<u32, u32> = HashMap::new();
    for (line, right) in &lines {
        widths.entry(*line).and_modify(|width| *width = (*width).max(*right)).or_insert(*right);
    }
    let widest = widths.values().copied().max().unwrap_or(0);
    for (block, (line, _)) in blocks.iter_mut().zip(&lines) {
        block.left += (widest - widths.get(line).copied().unwrap_or(widest)) / 2;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::super::layout::Row;
    use super::*;

    fn seated(code: &str, rows: &[(&str, u32)]) -> Section {
        let rows = rows.iter().map(|(name, seats)| Row { name: (*name).into(), seats: *seats }).collect();
        Section { code: code.into(), name: format!("Block {code}"), rows: Some(rows), capacity: None }
    }

    fn standing(code: &str, capacity: u32) -> Section {
        Section { code: code.into(), name: "Floor".into(), rows: None, capacity: Some(capacity) }
    }

    fn grade(code: &str, price: i64, sections: &[&str]) -> Grade {
        let sections = sections.iter().map(|code| (*code).into()).collect();
        Grade { code: code.into(), name: code.into(), price: Money(price), sections }
    }

    fn small() -> SeatMap {
        let layout = [standing("F", 5), seated("101", &[("A", 2), ("B", 4)])];
        SeatMap::build(&layout, &[grade("R", 100, &["101"]), grade("VIP", 200, &["F"])]).unwrap()
    }

    #[test]
    fn seats_are_in_the_order_of_the_layout() {
        let map = small();
        let labels: Vec<&str> = map.seats().iter().map(|seat| seat.label.as_str()).collect();
        let (floor, rows) = labels.split_at(5);
        assert_eq!(floor, ["F-S-0001", "F-S-0002", "F-S-0003", "F-S-0004", "F-S-0005"]);
        assert_eq!(rows, ["101-A-1", "101-A-2", "101-B-1", "101-B-2", "101-B-3", "101-B-4"]);
        assert_eq!(map.seats_total(), 11);
        for (index, seat) in (0..).zip(map.seats()) {
            assert_eq!(seat.index, index);
            assert_eq!(map.index_of(&seat.label), Some(index));
        }
    }

    #[test]
    fn only_exact_labels_are_found() {
        let map = small();
        for label in
            ["", "F", "F-S", "F-S-1", "F-S-0006", "F-S-0000", "101-A-01", "101-A-+1", "101-A-3", "101-C-1", "1-A-1"]
        {
            assert_eq!(map.index_of(label), None, "{label}");
        }
    }

    #[test]
    fn prices_come_from_the_sections_grade() {
        let map = small();
        assert_eq!((map.seats()[0].grade.as_ref(), map.seats()[0].price), ("VIP", Money(200)));
        assert_eq!((map.seats()[5].grade.as_ref(), map.seats()[5].price), ("R", Money(100)));
    }

    #[test]
    fn rows_are_centred_and_sections_stand_side_by_side() {
        let map = small();
        let at = |label| map.seat(map.index_of(label).unwrap()).map(|seat| (seat.x, seat.y)).unwrap();
        // Three wide, filled from the front left.
        assert_eq!((at("F-S-0001"), at("F-S-0003"), at("F-S-0004")), ((0, 0), (20, 0), (0, 10)));
        // Right of it, two seats centred before four.
        assert_eq!((at("101-A-1"), at("101-B-1"), at("101-B-4")), ((60, 0), (50, 10), (80, 10)));
    }

    #[test]
    fn a_full_line_of_sections_is_followed_by_one_behind_it() {
        let layout = [seated("1", &[("A", 100), ("B", 100)]), seated("2", &[("A", 90)]), seated("3", &[("A", 60)])];
        let map = SeatMap::build(&layout, &[grade("R", 1, &["1", "2", "3"])]).unwrap();
        let at = |label| map.seat(map.index_of(label).unwrap()).map(|seat| (seat.x, seat.y)).unwrap();
        // The second line is 1,520 units wide; the first has 1,000 and is centred on it.
        assert_eq!(at("1-A-1"), (260, 0));
        assert_eq!(at("2-A-1"), (0, 40));
        assert_eq!(at("3-A-1"), (920, 40));
    }

    #[test]
    fn no_two_seats_share_a_place() {
        let layout = super::super::demo::arena_layout();
        let map = SeatMap::build(&layout, &super::super::demo::arena_grades()).unwrap();
        let places: std::collections::HashSet<(u32, u32)> = map.seats().iter().map(|seat| (seat.x, seat.y)).collect();
        assert_eq!(places.len(), map.seats().len());
        let labels: std::collections::HashSet<&str> = map.seats().iter().map(|seat| seat.label.as_str()).collect();
        assert_eq!(labels.len(), map.seats().len());
    }

    #[test]
    fn every_section_has_exactly_one_grade() {
        let layout = [standing("F", 5), standing("G", 5)];
        let refused = |grades: &[Grade]| {
            let body = SeatMap::build(&layout, grades).unwrap_err().body("r");
            body["errors"][0]["field"].as_str().unwrap().to_owned()
        };
        assert_eq!(refused(&[grade("R", 1, &["F"])]), "grades");
        assert_eq!(refused(&[grade("R", 1, &["F", "G"]), grade("S", 1, &["F"])]), "grades[1].sections[0]");
        assert_eq!(refused(&[grade("R", 1, &["F", "H"])]), "grades[0].sections[1]");
    }
}
