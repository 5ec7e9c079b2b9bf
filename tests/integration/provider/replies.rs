//! Replies that no sandbox gives: of proxies, of providers in trouble, of nobody at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use frontrow::payments::gateway::{Gateway, GatewayError, IntentId, RefundStanding, Standing};
use frontrow::payments::stripe::Stripe;
use frontrow::platform::money::Money;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{assert_not_sent, assert_unknown, order, settings};
use crate::support::psp::KEY;

/// A provider that gives one answer to everything, written as it goes over the wire.
struct Scripted {
    base: String,
    asked: Arc<AtomicUsize>,
}

impl Scripted {
    async fn start(reply: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let (asked, reply) = (Arc::<AtomicUsize>::default(), Arc::new(reply));
        let counted = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, reply.clone(), counted.clone()));
            }
        });
        Self { base, asked }
    }

    fn adapter(&self) -> Stripe {
        let settings = settings(&[
            ("FRONTROW__PAYMENTS__BASE_URL", &self.base),
            ("FRONTROW__PAYMENTS__SECRET_KEY", KEY),
            ("FRONTROW__PAYMENTS__BREAKER_FAILURES", "3"),
            ("FRONTROW__PAYMENTS__BREAKER_PAUSE_MS", "600000"),
        ]);
        Stripe::configured(&settings).expect("good settings").expect("a provider")
    }
}

/// Reads one request to its end, answers it, and closes the connection.
async fn answer(mut stream: TcpStream, reply: Arc<Vec<u8>>, asked: Arc<AtomicUsize>) {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let Ok(read @ 1..) = stream.read(&mut buffer).await else { return };
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        if body.len() >= length {
            break;
        }
    }
    asked.fetch_add(1, Ordering::AcqRel);
    drop(stream.write_all(&reply).await);
    drop(stream.shutdown().await);
    // What the client still says is read, so that the answer is not lost by a reset.
    while let Ok(1..) = stream.read(&mut buffer).await {}
}

fn reply(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
        .into_bytes()
}

fn intent(id: &str, amount: i64, status: &str) -> Value {
    json!({"id": id, "object": "payment_intent", "amount": amount, "currency": "krw", "status": status,
        "metadata": {}, "last_payment_error": null})
}

fn error(kind: &str, code: &str) -> String {
    json!({"error": {"type": kind, "code": code, "message": "No."}}).to_string()
}

fn pi() -> IntentId {
    IntentId("pi_1".to_owned())
}

#[tokio::test]
async fn replies_that_leave_the_outcome_open_are_unknown() {
    let good = intent("pi_1", 500, "succeeded").to_string();
    let endless = format!("{{\"id\": \"{}\"}}", "a".repeat(300 * 1024));
    for (name, reply) in [
        (
            "the same key is at work",
            reply("409 Conflict", "", &error("invalid_request_error", "idempotency_key_in_use")),
        ),
        ("a failure inside", reply("500 Internal Server Error", "", &error("api_error", ""))),
        ("nobody behind the proxy", reply("503 Service Unavailable", "", "<html>busy</html>")),
        ("a refusal of the proxy's", reply("403 Forbidden", "", "<html>no</html>")),
        ("no JSON", reply("200 OK", "", "fine")),
        ("nothing", reply("200 OK", "", "")),
        ("another intent", reply("200 OK", "", &intent("pi_2", 500, "succeeded").to_string())),
        ("a status of tomorrow", reply("200 OK", "", &intent("pi_1", 500, "requires_patience").to_string())),
        ("too much", reply("200 OK", "", &endless)),
        ("a piece", reply("200 OK", "", &good).split_last_chunk::<20>().expect("a long reply").0.to_vec()),
        ("no HTTP", b"220 mail.example.com ESMTP\r\n".to_vec()),
        ("a redirection", reply("307 Temporary Redirect", "location: http://127.0.0.1:9/\r\n", "")),
    ] {
        let provider = Scripted::start(reply).await;
        let stripe = provider.adapter();
        let (paying, intent) = (order("pm_card_visa"), pi());
        for outcome in [
            stripe.confirm(&paying, &intent).await,
            stripe.find(&intent).await,
            stripe.cancel(paying.attempt, &intent).await,
        ] {
            // Three failures on the way open the breaker; the answers of a provider that is there do not.
            assert!(matches!(outcome, Err(GatewayError::Unknown(_))), "{name}: {outcome:?}");
        }
        assert_eq!(provider.asked.load(Ordering::Acquire), 3, "{name}: asked once each, and never by itself");
    }
}

#[tokio::test]
async fn who_is_turned_away_unread_has_done_nothing() {
    let provider =
        Scripted::start(reply("429 Too Many Requests", "", &error("invalid_request_error", "rate_limit"))).await;
    let stripe = provider.adapter();
    assert_not_sent(&stripe.create(&order("pm_card_visa")).await);
    assert_not_sent(&stripe.find(&pi()).await);
}

#[tokio::test]
async fn a_refusal_is_told_without_what_was_sent() {
    let headers = "request-id: req_7\r\n";
    let provider =
        Scripted::start(reply("401 Unauthorized", headers, &error("invalid_request_error", "api_key_expired"))).await;
    let stripe = provider.adapter();
    let refused = GatewayError::NotSent("401 invalid_request_error api_key_expired req_7".to_owned());
    for _ in 0..5 {
        assert_eq!(stripe.find(&pi()).await, Err(refused.clone()), "and the breaker stays closed: it answers");
    }
}

#[tokio::test]
async fn an_intent_of_another_amount_is_not_confirmed() {
    for (amount, currency) in [(501, "krw"), (500, "usd")] {
        let mut made = intent("pi_1", amount, "requires_confirmation");
        made["currency"] = json!(currency);
        let provider = Scripted::start(reply("200 OK", "", &made.to_string())).await;
        let refused = provider.adapter().create(&order("pm_card_visa")).await;
        assert!(matches!(refused, Err(GatewayError::Refused(_))), "{refused:?}");
    }
    let odd =
        Scripted::start(reply("200 OK", "", &intent("pi_1/../x", 500, "requires_confirmation").to_string())).await;
    assert_unknown(&odd.adapter().create(&order("pm_card_visa")).await);
    // Such a name is not asked for either.
    let refused = odd.adapter().find(&IntentId("pi_1/../x".to_owned())).await;
    assert!(matches!(refused, Err(GatewayError::Refused(_))), "{refused:?}");
    assert_eq!(odd.asked.load(Ordering::Acquire), 1);
}

#[tokio::test]
async fn money_that_the_bank_took_back_is_for_a_person_to_look_at() {
    let provider =
        Scripted::start(reply("400 Bad Request", "", &error("invalid_request_error", "charge_disputed"))).await;
    let refunded = provider.adapter().refund(order("pm_card_visa").attempt, &pi(), Money(500)).await;
    assert_eq!(refunded, Ok(RefundStanding::Failed));
}

#[tokio::test]
async fn what_is_not_there_any_more_is_an_answer() {
    let provider =
        Scripted::start(reply("404 Not Found", "", &error("invalid_request_error", "resource_missing"))).await;
    let found = provider.adapter().find(&pi()).await;
    assert_eq!(found, Err(GatewayError::Refused("404 invalid_request_error resource_missing".to_owned())));
    let succeeded = Scripted::start(reply("200 OK", "", &intent("pi_1", 500, "succeeded").to_string())).await;
    assert_eq!(succeeded.adapter().find(&pi()).await, Ok(Standing::Succeeded));
}
