//! Warmings: when they are due, when they are tried again, and what an operator is shown.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::catalog::domain::{ConcertId, LiveSale};
use crate::platform::clock::Timestamp;
use crate::platform::error::Problem;
use crate::platform::instances::{InstanceId, Live};

crate::problem_codes! {
    WARMER_OFF = 409 "warmer_off" "Nothing is warmed" "This installation keeps nothing in memory, or its warmer is off: see cache.enabled and warmer.enabled.";
}

/// The pause before a failed warming is tried again: the first, twice as long each time, and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Tries after which a warming is given up. An opening that moves, a loss or an order begins anew.
const ATTEMPTS_MAX: u32 = 30;
/// Who opens within this is not made to wait for the shared tier.
const URGENT: Duration = Duration::from_mins(1);

/// Why a concert is to be warm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = WarmingOccasion)]
pub enum Occasion {
    /// The lobby opens.
    Lobby,
    /// Booking opens.
    Booking,
    /// An operator says so.
    Order,
}

impl Occasion {
    /// As `warmings.occasion` keeps it.
    #[must_use]
    pub const fn stored(self) -> u8 {
        match self {
            Self::Lobby => 0,
            Self::Booking => 1,
            Self::Order => 2,
        }
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// Where it is none.
    pub fn from_stored(stored: u8) -> Result<Self, Problem> {
        match stored {
            0 => Ok(Self::Lobby),
            1 => Ok(Self::Booking),
            2 => Ok(Self::Order),
            other => Err(Problem::internal(anyhow::anyhow!("no occasion {other}"))),
        }
    }
}

/// How far a warming is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// To be done, at its time.
    Due,
    /// The shared tier is filled.
    Filled,
    /// Tried as often as it may be.
    GivenUp,
}

/// A warming's row.
#[derive(Clone, Debug)]
pub struct Warming {
    /// What is to be warm.
    pub concert_id: ConcertId,
    /// Why.
    pub occasion: Occasion,
    /// The opening, or when the order was given.
    pub opens_at: Timestamp,
    /// How far it is.
    pub progress: Progress,
    /// When it may be claimed.
    pub due_at: Timestamp,
    /// Until when whoever claimed it has it.
    pub leased_until: Option<Timestamp>,
    /// How often the shared tier was filled.
    pub round: u32,
    /// Failed tries.
    pub attempts: u32,
    /// When the shared tier was filled last.
    pub filled_at: Option<Timestamp>,
    /// How the last try ended; empty where it went well.
    pub last_error: String,
}

impl Warming {
    /// Whether an instance is at it.
    #[must_use]
    pub fn is_running(&self, now: Timestamp) -> bool {
        self.progress == Progress::Due && self.leased_until.is_some_and(|until| until > now)
    }

    /// Whether it should have been done by now.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.progress == Progress::Due && self.due_at <= now
    }
}

/// What is in an instance's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// When it began to be loaded.
    pub since: Timestamp,
    /// Until when no part of it is to be renewed.
    pub until: Timestamp,
}

impl Kept {
    /// Whether two thirds of its life are over: time to load it again, while there is some left for a second try.
    #[must_use]
    pub fn is_ageing(&self, now: Timestamp) -> bool {
        now >= self.since.plus(self.until.since(self.since) * 2 / 3)
    }
}

/// A concert that is to be warm now or soon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The concert.
    pub concert: ConcertId,
    /// Its openings that lie ahead, the nearest first.
    pub ahead: Vec<(Occasion, Timestamp)>,
    /// When its doors opened last, or an operator ordered it.
    pub opened_at: Option<Timestamp>,
    /// Whether an operator wants it warm, however far its opening is.
    pub is_ordered: bool,
}

impl Target {
    /// The sale's, at this instant.
    #[must_use]
    pub fn of_sale(sale: &LiveSale, now: Timestamp) -> Self {
        let hours = &sale.hours;
        let lobby = hours.lobby_opens_at.map(|at| (Occasion::Lobby, at));
        let mut all: Vec<(Occasion, Timestamp)> =
            lobby.into_iter().chain([(Occasion::Booking, hours.booking_opens_at)]).collect();
        all.sort_by_key(|(_, at)| *at);
        let (opened, ahead): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, at)| *at <= now);
        let opened_at = opened.last().map(|(_, at)| *at);
        Self { concert: sale.concert_id, ahead, opened_at, is_ordered: false }
    }

    /// Whether its doors open within this time, or are open.
    #[must_use]
    pub fn is_within(&self, lead: Duration, now: Timestamp) -> bool {
        let is_open = self.opened_at.is_some() && !self.is_ordered;
        is_open || self.opening_within(lead, now).is_some()
    }

    /// The nearest opening ahead, if it is within this time.
    #[must_use]
    pub fn opening_within(&self, lead: Duration, now: Timestamp) -> Option<Timestamp> {
        self.ahead.first().map(|(_, at)| *at).filter(|at| *at <= now.plus(lead))
    }

    /// Whether every instance is to have it in memory now.
    #[must_use]
    pub fn is_wanted(&self, lead: Duration, now: Timestamp) -> bool {
        self.is_ordered || self.is_within(lead, now)
    }

    /// How far its nearest opening is, either way: the crowd is where doors open.
    #[must_use]
    pub fn distance(&self, now: Timestamp) -> Duration {
        let ahead = self.ahead.first().map(|(_, at)| at.since(now));
        let behind = self.opened_at.map(|at| now.since(at));
        ahead.into_iter().chain(behind).min().unwrap_or(Duration::MAX)
    }
}

/// What there is to do, hottest first.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The instant that it was seen at.
    pub now: Timestamp,
    /// Concerts to be warm, the nearest opening first.
    pub targets: Vec<Target>,
    /// Their rows.
    pub rows: BTreeMap<ConcertId, Vec<Warming>>,
}

impl Scene {
    /// These sales, and what operators ordered.
    #[must_use]
    pub fn of(now: Timestamp, sales: &[LiveSale], rows: Vec<Warming>) -> Self {
        let mut targets: BTreeMap<ConcertId, Target> =
            sales.iter().map(|sale| (sale.concert_id, Target::of_sale(sale, now))).collect();
        let mut by_concert: BTreeMap<ConcertId, Vec<Warming>> = BTreeMap::new();
        for row in rows {
            let concert = row.concert_id;
            if row.occasion == Occasion::Order {
                let opened_at = Some(row.opens_at);
                let ordered = Target { concert, ahead: Vec::new(), opened_at, is_ordered: true };
                targets.entry(concert).or_insert(ordered).is_ordered = true;
            }
            by_concert.entry(concert).or_default().push(row);
        }
        let mut targets: Vec<Target> = targets.into_values().collect();
        targets.sort_by_key(|target| (target.distance(now), target.concert));
        Self { now, targets, rows: by_concert }
    }

    /// The concert's rows.
    #[must_use]
    pub fn rows_of(&self, concert: ConcertId) -> &[Warming] {
        self.rows.get(&concert).map_or(&[], Vec::as_slice)
    }

    /// Openings within this time that have no row yet, or one of another time, in the order of the rows' keys.
    #[must_use]
    pub fn unplanned(&self, within: Duration) -> Vec<(ConcertId, Occasion, Timestamp)> {
        let by = self.now.plus(within);
        let mut missing = Vec::new();
        for target in &self.targets {
            let rows = self.rows_of(target.concert);
            let is_planned = |occasion, at| rows.iter().any(|row| row.occasion == occasion && row.opens_at == at);
            let ahead = target.ahead.iter().filter(|(occasion, at)| *at <= by && !is_planned(*occasion, *at));
            missing.extend(ahead.map(|(occasion, at)| (target.concert, *occasion, *at)));
        }
        missing.sort_unstable();
        missing
    }

    /// Of each concert the row by which the shared tier was filled last, hottest first.
    #[must_use]
    pub fn filled(&self) -> Vec<&Warming> {
        let newest = |target: &Target| {
            let filled = self.rows_of(target.concert).iter().filter(|row| row.progress == Progress::Filled);
            filled.max_by_key(|row| row.filled_at)
        };
        self.targets.iter().filter_map(newest).collect()
    }

    /// Whether the concert's shared tier is about to be filled, and who follows does better to wait for it.
    #[must_use]
    pub fn is_about_to_be_filled(&self, target: &Target) -> bool {
        let is_at_hand = |row: &Warming| row.is_due(self.now) || (row.progress == Progress::Due && row.attempts > 0);
        !target.is_within(URGENT, self.now) && self.rows_of(target.concert).iter().any(is_at_hand)
    }

    /// How long the warming that is most overdue has waited for somebody to claim it.
    #[must_use]
    pub fn overdue(&self) -> Duration {
        let waiting = self.rows.values().flatten().filter(|row| row.is_due(self.now) && !row.is_running(self.now));
        waiting.map(|row| self.now.since(row.due_at)).max().unwrap_or_default()
    }
}

/// The pause after so many failed tries; none where it is given up.
#[must_use]
pub fn delay_after(attempts: u32) -> Option<Duration> {
    let doubled = RETRY.0.saturating_mul(1 << attempts.saturating_sub(1).min(16));
    (attempts < ATTEMPTS_MAX).then(|| doubled.min(RETRY.1))
}

/// How far a warming is, for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WarmingStatus {
    /// Its time has not come.
    Planned,
    /// Due: somebody will take it at once.
    Due,
    /// An instance is at it.
    Running,
    /// It failed and will be tried again.
    Failing,
    /// The shared tier is filled; instances follow.
    Filled,
    /// Tried as often as it may be.
    GivenUp,
}

/// A warming as operators see it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct WarmingView {
    /// Why the concert is to be warm.
    pub occasion: Occasion,
    /// The opening, or when the order was given.
    pub opens_at: Timestamp,
    /// When it begins, or is tried again.
    pub due_at: Timestamp,
    /// How far it is.
    pub status: WarmingStatus,
    /// How often the shared tier was filled: for the occasion, and after losses.
    pub rounds: u32,
    /// When it was filled last.
    pub filled_at: Option<Timestamp>,
    /// Tries that failed since.
    pub attempts: u32,
    /// How the last one failed.
    pub last_error: Option<String>,
}

impl WarmingView {
    /// The row at this instant.
    #[must_use]
    pub fn of(row: Warming, now: Timestamp) -> Self {
        let status = match row.progress {
            Progress::Filled => WarmingStatus::Filled,
            Progress::GivenUp => WarmingStatus::GivenUp,
            Progress::Due if row.is_running(now) => WarmingStatus::Running,
            Progress::Due if row.attempts > 0 => WarmingStatus::Failing,
            Progress::Due if row.is_due(now) => WarmingStatus::Due,
            Progress::Due => WarmingStatus::Planned,
        };
        let Warming { occasion, opens_at, due_at, round, filled_at, attempts, last_error, .. } = row;
        let last_error = (!last_error.is_empty()).then_some(last_error);
        Self { occasion, opens_at, due_at, status, rounds: round, filled_at, attempts, last_error }
    }
}

/// What an instance has in memory, as operators see it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = WarmInstance)]
pub struct InstanceView {
    /// The instance.
    pub id: InstanceId,
    /// Its machine and the address that it listens on.
    pub name: String,
    /// When it started.
    pub started_at: Timestamp,
    /// When it was last heard of.
    pub seen_at: Timestamp,
    /// Whether everything of the concert is in its memory.
    pub is_warm: bool,
    /// Since when; null where it is not.
    pub warm_since: Option<Timestamp>,
    /// When the first part of it is to be loaded again; null where it is not warm.
    pub expires_at: Option<Timestamp>,
}

/// What is warm of a concert.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ConcertCache)]
pub struct CacheView {
    /// The concert.
    pub concert_id: ConcertId,
    /// Whether every instance that runs has it in memory.
    pub is_warm: bool,
    /// Why and when it is loaded.
    pub warmings: Vec<WarmingView>,
    /// The instances that run.
    pub instances: Vec<InstanceView>,
}

impl CacheView {
    /// These rows and instances, with what the instances said of their memory.
    #[must_use]
    pub fn of(
        concert_id: ConcertId,
        rows: Vec<Warming>,
        live: Vec<Live>,
        kept: &BTreeMap<InstanceId, Kept>,
        now: Timestamp,
    ) -> Self {
        let instances = live.into_iter().map(|Live { id, name, started_at, seen_at }| {
            let kept = kept.get(&id).filter(|kept| kept.until > now);
            let (warm_since, expires_at) = (kept.map(|kept| kept.since), kept.map(|kept| kept.until));
            InstanceView { id, name, started_at, seen_at, is_warm: kept.is_some(), warm_since, expires_at }
        });
        let instances: Vec<InstanceView> = instances.collect();
        let is_warm = !instances.is_empty() && instances.iter().all(|instance| instance.is_warm);
        let warmings = rows.into_iter().map(|row| WarmingView::of(row, now)).collect();
        Self { concert_id, is_warm, warmings, instances }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::domain::{Hours, Order};

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(secs * 1000).unwrap()
    }

    fn sale(id: u128, lobby: Option<i64>, booking: i64) -> LiveSale {
        let (lobby_opens_at, booking_opens_at) = (lobby.map(at), at(booking));
        let hours = Hours { lobby_opens_at, booking_opens_at, booking_closes_at: at(1_000_000) };
        LiveSale { concert_id: ConcertId(uuid::Uuid::from_u128(id)), order: Order::Fifo, hours }
    }

    fn row(id: u128, occasion: Occasion, opens: i64, progress: Progress) -> Warming {
        Warming {
            concert_id: ConcertId(uuid::Uuid::from_u128(id)),
            occasion,
            opens_at: at(opens),
            progress,
            due_at: at(opens - 180),
            leased_until: None,
            round: 1,
            attempts: 0,
            filled_at: (progress == Progress::Filled).then(|| at(opens - 170)),
            last_error: String::new(),
        }
    }

    #[test]
    fn the_nearest_opening_comes_first_and_what_is_ahead_counts() {
        let sales = [sale(1, None, 5_000), sale(2, Some(900), 2_000), sale(3, None, 990), sale(4, Some(1_010), 9_000)];
        let scene = Scene::of(at(1_000), &sales, Vec::new());
        let order: Vec<u128> = scene.targets.iter().map(|target| target.concert.0.as_u128()).collect();
        assert_eq!(order, [3, 4, 2, 1]);
        let in_lobby = &scene.targets[2];
        assert_eq!((in_lobby.opened_at, in_lobby.ahead.clone()), (Some(at(900)), vec![(Occasion::Booking, at(2_000))]));
        assert_eq!((scene.targets[0].opened_at, scene.targets[0].ahead.len()), (Some(at(990)), 0));
        let due: Vec<bool> =
            scene.targets.iter().map(|target| target.is_within(Duration::from_mins(3), at(1_000))).collect();
        assert_eq!(due, [true, true, true, false], "who waits in a lobby looks at the concert, too");
    }

    #[test]
    fn openings_without_a_row_of_their_time_are_planned() {
        let sales = [sale(1, Some(1_100), 1_150), sale(2, None, 1_050), sale(3, None, 9_000)];
        let rows =
            vec![row(1, Occasion::Lobby, 1_100, Progress::Due), row(2, Occasion::Booking, 1_049, Progress::Filled)];
        let scene = Scene::of(at(1_000), &sales, rows);
        let missing: Vec<(u128, Occasion, Timestamp)> = scene
            .unplanned(Duration::from_mins(5))
            .into_iter()
            .map(|(id, occasion, at)| (id.0.as_u128(), occasion, at))
            .collect();
        assert_eq!(missing, [(1, Occasion::Booking, at(1_150)), (2, Occasion::Booking, at(1_050))]);
    }

    #[test]
    fn who_follows_waits_for_the_shared_tier_unless_time_presses() {
        let rows =
            vec![row(1, Occasion::Booking, 1_170, Progress::Due), row(2, Occasion::Booking, 1_059, Progress::Due)];
        let scene = Scene::of(at(1_000), &[sale(1, None, 1_170), sale(2, None, 1_059)], rows);
        let waits: Vec<bool> = scene.targets.iter().map(|target| scene.is_about_to_be_filled(target)).collect();
        assert_eq!(waits, [false, true]);
        assert_eq!(scene.overdue(), Duration::from_secs(121));
    }

    #[test]
    fn what_was_ordered_is_wanted_however_far_its_opening_is() {
        let rows = vec![row(1, Occasion::Order, 990, Progress::Filled), row(2, Occasion::Order, 995, Progress::Due)];
        let scene = Scene::of(at(1_000), &[sale(1, None, 5_000), sale(3, None, 6_000)], rows);
        let wanted: Vec<(u128, bool)> = scene
            .targets
            .iter()
            .map(|target| (target.concert.0.as_u128(), target.is_wanted(Duration::from_mins(3), at(1_000))))
            .collect();
        assert_eq!(wanted, [(2, true), (1, true), (3, false)]);
        assert_eq!(scene.filled().len(), 1);
    }

    #[test]
    fn failures_are_tried_again_ever_more_slowly_and_not_for_ever() {
        let secs: Vec<Option<u64>> =
            [1, 2, 3, 5, 6, 29, 30].map(|attempts| delay_after(attempts).map(|delay| delay.as_secs())).to_vec();
        assert_eq!(secs, [Some(1), Some(2), Some(4), Some(16), Some(30), Some(30), None]);
    }

    #[test]
    fn what_is_kept_is_loaded_again_while_there_is_time_left() {
        let kept = Kept { since: at(100), until: at(400) };
        assert!(!kept.is_ageing(at(299)) && kept.is_ageing(at(300)) && kept.is_ageing(at(500)));
    }

    #[test]
    fn a_concert_is_warm_where_every_instance_has_it() {
        let live = |id: u128| Live {
            id: InstanceId(uuid::Uuid::from_u128(id)),
            name: "a".into(),
            started_at: at(1),
            seen_at: at(1_000),
        };
        let kept = |until| BTreeMap::from([(live(1).id, Kept { since: at(900), until: at(until) })]);
        let concert = ConcertId(uuid::Uuid::from_u128(9));
        let view = |instances, until| CacheView::of(concert, Vec::new(), instances, &kept(until), at(1_000));
        assert!(view(vec![live(1)], 1_001).is_warm);
        assert!(!view(vec![live(1), live(2)], 1_001).is_warm);
        let over = view(vec![live(1)], 1_000);
        assert_eq!((over.is_warm, over.instances[0].warm_since), (false, None));
        assert!(!view(Vec::new(), 1_001).is_warm);
    }
}
