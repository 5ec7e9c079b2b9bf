//! Payments by card against a model: random stories of buyers, of a provider that loses calls, answers and minds, of instances
//! that die in the middle of anything, of clocks that jump, of webhooks that come twice or about nothing, and of rivals who take
//! seats whose holds have ended.
//!
//! A case is one buyer's story; the stories of a round run at once and share its weather. When it is over and everybody has been
//! asked, the model says what must have come of it. It is simple, because it looks at the outcome only: what the provider
//! took and kept for a hold is one charge at most; there is one exactly where the hold became a reservation by card; points paid
//! exactly where it became one by points; and whoever was told of a success still has it. `FRONTROW_PAYMENT_CASES` says how many.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use frontrow::accounts::UserId;
use frontrow::app::audit;
use frontrow::app::state::State;
use frontrow::booking::holds::HoldId;
use frontrow::payments::PaymentId;
use frontrow::payments::gateway::Standing;
use frontrow::platform::config::Secret;
use frontrow::platform::error::Problem;
use frontrow::platform::http::keyed::{Answer, RequestKey};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Mutex as Turn, RwLock};
use uuid::Uuid;

use crate::support::arena::Plan;
use crate::support::crowd::hall;
use crate::support::till::{SIGNATURE, Trouble};
use crate::support::{Api, Buyer, Instance, Sale, Till, World, eventually};

/// Stories of a round.
const AT_ONCE: usize = 30;
const CASES: usize = 300;
const PRICE: i64 = 10_000;
const POINTS: i64 = 15_000;
const CARDS: [&str; 5] =
    ["pm_card_visa", "pm_card_visa", "pm_card_visa", "pm_card_chargeDeclined", "pm_card_processing"];
/// Soon enough that requests give up while the weather is bad. The filter is advice, and has its own tests.
const SETTINGS: [(&str, &str); 6] = [
    ("FRONTROW__ATTEMPTS__ANSWER_MS", "60"),
    ("FRONTROW__ATTEMPTS__RETRY_MS", "2"),
    ("FRONTROW__ATTEMPTS__RECOVERY_MS", "86400000"),
    ("FRONTROW__ATTEMPTS__RECOVERY_PARALLEL_MAX", "8"),
    ("FRONTROW__DATABASE__POOL_SIZE", "12"),
    ("FRONTROW__BOOKING__SEAT_FILTER", "false"),
];

/// An instance without a server. Its end is sudden: every task of it stops where it happens to wait.
struct Life {
    runtime: Mutex<Option<Runtime>>,
    handle: Handle,
    state: State,
}

impl Life {
    async fn begin(world: &Arc<World>, till: &Arc<Till>) -> Arc<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let (runtime, world, till) = (runtime.expect("a runtime"), world.clone(), till.clone());
        let handle = runtime.handle().clone();
        let state = handle.spawn(async move { world.state_paid_through(&till, &SETTINGS) }).await.expect("services");
        Arc::new(Self { runtime: Mutex::new(Some(runtime)), handle, state })
    }

    /// Does something on this instance; nothing is heard of it where the instance dies.
    async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        self.handle.spawn(work).await.ok()
    }

    fn die(&self) {
        if let Some(runtime) = self.runtime.lock().expect("no panic").take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.die();
    }
}

/// The instances that are alive.
struct Cluster {
    world: Arc<World>,
    till: Arc<Till>,
    lives: [RwLock<Arc<Life>>; 2],
}

impl Cluster {
    async fn new(world: &Arc<World>, till: &Arc<Till>) -> Self {
        let lives = [Life::begin(world, till).await, Life::begin(world, till).await];
        Self { world: world.clone(), till: till.clone(), lives: lives.map(RwLock::new) }
    }

    async fn any(&self, random: &mut StdRng) -> Arc<Life> {
        self.lives[random.random_range(0..2)].read().await.clone()
    }

    /// One dies, and another takes its place.
    async fn crash(&self, random: &mut StdRng) {
        let next = Life::begin(&self.world, &self.till).await;
        let dead = std::mem::replace(&mut *self.lives[random.random_range(0..2)].write().await, next);
        dead.die();
    }

    async fn recover(&self, random: &mut StdRng) {
        let life = self.any(random).await;
        let attempts = life.state.attempts.clone();
        // It may die meanwhile, or meet a deadlock too often: others go on.
        drop(life.run(async move { tokio::join!(attempts.give_back_due(), attempts.find_out_due()) }).await);
    }

    async fn webhook(&self, random: &mut StdRng) {
        let known: Vec<PaymentId> = self.till.intents().into_keys().collect();
        let about = match known.len() {
            0 => PaymentId::new(),
            count => known[random.random_range(0..count)],
        };
        // Few different ids: many are repetitions.
        let id = format!("evt_{}", random.random_range(0..200));
        let kinds = ["payment_intent.succeeded", "payment_intent.payment_failed", "payment_intent.canceled", "ping"];
        let kind = kinds[random.random_range(0..kinds.len())];
        let body = json!({"id": id, "type": kind, "data": {"object": {"metadata": {"attempt": about.to_string()}}}});
        let (life, is_forged) = (self.any(random).await, random.random_bool(0.2));
        let webhooks = life.state.provider_events.clone();
        let taken = life.run(async move {
            let signature = if is_forged { "forged" } else { SIGNATURE };
            webhooks.take(Some(signature), body.to_string().as_bytes()).await
        });
        if let Some(taken) = taken.await {
            assert!(!is_forged || taken.is_err(), "a forgery was taken");
        }
    }
}

/// What a buyer may do.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Pays with one of the cards.
    Card { card: usize, key: u8 },
    /// Pays with points.
    Points { key: u8 },
    /// Gives the hold back.
    Release,
    /// Waits a moment.
    Wait,
}

impl Step {
    fn random(random: &mut StdRng) -> Self {
        match random.random_range(0..10) {
            0..=5 => Self::Card { card: random.random_range(0..CARDS.len()), key: random.random_range(0..3) },
            6..=7 => Self::Points { key: random.random_range(0..3) },
            8 => Self::Release,
            _ => Self::Wait,
        }
    }
}

/// A buyer with a hold, and what was done and heard.
struct Story {
    user: UserId,
    hold: HoldId,
    seat: u32,
    told: Vec<(Step, Option<Result<Answer, Problem>>)>,
}

impl Story {
    async fn live(&mut self, cluster: &Cluster, mut random: StdRng) {
        for _ in 0..random.random_range(2..6) {
            let (step, life) = (Step::random(&mut random), cluster.any(&mut random).await);
            let (user, hold) = (self.user, self.hold);
            let key = |kind: u8, key: u8| RequestKey { key: Some(format!("key {key}")), fingerprint: [kind; 32] };
            let (checkout, holds) = (life.state.checkout.clone(), life.state.holds.clone());
            let heard = match step {
                Step::Card { card, key: number } => {
                    let (token, key) = (Secret::new(CARDS[card]), key(card_kind(card), number));
                    life.run(async move { checkout.pay_with_card(user, hold, token, key).await }).await
                }
                Step::Points { key: number } => {
                    let key = key(9, number);
                    life.run(async move { checkout.pay_with_points(user, hold, key).await }).await
                }
                Step::Release => {
                    let released = life.run(async move { holds.release(user, hold).await }).await;
                    match released {
                        Some(Err(problem)) => Some(Err(problem)),
                        _ => None,
                    }
                }
                Step::Wait => {
                    tokio::time::sleep(Duration::from_millis(random.random_range(0..20))).await;
                    None
                }
            };
            self.told.push((step, heard));
        }
    }

    fn says(&self) -> String {
        let steps = self.told.iter().map(|(step, heard)| match heard {
            None => format!("{step:?}: unheard"),
            Some(Ok(answer)) => format!("{step:?}: {} {}", answer.status, String::from_utf8_lossy(&answer.body)),
            Some(Err(problem)) => format!("{step:?}: {problem}"),
        });
        steps.collect::<Vec<_>>().join("\n    ")
    }
}

/// What makes two requests with the same key the same request.
fn card_kind(card: usize) -> u8 {
    CARDS.iter().position(|name| *name == CARDS[card]).and_then(|at| u8::try_from(at).ok()).expect("few cards")
}

/// What happens around the stories until they are over.
async fn weather(cluster: &Cluster, world: &World, rivals: &Rivals, is_over: &AtomicBool, mut random: StdRng) {
    let (rate, may_jump) = ([0.0, 0.15, 0.4][random.random_range(0..3)], random.random_bool(0.4));
    cluster.till.on(move |_, _| {
        if rand::random_bool(1.0 - rate) {
            return Trouble::None;
        }
        let troubles =
            [Trouble::NotSent, Trouble::LoseRequest, Trouble::LoseReply, Trouble::Hold, Trouble::Late, Trouble::Refuse];
        troubles[rand::random_range(0..troubles.len())]
    });
    while !is_over.load(Ordering::SeqCst) {
        match random.random_range(0..12) {
            // It may be held up by the provider, as others may: it goes on by itself.
            0..=3 => drop(tokio::time::timeout(Duration::from_millis(20), cluster.recover(&mut random)).await),
            4..=6 => cluster.webhook(&mut random).await,
            7 => cluster.crash(&mut random).await,
            8 => cluster.till.let_go(),
            9 => cluster.till.deliver_late(),
            10 if may_jump => {
                let jumps = [1, 31, 301];
                world.advance(Duration::from_secs(jumps[random.random_range(0..jumps.len())]));
            }
            10 => {}
            _ => rivals.snatch(&mut random).await,
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..8))).await;
    }
}

/// Seats of a performance, for holds that are made without a line.
struct Rivals {
    world: Arc<World>,
    concert: Uuid,
    performance: Uuid,
    user: Uuid,
    seats: std::ops::Range<u32>,
}

const HOLD: &str = "INSERT INTO holds (id, user_id, concert_id, performance_id, state, seat_count, amount, expires_at, created_at, changed_at) \
     VALUES (?, ?, ?, ?, 0, 1, ?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND + INTERVAL 300 SECOND, \
     UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
const HOLD_SEAT: &str = "INSERT INTO hold_seats (hold_id, seat_no, label, grade, price) \
     SELECT ?, seat_no, label, grade, price FROM seats WHERE performance_id = ? AND seat_no = ?";
const TAKE_SEAT: &str = "UPDATE seats SET hold_id = ?, held_until = (SELECT expires_at FROM holds WHERE id = ?) \
     WHERE performance_id = ? AND seat_no = ? AND reservation_id IS NULL \
     AND (hold_id IS NULL OR held_until <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";

impl Rivals {
    /// Holds a seat for a user, if it is free.
    async fn hold(&self, sql: &mut MySqlConnection, user: Uuid, seat: u32) -> Option<HoldId> {
        let (id, offset) = (Uuid::now_v7(), self.world.offset_micros());
        sql.execute("START TRANSACTION").await.expect("a transaction");
        let hold = sqlx::query(HOLD).bind(id).bind(user).bind(self.concert).bind(self.performance).bind(PRICE);
        hold.bind(offset).bind(offset).bind(offset).execute(&mut *sql).await.expect("a hold");
        let seats = sqlx::query(HOLD_SEAT).bind(id).bind(self.performance).bind(seat);
        seats.execute(&mut *sql).await.expect("its seat");
        let taken = sqlx::query(TAKE_SEAT).bind(id).bind(id).bind(self.performance).bind(seat).bind(offset);
        match taken.execute(&mut *sql).await {
            Ok(taken) if taken.rows_affected() == 1 => {
                sql.execute("COMMIT").await.expect("a commit");
                Some(HoldId(id))
            }
            // Somebody has it, or is deciding.
            _ => {
                sql.execute("ROLLBACK").await.expect("undone");
                None
            }
        }
    }

    /// A rival takes one of the seats, if its hold has ended.
    async fn snatch(&self, random: &mut StdRng) {
        let mut sql = self.world.sql().await;
        let seat = random.random_range(self.seats.clone());
        self.hold(&mut sql, self.user, seat).await;
        drop(sql.close().await);
    }
}

/// What came of a hold, as the database has it.
#[derive(Debug, sqlx::FromRow)]
struct Outcome {
    hold_state: u8,
    reservation: Option<Uuid>,
    reservation_state: Option<u8>,
    payment: Option<Uuid>,
    method: Option<u8>,
    payment_state: Option<u8>,
    sold_to: Option<Uuid>,
}

const OUTCOME: &str = "SELECT h.state AS hold_state, r.id AS reservation, r.state AS reservation_state, p.id AS payment, p.method, \
     p.state AS payment_state, s.reservation_id AS sold_to FROM holds h \
     JOIN hold_seats hs ON hs.hold_id = h.id JOIN seats s ON s.performance_id = h.performance_id AND s.seat_no = hs.seat_no \
     LEFT JOIN reservations r ON r.hold_id = h.id LEFT JOIN payments p ON p.id = r.payment_id WHERE h.id = ?";

/// What is wrong with the outcome of a story, by the model.
async fn judge(story: &Story, till: &Till, sql: &mut MySqlConnection) -> Vec<String> {
    let found: Outcome = sqlx::query_as(OUTCOME).bind(story.hold).fetch_one(&mut *sql).await.expect("the hold");
    let attempts: Vec<(PaymentId, u8)> =
        sqlx::query_as("SELECT id, state FROM payments WHERE subject_id = ? AND method = 1")
            .bind(story.hold)
            .fetch_all(&mut *sql)
            .await
            .expect("attempts");
    let balance: i64 = sqlx::query_scalar("SELECT balance FROM points_accounts WHERE user_id = ?")
        .bind(story.user)
        .fetch_one(&mut *sql)
        .await
        .expect("a balance");
    let (books, mut wrong) = (till.intents(), Vec::new());
    let mut check = |is_right: bool, what: &str| {
        if !is_right {
            wrong.push(what.to_owned());
        }
    };
    let mut kept = Vec::new();
    for (attempt, state) in &attempts {
        let (charges, refunds) = books.get(attempt).map_or((0, 0), |intent| (intent.charges, intent.refunds));
        let fits = matches!((state, charges, refunds), (1, 1, 0) | (2, 0, 0) | (3, 1, 1));
        check(fits, &format!("attempt {attempt} is in state {state} with {charges} charges and {refunds} refunds"));
        if charges > refunds {
            kept.push(attempt.0);
        }
    }
    let is_confirmed = found.reservation_state == Some(1);
    let by_card = is_confirmed && found.method == Some(1);
    check(kept.len() == usize::from(by_card), "what was charged and kept is not what was delivered");
    check(!by_card || kept.first().copied() == found.payment, "another charge paid for it");
    check(
        balance == POINTS - if is_confirmed && !by_card { PRICE } else { 0 },
        "points were taken for nothing, or not taken",
    );
    check(
        (found.hold_state == 1) == is_confirmed,
        "a hold is paid where its reservation is confirmed, and nowhere else",
    );
    let is_sold = found.reservation.is_some() && found.sold_to == found.reservation;
    check(is_sold == is_confirmed, "the seat is sold where the reservation is confirmed, and nowhere else");
    let states = (found.reservation_state, found.payment_state);
    let is_fitting = matches!(states, (None, None) | (Some(1), Some(1)) | (Some(2), Some(2)) | (Some(3), Some(3)));
    check(is_fitting, "the reservation does not say what became of its payment");
    told(story, &found, &mut check);
    wrong
}

/// Whoever was told of a success still has it, under the same id, and a repetition was answered with the same bytes.
fn told(story: &Story, found: &Outcome, check: &mut impl FnMut(bool, &str)) {
    let mut answers: BTreeMap<String, (u16, Vec<u8>)> = BTreeMap::new();
    for (step, heard) in &story.told {
        let Some(Ok(answer)) = heard else { continue };
        let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
        let is_same = found.reservation.map(|id| id.to_string()).as_deref() == body["id"].as_str();
        check(is_same, "a buyer was told of another reservation");
        if answer.status == 201 {
            let is_kept = found.reservation_state == Some(1)
                && found.payment.map(|id| id.to_string()).as_deref() == body["payment"]["id"].as_str();
            check(is_kept, "a buyer was told of a success that is not there");
        }
        let request = match step {
            Step::Card { card, key } => format!("{} {key}", card_kind(*card)),
            Step::Points { key } => format!("points {key}"),
            Step::Release | Step::Wait => continue,
        };
        let first = answers.entry(request).or_insert_with(|| (answer.status, answer.body.to_vec()));
        check(*first == (answer.status, answer.body.to_vec()), "a repetition was answered otherwise");
    }
}

/// Everybody is asked until nothing is open: the weather is fine, and every hold has ended. Who died in the middle of a
/// transaction keeps its locks until the database notices.
async fn settle(cluster: &Cluster, world: &World, random: &mut StdRng) {
    cluster.till.recover();
    let random = Turn::new(random);
    eventually("every payment to be decided", || async {
        let mut random = random.lock().await;
        cluster.till.let_go();
        cluster.till.deliver_late();
        for (attempt, intent) in cluster.till.intents() {
            if intent.standing == Standing::Processing {
                let declined = Standing::Declined("do_not_honor".to_owned());
                cluster.till.decide(attempt, if random.random_bool(0.7) { Standing::Succeeded } else { declined });
            }
        }
        world.advance(Duration::from_secs(301));
        cluster.recover(&mut random).await;
        let open: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM payments WHERE due_at IS NOT NULL")
            .fetch_one(&mut world.sql().await)
            .await
            .expect("a count");
        (open == 0).then_some(())
    })
    .await;
}

/// A round: its stories at once, then the model's word on each.
async fn round(cluster: &Cluster, rivals: &Rivals, stories: &mut [Story], seed: u64) -> HashMap<String, usize> {
    let (world, mut random) = (cluster.world.clone(), StdRng::seed_from_u64(seed));
    let is_over = AtomicBool::new(false);
    let living = async {
        let seeds: Vec<u64> = stories.iter().map(|_| random.random()).collect();
        let lives = stories.iter_mut().zip(seeds).map(|(story, seed)| story.live(cluster, StdRng::seed_from_u64(seed)));
        futures::future::join_all(lives).await;
        is_over.store(true, Ordering::SeqCst);
    };
    let weather_seed = StdRng::seed_from_u64(seed ^ 1);
    tokio::join!(living, weather(cluster, &world, rivals, &is_over, weather_seed));
    settle(cluster, &world, &mut random).await;
    let mut sql = world.sql().await;
    let mut seen: HashMap<String, usize> = HashMap::new();
    for story in stories.iter() {
        let wrong = judge(story, &cluster.till, &mut sql).await;
        assert!(wrong.is_empty(), "seat {}, round {seed}: {wrong:#?}\n    {}", story.seat, story.says());
        for (_, heard) in &story.told {
            let outcome = match heard {
                None => "unheard".to_owned(),
                Some(Ok(answer)) => answer.status.to_string(),
                Some(Err(problem)) => problem.code().code.to_owned(),
            };
            *seen.entry(outcome).or_default() += 1;
        }
    }
    let booked = "SELECT CAST(COALESCE(-SUM(amount), 0) AS SIGNED) FROM ledger_entries WHERE account = 1";
    let booked: i64 = sqlx::query_scalar(AssertSqlSafe(booked)).fetch_one(&mut sql).await.expect("a sum");
    assert_eq!(booked, cluster.till.kept(), "the ledger and the provider's books");
    seen
}

/// Where the stories take place.
struct Stage {
    world: Arc<World>,
    till: Arc<Till>,
    observer: Instance,
    cluster: Cluster,
    concert: Uuid,
    performance: Uuid,
    rival: Uuid,
}

impl Stage {
    async fn new(seats: usize) -> Self {
        let (world, till) = (Arc::new(World::new().await), Till::new());
        let observer = world.instance_paid_through(&till, &SETTINGS).await;
        let (_, sections) = hall(seats);
        let sale = Sale::new(&Api::over(&[&observer]), &observer, &Plan { sections, ..Plan::default() }).await;
        let cluster = Cluster::new(&world, &till).await;
        let rival = Buyer::many(&observer.state, 1).await.remove(0);
        let id = |text: &str| text.parse().expect("an id");
        let (concert, performance, rival) = (id(&sale.concert), id(&sale.performances[0]), id(&rival.id));
        Self { world, till, observer, cluster, concert, performance, rival }
    }

    /// Buyers with points and a hold each, on these seats.
    async fn stories(&self, seats: std::ops::Range<u32>) -> (Rivals, Vec<Story>) {
        let rivals = Rivals {
            world: self.world.clone(),
            concert: self.concert,
            performance: self.performance,
            user: self.rival,
            seats: seats.clone(),
        };
        let buyers = Buyer::many(&self.observer.state, seats.end - seats.start).await;
        Buyer::endow(&self.observer.state, &buyers, POINTS).await;
        let (mut stories, mut sql) = (Vec::new(), self.world.sql().await);
        for (buyer, seat) in buyers.iter().zip(seats) {
            let user: Uuid = buyer.id.parse().expect("an id");
            let hold = rivals.hold(&mut sql, user, seat).await.expect("a free seat");
            stories.push(Story { user: UserId(user), hold, seat, told: Vec::new() });
        }
        (rivals, stories)
    }

    async fn end(self) {
        drop(self.cluster);
        self.observer.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_story_ends_well() {
    let cases = std::env::var("FRONTROW_PAYMENT_CASES").map_or(CASES, |text| text.parse().expect("a number of cases"));
    let stage = Stage::new(cases.next_multiple_of(AT_ONCE)).await;
    let mut seen: HashMap<String, usize> = HashMap::new();
    for number in 0..u32::try_from(cases.div_ceil(AT_ONCE)).expect("few rounds") {
        let at_once = u32::try_from(AT_ONCE).expect("few");
        let (rivals, mut stories) = stage.stories(number * at_once..(number + 1) * at_once).await;
        for (outcome, count) in round(&stage.cluster, &rivals, &mut stories, u64::from(number)).await {
            *seen.entry(outcome).or_default() += count;
        }
    }
    println!("{cases} stories: {seen:?}");
    for outcome in ["201", "202", "unheard", "card_declined", "payment_in_progress", "already_paid"] {
        assert!(cases < CASES || seen.contains_key(outcome), "no story came to {outcome}: {seen:?}");
    }
    let report = audit::run(&stage.observer.state.db, &stage.observer.state.config.jobs, None).await;
    assert!(report.is_clean, "{report:#?}");
    stage.end().await;
}

/// The model can fail: a story that ended well does not, once somebody has tampered with what came of it; nor does the audit hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_model_and_the_audit_notice_what_is_wrong() {
    let stage = Stage::new(50).await;
    let (_, mut stories) = stage.stories(0..1).await;
    let story = &mut stories[0];
    let (checkout, user, hold) = (stage.observer.state.checkout.clone(), story.user, story.hold);
    let key = RequestKey { key: Some("pay".to_owned()), fingerprint: [0; 32] };
    let paid = checkout.pay_with_card(user, hold, Secret::new(CARDS[0]), key).await.expect("a reservation");
    story.told.push((Step::Card { card: 0, key: 0 }, Some(Ok(paid))));
    let mut sql = stage.world.sql().await;
    assert_eq!(judge(story, &stage.till, &mut sql).await, [""; 0]);
    let attempt = stage.till.only().0;
    let tampered = [
        (
            "UPDATE payments SET state = 2, changed_at = UTC_TIMESTAMP(6) WHERE id = ?",
            "charged_hold_has_tickets",
            false,
        ),
        ("UPDATE payments SET state = 3, changed_at = UTC_TIMESTAMP(6) WHERE id = ?", "card_refund_is_booked", true),
        (
            "UPDATE payments SET state = 4, changed_at = UTC_TIMESTAMP(6) WHERE id = ?",
            "open_payment_is_looked_after",
            true,
        ),
        ("UPDATE payments SET amount = amount + 1 WHERE id = ?", "card_payment_is_booked", true),
        ("UPDATE reservations SET state = 0 WHERE payment_id = ?", "pending_reservation_is_open", true),
    ];
    for (statement, invariant, is_audited) in tampered {
        sqlx::query(statement).bind(attempt).execute(&mut sql).await.expect("tampering");
        let wrong = judge(story, &stage.till, &mut sql).await;
        // The audit alone looks at amounts.
        assert!(!wrong.is_empty() || statement.contains("amount"), "{statement}");
        let report = audit::run(&stage.observer.state.db, &stage.observer.state.config.jobs, None).await;
        let broken: Vec<&str> = report
            .findings
            .iter()
            .filter(|finding| !finding.breaches.is_empty())
            .map(|finding| finding.invariant.as_str())
            .collect();
        assert!(broken.contains(&invariant) == is_audited && !broken.is_empty(), "{statement}: {broken:?}");
        for undo in [
            "UPDATE payments SET state = 1, amount = 10000, changed_at = UTC_TIMESTAMP(6) WHERE id = ?",
            "UPDATE reservations SET state = 1 WHERE payment_id = ?",
        ] {
            sqlx::query(undo).bind(attempt).execute(&mut sql).await.expect("put right");
        }
    }
    stage.till.charge_again(attempt);
    assert!(!judge(story, &stage.till, &mut sql).await.is_empty(), "two charges");
    stage.end().await;
}
