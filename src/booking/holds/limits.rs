//! How much one buyer may keep from others by asking for it.
//!
//! Seats are marked in the filter before MySQL looks at the pass and the limit: whoever may have them pays one trip. Who asks again
//! and again for what they may not have would keep seats from others in the moments between. So one buyer may ask so
//! often in a minute, on each instance; and of whoever was refused because the pass is over, or because they have as many
//! seats as they may, MySQL is asked first for a while: only when it says that they may have what they ask for are the seats
//! marked. Nobody is refused from memory, so what they give back, on whichever instance, counts at once.

use std::sync::Arc;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::domain::SEAT_LIMIT_EXCEEDED;
use super::store;
use crate::accounts::UserId;
use crate::booking::reservations;
use crate::catalog::ConcertId;
use crate::catalog::domain::Concert;
use crate::platform::clock::Clock;
use crate::platform::config::LimitSettings;
use crate::platform::db::{Conn, Script};
use crate::platform::error::Problem;
use crate::platform::http::keyed::Answer;
use crate::platform::limits::Limiter;
use crate::queue::pass::{self, PASS_EXPIRED, PassId};

/// For how long MySQL is asked first: one mark in such a time is all that is won by asking for nothing.
const REMEMBERED: Duration = Duration::from_mins(1);

/// The limits on holds of one instance. Clones share them.
#[derive(Clone, Debug)]
pub struct HoldLimits {
    users: Limiter<UserId>,
    /// Buyers who were refused because of themselves, by concert.
    refused: Cache<(UserId, ConcertId), ()>,
}

impl HoldLimits {
    /// As set, on this clock.
    #[must_use]
    pub fn new(settings: &LimitSettings, clock: &Clock) -> Self {
        let refused = Cache::builder().max_capacity(settings.keys_max).eviction_policy(EvictionPolicy::lru());
        Self {
            users: Limiter::new("holds-per-user", settings.holds_per_user_per_minute, settings.keys_max, clock.clone()),
            refused: refused.time_to_live(REMEMBERED).build(),
        }
    }

    /// Counts one request.
    ///
    /// # Errors
    /// `rate_limited`.
    pub(super) fn check(&self, user: UserId) -> Result<(), Problem> {
        self.users.check(user)
    }

    /// Whether MySQL is to be asked before seats are marked.
    pub(super) fn is_doubtful(&self, user: UserId, concert: ConcertId) -> bool {
        self.refused.contains_key(&(user, concert))
    }

    /// Remembers how a request ended.
    pub(super) fn note(&self, user: UserId, concert: ConcertId, answer: &Result<Answer, Problem>) {
        match answer {
            Ok(_) => self.refused.invalidate(&(user, concert)),
            Err(problem) if [&PASS_EXPIRED, &SEAT_LIMIT_EXCEEDED].contains(&problem.code()) => {
                self.refused.insert((user, concert), ());
            }
            Err(_) => {}
        }
    }
}

/// What a buyer wants, as far as it matters for whether they may have it.
#[derive(Debug)]
pub(super) struct Wish {
    pub user: UserId,
    pub pass: PassId,
    pub concert: Arc<Concert>,
    /// How many seats.
    pub seats: u64,
}

impl Wish {
    /// Refuses what would be refused whichever seats it is for. What is decided later is decided again.
    pub async fn check(&self, conn: &mut Conn) -> Result<(), Problem> {
        let (concert, offset) = (self.concert.id, conn.offset_micros());
        let mut script = Script::default();
        let asked = pass::ask(&mut script, offset, concert, &[self.pass]);
        let held = store::ask_live_seat_counts(&mut script, offset, concert, &[self.user]);
        let reserved = reservations::store::ask_live_seat_counts(&mut script, concert, &[self.user]);
        let outcomes = script.run(conn).await?;
        let found = asked.read(&outcomes)?;
        if let Some(refusal) = found.halt.refusal() {
            return Err(refusal);
        }
        if !found.live.contains(&self.pass) {
            return Err(pass::expired());
        }
        let counts = outcomes.list(&held)?.into_iter().chain(outcomes.list(&reserved)?);
        let count = counts.map(|(_, seats)| u64::from(seats)).sum::<u64>() + self.seats;
        if count > u64::from(self.concert.seat_limit_per_buyer) { Err(over_limit(&self.concert)) } else { Ok(()) }
    }
}

/// What is told of more seats than one buyer may have.
pub(super) fn over_limit(concert: &Concert) -> Problem {
    Problem::new(&SEAT_LIMIT_EXCEEDED).with("limit", concert.seat_limit_per_buyer)
}
