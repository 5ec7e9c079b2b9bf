//! The audit looks at what changed only, takes its time, and tells what it could not look at.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use frontrow::app::audit;
use frontrow::app::state::State;
use frontrow::platform::audit::Finding;
use frontrow::platform::clock::Timestamp;
use frontrow::platform::error::Problem;
use frontrow::platform::jobs::{Claim, Jobs, Work};
use sqlx::Executor as _;
use uuid::Uuid;

use crate::support::{Api, Buyer, Sale, World, arena::Plan};

const HOLD: &str = "INSERT INTO holds (id, user_id, concert_id, performance_id, state, seat_count, amount, expires_at, created_at, changed_at) \
     VALUES (?, ?, ?, ?, 0, ?, 0, UTC_TIMESTAMP(6) + INTERVAL 1 HOUR, ?, ?)";
const RESERVATION: &str = "INSERT INTO reservations (id, hold_id, user_id, concert_id, performance_id, payment_id, state, seat_count, amount, created_at, changed_at) \
     VALUES (?, ?, ?, ?, ?, ?, 1, ?, 0, ?, ?)";

async fn findings(state: &State, since: Option<Timestamp>) -> Vec<Finding> {
    audit::run(&state.db, &state.config.jobs, since).await.findings
}

/// Whom the limit's invariant names, as the beginnings of its breaches tell.
async fn over_limit(state: &State, since: Option<Timestamp>) -> Vec<String> {
    let found = findings(state, since).await.into_iter().find(|one| one.invariant == "seat_limit_per_buyer");
    let mut found = found.expect("the invariant").breaches;
    found.sort_unstable();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_checked_of_buyers_with_changes_only_and_with_all_that_they_have() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &Plan { limit: 4, ..Plan::default() }).await;
    let concert: Uuid = sale.concert.parse().expect("an id");
    let performance: Uuid = sale.performances[0].parse().expect("an id");
    let since = one.state.clock.now();
    let (before, after) = (since.minus(Duration::from_mins(1)), since.plus(Duration::from_secs(1)));
    let mut sql = world.sql().await;
    let mut users: Vec<Uuid> =
        Buyer::many(&one.state, 4).await.iter().map(|buyer| buyer.id.parse().expect("an id")).collect();
    users.sort_unstable();
    // Held and reserved seats, and when each changed last.
    let plans = [(3, before, 2, before), (3, before, 2, after), (3, after, 3, before), (2, after, 2, after)];
    for (user, (held, held_at, reserved, reserved_at)) in users.iter().zip(plans) {
        let hold = sqlx::query(HOLD).bind(Uuid::now_v7()).bind(user).bind(concert).bind(performance);
        hold.bind(held).bind(held_at).bind(held_at).execute(&mut sql).await.expect("a hold");
        let row = sqlx::query(RESERVATION).bind(Uuid::now_v7()).bind(Uuid::now_v7()).bind(user).bind(concert);
        let row = row.bind(performance).bind(Uuid::now_v7()).bind(reserved).bind(reserved_at).bind(reserved_at);
        row.execute(&mut sql).await.expect("a reservation");
    }
    let says = |user: usize, seats: u32| format!("user {} has {seats} of 4", users[user].simple());
    assert_eq!(over_limit(&one.state, Some(since)).await, [says(1, 5), says(2, 6)]);
    assert_eq!(over_limit(&one.state, None).await, [says(0, 5), says(1, 5), says(2, 6)]);
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_checked_is_told_and_the_rest_is_checked() {
    let world = World::new().await;
    let state = world.services(&[]).await;
    world.sql().await.execute("RENAME TABLE payments TO elsewhere").await.expect("renamed");
    let report = audit::run(&state.db, &state.config.jobs, None).await;
    assert!(!report.is_clean);
    let invariants = || audit::INVARIANTS.iter().flat_map(|list| list.iter());
    let needs_payments: Vec<&str> =
        invariants().filter(|one| one.statement.contains(" payments AS ")).map(|one| one.name).collect();
    assert!(needs_payments.len() >= 4, "{needs_payments:?}");
    for finding in &report.findings {
        assert_eq!(finding.error.is_some(), needs_payments.contains(&finding.invariant.as_str()), "{finding:?}");
        assert!(finding.breaches.is_empty());
    }
    let metrics = String::from_utf8(frontrow::platform::telemetry::metrics::render()).expect("text");
    assert!(metrics.contains("frontrow_audit_failures_total{invariant=\"paid_once\"}"));
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_may_have_a_limit_of_its_own() {
    let world = World::new().await;
    let state = world.services(&[("FRONTROW__DATABASE__UNIT_TIMEOUT_MS", "200")]).await;
    let nap = |limit| {
        state.db.read_within("audit_test.nap", Duration::from_millis(limit), (), |conn, ()| {
            Box::pin(async move { Ok(sqlx::query_scalar::<_, i64>("SELECT SLEEP(0.6)").fetch_one(conn.sql()).await?) })
        })
    };
    assert_eq!(nap(100).await.expect_err("no time").code().code, "timed_out");
    assert_eq!(nap(10_000).await.expect("time enough"), 0);
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_run_does_not_move_what_the_next_one_reaches_back_to() {
    let world = World::new().await;
    let state = world.services(&[]).await;
    let claims: Arc<Mutex<Vec<Claim>>> = Arc::default();
    let seen = claims.clone();
    let work: Work = Arc::new(move |claim: Claim| {
        let mut seen = seen.lock().expect("no panic");
        seen.push(claim);
        let fails = seen.len() == 2;
        Box::pin(async move { if fails { Err(Problem::not_found("reason")) } else { Ok(()) } })
    });
    let jobs = Jobs::new(state.db.clone(), state.config.jobs.clone()).every("test.job", 10, work);
    jobs.register().await.expect("a row");
    for _ in 0..4 {
        jobs.run_due().await;
        world.advance(Duration::from_secs(11));
    }
    let claims = claims.lock().expect("no panic").clone();
    let (began, reaches): (Vec<_>, Vec<_>) =
        claims.into_iter().map(|claim| (claim.claimed_at, claim.last_ok_at)).unzip();
    assert_eq!(reaches, [None, Some(began[0]), Some(began[0]), Some(began[2])]);
    world.end(Vec::new()).await;
}
