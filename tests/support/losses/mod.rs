//! A crowd that joins, waits and claims over two instances while their line is lost, and what must be true meanwhile and
//! afterwards.
//!
//! Each instance reaches Redis through a proxy of its own and MySQL through one for both; what looks behind them goes direct.
//! Crowds take turns, so that a scenario's time does not depend on how many others run beside it.

pub mod buyer;
pub mod seen;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex as StdMutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use sqlx::Row as _;
use tokio::sync::{Mutex, MutexGuard, watch};

use self::buyer::{Check, Client, Story};
use self::seen::{Asked, Seen};
use super::arena::Plan;
use super::crowd::hall;
use super::world::server;
use super::{Api, Buyer, Instance, Proxy, Sale, World, eventually};

/// Clients of one crowd: `FRONTROW_CLIENTS`, or so many that a busy machine is done in good time.
pub fn clients() -> u32 {
    std::env::var("FRONTROW_CLIENTS").map_or(100, |text| text.parse().expect("a number of clients"))
}

/// How many must have joined before the loss.
pub fn issued_before() -> usize {
    clients() as usize / 2
}

/// How many may be inside.
pub const ACTIVE_MAX: i64 = 40;
/// Longest life of a crowd, far above what it takes.
const CROWD_MAX: Duration = Duration::from_mins(3);
/// A request's deadline, and what a busy machine may add.
const ANSWER_MAX: Duration = Duration::from_secs(4 + 6);
/// What a machine that is busy with other things must still see of the crowd before the loss.
const ADMITTED_BEFORE: usize = 30;

/// The defaults' proportions, in a fraction of their time.
const LIMITS: [(&str, &str); 6] = [
    ("FRONTROW__HTTP__REQUEST_TIMEOUT_MS", "4000"),
    ("FRONTROW__DATABASE__UNIT_TIMEOUT_MS", "2000"),
    ("FRONTROW__REDIS__COMMAND_TIMEOUT_MS", "400"),
    ("FRONTROW__REDIS__CONNECT_TIMEOUT_MS", "400"),
    ("FRONTROW__QUEUE__STANDBY_ADMIT_PER_SECOND", "60"),
    ("FRONTROW__QUEUE__TICK_MS", "100"),
];

static TURN: Mutex<()> = Mutex::const_new(());

/// Where the crowd stands to the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    Before,
    During,
    After,
}

/// The crowd's surroundings.
pub struct Scene {
    pub world: World,
    pub instances: Vec<Instance>,
    /// One for each instance.
    pub apis: Vec<Api>,
    /// The way to Redis of each instance.
    pub redis: Vec<Proxy>,
    /// The way to MySQL of both.
    pub mysql: Proxy,
    pub sale: Sale,
    /// Path of the line.
    pub base: String,
    pub seen: Seen,
    moment: watch::Sender<Moment>,
    /// The most passes that were live at once, and how often they were counted.
    active_max: AtomicI64,
    samples: AtomicU64,
    /// Places in MySQL's copy, with the time when they were first seen there.
    copied: StdMutex<BTreeMap<u64, Duration>>,
    _turn: MutexGuard<'static, ()>,
}

/// How a sale begins.
pub enum Opening {
    /// It is open.
    Open,
    /// Its lobby is open, and booking opens in an hour.
    Lobby,
}

impl Scene {
    /// A sale on this Redis, by proxies where its URL names one server.
    pub async fn set(redis_url: &str, opening: Opening) -> Self {
        let turn = TURN.lock().await;
        let world = World::on(&server("FRONTROW__DATABASE__URL"), redis_url, &LIMITS).await;
        let mysql = world.mysql_proxy().await;
        let (mysql_name, mysql_url) = world.mysql_through(&mysql);
        let (mut instances, mut redis) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let mut settings = vec![(mysql_name, mysql_url.clone())];
            if redis_url.starts_with("redis://") {
                let proxy = world.redis_proxy().await;
                settings.push(world.redis_through(&proxy));
                redis.push(proxy);
            }
            let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
            instances.push(world.instance_with(&settings).await);
        }
        let apis: Vec<Api> = instances.iter().map(|instance| Api::over(&[instance])).collect();
        let sale = Sale::new(&apis[0], &instances[0], &plan(&instances[0], &opening)).await;
        let base = format!("/v1/concerts/{}/queue", sale.concert);
        let (moment, _) = watch::channel(Moment::Before);
        Self {
            world,
            instances,
            apis,
            redis,
            mysql,
            sale,
            base,
            seen: Seen::default(),
            moment,
            active_max: AtomicI64::default(),
            samples: AtomicU64::default(),
            copied: StdMutex::default(),
            _turn: turn,
        }
    }

    /// Lets the clients know.
    pub fn enter(&self, moment: Moment) {
        self.moment.send_replace(moment);
    }

    /// Whether it has come so far.
    pub fn is_at(&self, moment: Moment) -> bool {
        *self.moment.borrow() >= moment
    }

    /// Waits until it has come so far.
    pub async fn reaches(&self, moment: Moment) {
        self.moment.subscribe().wait_for(|now| *now >= moment).await.expect("its own sender");
    }

    /// A crowd lives while this happens to its line; then everything is held against what must be true. `loss` gets to run
    /// when many wait and some are inside, and says when it began and when it ended.
    pub async fn run(&self, name: &str, loss: impl AsyncFnOnce(&Self) -> (Duration, Duration)) -> Vec<Story> {
        let buyers = Buyer::many(&self.instances[0].state, clients()).await;
        let clients = buyers.iter().enumerate().map(|(number, buyer)| Client::new(self, buyer, number).live());
        let crowd = async {
            let stories = tokio::time::timeout(CROWD_MAX, join_all(clients)).await;
            let stories = stories.unwrap_or_else(|_| panic!("{name}: some wait for ever: {:?}", self.seen.outcomes()));
            // The last ones were in and out before a copy was due.
            let places = self.seen.first_answers();
            let are_copied = || async { places.keys().all(|arrival| self.is_copied(*arrival)).then_some(()) };
            eventually("every place to be copied", are_copied).await;
            stories
        };
        let happening = async {
            let (began, ended) = loss(self).await;
            self.enter(Moment::After);
            (began, ended)
        };
        let (stories, (began, ended)) = tokio::select! {
            both = async { tokio::join!(crowd, happening) } => both,
            () = self.count_passes() => unreachable!("it never ends"),
            () = self.watch_copies() => unreachable!("it never ends"),
            () = self.watch_lines() => unreachable!("it never ends"),
        };
        self.tell(name, began, ended);
        self.assert_kept(&stories).await;
        stories
    }

    /// Waits until many wait and some were let in.
    pub async fn wait_for_crowd(&self) {
        self.wait_for_joins(issued_before()).await;
        eventually("the crowd", || async { (self.seen.count("Claim 201") >= ADMITTED_BEFORE).then_some(()) }).await;
    }

    /// Waits until many have a place.
    pub async fn wait_for_joins(&self, count: usize) {
        eventually("the crowd", || async { (self.seen.count("Join 201") >= count).then_some(()) }).await;
    }

    /// What MySQL says of the line.
    pub async fn row(&self) -> Row {
        let sql = "SELECT epoch, in_charge, run_id FROM queue_sales WHERE concert_id = ?";
        let found = sqlx::query(sql).bind(self.concert()).fetch_one(&mut self.world.sql().await).await.expect("a line");
        Row { epoch: found.get(0), is_in_mysql: found.get::<u8, _>(1) == 1, run_id: found.get(2) }
    }

    /// What an instance says of its readiness.
    pub async fn readiness(&self, instance: usize) -> (u16, Value) {
        let reply = self.apis[instance].get("/readyz").send().await;
        (reply.status, reply.body)
    }

    fn concert(&self) -> uuid::Uuid {
        self.sale.concert.parse().expect("an id")
    }

    /// The cap is never passed, whenever one looks.
    async fn count_passes(&self) {
        let sql = "SELECT COUNT(*) FROM queue_passes WHERE concert_id = ? AND is_live = 1 \
             AND expires_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND";
        let mut mysql = self.world.sql().await;
        loop {
            let offset = self.world.offset_micros();
            let count = sqlx::query_scalar(sql).bind(self.concert()).bind(offset).fetch_one(&mut mysql);
            let count: i64 = count.await.expect("a count");
            assert!(count <= ACTIVE_MAX, "{count} inside");
            self.active_max.fetch_max(count, Ordering::Relaxed);
            self.samples.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether a place is in MySQL's copy.
    pub fn is_copied(&self, arrival: u64) -> bool {
        self.copied.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&arrival)
    }

    async fn watch_copies(&self) {
        let sql = "SELECT arrival FROM queue_places WHERE concert_id = ?";
        let mut mysql = self.world.sql().await;
        loop {
            let arrivals: Vec<u64> =
                sqlx::query_scalar(sql).bind(self.concert()).fetch_all(&mut mysql).await.expect("the copy");
            let now = self.seen.now();
            {
                let mut copied = self.copied.lock().unwrap_or_else(PoisonError::into_inner);
                for arrival in arrivals {
                    copied.entry(arrival).or_insert(now);
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Every place that was answered comes to be in the copy. How much later than the answer, in the middle and at most.
    fn copying_took(&self) -> (Duration, Duration) {
        let copied = self.copied.lock().unwrap_or_else(PoisonError::into_inner);
        let took = |(arrival, answered): (u64, Duration)| {
            let seen = copied.get(&arrival).unwrap_or_else(|| panic!("{arrival} was never copied"));
            seen.saturating_sub(answered)
        };
        let mut took: Vec<Duration> = self.seen.first_answers().into_iter().map(took).collect();
        took.sort_unstable();
        (took[took.len() / 2], took[took.len() - 1])
    }

    /// Neither calls nor phases go back on any instance.
    async fn watch_lines(&self) {
        let phases = ["lobby", "open"];
        let mut last = vec![(0, 0); self.apis.len()];
        loop {
            for (api, last) in self.apis.iter().zip(&mut last) {
                let line = api.get(&self.base).send().await.expect(200);
                let phase = phases.iter().position(|phase| line["phase"] == *phase).expect("a phase");
                let now = (phase, line["serving"].as_u64().expect("a number"));
                assert!(now.0 >= last.0 && now.1 >= last.1, "{now:?} after {last:?}");
                *last = now;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// How long it took until each instance gave places and let buyers in again.
    fn tell(&self, name: &str, began: Duration, ended: Duration) {
        for instance in 0..self.apis.len() {
            for asked in [Asked::Join, Asked::Claim] {
                let after = |from| self.seen.first_success(asked, instance, from);
                println!(
                    "recovery | {name} | instance {instance} | {asked:?} | {:?} from its beginning | {:?} from its end",
                    after(began),
                    after(ended)
                );
            }
        }
        println!(
            "{name}: the loss took {:?}, everything {:?}: {:?}",
            ended.saturating_sub(began),
            self.seen.now(),
            self.seen.outcomes()
        );
    }

    async fn assert_kept(&self, stories: &[Story]) {
        self.seen.assert_answered(ANSWER_MAX);
        let issued = self.seen.assert_unique();
        let ordered = self.seen.assert_order(self.apis.len());
        let kept: usize = stories.iter().map(|story| story.arrivals.len()).sum();
        assert_eq!(issued, kept, "every number that was ever answered is somebody's place");
        let sql = "SELECT arrival FROM queue_passes WHERE concert_id = ? ORDER BY arrival";
        let mut mysql = self.world.sql().await;
        let passes: Vec<u64> =
            sqlx::query_scalar(sql).bind(self.concert()).fetch_all(&mut mysql).await.expect("the passes");
        let mut admitted: Vec<u64> = stories.iter().flat_map(|story| story.admitted.clone()).collect();
        admitted.sort_unstable();
        assert_eq!(passes, admitted, "who was let in");
        println!("in MySQL's copy after, in the middle and at most: {:?}", self.copying_took());
        let checks = |check| stories.iter().filter(|story| story.checked == Some(check)).count();
        let (with, without) = (checks(Check::WithTicket), checks(Check::WithoutTicket));
        let (active, samples) = (self.active_max.load(Ordering::Relaxed), self.samples.load(Ordering::Relaxed));
        println!(
            "{issued} places, asked for again {with} times with the ticket and {without} without it; {ordered} looks at the \
             order; at most {active} inside in {samples} looks"
        );
        assert!(with > 0 && without > 0 && ordered > 100 && active > 0 && samples > 20);
        self.world.assert_clean(&self.instances[0]).await;
    }

    /// Ends everything.
    pub async fn end(self) {
        self.world.end(self.instances).await;
    }
}

/// What MySQL says of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub epoch: u32,
    pub is_in_mysql: bool,
    pub run_id: String,
}

fn plan(instance: &Instance, opening: &Opening) -> Plan {
    let mut queue = json!({"admit_per_second": 60, "max_active": ACTIVE_MAX, "claim_secs": 60, "session_secs": 600});
    let (_, sections) = hall(200);
    let opens_in_secs = match opening {
        Opening::Open => -1,
        Opening::Lobby => {
            queue["order"] = json!("draw");
            queue["lobby_opens_at"] = json!(instance.state.clock.now().minus(Duration::from_mins(1)));
            3600
        }
    };
    Plan { sections, opens_in_secs, queue, ..Plan::default() }
}
