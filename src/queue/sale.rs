//! One sale's line as an instance keeps it in memory: enough to answer whoever waits.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rand::Rng as _;

use super::board::Board;
use super::channel::Channel;
use super::charge::MAKING;
use super::domain::{InCharge, Phase, Place, Rules, Settings, Snapshot, Standing, Supply, Ticket};
use super::draw::Permutation;
use super::eta::CallLog;
use super::gaps::{GHOSTS_MAX, Gaps};
use super::line::{At, Ranking, Spot, Ticked};
use super::pace::{self, Pace};
use super::skipped::Skipped;
use super::store::SaleRow;
use crate::catalog::ConcertId;
use crate::catalog::domain::{Concert, Hours, Order};
use crate::platform::clock::Timestamp;
use crate::platform::error::Code;
use crate::platform::telemetry::Seldom;
use crate::platform::token::{KeyRing, Sealer};

/// A draw that has been made.
#[derive(Debug)]
pub struct Draw {
    /// How many came early.
    pub lobby_size: u64,
    /// What the ranks follow from, as hex: no secret any more.
    pub seed: String,
    /// The ranks.
    pub ranks: Permutation,
}

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
    /// What was asked of the line's store before then does not tell that the line was lost: it was just being made.
    pub(super) made_by: Option<Instant>,
    /// Who keeps it.
    pub in_charge: InCharge,
    /// What MySQL is known to allow.
    pub ceiling: u64,
    /// The last tick's numbers.
    pub snapshot: Snapshot,
    /// Seats left, if known.
    pub supply: Option<Supply>,
    /// When those who wait ask again, by these numbers.
    pub pace: Pace,
    /// The draw, once it was made.
    pub draw: Option<Arc<Draw>>,
    /// The size of a lobby that has closed, until the line knows its ranks.
    pub(super) closed_lobby: Option<u64>,
    /// When the line's store last answered a tick at this epoch.
    pub(super) ticked_at: Option<Instant>,
    /// How old the checkpoint in MySQL was when it was last read, and how far it was.
    pub(super) checkpoint: Checkpoint,
    pub(super) gaps: Gaps,
    /// Ranks of a drawn lobby's gaps.
    ghosts: Skipped,
    /// Ranks of places given up.
    given_up: Skipped,
    pub(super) calls: CallLog,
}

/// What MySQL knew of the line when its row was last read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checkpoint {
    pub age: Option<Duration>,
    read_at: Instant,
    pub issued: u64,
    pub serving: u64,
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

    /// Whether the place was given up before its call.
    pub(super) fn is_gone(&self, spot: Spot) -> bool {
        match spot.rank {
            Some(rank) => self.snapshot.gone.contains(&rank),
            None => self.snapshot.gone_early.contains(&spot.arrival),
        }
    }

    /// How many must be called before `rank` is: without ranks that nobody has any more, which are stepped over outside of rate
    /// and slots.
    #[must_use]
    pub(super) fn called_before(&self, rank: u64) -> u64 {
        let serving = self.snapshot.serving;
        let lobby_size = self.draw.as_ref().map_or(0, |draw| draw.lobby_size);
        let nobodys = self.gaps.count(serving.max(lobby_size), rank) + self.ghosts.count(serving, rank);
        rank.saturating_sub(serving).saturating_sub(nobodys + self.given_up.count(serving, rank))
    }

    /// Finds the ranks of the lobby's gaps, of which the line is told so many.
    fn find_ghosts(&mut self) {
        self.ghosts.clear();
        if let Some(draw) = &self.draw {
            self.ghosts.add(draw.ghosts(&self.gaps).take(GHOSTS_MAX));
        }
    }
}

/// How fast indices are issued.
#[derive(Debug, Default)]
struct Joins {
    epoch: u32,
    since: Option<(Instant, u64)>,
    per_second: u64,
}

impl Joins {
    /// Measures over at least half a second; a burst counts at once.
    fn note(&mut self, epoch: u32, now: Instant, issued: u64) -> u64 {
        if self.epoch != epoch {
            // A line made anew goes on from its ceiling: nobody has joined for that.
            *self = Self { epoch, ..Self::default() };
        }
        let (since, before) = *self.since.get_or_insert((now, issued));
        let elapsed = now.duration_since(since);
        let joins = issued.saturating_sub(before);
        if elapsed >= Duration::from_millis(500) {
            let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            self.per_second = joins.saturating_mul(1000) / millis.max(1);
            self.since = Some((now, issued));
        }
        self.per_second.max(joins)
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
    joins: Mutex<Joins>,
    /// When it was last logged that the line does not move, or is not kept up.
    pub(super) standstill: Seldom,
    pub(super) neglect: Seldom,
    /// Whether others reach a store of the line that this instance does not.
    pub(super) is_cut_off: AtomicBool,
    /// Whether a line that this instance has made anew is still to be told which places were given up.
    pub(super) is_untold: AtomicBool,
    /// Since when this instance does not reach the line's store.
    pub(super) troubled_since: Mutex<Option<Instant>>,
    /// Since when Redis answers again, while MySQL keeps the line.
    pub(super) redis_back: Mutex<Option<Instant>>,
    state: RwLock<State>,
}

impl Sale {
    /// From the catalogue's and the store's facts.
    #[must_use]
    pub fn new(
        concert: &Concert,
        row: &SaleRow,
        keys: &KeyRing,
        draw: Option<Arc<Draw>>,
        settings: &Settings,
        channel: Arc<Channel>,
    ) -> Self {
        Self {
            concert: concert.id,
            order: concert.queue_order,
            commitment: concert.draw_commitment.clone(),
            tickets: keys.sealer("queue.ticket", concert.id.0.as_bytes()),
            upkeep: tokio::sync::Mutex::new(()),
            loaded_at: Instant::now(),
            board: Board::new(channel, Duration::from_millis(settings.events_ms)),
            settings: settings.clone(),
            joins: Mutex::default(),
            standstill: Seldom::default(),
            neglect: Seldom::default(),
            is_cut_off: AtomicBool::new(false),
            is_untold: AtomicBool::new(false),
            troubled_since: Mutex::default(),
            redis_back: Mutex::default(),
            state: RwLock::new(State::new(concert.hours(), row, draw, settings)),
        }
    }

    /// Reads the state.
    pub fn view<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, write: impl FnOnce(&mut State)) {
        write(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The making of the line that this instance knows.
    #[must_use]
    pub fn at(&self) -> At {
        At { concert: self.concert, epoch: self.view(|state| state.epoch) }
    }

    /// A place with its rank, once that is known.
    #[must_use]
    pub fn spot(&self, arrival: u64) -> Spot {
        match self.order {
            Order::Fifo => Spot { arrival, rank: Some(arrival) },
            Order::Draw => self.view(|state| self.spot_in(state, arrival)),
        }
    }

    /// The same for whoever reads the state already.
    pub(super) fn spot_in(&self, state: &State, arrival: u64) -> Spot {
        let rank = match self.order {
            Order::Fifo => Some(arrival),
            Order::Draw => state.draw.as_ref().map(|draw| draw.rank_of(arrival)),
        };
        Spot { arrival, rank }
    }

    /// How ranks follow from arrivals, as far as this instance knows.
    #[must_use]
    pub fn ranking(&self) -> Ranking {
        self.view(|state| self.ranking_of(state))
    }

    pub(super) fn ranking_of(&self, state: &State) -> Ranking {
        let opens_at = state.hours.booking_opens_at;
        match (self.order, &state.draw) {
            (Order::Fifo, _) => Ranking::Fifo,
            (Order::Draw, Some(draw)) => Ranking::Drawn { lobby_size: draw.lobby_size, opens_at },
            (Order::Draw, None) => Ranking::Undrawn { opens_at },
        }
    }

    /// How many indices were issued in the last second or so, given how many were issued by now.
    pub(super) fn joins_per_second(&self, issued: u64) -> u64 {
        let mut joins = self.joins.lock().unwrap_or_else(PoisonError::into_inner);
        joins.note(self.at().epoch, Instant::now(), issued)
    }

    /// Whether ranks are still to be drawn.
    #[must_use]
    pub fn is_undrawn(&self) -> bool {
        matches!(self.ranking(), Ranking::Undrawn { .. })
    }

    /// Takes over what operators changed.
    pub fn refresh(&self, hours: Hours, row: &SaleRow, draw: Option<Arc<Draw>>) {
        self.change(|state| {
            state.hours = hours;
            state.adopt(row, draw);
        });
    }

    /// Takes over the store's row.
    pub fn adopt(&self, row: &SaleRow, draw: Option<Arc<Draw>>) {
        self.change(|state| state.adopt(row, draw));
    }

    /// Takes over the numbers of a tick at this epoch. `serving` never goes back; places called since are forgotten.
    pub fn apply(&self, epoch: u32, ticked: &Ticked) {
        self.change(|state| {
            if state.epoch != epoch {
                return;
            }
            state.ticked_at = Some(Instant::now());
            let (known, tick) = (&mut state.snapshot, &ticked.snapshot);
            if tick.serving < known.serving {
                return;
            }
            let (mut gone, mut early) = (std::mem::take(&mut known.gone), std::mem::take(&mut known.gone_early));
            gone.extend(&tick.gone);
            gone.retain(|rank| *rank >= tick.serving);
            state.given_up.add(tick.gone.iter().copied());
            match &state.draw {
                None => early.extend(&tick.gone_early),
                Some(draw) => {
                    let drawn: Vec<u64> = early.drain().map(|arrival| draw.rank_of(arrival)).collect();
                    state.given_up.add(drawn.iter().copied());
                    gone.extend(drawn);
                }
            }
            state.given_up.forget_passed(tick.serving);
            *known = Snapshot { gone, gone_early: early, issued: tick.issued.max(known.issued), ..tick.clone() };
            let (snapshot, lobby_size) = (&mut state.snapshot, state.draw.as_ref().map_or(0, |draw| draw.lobby_size));
            snapshot.nobodys = state.gaps.count(snapshot.serving.max(lobby_size), snapshot.issued)
                + state.ghosts.count(snapshot.serving, lobby_size);
            state.closed_lobby = ticked.lobby_size.filter(|_| !ticked.is_drawn);
            state.calls.note(&state.snapshot, &state.rules);
            state.pace = Pace::of_line(&state.snapshot, &state.rules, &self.settings);
        });
    }

    /// Takes over how many seats are left.
    pub fn set_supply(&self, supply: Supply) {
        self.change(|state| state.supply = Some(supply));
    }

    /// The line may be asked of at this epoch from `by` on. Nothing is known of that while this instance itself makes it.
    pub(super) fn mark_made(&self, epoch: u32, by: Option<Instant>) {
        self.change(|state| {
            if state.epoch == epoch {
                state.made_by = by;
            }
        });
    }

    /// The line knows its ranks.
    pub(super) fn mark_drawn(&self) {
        self.change(|state| state.closed_lobby = None);
    }

    /// A place as its holder sees it: where it stands, until when, and the rank where that is known.
    pub(super) fn place(
        &self,
        state: &State,
        ticket: &Ticket,
        (standing, claim_by): (Standing, Option<Timestamp>),
        rank: Option<u64>,
        now: Timestamp,
    ) -> Place {
        let before = rank.map(|rank| state.called_before(rank));
        Place {
            standing,
            arrival: ticket.arrival,
            rank,
            ahead: rank.map(|rank| rank.saturating_sub(state.snapshot.serving)),
            eta_seconds: before.map(|before| state.calls.eta_seconds(before, &state.rules)),
            poll_after_ms: self.pause(state, standing, before.unwrap_or(0), now),
            expires_at: ticket.expires_at,
            claim_by: claim_by.filter(|_| standing == Standing::Called),
        }
    }

    /// When whoever stands there, with so many to be called before, should ask again.
    pub fn poll_after_ms(&self, standing: Standing, before: u64, now: Timestamp) -> u64 {
        self.view(|state| self.pause(state, standing, before, now))
    }

    fn pause(&self, state: &State, standing: Standing, before: u64, now: Timestamp) -> u64 {
        let spread = rand::rng().random_range(0.0..1.0);
        match standing {
            Standing::Lobby => {
                let (waiting, opens_at) = (state.snapshot.waiting(), state.hours.booking_opens_at);
                pace::lobby_poll_after_ms(waiting, now, opens_at, &self.settings, spread)
            }
            Standing::Waiting => state.pace.after_ms(before, spread),
            Standing::Called => state.pace.called_after_ms(spread),
            // Nothing more will happen to this place.
            Standing::Admitted | Standing::Lapsed | Standing::Left | Standing::Finished => self.settings.poll_max_ms,
        }
    }

    /// Counts a place given up on this instance, before the next tick tells.
    pub fn mark_gone(&self, spot: Spot) {
        self.change(|state| match spot.rank {
            Some(rank) if rank >= state.snapshot.serving => drop(state.snapshot.gone.insert(rank)),
            Some(_) => {}
            None => drop(state.snapshot.gone_early.insert(spot.arrival)),
        });
    }

    /// Counts an index issued through this instance, before the next tick tells.
    pub fn mark_issued(&self, arrival: u64) {
        self.change(|state| state.snapshot.issued = state.snapshot.issued.max(arrival + 1));
    }
}

impl Draw {
    /// The rank of any arrival: those after the lobby stand behind it in their order.
    #[must_use]
    pub fn rank_of(&self, arrival: u64) -> u64 {
        self.ranks.rank_of(arrival).unwrap_or(arrival)
    }

    /// The ranks of the lobby's gaps: nobody has them.
    pub(super) fn ghosts(&self, gaps: &Gaps) -> impl Iterator<Item = u64> {
        gaps.inside(self.lobby_size).map(|arrival| self.rank_of(arrival))
    }
}

impl Checkpoint {
    fn of(row: &SaleRow) -> Self {
        Self { age: row.checkpoint_age, read_at: Instant::now(), issued: row.issued, serving: row.serving }
    }

    /// As far as is known.
    pub fn is_older_than(&self, age: Duration) -> bool {
        self.age.is_none_or(|then| then + self.read_at.elapsed() >= age)
    }

    /// Whether it was written after that instant.
    pub fn is_later_than(&self, instant: Instant) -> bool {
        self.age.is_some_and(|age| self.read_at.checked_sub(age).is_some_and(|written| written > instant))
    }
}

impl State {
    fn new(hours: Hours, row: &SaleRow, draw: Option<Arc<Draw>>, settings: &Settings) -> Self {
        let snapshot = Snapshot { issued: row.issued.max(row.serving), serving: row.serving, ..Snapshot::default() };
        let mut state = Self {
            hours,
            rules: row.rules,
            rules_version: row.rules_version,
            epoch: row.epoch,
            // An instance that starts may do so while another one makes the line for the first time.
            made_by: row.checkpoint_age.map(|_| Instant::now() + MAKING),
            in_charge: row.in_charge,
            ceiling: row.ceiling,
            pace: Pace::of_line(&snapshot, &row.rules, settings),
            snapshot,
            supply: None,
            draw,
            closed_lobby: None,
            ticked_at: None,
            checkpoint: Checkpoint::of(row),
            gaps: Gaps::parse(&row.gaps),
            ghosts: Skipped::default(),
            given_up: Skipped::default(),
            calls: CallLog::default(),
        };
        state.find_ghosts();
        state
    }

    fn adopt(&mut self, row: &SaleRow, draw: Option<Arc<Draw>>) {
        // A row may have been read before an operator's change that this instance has made since.
        if row.rules_version >= self.rules_version {
            self.rules = row.rules;
            self.rules_version = row.rules_version;
        }
        self.checkpoint = Checkpoint::of(row);
        let is_news = self.draw.is_none() && draw.is_some();
        if is_news {
            self.draw = draw;
        }
        if row.epoch > self.epoch {
            self.epoch = row.epoch;
            self.made_by = Some(Instant::now() + MAKING);
            self.ticked_at = None;
            self.snapshot.gone.clear();
            self.snapshot.gone_early.clear();
            self.snapshot.gone_seq = 0;
            self.given_up.clear();
        }
        let mut gaps = None;
        if row.epoch >= self.epoch {
            self.in_charge = row.in_charge;
            gaps = Some(Gaps::parse(&row.gaps)).filter(|gaps| *gaps != self.gaps);
        }
        if is_news || gaps.is_some() {
            self.gaps = gaps.unwrap_or_else(|| std::mem::take(&mut self.gaps));
            self.find_ghosts();
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
            seed_sealed: String::new(),
            in_charge: InCharge::Usual,
            run_id: String::new(),
            checkpoint_age: None,
        }
    }

    #[test]
    fn rules_that_were_read_earlier_do_not_come_back() {
        let now = Clock::default().now();
        let hours = Hours { lobby_opens_at: None, booking_opens_at: now, booking_closes_at: now };
        let first = row(0, 1);
        let mut state = State::new(hours, &first, None, &Settings::for_tests());
        // An instance that does not count changes them in between.
        for (version, max_active, wanted) in [(0, 2, 2), (2, 3, 3), (1, 4, 3), (2, 5, 5), (3, 6, 6)] {
            state.adopt(&row(version, max_active), None);
            assert_eq!(state.rules.max_active, wanted, "version {version}");
        }
    }

    #[test]
    fn a_line_may_be_asked_of_once_it_can_be_there() {
        let now = Clock::default().now();
        let hours = Hours { lobby_opens_at: None, booking_opens_at: now, booking_closes_at: now };
        let settings = Settings::for_tests();
        // Nobody has made it: whoever finds it cold does.
        let never = row(0, 1);
        assert!(State::new(hours, &never, None, &settings).made_by.is_none());
        // Somebody has, perhaps just now.
        let lately = SaleRow { checkpoint_age: Some(Duration::ZERO), ..row(0, 1) };
        let mut state = State::new(hours, &lately, None, &settings);
        assert!(state.made_by.is_some_and(|by| by > Instant::now()));
        // The same making again is no news, another one is.
        state.made_by = None;
        state.adopt(&lately, None);
        assert!(state.made_by.is_none());
        state.adopt(&SaleRow { epoch: 2, ..lately }, None);
        assert!(state.made_by.is_some_and(|by| by > Instant::now()));
    }
}
