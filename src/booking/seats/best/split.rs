//! Groups within one section, for those who find no room together.
//!
//! Of all sections those are looked into where the fewest groups are enough, the best few of them by their bounds. Inside
//! of such a section, each run of free seats is tried as a first group, and the nearest ones that keep the number of
//! groups join it; what lies nearest together wins, then the score of the first group. Partners are looked for in the
//! fewest rows behind each other that have enough seats in so few groups, and in the rows next to them, the front rows
//! first, until [`WORK_MAX`] is used up.

use std::ops::Range;

use super::plan::{Plan, Row, Section, square};
use crate::booking::seats::bits::Bits;

/// How many pairs of runs are compared, or a few more: well below a tenth of a millisecond.
const WORK_MAX: usize = 10_000;

/// Sections that are looked into at most, those with the best bounds first.
const SECTIONS_MAX: usize = 8;

/// Free seats beside each other, in a row of a section.
struct Run<'a> {
    row: &'a Row,
    /// The row's place in the section.
    depth: usize,
    seats: Range<u32>,
}

impl Run<'_> {
    const fn len(&self) -> u32 {
        self.seats.end - self.seats.start
    }

    /// The square of the distance between the middles, in half units.
    fn distance(&self, other: &Self) -> u64 {
        let (here, there) = (self.row.middle(&self.seats), other.row.middle(&other.seats));
        square(here.0 - there.0) + square(here.1 - there.1)
    }
}

/// How many runs there are of each length.
struct Lengths(Vec<u32>);

impl Lengths {
    fn add(&mut self, len: u32) {
        let len = len as usize;
        if self.0.len() <= len {
            self.0.resize(len + 1, 0);
        }
        if let Some(count) = self.0.get_mut(len) {
            *count += 1;
        }
    }

    fn remove(&mut self, len: u32) {
        if let Some(count) = self.0.get_mut(len as usize) {
            *count = count.saturating_sub(1);
        }
    }

    /// The fewest runs that have so many seats.
    fn fewest(&self, quantity: u32) -> Option<u32> {
        let (mut missing, mut groups) = (quantity, 0);
        let lens = 0..u32::try_from(self.0.len()).unwrap_or(0);
        for (len, count) in lens.zip(&self.0).skip(1).rev() {
            let wanted = missing.div_ceil(len).min(*count);
            (groups, missing) = (groups + wanted, missing.saturating_sub(wanted.saturating_mul(len)));
            if missing == 0 {
                return Some(groups);
            }
        }
        None
    }
}

/// Groups in a section, and how good they are: their distances from the first one, its score, its first seat.
struct Groups {
    rank: (u64, u64, u32),
    /// Places in the list of runs.
    runs: Vec<usize>,
}

/// The sections where the fewest groups are enough, with how many that are. Fewer than `fewest` are enough nowhere.
pub(super) fn sections<'a>(
    plan: &'a Plan,
    taken: &Bits,
    quantity: u32,
    grade: Option<usize>,
    fewest: u32,
) -> Vec<(u32, &'a Section)> {
    let mut lengths = Lengths(Vec::new());
    let mut found: Vec<(u32, &Section)> = Vec::new();
    for section in plan.sections(grade) {
        lengths.0.fill(0);
        let runs = plan.rows_of(section).iter().flat_map(|row| row.runs(taken));
        runs.for_each(|run| lengths.add(run.end - run.start));
        let Some(groups) = lengths.fewest(quantity) else { continue };
        match found.first() {
            Some((best, _)) if groups > *best => continue,
            Some((best, _)) if groups < *best => found.clear(),
            _ => {}
        }
        if found.len() < SECTIONS_MAX {
            found.push((groups, section));
        } else if groups <= fewest {
            break;
        }
    }
    found
}

/// So many seats in the fewest groups, or `None` where no section has as many free ones.
pub(super) fn split(
    plan: &Plan,
    taken: &Bits,
    quantity: u32,
    sections: &[(u32, &Section)],
    variety: usize,
) -> Option<Vec<u32>> {
    let mut found: Vec<((u64, u64, u32), Vec<u32>)> = Vec::new();
    let mut search = Search { quantity, groups: 0, work: WORK_MAX, lengths: Lengths(Vec::new()) };
    for (groups, section) in sections {
        if search.work == 0 {
            break;
        }
        search.groups = *groups as usize;
        let rows = (0..).zip(plan.rows_of(section));
        let runs = rows.flat_map(|(depth, row)| row.runs(taken).map(move |seats| Run { row, depth, seats }));
        let runs: Vec<Run<'_>> = runs.collect();
        found.extend(search.nearest(&runs).map(|groups| (groups.rank, fill(&runs, &groups, quantity))));
    }
    found.sort_unstable_by_key(|(rank, _)| *rank);
    let place = variety.checked_rem(found.len())?;
    Some(found.swap_remove(place).1)
}

struct Search {
    quantity: u32,
    /// How many groups are allowed, which is also the fewest that are enough.
    groups: usize,
    /// What may still be spent.
    work: usize,
    lengths: Lengths,
}

impl Search {
    /// The groups that lie nearest together in a section that has enough of them. `runs` are in the order of its rows.
    fn nearest(&mut self, runs: &[Run<'_>]) -> Option<Groups> {
        let mut best: Option<Groups> = None;
        self.lengths.0.fill(0);
        // A window over the rows, which takes in runs at its end until they are enough, and drops rows at its front.
        let (mut begin, mut end) = (0, 0);
        while end < runs.len() && (self.work > 0 || best.is_none()) {
            let next = row_end(runs, end);
            runs.get(end..next).unwrap_or_default().iter().for_each(|run| self.lengths.add(run.len()));
            end = next;
            let mut tightest = None;
            while self.is_enough() {
                tightest = Some(begin);
                let after = row_end(runs, begin);
                runs.get(begin..after).unwrap_or_default().iter().for_each(|run| self.lengths.remove(run.len()));
                begin = after;
            }
            if let Some(start) = tightest {
                let window = row_before(runs, start)..row_after(runs, end);
                best = self.nearest_in(runs, window, best);
            }
        }
        best
    }

    fn is_enough(&self) -> bool {
        self.lengths.fewest(self.quantity).is_some_and(|groups| groups as usize <= self.groups)
    }

    /// Tries each run of the window as the first group.
    fn nearest_in(&mut self, runs: &[Run<'_>], window: Range<usize>, mut best: Option<Groups>) -> Option<Groups> {
        let len = |run: &usize| runs.get(*run).map_or(0, Run::len);
        let mut longest: Vec<usize> = window.clone().collect();
        longest.sort_by_key(|run| std::cmp::Reverse(len(run)));
        for first in window.clone() {
            if self.work == 0 && best.is_some() {
                break;
            }
            let limit = best.as_ref().map(|best| best.rank);
            let groups = self.gather(runs, window.clone(), &longest, first);
            best = groups.filter(|groups| limit.is_none_or(|limit| groups.rank < limit)).or(best);
        }
        best
    }

    /// A first group, and the nearest that make the number full without more groups than allowed.
    fn gather(&mut self, runs: &[Run<'_>], window: Range<usize>, longest: &[usize], first: usize) -> Option<Groups> {
        let anchor = runs.get(first)?;
        let mut chosen = vec![first];
        let (mut spread, mut missing) = (0, self.quantity.saturating_sub(anchor.len()));
        while missing > 0 {
            let others = self.groups.checked_sub(chosen.len() + 1)?;
            // What the longest can bring after this one: it must bring the rest.
            let left = longest.iter().filter(|run| !chosen.contains(run)).filter_map(|run| runs.get(*run));
            let later: u32 = left.take(others).map(Run::len).sum();
            let least = missing.saturating_sub(later);
            self.work = self.work.saturating_sub(window.len());
            let candidates = window.clone().filter(|run| !chosen.contains(run));
            let candidates = candidates.filter_map(|run| Some((runs.get(run)?, run)));
            let candidates = candidates.filter(|(run, _)| run.len() >= least);
            let (distance, next) = candidates.map(|(run, place)| (anchor.distance(run), place)).min()?;
            spread += distance;
            missing = missing.saturating_sub(runs.get(next)?.len());
            chosen.push(next);
        }
        let rank = (spread, anchor.row.score(&anchor.seats), anchor.seats.start);
        Some(Groups { rank, runs: chosen })
    }
}

/// Where the row ends whose runs begin at `begin`.
fn row_end(runs: &[Run<'_>], begin: usize) -> usize {
    let rest = runs.get(begin..).unwrap_or_default();
    begin + rest.iter().take_while(|run| rest.first().is_some_and(|first| first.depth == run.depth)).count()
}

/// Where the row before `begin` begins, if it stands directly before it.
fn row_before(runs: &[Run<'_>], begin: usize) -> usize {
    let Some(depth) = runs.get(begin).map(|run| run.depth) else { return begin };
    let before = runs.get(..begin).unwrap_or_default();
    begin - before.iter().rev().take_while(|run| run.depth + 1 == depth).count()
}

/// Where the row after `end` ends, if it stands directly behind it.
fn row_after(runs: &[Run<'_>], end: usize) -> usize {
    let Some(depth) = end.checked_sub(1).and_then(|last| runs.get(last)).map(|run| run.depth) else { return end };
    let after = runs.get(end..).unwrap_or_default();
    end + after.iter().take_while(|run| run.depth == depth + 1).count()
}

/// Seats for all. Where the groups have more than are needed, the longest does without them, if two can still sit there:
/// then a single seat is left alone only where there is just one too many. Otherwise the longest ones share the loss, so
/// that nobody sits alone without need.
fn fill(runs: &[Run<'_>], groups: &Groups, quantity: u32) -> Vec<u32> {
    let mut parts: Vec<(&Run<'_>, u32)> =
        groups.runs.iter().filter_map(|run| runs.get(*run)).map(|run| (run, run.len())).collect();
    let mut spare = parts.iter().map(|(_, len)| len).sum::<u32>().saturating_sub(quantity);
    while spare > 0 {
        let Some((_, longest)) = parts.iter_mut().max_by_key(|(_, len)| *len) else { break };
        let loss = if *longest >= spare + 2 { spare } else { 1 };
        (*longest, spare) = (*longest - loss, spare - loss);
    }
    parts.iter().flat_map(|(run, len)| run.row.place(&run.seats, *len)).collect()
}
