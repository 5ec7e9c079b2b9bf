//! Saying now and then what happens all the time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shortest time between two of the same.
const PAUSE: Duration = Duration::from_secs(30);

/// Remembers when something was said last.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Whether it may be said again; whoever asks says it.
    pub fn is_due(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|at| at.elapsed() >= PAUSE);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }

    /// What was said is over: the next time is news. Whether something had been said.
    pub fn end(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_said_once_and_news_at_once() {
        let seldom = Seldom::default();
        assert!(seldom.is_due() && !seldom.is_due() && !seldom.is_due());
        assert!(seldom.end() && !seldom.end());
        assert!(seldom.is_due());
    }
}
