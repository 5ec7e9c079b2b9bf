//! Whatever happens to a line, it agrees with a plain list of places: random joins, ticks, claims, lapses, leaves, looks, clock
//! moves in both directions, pauses, changed caps, wipes and new epochs, each perhaps sent twice, on both stores.
//!
//! The promises are asserted by themselves, too: no number is issued twice, ranks are called in order and never taken back, nobody's
//! place is lost, and never more than the cap are inside. `FRONTROW_ROUNDS` multiplies the cases, and `PROPTEST_RNG_SEED` chooses
//! others; a case that fails is printed with its seed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use frontrow::accounts::UserId;
use frontrow::platform::clock::Timestamp;
use frontrow::queue::domain::{InCharge, Standing};
use frontrow::queue::draw::Permutation;
use frontrow::queue::line::{At, Claimed, Drawing, End, Join, Joined, Left, Ranking, Remembered, Spot, Warm};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::support::lines::{Made, Shelf, TestLine, warm};
use crate::support::rounds;

mod model;
use model::{Claim, Habits, Model, SESSION, WINDOW};

const USERS: usize = 10;
const CASES: u32 = 30;
/// Real time goes on while a case runs: it must not matter, so ends lie half a step away from everything.
const HALF_STEP: Duration = Duration::from_secs(500);
const HALF_STEP_SECS: u32 = 500;

#[derive(Clone, Debug)]
enum Act {
    Join(usize),
    Look(usize),
    /// By any user, called or not.
    Claim(usize),
    /// By one of those called.
    ClaimCalled(usize),
    Leave(usize),
    /// MySQL has ended the stay of one of those inside.
    Finish(usize),
    Tick {
        most: u32,
        is_paused: bool,
    },
    Move(i64),
    Cap(u32),
    Draw,
    /// The store lost the line, or another instance makes it anew; so many of the last places nobody remembers.
    Lose {
        is_wiped: bool,
        forgotten: u64,
    },
}

fn act() -> impl Strategy<Value = (Act, bool)> {
    let user = || 0..USERS;
    let act = prop_oneof![
        8 => user().prop_map(Act::Join),
        4 => user().prop_map(Act::Look),
        2 => user().prop_map(Act::Claim),
        12 => user().prop_map(Act::ClaimCalled),
        3 => user().prop_map(Act::Leave),
        3 => user().prop_map(Act::Finish),
        8 => (0_u32..5, prop::bool::weighted(0.15)).prop_map(|(most, is_paused)| Act::Tick { most, is_paused }),
        3 => (1_i64..4).prop_map(Act::Move),
        1 => (-2_i64..0).prop_map(Act::Move),
        1 => (1_u32..4).prop_map(Act::Cap),
        2 => Just(Act::Draw),
        1 => (any::<bool>(), 0_u64..3).prop_map(|(is_wiped, forgotten)| Act::Lose { is_wiped, forgotten }),
    ];
    (act, prop::bool::weighted(0.15))
}

/// A line, its model, and what is known outside of both.
struct Run {
    line: TestLine,
    model: Model,
    users: Vec<UserId>,
    seed: [u8; 32],
    /// Arrivals below each ceiling at which the line was lost that nobody remembered.
    lost: Vec<(u64, u64)>,
    rebuilt_at: u64,
    issued: HashSet<u64>,
    serving: u64,
    /// The ends of slots as they were told.
    inside: HashMap<u64, Timestamp>,
    /// The latest instant so far: a stay that was over then stays over, though the clock goes back.
    latest: Timestamp,
    seen: Seen,
}

impl Run {
    async fn new(shelf: &Arc<Shelf>, store: InCharge, is_draw: bool) -> Self {
        let made = Made {
            is_draw,
            opens_in_secs: i64::from(HALF_STEP_SECS) * if is_draw { 3 } else { -1 },
            claim_secs: HALF_STEP_SECS * u32::try_from(WINDOW).expect("small"),
            session_secs: HALF_STEP_SECS * u32::try_from(SESSION).expect("small"),
        };
        let mut line = shelf.made(store, made).await;
        line.ceiling = 0;
        line.rules.max_active = 2;
        line.rules.admit_per_second = 1_000_000;
        let latest = line.now();
        let is_redis = store == InCharge::Usual;
        let habits = Habits { claims_sweep: is_redis, remembers: is_redis };
        Self {
            line,
            model: Model::new(habits, is_draw, if is_draw { 3 } else { -1 }),
            users: (0..USERS).map(|_| UserId::new()).collect(),
            seed: [7; 32],
            lost: Vec::new(),
            rebuilt_at: 0,
            issued: HashSet::new(),
            serving: 0,
            inside: HashMap::new(),
            latest,
            seen: Seen::default(),
        }
    }

    fn spot(&self, arrival: u64) -> Spot {
        Spot { arrival, rank: self.model.rank(arrival) }
    }

    async fn act(&mut self, act: &Act) -> Result<(), TestCaseError> {
        match *act {
            Act::Join(user) => self.join(user).await,
            Act::Look(user) => self.look(user).await,
            Act::Claim(user) => self.claim(user).await,
            Act::ClaimCalled(which) => {
                let places = self.model.user_places().into_iter();
                let is_called = |(arrival, _): &(u64, usize)| self.model.standing(*arrival) == Standing::Called;
                let called: Vec<usize> = places.filter(is_called).map(|(_, user)| user).collect();
                match called.get(which % called.len().max(1)) {
                    Some(user) => self.claim(*user).await,
                    None => Ok(()),
                }
            }
            Act::Leave(user) => match self.model.newest(user) {
                Some(arrival) => self.leave(arrival, End::Left).await,
                None => Ok(()),
            },
            Act::Finish(which) => {
                let mut inside = self.model.inside();
                inside.sort_unstable();
                match inside.get(which % inside.len().max(1)) {
                    Some((arrival, _)) => self.leave(*arrival, End::Finished).await,
                    None => Ok(()),
                }
            }
            Act::Tick { most, is_paused } => self.tick(most, is_paused).await,
            Act::Move(steps) => {
                self.model.now += 2 * steps;
                let by = 2 * HALF_STEP * u32::try_from(steps.unsigned_abs()).expect("small");
                if steps > 0 {
                    self.line.advance(by);
                } else {
                    self.line.shelf.world.rewind(by);
                }
                self.latest = self.latest.max(self.line.now());
                Ok(())
            }
            Act::Cap(cap) => {
                self.line.rules.max_active = cap;
                Ok(())
            }
            Act::Draw => self.draw().await,
            Act::Lose { is_wiped, forgotten } => self.lose(is_wiped, forgotten).await,
        }
    }

    async fn join(&mut self, user: usize) -> Result<(), TestCaseError> {
        let mut join = self.line.asking(self.users[user]);
        let joined = loop {
            match self.line.join_with(&join).await {
                Joined::Ceiling(issued) => {
                    prop_assert_eq!(issued, self.line.ceiling);
                    self.line.ceiling += 4;
                    join.ceiling = self.line.ceiling;
                }
                Joined::Unknown => {
                    prop_assert!(!join.has_looked);
                    join =
                        Join { has_looked: true, presented: self.model.copied(user).map(|at| self.spot(at)), ..join };
                }
                Joined::NeedsRank(arrival) => {
                    prop_assert!(join.asked.is_none_or(|asked| asked.arrival != arrival), "asked again");
                    join.asked = Some(self.spot(arrival));
                }
                joined => break joined,
            }
        };
        let (arrival, is_new) = self.model.join(user);
        prop_assert_eq!(joined, if is_new { Joined::New(arrival) } else { Joined::Same(arrival) });
        self.seen.note(SAME, u64::from(!is_new));
        prop_assert!(!is_new || self.issued.insert(arrival), "{} was issued before", arrival);
        Ok(())
    }

    async fn look(&mut self, user: usize) -> Result<(), TestCaseError> {
        let Some((arrival, rank)) = self.model.newest(user).and_then(|at| Some((at, self.model.rank(at)?))) else {
            return Ok(());
        };
        prop_assert_eq!(self.line.look(rank).await, self.model.look(arrival), "rank {}", rank);
        Ok(())
    }

    async fn claim(&mut self, user: usize) -> Result<(), TestCaseError> {
        let Some((arrival, rank)) = self.model.newest(user).and_then(|at| Some((at, self.model.rank(at)?))) else {
            return Ok(());
        };
        let claimed = self.line.claim(rank).await;
        let cap = self.line.rules.max_active;
        let expected = self.model.claim(arrival, cap.into());
        let was = match claimed {
            Claimed::Admitted(_) => Claim::Admitted,
            Claimed::Full => Claim::Full,
            Claimed::Refused(standing) => Claim::Refused(standing),
        };
        prop_assert_eq!(was, expected, "rank {}", rank);
        let what = match was {
            Claim::Admitted => ADMITTED,
            Claim::Full => FULL,
            Claim::Refused(_) => REFUSED,
        };
        self.seen.note(what, 1);
        if let Claimed::Admitted(until) = claimed {
            let latest = self.latest.max(self.line.now());
            let before = self.inside.insert(arrival, until);
            let is_same = |before: Timestamp| before == until || before <= latest;
            prop_assert!(before.is_none_or(is_same), "another slot for the same place");
            let inside = self.inside.values().filter(|until| **until > latest).count();
            prop_assert!(before == Some(until) || inside <= cap as usize, "{} inside", inside);
        }
        Ok(())
    }

    async fn leave(&mut self, arrival: u64, end: End) -> Result<(), TestCaseError> {
        let left = self.line.try_leave(self.spot(arrival), end).await;
        let standing = self.model.leave(arrival, end == End::Finished);
        prop_assert_eq!(left, Left::From(standing), "arrival {}", arrival);
        if end == End::Finished {
            self.inside.remove(&arrival);
        }
        Ok(())
    }

    /// The cap does not hold calls back here, as their number then depends on shares: claims obey it.
    async fn tick(&mut self, most: u32, is_paused: bool) -> Result<(), TestCaseError> {
        let announced = self.serving;
        let ticked = self
            .line
            .tick_with(|tick| {
                (tick.calls_max, tick.announced, tick.rules.is_paused) = (most, announced, is_paused);
                tick.rules.max_active = 1_000_000;
            })
            .await;
        self.model.tick(most.into(), is_paused);
        let (seen, model) = (&ticked.snapshot, &self.model);
        self.seen.note(CALLED, seen.serving - self.serving.min(seen.serving));
        prop_assert!(seen.serving >= self.serving, "calls were taken back: {} after {}", seen.serving, self.serving);
        self.serving = seen.serving;
        prop_assert_eq!(
            (seen.issued, seen.serving, seen.calls_made),
            (model.issued(), model.serving, model.calls_made)
        );
        prop_assert_eq!((seen.active, seen.called, seen.present), (model.active(), model.called(), model.present()));
        prop_assert_eq!((ticked.lobby_size, ticked.is_drawn), (model.lobby_size, model.is_drawn));
        let waiting = seen.gone.iter().copied().filter(|rank| *rank >= seen.serving);
        let gone: HashSet<u64> = waiting.chain(seen.gone_early.iter().copied()).collect();
        prop_assert_eq!(gone, model.gone());
        Ok(())
    }

    async fn draw(&mut self) -> Result<(), TestCaseError> {
        let (Ranking::Undrawn { opens_at }, Some(size)) = (self.line.ranking, self.model.lobby_size) else {
            return Ok(());
        };
        let ranks = || Permutation::new(&self.seed, self.line.concert, size);
        let rank_of = |arrival| ranks().rank_of(arrival).unwrap_or(arrival);
        let inside = self.lost.iter().flat_map(|(from, below)| *from..(*below).min(size));
        let mut drawing = Drawing {
            lobby_size: size,
            ghosts: inside.map(rank_of).collect(),
            gaps: self.gaps(size),
            left: Vec::new(),
        };
        loop {
            let asked = self.line.draw(&drawing).await;
            if asked.is_empty() {
                break;
            }
            prop_assert!(drawing.left.is_empty(), "asked again");
            drawing.left = asked.into_iter().map(|arrival| (arrival, rank_of(arrival))).collect();
        }
        self.line.ranking = Ranking::Drawn { lobby_size: size, opens_at };
        let ranks = ranks();
        self.model.drawn(ranks, &self.lost);
        Ok(())
    }

    /// Gaps behind a lobby of this size, as they are written.
    fn gaps(&self, size: u64) -> String {
        let behind = self.lost.iter().map(|(from, below)| ((*from).max(size), *below)).filter(|gap| gap.0 < gap.1);
        behind.map(|(from, below)| format!("{from}-{below}")).chain([String::new()]).collect::<Vec<_>>().join(",")
    }

    async fn lose(&mut self, is_wiped: bool, forgotten: u64) -> Result<(), TestCaseError> {
        if is_wiped {
            self.line.wipe().await;
            let asked = self.line.store().look(self.line.at(), 0, &self.line.rules).await.expect("an answer");
            prop_assert_eq!(asked, Warm::Cold);
        }
        let known = self.model.issued().saturating_sub(forgotten).max(self.rebuilt_at).max(self.model.serving);
        let ceiling = self.line.ceiling;
        if known < ceiling {
            self.lost.push((known, ceiling));
        }
        self.rebuilt_at = ceiling;
        self.seen.note(LOST, 1);
        let inside = self.model.inside();
        self.model.rebuilt(is_wiped, ceiling, &self.lost);
        let told = |(arrival, _): &(u64, i64)| Some((self.model.rank(*arrival)?, self.inside[arrival]));
        let lobby_size = if self.model.is_drawn { self.model.lobby_size } else { None };
        let (gaps, ghosts) = match (self.line.ranking, lobby_size) {
            (Ranking::Fifo, _) => (self.gaps(0), Vec::new()),
            (_, None) => (String::new(), Vec::new()),
            (_, Some(size)) => {
                let lost = self.lost.iter().flat_map(|(from, below)| *from..(*below).min(size));
                let ranks = lost.filter_map(|arrival| self.model.rank(arrival));
                (self.gaps(size), ranks.filter(|rank| *rank >= self.model.serving).collect())
            }
        };
        let slots = inside.iter().filter_map(told).collect();
        let serving = self.model.serving;
        let line = Remembered { ceiling, serving, gaps, ghosts, lobby_size, slots, ..self.line.remembered() };
        self.line.remade(line.clone()).await;
        let left: Vec<Spot> = self.model.left().into_iter().map(|arrival| self.spot(arrival)).collect();
        prop_assert!(warm(self.line.store().restore(self.line.at(), &left).await.expect("an answer")));
        // Whoever comes late with what it knew, or does it all again, changes nothing.
        let old = At { epoch: self.line.epoch - 1, ..self.line.at() };
        let late = self.line.store().claim(old, 0, &self.line.rules).await.expect("an answer");
        prop_assert_eq!(late, Warm::Cold);
        self.line.store().rebuild(self.line.at(), &line).await.expect("an answer");
        Ok(())
    }

    /// Everybody stands where the list says.
    async fn check_all(&mut self) -> Result<(), TestCaseError> {
        self.tick(0, true).await?;
        for (arrival, _) in self.model.user_places() {
            if let Some(rank) = self.model.rank(arrival) {
                let (found, expected) = (self.line.look(rank).await, self.model.look(arrival));
                prop_assert_eq!(found, expected, "arrival {}, rank {}", arrival, rank);
                prop_assert!(rank >= self.serving || found != Standing::Waiting, "rank {} was not called", rank);
            }
        }
        Ok(())
    }
}

async fn try_case(
    shelf: &Arc<Shelf>,
    store: InCharge,
    is_draw: bool,
    (is_begun, acts): (bool, Vec<(Act, bool)>),
    seen: &Seen,
) -> Result<(), TestCaseError> {
    let mut run = Run::new(shelf, store, is_draw).await;
    if is_begun {
        // The line is open, and some were called.
        let joins = (0..USERS - 3).map(Act::Join);
        let opening = [Act::Move(2), Act::Tick { most: 0, is_paused: false }, Act::Draw];
        for act in joins.chain(opening).chain([Act::Tick { most: 4, is_paused: false }]) {
            run.act(&act).await?;
        }
    }
    for (act, is_repeated) in acts {
        run.act(&act).await?;
        // The answer was lost: whoever asked asks again.
        if is_repeated && !matches!(act, Act::Move(_)) {
            run.act(&act).await?;
        }
    }
    run.check_all().await?;
    seen.add(&run.seen);
    Ok(())
}

/// How often what matters came about: cases in which nothing happens prove nothing.
#[derive(Debug, Default)]
struct Seen([AtomicU64; 6]);

const ADMITTED: usize = 0;
const FULL: usize = 1;
const REFUSED: usize = 2;
const SAME: usize = 3;
const LOST: usize = 4;
const CALLED: usize = 5;

impl Seen {
    fn note(&self, what: usize, count: u64) {
        self.0[what].fetch_add(count, Ordering::Relaxed);
    }

    fn add(&self, other: &Self) {
        other.0.iter().enumerate().for_each(|(what, count)| self.note(what, count.load(Ordering::Relaxed)));
    }
}

async fn agrees(store: InCharge, is_draw: bool) {
    let shelf = Shelf::new().await;
    let seed = match Config::default().rng_seed {
        RngSeed::Random => 11,
        RngSeed::Fixed(seed) => seed,
    };
    println!("seed {seed}");
    let seen = Seen::default();
    let cases = CASES * u32::try_from(rounds()).expect("a number of rounds");
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 300,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&(prop::bool::weighted(0.7), vec(act(), 20..60)), |acts| {
        block_in_place(|| Handle::current().block_on(try_case(&shelf, store, is_draw, acts, &seen)))
    });
    println!("admitted, full, refused, same place, lost, called: {seen:?}");
    assert!(outcome.is_err() || seen.0.iter().all(|count| count.load(Ordering::Relaxed) >= 5), "{seen:?}");
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, acts)) => panic!("{reason}\nwith seed {seed}: {acts:?}"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
    Shelf::end(shelf).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_in_redis_agrees_with_a_list() {
    agrees(InCharge::Usual, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drawn_line_in_redis_agrees_with_a_list() {
    agrees(InCharge::Usual, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_in_mysql_agrees_with_a_list() {
    agrees(InCharge::Standby, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drawn_line_in_mysql_agrees_with_a_list() {
    agrees(InCharge::Standby, true).await;
}
