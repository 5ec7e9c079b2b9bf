//! One sale's line as an instance keeps it in memory: enough to answer whoever waits.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::board::Board;
use super::channel::Channel;
use super::domain::{Phase, Rules, Settings, Snapshot, Standing, Supply};
use super::pace::{self, Pace};
use super::store::SaleRow;
use crate::catalog::ConcertId;
use crate::catalog::domain::{Concert, Hours, Order};
use crate::platform::clock::Timestamp;
use crate::platform::token::{KeyRing, Sealer};

/// What changes while a sale runs.
#[derive(Clone, Debug)]
pub struct State {
    /// When doors open and close.
    pub hours: Hours,
    /// What operators set.
    pub rules: Rules,
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
    /// When those who wait ask again, by these numbers.
    pub pace: Pace,
}

impl State {
    /// The phase at `now`.
    #[must_use]
    pub fn phase(&self, now: Timestamp) -> Phase {
        Phase::at(now, &self.hours, &self.rules, self.supply)
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
    /// What everybody may know of it.
    pub(super) board: Board,
    settings: Settings,
    state: RwLock<State>,
}

impl Sale {
    /// From the catalogue's and the store's facts.
    #[must_use]
    pub fn new(concert: &Concert, row: &SaleRow, keys: &KeyRing, settings: &Settings, channel: Arc<Channel>) -> Self {
        let snapshot = Snapshot { issued: row.issued.max(row.serving), serving: row.serving, ..Snapshot::default() };
        let pace = Pace::of(snapshot.waiting(), row.rules.admit_per_second, row.rules.claim_secs, settings);
        let state = State {
            hours: concert.hours(),
            rules: row.rules,
            epoch: row.epoch,
            ceiling: row.ceiling,
            snapshot,
            supply: None,
            lobby_size: row.lobby_size,
            pace,
        };
        Self {
            concert: concert.id,
            order: concert.queue_order,
            commitment: concert.draw_commitment.clone(),
            tickets: keys.sealer("queue.ticket", concert.id.0.as_bytes()),
            upkeep: tokio::sync::Mutex::new(()),
            loaded_at: Instant::now(),
            board: Board::new(channel, Duration::from_millis(settings.events_ms)),
            settings: settings.clone(),
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
            let (waiting, rules) = (state.snapshot.waiting(), state.rules);
            state.pace = Pace::of(waiting, rules.admit_per_second, rules.claim_secs, &self.settings);
        });
    }

    /// When whoever stands there should ask again.
    pub fn poll_after_ms(&self, standing: Standing, ahead: u64, now: Timestamp, spread: f64) -> u64 {
        self.view(|state| match standing {
            Standing::Lobby => {
                let (waiting, opens_at) = (state.snapshot.waiting(), state.hours.booking_opens_at);
                pace::lobby_poll_after_ms(waiting, now, opens_at, &self.settings, spread)
            }
            Standing::Waiting => state.pace.after_ms(ahead, spread),
            Standing::Called => state.pace.called_after_ms(spread),
            // Nothing more will happen to this place.
            Standing::Admitted | Standing::Lapsed | Standing::Left | Standing::Finished => self.settings.poll_max_ms,
        })
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
        self.rules = row.rules;
        if row.epoch > self.epoch {
            self.epoch = row.epoch;
            self.snapshot.gone.clear();
            self.snapshot.gone_seq = 0;
        }
        self.ceiling = self.ceiling.max(row.ceiling);
    }
}
