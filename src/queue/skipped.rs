//! Ranks that are stepped over when their turn comes: places given up, and those of a lobby that nobody has.

/// Some ranks, in order. How many of them lie before another one is found in a few steps, as everybody who waits asks for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Skipped(Vec<u64>);

impl Skipped {
    /// Adds ranks, in any order.
    pub fn add(&mut self, ranks: impl IntoIterator<Item = u64>) {
        let before = self.0.len();
        self.0.extend(ranks);
        if self.0.len() > before {
            #[expect(clippy::stable_sort_primitive, reason = "it makes use of the order that is there")]
            self.0.sort();
            self.0.dedup();
        }
    }

    /// Forgets what the line has passed.
    pub fn forget_passed(&mut self, serving: u64) {
        self.0.drain(..self.0.partition_point(|rank| *rank < serving));
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// How many lie from `from` to below `below`.
    pub fn count(&self, from: u64, below: u64) -> u64 {
        let before = |end| self.0.partition_point(|rank| *rank < end);
        before(below).saturating_sub(before(from)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_counted_once_until_they_are_passed() {
        let mut skipped = Skipped::default();
        skipped.add([7, 3, 5]);
        skipped.add([5, 1]);
        skipped.add([]);
        assert_eq!(
            [(0, 9), (1, 7), (2, 3), (3, 4), (6, 2)].map(|(from, below)| skipped.count(from, below)),
            [4, 3, 0, 1, 0]
        );
        skipped.forget_passed(4);
        assert_eq!(skipped.count(0, 9), 2);
        skipped.clear();
        assert_eq!(skipped.count(0, 9), 0);
    }
}
