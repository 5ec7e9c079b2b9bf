//! Webhooks of the sandbox, as a shop receives them: signed, repeated, out of order, forged, sent again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use bytes::Bytes;
use frontrow::payments::WEBHOOK_PATH;
use frontrow::payments::gateway::{Gateway as _, RefundStanding, Standing};
use frontrow::payments::signature::{self, BadSignature, Verifier};
use frontrow::platform::clock::Clock;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{AMOUNT, adapter, made, settings};
use crate::support::{Psp, eventually};

/// What came, and whether it was believed.
type Taken = (Result<(), BadSignature>, Value);

/// A shop that looks at signatures and keeps what it is told.
#[derive(Clone)]
struct Shop {
    verifier: Verifier,
    got: Arc<Mutex<Vec<Taken>>>,
    is_away: Arc<AtomicBool>,
}

impl Shop {
    async fn open(psp: &Psp) -> (Self, String) {
        let verifier = Verifier::configured(&settings(&psp.settings())).expect("good settings").expect("a provider");
        let shop = Self { verifier, got: Arc::default(), is_away: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let router = Router::new().route(WEBHOOK_PATH, post(take)).with_state(shop.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (shop, Psp::webhooks_of(&base))
    }

    /// What was believed, in the order in which it came.
    fn believed(&self) -> Vec<Value> {
        let got = self.got.lock().expect("no panic");
        got.iter().filter(|(outcome, _)| outcome.is_ok()).map(|(_, event)| event.clone()).collect()
    }

    fn refused(&self, why: BadSignature) -> Vec<Value> {
        let got = self.got.lock().expect("no panic");
        got.iter().filter(|(outcome, _)| *outcome == Err(why)).map(|(_, event)| event.clone()).collect()
    }
}

async fn take(State(shop): State<Shop>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if shop.is_away.load(Ordering::Acquire) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let header = headers.get(signature::HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let outcome = shop.verifier.verify(header, &body, Clock::default().now());
    let event = serde_json::from_slice(&body).expect("JSON");
    shop.got.lock().expect("no panic").push((outcome, event));
    if outcome.is_ok() { StatusCode::OK } else { StatusCode::BAD_REQUEST }
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().expect("a type")).collect()
}

#[tokio::test]
async fn everything_that_happens_is_told_with_a_signature() {
    let psp = Psp::start().await;
    let (shop, url) = Shop::open(&psp).await;
    psp.behave(json!({"processing_ms": 10, "webhooks": {"url": url}})).await;
    let stripe = adapter(&psp);
    let (paid, intent) = made(&stripe, "pm_card_visa").await;
    assert_eq!(stripe.confirm(&paid, &intent).await, Ok(Standing::Succeeded));
    assert_eq!(stripe.refund(paid.attempt, &intent, AMOUNT).await, Ok(RefundStanding::Succeeded));
    let (declined, other) = made(&stripe, "pm_card_chargeDeclined").await;
    drop(stripe.confirm(&declined, &other).await);
    let (cancelled, third) = made(&stripe, "pm_card_visa").await;
    drop(stripe.cancel(cancelled.attempt, &third).await);
    let (late, fourth) = made(&stripe, "pm_sandbox_processing_succeeds").await;
    assert_eq!(stripe.confirm(&late, &fourth).await, Ok(Standing::Processing));
    eventually("the late success", || async { (stripe.find(&fourth).await == Ok(Standing::Succeeded)).then_some(()) })
        .await;
    psp.quiet().await;
    let believed = shop.believed();
    let of = |id: &str| -> Vec<String> {
        let about = believed.iter().filter(|event| {
            let object = &event["data"]["object"];
            object["id"] == id || object["payment_intent"] == id
        });
        let mut kinds: Vec<String> = about.map(|event| event["type"].as_str().expect("a type").to_owned()).collect();
        kinds.sort_unstable();
        kinds
    };
    let paid_kinds =
        ["charge.refunded", "payment_intent.created", "payment_intent.succeeded", "refund.created", "refund.updated"];
    assert_eq!(of(&intent.0), paid_kinds);
    assert_eq!(of(&other.0), ["payment_intent.created", "payment_intent.payment_failed"]);
    assert_eq!(of(&third.0), ["payment_intent.canceled", "payment_intent.created"]);
    assert_eq!(of(&fourth.0), ["payment_intent.created", "payment_intent.processing", "payment_intent.succeeded"]);
    let success = believed.iter().find(|event| event["type"] == "payment_intent.succeeded").expect("a success");
    assert_eq!(success["data"]["object"]["metadata"]["attempt"], json!(paid.attempt.to_string()));
    let delivery = psp.books().await.webhooks;
    assert_eq!(
        (delivery["events"].clone(), delivery["delivered"].clone()),
        (json!(believed.len()), json!(believed.len()))
    );
}

#[tokio::test]
async fn webhooks_come_twice_out_of_order_and_forged() {
    let psp = Psp::start().await;
    let (shop, url) = Shop::open(&psp).await;
    let webhooks = json!({"url": url, "duplicate_rate": 1.0, "shuffle": true, "wrong_signature_rate": 1.0});
    psp.behave(json!({"webhooks": webhooks})).await;
    let stripe = adapter(&psp);
    let refund = async || {
        let (order, intent) = made(&stripe, "pm_card_visa").await;
        assert_eq!(stripe.confirm(&order, &intent).await, Ok(Standing::Succeeded));
        assert_eq!(stripe.refund(order.attempt, &intent, AMOUNT).await, Ok(RefundStanding::Succeeded));
    };
    join_all((0..30).map(|_| refund())).await;
    psp.quiet().await;
    let believed = shop.believed();
    let mut times: HashMap<&str, usize> = HashMap::new();
    for event in &believed {
        *times.entry(event["id"].as_str().expect("an id")).or_default() += 1;
    }
    assert_eq!(times.len(), 150, "created, succeeded, and three of each refund");
    assert!(times.values().all(|times| *times == 2), "{times:?}");
    // What happened in one moment, before and after, changed places for some of the refunds.
    let places = |kind: &str| {
        let of_kind = believed.iter().enumerate().filter(|(_, event)| event["type"] == kind);
        of_kind.map(|(at, event)| (event["data"]["object"]["id"].to_string(), at)).collect::<HashMap<_, _>>()
    };
    let (before, after) = (places("refund.created"), places("refund.updated"));
    assert_eq!((before.len(), after.len()), (30, 30));
    assert!(before.iter().any(|(refund, at)| after[refund] < *at), "{:?}", kinds(&believed));
    let lies = shop.refused(BadSignature::Wrong);
    assert_eq!(lies.len(), 120);
    for lie in ["payment_intent.payment_failed", "payment_intent.succeeded", "refund.failed"] {
        assert!(kinds(&lies).contains(&lie), "the opposite of what happened: {lie}");
    }
    let delivery = psp.books().await.webhooks;
    assert_eq!((delivery["forged"].clone(), delivery["forged_accepted"].clone()), (json!(120), json!(0)));
    assert_eq!((delivery["delivered"].clone(), delivery["given_up"].clone()), (json!(300), json!(0)));
}

#[tokio::test]
async fn a_shop_that_was_away_is_told_again() {
    let psp = Psp::start().await;
    let (shop, url) = Shop::open(&psp).await;
    shop.is_away.store(true, Ordering::Release);
    psp.behave(json!({"webhooks": {"url": url}})).await;
    let stripe = adapter(&psp);
    let (order, intent) = made(&stripe, "pm_card_visa").await;
    assert_eq!(stripe.confirm(&order, &intent).await, Ok(Standing::Succeeded));
    assert!(shop.believed().is_empty());
    assert_eq!(psp.books().await.webhooks["waiting"], 2);
    shop.is_away.store(false, Ordering::Release);
    psp.quiet().await;
    let mut told = shop.believed();
    told.sort_by_key(|event| event["type"].as_str().expect("a type").to_owned());
    assert_eq!(kinds(&told), ["payment_intent.created", "payment_intent.succeeded"]);
}

#[tokio::test]
async fn a_signature_of_another_time_is_stale() {
    let psp = Psp::start().await;
    let (shop, url) = Shop::open(&psp).await;
    let stripe = adapter(&psp);
    for hours in [-1, 1] {
        let ahead = hours * i64::try_from(Duration::from_hours(1).as_millis()).expect("small");
        psp.behave(json!({"webhooks": {"url": url, "clock_ahead_ms": ahead}})).await;
        drop(made(&stripe, "pm_card_visa").await);
    }
    eventually("two stale webhooks", || async {
        let stale = shop.refused(BadSignature::Stale);
        let different: std::collections::HashSet<String> = stale.iter().map(|event| event["id"].to_string()).collect();
        (different.len() == 2).then_some(())
    })
    .await;
    assert!(shop.believed().is_empty());
}
