//! One sale's line as an instance keeps it in memory: enough to answer whoever waits.

use std::sync::{PoisonError, RwLock};
use std::time::Instant;

use super::domain::{Phase, Rules, Snapshot, Supply};
use super::store::SaleRow;
use crate::catalog::ConcertId;
use crate::catalog::domain::{Concert, Hours, Order};
use crate::platform::clock::Timestamp;
use crate::platform::error::Code;
use crate::platform::token::{KeyRing, Sealer};

/// What changes while a sale runs.
#[derive(Clone, Debug)]
pub struct State {
    /// When doors open and close.
    pub hours: Hours,
    /// What operators set.
    pub rules: Rules,
    /// How often they were changed.
    pub rules_version: u32,
    /// Which making of the line is valid, as this instance knows it.
    pub epoch: u32,
    /// What MySQL is known to allow.
    pub ceiling: u64,
    /// The last tick's numbers.
    pub snapshot: Snapshot,
    /// Seats left, if known.
    pub supply: Option<Supply>,
    /// How many came before opening, once the lobby is closed.
    pub lobby_size: Option<u64>,
}

impl State {
    /// The phase at `now`.
    #[must_use]
    pub fn phase(&self, now: Timestamp) -> Phase {
        Phase::at(now, &self.hours, &self.rules, self.supply)
    }

    /// Why nobody new gets a place at `now`, where that is so.
    #[must_use]
    pub fn refusal(&self, now: Timestamp) -> Option<&'static Code> {
        self.rules.refusal(self.phase(now))
    }
}

/// One sale. Its state is behind a lock that is held for copies only, never across an await.
#[derive(Debug)]
pub struct Sale {
    /// The concert.
    pub concert: ConcertId,
    /// How ranks follow from arrivals.
    pub order: Order,
    /// The draw's public commitment.
    pub commitment: String,
    /// Seals this sale's tickets.
    pub tickets: Sealer,
    /// Taken by whoever rebuilds the line or raises its ceiling, so that one instance does it once.
    pub upkeep: tokio::sync::Mutex<()>,
    /// When it was read from the store.
    pub loaded_at: Instant,
    state: RwLock<State>,
}

impl Sale {
    /// From the catalogue's and the store's facts.
    #[must_use]
    pub fn new(concert: &Concert, row: &SaleRow, keys: &KeyRing) -> Self {
        let snapshot = Snapshot { issued: row.issued.max(row.serving), serving: row.serving, ..Snapshot::default() };
        let state = State {
            hours: concert.hours(),
            rules: row.rules,
            rules_version: row.rules_version,
            epoch: row.epoch,
            ceiling: row.ceiling,
            snapshot,
            supply: None,
            lobby_size: row.lobby_size,
        };
        Self {
            concert: concert.id,
            order: concert.queue_order,
            commitment: concert.draw_commitment.clone(),
            tickets: keys.sealer("queue.ticket", concert.id.0.as_bytes()),
            upkeep: tokio::sync::Mutex::new(()),
            loaded_at: Instant::now(),
            state: RwLock::new(state),
        }
    }

    /// Reads the state.
    pub fn view<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, write: impl FnOnce(&mut State)) {
        write(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes over what operators changed.
    pub fn refresh(&self, hours: Hours, row: &SaleRow) {
        self.change(|state| {
            state.hours = hours;
            state.lobby_size = row.lobby_size;
            state.adopt(row);
        });
    }

    /// Takes over the store's row.
    pub fn adopt(&self, row: &SaleRow) {
        self.change(|state| state.adopt(row));
    }

    /// Takes over the numbers of a tick at this epoch. `serving` never goes back; places called since are forgotten.
    pub fn apply(&self, epoch: u32, tick: &Snapshot, supply: Option<Supply>) {
        self.change(|state| {
            let known = &mut state.snapshot;
            if state.epoch != epoch || tick.serving < known.serving {
                return;
            }
            let mut gone = std::mem::take(&mut known.gone);
            gone.extend(&tick.gone);
            gone.retain(|rank| *rank >= tick.serving);
            *known = Snapshot { gone, ..*tick };
            state.supply = supply;
        });
    }

    /// Counts a place given up on this instance, before the next tick tells.
    pub fn mark_gone(&self, rank: u64) {
        self.change(|state| {
            if rank >= state.snapshot.serving {
                state.snapshot.gone.insert(rank);
            }
        });
    }

    /// Counts an index issued through this instance, before the next tick tells.
    pub fn mark_issued(&self, arrival: u64) {
        self.change(|state| state.snapshot.issued = state.snapshot.issued.max(arrival + 1));
    }
}

impl State {
    fn adopt(&mut self, row: &SaleRow) {
        // A row may have been read before an operator's change that this instance has made since.
        if row.rules_version >= self.rules_version {
            self.rules = row.rules;
            self.rules_version = row.rules_version;
        }
        if row.epoch > self.epoch {
            self.epoch = row.epoch;
            self.snapshot.gone.clear();
            self.snapshot.gone_seq = 0;
        }
        self.ceiling = self.ceiling.max(row.ceiling);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock::Clock;

    fn row(rules_version: u32, max_active: u32) -> SaleRow {
        let rules = Rules {
            admit_per_second: 1,
            max_active,
            claim_secs: 5,
            session_secs: 30,
            is_paused: false,
            joins_closed: false,
            is_stopped: false,
        };
        SaleRow {
            concert: ConcertId::new(),
            rules,
            rules_version,
            epoch: 1,
            ceiling: 0,
            issued: 0,
            serving: 0,
            gaps: String::new(),
            lobby_size: None,
        }
    }

    #[test]
    fn rules_that_were_read_earlier_do_not_come_back() {
        let now = Clock::default().now();
        let hours = Hours { lobby_opens_at: None, booking_opens_at: now, booking_closes_at: now };
        let first = row(0, 1);
        let mut state = State {
            hours,
            rules: first.rules,
            rules_version: first.rules_version,
            epoch: first.epoch,
            ceiling: first.ceiling,
            snapshot: Snapshot::default(),
            supply: None,
            lobby_size: None,
        };
        // An instance that does not count changes them in between.
        for (version, max_active, wanted) in [(0, 2, 2), (2, 3, 3), (1, 4, 3), (2, 5, 5), (3, 6, 6)] {
            state.adopt(&row(version, max_active));
            assert_eq!(state.rules.max_active, wanted, "version {version}");
        }
    }
}
