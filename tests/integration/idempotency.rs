//! A request that carries a key takes effect at most once, and its answer is kept.

use std::sync::Arc;
use std::time::Duration;

use frontrow::app::state::State;
use frontrow::platform::db::{Conn, now};
use frontrow::platform::error::Problem;
use frontrow::platform::http::keyed::{Answer, CREATED, RequestKey};
use frontrow::platform::outbox;
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor as _};
use tokio::sync::Barrier;
use uuid::Uuid;

use crate::support::{Api, Buyer, Reply, Sale, World, arena::Plan};

async fn charge(api: &Api, buyer: &Buyer, key: &str, amount: i64) -> Reply {
    let call = api.post("/v1/me/points/charges").bearer(&buyer.token).key(key);
    call.json(&json!({"amount": amount})).send().await
}

async fn balance(api: &Api, buyer: &Buyer) -> i64 {
    let points = api.get("/v1/me/points").bearer(&buyer.token).send().await.expect(200);
    points["balance"].as_i64().expect("a number")
}

/// Asserts that `again` is the answer that `first` was, byte for byte, and says so.
#[track_caller]
fn assert_replayed(first: &Reply, again: &Reply) {
    assert_eq!((again.status, &again.bytes), (first.status, &first.bytes));
    assert_eq!(again.header("content-type"), first.header("content-type"));
    assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), (None, Some("true")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_gets_the_first_answer_and_has_no_effect() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let (ada, ben) = (Buyer::new(&api).await, Buyer::new(&api).await);
    let first = charge(&api, &ada, "a-key", 500).await;
    assert_eq!(first.status, 201);
    for key in ["a-key", "a-key", "\"a-key\"", " a-key "] {
        assert_replayed(&first, &charge(&api, &ada, key, 500).await);
    }
    // The key names one request: neither another body nor another address may use it.
    charge(&api, &ada, "a-key", 501).await.expect_problem(422, "idempotency_key_reused");
    let elsewhere = ada.try_pay(&api, &Uuid::now_v7().to_string(), "a-key").await;
    elsewhere.expect_problem(422, "idempotency_key_reused");
    assert_eq!(balance(&api, &ada).await, 500);

    // Another's key of the same name is another key, and letters are not folded.
    let his = charge(&api, &ben, "a-key", 700).await;
    assert_eq!((his.status, his.header("idempotency-replayed")), (201, None));
    let upper = charge(&api, &ada, "A-KEY", 500).await;
    assert_eq!((upper.status, upper.header("idempotency-replayed")), (201, None));
    assert_eq!((balance(&api, &ada).await, balance(&api, &ben).await), (1000, 700));
    // Neither is a space at the end.
    let spaced = charge(&api, &ada, "\"a-key \"", 500).await;
    assert_eq!((spaced.status, spaced.header("idempotency-replayed")), (201, None));
    assert_replayed(&spaced, &charge(&api, &ada, "\"a-key \"", 500).await);
    assert_eq!(balance(&api, &ada).await, 1500);
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_forgotten_after_a_day() {
    let world = World::with(&[("FRONTROW__ACCOUNTS__SESSION_HOURS", "100")]).await;
    let one = world.instance().await;
    world.without_job("idempotency.tidy").await;
    let api = Api::over(&[&one]);
    let buyer = Buyer::new(&api).await;
    let first = charge(&api, &buyer, "k", 500).await;
    assert_eq!(first.status, 201);
    world.advance(Duration::from_mins(24 * 60 - 5));
    assert_eq!(one.state.idempotency.delete_old(100).await.expect("tidied"), 0);
    assert_replayed(&first, &charge(&api, &buyer, "k", 500).await);
    world.advance(Duration::from_secs(301));
    let second = charge(&api, &buyer, "k", 500).await;
    assert_eq!((second.status, second.header("idempotency-replayed")), (201, None));
    assert_ne!(second.body["id"], first.body["id"]);
    assert_eq!(balance(&api, &buyer).await, 1000);
    assert_replayed(&second, &charge(&api, &buyer, "k", 500).await);
    world.advance(Duration::from_hours(25));
    assert_eq!(one.state.idempotency.delete_old(100).await.expect("tidied"), 1);
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_leaves_the_key_free() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &Plan { price: 300, ..Plan::default() }).await;
    let buyer = Buyer::new(&api).await;
    charge(&api, &buyer, "k", 0).await.expect_problem(422, "amount_out_of_range");
    let pass = buyer.enter(&api, &sale).await;
    let hold = buyer.hold(&api, &sale.performances[0], &pass, &["A-1-1"]).await;
    buyer.try_pay(&api, &hold, "pay").await.expect_problem(402, "insufficient_points");
    // The same keys, now that nothing stands in the way.
    assert_eq!(charge(&api, &buyer, "k", 300).await.status, 201);
    let paid = buyer.try_pay(&api, &hold, "pay").await;
    assert_eq!(paid.status, 201);
    assert_replayed(&paid, &buyer.try_pay(&api, &hold, "pay").await);
    buyer.try_pay(&api, &hold, "another").await.expect_problem(409, "already_paid");
    assert_eq!(balance(&api, &buyer).await, 0);
    world.assert_clean(&one).await;
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_make_no_sense_are_refused() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let buyer = Buyer::new(&api).await;
    let missing = api.post("/v1/me/points/charges").bearer(&buyer.token).json(&json!({"amount": 5}));
    missing.send().await.expect_problem(400, "idempotency_key_missing");
    for bad in [&"x".repeat(256), "", "\"\""] {
        let refused = charge(&api, &buyer, bad, 5).await.expect_problem(422, "invalid_parameter");
        assert_eq!(refused["errors"][0]["field"], "Idempotency-Key", "{bad}");
    }
    assert_eq!(charge(&api, &buyer, &"x".repeat(255), 5).await.status, 201);
    assert_eq!(charge(&api, &buyer, &format!("\"{}\"", "y".repeat(255)), 5).await.status, 201);
    assert_eq!(balance(&api, &buyer).await, 10);
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keyed_hold_is_answered_again_after_its_pass_ended() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    let buyer = Buyer::new(&api).await;
    let pass = buyer.enter(&api, &sale).await;
    let hold = async |key: &str, seat: &str| {
        let path = format!("/v1/performances/{}/holds", sale.performances[0]);
        let call = api.post(&path).bearer(&buyer.token).pass(&pass).key(key);
        call.json(&json!({"seat_ids": [seat]})).send().await
    };
    let first = hold("k", "A-1-1").await;
    assert_eq!(first.status, 201);
    let leave = format!("/v1/concerts/{}/queue/passes/me", sale.concert);
    assert_eq!(api.delete(&leave).bearer(&buyer.token).pass(&pass).send().await.status, 204);
    hold("other", "A-1-2").await.expect_problem(403, "pass_expired");
    assert_replayed(&first, &hold("k", "A-1-1").await);
    world.assert_clean(&one).await;
    world.end(vec![one]).await;
}

/// How a unit with an effect ends.
#[derive(Clone, Copy)]
enum Ending {
    Well,
    Refused,
    Panicked,
    Killed,
}

/// An effect, an event of the outbox, and then the end.
async fn effect(conn: &mut Conn, ending: Ending) -> Result<Answer, Problem> {
    outbox::record(conn, "test.effect", Uuid::now_v7(), 1, &json!({})).await?;
    match ending {
        Ending::Well => Answer::json(CREATED, &json!({"done": now(conn).await?})),
        Ending::Refused => Err(Problem::not_found("reason")),
        Ending::Panicked => panic!("between the effect and its commit"),
        Ending::Killed => {
            let me: i64 = sqlx::query_scalar("SELECT CAST(CONNECTION_ID() AS SIGNED)").fetch_one(conn.sql()).await?;
            conn.sql().execute(AssertSqlSafe(format!("KILL {me}"))).await?;
            Answer::json(CREATED, &json!({}))
        }
    }
}

async fn once(state: &State, user: Uuid, ending: Ending) -> Result<Answer, Problem> {
    let request = RequestKey { key: Some("k".to_owned()), fingerprint: [7; 32] };
    let name = "idempotency_test.once";
    state.idempotency.once(name, user, request, ending, |conn, ending| Box::pin(effect(conn, *ending))).await
}

async fn kept(world: &World) -> (i64, i64) {
    let query = "SELECT (SELECT COUNT(*) FROM idempotency_keys), (SELECT COUNT(*) FROM outbox)";
    sqlx::query_as(query).fetch_one(&mut world.sql().await).await.expect("two counts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_and_effect_are_kept_together_or_not_at_all() {
    let world = World::new().await;
    let (one, two) = (world.services(&[]).await, world.state(&[]));
    let user = Uuid::now_v7();
    for (ending, code) in
        [(Ending::Refused, "not_found"), (Ending::Panicked, "internal"), (Ending::Killed, "read_only")]
    {
        let failed = once(&one, user, ending).await.expect_err("no answer");
        assert_eq!(failed.code().code, code);
        assert_eq!(kept(&world).await, (0, 0), "{code}");
    }
    let first = once(&one, user, Ending::Well).await.expect("an answer");
    assert_eq!(kept(&world).await, (1, 1));
    // Whatever a repeat would do, it is not done.
    for state in [&one, &two] {
        let again = once(state, user, Ending::Panicked).await.expect("the first answer");
        assert_eq!((again.status, again.body, again.replayed), (first.status, first.body.clone(), true));
    }
    assert_eq!(kept(&world).await, (1, 1));
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_running_is_told_on_both_instances() {
    let world = World::new().await;
    let (one, two) = (world.services(&[]).await, world.state(&[]));
    let (user, meet) = (Uuid::now_v7(), Arc::new(Barrier::new(2)));
    let request = RequestKey { key: Some("k".to_owned()), fingerprint: [7; 32] };
    let running = one.idempotency.once("idempotency_test.running", user, request, meet.clone(), |conn, meet| {
        Box::pin(async move {
            meet.wait().await;
            meet.wait().await;
            effect(conn, Ending::Well).await
        })
    });
    let others = async {
        meet.wait().await;
        for state in [&one, &two] {
            let refused = once(state, user, Ending::Well).await.expect_err("it is running");
            assert_eq!(refused.code().code, "idempotency_key_in_flight");
        }
        once(&two, Uuid::now_v7(), Ending::Well).await.expect("another's key is free");
        meet.wait().await;
    };
    let (first, ()) = tokio::join!(running, others);
    let first = first.expect("an answer");
    let again = once(&two, user, Ending::Well).await.expect("the first answer");
    assert_eq!((again.body, again.replayed), (first.body, true));
    world.end(Vec::new()).await;
}
