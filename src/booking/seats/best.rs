//! The best free seats for so many people. Pure: what is taken is an argument.
//!
//! Preferences, step by step; a later step is taken only where the earlier ones have nothing:
//!
//! 1. Together: beside each other in one row, so that no seat is left alone. A seat is left alone where it is free and
//!    neither neighbour in its row is, one of them because of this choice. A seat that was alone before does not count.
//! 2. Together, and a seat is left alone.
//! 3. Split: within one section, in groups beside each other; as few groups as possible, then as near to each other as is
//!    found with bounded work (`split.rs`).
//! 4. Scattered: any free seats, the nearest to the centre of the front first.
//!
//! Entries of a standing area are always together: the lowest free ones. They leave nobody alone.
//!
//! Within a step the score decides, the smaller the better: the square of the distance, in half units of the map, from the
//! middle of the block to the centre of the front, which is halfway between the leftmost and the rightmost seat of the
//! hall, at depth 0. A standing area has the score of its own middle, whichever entries are free. Of equals the one
//! with the lowest index is taken, so the same question has the same answer everywhere.
//!
//! Instances that choose at the same moment would all choose the same seats. Whoever lost a race asks for another
//! `variety`: the next best candidates, which share no seat with the better ones.

mod plan;
mod split;
#[cfg(test)]
mod tests;

use std::ops::Range;

use serde::Serialize;

use super::bits::Bits;
use plan::Row;

pub use plan::Plan;

/// Candidates that are told apart; a larger `variety` begins again with the best.
const VARIETIES: usize = 64;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask<'a> {
    /// How many seats.
    pub quantity: u32,
    /// Of this grade only; of any, or of several, where none is named.
    pub grade: Option<&'a str>,
}

/// How chosen seats lie to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Arrangement {
    /// Beside each other in one row, or in one standing area.
    Together,
    /// Beside each other in one row, and a single free seat is left beside them.
    TogetherLeavingOrphan,
    /// In several groups within one section.
    Split,
    /// Wherever there were free ones.
    Scattered,
}

/// Seats that were chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Their indices, sorted.
    pub seats: Vec<u32>,
    /// How they lie to each other.
    pub arrangement: Arrangement,
    /// Whether a single free seat is left beside them that had a free neighbour before.
    pub leaves_orphan: bool,
}

/// The best free seats, or, where `variety` is not 0, the next best ones: with fewer candidates than that, it begins again
/// with the best. `None` where fewer than `ask.quantity` seats of the grade are free, for a grade that the plan does not
/// have, and for a quantity of 0.
#[must_use]
pub fn best(plan: &Plan, taken: &Bits, ask: Ask<'_>, variety: usize) -> Option<Choice> {
    let variety = variety % VARIETIES;
    let grade = match ask.grade {
        Some(code) => Some(plan.grade(code)?),
        None => None,
    };
    if ask.quantity == 0 {
        return None;
    }
    let look = Look { plan, taken, quantity: ask.quantity, grade, variety };
    let (free, longest) = match look.together() {
        Together::Found(choice) => return Some(choice),
        Together::Nowhere { free, longest } => (free, longest),
    };
    if free < ask.quantity {
        return None;
    }
    let (arrangement, mut seats) = match look.split(longest) {
        Some(seats) => (Arrangement::Split, seats),
        None => (Arrangement::Scattered, look.scattered()),
    };
    seats.sort_unstable();
    let leaves_orphan = leaves_orphan(plan, taken, &seats);
    Some(Choice { seats, arrangement, leaves_orphan })
}

/// Whether these seats, in any order, leave a single free seat beside them that had a free neighbour before. It does not
/// matter whether they are marked as taken already.
#[must_use]
pub fn leaves_orphan(plan: &Plan, taken: &Bits, seats: &[u32]) -> bool {
    let mut chosen = seats.to_vec();
    chosen.sort_unstable();
    chosen.iter().any(|seat| {
        let Some(row) = plan.row_of(*seat).filter(|row| !row.is_standing) else { return false };
        let is_free =
            |seat: u32| row.seats().contains(&seat) && !taken.has(seat) && chosen.binary_search(&seat).is_err();
        let is_free_before = |seat: u32| seat.checked_sub(1).is_some_and(is_free);
        let is_left_alone = is_free_before(*seat) && !is_free_before(seat - 1);
        let is_right_alone = is_free(seat + 1) && !is_free(seat + 2);
        is_left_alone || is_right_alone
    })
}

/// One question.
struct Look<'a> {
    plan: &'a Plan,
    taken: &'a Bits,
    quantity: u32,
    grade: Option<usize>,
    variety: usize,
}

/// Whether there are seats beside each other.
enum Together {
    Found(Choice),
    Nowhere {
        /// How many are free.
        free: u32,
        /// How many of them beside each other at most.
        longest: u32,
    },
}

/// Seats beside each other. Of a standing area, free entries counted from its first free one.
struct Block<'a> {
    score: u64,
    row: &'a Row,
    seats: Range<u32>,
}

impl Block<'_> {
    const fn rank(&self) -> (u64, u32) {
        (self.score, self.seats.start)
    }
}

/// The best blocks of those seen, as many as are needed.
struct Podium<'a> {
    places: usize,
    /// Best first.
    blocks: Vec<Block<'a>>,
}

impl<'a> Podium<'a> {
    const fn new(variety: usize) -> Self {
        Self { places: variety + 1, blocks: Vec::new() }
    }

    /// Whether a block with this score could change nothing any more.
    fn is_closed_to(&self, score: u64) -> bool {
        self.blocks.get(self.places - 1).is_some_and(|last| last.score < score)
    }

    fn add(&mut self, block: Block<'a>) {
        let place = self.blocks.partition_point(|better| better.rank() < block.rank());
        if place < self.places {
            self.blocks.truncate(self.places - 1);
            self.blocks.insert(place, block);
        }
    }

    /// The block in this place, counted round where there are fewer.
    fn take(mut self, variety: usize) -> Option<Block<'a>> {
        let place = variety.checked_rem(self.blocks.len())?;
        Some(self.blocks.swap_remove(place))
    }
}

impl Look<'_> {
    /// Steps 1 and 2.
    fn together(&self) -> Together {
        let (mut clean, mut leaving) = (Podium::new(self.variety), Podium::new(self.variety));
        let (mut free, mut longest) = (0, 0);
        for row in self.plan.ranked(self.grade) {
            // Rows come by their bounds: no later one is better.
            if clean.is_closed_to(row.bound) {
                break;
            }
            if row.is_standing {
                free += self.add_entries(row, &mut clean);
                continue;
            }
            for run in row.runs(self.taken) {
                let len = run.end - run.start;
                (free, longest) = (free + len, len.max(longest));
                if len < self.quantity {
                    continue;
                }
                // A run with one seat more, and no other, cannot be used without leaving that seat alone.
                let podium = if len == self.quantity + 1 { &mut leaving } else { &mut clean };
                let seats = row.place(&run, self.quantity);
                podium.add(Block { score: row.score(&seats), row, seats });
            }
        }
        if let Some(block) = clean.take(self.variety) {
            return Together::Found(self.chosen(&block, Arrangement::Together));
        }
        match leaving.take(self.variety) {
            Some(block) => Together::Found(self.chosen(&block, Arrangement::TogetherLeavingOrphan)),
            None => Together::Nowhere { free, longest },
        }
    }

    /// Adds a standing area's candidates, the lowest free entries first. Returns how many are free.
    fn add_entries<'p>(&self, area: &'p Row, podium: &mut Podium<'p>) -> u32 {
        let mut free = 0;
        // Others than the first so many can never be asked for.
        let enough = self.quantity.saturating_mul(u32::try_from(podium.places).unwrap_or(u32::MAX));
        for run in area.runs(self.taken) {
            free += run.end - run.start;
            if free >= enough {
                break;
            }
        }
        for number in 0..free.min(enough) / self.quantity {
            let start = area.first + number * self.quantity;
            podium.add(Block { score: area.bound, row: area, seats: start..start + self.quantity });
        }
        free
    }

    fn chosen(&self, block: &Block<'_>, arrangement: Arrangement) -> Choice {
        let seats = if block.row.is_standing {
            let skipped = (block.seats.start - block.row.first) as usize;
            block.row.runs(self.taken).flatten().skip(skipped).take(self.quantity as usize).collect()
        } else {
            block.seats.clone().collect()
        };
        Choice { seats, arrangement, leaves_orphan: arrangement == Arrangement::TogetherLeavingOrphan }
    }

    /// Step 3. There is no run of more than `longest` seats, which are too few.
    fn split(&self, longest: u32) -> Option<Vec<u32>> {
        let fewest = self.quantity.div_ceil(longest.max(1));
        let sections = split::sections(self.plan, self.taken, self.quantity, self.grade, fewest);
        split::split(self.plan, self.taken, self.quantity, &sections, self.variety)
    }

    /// Step 4. There are enough free seats.
    fn scattered(&self) -> Vec<u32> {
        let mut free: Vec<(u64, u32)> = Vec::new();
        for row in self.plan.ranked(self.grade) {
            free.extend(row.runs(self.taken).flatten().map(|seat| (row.score(&(seat..seat + 1)), seat)));
        }
        let quantity = self.quantity as usize;
        let skipped = self.variety.checked_rem(free.len() / quantity).unwrap_or(0) * quantity;
        let enough = (skipped + quantity).min(free.len());
        if enough < free.len() {
            free.select_nth_unstable(enough);
            free.truncate(enough);
        }
        free.sort_unstable();
        free.into_iter().skip(skipped).map(|(_, seat)| seat).collect()
    }
}
