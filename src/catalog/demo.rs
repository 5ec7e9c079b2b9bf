//! Layouts for the demonstration and for tests: an arena and a club.

use super::domain::Grade;
use super::layout::{Row, Section};
use crate::platform::money::Money;

/// Seats of [`arena_layout`].
pub const ARENA_SEATS: u32 = 14_594;
/// Seats of [`club_layout`].
pub const CLUB_SEATS: u32 = 50;

const FLOOR_BLOCKS: [&str; 6] = ["F1", "F2", "F3", "F4", "F5", "F6"];

/// Rows A, B, C... that widen by one seat each, as stands around a stage do.
fn fan(code: String, name: String, rows: u8, front_seats: u32) -> Section {
    let rows = (b'A'..b'A' + rows).zip(front_seats..);
    let rows = rows.map(|(letter, seats)| Row { name: char::from(letter).to_string(), seats }).collect();
    Section { code, name, rows: Some(rows), capacity: None }
}

fn straight(code: &str, name: String, rows: u8, seats: u32) -> Section {
    let rows = (b'A'..b'A' + rows).map(|letter| Row { name: char::from(letter).to_string(), seats }).collect();
    Section { code: code.into(), name, rows: Some(rows), capacity: None }
}

fn lower() -> impl Iterator<Item = u32> {
    101..=124
}

fn upper() -> impl Iterator<Item = u32> {
    201..=228
}

/// An arena of [`ARENA_SEATS`] seats: six floor blocks, wheelchair places, a lower and an upper tier.
#[must_use]
pub fn arena_layout() -> Vec<Section> {
    let mut sections: Vec<Section> =
        FLOOR_BLOCKS.iter().map(|code| straight(code, format!("Floor {}", &code[1..]), 15, 20)).collect();
    sections.push(straight("ACC", "Wheelchair places".into(), 1, 26));
    sections.extend(lower().map(|number| fan(number.to_string(), format!("Lower {number}"), 14, 12)));
    sections.extend(upper().map(|number| fan(number.to_string(), format!("Upper {number}"), 12, 14)));
    sections
}

/// Four grades that cover the arena.
#[must_use]
pub fn arena_grades() -> Vec<Grade> {
    let grade = |code: &str, name: &str, price, sections| Grade {
        code: code.into(),
        name: name.into(),
        price: Money(price),
        sections,
    };
    let floor = |blocks: &[&str]| blocks.iter().map(|code| (*code).to_owned()).collect::<Vec<_>>();
    let mut stands = vec!["ACC".to_owned()];
    stands.extend(lower().map(|number| number.to_string()));
    vec![
        grade("VIP", "VIP floor", 198_000, floor(&FLOOR_BLOCKS[..3])),
        grade("R", "Floor", 165_000, floor(&FLOOR_BLOCKS[3..])),
        grade("S", "Lower tier", 132_000, stands),
        grade("A", "Upper tier", 99_000, upper().map(|number| number.to_string()).collect()),
    ]
}

/// A club of [`CLUB_SEATS`] seats: few enough to see a sale end.
#[must_use]
pub fn club_layout() -> Vec<Section> {
    vec![straight("C", "Club".into(), 5, 10)]
}

/// The club's one grade.
#[must_use]
pub fn club_grades() -> Vec<Grade> {
    vec![Grade { code: "R".into(), name: "Seat".into(), price: Money(44_000), sections: vec!["C".into()] }]
}

#[cfg(test)]
mod tests {
    use super::super::layout::check;
    use super::super::seat_map::SeatMap;
    use super::*;

    #[test]
    fn the_layouts_have_the_seats_they_promise() {
        for (layout, grades, seats) in
            [(arena_layout(), arena_grades(), ARENA_SEATS), (club_layout(), club_grades(), CLUB_SEATS)]
        {
            assert_eq!(check(&layout, seats).unwrap(), seats);
            assert_eq!(SeatMap::build(&layout, &grades).unwrap().seats_total(), seats);
        }
    }
}
