//! An instance is killed in the middle of a payment by card, and another one finds out what became of it: real processes, and the
//! sandbox provider over the network.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::arena::{Plan, text};
use crate::support::{Api, Buyer, Instance, Process, Psp, Reply, Sale, World, eventually};

const VISA: &str = "pm_card_visa";
const PAST_GRACE: Duration = Duration::from_secs(31);
/// Longer than a test lives.
const FOR_EVER_MS: u64 = 500_000;
/// Who is to be killed does not give up before.
const STUBBORN: [(&str, &str); 3] = [
    ("FRONTROW__ATTEMPTS__ANSWER_MS", "500000"),
    ("FRONTROW__PAYMENTS__TIMEOUT_MS", "500000"),
    ("FRONTROW__HTTP__REQUEST_TIMEOUT_MS", "500000"),
];

/// A process that will be killed, an instance that will not, and a buyer with a hold.
struct Scene {
    psp: Psp,
    world: World,
    survivor: Instance,
    victim: Process,
    /// Of the survivor.
    api: Api,
    buyer: Buyer,
    hold: String,
    paying: Option<tokio::task::JoinHandle<reqwest::Result<Reply>>>,
}

impl Scene {
    /// The buyer begins to pay on the victim, which meets this behaviour of the provider's.
    async fn begin(behaviour: Value) -> Self {
        let psp = Psp::start().await;
        let world = World::with(&psp.settings()).await;
        let survivor = world.instance().await;
        let api = Api::over(&[&survivor]);
        let sale = Sale::new(&api, &survivor, &Plan::default()).await;
        let buyer = Buyer::new(&api).await;
        let pass = buyer.enter(&api, &sale).await;
        let hold = buyer.hold(&api, &sale.performances[0], &pass, &["A-1-1"]).await;
        let (victim, base) = Process::serve(&world, &STUBBORN).await;
        psp.behave(behaviour).await;
        let (doomed, payer, of) = (Api::at(vec![base]), buyer.clone(), hold.clone());
        let paying = tokio::spawn(async move { try_to_pay(&doomed, &payer, &of, "pay").await });
        Self { psp, world, survivor, victim, api, buyer, hold, paying: Some(paying) }
    }

    /// Waits until the provider's books hold an intent with this status.
    async fn wait_for_intent(&self, status: &str) {
        eventually("the provider's books", || async {
            let books = self.psp.books().await;
            books.intents.iter().any(|intent| intent.status == status).then_some(())
        })
        .await;
    }

    /// Waits until the attempt's row is there, and says whether it has the provider's name for it.
    async fn wait_for_attempt(&self, has_name: bool) {
        eventually("the attempt", || async {
            let found: Option<bool> =
                sqlx::query_scalar("SELECT provider_id IS NOT NULL FROM payments WHERE state = 0")
                    .fetch_optional(&mut self.world.sql().await)
                    .await
                    .expect("a row or none");
            (found == Some(has_name)).then_some(())
        })
        .await;
    }

    /// `kill -9`, and the provider behaves well from then on.
    async fn kill(&mut self) {
        self.victim.kill();
        self.victim.end().await;
        let paying = self.paying.take().expect("begun");
        assert!(paying.await.expect("no panic").is_err(), "the buyer was answered by the dead");
        self.psp.behave_well().await;
    }

    /// What the buyer is told in the end, insisting with the same key.
    async fn insist(&self) -> Value {
        let answer = eventually("the payment to be decided", || async {
            let answer = try_to_pay(&self.api, &self.buyer, &self.hold, "pay").await.expect("an answer");
            (answer.status != 409).then_some(answer)
        })
        .await;
        answer.expect(201)
    }

    async fn end(self, paid: &Value, intents: usize) {
        assert_eq!(paid["status"], "confirmed");
        let path = format!("/v1/reservations/{}", text(&paid["id"]));
        assert_eq!(&self.api.get(&path).bearer(&self.buyer.token).send().await.expect(200), paid);
        let books = self.psp.books().await;
        assert_eq!((books.intents.len(), books.totals["succeeded"].as_u64()), (intents, Some(1)), "{books:?}");
        let booked = "SELECT CAST(-SUM(amount) AS SIGNED) FROM ledger_entries WHERE account = 1";
        let booked: i64 = sqlx::query_scalar(booked).fetch_one(&mut self.world.sql().await).await.expect("a sum");
        assert_eq!((booked, books.kept()), (10_000, 10_000));
        self.world.assert_clean(&self.survivor).await;
        self.world.end(vec![self.survivor]).await;
    }
}

async fn try_to_pay(api: &Api, buyer: &Buyer, hold: &str, key: &str) -> reqwest::Result<Reply> {
    let call = api.post(&format!("/v1/holds/{hold}/payment")).bearer(&buyer.token).key(key);
    call.json(&json!({"method": "card", "card_token": VISA})).try_send().await
}

/// Killed after the attempt was committed, before the provider has an intent that anybody knows: nothing was charged, and once the
/// grace is over the buyer's own repetition pays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_once_the_attempt_is_begun() {
    let mut scene = Scene::begin(json!({"hang_ms": FOR_EVER_MS, "operations": ["create"]})).await;
    scene.wait_for_attempt(false).await;
    scene.wait_for_intent("unconfirmed").await;
    scene.kill().await;
    let early = try_to_pay(&scene.api, &scene.buyer, &scene.hold, "pay").await.expect("an answer");
    early.expect_problem(409, "idempotency_key_in_flight");
    scene.world.advance(PAST_GRACE);
    let paid = scene.insist().await;
    scene.end(&paid, 2).await;
}

/// Killed when the intent is known, and its confirmation on its way: it is cancelled, and cannot be charged any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_once_the_intent_is_known() {
    let mut scene = Scene::begin(json!({"delay_ms": FOR_EVER_MS, "operations": ["confirm"]})).await;
    scene.wait_for_attempt(true).await;
    scene.kill().await;
    scene.world.advance(PAST_GRACE);
    let paid = scene.insist().await;
    let books = scene.psp.books().await;
    assert_eq!(books.totals["cancelled"].as_u64(), Some(1), "{books:?}");
    scene.end(&paid, 2).await;
}

/// Killed after the card was charged: the other instance finds that out, and the buyer has the seat.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_once_the_card_is_charged() {
    let mut scene = Scene::begin(json!({"hang_ms": FOR_EVER_MS, "operations": ["confirm"]})).await;
    scene.wait_for_intent("succeeded").await;
    scene.kill().await;
    scene.world.advance(PAST_GRACE);
    let paid = scene.insist().await;
    scene.end(&paid, 1).await;
}

/// The same, but the provider says so by a webhook, long before anybody would have asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_makes_recovery_quick() {
    let mut scene = Scene::begin(json!({"hang_ms": FOR_EVER_MS, "operations": ["confirm"]})).await;
    scene.wait_for_intent("succeeded").await;
    scene.kill().await;
    let intent = scene.psp.books().await.intents.remove(0);
    assert!(scene.api.get("/readyz").send().await.status == 200, "{intent:?}");
    // No clock is moved: without the webhook the grace would have to pass.
    let verifier = frontrow::payments::signature::Signer::new(&frontrow::platform::config::Secret::new(
        crate::support::psp::WEBHOOK_SECRET,
    ));
    let body = json!({"id": "evt_test", "type": "payment_intent.succeeded",
        "data": {"object": {"metadata": {"attempt": intent.attempt}}}})
    .to_string();
    let header = verifier.sign(body.as_bytes(), scene.survivor.state.clock.now());
    let call = scene.api.post("/v1/payments/webhooks").header("stripe-signature", &header);
    assert_eq!(call.raw("application/json", body).send().await.status, 204);
    let paid = scene.insist().await;
    scene.end(&paid, 1).await;
}
