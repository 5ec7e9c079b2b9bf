//! Paying by card, with a provider whose every answer the test decides: each answer to the buyer, each loss on the way, and
//! what recovery makes of it.

use std::sync::Arc;
use std::time::Duration;

use frontrow::payments::gateway::Standing;
use frontrow::payments::{Attempts, ByHand, ClosedAs, PaymentStatus};
use frontrow::platform::error::Problem;
use serde_json::{Value, json};
use sqlx::Executor as _;
use uuid::Uuid;

use crate::join_limits::refused_by;
use crate::support::arena::{Plan, text};
use crate::support::till::{Question, Trouble};
use crate::support::{Api, Buyer, Instance, Reply, Sale, Till, World, eventually};

const VISA: &str = "pm_card_visa";
const DECLINED: &str = "pm_card_chargeDeclined";
const PRICE: i64 = 10_000;
/// Past the end of every hold.
const PAST_HOLD: Duration = Duration::from_secs(301);
/// Answers come soon, whether or not the provider does; recovery is called by the tests.
const SOON: [(&str, &str); 3] = [
    ("FRONTROW__ATTEMPTS__ANSWER_MS", "400"),
    ("FRONTROW__ATTEMPTS__RETRY_MS", "1"),
    ("FRONTROW__ATTEMPTS__RECOVERY_MS", "86400000"),
];

/// Asks about everything that is due: refunds first, so that what begins to be owed meanwhile is for the next time.
async fn recover(attempts: &Attempts) -> Result<usize, Problem> {
    Ok(attempts.give_back_due().await? + attempts.find_out_due().await?)
}

/// A sale, an instance with a till, and a buyer inside.
struct Shop {
    world: World,
    till: Arc<Till>,
    one: Instance,
    api: Api,
    sale: Sale,
    buyer: Buyer,
    pass: String,
}

impl Shop {
    async fn new() -> Self {
        Self::with(&Plan::default()).await
    }

    async fn with(plan: &Plan) -> Self {
        Self::answering(&SOON, plan).await
    }

    /// One whose buyers wait as long as they must.
    async fn patient() -> Self {
        Self::answering(&SOON[1..], &Plan::default()).await
    }

    async fn answering(settings: &[(&str, &str)], plan: &Plan) -> Self {
        let (world, till) = (World::new().await, Till::new());
        let one = world.instance_paid_through(&till, settings).await;
        let api = Api::over(&[&one]);
        let sale = Sale::new(&api, &one, plan).await;
        let buyer = Buyer::new(&api).await;
        let pass = buyer.enter(&api, &sale).await;
        Self { world, till, one, api, sale, buyer, pass }
    }

    async fn hold(&self, seats: &[&str]) -> String {
        self.buyer.hold(&self.api, &self.sale.performances[0], &self.pass, seats).await
    }

    /// Holds more, in a new stay: paying has ended the one before.
    async fn hold_again(&self, seats: &[&str]) -> String {
        let path = format!("/v1/concerts/{}/queue/tickets", self.sale.concert);
        let ticket = eventually("a new place", || async {
            let joined = self.api.post(&path).bearer(&self.buyer.token).send().await;
            (joined.status == 201).then(|| text(&joined.body["ticket"]))
        })
        .await;
        let pass = self.buyer.claim(&self.api, &self.sale, &ticket).await;
        self.buyer.hold(&self.api, &self.sale.performances[0], &pass, seats).await
    }

    async fn pay(&self, hold: &str, card: &str, key: &str) -> Reply {
        pay(&self.api, &self.buyer, hold, card, key).await
    }

    async fn pay_with_points(&self, hold: &str, key: &str) -> Reply {
        self.buyer.try_pay(&self.api, hold, key).await
    }

    async fn release(&self, hold: &str) -> Reply {
        self.api.delete(&format!("/v1/holds/{hold}")).bearer(&self.buyer.token).send().await
    }

    async fn read(&self, path: &str) -> Value {
        self.api.get(path).bearer(&self.buyer.token).send().await.expect(200)
    }

    async fn reservation(&self, id: &Value) -> Value {
        self.read(&format!("/v1/reservations/{}", text(id))).await
    }

    /// Asks about everything that is due.
    async fn recover(&self) -> usize {
        recover(&self.one.state.attempts).await.expect("recovery")
    }

    /// The ledger's word for what the provider took in and did not give back.
    async fn booked(&self) -> i64 {
        booked(&self.world).await
    }

    async fn end(self) {
        assert_eq!(self.booked().await, self.till.kept(), "the provider's books and the ledger");
        self.world.assert_clean(&self.one).await;
        self.world.end(vec![self.one]).await;
    }
}

async fn pay(api: &Api, buyer: &Buyer, hold: &str, card: &str, key: &str) -> Reply {
    let call = api.post(&format!("/v1/holds/{hold}/payment")).bearer(&buyer.token).key(key);
    call.json(&json!({"method": "card", "card_token": card})).send().await
}

async fn charge(api: &Api, buyer: &Buyer, amount: i64, card: &str, key: &str) -> Reply {
    let call = api.post("/v1/me/points/charges").bearer(&buyer.token).key(key);
    call.json(&json!({"amount": amount, "card_token": card})).send().await
}

async fn booked(world: &World) -> i64 {
    let sum = "SELECT CAST(COALESCE(-SUM(amount), 0) AS SIGNED) FROM ledger_entries WHERE account = 1";
    sqlx::query_scalar(sum).fetch_one(&mut world.sql().await).await.expect("a sum")
}

/// What a reservation says of itself.
fn said(reservation: &Value) -> (&str, &str, &str) {
    let word = |value: &'static str| reservation.pointer(value).and_then(Value::as_str).expect("a word");
    (word("/status"), word("/payment/method"), word("/payment/status"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_buys_the_seats_of_a_hold() {
    let shop = Shop::new().await;
    let hold = shop.hold(&["A-1-1", "A-1-2"]).await;
    let answer = shop.pay(&hold, VISA, "pay").await;
    let bytes = answer.bytes.clone();
    assert_eq!(answer.header("idempotency-replayed"), None);
    let paid = answer.expect(201);
    assert_eq!(said(&paid), ("confirmed", "card", "succeeded"));
    assert!(paid["seats"].as_array().expect("seats").iter().all(|seat| seat["ticket_code"].is_string()), "{paid}");
    assert_eq!(shop.reservation(&paid["id"]).await, paid);
    assert_eq!(shop.read(&format!("/v1/holds/{hold}")).await["status"], "paid");
    assert_eq!(shop.read("/v1/me/points").await["balance"], 0);

    let repeat = shop.pay(&hold, VISA, "pay").await;
    assert_eq!((repeat.status, repeat.header("idempotency-replayed"), &repeat.bytes), (201, Some("true"), &bytes));
    shop.pay(&hold, DECLINED, "pay").await.expect_problem(422, "idempotency_key_reused");
    shop.pay(&hold, VISA, "again").await.expect_problem(409, "already_paid");
    shop.release(&hold).await.expect_problem(409, "already_paid");
    assert_eq!((shop.till.only().1.charges, shop.booked().await), (1, 2 * PRICE));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declined_card_can_be_followed_by_another_with_the_same_key() {
    let shop = Shop::new().await;
    let hold = shop.hold(&["A-1-1"]).await;
    let refusal = shop.pay(&hold, DECLINED, "pay").await.expect_problem(402, "card_declined");
    assert_eq!(refusal["decline_code"], "card_declined");
    assert_eq!(shop.read(&format!("/v1/holds/{hold}")).await["status"], "held");
    assert_eq!(shop.read("/v1/me/reservations").await["items"], json!([]));
    // Nothing took effect, so the key is free for what is to take effect, be it another card.
    let paid = shop.pay(&hold, VISA, "pay").await.expect(201);
    assert_eq!(said(&paid), ("confirmed", "card", "succeeded"));
    assert_eq!(shop.till.intents().len(), 2, "each attempt has its own name at the provider");
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_provider_rejects_or_never_heard_of_leaves_nothing_behind() {
    let shop = Shop::new().await;
    let hold = shop.hold(&["A-1-1"]).await;
    shop.till.trouble(&[Question::Create], Trouble::Refuse);
    shop.pay(&hold, VISA, "pay").await.expect_problem(422, "invalid_body");
    // Whether the calls were not sent or got lost: without a confirmation nothing can have been charged.
    for questions in [&[Question::Create][..], &[Question::Confirm]] {
        shop.till.trouble(questions, Trouble::NotSent);
        let reply = shop.pay(&hold, VISA, "pay").await;
        assert!(reply.header("retry-after").is_some());
        reply.expect_problem(503, "payment_unavailable");
    }
    for trouble in [Trouble::LoseRequest, Trouble::LoseReply] {
        shop.till.trouble(&[Question::Create], trouble);
        shop.pay(&hold, VISA, "pay").await.expect_problem(503, "payment_unavailable");
    }
    shop.till.trouble(&[Question::Confirm], Trouble::Refuse);
    shop.pay(&hold, VISA, "pay").await.expect_problem(422, "invalid_body");
    shop.till.recover();
    assert_eq!((shop.till.kept(), shop.recover().await), (0, 0), "nothing is left to ask about");
    shop.pay(&hold, VISA, "pay").await.expect(201);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_lost_once_is_asked_for_again() {
    let shop = Shop::new().await;
    let hold = shop.hold(&["A-1-1"]).await;
    for trouble in [Trouble::LoseReply, Trouble::LoseRequest] {
        let lost = std::sync::Mutex::new(std::collections::HashSet::new());
        shop.till.on(move |question, attempt| {
            let is_first = lost.lock().expect("no panic").insert((question, attempt));
            if is_first { trouble } else { Trouble::None }
        });
        let hold = if trouble == Trouble::LoseReply { hold.clone() } else { shop.hold_again(&["A-1-2"]).await };
        let paid = shop.pay(&hold, VISA, &hold).await.expect(201);
        assert_eq!(said(&paid), ("confirmed", "card", "succeeded"));
    }
    let charged: u32 = shop.till.intents().values().map(|intent| intent.charges).sum();
    assert_eq!(charged, 2);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_recovered_and_meanwhile_nothing_else_can_be_done_with_the_hold() {
    let shop = Shop::new().await;
    let hold = shop.hold(&["A-1-1"]).await;
    shop.till.trouble(&[Question::Confirm], Trouble::LoseReply);
    let pending = shop.pay(&hold, VISA, "pay").await;
    let bytes = pending.bytes.clone();
    let pending = pending.expect(202);
    assert_eq!(said(&pending), ("pending", "card", "pending"));
    assert_eq!(pending["paid_at"], Value::Null);
    assert_eq!(pending["seats"][0]["ticket_code"], Value::Null);
    assert_eq!(shop.reservation(&pending["id"]).await, pending);
    assert_eq!(shop.read("/v1/me/reservations").await["items"], json!([pending]));

    let refused = shop.pay(&hold, VISA, "another").await;
    assert!(refused.header("retry-after").is_some());
    refused.expect_problem(409, "payment_in_progress");
    shop.pay_with_points(&hold, "points").await.expect_problem(409, "payment_in_progress");
    shop.release(&hold).await.expect_problem(409, "payment_in_progress");
    let repeat = shop.pay(&hold, VISA, "pay").await;
    assert_eq!((repeat.status, repeat.header("idempotency-replayed"), &repeat.bytes), (202, Some("true"), &bytes));

    // The provider says where it is: nothing is confirmed twice, however often it is asked.
    shop.till.recover();
    assert_eq!(shop.recover().await, 1);
    let paid = shop.reservation(&pending["id"]).await;
    assert_eq!(
        (said(&paid), &paid["id"], &paid["created_at"]),
        (("confirmed", "card", "succeeded"), &pending["id"], &pending["created_at"])
    );
    assert!(paid["seats"][0]["ticket_code"].is_string() && paid["paid_at"].is_string());
    let repeat = shop.pay(&hold, VISA, "pay").await;
    assert_eq!((repeat.status, &repeat.bytes), (202, &bytes), "a repeat gets what was said, byte for byte");
    assert_eq!((shop.recover().await, shop.till.only().1.charges), (0, 1));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_charge_that_wakes_up_while_recovery_closes_it_is_not_lost() {
    let shop = Shop::patient().await;
    let hold = shop.hold(&["A-1-1"]).await;
    shop.till.trouble(&[Question::Create], Trouble::Hold);
    let waiting = async |count: usize, what: &str| {
        eventually(what, || async {
            let waiting =
                shop.world.running().await.iter().filter(|statement| statement.contains("FOR UPDATE")).count();
            (waiting >= count).then_some(())
        })
        .await;
    };
    let paying = shop.pay(&hold, VISA, "pay");
    let meddling = async {
        shop.till.wait_for_held().await;
        // To recovery it looks like a request that died before it had the provider's name; what it pays for is locked.
        shop.world.advance(PAST_HOLD);
        let mut sql = shop.world.sql().await;
        sql.execute("START TRANSACTION").await.expect("a transaction");
        let lock = sqlx::query("SELECT id FROM holds WHERE id = ? FOR UPDATE");
        lock.bind(hold.parse::<Uuid>().expect("an id")).fetch_one(&mut sql).await.expect("the hold");
        let attempts = shop.one.state.attempts.clone();
        let recovering = tokio::spawn(async move { attempts.find_out_due().await });
        waiting(1, "recovery to wait for the hold").await;
        shop.till.let_go();
        eventually("the charge", || async { (shop.till.asked(Question::Confirm) > 0).then_some(()) }).await;
        sql.execute("ROLLBACK").await.expect("the hold is free");
        recovering.await.expect("no panic").expect("recovery");
    };
    let (paid, ()) = tokio::join!(paying, meddling);
    let paid = paid.expect(201);
    assert_eq!(said(&paid), ("confirmed", "card", "succeeded"));
    assert_eq!(shop.till.only().1.charges, 1);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confirmation_that_never_arrived_is_cancelled_and_the_hold_can_be_paid_again() {
    let shop = Shop::new().await;
    let hold = shop.hold(&["A-1-1"]).await;
    shop.till.trouble(&[Question::Confirm], Trouble::LoseRequest);
    let pending = shop.pay(&hold, VISA, "pay").await.expect(202);
    shop.till.recover();
    assert_eq!(shop.recover().await, 1);
    assert_eq!(shop.till.only().1.standing, Standing::Cancelled);
    let failed = shop.reservation(&pending["id"]).await;
    assert_eq!(said(&failed), ("cancelled", "card", "failed"));
    shop.api
        .post(&format!("/v1/reservations/{}/cancellation", text(&pending["id"])))
        .bearer(&shop.buyer.token)
        .key("cancel")
        .send()
        .await
        .expect_problem(409, "not_cancellable");
    // The same reservation, with the payment that succeeded.
    let paid = shop.pay(&hold, VISA, "once more").await.expect(201);
    assert_eq!((said(&paid), &paid["id"]), (("confirmed", "card", "succeeded"), &pending["id"]));
    assert_eq!(shop.reservation(&paid["id"]).await, paid);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn points_pay_for_what_a_card_failed_to() {
    let shop = Shop::new().await;
    shop.buyer.charge(&shop.api, 50_000).await;
    let hold = shop.hold(&["A-1-1"]).await;
    shop.till.trouble(&[Question::Confirm], Trouble::LoseRequest);
    let pending = shop.pay(&hold, VISA, "pay").await.expect(202);
    shop.till.recover();
    shop.recover().await;
    let paid = shop.pay_with_points(&hold, "points").await.expect(201);
    assert_eq!((said(&paid), &paid["id"]), (("confirmed", "points", "succeeded"), &pending["id"]));
    assert_eq!(shop.reservation(&paid["id"]).await, paid);
    // What came without a card is owed by the same account as what came with one.
    assert_eq!((shop.booked().await, shop.till.kept()), (50_000, 0));
    shop.world.assert_clean(&shop.one).await;
    shop.world.end(vec![shop.one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_thinks_long_is_waited_for_by_recovery() {
    let shop = Shop::new().await;
    let hold = shop.hold(&["A-1-1"]).await;
    let pending = shop.pay(&hold, "pm_card_processing", "pay").await.expect(202);
    for _ in 0..3 {
        assert_eq!(shop.recover().await, 1);
        assert_eq!(said(&shop.reservation(&pending["id"]).await), ("pending", "card", "pending"));
        shop.world.advance(Duration::from_secs(20));
    }
    shop.till.decide(shop.till.only().0, Standing::Declined("insufficient_funds".to_owned()));
    assert_eq!(shop.recover().await, 1);
    assert_eq!(said(&shop.reservation(&pending["id"]).await), ("cancelled", "card", "failed"));
    let reason: String = sqlx::query_scalar("SELECT reason FROM payments WHERE method = 1")
        .fetch_one(&mut shop.world.sql().await)
        .await
        .expect("a reason");
    assert_eq!(reason, "declined:insufficient_funds");
    shop.end().await;
}

/// A payment whose answer is lost, of two seats whose hold then ends.
async fn late(shop: &Shop) -> (String, Value) {
    let hold = shop.hold(&["A-1-1", "A-1-2"]).await;
    shop.till.trouble(&[Question::Confirm, Question::Find], Trouble::LoseReply);
    let pending = shop.pay(&hold, VISA, "pay").await.expect(202);
    shop.world.advance(PAST_HOLD);
    shop.till.recover();
    assert_eq!(shop.read(&format!("/v1/holds/{hold}")).await["status"], "expired");
    (hold, pending)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_success_gets_the_same_seats_again() {
    let shop = Shop::new().await;
    let (hold, pending) = late(&shop).await;
    assert_eq!(shop.recover().await, 1);
    let paid = shop.reservation(&pending["id"]).await;
    assert_eq!(said(&paid), ("confirmed", "card", "succeeded"));
    assert_eq!(shop.read(&format!("/v1/holds/{hold}")).await["status"], "paid");
    shop.end().await;
}

/// Whatever stands in the way of a late success, the money goes back, once.
async fn goes_back(shop: Shop, pending: &Value) {
    assert_eq!(shop.recover().await, 1, "settled");
    let owed = shop.reservation(&pending["id"]).await;
    assert_eq!(said(&owed), ("refunded", "card", "refunding"));
    assert_eq!(owed["seats"][0]["ticket_code"], Value::Null);
    shop.till.trouble(&[Question::Refund], Trouble::LoseReply);
    assert_eq!(shop.recover().await, 1, "asked, and not answered");
    assert_eq!(said(&shop.reservation(&pending["id"]).await), ("refunded", "card", "refunding"));
    shop.till.recover();
    shop.world.advance(Duration::from_secs(10));
    assert_eq!(shop.recover().await, 1, "given back");
    assert_eq!(said(&shop.reservation(&pending["id"]).await), ("refunded", "card", "refunded"));
    shop.world.advance(Duration::from_mins(10));
    assert_eq!((shop.recover().await, shop.till.only().1.refunds), (0, 1));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_success_whose_seats_are_gone_goes_back() {
    let shop = Shop::new().await;
    let (_, pending) = late(&shop).await;
    let other = Buyer::new(&shop.api).await;
    let pass = other.enter(&shop.api, &shop.sale).await;
    other.hold(&shop.api, &shop.sale.performances[0], &pass, &["A-1-2"]).await;
    goes_back(shop, &pending).await;
}

/// What the provider cannot give back stays owed, and is asked for again and again, ever more seldom.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_that_fails_stays_owed() {
    let shop = Shop::new().await;
    let (_, pending) = late(&shop).await;
    let other = Buyer::new(&shop.api).await;
    let pass = other.enter(&shop.api, &shop.sale).await;
    other.hold(&shop.api, &shop.sale.performances[0], &pass, &["A-1-1"]).await;
    shop.till.keep_all(true);
    shop.recover().await;
    for round in 0..12 {
        assert_eq!(shop.recover().await, 1, "round {round}");
        assert_eq!(shop.recover().await, 0, "not again at once");
        assert_eq!(said(&shop.reservation(&pending["id"]).await), ("refunded", "card", "refunding"));
        shop.world.advance(Duration::from_secs(301));
    }
    shop.world.assert_clean(&shop.one).await;
    shop.till.keep_all(false);
    assert_eq!(shop.recover().await, 1);
    assert_eq!(said(&shop.reservation(&pending["id"]).await), ("refunded", "card", "refunded"));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_success_past_the_buyers_limit_goes_back() {
    let shop = Shop::with(&Plan { limit: 3, ..Plan::default() }).await;
    let (_, pending) = late(&shop).await;
    shop.buyer.hold(&shop.api, &shop.sale.performances[0], &shop.pass, &["A-2-1", "A-2-2"]).await;
    goes_back(shop, &pending).await;
}

/// Although the buyer has left, and neither payment sees what the other one is about to buy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_successes_of_one_buyer_share_the_limit() {
    let shop = Shop::with(&Plan { limit: 3, ..Plan::default() }).await;
    let (_, first) = late(&shop).await;
    let hold = shop.hold(&["A-2-1", "A-2-2"]).await;
    shop.till.trouble(&[Question::Confirm, Question::Find], Trouble::LoseReply);
    let second = shop.pay(&hold, VISA, "pay for more").await.expect(202);
    let stays = format!("/v1/admin/concerts/{}/queue/passes", shop.sale.concert);
    let ended = shop.api.delete(&stays).bearer(&shop.sale.operator).send().await.expect(200);
    assert_eq!(ended["ended"], 1);
    shop.world.advance(PAST_HOLD);
    shop.till.recover();

    // Both are settled at once: they get as far as the seats, or as they may beside each other, and no further.
    let mut sql = shop.world.sql().await;
    sql.execute("START TRANSACTION").await.expect("a transaction");
    sql.execute("SELECT seat_no FROM seats FOR UPDATE").await.expect("the seats");
    let attempts = shop.one.state.attempts.clone();
    let recovering = tokio::spawn(async move { attempts.find_out_due().await });
    let waits =
        |text: &&String| text.contains("FROM seats") && text.contains("FOR UPDATE") || text.contains("points_accounts");
    eventually("both payments to wait", || async {
        (shop.world.running().await.iter().filter(waits).count() >= 2).then_some(())
    })
    .await;
    sql.execute("ROLLBACK").await.expect("the seats are free");
    recovering.await.expect("no panic").expect("recovery");
    let mut found = eventually("both payments to be decided", || async {
        shop.world.advance(Duration::from_secs(10));
        shop.recover().await;
        let status = async |pending: &Value| text(&shop.reservation(&pending["id"]).await["status"]);
        let found = [status(&first).await, status(&second).await];
        (!found.iter().any(|status| status == "pending")).then_some(found)
    })
    .await;
    found.sort();
    assert_eq!(found, ["confirmed", "refunded"]);
    shop.world.advance(Duration::from_mins(10));
    shop.recover().await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_success_of_a_sale_that_is_stopped_goes_back() {
    let shop = Shop::new().await;
    let (_, pending) = late(&shop).await;
    let path = format!("/v1/admin/concerts/{}/stop", shop.sale.concert);
    shop.api.post(&path).bearer(&shop.sale.operator).send().await.expect(200);
    goes_back(shop, &pending).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_clicks_charge_once() {
    let shop = Shop::patient().await;
    let hold = shop.hold(&["A-1-1"]).await;
    shop.till.trouble(&[Question::Confirm], Trouble::Hold);
    let first = shop.pay(&hold, VISA, "pay");
    let others = async {
        shop.till.wait_for_held().await;
        shop.pay(&hold, VISA, "pay").await.expect_problem(409, "idempotency_key_in_flight");
        shop.pay(&hold, VISA, "another").await.expect_problem(409, "payment_in_progress");
        // On another instance, which knows nothing of the first one's memory.
        let two = shop.world.instance_paid_through(&shop.till, &SOON).await;
        let api = Api::over(&[&two]);
        pay(&api, &shop.buyer, &hold, VISA, "pay").await.expect_problem(409, "idempotency_key_in_flight");
        pay(&api, &shop.buyer, &hold, VISA, "another").await.expect_problem(409, "payment_in_progress");
        shop.till.let_go();
        two
    };
    let (paid, two) = tokio::join!(first, others);
    assert_eq!(said(&paid.expect(201)), ("confirmed", "card", "succeeded"));
    assert_eq!(shop.till.only().1.charges, 1);
    two.stop().await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_changes_nothing() {
    let shop = Shop::patient().await;
    let hold = shop.hold(&["A-1-1"]).await;
    shop.till.trouble(&[Question::Confirm], Trouble::Hold);
    let (api, buyer, gone) = (shop.api.clone(), shop.buyer.clone(), hold.clone());
    let client = tokio::spawn(async move { pay(&api, &buyer, &gone, VISA, "pay").await });
    shop.till.wait_for_held().await;
    client.abort();
    shop.till.recover();
    shop.till.let_go();
    let answer = eventually("the payment to end", || async {
        let answer = shop.pay(&hold, VISA, "pay").await;
        (answer.status != 409).then_some(answer)
    })
    .await;
    assert_eq!(answer.header("idempotency-replayed"), Some("true"));
    assert_eq!(said(&answer.expect(201)), ("confirmed", "card", "succeeded"));
    shop.end().await;
}

/// An instance that drains finishes what is under way, and tries nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_is_finished_before_the_end() {
    let shop = Shop::patient().await;
    let two = shop.world.instance_paid_through(&shop.till, &SOON[1..]).await;
    let hold = shop.hold(&["A-1-1"]).await;
    shop.till.trouble(&[Question::Confirm], Trouble::Hold);
    let api = Api::over(&[&two]);
    let client = tokio::spawn({
        let (api, buyer, hold) = (api.clone(), shop.buyer.clone(), hold.clone());
        async move { pay(&api, &buyer, &hold, VISA, "pay").await }
    });
    shop.till.wait_for_held().await;
    client.abort();
    let let_go = async {
        // The end is asked for; it does not come before the provider has answered.
        eventually("the drain", || async { two_drains(&api).await.then_some(()) }).await;
        shop.till.let_go();
    };
    tokio::join!(two.stop(), let_go);
    shop.till.recover();
    let answer = shop.pay(&hold, VISA, "pay").await;
    assert_eq!(answer.header("idempotency-replayed"), Some("true"));
    assert_eq!(said(&answer.expect(201)), ("confirmed", "card", "succeeded"));
    shop.end().await;
}

/// Whether an instance takes no more requests.
async fn two_drains(api: &Api) -> bool {
    api.try_get("/readyz").await.is_none_or(|reply| reply.status != 200)
}

fn event(id: &str, attempt: &str) -> Value {
    json!({"id": id, "type": "payment_intent.succeeded", "data": {"object": {"metadata": {"attempt": attempt}}}})
}

impl Shop {
    async fn webhook(&self, signature: Option<&str>, body: &Value) -> Reply {
        let call = self.api.post("/v1/payments/webhooks").json(body);
        match signature {
            Some(signature) => call.header("stripe-signature", signature).send().await,
            None => call.send().await,
        }
    }

    async fn due(&self) -> i64 {
        let due = "SELECT COUNT(*) FROM payments WHERE due_at <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND";
        let query = sqlx::query_scalar(due).bind(self.world.offset_micros());
        query.fetch_one(&mut self.world.sql().await).await.expect("a count")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_a_hint_and_nothing_more() {
    let shop = Shop::new().await;
    let hold = shop.hold(&["A-1-1"]).await;
    let pending = shop.pay(&hold, "pm_card_processing", "pay").await.expect(202);
    shop.recover().await;
    let attempt = shop.till.only().0;
    let told = event("evt_1", &attempt.to_string());
    assert_eq!(shop.due().await, 0, "asked a moment ago");
    // Not signed, or by somebody else.
    shop.webhook(None, &told).await.expect_problem(400, "invalid_signature");
    shop.webhook(Some("forged"), &told).await.expect_problem(400, "invalid_signature");
    let large = json!({"id": "evt_2", "padding": "x".repeat(70_000)});
    shop.webhook(Some(crate::support::till::SIGNATURE), &large).await.expect_problem(413, "payload_too_large");
    assert_eq!(shop.due().await, 0);
    // It says that the charge has succeeded. It has not: the provider is asked.
    let signed = Some(crate::support::till::SIGNATURE);
    assert_eq!(shop.webhook(signed, &told).await.status, 204);
    assert_eq!(shop.due().await, 1);
    shop.recover().await;
    assert_eq!(said(&shop.reservation(&pending["id"]).await), ("pending", "card", "pending"));
    // Once more is taken, and does nothing.
    assert_eq!(shop.webhook(signed, &told).await.status, 204);
    assert_eq!(shop.due().await, 0);
    shop.till.decide(attempt, Standing::Succeeded);
    assert_eq!(shop.webhook(signed, &event("evt_3", &attempt.to_string())).await.status, 204);
    shop.recover().await;
    assert_eq!(said(&shop.reservation(&pending["id"]).await), ("confirmed", "card", "succeeded"));
    // Late, of what is decided; of what is not ours; of what nobody knows.
    for told in [event("evt_4", &attempt.to_string()), event("evt_5", "none"), json!({"id": "evt_6", "type": "ping"})] {
        assert_eq!(shop.webhook(signed, &told).await.status, 204);
    }
    shop.webhook(signed, &json!({"type": "nameless"})).await.expect_problem(400, "malformed_json");
    assert_eq!((shop.due().await, shop.recover().await), (0, 0));
    shop.end().await;
}

/// Of an attempt that is being confirmed at this moment, a webhook must not make recovery cancel the intent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_webhook_does_not_cancel_what_is_under_way() {
    let shop = Shop::patient().await;
    let hold = shop.hold(&["A-1-1"]).await;
    shop.till.trouble(&[Question::Confirm], Trouble::Hold);
    let paying = shop.pay(&hold, VISA, "pay");
    let early = async {
        shop.till.wait_for_held().await;
        let told = event("evt_1", &shop.till.only().0.to_string());
        assert_eq!(shop.webhook(Some(crate::support::till::SIGNATURE), &told).await.status, 204);
        assert_eq!(shop.recover().await, 1);
        assert_eq!(shop.till.asked(Question::Cancel), 0);
        shop.till.let_go();
    };
    let (answer, ()) = tokio::join!(paying, early);
    assert_eq!(said(&answer.expect(201)), ("confirmed", "card", "succeeded"));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn points_are_charged_by_card_once() {
    let shop = Shop::new().await;
    let (api, buyer) = (&shop.api, &shop.buyer);
    let answer = charge(api, buyer, 50_000, VISA, "one").await;
    let bytes = answer.bytes.clone();
    let charged = answer.expect(201);
    assert_eq!((&charged["status"], &charged["balance"]), (&json!("succeeded"), &json!(50_000)));
    let repeat = charge(api, buyer, 50_000, VISA, "one").await;
    assert_eq!((repeat.header("idempotency-replayed"), &repeat.bytes), (Some("true"), &bytes));
    charge(api, buyer, 1_000_001, VISA, "much").await.expect_problem(422, "amount_out_of_range");
    charge(api, buyer, 1, "", "none").await.expect_problem(422, "invalid_body");
    let refusal = charge(api, buyer, 50_000, DECLINED, "two").await.expect_problem(402, "card_declined");
    assert_eq!(refusal["decline_code"], "card_declined");

    shop.till.trouble(&[Question::Confirm], Trouble::LoseReply);
    let pending = charge(api, buyer, 7, VISA, "three").await.expect(202);
    assert_eq!((&pending["status"], &pending["balance"]), (&json!("pending"), &json!(50_000)));
    shop.till.recover();
    assert_eq!(shop.recover().await, 1);
    assert_eq!(shop.read("/v1/me/points").await["balance"], 50_007);
    let entries = shop.read("/v1/me/points/entries").await;
    assert_eq!((&entries["items"][0]["reference"], &entries["items"][0]["kind"]), (&pending["id"], &json!("charge")));
    assert_eq!(charge(api, buyer, 7, VISA, "three").await.expect(202), pending);
    assert_eq!(shop.booked().await, 50_007);
    shop.end().await;
}

/// What was answered 202 is decided later: where the buyer reads how, and nobody else does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_charge_tells_how_it_ended() {
    let shop = Shop::new().await;
    let (api, buyer) = (&shop.api, &shop.buyer);
    let at = |charge: &Value| format!("/v1/me/points/charges/{}", text(&charge["id"]));
    let charged = charge(api, buyer, 50_000, VISA, "card").await.expect(201);
    assert_eq!(shop.read(&at(&charged)).await, charged);
    let without_card = at(&json!({"id": buyer.charge(api, 5).await}));
    let found = shop.read(&without_card).await;
    assert_eq!(
        (&found["status"], &found["amount"], &found["balance"]),
        (&json!("succeeded"), &json!(5), &json!(50_005))
    );

    let pending = charge(api, buyer, 7, "pm_card_processing", "slow").await.expect(202);
    assert_eq!((&pending["status"], &shop.read(&at(&pending)).await), (&json!("pending"), &pending));
    let (attempt, _) = shop.till.intents().into_iter().find(|(_, it)| it.standing == Standing::Processing).expect("it");
    shop.till.decide(attempt, Standing::Declined("insufficient_funds".to_owned()));
    assert_eq!(shop.recover().await, 1);
    let mut failed = pending.clone();
    failed["status"] = json!("failed");
    failed["decline_code"] = json!("insufficient_funds");
    assert_eq!(shop.read(&at(&pending)).await, failed);
    // The key goes on saying what it said.
    assert_eq!(charge(api, buyer, 7, "pm_card_processing", "slow").await.expect(202), pending);

    let other = Buyer::new(api).await;
    for path in [at(&charged), without_card, at(&pending), at(&json!({"id": Uuid::now_v7()}))] {
        api.get(&path).bearer(&other.token).send().await.expect_problem(404, "not_found");
    }
    // What came without a card is in the ledger, and not in the provider's books.
    assert_eq!(shop.booked().await, shop.till.kept() + 5);
    shop.world.assert_clean(&shop.one).await;
    shop.world.end(vec![shop.one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_charge_that_comes_late_has_its_limit_and_goes_back() {
    let shop = Shop::new().await;
    let (api, buyer) = (&shop.api, &shop.buyer);
    for n in 0..9 {
        charge(api, buyer, 1_000_000, VISA, &format!("charge {n}")).await.expect(201);
    }
    // Two at once, of which each is within the limit, but not both.
    let mut pending = Vec::new();
    for n in 0..2 {
        pending.push(charge(api, buyer, 1_000_000, "pm_card_processing", &format!("late {n}")).await.expect(202));
    }
    charge(api, buyer, 1_000_000, VISA, "in time").await.expect(201);
    charge(api, buyer, 1, VISA, "more").await.expect_problem(409, "balance_limit_exceeded");
    for (attempt, intent) in shop.till.intents() {
        if intent.standing == Standing::Processing {
            shop.till.decide(attempt, Standing::Succeeded);
        }
    }
    let said = async |status: &str| {
        for charge in &pending {
            let now = shop.read(&format!("/v1/me/points/charges/{}", text(&charge["id"]))).await;
            assert_eq!((&now["status"], &now["amount"]), (&json!(status), &json!(1_000_000)));
        }
    };
    assert_eq!(shop.recover().await, 2, "settled");
    said("refunding").await;
    assert_eq!(shop.recover().await, 2, "given back");
    said("refunded").await;
    assert_eq!(shop.read("/v1/me/points").await["balance"], 10_000_000);
    let refunds: u32 = shop.till.intents().values().map(|intent| intent.refunds).sum();
    assert_eq!((refunds, shop.booked().await, pending.len()), (2, 10_000_000, 2));
    shop.end().await;
}

/// Payments by card of one buyer within a minute.
const PER_USER: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_tries_one_card_after_the_other_is_told_to_wait() {
    let per_user = ("FRONTROW__LIMITS__CARD_PAYMENTS_PER_USER_PER_MINUTE", &*PER_USER.to_string());
    let shop = Shop::answering(&[SOON[0], SOON[1], SOON[2], per_user], &Plan::default()).await;
    let (api, buyer) = (&shop.api, &shop.buyer);
    let hold = shop.hold(&["A-1-1"]).await;
    let known = charge(api, buyer, 7, VISA, "known").await.expect(201);
    let mut tries = 1;
    let wait = loop {
        let before = shop.till.intents().len();
        let key = format!("try {tries}");
        // Holds and charges count together.
        let reply = match tries % 2 {
            0 => charge(api, buyer, 7, DECLINED, &key).await,
            _ => shop.pay(&hold, DECLINED, &key).await,
        };
        if reply.status == 429 {
            assert_eq!(shop.till.intents().len(), before, "the provider is not asked");
            break refused_by(reply, "card-payments-per-user", PER_USER);
        }
        reply.expect_problem(402, "card_declined");
        tries += 1;
        assert!(tries < 50 * PER_USER, "nobody is told to wait");
    };
    assert!(tries >= PER_USER, "refused after {tries}");
    // What took effect is answered as it was, however often it is asked for.
    for _ in 0..2 * PER_USER {
        let repeat = charge(api, buyer, 7, VISA, "known").await;
        assert_eq!(repeat.header("idempotency-replayed"), Some("true"));
        assert_eq!(repeat.expect(201), known);
    }
    // Nobody else has to wait, and this one no longer than was said; the repeats have used up what had come free.
    charge(api, &Buyer::new(api).await, 7, VISA, "other").await.expect(201);
    shop.world.advance(wait.max(Duration::from_mins(1)));
    assert_eq!(said(&shop.pay(&hold, VISA, "good").await.expect(201)), ("confirmed", "card", "succeeded"));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cards_are_tried_so_often_for_one_hold_and_no_more() {
    let often = ("FRONTROW__ATTEMPTS__PER_SUBJECT_MAX", "3");
    let shop = Shop::answering(&[SOON[0], SOON[1], SOON[2], often], &Plan { limit: 4, ..Plan::default() }).await;
    let hold = shop.hold(&["A-1-1"]).await;
    for n in 0..3 {
        shop.pay(&hold, DECLINED, &format!("try {n}")).await.expect_problem(402, "card_declined");
    }
    for key in ["another", "try 2"] {
        shop.pay(&hold, VISA, key).await.expect_problem(422, "payment_method_unavailable");
    }
    assert_eq!(shop.till.intents().len(), 3, "the provider is not asked");
    Buyer::endow(&shop.one.state, std::slice::from_ref(&shop.buyer), PRICE).await;
    shop.pay_with_points(&hold, "points").await.expect(201);
    // Other holds are another matter, and so is what was paid.
    let other = shop.hold_again(&["A-1-2"]).await;
    for n in 0..2 {
        shop.pay(&other, DECLINED, &format!("other {n}")).await.expect_problem(402, "card_declined");
    }
    let paid = shop.pay(&other, VISA, "paid").await.expect(201);
    assert_eq!(shop.pay(&other, VISA, "paid").await.expect(201), paid);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_provider_no_card_is_taken() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    let buyer = Buyer::new(&api).await;
    let pass = buyer.enter(&api, &sale).await;
    let hold = buyer.hold(&api, &sale.performances[0], &pass, &["A-1-1"]).await;
    pay(&api, &buyer, &hold, VISA, "pay").await.expect_problem(422, "payment_method_unavailable");
    charge(&api, &buyer, 1, VISA, "charge").await.expect_problem(422, "payment_method_unavailable");
    let forged = api.post("/v1/payments/webhooks").header("stripe-signature", "t=1,v1=00").json(&json!({"id": "evt"}));
    forged.send().await.expect_problem(400, "invalid_signature");
    world.end(vec![one]).await;
}

/// Recovery on several instances at once, the provider's webhooks and the buyer's repetitions: one outcome.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_who_settles_at_once_agrees() {
    let shop = Shop::with(&Plan { limit: 20, ..Plan::default() }).await;
    let two = shop.world.instance_paid_through(&shop.till, &SOON).await;
    let hold = shop.hold(&["A-1-1", "A-1-2", "A-1-3"]).await;
    shop.till.trouble(&[Question::Confirm], Trouble::LoseReply);
    let pending = shop.pay(&hold, VISA, "pay").await.expect(202);
    shop.till.recover();
    let attempt = shop.till.only().0.to_string();
    let signed = Some(crate::support::till::SIGNATURE);
    for round in 0..8 {
        let told = event(&format!("evt_{round}"), &attempt);
        let (first, second, hinted, repeat) = tokio::join!(
            recover(&shop.one.state.attempts),
            recover(&two.state.attempts),
            shop.webhook(signed, &told),
            shop.pay(&hold, VISA, "pay")
        );
        assert!(first.is_ok() && second.is_ok(), "round {round}");
        assert_eq!((hinted.status, repeat.status), (204, 202), "round {round}");
    }
    assert_eq!(said(&shop.reservation(&pending["id"]).await), ("confirmed", "card", "succeeded"));
    let events: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM outbox WHERE topic = 'reservation.confirmed'")
        .fetch_one(&mut shop.world.sql().await)
        .await
        .expect("a count");
    assert_eq!((events, shop.till.only().1.charges), (1, 1));
    two.stop().await;
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_provider_will_never_end_is_ended_by_hand() {
    let shop = Shop::new().await;
    let attempts = &shop.one.state.attempts;
    let hold = shop.hold(&["A-1-1"]).await;
    shop.till.trouble(&[Question::Confirm], Trouble::LoseRequest);
    let pending = shop.pay(&hold, VISA, "pay").await.expect(202);
    let open = attempts.list_open().await.expect("a list");
    assert_eq!((open.len(), open[0].status, open[0].intent.is_some()), (1, PaymentStatus::Pending, true));
    let by_hand = async |closed| attempts.close_by_hand(open[0].id, closed).await.expect("an answer");
    assert_eq!(by_hand(ClosedAs::Refunded).await, ByHand::NotOpen, "nothing is owed");
    shop.till.trouble(&[Question::Find], Trouble::LoseReply);
    assert_eq!(by_hand(ClosedAs::NotCharged).await, ByHand::Unanswered, "nobody knows");
    // The provider has lost its memory of it.
    shop.till.trouble(&[Question::Find, Question::Cancel], Trouble::Refuse);
    shop.recover().await;
    assert_eq!(shop.reservation(&pending["id"]).await["status"], "pending");
    assert_eq!(by_hand(ClosedAs::NotCharged).await, ByHand::Closed);
    assert_eq!(shop.reservation(&pending["id"]).await["status"], "cancelled");
    assert_eq!(by_hand(ClosedAs::NotCharged).await, ByHand::NotOpen, "once");

    // One that nobody confirmed is cancelled there, so that a confirmation on its way cannot charge it.
    shop.till.recover();
    shop.till.trouble(&[Question::Confirm], Trouble::LoseRequest);
    shop.pay(&hold, VISA, "unconfirmed").await.expect(202);
    shop.till.recover();
    let open = attempts.list_open().await.expect("a list");
    let by_hand = async |closed| attempts.close_by_hand(open[0].id, closed).await.expect("an answer");
    assert_eq!(by_hand(ClosedAs::NotCharged).await, ByHand::Closed);
    assert_eq!(shop.till.intents()[&open[0].id].standing, Standing::Cancelled);

    // One that was charged is not closed so, whoever thinks otherwise.
    shop.till.trouble(&[Question::Confirm], Trouble::LoseReply);
    let paid = shop.pay(&hold, VISA, "again").await.expect(202);
    shop.till.recover();
    let open = attempts.list_open().await.expect("a list");
    let by_hand = async |closed| attempts.close_by_hand(open[0].id, closed).await.expect("an answer");
    assert_eq!(by_hand(ClosedAs::NotCharged).await, ByHand::Contradicted, "it was charged");
    shop.recover().await;
    assert_eq!(shop.reservation(&paid["id"]).await["status"], "confirmed");
    assert_eq!(attempts.list_open().await.expect("a list").len(), 0);
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_payments_are_under_way_and_no_more() {
    let settings = [SOON[1], SOON[2], ("FRONTROW__ATTEMPTS__UNDER_WAY_MAX", "1")];
    let shop = Shop::answering(&settings, &Plan::default()).await;
    let (held, other) = (shop.hold(&["A-1-1"]).await, shop.hold(&["A-1-2"]).await);
    shop.till.trouble(&[Question::Create], Trouble::Hold);
    let meanwhile = async {
        shop.till.wait_for_held().await;
        shop.pay(&other, VISA, "too many").await.expect_problem(503, "payment_unavailable");
        shop.till.recover();
        shop.till.let_go();
    };
    let (paid, ()) = tokio::join!(shop.pay(&held, VISA, "first"), meanwhile);
    paid.expect(201);
    shop.end().await;
}
