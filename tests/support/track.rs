//! Where races are run: two instances, and a third one that nobody races, for preparing and for looking afterwards.
//!
//! [`race`] runs each race behind slow proxies, when nothing may be found wrong, and with its guard [`Broken`] as well, when
//! something must be: else the race would prove nothing. With `FRONTROW_ROUNDS` above 1 it runs without proxies, too.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use frontrow::app::audit;
use sqlx::Executor as _;

use super::proxy::sabotage::Sabotage;
use super::world::address_of;
use super::{Api, Fault, History, Instance, Proxy, World, rounds};

/// How much later each statement of a broken racer comes, and each answer: between looking and acting there is time for
/// somebody else, which the guard would not allow.
const BETWEEN: Duration = Duration::from_millis(3);

/// How often a race with a broken guard may pass by luck before it is said to prove nothing.
const TRIES: usize = 16;

/// Races are about order, not speed: on a busy machine nobody is refused for being late.
const UNHURRIED: &[(&str, &str)] = &[
    ("FRONTROW__HTTP__REQUEST_TIMEOUT_MS", "60000"),
    ("FRONTROW__DATABASE__ACQUIRE_TIMEOUT_MS", "30000"),
    ("FRONTROW__DATABASE__UNIT_TIMEOUT_MS", "30000"),
    ("FRONTROW__DATABASE__LOCK_WAIT_SECS", "30"),
    ("FRONTROW__REDIS__COMMAND_TIMEOUT_MS", "30000"),
    // It would keep the racers from meeting at the guards.
    ("FRONTROW__BOOKING__SEAT_FILTER", "false"),
    // So would large batches, as one instance then takes everything at once.
    ("FRONTROW__BOOKING__HOLD_BATCH_MAX", "2"),
    // And payments, with so few of them in each, would wait for a long time.
    ("FRONTROW__BOOKING__PAY_LANES", "16"),
];

/// A guard taken away, in the stores or on the way to them. The program has no switch for it.
pub enum Broken {
    /// A statement or script loses it on its way to the server.
    Rewritten(Arc<Sabotage>),
    /// The schema loses it.
    Dropped(&'static [&'static str]),
    /// Both.
    Both(Arc<Sabotage>, &'static [&'static str]),
}

/// The place of one race.
pub struct Track {
    pub world: World,
    /// Takes no part in the race.
    pub steward: Instance,
    /// Asks the steward.
    pub quiet: Api,
    /// Asks the two racing instances in turn.
    pub api: Api,
    racers: Vec<Instance>,
    _proxies: Vec<Proxy>,
}

/// What a race found wrong.
#[derive(Debug, Default)]
pub struct Findings(pub Vec<String>);

impl Findings {
    /// Notes it where it does not hold.
    pub fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }

    /// Notes where two things differ.
    pub fn equal<T: PartialEq + Debug>(&mut self, what: &str, found: &T, wanted: &T) {
        self.check(found == wanted, || format!("{what}: {found:?} instead of {wanted:?}"));
    }

    /// Notes outcomes that clients should not have seen.
    pub fn outcomes(&mut self, history: &History, expected: &[&str]) {
        let others = history.others(expected);
        self.check(others.is_empty(), || format!("clients saw {others:?}"));
    }
}

impl Track {
    /// A world with a steward and two racers, whose guard is broken if one is named.
    pub async fn new(broken: Option<&Broken>) -> Self {
        let world = World::with(UNHURRIED).await;
        let steward = world.instance().await;
        let (sabotage, statements) = match broken {
            None => (None, &[][..]),
            Some(Broken::Rewritten(sabotage)) => (Some(sabotage), &[][..]),
            Some(Broken::Dropped(statements)) => (None, *statements),
            Some(Broken::Both(sabotage, statements)) => (Some(sabotage), *statements),
        };
        for statement in statements {
            world.sql().await.execute(*statement).await.expect("a guard of the schema is dropped");
        }
        let (mut racers, mut proxies) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            if broken.is_none() {
                racers.push(world.instance().await);
                continue;
            }
            let redis = match sabotage.filter(|sabotage| sabotage.is_for_redis()) {
                Some(sabotage) => Proxy::sabotaging(target(&world, sabotage), sabotage.clone()).await,
                None => world.redis_proxy().await,
            };
            let mysql = match sabotage.filter(|sabotage| !sabotage.is_for_redis()) {
                Some(sabotage) => Proxy::sabotaging(target(&world, sabotage), sabotage.clone()).await,
                None => world.mysql_proxy().await,
            };
            mysql.set(Fault::Delay(BETWEEN));
            let (through_redis, through_mysql) = (world.redis_through(&redis), world.mysql_through(&mysql));
            let settings = [through_redis, through_mysql];
            racers.push(world.instance_with(&settings.each_ref().map(|(name, url)| (*name, url.as_str()))).await);
            proxies.extend([redis, mysql]);
        }
        let quiet = Api::over(&[&steward]);
        let api = Api::over(&racers.iter().collect::<Vec<_>>());
        Self { world, steward, quiet, api, racers, _proxies: proxies }
    }

    async fn end(self) {
        let mut instances = self.racers;
        instances.push(self.steward);
        self.world.end(instances).await;
    }
}

fn target(world: &World, sabotage: &Sabotage) -> std::net::SocketAddr {
    let config = world.config(&[]);
    address_of(if sabotage.is_for_redis() { config.redis.url.expose() } else { config.database.url.expose() })
}

/// Runs the race as the program is, and then with its guard broken.
pub async fn race(broken: Broken, run: impl AsyncFn(&Track) -> Findings) {
    if rounds() > 1 {
        let found = judged(None, &run).await;
        assert!(found.is_empty(), "{found:#?}");
    }
    // Slow statements leave the most time between looking and acting. And neither the proxies nor the delay are what the
    // broken run is blamed for.
    let found = judged(Some(&Broken::Dropped(&[])), &run).await;
    assert!(found.is_empty(), "behind proxies: {found:#?}");
    for tried in 1..=TRIES {
        let found = judged(Some(&broken), &run).await;
        if let Broken::Rewritten(sabotage) | Broken::Both(sabotage, _) = &broken {
            assert!(sabotage.hits() > 0, "nothing was rewritten: the guard is not where the test thinks");
        }
        if !found.is_empty() {
            println!("the broken guard was noticed in run {tried} of {TRIES}: {}", found.len());
            return;
        }
    }
    panic!("the race does not notice that its guard is broken");
}

/// What the race and the audit found.
async fn judged(broken: Option<&Broken>, run: &impl AsyncFn(&Track) -> Findings) -> Vec<String> {
    let track = Track::new(broken).await;
    let mut found = run(&track).await.0;
    let report = audit::run(&track.steward.state.db, &track.steward.state.config.jobs, None).await;
    let breaches = report.findings.iter().filter(|one| one.error.is_some() || !one.breaches.is_empty());
    found.extend(breaches.map(|one| format!("{one:?}")));
    track.end().await;
    found
}
