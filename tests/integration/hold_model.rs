//! Whatever happens to holds, they agree with a plain table of seats: random buyers on two instances, sets of seats, best
//! available ones, releases, payments, expiries, clock moves, a filter that is wiped or lies in either direction, and requests whose
//! client goes away.
//!
//! The promises are asserted by themselves, too: no seat has two holders, and nobody passes the limit. `FRONTROW_HOLD_CASES` sets
//! how many cases are tried, and `PROPTEST_RNG_SEED` chooses others; a case that fails is printed with its seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::{ClientLike as _, LuaInterface as _};
use frontrow::accounts::UserId;
use frontrow::app::state::State;
use frontrow::booking::holds::{Asked, HoldId, HoldStatus, Request};
use frontrow::catalog::PerformanceId;
use frontrow::platform::clock::{Clock, Timestamp};
use frontrow::platform::http::PageParams;
use frontrow::platform::http::keyed::RequestKey;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use serde_json::{Value, json};
use sqlx::MySqlConnection;
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::support::arena::{Plan, text};
use crate::support::inside::passes;
use crate::support::{Api, Buyer, Instance, Sale, World, eventually};

const CASES: u32 = 300;
/// Cases of one stage at most.
const STAGE_CASES: u32 = 500;
const USERS: usize = 4;
const LIMIT: usize = 3;
/// Two rows of three, and three places to stand: fewer than all together may have.
const SEATS: u32 = 9;
const PRICE: i64 = 1_000;
/// Evenings of one concert: each case has one of its own.
const EVENINGS: u32 = 50;
/// Longer than any picture, and than a mark in the filter, is believed.
const SETTLED: Duration = Duration::from_secs(11);
/// No hold ends so close to the moment at which it is judged that real time matters.
const MARGIN: Duration = Duration::from_secs(4);

#[derive(Clone, Debug)]
enum Act {
    Hold {
        user: usize,
        seats: BTreeSet<u32>,
    },
    Best {
        user: usize,
        quantity: u32,
    },
    /// One of the live holds.
    Release(usize),
    Pay(usize),
    Advance(u64),
    /// The filter is gone.
    Wipe,
    /// The filter says the opposite of a seat, and says so for ever.
    Lie(u32),
    Reconcile,
    /// A request whose client goes away after so many milliseconds.
    GoneAway {
        user: usize,
        seats: BTreeSet<u32>,
        after: u64,
    },
}

fn act() -> impl Strategy<Value = (usize, Act)> {
    let user = || 0..USERS;
    let seats = || btree_set(0..SEATS, 1..4);
    let act = prop_oneof![
        10 => (user(), seats()).prop_map(|(user, seats)| Act::Hold { user, seats }),
        6 => (user(), 1_u32..5).prop_map(|(user, quantity)| Act::Best { user, quantity }),
        5 => (0_usize..8).prop_map(Act::Release),
        2 => (0_usize..8).prop_map(Act::Pay),
        3 => prop_oneof![Just(11_u64), Just(150), Just(310)].prop_map(Act::Advance),
        1 => Just(Act::Wipe),
        3 => (0..SEATS).prop_map(Act::Lie),
        2 => Just(Act::Reconcile),
        3 => (user(), seats(), 0_u64..6).prop_map(|(user, seats, after)| Act::GoneAway { user, seats, after }),
    ];
    (0_usize..2, act)
}

/// A hold that was made.
#[derive(Clone, Debug)]
struct Made {
    user: usize,
    seats: BTreeSet<u32>,
    until: Timestamp,
    is_paid: bool,
}

/// An answer, or the code of a refusal and the seats that it names.
type Told = Result<Value, (&'static str, BTreeSet<u32>)>;

/// What all cases share.
struct Stage {
    world: World,
    instances: [Instance; 2],
    redis: Client,
    /// The stores' own time. An instance aligns its clock with them, and may do so while the test moves it.
    clock: Clock,
    sales: Vec<Sale>,
    /// Four for each case.
    buyers: Vec<Buyer>,
}

impl Stage {
    async fn new(cases: u32) -> Self {
        let world = World::with(&[("FRONTROW__ACCOUNTS__SESSION_HOURS", "100000")]).await;
        let instances = [world.instance().await, world.instance().await];
        let api = Api::over(&[&instances[0], &instances[1]]);
        let sections = json!([
            {"code": "A", "name": "Hall", "rows": [{"name": "1", "seats": 3}, {"name": "2", "seats": 3}]},
            {"code": "S", "name": "Floor", "capacity": 3},
        ]);
        let queue = json!({"admit_per_second": 1, "max_active": 100_000, "claim_secs": 60, "session_secs": 600});
        let limit = u32::try_from(LIMIT).expect("small");
        // Long before it opens, the line counts no seats: only what is held keeps a filter.
        let opens_in_secs = 29 * 24 * 3600;
        let plan = Plan { sections, price: PRICE, limit, performances: EVENINGS, opens_in_secs, queue };
        let mut sales = Vec::new();
        for _ in 0..cases.div_ceil(EVENINGS) {
            sales.push(Sale::new(&api, &instances[0], &plan).await);
        }
        let redis = world.redis().await;
        let count = cases * u32::try_from(USERS).expect("small");
        let buyers = Buyer::many(&instances[0].state, count).await;
        for part in buyers.chunks(500) {
            Buyer::endow(&instances[0].state, part, 100 * PRICE).await;
        }
        let clock = world.state(&[]).clock;
        Self { world, instances, redis, clock, sales, buyers }
    }
}

/// A performance, its model, and four buyers.
struct Run<'s> {
    stage: &'s Stage,
    concert: String,
    performance: PerformanceId,
    labels: Vec<String>,
    users: Vec<UserId>,
    passes: Vec<String>,
    sql: MySqlConnection,
    holds: BTreeMap<HoldId, Made>,
    /// Seats that the filter may call taken although they are free: it lied, or has not heard of it yet.
    doubtful: BTreeSet<u32>,
    seen: Seen,
}

impl<'s> Run<'s> {
    async fn new(stage: &'s Stage, number: u32) -> Self {
        let sale = &stage.sales[(number / EVENINGS) as usize % stage.sales.len()];
        let performance = sale.performances[(number % EVENINGS) as usize].parse().expect("an id");
        let state = &stage.instances[0].state;
        let buyers = &stage.buyers[number as usize * USERS..][..USERS];
        let users: Vec<UserId> = buyers.iter().map(|buyer| UserId(buyer.id.parse().expect("an id"))).collect();
        let mut sql = stage.world.sql().await;
        let concert = sale.concert.parse().expect("an id");
        let passes = passes(&mut sql, state, concert, &users).await;
        let map = state.seats.catalog().get_seat_map(performance).await.expect("a map");
        let labels = map.seats().iter().map(|seat| seat.label.clone()).collect();
        let (holds, doubtful, seen) = (BTreeMap::new(), BTreeSet::new(), Seen::default());
        Self { stage, concert: sale.concert.clone(), performance, labels, users, passes, sql, holds, doubtful, seen }
    }

    fn state(&self, instance: usize) -> &'s State {
        &self.stage.instances[instance].state
    }

    fn now(&self) -> Timestamp {
        self.stage.clock.now()
    }

    fn is_live(&self, made: &Made) -> bool {
        made.is_paid || made.until > self.now()
    }

    fn taken(&self) -> BTreeSet<u32> {
        self.holds.values().filter(|made| self.is_live(made)).flat_map(|made| made.seats.iter().copied()).collect()
    }

    fn seats_of(&self, user: usize) -> usize {
        let own = self.holds.values().filter(|made| made.user == user && self.is_live(made));
        own.map(|made| made.seats.len()).sum()
    }

    fn live_hold(&self, which: usize) -> Option<HoldId> {
        let live: Vec<HoldId> =
            self.holds.iter().filter(|(_, made)| !made.is_paid && self.is_live(made)).map(|(id, _)| *id).collect();
        live.get(which % live.len().max(1)).copied()
    }

    fn request(&self, user: usize, seats: Asked) -> Request {
        Request { user: self.users[user], performance: self.performance, pass: Some(self.passes[user].clone()), seats }
    }

    fn named(&self, seats: &BTreeSet<u32>) -> Asked {
        Asked::Named(seats.iter().map(|seat| self.labels[*seat as usize].clone()).collect())
    }

    async fn ask(&self, instance: usize, user: usize, seats: Asked) -> Told {
        match self.state(instance).holds.hold(self.request(user, seats), keyless()).await {
            Ok(answer) => Ok(serde_json::from_slice(&answer.body).expect("JSON")),
            Err(problem) => {
                let body = problem.body("r");
                let named = body["seat_ids"].as_array().into_iter().flatten().map(|label| self.number(label));
                Err((problem.code().code, named.collect()))
            }
        }
    }

    fn number(&self, label: &Value) -> u32 {
        let at = self.labels.iter().position(|known| Some(known.as_str()) == label.as_str()).expect("a seat");
        u32::try_from(at).expect("small")
    }

    /// Time goes on until every hold is clearly live or clearly over.
    fn clear_margins(&self) {
        let is_close = |made: &Made| {
            let now = self.now();
            !made.is_paid && made.until.since(now).max(now.since(made.until)) < MARGIN
        };
        while self.holds.values().any(is_close) {
            self.stage.world.advance(2 * MARGIN);
        }
    }

    async fn act(&mut self, instance: usize, act: &Act) -> Result<(), TestCaseError> {
        self.clear_margins();
        match act {
            Act::Hold { user, seats } => self.hold(instance, *user, seats).await,
            Act::Best { user, quantity } => self.best(instance, *user, *quantity).await,
            Act::Release(which) => self.release(instance, *which).await,
            Act::Pay(which) => self.pay(instance, *which).await,
            Act::Advance(secs) => {
                self.stage.world.advance(Duration::from_secs(*secs));
                Ok(())
            }
            Act::Wipe => {
                let all =
                    "for _, key in ipairs(redis.call('KEYS', '*' .. ARGV[1] .. '*')) do redis.call('DEL', key) end";
                let _: Option<String> = self.script(all, vec![self.performance.to_string()]).await;
                Ok(())
            }
            Act::Lie(seat) => self.lie(*seat).await,
            Act::Reconcile => self.reconcile().await,
            Act::GoneAway { user, seats, after } => self.go_away(instance, *user, seats, *after).await,
        }
    }

    async fn hold(&mut self, instance: usize, user: usize, seats: &BTreeSet<u32>) -> Result<(), TestCaseError> {
        let answer = self.ask(instance, user, self.named(seats)).await;
        if let Err(("seats_taken", named)) = &answer
            && self.taken().is_disjoint(seats)
        {
            // The filter may refuse what is free, until it is put right.
            prop_assert!(!named.is_empty() && named.is_subset(&self.doubtful), "{named:?} of {:?}", self.doubtful);
            self.seen.note(FALSELY_REFUSED);
            self.reconcile().await?;
            let answer = self.ask(instance, user, self.named(seats)).await;
            return self.judge(user, seats, answer);
        }
        self.judge(user, seats, answer)
    }

    fn judge(&mut self, user: usize, seats: &BTreeSet<u32>, answer: Told) -> Result<(), TestCaseError> {
        let taken = self.taken();
        let (is_over, is_taken) = (self.seats_of(user) + seats.len() > LIMIT, !taken.is_disjoint(seats));
        match answer {
            Ok(made) => {
                prop_assert!(!is_over && !is_taken, "{made} with {taken:?}");
                prop_assert_eq!(self.note(user, &made)?, seats.clone());
                self.seen.note(HELD);
            }
            Err(("seat_limit_exceeded", _)) => {
                prop_assert!(is_over);
                self.seen.note(OVER);
            }
            Err(("seats_taken", named)) => {
                let wanted: BTreeSet<u32> = taken.union(&self.doubtful).copied().collect();
                prop_assert!(
                    is_taken && named.is_subset(seats) && named.is_subset(&wanted),
                    "{named:?}, not {taken:?}"
                );
                self.seen.note(TAKEN);
            }
            Err((code, _)) => prop_assert!(false, "refused with {code}"),
        }
        // Marks may be taken back a moment late.
        self.doubtful.extend(seats);
        Ok(())
    }

    async fn best(&mut self, instance: usize, user: usize, quantity: u32) -> Result<(), TestCaseError> {
        // A choice is made from a picture: it must be one of now.
        self.stage.world.advance(SETTLED);
        self.clear_margins();
        self.reconcile().await?;
        let free = SEATS as usize - self.taken().len();
        let is_over = self.seats_of(user) + quantity as usize > LIMIT;
        match self.ask(instance, user, Asked::Best { quantity, grade: None }).await {
            Ok(made) => {
                let taken = self.taken();
                prop_assert!(!is_over);
                let seats = self.note(user, &made)?;
                prop_assert!(seats.len() == quantity as usize && seats.is_disjoint(&taken), "{seats:?} with {taken:?}");
                self.seen.note(BEST);
            }
            Err(("seat_limit_exceeded", _)) => {
                prop_assert!(is_over);
                self.doubtful = (0..SEATS).collect();
            }
            Err(("not_enough_seats", _)) => {
                prop_assert!(free < quantity as usize, "{free} are free");
                self.seen.note(NOT_ENOUGH);
            }
            Err((code, named)) => prop_assert!(false, "refused with {code}: {named:?}"),
        }
        Ok(())
    }

    /// Notes a hold that was answered, and gives its seats.
    fn note(&mut self, user: usize, made: &Value) -> Result<BTreeSet<u32>, TestCaseError> {
        let all = made["seats"].as_array().expect("seats");
        let seats: BTreeSet<u32> = all.iter().map(|seat| self.number(&seat["id"])).collect();
        prop_assert_eq!(seats.len(), all.len(), "a seat twice in {}", made);
        prop_assert_eq!(made["amount"].as_i64(), Some(PRICE * i64::try_from(all.len()).expect("small")));
        let until: Timestamp = serde_json::from_value(made["expires_at"].clone()).expect("a time");
        let id = text(&made["id"]).parse().expect("an id");
        let hold = Made { user, seats: seats.clone(), until, is_paid: false };
        prop_assert!(self.holds.insert(id, hold).is_none(), "an id twice");
        self.doubtful.extend(&seats);
        Ok(seats)
    }

    async fn release(&mut self, instance: usize, which: usize) -> Result<(), TestCaseError> {
        let Some(id) = self.live_hold(which) else { return Ok(()) };
        let user = self.holds[&id].user;
        let released = self.state(instance).holds.release(self.users[user], id).await;
        prop_assert!(released.is_ok(), "{released:?}");
        self.holds.remove(&id);
        self.seen.note(RELEASED);
        Ok(())
    }

    async fn pay(&mut self, instance: usize, which: usize) -> Result<(), TestCaseError> {
        let Some(id) = self.live_hold(which) else { return Ok(()) };
        let user = self.holds[&id].user;
        let paid = self.state(instance).checkout.pay_with_points(self.users[user], id, keyless()).await;
        prop_assert!(paid.is_ok(), "{paid:?}");
        // Paying ends the stay: another one begins.
        let concert = self.concert.parse().expect("an id");
        let state = self.state(0);
        let renewed = passes(&mut self.sql, state, concert, &[self.users[user]]).await;
        self.passes[user] = renewed.into_iter().next().expect("a pass");
        self.holds.get_mut(&id).expect("it is live").is_paid = true;
        self.seen.note(PAID);
        Ok(())
    }

    async fn lie(&mut self, seat: u32) -> Result<(), TestCaseError> {
        let lie = "local keys = redis.call('KEYS', '*' .. ARGV[1] .. ':taken') if #keys == 0 then return 0 end \
             local is = redis.call('GETBIT', keys[1], ARGV[2]) redis.call('SETBIT', keys[1], ARGV[2], 1 - is) \
             redis.call('ZREM', string.gsub(keys[1], ':taken$', ':ends'), ARGV[2]) return 1";
        let lied: i64 = self.script(lie, vec![self.performance.to_string(), seat.to_string()]).await;
        if lied == 1 {
            self.doubtful.insert(seat);
            self.seen.note(LIED);
        }
        Ok(())
    }

    /// A period goes by, and the filter agrees with MySQL again.
    async fn reconcile(&mut self) -> Result<(), TestCaseError> {
        self.stage.world.advance(SETTLED);
        self.clear_margins();
        // Which instance has its turn is left to them.
        let filter = "local keys = redis.call('KEYS', '*' .. ARGV[1] .. ':taken') if #keys == 0 then return '' end \
             return tostring(redis.call('BITCOUNT', keys[1]))";
        eventually("the filter to agree with MySQL", || async {
            for instance in &self.stage.instances {
                instance.state.filter.reconcile().await;
            }
            let count: String = self.script(filter, vec![self.performance.to_string()]).await;
            let is_same = count.is_empty() || count.parse() == Ok(self.taken().len());
            if !is_same {
                self.stage.world.advance(Duration::from_secs(3));
            }
            is_same.then_some(())
        })
        .await;
        self.doubtful.clear();
        // Pictures from before are not believed any more.
        self.stage.world.advance(Duration::from_secs(1));
        self.clear_margins();
        Ok(())
    }

    async fn go_away(
        &mut self,
        instance: usize,
        user: usize,
        seats: &BTreeSet<u32>,
        after: u64,
    ) -> Result<(), TestCaseError> {
        {
            let state = self.state(instance);
            let request = state.holds.hold(self.request(user, self.named(seats)), keyless());
            drop(tokio::time::timeout(Duration::from_millis(after), request).await);
        }
        // What had begun goes on; the buyer's next turn comes when it has ended.
        let turn = self.state(instance).db.turn_of(self.users[user].0).await;
        prop_assert!(turn.is_ok());
        drop(turn);
        self.doubtful.extend(seats);
        let page = PageParams { limit: 100, after: None };
        let listed = self.state(instance).holds.list(self.users[user], page).await.expect("a list");
        let unknown = listed.items.iter().filter(|hold| !self.holds.contains_key(&hold.id));
        for hold in unknown.filter(|hold| hold.status == HoldStatus::Held) {
            let found: BTreeSet<u32> = hold.seats.iter().map(|seat| seat.number).collect();
            let is_over = self.seats_of(user) + found.len() > LIMIT;
            // A released hold is not in the model any more; only a live one says something.
            if listed.items.iter().any(|one| one.id == hold.id) && !is_over && self.taken().is_disjoint(&found) {
                let made = Made { user, seats: found.clone(), until: hold.expires_at, is_paid: false };
                prop_assert_eq!(&found, seats);
                self.holds.insert(hold.id, made);
                self.seen.note(GONE_AND_HELD);
                break;
            }
            prop_assert!(false, "{:?} has {:?} beside {:?}", user, found, self.taken());
        }
        Ok(())
    }

    async fn script<T: fred::types::FromValue>(&self, lua: &str, arguments: Vec<String>) -> T {
        let none: Vec<String> = Vec::new();
        self.stage.redis.eval(lua, none, arguments).await.expect("an answer")
    }

    /// MySQL, and in the end the pictures, say what the model says.
    async fn check_all(&mut self) -> Result<(), TestCaseError> {
        self.reconcile().await?;
        let now = self.now();
        let rows =
            "SELECT seat_no FROM seats WHERE performance_id = ? AND (reservation_id IS NOT NULL OR held_until > ?)";
        let rows = sqlx::query_scalar(rows).bind(self.performance).bind(now).fetch_all(&mut self.sql).await;
        let rows: BTreeSet<u32> = rows.expect("seats").into_iter().collect();
        prop_assert_eq!(&rows, &self.taken());
        for user in 0..USERS {
            prop_assert!(self.seats_of(user) <= LIMIT);
        }
        for instance in &self.stage.instances {
            let shown = instance.state.seats.get_board(self.performance).await.expect("a picture");
            prop_assert_eq!(shown.board.available() as usize, SEATS as usize - rows.len());
        }
        Ok(())
    }
}

fn keyless() -> RequestKey {
    RequestKey { key: None, fingerprint: [0; 32] }
}

/// How often what matters came about: cases in which nothing happens prove nothing. A hundred
/// cases bring each at least once; of fewer nothing is asked, as chance decides.
#[derive(Debug, Default)]
struct Seen([AtomicU64; 10]);

const HELD: usize = 0;
const TAKEN: usize = 1;
const OVER: usize = 2;
const BEST: usize = 3;
const NOT_ENOUGH: usize = 4;
const RELEASED: usize = 5;
const PAID: usize = 6;
const LIED: usize = 7;
const FALSELY_REFUSED: usize = 8;
const GONE_AND_HELD: usize = 9;

impl Seen {
    fn note(&self, what: usize) {
        self.0[what].fetch_add(1, Ordering::Relaxed);
    }

    fn add(&self, other: &Self) {
        for (all, one) in self.0.iter().zip(&other.0) {
            all.fetch_add(one.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

async fn try_case(stage: &Stage, number: u32, acts: Vec<(usize, Act)>, seen: &Seen) -> Result<(), TestCaseError> {
    let mut run = Run::new(stage, number).await;
    for (instance, act) in acts {
        run.act(instance, &act).await?;
    }
    run.check_all().await?;
    seen.add(&run.seen);
    Ok(())
}

/// So many cases, on a stage of their own.
async fn agree(cases: u32, seed: u64, seen: &Seen) {
    let stage = Stage::new(cases).await;
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        // Each try needs an evening of its own.
        max_shrink_iters: 0,
        ..Config::default()
    };
    let number = AtomicU64::new(0);
    let outcome = TestRunner::new(config).run(&vec(act(), 5..18), |acts| {
        let number = u32::try_from(number.fetch_add(1, Ordering::Relaxed)).expect("small");
        block_in_place(|| Handle::current().block_on(try_case(&stage, number, acts, seen)))
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, acts)) => panic!("{reason}\nwith seed {seed}: {acts:?}"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
    stage.world.assert_clean(&stage.instances[0]).await;
    stage.redis.quit().await.expect("closing");
    let Stage { world, instances, .. } = stage;
    world.end(instances.into()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holds_agree_with_a_table_of_seats() {
    let cases = std::env::var("FRONTROW_HOLD_CASES").ok().map_or(CASES, |cases| cases.parse().expect("a number"));
    let first = match Config::default().rng_seed {
        RngSeed::Random => 11,
        RngSeed::Fixed(seed) => seed,
    };
    let seen = Seen::default();
    // A stage lasts as long as its sales are open.
    for (seed, begun) in (first..).zip((0..cases).step_by(STAGE_CASES as usize)) {
        let cases = STAGE_CASES.min(cases - begun);
        println!("seed {seed}, {cases} cases");
        agree(cases, seed, &seen).await;
    }
    println!("held, taken, over, best, not enough, released, paid, lied, falsely refused, gone and held: {seen:?}");
    let least = u64::from(cases) / 100;
    assert!(seen.0.iter().all(|count| count.load(Ordering::Relaxed) >= least), "{seen:?}");
}
