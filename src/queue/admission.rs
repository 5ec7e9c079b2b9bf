//! How many ranks a tick may call. No I/O; `now` is an argument, in milliseconds. `lua/tick.lua` mirrors it.
//!
//! The pace follows latency: every two seconds over the objective take three tenths of it, down to a fiftieth of the rate;
//! otherwise half a minute gives all of the rate back.
//!
//! ```text
//! pace   = max(rate / 50, 0.7 · pace)                over the objective, and the last cut is 2 s ago
//! pace   = min(rate, pace + rate · elapsed / 30 s)   otherwise, unless the last cut is younger
//! tokens = min(max(pace, 1), tokens + pace · elapsed)
//! ```
//!
//! Not everybody who is called comes, so more are called than there are slots. A window is told in eighths. `came(i)` counts
//! those who came in eighth `i` and `lost` those who did not come; both fade, by half in two windows or a minute. Whoever
//! has let `i` eighths pass still comes with
//!
//! ```text
//! share(i) = max(0.05, (came(i) + … + came(7) + 2) / (came(i) + … + came(7) + lost + 2))
//! expected = Σ share(i) · (called in eighth i) + present · (1 - share(0))
//! by slots = ⌊(max_active - active - expected) / share(0)⌋
//! by seats = ⌊(seats_left - expected) / share(0)⌋
//! ```
//!
//! and a tick calls at most the least of `⌊tokens⌋`, `by slots`, `by seats` and the most that a tick may call. Two who came
//! are taken for granted, so that few observations move little. Those present have come: they stand among the young calls.
//!
//! A clock that goes back refills nothing: elapsed time counts from the latest instant that was ever seen.

use super::domain::Bound;
use super::line::Latency;

/// Parts of a claim window.
pub(super) const EIGHTHS: usize = 8;

const CUT_EVERY_MS: i64 = 2000;
const CUT: f64 = 0.7;
const LEAST_OF_RATE: f64 = 50.0;
const RECOVERY_MS: f64 = 30_000.0;
const SHARE_MIN: f64 = 0.05;
const GRANTED: f64 = 2.0;
const FADE_EVERY_MS: i64 = 1000;
const HALF_LIFE_MIN_MS: i64 = 60_000;
/// What a sum of shares may be off.
const ROUNDING: f64 = 0.000_001;

/// The bucket of ranks that may be called, and how fast it fills.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Bucket {
    /// Ranks that may be called now.
    pub tokens: f64,
    /// The latest instant that a tick has seen.
    pub at: i64,
    /// Ranks per second; the whole rate before the first tick.
    pub pace: Option<f64>,
    /// When the pace was last cut.
    pub cut_at: i64,
}

impl Bucket {
    /// Moves on to `now`. Nothing is saved up before `opens`, and at most a second's worth after.
    pub fn advance(&mut self, now: i64, opens: i64, rate: u32, latency: Latency) -> f64 {
        let rate = f64::from(rate);
        let elapsed = real((now - self.at.max(opens)).max(0));
        let mut pace = self.pace.unwrap_or(rate).min(rate);
        if now - self.cut_at >= CUT_EVERY_MS {
            if latency == Latency::Over {
                pace = (pace * CUT).max(rate / LEAST_OF_RATE);
                self.cut_at = now;
            } else {
                pace = (pace + rate * elapsed / RECOVERY_MS).min(rate);
            }
        }
        self.tokens = (self.tokens + pace * elapsed / 1000.0).min(pace.max(1.0));
        self.at = self.at.max(now);
        self.pace = Some(pace);
        pace
    }
}

/// Who came and who did not, lately.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Shows {
    came: [f64; EIGHTHS],
    lost: f64,
    /// When they last faded.
    pub faded_at: i64,
}

impl Shows {
    /// From what [`Shows::text`] wrote.
    pub fn parse(text: &str, faded_at: i64) -> Self {
        let mut shows = Self { faded_at, ..Self::default() };
        let mut numbers = text.split(',').map(|number| number.parse().unwrap_or(0.0));
        shows.came.iter_mut().chain([&mut shows.lost]).for_each(|slot| *slot = numbers.next().unwrap_or(0.0));
        shows
    }

    /// Nine numbers.
    pub fn text(&self) -> String {
        let numbers = self.came.iter().chain([&self.lost]).map(|number| format!("{number:.6}"));
        numbers.collect::<Vec<_>>().join(",")
    }

    /// Old observations count less.
    pub fn fade(&mut self, now: i64, window: i64) {
        let age = now - self.faded_at;
        if age < FADE_EVERY_MS {
            return;
        }
        let left = 0.5_f64.powf(real(age) / real(HALF_LIFE_MIN_MS.max(2 * window)));
        self.came.iter_mut().chain([&mut self.lost]).for_each(|number| *number *= left);
        self.faded_at = now;
    }

    /// Somebody came whose window of this length ends at `by`.
    pub fn note_came(&mut self, now: i64, by: i64, window: i64) {
        self.came[eighth(now, by, window)] += 1.0;
    }

    /// So many windows ended unused.
    pub fn note_lost(&mut self, count: u64) {
        self.lost += real(count.try_into().unwrap_or(i64::MAX));
    }

    /// For each eighth, the share of those who have come so far without a claim and will still come.
    pub fn shares(&self) -> [f64; EIGHTHS] {
        let (mut shares, mut later) = ([0.0; EIGHTHS], 0.0);
        for (share, came) in shares.iter_mut().zip(self.came).rev() {
            later += came;
            *share = ((later + GRANTED) / (later + self.lost + GRANTED)).max(SHARE_MIN);
        }
        shares
    }

    /// The share of those called lately who did not come.
    pub fn no_show(&self) -> f64 {
        let outcomes = self.came.iter().sum::<f64>() + self.lost;
        if outcomes > 0.0 { self.lost / outcomes } else { 0.0 }
    }
}

/// Which eighth of a window of this length runs, if it ends at `by`.
pub(super) fn eighth(now: i64, by: i64, window: i64) -> usize {
    let passed = (now + window - by) * 8 / window.max(1);
    usize::try_from(passed).unwrap_or(0).min(EIGHTHS - 1)
}

/// Those who were called or are inside, as a tick finds them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Crowd {
    /// Slots in use.
    pub active: u64,
    /// Calls by the eighth of their window that runs.
    pub called: [u64; EIGHTHS],
    /// Those among them who asked while all slots were taken.
    pub present: u64,
}

/// What limits a tick besides the bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub max_active: u32,
    pub seats_left: u64,
    pub calls_max: u32,
}

/// How many ranks may be called, and what allows no more.
#[expect(clippy::cast_possible_truncation, reason = "a count; a float that is out of range becomes the nearest one")]
pub(super) fn allowance(bucket: &Bucket, rate: u32, shows: &Shows, crowd: &Crowd, limits: Limits) -> (i64, Bound) {
    let shares = shows.shares();
    let count = |number: u64| real(number.try_into().unwrap_or(i64::MAX));
    let called: f64 = shares.iter().zip(crowd.called).map(|(share, called)| share * count(called)).sum();
    let expected = count(crowd.present) * (1.0 - shares[0]) + called;
    let free = |most: f64| ((most - expected) / shares[0] + ROUNDING).floor() as i64;
    let by_rate = bucket.tokens.floor() as i64;
    let by_slots = free(f64::from(limits.max_active) - count(crowd.active));
    let by_seats = free(count(limits.seats_left));
    let most = by_rate.min(by_slots).min(by_seats).min(limits.calls_max.into()).max(0);
    let is_slowed = bucket.pace.is_some_and(|pace| pace < f64::from(rate));
    let bound = match (by_slots < by_rate && by_slots <= by_seats, by_seats < by_rate && by_seats < by_slots) {
        (true, _) => Bound::Slots,
        (_, true) => Bound::Seats,
        _ if is_slowed => Bound::Latency,
        _ => Bound::Rate,
    };
    (most, bound)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds and counts")]
fn real(number: i64) -> f64 {
    number as f64
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "numbers that binary fractions hold exactly")]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { max_active: 10, seats_left: 1000, calls_max: 1000 };

    fn full(rate: u32) -> Bucket {
        let mut bucket = Bucket::default();
        bucket.advance(10_000, 0, rate, Latency::Unknown);
        bucket
    }

    #[test]
    fn the_bucket_saves_up_a_second_and_no_more() {
        let mut bucket = Bucket { at: 500, ..Bucket::default() };
        for (now, tokens) in [(900, 0.0), (1000, 0.0), (1250, 5.0), (1200, 5.0), (1250, 5.0), (9000, 20.0)] {
            bucket.advance(now, 1000, 20, Latency::Unknown);
            assert_eq!(bucket.tokens, tokens, "at {now}");
        }
    }

    #[test]
    fn a_clock_that_goes_back_and_comes_again_refills_nothing() {
        let mut bucket = full(10);
        bucket.tokens = 0.0;
        for now in [5000, 10_000] {
            bucket.advance(now, 0, 10, Latency::Unknown);
            assert_eq!(bucket.tokens, 0.0);
        }
        bucket.pace = Some(5.0);
        assert_eq!(bucket.advance(1000, 0, 10, Latency::Within), 5.0);
        assert_eq!(bucket.advance(10_000, 0, 10, Latency::Within), 5.0);
    }

    #[test]
    fn latency_cuts_the_pace_every_two_seconds_and_time_gives_it_back() {
        let mut bucket = full(100);
        let mut over = |now| bucket.advance(now, 0, 100, Latency::Over);
        assert_eq!([over(20_000), over(21_999), over(22_000)].map(f64::round), [70.0, 70.0, 49.0]);
        for step in 12..100 {
            over(step * 2000);
        }
        assert_eq!(bucket.pace, Some(2.0), "a fiftieth");
        bucket.cut_at = bucket.at;
        assert_eq!(bucket.advance(bucket.at + 1000, 0, 100, Latency::Within), 2.0, "too early");
        assert_eq!(bucket.advance(bucket.at + 15_000, 0, 100, Latency::Unknown), 52.0);
        assert_eq!(bucket.advance(bucket.at + 30_000, 0, 100, Latency::Within), 100.0);
        assert_eq!(bucket.advance(bucket.at, 0, 40, Latency::Within), 40.0, "the rate was lowered");
    }

    #[test]
    fn a_window_is_told_in_eighths() {
        let ages = [(1000, 0), (1124, 0), (1125, 1), (1999, 7), (2000, 7), (5000, 7), (0, 0)];
        for (now, expected) in ages {
            assert_eq!(eighth(now, 2000, 1000), expected, "at {now}");
        }
    }

    #[test]
    fn whoever_waits_long_is_expected_less() {
        let mut shows = Shows::default();
        assert_eq!(shows.shares(), [1.0; EIGHTHS]);
        (0..6).for_each(|_| shows.note_came(1000, 2000, 1000));
        shows.note_came(1500, 2000, 1000);
        shows.note_lost(9);
        let shares = shows.shares();
        assert_eq!((shares[0], shares[1], shares[4], shares[5]), (0.5, 0.25, 0.25, 2.0 / 11.0));
        assert_eq!(shows.no_show(), 9.0 / 16.0);
        let again = Shows::parse(&shows.text(), 0);
        assert_eq!(again, shows);
        shows.faded_at = 5000;
        shows.fade(5999, 1000);
        assert_eq!(shows.no_show(), 9.0 / 16.0);
        shows.fade(65_000, 1000);
        assert_eq!(shows, Shows { came: [3.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0], lost: 4.5, faded_at: 65_000 });
        shows.note_lost(10_000);
        assert_eq!(shows.shares(), [SHARE_MIN; EIGHTHS]);
        assert_eq!(Shows::parse("", 3), Shows { faded_at: 3, ..Shows::default() });
    }

    #[test]
    fn the_smallest_limit_binds() {
        let all = |bucket: &Bucket, crowd: &Crowd, limits| allowance(bucket, 5, &Shows::default(), crowd, limits);
        let nobody = Crowd::default();
        assert_eq!(all(&full(5), &nobody, LIMITS), (5, Bound::Rate));
        assert_eq!(all(&full(5), &nobody, Limits { calls_max: 2, ..LIMITS }), (2, Bound::Rate));
        assert_eq!(all(&full(5), &nobody, Limits { seats_left: 0, ..LIMITS }), (0, Bound::Seats));
        let slowed = Bucket { pace: Some(4.0), ..full(5) };
        assert_eq!(all(&slowed, &nobody, LIMITS), (5, Bound::Latency));
        let busy = Crowd { active: 4, called: [1, 0, 0, 0, 1, 0, 0, 0], present: 1 };
        assert_eq!(all(&full(5), &busy, LIMITS), (4, Bound::Slots));
        assert_eq!(
            all(&full(5), &Crowd { active: 12, ..busy }, LIMITS),
            (0, Bound::Slots),
            "more than the cap now allows"
        );
        let half = Shows { came: [2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], lost: 4.0, faded_at: 0 };
        assert_eq!(allowance(&full(50), 50, &half, &nobody, LIMITS), (20, Bound::Slots), "every second one comes");
    }
}
