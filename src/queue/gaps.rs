//! Arrival indices that nobody is known to have: each loss of the line's store leaves a run of them, from what was known
//! to be issued up to the ceiling. Kept as `from-below,` pairs in ascending order.

use std::fmt;

/// Gaps remembered at most. The oldest are forgotten past it: their ranks are then called one by one.
const GAPS_MAX: usize = 90;
/// Ranks of a lobby's gaps that a line is told of at most; the rest are called like everybody.
pub(super) const GHOSTS_MAX: usize = 20_000;

/// Runs of indices, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Gaps(Vec<(u64, u64)>);

impl Gaps {
    /// From what [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Self {
        let bounds = |gap: &str| -> Option<(u64, u64)> {
            let (from, below) = gap.split_once('-')?;
            Some((from.parse().ok()?, below.parse().ok()?))
        };
        Self(text.split(',').filter_map(bounds).collect())
    }

    /// Adds the run from `from` to below `below`, as far as it lies behind all others.
    pub fn push(&mut self, from: u64, below: u64) {
        let from = self.0.last().map_or(from, |(_, end)| from.max(*end));
        if from < below {
            self.0.push((from, below));
        }
        let excess = self.0.len().saturating_sub(GAPS_MAX);
        self.0.drain(..excess);
    }

    /// Forgets what the line has passed. Whatever the lobby held is kept: its ranks lie anywhere.
    pub fn forget_passed(&mut self, serving: u64, lobby_size: u64) {
        self.0.retain(|(from, below)| *below > serving || *from < lobby_size);
    }

    /// What lies behind a lobby of this size, where ranks are arrivals.
    pub fn behind(&self, lobby_size: u64) -> Self {
        let cut = self.0.iter().map(|(from, below)| ((*from).max(lobby_size), *below));
        Self(cut.filter(|(from, below)| from < below).collect())
    }

    /// Arrivals inside a lobby of this size.
    pub fn inside(&self, lobby_size: u64) -> impl Iterator<Item = u64> {
        self.0.iter().flat_map(move |(from, below)| *from..(*below).min(lobby_size).max(*from))
    }

    /// The first index from `serving` on that is in no gap.
    pub fn skip(&self, serving: u64) -> u64 {
        let past = |at, (from, below): &(u64, u64)| if *from <= at && at < *below { *below } else { at };
        self.0.iter().fold(serving, past)
    }

    /// How many indices from `from` to below `below` are in a gap.
    pub fn count(&self, from: u64, below: u64) -> u64 {
        self.0.iter().map(|(start, end)| (*end).min(below).saturating_sub((*start).max(from))).sum()
    }
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(from, below)| write!(f, "{from}-{below},"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &str, serving: u64, (from, below): (u64, u64)) -> String {
        let mut gaps = Gaps::parse(text);
        gaps.forget_passed(serving, 0);
        gaps.push(from, below);
        gaps.to_string()
    }

    #[test]
    fn gaps_are_kept_until_the_line_has_passed_them() {
        assert_eq!(after("", 0, (10, 50)), "10-50,");
        assert_eq!(after("10-50,", 5, (60, 90)), "10-50,60-90,");
        assert_eq!(after("10-50,60-90,", 50, (95, 95)), "60-90,");
        let many: Vec<String> = (0..GAPS_MAX * 2).map(|n| format!("{}-{}", n * 10, n * 10 + 5)).collect();
        assert_eq!(after(&many.join(","), 0, (1, 1)).matches(',').count(), GAPS_MAX);
    }

    #[test]
    fn a_gap_may_lie_on_both_sides_of_the_lobbys_end() {
        let mut gaps = Gaps::parse("2-4,8-12,20-22,");
        assert_eq!(gaps.inside(10).collect::<Vec<_>>(), [2, 3, 8, 9]);
        assert_eq!(gaps.behind(10).to_string(), "10-12,20-22,");
        assert_eq!([1, 2, 8, 11, 12].map(|at| gaps.skip(at)), [1, 4, 12, 12, 12]);
        assert_eq!((gaps.count(0, 100), gaps.count(3, 9), gaps.count(12, 20)), (8, 2, 0));
        gaps.forget_passed(21, 5);
        assert_eq!(gaps.to_string(), "2-4,20-22,");
    }
}
