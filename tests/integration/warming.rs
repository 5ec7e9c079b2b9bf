//! The warmer: what is due is loaded once for the cluster and followed by every instance, however instances and stores fail.

use std::collections::BTreeMap;
use std::time::Duration;

use frontrow::app::state::State;
use frontrow::catalog::ConcertId;
use frontrow::platform::shutdown::Shutdown;
use serde_json::{Value, json};
use sqlx::{MySqlConnection, Row as _};

use crate::support::arena::Plan;
use crate::support::{Api, Buyer, Fault, Process, Sale, World, assert_members, eventually};

/// What is loaded stays for as long as a test moves the clock.
const LASTING: [(&str, &str); 3] = [
    ("FRONTROW__CACHE__SOFT_SECS", "3600"),
    ("FRONTROW__CACHE__HARD_SECS", "7200"),
    ("FRONTROW__WARMER__LOOK_MS", "50"),
];
/// An instance that makes sales and warms nothing.
const COLD: [(&str, &str); 1] = [("FRONTROW__WARMER__ENABLED", "false")];
const LEAD: u64 = 180;

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Of two performances, opening in so many seconds.
fn opening_in(opens_in_secs: i64) -> Plan {
    Plan { opens_in_secs, performances: 2, ..Plan::default() }
}

async fn cache_of(api: &Api, sale: &Sale) -> Value {
    let path = format!("/v1/admin/concerts/{}/cache", sale.concert);
    api.get(&path).bearer(&sale.operator).send().await.expect(200)
}

/// Waits until so many instances run and all of them are warm.
async fn wait_until_warm(api: &Api, sale: &Sale, instances: usize) -> Value {
    eventually("every instance to be warm", || async {
        let cache = cache_of(api, sale).await;
        let running = cache["instances"].as_array().expect("instances").len();
        (cache["is_warm"] == true && running == instances).then_some(cache)
    })
    .await
}

/// A warming's row.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    state: u8,
    fence: u32,
    round: u32,
    attempts: u32,
    last_error: String,
    is_leased: bool,
}

fn seen(state: u8, fence: u32, round: u32, attempts: u32, last_error: &str, is_leased: bool) -> Seen {
    Seen { state, fence, round, attempts, last_error: last_error.to_owned(), is_leased }
}

/// The rows of a concert by occasion.
async fn rows(world: &World, sale: &Sale) -> BTreeMap<u8, Seen> {
    let concert: ConcertId = sale.concert.parse().expect("an id");
    let query = "SELECT occasion, state, fence, round, attempts, last_error, leased_until IS NOT NULL AS is_leased \
         FROM warmings WHERE concert_id = ?";
    let found = sqlx::query(query).bind(concert).fetch_all(&mut world.sql().await).await.expect("rows");
    let seen = found.iter().map(|row| {
        let seen = Seen {
            state: row.get("state"),
            fence: row.get("fence"),
            round: row.get("round"),
            attempts: row.get("attempts"),
            last_error: row.get("last_error"),
            is_leased: row.get("is_leased"),
        };
        (row.get("occasion"), seen)
    });
    seen.collect()
}

const LOBBY: u8 = 0;
const BOOKING: u8 = 1;
const ORDER: u8 = 2;

/// Instances that wrote down what they have in memory of the concert.
async fn memories(world: &World, sale: &Sale) -> usize {
    let concert: ConcertId = sale.concert.parse().expect("an id");
    let count = sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM warm_memories WHERE concert_id = ?").bind(concert);
    usize::try_from(count.fetch_one(&mut world.sql().await).await.expect("a count")).expect("a count")
}

/// Makes the seat maps of all venues unreadable, or readable again. Redis has none either.
async fn spoil_layouts(world: &World) -> Vec<u8> {
    let mut sql = world.sql().await;
    let layout = sqlx::query_scalar("SELECT layout FROM venues LIMIT 1").fetch_one(&mut sql).await.expect("a layout");
    sqlx::query("UPDATE venues SET layout = 'spoilt'").execute(&mut sql).await.expect("an update");
    world.wipe_redis().await;
    layout
}

async fn mend_layouts(world: &World, layout: Vec<u8>) {
    let mend = sqlx::query("UPDATE venues SET layout = ?").bind(layout);
    mend.execute(&mut world.sql().await).await.expect("an update");
}

/// Services without a background but for their cache's: nobody looks but the test.
fn services_that_hear(world: &World, extra: &[(&str, &str)]) -> (State, Shutdown) {
    let (state, shutdown) = (world.state(extra), Shutdown::default());
    shutdown.spawn(state.caches.clone().run(shutdown.clone()));
    (state, shutdown)
}

async fn end_of(state: State, shutdown: Shutdown) {
    shutdown.request();
    shutdown.wait().await;
    state.caches.close().await;
    state.db.close().await;
}

/// Until Redis answers these services, and is their shared tier again.
async fn redis_to_be_back(state: &State) {
    eventually("Redis to be back", || async { state.redis.ping().await.ok() }).await;
    eventually("the shared tier", || async { (!state.caches.is_far_off()).then_some(()) }).await;
}

/// Lets nobody read venues, and so load a concert, until it is dropped.
async fn lock_venues(world: &World) -> MySqlConnection {
    let mut sql = world.sql().await;
    sqlx::raw_sql("LOCK TABLES venues WRITE").execute(&mut sql).await.expect("a lock");
    sql
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_is_loaded_once_and_followed_by_every_instance() {
    let world = World::with(&LASTING).await;
    let (one, other) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &other]);
    let plan = Plan {
        queue: json!({"order": "draw", "lobby_opens_at": one.state.clock.now().plus(secs(500)),
        "admit_per_second": 10, "max_active": 10, "claim_secs": 60, "session_secs": 600}),
        ..opening_in(700)
    };
    let sale = Sale::new(&api, &one, &plan).await;
    eventually("rows of both openings", || async { (rows(&world, &sale).await.len() == 2).then_some(()) }).await;
    let planned = cache_of(&api, &sale).await;
    assert_members(&planned, &["concert_id", "is_warm", "warmings", "instances"]);
    let states: Vec<&Value> =
        planned["warmings"].as_array().expect("warmings").iter().map(|it| &it["status"]).collect();
    assert_eq!((planned["is_warm"].clone(), states), (json!(false), vec![&json!("planned"), &json!("planned")]));
    assert_eq!(memories(&world, &sale).await, 0, "it is not time yet");

    world.advance(secs(500 - LEAD + 1));
    let warm = wait_until_warm(&api, &sale, 2).await;
    let found = rows(&world, &sale).await;
    assert_eq!(found[&LOBBY], seen(1, 1, 1, 0, "", false), "one claim, one round");
    assert_eq!(found[&BOOKING], seen(0, 0, 0, 0, "", false), "not yet");
    let first = &warm["warmings"][0];
    assert_members(
        first,
        &["occasion", "opens_at", "due_at", "status", "rounds", "filled_at", "attempts", "last_error"],
    );
    assert_eq!((&first["occasion"], &first["status"]), (&json!("lobby"), &json!("filled")));
    let (here, there) = (&warm["instances"][0], &warm["instances"][1]);
    assert_members(here, &["id", "name", "started_at", "seen_at", "is_warm", "warm_since", "expires_at"]);
    assert_ne!(here["id"], there["id"]);

    world.advance(secs(200));
    eventually("the second occasion", || async { (rows(&world, &sale).await[&BOOKING].round == 1).then_some(()) })
        .await;
    eventually("both to load it again", || async {
        let again = cache_of(&api, &sale).await;
        let is_newer = |at: usize| {
            let since = |cache: &Value| cache["instances"][at]["warm_since"].as_str().map(str::to_owned);
            since(&again) > since(&warm)
        };
        (is_newer(0) && is_newer(1)).then_some(())
    })
    .await;
    assert_eq!(rows(&world, &sale).await[&BOOKING], seen(1, 1, 1, 0, "", false));
    world.end(vec![one, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_instance_had_claimed_is_taken_over() {
    let world = World::with(&LASTING).await;
    let maker = world.instance_with(&COLD).await;
    let sale = Sale::new(&Api::over(&[&maker]), &maker, &opening_in(100)).await;
    let lock = lock_venues(&world).await;
    let (mut victim, _) = Process::serve(&world, &[]).await;
    let claimed =
        eventually("a claim", || async { rows(&world, &sale).await.remove(&BOOKING).filter(|row| row.is_leased) });
    let claimed = claimed.await;
    victim.kill();
    victim.end().await;
    drop(lock);
    let state = world.state(&[]);
    state.warmer.look().await.expect("a look");
    let row = rows(&world, &sale).await.remove(&BOOKING).expect("a row");
    assert_eq!((row.round, row.is_leased), (0, true), "the lease has not lapsed: {claimed:?}");
    world.advance(secs(20));
    state.warmer.look().await.expect("a look");
    let row = rows(&world, &sale).await.remove(&BOOKING).expect("a row");
    assert_eq!((row.state, row.round, row.is_leased), (1, 1, false));
    assert!(row.fence > claimed.fence);
    state.db.close().await;
    world.end(vec![maker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_too_late_changes_nothing() {
    let world = World::with(&LASTING).await;
    let maker = world.instance_with(&COLD).await;
    let sale = Sale::new(&Api::over(&[&maker]), &maker, &opening_in(100)).await;
    let slow = world.state(&[]);
    let lock = lock_venues(&world).await;
    let late = tokio::spawn({
        let warmer = slow.warmer.clone();
        async move { warmer.look().await }
    });
    eventually("a claim", || async { rows(&world, &sale).await.remove(&BOOKING).filter(|row| row.is_leased) }).await;
    // As if the instance had stood still for so long: its lease lapses, and somebody else claims.
    let stolen = "UPDATE warmings SET fence = fence + 1, leased_until = UTC_TIMESTAMP(6) + INTERVAL 1 DAY";
    sqlx::query(stolen).execute(&mut world.sql().await).await.expect("an update");
    drop(lock);
    late.await.expect("no panic").expect("a look");
    let row = rows(&world, &sale).await.remove(&BOOKING).expect("a row");
    assert_eq!(row, seen(0, 2, 0, 0, "", true));
    slow.db.close().await;
    world.end(vec![maker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_slow_but_alive_keeps_the_claim() {
    let world = World::with(&LASTING).await;
    let maker = world.instance_with(&COLD).await;
    let sale = Sale::new(&Api::over(&[&maker]), &maker, &opening_in(100)).await;
    let slow = world.state(&[("FRONTROW__WARMER__LEASE_SECS", "3")]);
    let lock = lock_venues(&world).await;
    let loading = tokio::spawn({
        let warmer = slow.warmer.clone();
        async move { warmer.look().await }
    });
    let leased_until = async || {
        let lease = sqlx::query_scalar::<_, Option<String>>("SELECT CAST(leased_until AS CHAR) FROM warmings");
        lease.fetch_optional(&mut world.sql().await).await.expect("a lease").flatten()
    };
    let first = eventually("a claim", &leased_until).await;
    eventually("a longer lease", || async { leased_until().await.filter(|later| *later > first) }).await;
    drop(lock);
    loading.await.expect("no panic").expect("a look");
    assert_eq!(rows(&world, &sale).await[&BOOKING].fence, 1, "nobody else claimed it");
    slow.db.close().await;
    world.end(vec![maker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_listed_while_it_says_that_it_is_there() {
    let world = World::new().await;
    let (one, other) = (world.services(&[]).await, world.state(&[]));
    let listed = async || {
        let live = one.instances.list_live().await.expect("a list");
        live.iter().map(|instance| instance.id).collect::<Vec<_>>()
    };
    one.instances.beat().await.expect("a beat");
    world.advance(secs(1));
    other.instances.beat().await.expect("a beat");
    assert_eq!(listed().await, [one.instances.own(), other.instances.own()]);
    world.advance(secs(10));
    one.instances.beat().await.expect("a beat");
    world.advance(secs(10));
    assert_eq!(listed().await, [one.instances.own()], "the other one has not been heard of");
    other.instances.beat().await.expect("a beat");
    assert_eq!(listed().await.len(), 2, "it is back, and the same");
    one.instances.leave().await.expect("leaving");
    assert_eq!(listed().await, [other.instances.own()]);
    world.advance(secs(2 * 3600));
    one.instances.beat().await.expect("a beat");
    let rows = sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM instances");
    assert_eq!(rows.fetch_one(&mut world.sql().await).await.expect("a count"), 1, "what ended long ago is forgotten");
    for state in [one, other] {
        state.db.close().await;
    }
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_tried_again() {
    let world = World::with(&LASTING).await;
    let maker = world.instance_with(&COLD).await;
    let api = Api::over(&[&maker]);
    let sale = Sale::new(&api, &maker, &opening_in(100)).await;
    let layout = spoil_layouts(&world).await;
    let state = world.state(&[]);
    state.warmer.look().await.expect("a look");
    assert_eq!(rows(&world, &sale).await[&BOOKING], seen(0, 1, 0, 1, "internal", false));
    let cache = cache_of(&api, &sale).await;
    assert_eq!(
        (&cache["warmings"][0]["status"], &cache["warmings"][0]["last_error"]),
        (&json!("failing"), &json!("internal"))
    );
    state.warmer.look().await.expect("a look");
    assert_eq!(rows(&world, &sale).await[&BOOKING].attempts, 1, "not before its time");
    world.advance(secs(2));
    state.warmer.look().await.expect("a look");
    assert_eq!(rows(&world, &sale).await[&BOOKING], seen(0, 2, 0, 2, "internal", false));
    assert_eq!(memories(&world, &sale).await, 0);

    mend_layouts(&world, layout).await;
    world.advance(secs(3));
    state.warmer.look().await.expect("a look");
    assert_eq!(rows(&world, &sale).await[&BOOKING], seen(1, 3, 1, 0, "", false));
    assert_eq!(memories(&world, &sale).await, 1);
    state.db.close().await;
    world.end(vec![maker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_failing_is_given_up_until_an_operator_orders_it() {
    let world = World::with(&LASTING).await;
    let maker = world.instance_with(&COLD).await;
    let sale = Sale::new(&Api::over(&[&maker]), &maker, &opening_in(3000)).await;
    let state = world.state(&[]);
    let concert = sale.concert.parse().expect("an id");
    state.warmer.order_by_command(concert).await.expect("an order");
    let layout = spoil_layouts(&world).await;
    for _ in 0..30 {
        state.warmer.look().await.expect("a look");
        world.advance(secs(31));
    }
    state.warmer.look().await.expect("a look");
    let row = rows(&world, &sale).await.remove(&ORDER).expect("a row");
    assert_eq!((row.state, row.attempts), (2, 30));
    mend_layouts(&world, layout).await;
    state.warmer.order_by_command(concert).await.expect("an order");
    state.warmer.look().await.expect("a look");
    let row = rows(&world, &sale).await.remove(&ORDER).expect("a row");
    assert_eq!((row.state, row.attempts, row.round), (1, 0, 1));
    state.db.close().await;
    world.end(vec![maker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_joins_late_warms_itself() {
    let world = World::with(&LASTING).await;
    let (one, other) = (world.instance().await, world.instance().await);
    let sale = Sale::new(&Api::over(&[&one]), &one, &opening_in(170)).await;
    let before = wait_until_warm(&Api::over(&[&one]), &sale, 2).await;
    other.stop().await;
    let late = world.instance().await;
    let api = Api::over(&[&one, &late]);
    let after = wait_until_warm(&api, &sale, 2).await;
    assert_ne!(before["instances"][1]["id"], after["instances"][1]["id"], "another instance");
    assert_eq!(rows(&world, &sale).await[&BOOKING], seen(1, 1, 1, 0, "", false), "nobody claimed anything for it");

    // And one that joins when booking is open.
    world.advance(secs(200));
    late.stop().await;
    let latest = world.instance().await;
    wait_until_warm(&Api::over(&[&one, &latest]), &sale, 2).await;
    world.end(vec![one, latest]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_instance_forgets_it_loads_again() {
    let world = World::with(&LASTING).await;
    let maker = world.instance_with(&COLD).await;
    let api = Api::over(&[&maker]);
    let sale = Sale::new(&api, &maker, &opening_in(100)).await;
    // Without a background: nobody else loads anything.
    let state = world.state(&[]);
    let looked = async || {
        state.warmer.look().await.expect("a look");
        world.advance(secs(1));
        let since = "SELECT CAST(since AS CHAR) FROM warm_memories";
        sqlx::query_scalar::<_, String>(since).fetch_one(&mut world.sql().await).await.expect("what is warm")
    };
    let first = looked().await;
    assert_eq!(looked().await, first, "it is there");
    // What is changed elsewhere is forgotten here.
    let (path, change) = (format!("/v1/admin/concerts/{}", sale.concert), json!({"title": "Another"}));
    api.patch(&path).bearer(&sale.operator).json(&change).send().await.expect(200);
    state.catalog.show_changes().await;
    let second = looked().await;
    assert!(second > first);
    assert_eq!(looked().await, second);
    assert_eq!(rows(&world, &sale).await[&BOOKING], seen(1, 1, 1, 0, "", false), "nobody claimed anything for it");
    state.db.close().await;
    world.end(vec![maker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_lost_is_loaded_again() {
    let world = World::with(&LASTING).await;
    let maker = world.instance_with(&COLD).await;
    let api = Api::over(&[&maker]);
    let (near, far) = (Sale::new(&api, &maker, &opening_in(60)).await, Sale::new(&api, &maker, &opening_in(170)).await);
    let proxy = world.redis_proxy().await;
    let (name, url) = world.redis_through(&proxy);
    let ((cut, cut_end), (other, other_end)) =
        (services_that_hear(&world, &[(name, &url)]), services_that_hear(&world, &[]));
    let round = async |sale: &Sale| rows(&world, sale).await[&BOOKING].round;
    for state in [&cut, &other] {
        assert!(state.redis.wait_for_connect(secs(30)).await);
        state.warmer.look().await.expect("a look");
    }
    assert_eq!((round(&near).await, round(&far).await), (1, 1));
    for state in [&cut, &other] {
        state.warmer.look().await.expect("a look");
    }
    assert_eq!((round(&near).await, round(&far).await), (1, 1), "nothing was lost");

    world.wipe_redis().await;
    other.warmer.look().await.expect("a look");
    assert_eq!(
        (round(&near).await, round(&far).await),
        (2, 1),
        "the nearest opening at once, the other one a moment later"
    );
    world.advance(secs(1));
    tokio::try_join!(cut.warmer.look(), other.warmer.look()).expect("looks");
    assert_eq!((round(&near).await, round(&far).await), (2, 2), "one of them noticed, or both: it is loaded once");

    // An outage: what was loaded before is loaded again, although the marks are still there.
    proxy.set(Fault::Refuse);
    world.advance(secs(1));
    cut.warmer.look().await.expect("a look without Redis");
    world.advance(secs(1));
    proxy.set(Fault::None);
    redis_to_be_back(&cut).await;
    cut.warmer.look().await.expect("a look");
    world.advance(secs(1));
    cut.warmer.look().await.expect("a look");
    assert_eq!((round(&near).await, round(&far).await), (3, 3));
    cut.warmer.look().await.expect("a look");
    assert_eq!((round(&near).await, round(&far).await), (3, 3), "once");
    end_of(cut, cut_end).await;
    end_of(other, other_end).await;
    world.end(vec![maker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_loaded_while_redis_is_away_is_loaded_again_when_it_is_back() {
    let world = World::with(&LASTING).await;
    let maker = world.instance_with(&COLD).await;
    let sale = Sale::new(&Api::over(&[&maker]), &maker, &opening_in(60)).await;
    let proxy = world.redis_proxy().await;
    let (name, url) = world.redis_through(&proxy);
    let (state, end) = services_that_hear(&world, &[(name, &url)]);
    assert!(state.redis.wait_for_connect(secs(30)).await);
    let generation = eventually("news", || async { state.caches.generation() }).await;
    proxy.set(Fault::Refuse);
    state.warmer.look().await.expect("a look without Redis");
    assert_eq!(rows(&world, &sale).await[&BOOKING], seen(1, 1, 1, 0, "", false), "instances are warm without it");
    assert_eq!(memories(&world, &sale).await, 1);
    state.warmer.look().await.expect("another one");
    assert!(state.caches.is_far_off(), "what was loaded did not get there");
    proxy.set(Fault::None);
    redis_to_be_back(&state).await;
    assert!(state.caches.generation() > Some(generation));
    state.warmer.look().await.expect("a look");
    assert_eq!(rows(&world, &sale).await[&BOOKING].round, 2);
    state.warmer.look().await.expect("a look");
    assert_eq!(rows(&world, &sale).await[&BOOKING].round, 2, "once");
    end_of(state, end).await;
    world.end(vec![maker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opening_that_moves_takes_its_row_along() {
    let world = World::with(&LASTING).await;
    let maker = world.instance_with(&COLD).await;
    let api = Api::over(&[&maker]);
    let sale = Sale::new(&api, &maker, &opening_in(100)).await;
    let state = world.state(&[]);
    state.warmer.look().await.expect("a look");
    assert_eq!(rows(&world, &sale).await[&BOOKING].round, 1);
    let change = json!({"booking_opens_at": state.clock.now().plus(secs(LEAD + 120))});
    let path = format!("/v1/admin/concerts/{}", sale.concert);
    api.patch(&path).bearer(&sale.operator).json(&change).send().await.expect(200);
    state.warmer.look().await.expect("a look");
    let row = rows(&world, &sale).await.remove(&BOOKING).expect("a row");
    assert_eq!((row.state, row.round), (0, 1), "due again, not now");
    assert_eq!(cache_of(&api, &sale).await["warmings"][0]["status"], "planned");
    world.advance(secs(121));
    state.warmer.look().await.expect("a look");
    assert_eq!(rows(&world, &sale).await[&BOOKING].round, 2);
    state.db.close().await;
    world.end(vec![maker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_orders_it_once_for_a_key() {
    let world = World::with(&LASTING).await;
    let (one, other) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &other]);
    // Far ahead: nobody would warm it yet.
    let sale = Sale::new(&api, &one, &opening_in(3600)).await;
    let path = format!("/v1/admin/concerts/{}/cache/warm", sale.concert);
    let first = api.post(&path).bearer(&sale.operator).key("warm").send().await;
    let again = api.post(&path).bearer(&sale.operator).key("warm").send().await;
    assert_eq!((first.status, again.status, again.header("idempotency-replayed")), (202, 202, Some("true")));
    assert_eq!(first.bytes, again.bytes);
    assert_members(&first.body, &["concert_id", "ordered_at"]);
    let warm = wait_until_warm(&api, &sale, 2).await;
    assert_eq!(warm["warmings"][0]["occasion"], "order");
    let rounds = rows(&world, &sale).await[&ORDER].round;
    api.post(&path).bearer(&sale.operator).send().await.expect(202);
    eventually("another round", || async { (rows(&world, &sale).await[&ORDER].round == rounds + 1).then_some(()) })
        .await;

    let log = format!("/v1/admin/actions?concert={}", sale.concert);
    let log = api.get(&log).bearer(&sale.operator).send().await.expect(200);
    let ordered = log["items"].as_array().expect("items").iter().filter(|it| it["action"] == "cache.warming_ordered");
    assert_eq!(ordered.count(), 2, "a repeat is no order");

    let buyer = Buyer::new(&api).await;
    api.post(&path).bearer(&buyer.token).send().await.expect_problem(403, "forbidden");
    let absent = format!("/v1/admin/concerts/{}/cache", uuid::Uuid::now_v7());
    api.get(&absent).bearer(&sale.operator).send().await.expect_problem(404, "not_found");
    api.post(&format!("{absent}/warm")).bearer(&sale.operator).send().await.expect_problem(404, "not_found");
    let idle = world.instance_with(&COLD).await;
    Api::over(&[&idle]).post(&path).bearer(&sale.operator).send().await.expect_problem(409, "warmer_off");
    world.end(vec![one, other, idle]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_orders_and_waits() {
    let world = World::with(&LASTING).await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let (far, near) = (Sale::new(&api, &one, &opening_in(7200)).await, Sale::new(&api, &one, &opening_in(60)).await);
    let mut command = Process::spawn(&world, &["warm", "--concert", &far.concert, "--wait-secs", "60"], &[]);
    assert_eq!(command.end().await, Some(0), "{}", command.output());
    assert!(command.output().contains(&far.concert));
    assert_eq!(rows(&world, &far).await[&ORDER].round, 1);
    assert_eq!(cache_of(&api, &far).await["is_warm"], true);
    let mut command = Process::spawn(&world, &["warm", "--due", "--wait-secs", "60"], &[]);
    assert_eq!(command.end().await, Some(0), "{}", command.output());
    assert!(command.output().contains(&near.concert));
    assert_eq!(rows(&world, &near).await[&ORDER].round, 1);
    for arguments in [&["warm"][..], &["warm", "--due", "--concert", &far.concert]] {
        let mut neither = Process::spawn(&world, arguments, &[]);
        assert_ne!(neither.end().await, Some(0));
    }
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opening_that_is_not_warm_is_shown() {
    let world = World::with(&LASTING).await;
    let state = world.services(&[]).await;
    let (process, base) = Process::serve(&world, &[]).await;
    let api = Api::at(vec![base]);
    Sale::made_with(&api, &state, &opening_in(50)).await;
    eventually("the sale to be warm", || async {
        (api.metric("frontrow_warmer_concerts{state=\"warm\"}").await == 1).then_some(())
    })
    .await;
    assert_eq!(api.metric("frontrow_warmer_cold_openings").await, 0);
    // Far ahead when it is made, so that nobody has loaded it before its layout is spoilt.
    let cold = Sale::made_with(&api, &state, &opening_in(7200)).await;
    let layout = spoil_layouts(&world).await;
    let concert: ConcertId = cold.concert.parse().expect("an id");
    let nearer = sqlx::query("UPDATE concerts SET booking_opens_at = ? WHERE id = ?");
    let nearer = nearer.bind(state.clock.now().plus(secs(55))).bind(concert);
    nearer.execute(&mut world.sql().await).await.expect("an update");
    eventually("the alert to rise", || async {
        (api.metric("frontrow_warmer_cold_openings").await >= 1).then_some(())
    })
    .await;
    process.wait_for("warming failed").await;
    mend_layouts(&world, layout).await;
    eventually("the alert to fall", || async {
        let page = api.metrics().await;
        let is_over =
            page["frontrow_warmer_cold_openings"] == 0 && page["frontrow_warmer_concerts{state=\"cold\"}"] == 0;
        is_over.then_some(())
    })
    .await;
    state.db.close().await;
    drop(process);
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_be_forgotten_before_the_opening_is_shown() {
    let world = World::with(&LASTING).await;
    let state = world.services(&[]).await;
    // What is kept for three seconds is loaded again and again, and yet would not last until the opening.
    let settings = [("FRONTROW__CACHE__SOFT_SECS", "3"), ("FRONTROW__CACHE__HARD_SECS", "6")];
    let (process, base) = Process::serve(&world, &settings).await;
    let api = Api::at(vec![base]);
    Sale::made_with(&api, &state, &opening_in(50)).await;
    eventually("the alert to rise", || async {
        let page = api.metrics().await;
        (page.get("frontrow_warmer_short_openings") == Some(&1)).then_some(())
    })
    .await;
    state.db.close().await;
    drop(process);
    world.end(Vec::new()).await;
}

/// Statements of the catalogue that an instance ran, by name. What looks for sales to warm and to tick goes on for ever.
async fn catalogue_units(api: &Api) -> BTreeMap<String, u64> {
    let units = api.metrics().await.into_iter().filter(|(series, _)| {
        series.starts_with("frontrow_db_unit_seconds_count{name=\"catalog.") && !series.contains("list_live_sales")
    });
    units.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_opening_costs_the_database_nothing() {
    let world = World::with(&LASTING).await;
    let state = world.services(&[]).await;
    let (one, first) = Process::serve(&world, &[]).await;
    let (other, second) = Process::serve(&world, &[]).await;
    let (one_api, other_api) = (Api::at(vec![first.clone()]), Api::at(vec![second.clone()]));
    let api = Api::at(vec![first, second]);
    let sale = Sale::made_with(&api, &state, &opening_in(10)).await;
    wait_until_warm(&api, &sale, 2).await;
    let before = (catalogue_units(&one_api).await, catalogue_units(&other_api).await);
    assert!(!before.0.is_empty() && !before.1.is_empty(), "loading was counted");
    let ask = async |path: String| api.get(&path).send().await.expect(200);
    let concert = format!("/v1/concerts/{}", sale.concert);
    eventually("booking to open", || async { (ask(concert.clone()).await["status"] == "open").then_some(()) }).await;
    for _ in 0..40 {
        ask(concert.clone()).await;
        ask(format!("{concert}/performances")).await;
        for performance in &sale.performances {
            for end in ["", "/seat-map", "/availability"] {
                ask(format!("/v1/performances/{performance}{end}")).await;
            }
        }
    }
    // Buyers get in, too: joining, claiming and holding ask for the concert.
    let buyer = Buyer::new(&api).await;
    let pass = buyer.enter(&api, &sale).await;
    buyer.hold(&api, &sale.performances[0], &pass, &["A-1-1"]).await;
    let after = (catalogue_units(&one_api).await, catalogue_units(&other_api).await);
    assert_eq!(before, after, "not one statement of the catalogue");
    drop((one, other));
    state.db.close().await;
    world.end(Vec::new()).await;
}

/// Retention: what is long past goes, what is near stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_long_past_is_forgotten() {
    let world = World::with(&LASTING).await;
    let maker = world.instance_with(&COLD).await;
    let api = Api::over(&[&maker]);
    let sale = Sale::new(&api, &maker, &opening_in(60)).await;
    let state: State = world.state(&[]);
    state.warmer.look().await.expect("a look");
    assert_eq!((rows(&world, &sale).await.len(), memories(&world, &sale).await), (1, 1));
    state.warmer.tidy(100).await.expect("a tidy");
    assert_eq!((rows(&world, &sale).await.len(), memories(&world, &sale).await), (1, 1));
    world.advance(secs(31 * 24 * 3600));
    assert_eq!(state.warmer.tidy(100).await.expect("a tidy"), 1);
    assert_eq!((rows(&world, &sale).await.len(), memories(&world, &sale).await), (0, 0));
    state.db.close().await;
    world.end(vec![maker]).await;
}
