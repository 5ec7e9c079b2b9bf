//! How long until a call, estimated from the calls that were really made.
//!
//! Every instance notes, about once a second, how many calls the line has made, and keeps the notes of the last claim window
//! (at least [`WINDOW_MIN_MS`]). The rate is the calls between the oldest and the newest note over the time between them; ranks
//! that were skipped because their places were given up, or that nobody has, count for nothing in it. While there is nothing to
//! measure (a line that has just opened, or one in which nobody was called for a whole window), the estimate is what the rules
//! allow: the configured rate, or a turnover of all slots per session where that is slower.

use std::collections::VecDeque;

use super::domain::{Rules, Snapshot};
use crate::platform::clock::Timestamp;

/// Shortest time that is measured over.
const WINDOW_MIN_MS: i64 = 30_000;
/// Shortest time between two notes, and between the first and the last for a rate.
const NOTE_EVERY_MS: i64 = 900;
const MEASURED_MIN_MS: i64 = 4_000;
/// Notes kept at most.
const NOTES_MAX: usize = 600;

/// The calls of the last while.
#[derive(Clone, Debug, Default)]
pub(super) struct CallLog {
    notes: VecDeque<(Timestamp, u64)>,
}

impl CallLog {
    /// Notes what a tick returned.
    pub fn note(&mut self, snapshot: &Snapshot, rules: &Rules) {
        let Some(at) = snapshot.at else { return };
        if let Some((last, calls)) = self.notes.back() {
            let since = at.millis() - last.millis();
            if *calls > snapshot.calls_made || since < 0 {
                // Another making of the line, or a clock that went back.
                self.notes.clear();
            } else if since < NOTE_EVERY_MS {
                return;
            }
        }
        self.notes.push_back((at, snapshot.calls_made));
        let window = (i64::from(rules.claim_secs) * 1000).max(WINDOW_MIN_MS);
        while self.notes.len() > NOTES_MAX
            || self.notes.front().is_some_and(|(first, _)| at.millis() - first.millis() > window)
        {
            self.notes.pop_front();
        }
    }

    /// Calls per second, where they were measured.
    #[expect(clippy::cast_precision_loss, reason = "a rate of calls")]
    fn rate(&self) -> Option<f64> {
        let ((first, before), (last, after)) = (self.notes.front()?, self.notes.back()?);
        let over = last.millis() - first.millis();
        (over >= MEASURED_MIN_MS && after > before).then(|| (after - before) as f64 * 1000.0 / over as f64)
    }

    /// Seconds until the call of whoever has this many ranks before.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "seconds of an estimate"
    )]
    pub fn eta_seconds(&self, ahead: u64, rules: &Rules) -> u64 {
        let turnover = f64::from(rules.max_active) / f64::from(rules.session_secs.max(1));
        let allowed = f64::from(rules.admit_per_second).min(turnover.max(f64::MIN_POSITIVE));
        let first_turn = u64::from(rules.max_active);
        match self.rate() {
            Some(rate) => (ahead as f64 / rate).ceil() as u64,
            // Before anybody was called, the slots are free: they are filled at the full rate.
            None if self.notes.back().is_none_or(|(_, calls)| *calls == 0) && ahead < first_turn => {
                ahead.div_ceil(u64::from(rules.admit_per_second.max(1)))
            }
            None => (ahead as f64 / allowed).ceil().min(1e9) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        admit_per_second: 50,
        max_active: 100,
        claim_secs: 60,
        session_secs: 600,
        is_paused: false,
        joins_closed: false,
        is_stopped: false,
    };

    fn tick(secs: i64, calls_made: u64) -> Snapshot {
        Snapshot { at: Timestamp::from_millis(secs * 1000), calls_made, ..Snapshot::default() }
    }

    #[test]
    fn the_rate_is_what_was_measured_over_the_last_window() {
        let mut log = CallLog::default();
        assert_eq!(log.eta_seconds(50, &RULES), 1);
        // 10 a second for a minute and a half, then 2 a second.
        (0..=90).for_each(|secs| log.note(&tick(secs, 10 * secs.cast_unsigned()), &RULES));
        assert_eq!(log.eta_seconds(100, &RULES), 10);
        (91..=150).for_each(|secs| log.note(&tick(secs, 900 + 2 * (secs - 90).cast_unsigned()), &RULES));
        assert_eq!(log.eta_seconds(100, &RULES), 50);
    }

    #[test]
    fn a_line_that_stands_is_estimated_from_its_rules() {
        let mut log = CallLog::default();
        (0..=200).for_each(|secs| log.note(&tick(secs, 100), &RULES));
        // 100 slots are given back over 600 seconds.
        assert_eq!(log.eta_seconds(10, &RULES), 60);
        // A line made anew counts from nothing.
        log.note(&tick(201, 0), &RULES);
        assert_eq!(log.notes.len(), 1);
    }
}
