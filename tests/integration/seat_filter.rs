//! The filter in front of the seats: what it grants and refuses, what it is told, how it is kept in order, and that MySQL
//! decides whatever it says.

use std::time::Duration;

use fred::interfaces::{ClientLike as _, LuaInterface as _};
use fred::types::{InfoKind, Value};
use frontrow::accounts::UserId;
use frontrow::app::state::State;
use frontrow::booking::holds::{Asked, Request};
use frontrow::booking::seats::SeatStatus;
use frontrow::booking::seats::filter::{Change, Claim, Claimed, Filter, Hall, MARK};
use frontrow::catalog::{ConcertId, PerformanceId};
use frontrow::platform::error::Problem;
use frontrow::platform::http::keyed::{Answer, RequestKey};
use futures::future::join_all;
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use crate::support::arena::Plan;
use crate::support::inside::passes;
use crate::support::servers::Servers;
use crate::support::{Api, Buyer, Fault, Instance, Sale, World, eventually};

/// As in the default settings.
const PERIOD: Duration = Duration::from_secs(2);
/// Longer than a picture is believed.
const INTERVAL: Duration = Duration::from_millis(1001);

/// A performance that MySQL knows nothing of: all of it is free.
fn empty_hall(seats_total: u32) -> Hall {
    Hall { concert: ConcertId::new(), performance: PerformanceId::new(), seats_total }
}

/// Waits until the performance has a filter.
async fn warm(filter: &Filter, hall: Hall) {
    let last = hall.seats_total - 1;
    eventually("the filter", || async {
        match filter.claim(hall, &[last]).await {
            Claimed::Unknown => None,
            Claimed::Refused { .. } => Some(()),
            Claimed::Granted(claim) => {
                filter.give_back(&claim).await;
                Some(())
            }
        }
    })
    .await;
}

/// The claim that is granted.
#[track_caller]
fn granted(claimed: Claimed) -> Claim {
    match claimed {
        Claimed::Granted(claim) => claim,
        other => panic!("{other:?}"),
    }
}

/// The seats that are refused, and all that is taken.
#[track_caller]
fn refused(claimed: Claimed, hall: Hall) -> (Vec<u32>, Vec<u32>) {
    match claimed {
        Claimed::Refused { seats, taken } => {
            let taken = taken.expect("it was asked for");
            (seats, (0..hall.seats_total).filter(|seat| taken.has(*seat)).collect())
        }
        other => panic!("{other:?}"),
    }
}

/// Runs one command on one of the filter's keys.
async fn redis(world: &World, state: &State, hall: Hall, name: &str, command: &[&str]) -> Value {
    let client = world.redis().await;
    let Hall { concert, performance, .. } = hall;
    let key = format!("{}:seats:{{sale:{concert}}}:{performance}:{name}", state.config.redis.prefix);
    let text = "return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))";
    let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
    let answer = client.eval(text, vec![key], command).await.expect("the command");
    client.quit().await.expect("closing");
    answer
}

/// A sale of one hall, whose maker has stopped: nothing happens in the background. It is on sale for these services.
async fn quiet_sale(world: &World, seats: u32) -> (State, Hall) {
    let instance = world.instance().await;
    let sections = json!([{"code": "A", "name": "Hall", "capacity": seats}]);
    let sale = Sale::new(&Api::over(&[&instance]), &instance, &Plan { sections, ..Plan::default() }).await;
    instance.stop().await;
    world.wipe_redis().await;
    let state = world.services(&[]).await;
    let (concert, performance) = (sale.concert.parse().expect("an id"), sale.performances[0].parse().expect("an id"));
    (state, Hall { concert, performance, seats_total: seats })
}

/// What MySQL is to say of a seat: `hold_id = …` and so on.
async fn set(world: &World, hall: Hall, seats: &[u32], what: &str) {
    let numbers: Vec<String> = seats.iter().map(u32::to_string).collect();
    let text = format!("UPDATE seats SET {what} WHERE performance_id = ? AND seat_no IN ({})", numbers.join(", "));
    let done = sqlx::query(AssertSqlSafe(text)).bind(hall.performance).execute(&mut world.sql().await).await;
    assert_eq!(done.expect("an update").rows_affected(), seats.len() as u64);
}

const HELD: &str = "hold_id = REPEAT('h', 16), held_until = UTC_TIMESTAMP(6) + INTERVAL 5 MINUTE";
const SOLD: &str = "reservation_id = REPEAT('r', 16), hold_id = NULL, held_until = NULL";
const OUT_OF_SALE: &str = "hold_id = NULL, held_until = '9999-12-31 00:00:00'";

/// How the picture shows the first seats: `f`ree, `h`eld, `s`old.
async fn board(state: &State, hall: Hall, seats: u32) -> String {
    let board = state.seats.get_board(hall.performance).await.expect("a picture").board;
    let letter = |seat| match board.status(seat) {
        SeatStatus::Available => 'f',
        SeatStatus::Held => 'h',
        SeatStatus::Sold => 's',
    };
    (0..seats).map(letter).collect()
}

async fn end(world: World, states: Vec<State>) {
    for state in states {
        state.redis.close().await;
        state.db.close().await;
    }
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seats_are_set_aside_for_one_request_and_no_other() {
    let world = World::new().await;
    let (state, hall) = (world.services(&[]).await, empty_hall(20));
    let filter = &state.filter;
    assert!(matches!(filter.claim(hall, &[3]).await, Claimed::Unknown), "nobody knows of this performance yet");
    warm(filter, hall).await;
    let first = granted(filter.claim(hall, &[3, 0, 15]).await);
    assert_eq!((first.hall, &first.seats), (hall, &vec![3, 0, 15]));
    // All or none, and what cannot be had is named.
    assert_eq!(refused(filter.claim_or_see(hall, &[4, 15, 3]).await, hall), (vec![15, 3], vec![0, 3, 15]));
    let second = granted(filter.claim(hall, &[4]).await);
    filter.give_back(&first).await;
    assert_eq!(refused(filter.claim_or_see(hall, &[4, 15]).await, hall), (vec![4], vec![4]));
    // A mark that is over frees the seats; whoever had it takes nothing back from the next one.
    world.advance(MARK);
    let third = granted(filter.claim(hall, &[4, 3]).await);
    filter.give_back(&second).await;
    assert_eq!(refused(filter.claim_or_see(hall, &[3, 4]).await, hall).0, [3, 4]);
    filter.give_back(&third).await;
    granted(filter.claim(hall, &[3, 4]).await);
    // What is not in the hall is not its business.
    for seats in [&[][..], &[20]] {
        assert!(matches!(filter.claim(hall, seats).await, Claimed::Unknown));
    }
    end(world, vec![state]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_is_known_to_all_instances() {
    let world = World::new().await;
    let (state, other, hall) = (world.services(&[]).await, world.state(&[]), empty_hall(20));
    let filter = &state.filter;
    warm(filter, hall).await;
    let claim = granted(filter.claim(hall, &[0, 1, 2]).await);
    let until = state.clock.now().plus(Duration::from_mins(5));
    let held = |seats: &[u32]| Change::Held { seats: seats.to_vec(), until };
    filter.settle(hall, &[held(&[0, 1]), Change::Sold(vec![2, 9])]).await;
    // A mark that became a hold is not given back any more.
    filter.give_back(&claim).await;
    assert_eq!(refused(other.filter.claim_or_see(hall, &[0, 2]).await, hall), (vec![0, 2], vec![0, 1, 2, 9]));
    filter.settle(hall, &[Change::Freed(vec![1, 9])]).await;
    granted(other.filter.claim(hall, &[1, 9]).await);
    // The hold is over by its time, swept or not; what is sold stays.
    world.advance(Duration::from_mins(6));
    let both = granted(other.filter.claim(hall, &[0, 1]).await);
    other.filter.give_back(&both).await;
    assert_eq!(refused(filter.claim_or_see(hall, &[2]).await, hall), (vec![2], vec![2]));
    // News that came late: sold after held, held after sold.
    filter.settle(hall, &[held(&[2])]).await;
    assert_eq!(refused(filter.claim_or_see(hall, &[2]).await, hall), (vec![2], vec![2]));
    // That a marked seat is held now is told beside the answer: it may come after the seat was given back.
    let until = state.clock.now().plus(Duration::from_mins(5));
    let kept = [Change::Kept { seats: vec![3], until }];
    filter.settle(hall, &kept).await;
    let mark = granted(filter.claim(hall, &[3]).await);
    filter.settle(hall, &kept).await;
    filter.give_back(&mark).await;
    assert_eq!(refused(filter.claim_or_see(hall, &[3]).await, hall), (vec![3], vec![2, 3]));
    for name in ["head", "taken", "sold"] {
        let Value::Integer(left) = redis(&world, &state, hall, name, &["PTTL"]).await else { panic!("no number") };
        assert!((1..=600_000).contains(&left), "{name} stays for {left} ms");
    }
    granted(filter.claim(hall, &[5]).await);
    let Value::Integer(left) = redis(&world, &state, hall, "ends", &["PTTL"]).await else { panic!("no number") };
    assert!((1..=600_000).contains(&left), "the ends stay for {left} ms");
    end(world, vec![state, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_all_who_ask_at_once_one_gets_a_seat() {
    let world = World::new().await;
    let (one, two, hall) = (world.services(&[]).await, world.state(&[]), empty_hall(30));
    warm(&one.filter, hall).await;
    // Sets of three that overlap with each of their neighbours, from both instances.
    let claims = join_all((0..200_u32).map(|number| {
        let (filter, from) = (if number % 2 == 0 { &one.filter } else { &two.filter }, number % 28);
        async move { filter.claim(hall, &[from, from + 1, from + 2]).await }
    }))
    .await;
    let mut given: Vec<u32> = Vec::new();
    for claimed in claims {
        if let Claimed::Granted(claim) = claimed {
            given.extend(claim.seats);
        }
    }
    let all = given.len();
    given.sort_unstable();
    given.dedup();
    assert_eq!(given.len(), all, "a seat was given twice: {given:?}");
    assert!(all >= 12, "{given:?}");
    end(world, vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drift_is_put_right_in_both_directions_within_a_period() {
    let world = World::new().await;
    let (state, hall) = quiet_sale(&world, 20).await;
    let filter = &state.filter;
    set(&world, hall, &[0, 1], HELD).await;
    set(&world, hall, &[2, 3], SOLD).await;
    set(&world, hall, &[4], OUT_OF_SALE).await;
    warm(filter, hall).await;
    assert_eq!(board(&state, hall, 6).await, "hhsssf");
    filter.reconcile().await;

    // Falsely free: held, sold, out of sale. Falsely taken: for ever, and for a long time.
    for (seat, names) in [("0", vec!["taken", "ends"]), ("2", vec!["taken", "sold"]), ("4", vec!["taken", "sold"])] {
        for name in names {
            let command = if name == "ends" { vec!["ZREM", seat] } else { vec!["SETBIT", seat, "0"] };
            redis(&world, &state, hall, name, &command).await;
        }
    }
    redis(&world, &state, hall, "sold", &["SETBIT", "1", "1"]).await;
    redis(&world, &state, hall, "taken", &["SETBIT", "10", "1"]).await;
    filter.settle(hall, &[Change::Sold(vec![11])]).await;
    let until = state.clock.now().plus(Duration::from_mins(5));
    filter.settle(hall, &[Change::Held { seats: vec![12], until }]).await;
    assert_eq!(
        refused(filter.claim_or_see(hall, &[10, 11, 12, 13]).await, hall),
        (vec![10, 11, 12], vec![1, 3, 10, 11, 12])
    );

    // Nothing is due yet; then one pass puts everything right.
    filter.reconcile().await;
    assert_eq!(refused(filter.claim_or_see(hall, &[10]).await, hall).0, [10]);
    let before = drift();
    world.advance(PERIOD);
    filter.reconcile().await;
    let after = drift();
    assert!(after.0 >= before.0 + 3 && after.1 >= before.1 + 3, "{before:?} to {after:?}");
    assert_eq!(
        refused(filter.claim_or_see(hall, &[0, 1, 2, 3, 4]).await, hall),
        (vec![0, 1, 2, 3, 4], vec![0, 1, 2, 3, 4])
    );
    world.advance(INTERVAL);
    assert_eq!(board(&state, hall, 14).await, "hhsssfffffffff");
    // What was falsely free ends when its hold does.
    world.advance(Duration::from_mins(5));
    assert_eq!(board(&state, hall, 6).await, "ffsssf");
    granted(filter.claim(hall, &[10, 11, 12, 0, 1]).await);
    end(world, vec![state]).await;
}

/// Seats put right so far, by all tests of this process: falsely taken, falsely free.
fn drift() -> (u64, u64) {
    let text = String::from_utf8(frontrow::platform::telemetry::metrics::render()).expect("text");
    let of = |direction: &str| {
        let series = format!("frontrow_seat_filter_drift_total{{direction=\"{direction}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or(0)
    };
    (of("falsely_taken"), of("falsely_free"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_is_left_alone_and_one_instance_a_period_looks() {
    let world = World::new().await;
    let (state, hall) = quiet_sale(&world, 20).await;
    let other = world.state(&[]);
    warm(&state.filter, hall).await;
    warm(&other.filter, hall).await;
    state.filter.reconcile().await;
    let claim = granted(state.filter.claim(hall, &[5]).await);
    world.advance(PERIOD);
    other.filter.reconcile().await;
    assert_eq!(refused(other.filter.claim_or_see(hall, &[5]).await, hall).0, [5], "a request is on its way with it");
    // The first one finds that the other one has just looked.
    redis(&world, &state, hall, "taken", &["SETBIT", "7", "1"]).await;
    state.filter.reconcile().await;
    assert_eq!(refused(state.filter.claim_or_see(hall, &[7]).await, hall).0, [7]);
    world.advance(PERIOD);
    join_all([state.filter.reconcile(), other.filter.reconcile()]).await;
    state.filter.give_back(&granted(state.filter.claim(hall, &[7]).await)).await;
    // The request died: its mark ends by itself.
    world.advance(MARK);
    let again = granted(other.filter.claim(hall, &[5]).await);
    assert!(again.mark > claim.mark);
    end(world, vec![state, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_filter_is_made_again_while_answers_go_on() {
    let world = World::new().await;
    let (state, hall) = quiet_sale(&world, 20).await;
    set(&world, hall, &[0, 1], HELD).await;
    set(&world, hall, &[2], SOLD).await;
    warm(&state.filter, hall).await;
    assert_eq!(board(&state, hall, 5).await, "hhsff");
    let version = state.seats.get_board(hall.performance).await.expect("a picture").board.version;
    set(&world, hall, &[3], SOLD).await;
    world.wipe_redis().await;
    world.advance(INTERVAL);
    // From MySQL, and the filter is made meanwhile.
    assert_eq!(board(&state, hall, 5).await, "hhssf");
    eventually("the filter to be made again", || async {
        let there = redis(&world, &state, hall, "head", &["EXISTS"]).await;
        (there == Value::Integer(1)).then_some(())
    })
    .await;
    assert_eq!(refused(state.filter.claim_or_see(hall, &[4, 3, 0]).await, hall), (vec![3, 0], vec![0, 1, 2, 3]));
    world.advance(INTERVAL);
    assert_eq!(board(&state, hall, 5).await, "hhssf");
    assert!(state.seats.get_board(hall.performance).await.expect("a picture").board.version > version);
    // Nobody asks: the reconciler makes it.
    world.wipe_redis().await;
    state.filter.reconcile().await;
    assert_eq!(redis(&world, &state, hall, "head", &["EXISTS"]).await, Value::Integer(1));
    assert_eq!(refused(state.filter.claim_or_see(hall, &[2]).await, hall).0, [2]);
    end(world, vec![state]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_mysql_answers_and_afterwards_the_filter_is_right_again() {
    let world = World::new().await;
    let (state, hall) = quiet_sale(&world, 20).await;
    set(&world, hall, &[0], SOLD).await;
    warm(&state.filter, hall).await;
    let proxy = world.redis_proxy().await;
    let (name, url) = world.redis_through(&proxy);
    let cut = world.state(&[(name, &url)]);
    warm(&cut.filter, hall).await;
    for (fault, sold) in [(Fault::Refuse, 1), (Fault::BlackHole, 2)] {
        proxy.set(fault);
        set(&world, hall, &[sold], SOLD).await;
        for _ in 0..20 {
            assert!(matches!(cut.filter.claim(hall, &[sold]).await, Claimed::Unknown), "{fault:?}");
        }
        cut.filter.settle(hall, &[Change::Sold(vec![sold])]).await;
        cut.filter.reconcile().await;
        world.advance(INTERVAL);
        let expected: String = (0..5).map(|seat| if seat <= sold { 's' } else { 'f' }).collect();
        assert_eq!(board(&cut, hall, 5).await, expected, "{fault:?}");
        proxy.set(Fault::None);
        world.advance(PERIOD);
        eventually("the filter to be right", || async {
            cut.filter.reconcile().await;
            match cut.filter.claim(hall, &[sold]).await {
                Claimed::Refused { .. } => Some(()),
                Claimed::Granted(claim) => {
                    cut.filter.give_back(&claim).await;
                    world.advance(PERIOD);
                    None
                }
                Claimed::Unknown => None,
            }
        })
        .await;
    }
    end(world, vec![state, cut]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_house_of_seventy_thousand_is_a_house_like_any_other() {
    const SEATS: u32 = 70_000;
    let world = World::new().await;
    let (state, hall) = (world.services(&[]).await, empty_hall(SEATS));
    let filter = &state.filter;
    warm(filter, hall).await;
    granted(filter.claim(hall, &[SEATS - 1, 0, 34_567]).await);
    assert_eq!(refused(filter.claim_or_see(hall, &[34_567]).await, hall), (vec![34_567], vec![0, 34_567, SEATS - 1]));
    // Everything is falsely sold: one pass frees all of it, but for what is under way.
    let all: Vec<u32> = (1..SEATS - 1).filter(|seat| *seat != 34_567).collect();
    for part in all.chunks(5000) {
        filter.settle(hall, &[Change::Sold(part.to_vec())]).await;
    }
    eventually("the news to arrive", || async {
        let claimed = filter.claim_or_see(hall, &[SEATS - 2]).await;
        matches!(claimed, Claimed::Refused { taken: Some(taken), .. } if taken.count() == SEATS).then_some(())
    })
    .await;
    filter.reconcile().await;
    assert_eq!(refused(filter.claim_or_see(hall, &[0]).await, hall), (vec![0], vec![0, 34_567, SEATS - 1]));
    world.advance(MARK);
    granted(filter.claim(hall, &[0, 34_567, SEATS - 1]).await);
    end(world, vec![state]).await;
}

/// Scripts that Redis has run, and statements that MySQL has, by kind.
async fn counted(world: &World) -> (u64, Vec<u64>) {
    let client = world.redis().await;
    let stats: String = client.info(Some(InfoKind::CommandStats)).await.expect("the statistics");
    client.quit().await.expect("closing");
    let calls = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next());
    let scripts = calls.map(|calls| calls.parse::<u64>().expect("a count")).sum();
    let names = "'Com_select', 'Com_begin', 'Com_insert', 'Com_update', 'Com_commit', 'Com_stmt_execute'";
    let text = format!("SHOW GLOBAL STATUS WHERE Variable_name IN ({names})");
    let rows = world.sql().await.fetch_all(AssertSqlSafe(text)).await.expect("MySQL's counters");
    let count = |row: &sqlx::mysql::MySqlRow| row.try_get::<String, _>("Value").expect("a count").parse();
    (scripts, rows.iter().map(|row| count(row).expect("a number")).collect())
}

/// However many are refused, and however many look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_costs_mysql_nothing_and_a_picture_one_script() {
    let servers = Servers::start().await;
    let slow = [
        ("FRONTROW__BOOKING__AVAILABILITY_MAX_AGE_MS", "60000"),
        ("FRONTROW__CACHE__SOFT_SECS", "3600"),
        ("FRONTROW__CACHE__HARD_SECS", "3600"),
        // Nobody asks for news here but who finds them late.
        ("FRONTROW__CACHE__NEWS_MAX_MS", "3600000"),
    ];
    let world = World::on(&servers.mysql_url(), &servers.redis_url(), &slow).await;
    let (state, hall) = quiet_sale(&world, 20).await;
    warm(&state.filter, hall).await;
    granted(state.filter.claim(hall, &[1, 2]).await);
    counted(&world).await;
    let before = counted(&world).await;
    for _ in 0..1000 {
        assert_eq!(refused(state.filter.claim_or_see(hall, &[1, 3]).await, hall).0, [1]);
    }
    let after = counted(&world).await;
    let idle = counted(&world).await;
    assert_eq!(after.0 - before.0, 1000);
    let grown = |from: &[u64], to: &[u64]| from.iter().zip(to).map(|(from, to)| to - from).collect::<Vec<_>>();
    assert_eq!(grown(&before.1, &after.1), grown(&after.1, &idle.1), "refusals sent statements");

    // The catalogue is read once.
    assert_eq!(board(&state, hall, 4).await, "fhhf");
    for _ in 0..3 {
        world.advance(Duration::from_secs(61));
        let before = counted(&world).await;
        let looks = join_all((0..500).map(|_| state.seats.get_board(hall.performance))).await;
        assert!(looks.iter().all(Result::is_ok));
        let after = counted(&world).await;
        let idle = counted(&world).await;
        assert_eq!(after.0 - before.0, 1, "scripts for one interval");
        assert_eq!(grown(&before.1, &after.1), grown(&after.1, &idle.1), "a picture was read from MySQL");
    }
    end(world, vec![state]).await;
    servers.end().await;
}

/// An instance that compares its filter with MySQL once, at most: what it knows later it was told.
async fn untroubled(world: &World) -> Instance {
    world.instance_with(&[("FRONTROW__BOOKING__RECONCILE_MS", "3600000")]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_and_cancellations_are_told() {
    let world = World::new().await;
    let (one, two) = (untroubled(&world).await, untroubled(&world).await);
    let api = Api::over(&[&one, &two]);
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    let performance: PerformanceId = sale.performances[0].parse().expect("an id");
    let hall = Hall { concert: sale.concert.parse().expect("an id"), performance, seats_total: 20 };
    warm(&one.state.filter, hall).await;
    let buyer = Buyer::new(&api).await;
    buyer.charge(&api, 50_000).await;
    let pass = buyer.enter(&api, &sale).await;
    let hold = buyer.hold(&api, &sale.performances[0], &pass, &["A-1-1", "A-1-2"]).await;
    let reservation = buyer.try_pay(&api, &hold, "pay").await.expect(201);
    let shows = async |instance: &Instance, expected: &'static str| {
        eventually(expected, || async { (board(&instance.state, hall, 3).await == expected).then_some(()) }).await;
    };
    shows(&one, "ssf").await;
    shows(&two, "ssf").await;
    let path = format!("/v1/reservations/{}/cancellation", reservation["id"].as_str().expect("an id"));
    api.post(&path).bearer(&buyer.token).key("back").send().await.expect(200);
    shows(&two, "fff").await;
    // Paid again under the same key: nothing happened, so nothing is told.
    assert_eq!(buyer.try_pay(&api, &hold, "pay").await.expect(201)["id"], reservation["id"]);
    shows(&one, "fff").await;
    granted(two.state.filter.claim(hall, &[0, 1]).await);
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}

/// The filter says that everything is free: MySQL sells each seat once all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_forgets_sells_no_seat_twice() {
    let world = World::new().await;
    let (one, two) = (untroubled(&world).await, untroubled(&world).await);
    let api = Api::over(&[&one, &two]);
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    let performance = &sale.performances[0];
    let hall = Hall {
        concert: sale.concert.parse().expect("an id"),
        performance: performance.parse().expect("an id"),
        seats_total: 20,
    };
    warm(&one.state.filter, hall).await;
    let first = Buyer::new(&api).await;
    first.charge(&api, 50_000).await;
    let pass = first.enter(&api, &sale).await;
    let hold = first.hold(&api, performance, &pass, &["A-1-1"]).await;
    first.try_pay(&api, &hold, "pay").await.expect(201);
    let second = Buyer::new(&api).await;
    let pass = second.enter(&api, &sale).await;
    second.hold(&api, performance, &pass, &["A-1-2"]).await;
    let third = Buyer::new(&api).await;
    let pass = third.enter(&api, &sale).await;
    for _ in 0..4 {
        one.state.filter.settle(hall, &[Change::Freed((0..20).collect())]).await;
        for seat in ["A-1-1", "A-1-2"] {
            third.try_hold(&api, performance, &pass, &[seat, "A-2-1"]).await.expect_problem(409, "seats_taken");
        }
    }
    third.hold(&api, performance, &pass, &["A-1-3"]).await;
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_comes_to_nothing_keeps_no_seat_from_anybody() {
    let world = World::new().await;
    let one = untroubled(&world).await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &Plan { limit: 2, ..Plan::default() }).await;
    let (performance, concert) = (&sale.performances[0], &sale.concert);
    let (performance_id, concert) = (performance.parse().expect("an id"), concert.parse().expect("an id"));
    let hall = Hall { concert, performance: performance_id, seats_total: 20 };
    warm(&one.state.filter, hall).await;
    let buyer = Buyer::new(&api).await;
    let pass = buyer.enter(&api, &sale).await;
    let best = async |key: &str, quantity: u32| {
        let call = api.post(&format!("/v1/performances/{performance}/holds")).bearer(&buyer.token).pass(&pass).key(key);
        call.json(&json!({"best_available": {"quantity": quantity}})).send().await
    };
    let held = best("k", 2).await.expect(201);
    assert_eq!((held["arrangement"].as_str(), held["leaves_orphan"].as_bool()), (Some("together"), Some(false)));
    // The same again, which chooses other seats before it is found to be the same; and too many.
    for _ in 0..3 {
        let again = best("k", 2).await;
        assert_eq!((again.status, again.header("idempotency-replayed"), &again.body), (201, Some("true"), &held));
    }
    best("another", 1).await.expect_problem(409, "seat_limit_exceeded");
    best("too many", 16).await.expect_problem(409, "seat_limit_exceeded");
    let map = one.state.seats.catalog().get_seat_map(performance_id).await.expect("a map");
    let own: Vec<&str> =
        held["seats"].as_array().expect("seats").iter().filter_map(|seat| seat["id"].as_str()).collect();
    let others = map.seats().iter().filter(|seat| !own.contains(&seat.label.as_str())).map(|seat| seat.index);
    let others: Vec<u32> = others.collect();
    assert_eq!(others.len(), 18);
    granted(one.state.filter.claim(hall, &others).await);
    world.end(vec![one]).await;
}

/// Somebody inside of a quiet sale.
struct Guest {
    user: UserId,
    pass: String,
}

impl Guest {
    async fn new(world: &World, state: &State, hall: Hall) -> Self {
        let made = Buyer::many(state, 1).await;
        let user = UserId(made[0].id.parse().expect("an id"));
        let pass = passes(&mut world.sql().await, state, hall.concert, &[user]).await.remove(0);
        Self { user, pass }
    }

    async fn ask(&self, state: &State, hall: Hall, seats: Asked) -> Result<Answer, Problem> {
        let request = Request { user: self.user, performance: hall.performance, pass: Some(self.pass.clone()), seats };
        state.holds.hold(request, RequestKey { key: None, fingerprint: [0; 32] }).await
    }
}

/// The code of a refusal.
#[track_caller]
fn code(answer: Result<Answer, Problem>) -> &'static str {
    answer.expect_err("a refusal").code().code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_mysql_refused_is_known_for_as_long_as_it_is_taken() {
    let world = World::new().await;
    let (state, hall) = quiet_sale(&world, 20).await;
    let filter = &state.filter;
    warm(filter, hall).await;
    let guest = Guest::new(&world, &state, hall).await;
    set(&world, hall, &[0], HELD).await;
    set(&world, hall, &[1], SOLD).await;
    let map = state.seats.catalog().get_seat_map(hall.performance).await.expect("a map");
    let named = map.seats()[..3].iter().map(|seat| seat.label.clone()).collect();
    let refused = guest.ask(&state, hall, Asked::Named(named)).await.expect_err("a refusal");
    assert_eq!(refused.body("r")["seat_ids"].as_array().map(Vec::len), Some(2), "{refused}");
    eventually("the filter to hear of it", || async {
        let marked = redis(&world, &state, hall, "marks", &["HLEN"]).await;
        (marked == Value::Integer(0)).then_some(())
    })
    .await;
    // Longer than any mark lasts.
    world.advance(2 * MARK);
    assert_eq!(refused_all(filter, hall).await, [0, 1]);
    granted(filter.claim(hall, &[2]).await);
    world.advance(Duration::from_mins(5));
    assert_eq!(refused_all(filter, hall).await, [1], "the hold is over, and so is the mark");
    end(world, vec![state]).await;
}

/// Everything that is taken.
async fn refused_all(filter: &Filter, hall: Hall) -> Vec<u32> {
    refused(filter.claim_or_see(hall, &(0..hall.seats_total).collect::<Vec<_>>()).await, hall).1
}

/// The filter knows of nothing that is taken, so each choice is a wrong one until MySQL has said so of each seat.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_loses_every_time_is_not_told_that_nothing_is_left() {
    let world = World::new().await;
    let (state, hall) = quiet_sale(&world, 20).await;
    warm(&state.filter, hall).await;
    let guest = Guest::new(&world, &state, hall).await;
    set(&world, hall, &(0..20).collect::<Vec<_>>(), HELD).await;
    let best = || Asked::Best { quantity: 1, grade: None };
    assert_eq!(
        code(guest.ask(&state, hall, best()).await),
        "overloaded",
        "sixteen seats were lost, and four not asked for"
    );
    assert_eq!(code(guest.ask(&state, hall, best()).await), "not_enough_seats");
    world.advance(Duration::from_mins(6));
    assert!(guest.ask(&state, hall, best()).await.is_ok(), "all holds are over");
    end(world, vec![state]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seat_falsely_held_is_freed_however_soon_its_hold_would_end() {
    let world = World::new().await;
    let (state, hall) = quiet_sale(&world, 20).await;
    let filter = &state.filter;
    warm(filter, hall).await;
    filter.reconcile().await;
    // Of two requests under way one is by nobody in particular. The third seat looks held, for less than a mark lasts.
    let mark = granted(filter.claim(hall, &[5]).await);
    granted(filter.claim_for(Some(UserId::new()), hall, &[6], false).await);
    let until = state.clock.now().plus(MARK * 9 / 10);
    filter.settle(hall, &[Change::Held { seats: vec![7], until }]).await;
    assert_eq!(refused_all(filter, hall).await, [5, 6, 7]);
    world.advance(PERIOD);
    filter.reconcile().await;
    assert_eq!(refused_all(filter, hall).await, [5, 6]);
    filter.give_back(&mark).await;
    assert_eq!(refused_all(filter, hall).await, [6]);
    end(world, vec![state]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_cannot_be_read_is_made_anew() {
    let world = World::new().await;
    let (state, hall) = quiet_sale(&world, 20).await;
    let filter = &state.filter;
    set(&world, hall, &[3], SOLD).await;
    for key in ["head", "taken", "sold", "ends", "marks"] {
        warm(filter, hall).await;
        redis(&world, &state, hall, key, &["DEL"]).await;
        redis(&world, &state, hall, key, if key == "taken" || key == "sold" { &["SADD", "x"] } else { &["SET", "x"] })
            .await;
        eventually(key, || async {
            // Marking touches every key.
            match filter.claim(hall, &[2]).await {
                Claimed::Granted(claim) => {
                    filter.give_back(&claim).await;
                    Some(())
                }
                Claimed::Refused { .. } | Claimed::Unknown => None,
            }
        })
        .await;
        assert_eq!(refused_all(filter, hall).await, [3], "{key}");
    }
    end(world, vec![state]).await;
}
