//! Payments by points that share a transaction: each is answered by itself, and takes effect once or not at all.

use frontrow::accounts::UserId;
use frontrow::app::state::State;
use frontrow::booking::holds::HoldId;
use frontrow::platform::error::Problem;
use frontrow::platform::http::keyed::{Answer, RequestKey};
use futures::future::join_all;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor as _, MySqlConnection};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::support::arena::{Plan, text};
use crate::support::proxy::sabotage::Sabotage;
use crate::support::{Api, Buyer, Crowd, History, Instance, Sale, World, eventually};

const PRICE: i64 = 10_000;
/// Everybody's payments wait for each other.
const ONE_LANE: (&str, &str) = ("FRONTROW__BOOKING__PAY_LANES", "1");
/// What a payment of held seats runs first.
const FIRST: &str = "FROM holds WHERE id IN";

fn hex(id: &str) -> String {
    format!("x'{}'", id.parse::<Uuid>().expect("an id").simple())
}

/// Somebody with points and a hold.
#[derive(Clone)]
struct Payer {
    buyer: Buyer,
    hold: String,
}

/// An instance for everything but payments, a hall, and payers in it.
struct Scene {
    world: World,
    steward: Instance,
    api: Api,
    sale: Sale,
    payers: Vec<Payer>,
}

impl Scene {
    /// With so many who hold two seats each and can pay for them.
    async fn new(count: u32) -> Self {
        let world = World::new().await;
        let steward = world.instance().await;
        let api = Api::over(&[&steward]);
        let sale = Sale::new(&api, &steward, &Plan { sections: hall(), price: PRICE / 2, ..Plan::default() }).await;
        let mut scene = Self { world, steward, api, sale, payers: Vec::new() };
        scene.payers = scene.seated(&scene.sale, count).await;
        Buyer::endow(&scene.steward.state, &scene.buyers(), PRICE).await;
        scene
    }

    fn buyers(&self) -> Vec<Buyer> {
        self.payers.iter().map(|payer| payer.buyer.clone()).collect()
    }

    /// Buyers without points, each with a row of two seats of their own.
    async fn seated(&self, sale: &Sale, count: u32) -> Vec<Payer> {
        let buyers = Buyer::many(&self.steward.state, count).await;
        let sit = async |(row, buyer): (usize, Buyer)| {
            let pass = buyer.enter(&self.api, sale).await;
            let seats = [format!("A-{}-1", row + 1), format!("A-{}-2", row + 1)];
            let hold = buyer.hold(&self.api, &sale.performances[0], &pass, &[&seats[0], &seats[1]]).await;
            Payer { buyer, hold }
        };
        join_all(buyers.into_iter().enumerate().map(sit)).await
    }

    /// Another hold of somebody who paid nothing yet, in the last row.
    async fn another_hold_of(&self, payer: &Payer) -> Payer {
        let pass = payer.buyer.enter(&self.api, &self.sale).await;
        let hold = payer.buyer.hold(&self.api, &self.sale.performances[0], &pass, &["A-40-1", "A-40-2"]).await;
        Payer { buyer: payer.buyer.clone(), hold }
    }

    async fn execute(&self, statement: String) {
        self.world.sql().await.execute(AssertSqlSafe(statement)).await.expect("done");
    }

    async fn balance(&self, buyer: &Buyer) -> i64 {
        let points = self.api.get("/v1/me/points").bearer(&buyer.token).send().await.expect(200);
        points["balance"].as_i64().expect("a number")
    }

    /// Somebody who has this payer's hold: the payment waits.
    async fn hold_up(&self, payer: &Payer) -> MySqlConnection {
        let mut sql = self.world.sql().await;
        sql.execute("START TRANSACTION").await.expect("a transaction");
        let lock = format!("SELECT 1 FROM holds WHERE id = {} FOR UPDATE", hex(&payer.hold));
        sql.execute(AssertSqlSafe(lock)).await.expect("the hold");
        sql
    }

    /// While the first one's payment is held up, the others come and wait together; then it goes on. The answers of the others.
    async fn together(&self, state: &State, first: &Payer, others: &[Asked]) -> Vec<Result<Answer, Problem>> {
        let mut somebody = self.hold_up(first).await;
        let paying = pay(state, first, "first");
        let others = async {
            self.world.wait_until_running(FIRST).await;
            let others = others.iter().map(|asked| asked.pay(state));
            let (answers, ()) = tokio::join!(join_all(others), async {
                somebody.execute("ROLLBACK").await.expect("an end");
            });
            answers
        };
        let (first, answers) = tokio::join!(paying, others);
        assert_eq!(first.expect("paid").status, 201);
        answers
    }

    /// In how many transactions the reservations of these holds were made: the instant of each is its transaction's.
    async fn transactions(&self, payers: &[Payer]) -> i64 {
        let holds: Vec<String> = payers.iter().map(|payer| hex(&payer.hold)).collect();
        let count = format!(
            "SELECT COUNT(DISTINCT created_at) FROM reservations WHERE hold_id IN ({}) AND state = 1",
            holds.join(", ")
        );
        sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut self.world.sql().await).await.expect("a number")
    }

    async fn end(self, states: Vec<State>) {
        self.world.assert_clean(&self.steward).await;
        for state in states {
            state.db.close().await;
            state.redis.close().await;
        }
        self.world.end(vec![self.steward]).await;
    }
}

/// Rows of two.
fn hall() -> Value {
    let rows: Vec<Value> = (1..=40).map(|row| json!({"name": row.to_string(), "seats": 2})).collect();
    json!([{"code": "A", "name": "Hall", "rows": rows}])
}

/// A payment that is asked for, with what is expected of it.
struct Asked {
    payer: Payer,
    key: &'static str,
    /// Stands for the request's body.
    request: u8,
    expected: &'static str,
}

impl Asked {
    fn new(payer: &Payer, expected: &'static str) -> Self {
        Self { payer: payer.clone(), key: "k", request: 1, expected }
    }

    async fn pay(&self, state: &State) -> Result<Answer, Problem> {
        pay_as(state, &self.payer, self.key, self.request).await
    }
}

async fn pay(state: &State, payer: &Payer, key: &str) -> Result<Answer, Problem> {
    pay_as(state, payer, key, 1).await
}

async fn pay_as(state: &State, payer: &Payer, key: &str, request: u8) -> Result<Answer, Problem> {
    let (user, hold): (Uuid, Uuid) = (payer.buyer.id.parse().expect("an id"), payer.hold.parse().expect("an id"));
    let key = RequestKey { key: Some(key.to_owned()), fingerprint: [request; 32] };
    state.checkout.pay_with_points(UserId(user), HoldId(hold), key).await
}

fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).expect("JSON")
}

/// What was answered: `paid`, `replayed`, or the code of the refusal.
fn outcome(answer: &Result<Answer, Problem>) -> &'static str {
    match answer {
        Ok(answer) if answer.replayed => "replayed",
        Ok(_) => "paid",
        Err(problem) => problem.code().code,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_that_wait_together_share_a_transaction_and_each_has_its_own_outcome() {
    let scene = Scene::new(15).await;
    let state = scene.world.state(&[ONE_LANE]);
    let [first, good, other, poor, released, ended, again, repeated, reused, busy, retried, free, gone, ..] =
        &scene.payers[..]
    else {
        panic!("too few payers");
    };
    let stopped_sale = Sale::new(&scene.api, &scene.steward, &Plan { sections: hall(), ..Plan::default() }).await;
    let stopped = scene.seated(&stopped_sale, 1).await.remove(0);
    let other_sale = Sale::new(&scene.api, &scene.steward, &Plan { sections: hall(), ..Plan::default() }).await;
    let penniless = scene.seated(&other_sale, 3).await;
    Buyer::endow(&scene.steward.state, &[penniless[0].buyer.clone(), stopped.buyer.clone()], 25_000).await;
    let stop = format!("/v1/admin/concerts/{}/stop", stopped_sale.concert);
    assert_eq!(scene.api.post(&stop).bearer(&stopped_sale.operator).send().await.status, 200);

    let mut asked = vec![Asked::new(good, "paid"), Asked::new(&penniless[0], "paid"), Asked::new(other, "paid")];
    scene.execute(format!("UPDATE holds SET amount = amount + 1 WHERE id = {}", hex(&poor.hold))).await;
    asked.extend([Asked::new(poor, "insufficient_points"), Asked::new(&penniless[1], "insufficient_points")]);
    let release = scene.api.delete(&format!("/v1/holds/{}", released.hold)).bearer(&released.buyer.token);
    assert_eq!(release.send().await.status, 204);
    asked.push(Asked::new(released, "hold_expired"));
    let end = "UTC_TIMESTAMP(6) - INTERVAL 1 SECOND";
    scene.execute(format!("UPDATE seats SET held_until = {end} WHERE hold_id = {}", hex(&ended.hold))).await;
    scene.execute(format!("UPDATE holds SET expires_at = {end} WHERE id = {}", hex(&ended.hold))).await;
    asked.push(Asked::new(ended, "hold_expired"));
    // Somebody else's hold, and none at all.
    let thief = Payer { buyer: scene.payers[13].buyer.clone(), hold: good.hold.clone() };
    let nothing = Payer { buyer: gone.buyer.clone(), hold: Uuid::now_v7().to_string() };
    asked.extend([Asked::new(&thief, "not_found"), Asked::new(&nothing, "not_found")]);
    for payer in [again, repeated, reused] {
        assert_eq!(outcome(&pay(&state, payer, "k").await), "paid");
    }
    asked.push(Asked { key: "another", ..Asked::new(again, "already_paid") });
    asked.push(Asked::new(repeated, "replayed"));
    asked.push(Asked { request: 2, ..Asked::new(reused, "idempotency_key_reused") });
    scene.execute(attempt(busy, "0", &hex(&busy.hold))).await;
    asked.push(Asked::new(busy, "payment_in_progress"));
    asked.push(Asked::new(&stopped, "sale_stopped"));
    // A card payment that failed has left a reservation, which is taken up again.
    let left = Uuid::now_v7().to_string();
    scene.execute(attempt(retried, "2", "NULL")).await;
    scene.execute(failed_reservation(retried, &left)).await;
    asked.push(Asked::new(retried, "paid"));
    // What costs nothing is paid by somebody who never had a point, too.
    let generous = Payer { buyer: penniless[2].buyer.clone(), hold: penniless[2].hold.clone() };
    scene.execute(format!("UPDATE holds SET amount = 0 WHERE id = {}", hex(&generous.hold))).await;
    asked.extend([Asked::new(&generous, "paid"), Asked::new(free, "paid")]);

    let answers = scene.together(&state, first, &asked).await;
    for (asked, answer) in asked.iter().zip(&answers) {
        assert_eq!(outcome(answer), asked.expected, "{answer:?}");
    }
    let paid: Vec<Payer> = asked.iter().filter(|one| one.expected == "paid").map(|one| one.payer.clone()).collect();
    assert_eq!(scene.transactions(&paid).await, 1, "they shared one");
    let refused = answers[3].as_ref().expect_err("a refusal").body("");
    assert_eq!((&refused["balance"], &refused["amount"]), (&json!(PRICE), &json!(PRICE + 1)));
    let refused = answers[4].as_ref().expect_err("a refusal").body("");
    assert_eq!((&refused["balance"], &refused["amount"]), (&json!(0), &json!(2 * PRICE)));
    let revived = asked.iter().zip(&answers).find(|(asked, _)| asked.payer.hold == retried.hold).expect("asked");
    assert_eq!(text(&body(revived.1.as_ref().expect("paid"))["id"]), left);

    for (asked, answer) in asked.iter().zip(&answers).filter(|(asked, _)| asked.expected == "paid") {
        let answer = body(answer.as_ref().expect("paid"));
        let path = format!("/v1/reservations/{}", text(&answer["id"]));
        assert_eq!(scene.api.get(&path).bearer(&asked.payer.buyer.token).send().await.expect(200), answer);
        assert_eq!(answer["seats"].as_array().expect("seats").len(), 2);
    }
    for (payer, left) in [(good, 0), (other, 0), (poor, PRICE), (ended, PRICE), (busy, PRICE), (retried, 0), (free, 0)]
    {
        assert_eq!(scene.balance(&payer.buyer).await, left);
    }
    scene.execute(format!("UPDATE holds SET amount = amount - 1 WHERE id = {}", hex(&poor.hold))).await;
    assert_eq!(outcome(&pay(&state, poor, "k").await), "paid");
    scene.end(vec![state]).await;
}

/// A card payment of the hold, in this state.
fn attempt(payer: &Payer, state: &str, open: &str) -> String {
    format!(
        "INSERT INTO payments (id, user_id, method, state, subject_kind, subject_id, amount, created_at, changed_at, open_subject, due_at) \
         VALUES ({}, {}, 1, {state}, 0, {}, {PRICE}, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6), {open}, \
         IF({open} IS NULL, NULL, UTC_TIMESTAMP(6) + INTERVAL 1 DAY))",
        hex(&Uuid::now_v7().to_string()),
        hex(&payer.buyer.id),
        hex(&payer.hold)
    )
}

/// What it leaves where it fails.
fn failed_reservation(payer: &Payer, id: &str) -> String {
    format!(
        "INSERT INTO reservations (id, hold_id, user_id, concert_id, performance_id, payment_id, state, seat_count, amount, \
         created_at, changed_at) SELECT {}, id, user_id, concert_id, performance_id, {}, 2, seat_count, amount, created_at, \
         changed_at FROM holds WHERE id = {}",
        hex(id),
        hex(&Uuid::now_v7().to_string()),
        hex(&payer.hold)
    )
}

/// The commit of a batch does something else, and then its connection is gone.
async fn unanswered(instead: &str) {
    let scene = Scene::new(4).await;
    let sabotage = Sabotage::of_nth_sql("COMMIT", &format!("{instead}; KILL CONNECTION_ID()"), 2);
    let proxy = scene.world.mysql_sabotaged(&sabotage).await;
    let (name, url) = scene.world.mysql_through(&proxy);
    let state = scene.world.state(&[ONE_LANE, (name, &url)]);
    let [first, others @ ..] = &scene.payers[..] else { panic!("nobody") };
    scene.execute(format!("UPDATE holds SET amount = amount + 1 WHERE id = {}", hex(&others[0].hold))).await;
    let expected = ["insufficient_points", "paid", "paid"];
    let asked: Vec<Asked> = others.iter().zip(expected).map(|(payer, expected)| Asked::new(payer, expected)).collect();
    let answers = scene.together(&state, first, &asked).await;
    assert_eq!(answers.iter().map(outcome).collect::<Vec<_>>(), expected, "{answers:?}");
    assert_eq!(sabotage.hits(), 1);
    assert_eq!(scene.transactions(&others[1..]).await, 1);
    for (payer, left) in others.iter().zip([PRICE, 0, 0]) {
        assert_eq!(scene.balance(&payer.buyer).await, left);
    }
    // The answer is the one that is kept.
    for (asked, answer) in asked.iter().zip(&answers).skip(1) {
        let again = asked.pay(&state).await.expect("replayed");
        assert_eq!((again.replayed, again.body), (true, answer.as_ref().expect("paid").body.clone()));
    }
    scene.execute(format!("UPDATE holds SET amount = amount - 1 WHERE id = {}", hex(&others[0].hold))).await;
    scene.end(vec![state]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_whose_commit_was_not_answered_are_found() {
    Box::pin(unanswered("COMMIT")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_whose_commit_never_arrived_are_made_again() {
    Box::pin(unanswered("ROLLBACK")).await;
}

/// Ends the hold soon, by the database's own clock: no transaction that is running sees another one move.
async fn end_soon(scene: &Scene, payer: &Payer) {
    let soon = "(SELECT UTC_TIMESTAMP(6) + INTERVAL 2 SECOND)";
    scene.execute(format!("UPDATE holds SET expires_at = {soon} WHERE id = {}", hex(&payer.hold))).await;
    let end = format!("(SELECT expires_at FROM holds WHERE id = {})", hex(&payer.hold));
    scene.execute(format!("UPDATE seats SET held_until = {end} WHERE hold_id = {}", hex(&payer.hold))).await;
}

/// Somebody who has the payer's points: the payment has seen its hold live before it waits for them.
async fn lock_points(scene: &Scene, payer: &Payer) -> MySqlConnection {
    let mut sql = scene.world.sql().await;
    sql.execute("START TRANSACTION").await.expect("a transaction");
    let lock = format!("SELECT 1 FROM points_accounts WHERE user_id = {} FOR UPDATE", hex(&payer.buyer.id));
    sql.execute(AssertSqlSafe(lock)).await.expect("the points");
    sql
}

/// Lets the points go once the hold is over.
async fn let_go_at_the_end(scene: &Scene, payer: &Payer, mut points: MySqlConnection) {
    let is_over = format!("SELECT expires_at <= UTC_TIMESTAMP(6) FROM holds WHERE id = {}", hex(&payer.hold));
    eventually("the hold to end", || async {
        let is_over = sqlx::query_scalar(AssertSqlSafe(is_over.clone()));
        let is_over: bool = is_over.fetch_one(&mut scene.world.sql().await).await.expect("an answer");
        is_over.then_some(())
    })
    .await;
    points.execute("ROLLBACK").await.expect("an end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_ends_while_its_payment_waits_for_a_lock_takes_nothing_and_stops_nobody() {
    let scene = Scene::new(4).await;
    let patient =
        [("FRONTROW__DATABASE__LOCK_WAIT_SECS", "10"), ("FRONTROW__DATABASE__UNIT_TIMEOUT_MS", "30000"), ONE_LANE];
    let state = scene.world.state(&patient);
    let [first, late, good, alone] = &scene.payers[..] else { panic!("nobody") };
    end_soon(&scene, late).await;
    let points = lock_points(&scene, late).await;
    let asked = [Asked::new(late, "hold_expired"), Asked::new(good, "paid")];
    let (answers, ()) = tokio::join!(scene.together(&state, first, &asked), let_go_at_the_end(&scene, late, points));
    assert_eq!(answers.iter().map(outcome).collect::<Vec<_>>(), ["hold_expired", "paid"], "{answers:?}");
    end_soon(&scene, alone).await;
    let points = lock_points(&scene, alone).await;
    let (answer, ()) = tokio::join!(pay(&state, alone, "k"), let_go_at_the_end(&scene, alone, points));
    assert_eq!(outcome(&answer), "hold_expired");
    for (payer, left) in [(late, PRICE), (alone, PRICE), (good, 0)] {
        assert_eq!(scene.balance(&payer.buyer).await, left);
    }
    scene.end(vec![state]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_that_waits_on_two_instances_takes_effect_once() {
    let scene = Scene::new(2).await;
    let (one, two) = (scene.world.state(&[]), scene.world.state(&[]));
    let mut somebody = scene.hold_up(&scene.payers[0]).await;
    let payer = &scene.payers[0];
    let (first, second, twice, ()) =
        tokio::join!(pay(&one, payer, "k"), pay(&two, payer, "k"), pay(&one, payer, "k"), async {
            eventually("both to wait", || async {
                let waiting = scene.world.running().await.iter().filter(|text| text.contains(FIRST)).count();
                (waiting == 2).then_some(())
            })
            .await;
            somebody.execute("ROLLBACK").await.expect("an end");
        });
    assert_eq!(outcome(&twice), "idempotency_key_in_flight", "on the same instance it is known");
    let mut outcomes = [outcome(&first), outcome(&second)];
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["paid", "replayed"]);
    assert_eq!(first.expect("paid").body, second.expect("paid").body);
    assert_eq!(scene.balance(&payer.buyer).await, 0);

    // The same key for another hold, at the same time elsewhere: whichever comes second has used it for something else.
    let (mine, other) = (&scene.payers[1], scene.another_hold_of(&scene.payers[1]).await);
    Buyer::endow(&scene.steward.state, std::slice::from_ref(&mine.buyer), PRICE).await;
    let (first, second) = tokio::join!(pay_as(&one, mine, "x", 1), pay_as(&two, &other, "x", 2));
    let mut outcomes = [outcome(&first), outcome(&second)];
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["idempotency_key_reused", "paid"]);
    assert_eq!(scene.balance(&mine.buyer).await, PRICE);
    scene.end(vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_pay_over_two_instances() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let crowd = Crowd::ready(&api, &one.state, 200).await;
    let history = History::default();
    let permits = Semaphore::new(crowd.members.len());
    // Everybody twice, with the same key.
    tokio::join!(crowd.pay(&api, &history, &permits), async {
        let others = Semaphore::new(crowd.members.len());
        crowd.pay(&api, &history, &others).await;
    });
    history.assert_no_server_error();
    assert_eq!(history.others(&["201", "409 idempotency_key_in_flight"]).len(), 0, "{:?}", history.outcomes());
    let broken = crowd.broken_promises(&api, &history).await;
    assert!(broken.is_empty(), "{broken:#?}");
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}
