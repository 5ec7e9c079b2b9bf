//! Choosing, held against a reference that tries everything, and whole halls sold to the last seat.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::Index;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::catalog::demo::{arena_grades, arena_layout};
use crate::catalog::domain::Grade;
use crate::catalog::layout::{Row as LayoutRow, Section as LayoutSection};
use crate::catalog::seat_map::{Seat, SeatMap};
use crate::platform::money::Money;

fn seated(code: &str, rows: &[u32]) -> LayoutSection {
    let rows =
        (1..).zip(rows).map(|(name, seats): (u32, _)| LayoutRow { name: name.to_string(), seats: *seats }).collect();
    LayoutSection { code: code.into(), name: code.into(), rows: Some(rows), capacity: None }
}

fn standing(code: &str, capacity: u32) -> LayoutSection {
    LayoutSection { code: code.into(), name: code.into(), rows: None, capacity: Some(capacity) }
}

/// Grade `g` of `grades` has the sections whose place, divided by `grades`, leaves `g`.
fn map_of(layout: &[LayoutSection], grades: usize) -> SeatMap {
    let names = ["R", "S"].into_iter().enumerate().take(grades.min(layout.len()));
    let grades = names.map(|(place, code)| Grade {
        code: code.into(),
        name: code.into(),
        price: Money(1),
        sections: layout.iter().skip(place).step_by(grades).map(|section| section.code.clone()).collect(),
    });
    SeatMap::build(layout, &grades.collect::<Vec<_>>()).unwrap()
}

fn taken_of(map: &SeatMap, seats: impl IntoIterator<Item = u32>) -> Bits {
    let mut taken = Bits::new(map.seats().len());
    for seat in seats {
        taken.set(seat);
    }
    taken
}

/// What is said in the header of `best.rs`, word by word and without haste.
struct Reference<'a> {
    map: &'a SeatMap,
    taken: &'a Bits,
    quantity: usize,
    grade: Option<&'a str>,
}

impl<'a> Reference<'a> {
    /// Section, whether people stand, seats: of each row of the grade.
    fn rows(&self) -> Vec<(usize, bool, &'a [Seat])> {
        let sections = self.map.sections().iter().enumerate();
        let wanted = sections.filter(|(_, section)| self.grade.is_none_or(|grade| *section.grade == *grade));
        let rows = wanted.flat_map(|(place, section)| section.rows.iter().map(move |row| (place, row)));
        rows.map(|(place, row)| (place, row.name.as_ref() == "S", self.map.row_seats(row))).collect()
    }

    fn free(&self, seats: &[Seat]) -> Vec<u32> {
        seats.iter().map(|seat| seat.index).filter(|seat| !self.taken.has(*seat)).collect()
    }

    fn score<'s>(&self, seats: impl Iterator<Item = &'s Seat> + Clone) -> i64 {
        let xs = seats.clone().map(|seat| i64::from(seat.x));
        let ys = seats.map(|seat| i64::from(seat.y));
        let hall = self.map.seats().iter().map(|seat| i64::from(seat.x));
        let centre = hall.clone().min().unwrap() + hall.max().unwrap();
        let aside = xs.clone().min().unwrap() + xs.max().unwrap() - centre;
        let depth = ys.clone().min().unwrap() + ys.max().unwrap();
        aside * aside + depth * depth
    }

    /// Whether a seat of a row has a free neighbour, `chosen` being taken.
    fn has_company(&self, row: &[Seat], place: usize, chosen: &BTreeSet<u32>) -> bool {
        let neighbours =
            [place.checked_sub(1), Some(place + 1)].into_iter().flatten().filter_map(|place| row.get(place));
        neighbours.map(|seat| seat.index).any(|seat| !self.taken.has(seat) && !chosen.contains(&seat))
    }

    fn leaves_orphan(&self, chosen: &BTreeSet<u32>) -> bool {
        let everything = Reference { grade: None, ..*self };
        everything.rows().iter().filter(|(_, is_standing, _)| !is_standing).any(|(.., row)| {
            let free = row.iter().enumerate().filter(|(_, seat)| !self.taken.has(seat.index));
            let mut left = free.filter(|(_, seat)| !chosen.contains(&seat.index));
            left.any(|(place, _)| {
                self.has_company(row, place, &BTreeSet::new()) && !self.has_company(row, place, chosen)
            })
        })
    }

    /// Score, seats, whether an orphan is left: of each block.
    fn blocks(&self) -> Vec<(i64, Vec<u32>, bool)> {
        let mut blocks = Vec::new();
        for (_, is_standing, row) in self.rows() {
            if is_standing {
                let free = self.free(row);
                if free.len() >= self.quantity {
                    blocks.push((self.score(row.iter()), free[..self.quantity].to_vec(), false));
                }
                continue;
            }
            for block in row.windows(self.quantity) {
                let seats = self.free(block);
                if seats.len() == self.quantity {
                    let leaves_orphan = self.leaves_orphan(&seats.iter().copied().collect());
                    blocks.push((self.score(block.iter()), seats, leaves_orphan));
                }
            }
        }
        blocks.sort();
        blocks
    }

    /// Runs of `seats` that belong to one row, as sections, rows and lengths.
    fn runs(&self, is_member: impl Fn(u32) -> bool) -> Vec<(usize, u32, usize)> {
        let mut runs = Vec::new();
        for (section, is_standing, row) in self.rows() {
            let members = row.chunk_by(|one, other| is_member(one.index) == is_member(other.index));
            let found = members.filter(|run| !is_standing && is_member(run[0].index));
            runs.extend(found.map(|run| (section, run[0].y, run.len())));
        }
        runs
    }

    /// The fewest groups of one section that are enough, and the fewest rows behind each other that hold them.
    fn fewest_groups(&self, runs: &[(usize, u32, usize)]) -> Option<usize> {
        let fewest = |section: usize| {
            let mut lens: Vec<usize> = runs.iter().filter(|run| run.0 == section).map(|run| run.2).collect();
            lens.sort_unstable_by_key(|len| std::cmp::Reverse(*len));
            (1..=lens.len()).find(|groups| lens[..*groups].iter().sum::<usize>() >= self.quantity)
        };
        runs.iter().filter_map(|run| fewest(run.0)).min()
    }

    fn depth_needed(&self, runs: &[(usize, u32, usize)], groups: usize) -> Option<u32> {
        let mut depths = Vec::new();
        for first in runs {
            for last in runs.iter().filter(|last| last.0 == first.0 && last.1 >= first.1) {
                let window = runs.iter().filter(|run| run.0 == first.0 && (first.1..=last.1).contains(&run.1));
                let window: Vec<_> = window.copied().collect();
                if self.fewest_groups(&window).is_some_and(|fewest| fewest <= groups) {
                    depths.push(last.1 - first.1);
                }
            }
        }
        depths.into_iter().min()
    }

    /// Free seats, the nearest to the centre of the front first.
    fn nearest(&self) -> Vec<u32> {
        let mut free: Vec<(i64, u32)> = Vec::new();
        for (_, is_standing, row) in self.rows() {
            for seat in self.free(row) {
                let alone = self.map.seat(seat).unwrap();
                let score = if is_standing { self.score(row.iter()) } else { self.score([alone].into_iter()) };
                free.push((score, seat));
            }
        }
        free.sort_unstable();
        free.into_iter().map(|(_, seat)| seat).collect()
    }

    /// What is wrong with the choice.
    fn complaint(&self, choice: Option<&Choice>) -> Option<String> {
        let nearest = self.nearest();
        if self.quantity == 0 || nearest.len() < self.quantity {
            return choice.map(|choice| format!("there are too few seats for {choice:?}"));
        }
        let Some(choice) = choice else { return Some("nothing was chosen".into()) };
        let chosen: BTreeSet<u32> = choice.seats.iter().copied().collect();
        let complain = |what: &str| Some(format!("{what}: {choice:?}"));
        if !chosen.iter().copied().eq(choice.seats.iter().copied()) || chosen.len() != self.quantity {
            return complain("not so many different seats, sorted");
        }
        if !chosen.iter().all(|seat| nearest.contains(seat)) {
            return complain("not free, or of another grade");
        }
        if choice.leaves_orphan != self.leaves_orphan(&chosen) {
            return complain("wrong about an orphan");
        }
        let blocks = self.blocks();
        let clean = blocks.iter().find(|(.., leaves_orphan)| !leaves_orphan);
        if let Some((_, seats, leaves_orphan)) = clean.or(blocks.first()) {
            let expected = if *leaves_orphan { Arrangement::TogetherLeavingOrphan } else { Arrangement::Together };
            return (choice.arrangement != expected || choice.seats != *seats)
                .then(|| format!("{choice:?} instead of {seats:?}, {expected:?}"));
        }
        let runs = self.runs(|seat| !self.taken.has(seat));
        let Some(groups) = self.fewest_groups(&runs) else {
            let expected: BTreeSet<u32> = nearest[..self.quantity].iter().copied().collect();
            let is_as_expected = choice.arrangement == Arrangement::Scattered && chosen == expected;
            return (!is_as_expected).then(|| format!("{choice:?} instead of {expected:?}, scattered"));
        };
        let parts = self.runs(|seat| chosen.contains(&seat));
        if choice.arrangement != Arrangement::Split
            || parts.len() != groups
            || parts.iter().any(|part| part.0 != parts[0].0)
        {
            return Some(format!("{choice:?} instead of {groups} groups in one section"));
        }
        let depth = parts.iter().map(|part| part.1).max()? - parts.iter().map(|part| part.1).min()?;
        let needed = self.depth_needed(&runs, groups)?;
        // A row before and a row behind are looked at too.
        (depth > needed + 20 && groups == 2).then(|| format!("{choice:?}: {depth} deep where {needed} is enough"))
    }
}

prop_compose! {
    fn hall()(sections in prop::collection::vec(prop_oneof![
        4 => prop::collection::vec(1_u32..=9, 1..=4).prop_map(|rows| (rows, 0)),
        1 => (1_u32..=9).prop_map(|capacity| (Vec::new(), capacity)),
    ], 1..=4), grades in 1_usize..=2) -> SeatMap {
        let sections = sections.into_iter().enumerate().map(|(place, (rows, capacity))| match capacity {
            0 => seated(&place.to_string(), &rows),
            _ => standing(&place.to_string(), capacity),
        });
        map_of(&sections.collect::<Vec<_>>(), grades)
    }
}

prop_compose! {
    /// A hall and what is taken of it, from little to nearly everything.
    fn scene()(map in hall(), share in 0_u32..=10, dice in prop::collection::vec(0_u32..10, 150)) -> (SeatMap, Bits) {
        let taken = (0..map.seats_total()).zip(dice).filter(|(_, die)| *die < share).map(|(seat, _)| seat);
        let taken = taken_of(&map, taken);
        (map, taken)
    }
}

fn grade() -> impl Strategy<Value = Option<&'static str>> {
    prop::sample::select(vec![None, Some("R"), Some("S")])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..crate::platform::properties::config() })]

    #[test]
    fn the_choice_is_the_best_there_is((map, taken) in scene(), quantity in 0_u32..=7, grade in grade()) {
        let plan = Plan::new(&map);
        let choice = best(&plan, &taken, Ask { quantity, grade }, 0);
        let reference = Reference { map: &map, taken: &taken, quantity: quantity as usize, grade };
        prop_assert_eq!(reference.complaint(choice.as_ref()), None);
    }

    #[test]
    fn other_varieties_are_other_seats_of_the_same_kind((map, taken) in scene(), quantity in 1_u32..=7, grade in grade()) {
        let plan = Plan::new(&map);
        let choices: Vec<Option<Choice>> =
            (0..6).map(|variety| best(&plan, &taken, Ask { quantity, grade }, variety)).collect();
        let reference = Reference { map: &map, taken: &taken, quantity: quantity as usize, grade };
        let free = reference.nearest();
        for choice in &choices {
            prop_assert_eq!(choice.is_some(), choices[0].is_some());
            let Some(choice) = choice else { continue };
            let seats: BTreeSet<u32> = choice.seats.iter().copied().collect();
            prop_assert_eq!(seats.len(), quantity as usize);
            prop_assert!(seats.iter().all(|seat| free.contains(seat)));
            prop_assert_eq!(choice.leaves_orphan, reference.leaves_orphan(&seats));
            prop_assert_eq!(Some(choice.arrangement), choices[0].as_ref().map(|best| best.arrangement));
            for other in choices.iter().flatten() {
                let is_apart = other.seats.iter().all(|seat| !seats.contains(seat));
                prop_assert!(is_apart || other.seats == choice.seats, "{:?} and {:?}", choice, other);
            }
        }
    }

    #[test]
    fn orphans_of_named_seats_are_seen((map, taken) in scene(), named in prop::collection::vec(any::<Index>(), 0..6)) {
        let reference = Reference { map: &map, taken: &taken, quantity: 0, grade: None };
        let free = reference.nearest();
        prop_assume!(!free.is_empty());
        let named: BTreeSet<u32> = named.iter().map(|index| *index.get(&free)).collect();
        let expected = reference.leaves_orphan(&named);
        let seats: Vec<u32> = named.iter().rev().copied().collect();
        let plan = Plan::new(&map);
        prop_assert_eq!(leaves_orphan(&plan, &taken, &seats), expected);
        let after = taken_of(&map, (0..map.seats_total()).filter(|seat| taken.has(*seat) || named.contains(seat)));
        prop_assert_eq!(leaves_orphan(&plan, &after, &seats), expected, "already marked");
    }
}

/// Sells a hall by random questions until nobody finds a seat, and returns how often each arrangement was given.
fn sell_out(map: &SeatMap, seed: u64) -> [u32; 4] {
    let plan = Plan::new(map);
    let mut random = StdRng::seed_from_u64(seed);
    let mut taken = taken_of(map, []);
    let mut counts = [0; 4];
    let mut left = map.seats_total();
    while left > 0 {
        let quantity = random.random_range(1..=8);
        let grades: Vec<&str> = map.sections().iter().map(|section| &*section.grade).collect();
        let grade = random.random_bool(0.5).then(|| grades[random.random_range(0..grades.len())]);
        let Some(choice) = best(&plan, &taken, Ask { quantity, grade }, random.random_range(0..4)) else {
            let free = map.seats().iter().filter(|seat| !taken.has(seat.index));
            let free = free.filter(|seat| grade.is_none_or(|grade| grade == &*seat.grade)).count();
            assert!(free < quantity as usize, "{free} free, {quantity} wanted of {grade:?}");
            continue;
        };
        assert_eq!(choice.seats.len(), quantity as usize);
        for seat in &choice.seats {
            assert!(!taken.has(*seat), "{seat} of {choice:?}");
            assert!(grade.is_none_or(|grade| *map.seat(*seat).unwrap().grade == *grade));
            taken.set(*seat);
        }
        left -= quantity;
        counts[choice.arrangement as usize] += 1;
    }
    assert_eq!(taken.count(), map.seats_total());
    counts
}

#[test]
fn the_arena_is_sold_to_the_last_seat() {
    let map = SeatMap::build(&arena_layout(), &arena_grades()).unwrap();
    let counts = sell_out(&map, 7);
    assert!(counts.iter().all(|count| *count > 0), "each arrangement is needed now and then: {counts:?}");
    assert!(counts[0] > 9 * (counts[1] + counts[2] + counts[3]), "nearly everybody sits together: {counts:?}");
}

#[test]
fn a_stadium_is_sold_to_the_last_seat() {
    let stands = (0..50).map(|number| seated(&number.to_string(), &[100; 13]));
    let mut layout: Vec<LayoutSection> =
        [standing("F", 4_000), standing("G", 1_000)].into_iter().chain(stands).collect();
    layout.swap(0, 9);
    let map = map_of(&layout, 2);
    assert_eq!(map.seats_total(), 70_000);
    sell_out(&map, 8);
}

/// One row, `x` taken; returns the row with the choice as `O`.
fn choose_in(row: &str, quantity: u32) -> String {
    let map = map_of(&[seated("1", &[u32::try_from(row.len()).unwrap()])], 1);
    let taken = taken_of(&map, (0..).zip(row.bytes()).filter(|(_, seat)| *seat == b'x').map(|(seat, _)| seat));
    let choice = best(&Plan::new(&map), &taken, Ask { quantity, grade: None }, 0).unwrap();
    let show = |(seat, before)| if choice.seats.contains(&seat) { 'O' } else { before };
    (0..).zip(row.chars()).map(show).collect()
}

#[test]
fn the_middle_is_preferred_and_nobody_left_alone() {
    assert_eq!(choose_in("..........", 2), "....OO....");
    assert_eq!(choose_in("....xx....", 2), "..OOxx....", "of equals the left one");
    assert_eq!(choose_in("....xx...x", 2), "..OOxx...x");
    assert_eq!(choose_in(".....", 3), "OOO..", "in the middle, two would sit alone");
    assert_eq!(choose_in("...xxxxx..", 2), "...xxxxxOO", "at the edge rather than beside a seat left alone");
    assert_eq!(choose_in("x..x.....x", 1), "x..xO....x");
    assert_eq!(choose_in(".x.x.x....", 1), ".x.xOx....", "it was alone before");
    assert_eq!(choose_in("...x", 2), ".OOx", "where it cannot be avoided, the middle decides");
}

#[test]
fn groups_are_few_and_near_and_nobody_sits_alone_without_need() {
    assert_eq!(choose_in("....x....x...", 5), "....xOO..xOOO");
    assert_eq!(choose_in("....x....", 5), "..OOxOOO.");
    assert_eq!(choose_in("x..x.x...", 4), "x..xOxOOO");
}

#[test]
fn the_front_is_preferred_to_the_back_and_the_centre_to_the_side() {
    let map = map_of(&[seated("1", &[10, 10]), seated("2", &[10, 10]), seated("3", &[10, 10])], 2);
    let plan = Plan::new(&map);
    let label = |taken: &Bits, variety| {
        let choice = best(&plan, taken, Ask { quantity: 2, grade: None }, variety).unwrap();
        choice.seats.iter().map(|seat| map.seat(*seat).unwrap().label.clone()).collect::<Vec<_>>()
    };
    let nobody = taken_of(&map, []);
    assert_eq!(label(&nobody, 0), ["2-1-5", "2-1-6"]);
    assert_eq!(label(&nobody, 1), ["2-2-5", "2-2-6"]);
    assert_eq!(label(&nobody, 2), ["1-1-9", "1-1-10"]);
    assert_eq!(label(&nobody, 6), label(&nobody, 0), "there are six rows");
}

#[test]
fn standing_entries_are_together_whatever_is_between() {
    let map = map_of(&[standing("F", 6), seated("1", &[1, 1, 1])], 1);
    let plan = Plan::new(&map);
    let ask = Ask { quantity: 3, grade: Some("R") };
    let choice = best(&plan, &taken_of(&map, [0, 2, 4]), ask, 0).unwrap();
    let expected = Choice { seats: vec![1, 3, 5], arrangement: Arrangement::Together, leaves_orphan: false };
    assert_eq!(choice, expected);
    assert!(!leaves_orphan(&plan, &taken_of(&map, [0]), &[2]));
    let choice = best(&plan, &taken_of(&map, [0, 2, 4, 5]), ask, 0).unwrap();
    assert_eq!(choice.arrangement, Arrangement::Split, "a section comes before entries here and seats there");
}

#[test]
fn a_grade_that_is_not_there_is_told_apart() {
    let map = map_of(&[seated("1", &[2])], 1);
    let plan = Plan::new(&map);
    assert!(plan.has_grade("R") && !plan.has_grade("S"));
    let nobody = taken_of(&map, []);
    assert_eq!(best(&plan, &nobody, Ask { quantity: 1, grade: Some("S") }, 0), None);
    assert_eq!(best(&plan, &nobody, Ask { quantity: u32::MAX, grade: None }, usize::MAX), None);
}

#[test]
fn arrangements_are_written_in_snake_case() {
    use Arrangement::{Scattered, Split, Together, TogetherLeavingOrphan};
    let written = serde_json::to_string(&[Together, TogetherLeavingOrphan, Split, Scattered]).unwrap();
    assert_eq!(written, r#"["together","together_leaving_orphan","split","scattered"]"#);
}
