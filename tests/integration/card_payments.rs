//! Paying by card, with a provider whose every answer the test decides: each answer to the buyer, each loss on the way, and
//! what recovery makes of it.

use std::sync::Arc;
use std::time::Duration;

use frontrow::payments::gateway::Standing;
use serde_json::{Value, json};

use crate::support::arena::{Plan, text};
use crate::support::till::{Question, Trouble};
use crate::support::{Api, Buyer, Instance, Reply, Sale, Till, World, eventually};

const VISA: &str = "pm_card_visa";
const DECLINED: &str = "pm_card_chargeDeclined";
const PRICE: i64 = 10_000;
/// Past the end of every hold.
const PAST_HOLD: Duration = Duration::from_secs(301);
/// Past the grace of every attempt.
const PAST_GRACE: Duration = Duration::from_secs(31);
/// Answers come soon, whether or not the provider does; recovery is called by the tests.
const SOON: [(&str, &str); 3] = [
    ("FRONTROW__ATTEMPTS__ANSWER_MS", "400"),
    ("FRONTROW__ATTEMPTS__RETRY_MS", "1"),
    ("FRONTROW__ATTEMPTS__RECOVERY_MS", "86400000"),
];

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
        let (world, till) = (World::new().await, Till::new());
        let one = world.instance_paid_through(&till, &SOON).await;
        let api = Api::over(&[&one]);
        let sale = Sale::new(&api, &one, plan).await;
        let buyer = Buyer::new(&api).await;
        let pass = buyer.enter(&api, &sale).await;
        Self { world, till, one, api, sale, buyer, pass }
    }

    async fn hold(&self, seats: &[&str]) -> String {
        self.buyer.hold(&self.api, &self.sale.performances[0], &self.pass, seats).await
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
        self.one.state.attempts.recover().await.expect("recovery")
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
