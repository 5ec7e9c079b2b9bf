//! When to ask again, so that a crowd of any size polls at a bounded rate and nobody misses a call by obeying. Pure.
//!
//! Whoever is `d` ranks from the front is called in `eta = d / rate` seconds at the earliest, since the rate is the
//! fastest that serving can move. Left to itself a crowd asks again after a tenth of that, between `poll_min_ms` and
//! `poll_max_ms`. A line of `W` people then asks `sum of 1/t(d)` times a second; where that is more than
//! `polls_per_second_max`, every pace is stretched by one factor until it is not.
//!
//! One bound is never passed: `0.8 * eta + claim_secs / 3` (or `poll_min_ms`, if that is more), jitter included. So
//! whoever asks when told asks again before the claim window of their call ends. Where this bound is what keeps the
//! crowd from waiting longer, it polls at about `1.25 * rate * ln(1 + 2.4 * W / (rate * claim_secs))` a second, whatever
//! was configured: a line that moves fast has to be looked at often. A rate that is raised while people wait is known to
//! each of them from their next poll on.
//!
//! All instances use the same formula on the whole line's size, so the bound is for one sale over all of them.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "paces are milliseconds, and crowds far below 2^53"
)]

use super::domain::{Rules, Settings, Snapshot};
use crate::platform::clock::Timestamp;

/// The share of the time until the call after which a calm crowd asks again.
const CALM_SHARE: f64 = 0.1;
/// The share of the time until the call that nobody may let pass without asking.
const LATEST_SHARE: f64 = 0.8;
/// The share of the claim window that may pass besides.
const CLAIM_SHARE: f64 = 1.0 / 3.0;
/// A pace is spread by so much to either side, so that a crowd does not ask in step.
const JITTER: f64 = 0.1;
/// The same in the lobby, where all have one pace.
const LOBBY_JITTER: f64 = 0.5;
/// Those who came to the lobby together, when it was smaller, ask for a while up to so many times as often as a crowd of
/// its size that has always been there.
const LOBBY_BUNCHING: f64 = 2.0;
/// Halvings of the interval in which the stretch lies: more than a float can tell apart.
const HALVINGS: u32 = 60;

/// The paces of one line, until its numbers change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    per_second: f64,
    shortest: f64,
    longest: f64,
    /// The latest pace of whoever is first, before the jitter.
    latest: f64,
    stretch: f64,
}

/// A pace in seconds that grows with the distance: `at + slope * d`.
#[derive(Clone, Copy)]
struct Line {
    at: f64,
    slope: f64,
}

impl Line {
    fn value(self, distance: f64) -> f64 {
        self.at + self.slope * distance
    }

    /// Polls a second of everybody in this range: the integral of `1 / value`.
    fn polls(self, from: f64, to: f64) -> f64 {
        if self.slope > 0.0 { (self.value(to) / self.value(from)).ln() / self.slope } else { (to - from) / self.at }
    }

    /// The same where everybody has the smaller one of two paces.
    fn polls_below(self, other: Self, from: f64, to: f64) -> f64 {
        if to <= from {
            return 0.0;
        }
        let crossing = (other.at - self.at) / (self.slope - other.slope);
        // Not a number, where there is none.
        let middle = if crossing > from && crossing < to { crossing } else { to };
        let part = |from: f64, to: f64| {
            let between = f64::midpoint(from, to);
            let lower = if self.value(between) < other.value(between) { self } else { other };
            if to > from { lower.polls(from, to) } else { 0.0 }
        };
        part(from, middle) + part(middle, to)
    }
}

impl Pace {
    /// The pace of a line as it is now.
    #[must_use]
    pub fn of_line(snapshot: &Snapshot, rules: &Rules, settings: &Settings) -> Self {
        Self::of(snapshot.waiting(), rules.admit_per_second, rules.claim_secs, settings)
    }

    /// The paces of a line with so many people waiting, of whom at most `rate` a second are called. Costs a few
    /// microseconds at most: to be kept until the next tick.
    #[must_use]
    pub fn of(waiting: u64, rate: u32, claim_secs: u32, settings: &Settings) -> Self {
        let shortest = settings.poll_min_ms.max(1) as f64 / 1000.0;
        let calm = Self {
            per_second: f64::from(rate.max(1)),
            shortest,
            longest: (settings.poll_max_ms as f64 / 1000.0).max(shortest),
            latest: (f64::from(claim_secs) * CLAIM_SHARE / (1.0 + JITTER)).max(shortest),
            stretch: 1.0,
        };
        let most = f64::from(settings.polls_per_second_max.max(1));
        Self { stretch: calm.stretch_for(waiting as f64, most), ..calm }
    }

    /// The least factor with which so many people poll at most so often; infinite where none suffices.
    fn stretch_for(&self, waiting: f64, most: f64) -> f64 {
        let polls = self.polls(waiting, 1.0);
        if polls <= most {
            return 1.0;
        }
        if self.polls(waiting, f64::INFINITY) >= most {
            return f64::INFINITY;
        }
        let (mut low, mut high) = (1.0, polls / most);
        while self.polls(waiting, high) > most {
            (low, high) = (high, high * 2.0);
        }
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(low, high);
            if self.polls(waiting, middle) > most {
                low = middle;
            } else {
                high = middle;
            }
        }
        high
    }

    /// Polls a second of so many people whose calm paces are stretched so far.
    fn polls(&self, waiting: f64, stretch: f64) -> f64 {
        let distance = |pace: f64| (pace / CALM_SHARE * self.per_second).min(waiting);
        let (near, far) = (distance(self.shortest), distance(self.longest));
        let latest = Line { at: self.latest, slope: LATEST_SHARE / (1.0 + JITTER) / self.per_second };
        let flat = |pace: f64| Line { at: pace * stretch, slope: 0.0 };
        let rising = Line { at: 0.0, slope: CALM_SHARE * stretch / self.per_second };
        flat(self.shortest).polls_below(latest, 0.0, near)
            + rising.polls_below(latest, near, far)
            + flat(self.longest).polls_below(latest, far, waiting)
    }

    /// When whoever has so many ranks before them should ask again, those that nobody has not counted. `spread` in 0..1
    /// is the caller's jitter.
    #[must_use]
    pub fn after_ms(&self, ahead: u64, spread: f64) -> u64 {
        let eta = ahead as f64 / self.per_second;
        let calm = (eta * CALM_SHARE).clamp(self.shortest, self.longest);
        let latest = self.latest + eta * LATEST_SHARE / (1.0 + JITTER);
        jittered((calm * self.stretch).min(latest), spread)
    }

    /// When somebody who was called, and has not claimed yet, should ask again.
    #[must_use]
    pub fn called_after_ms(&self, spread: f64) -> u64 {
        jittered(self.shortest, spread)
    }
}

fn jittered(pace: f64, spread: f64) -> u64 {
    millis(pace * (1.0 - JITTER + 2.0 * JITTER * spread))
}

fn millis(secs: f64) -> u64 {
    (secs * 1000.0) as u64
}

/// How long after opening the last of the lobby asks for their rank: the crowd comes at the configured rate, not at
/// once. Claim windows of the first ranks have to last that long.
#[must_use]
pub fn lobby_spread_ms(waiting: u64, settings: &Settings) -> u64 {
    waiting.saturating_mul(1000).div_ceil(u64::from(settings.polls_per_second_max.max(1)))
}

/// When somebody in the lobby, one of so many, should ask again. A poll that would fall after `opens_at` is placed
/// somewhere in the time that [`lobby_spread_ms`] gives and `poll_min_ms`, with the same chance everywhere.
#[must_use]
pub fn lobby_poll_after_ms(waiting: u64, now: Timestamp, opens_at: Timestamp, settings: &Settings, spread: f64) -> u64 {
    let window = lobby_spread_ms(waiting, settings) as f64 / 1000.0;
    let shortest = settings.poll_min_ms.max(1) as f64 / 1000.0;
    let pace = (settings.poll_max_ms as f64 / 1000.0).max(window * LOBBY_BUNCHING).max(shortest);
    let left = opens_at.since(now).as_secs_f64();
    let after = pace * (1.0 - LOBBY_JITTER + 2.0 * LOBBY_JITTER * spread);
    if after < left {
        return millis(after);
    }
    // Of all spreads, those above this one lead past the opening: among them the place is as random as before.
    let least = ((left / pace - (1.0 - LOBBY_JITTER)) / (2.0 * LOBBY_JITTER)).clamp(0.0, 1.0);
    let place = if least < 1.0 { (spread - least) / (1.0 - least) } else { spread };
    let (from, until) = (left.max(shortest), left + window + shortest);
    millis(from + (until - from) * place.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use std::collections::BinaryHeap;
    use std::time::Duration;

    use proptest::{prop_assert, proptest};
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    fn settings(polls_per_second_max: u32) -> Settings {
        Settings { polls_per_second_max, ..Settings::for_tests() }
    }

    /// Polls a second of a crowd, counted from above: in each range everybody as often as its first.
    fn counted(pace: &Pace, waiting: u64) -> f64 {
        let (mut from, mut polls) = (0, 0.0);
        while from < waiting {
            let to = (from + 1 + from / 1000).min(waiting);
            polls += (to - from) as f64 * 1000.0 / pace.after_ms(from, 0.5) as f64;
            from = to;
        }
        polls
    }

    /// What the bound on missed calls leads to, whatever is configured.
    fn guarded(waiting: u64, rate: u32, claim_secs: u32) -> f64 {
        let (rate, claim) = (f64::from(rate), f64::from(claim_secs));
        1.1 * rate / LATEST_SHARE * (1.0 + 2.4 * waiting as f64 / (rate * claim)).ln()
    }

    proptest! {
        #![proptest_config(crate::platform::properties::config())]

        #[test]
        fn a_crowd_of_any_size_polls_at_a_bounded_rate(
            size in 1.0..7.0, speed in 0.0..4.0, claim_secs in 2_u32..600, polls in 1.0..5.0,
        ) {
            let (waiting, rate) = (10_f64.powf(size) as u64, 10_f64.powf(speed) as u32);
            let settings = settings(10_f64.powf(polls) as u32);
            let pace = Pace::of(waiting, rate, claim_secs, &settings);
            let bound = f64::from(settings.polls_per_second_max).max(guarded(waiting, rate, claim_secs));
            // Whoever is next is one more than the integral counts.
            let first = 1000.0 / settings.poll_min_ms as f64;
            let found = counted(&pace, waiting);
            prop_assert!(found <= bound * 1.1 + first, "{found} of {bound}: {waiting} at {rate}, {pace:?}");
        }

        #[test]
        fn nobody_misses_a_call_by_obeying(
            size in 1.0..7.0, speed in 0.0..4.0, claim_secs in 2_u32..600, share in 0.0..1.0, spread in 0.0..1.0,
        ) {
            let (waiting, rate) = (10_f64.powf(size) as u64, 10_f64.powf(speed) as u32);
            for polls in [1, 100, 10_000] {
                let pace = Pace::of(waiting, rate, claim_secs, &settings(polls));
                for ahead in [0, 1, (waiting as f64 * share) as u64, waiting] {
                    let after = pace.after_ms(ahead, spread) as f64 / 1000.0;
                    let latest = LATEST_SHARE * ahead as f64 / f64::from(rate) + f64::from(claim_secs) / 3.0;
                    prop_assert!(after <= latest + 1e-9, "{after} after {latest}: {ahead} of {waiting} at {rate}");
                    prop_assert!(after >= 0.449, "{after}");
                }
            }
        }

        #[test]
        fn who_is_further_back_asks_later(
            size in 1.0..7.0_f64, speed in 0.0..4.0_f64, polls in 1.0..5.0_f64, near in 0.0..1.0_f64, far in 0.0..1.0_f64,
        ) {
            let (waiting, rate) = (10_f64.powf(size) as u64, 10_f64.powf(speed) as u32);
            let pace = Pace::of(waiting, rate, 60, &settings(10_f64.powf(polls) as u32));
            let at = |share: f64| pace.after_ms((waiting as f64 * share) as u64, 0.5);
            prop_assert!(at(near.min(far)) <= at(near.max(far)));
        }
    }

    #[test]
    fn the_front_polls_often_and_the_back_seldom() {
        let settings = settings(10_000);
        let pace = Pace::of(1000, 50, 60, &settings);
        assert_eq!(pace.after_ms(0, 0.5), 500);
        assert_eq!(pace.after_ms(1000, 0.5), 2000);
        assert_eq!(pace.after_ms(1_000_000, 0.5), 10_000);
        assert!(pace.after_ms(1000, 0.0) < pace.after_ms(1000, 0.99));
        assert_eq!(pace.called_after_ms(0.5), 500);
        // A million at ten seconds would be a hundred thousand a second.
        let large = Pace::of(1_000_000, 50, 60, &settings);
        assert!(large.after_ms(1_000_000, 0.5) > 60_000);
        assert!(counted(&large, 1_000_000) > 9_000.0, "no slower than it has to be");
    }

    #[test]
    fn settings_that_make_little_sense_do_no_harm() {
        let odd = Settings { poll_min_ms: 0, poll_max_ms: 0, polls_per_second_max: 0, ..Settings::for_tests() };
        let pace = Pace::of(1000, 0, 0, &odd);
        assert!((0..=1000).all(|ahead| pace.after_ms(ahead, 0.5) >= 1));
        let now = at(0.0);
        assert!(lobby_poll_after_ms(u64::MAX, now, now, &odd, 0.0) >= 1);
    }

    fn at(secs: f64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + (secs * 1000.0) as i64).unwrap()
    }

    /// A lobby whose people came at these times, polls until everybody has polled after `opens`. Gives when they polled.
    fn lobby(joined: &[f64], opens: f64, settings: &Settings) -> Vec<f64> {
        let mut dice = StdRng::seed_from_u64(7);
        let mut polls = Vec::new();
        // The next times first; in milliseconds, since floats have no order.
        let mut next: BinaryHeap<std::cmp::Reverse<u64>> = BinaryHeap::new();
        let mut coming = joined.iter().copied().peekable();
        let mut inside = 0;
        loop {
            let now = match (coming.peek(), next.peek()) {
                (Some(join), Some(poll)) if *join <= poll.0 as f64 / 1000.0 => *join,
                (Some(join), None) => *join,
                (_, Some(poll)) => poll.0 as f64 / 1000.0,
                (None, None) => return polls,
            };
            if coming.next_if_eq(&now).is_some() {
                inside += 1;
            } else {
                next.pop();
                polls.push(now);
                if now >= opens {
                    continue;
                }
            }
            let after = lobby_poll_after_ms(inside, at(now), at(opens), settings, dice.random_range(0.0..1.0));
            next.push(std::cmp::Reverse((now * 1000.0) as u64 + after));
        }
    }

    /// The most polls a second within any five seconds.
    fn busiest(polls: &[f64]) -> f64 {
        let window = 5.0;
        let from = |start: &f64| polls.partition_point(|poll| poll < start);
        let counts = polls.iter().map(|poll| from(&(poll + window)) - from(poll));
        counts.max().unwrap_or(0) as f64 / window
    }

    #[test]
    fn a_lobby_polls_at_a_bounded_rate_and_so_do_those_who_learn_their_rank() {
        let most = 1000;
        let settings = settings(most);
        for (crowd, opens) in [(2_000, 60.0), (20_000, 120.0), (50_000, 200.0)] {
            let together = vec![0.0; crowd];
            let gently: Vec<f64> = (0..crowd).map(|nth| nth as f64 / crowd as f64 * 30.0).collect();
            for joined in [together, gently] {
                let polls = lobby(&joined, opens, &settings);
                let found = busiest(&polls);
                assert!(found <= f64::from(most) * 1.1, "{found} a second from {crowd}, {opens}");
                let learnt = polls.iter().filter(|poll| **poll >= opens).count();
                assert_eq!(learnt, crowd, "everybody learns their rank once");
                let latest = opens + lobby_spread_ms(crowd as u64, &settings) as f64 / 1000.0 + 0.5;
                assert!(polls.iter().all(|poll| *poll <= latest + 0.001));
            }
        }
    }

    #[test]
    fn a_small_lobby_asks_at_the_calm_pace_and_soon_after_opening() {
        let settings = settings(10_000);
        let ask = |left: f64, spread| lobby_poll_after_ms(100, at(0.0), at(left), &settings, spread);
        assert_eq!([ask(600.0, 0.0), ask(600.0, 0.5)], [5_000, 10_000]);
        for spread in [0.0, 0.3, 0.999] {
            assert!((7_000..=7_510).contains(&ask(7.0, 0.9)) && (3_000..=3_510).contains(&ask(3.0, spread)));
            // Open by the clock, but not drawn yet.
            assert!((500..=1010).contains(&ask(0.0, spread)));
        }
        assert_eq!(at(10.0).since(at(0.0)), Duration::from_secs(10));
    }
}
