//! The sandbox as a process: what it keeps under a key, how it starts and ends, and that `services` brings one.

use futures::future::join_all;
use reqwest::{Client, Response};
use serde_json::{Value, json};

use crate::support::psp::{KEY, WEBHOOK_SECRET};
use crate::support::world::server;
use crate::support::{Process, Psp};

const INTENTS: &str = "/v1/payment_intents";

async fn create(psp: &Psp, key: &str, amount: &str) -> Response {
    let form =
        [("amount", amount), ("currency", "krw"), ("payment_method", "pm_card_visa"), ("metadata[attempt]", key)];
    let request = Client::new().post(format!("{}{INTENTS}", psp.base)).basic_auth(KEY, Some("")).form(&form);
    request.header("idempotency-key", key).send().await.expect("an answer")
}

fn is_replayed(response: &Response) -> bool {
    response.headers().get("idempotent-replayed").is_some_and(|value| value == "true")
}

#[tokio::test]
async fn a_key_stands_for_one_call_and_its_bytes() {
    let psp = Psp::start().await;
    let first = create(&psp, "k1", "500").await;
    assert!(first.status() == 200 && !is_replayed(&first));
    let first = first.bytes().await.expect("its bytes");
    let confirm = format!(
        "{INTENTS}/{}/confirm",
        serde_json::from_slice::<Value>(&first).expect("JSON")["id"].as_str().expect("an id")
    );
    assert_eq!(psp.ask(reqwest::Method::POST, &confirm, None).await.0, 200);
    // The same bytes, although the intent has gone on meanwhile.
    let again = create(&psp, "k1", "500").await;
    assert!(again.status() == 200 && is_replayed(&again));
    assert_eq!(again.bytes().await.expect("its bytes"), first);
    let other = create(&psp, "k1", "501").await;
    assert_eq!((other.status().as_u16(), is_replayed(&other)), (400, false));
    let body: Value = other.json().await.expect("JSON");
    assert_eq!(body["error"]["type"], "idempotency_error");
    // What was refused before anything was begun does not use its key up.
    assert_eq!(create(&psp, "k2", "0").await.status(), 400);
    assert_eq!(create(&psp, "k2", "7").await.status(), 200);
    assert_eq!(psp.books().await.totals["intents"], 2);
}

#[tokio::test]
async fn the_same_key_at_the_same_time_is_one_call() {
    let psp = Psp::start().await;
    psp.behave(json!({"delay_ms": 100})).await;
    let statuses = join_all((0..10).map(|_| create(&psp, "k1", "500"))).await;
    let count = |status: u16| statuses.iter().filter(|response| response.status() == status).count();
    assert!(count(200) >= 1 && count(200) + count(409) == 10, "{statuses:?}");
    assert_eq!(psp.books().await.totals["intents"], 1);
}

#[tokio::test]
async fn a_misspelt_parameter_and_an_unknown_address_are_refused() {
    let psp = Psp::start().await;
    let ask = async |path: &str, form: &[(&str, &str)]| {
        let request = Client::new().post(format!("{}{path}", psp.base)).bearer_auth(KEY).form(form);
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        (status, response.json::<Value>().await.expect("JSON")["error"]["code"].clone())
    };
    let good = [("amount", "5"), ("currency", "krw")];
    assert_eq!(
        ask(INTENTS, &[good[0], good[1], ("payment_methd", "pm_card_visa")]).await,
        (400, json!("parameter_unknown"))
    );
    assert_eq!(ask(INTENTS, &good[..1]).await, (400, json!("parameter_missing")));
    assert_eq!(ask(INTENTS, &[("amount", "5"), ("currency", "usd")]).await.0, 400);
    assert_eq!(ask("/v1/payment_intents/pi_none/confirm", &[]).await, (404, json!("resource_missing")));
    assert_eq!(ask("/v1/charges", &[]).await.0, 404);
    assert_eq!(psp.books().await.totals["intents"], 0);
}

#[tokio::test]
async fn it_ends_in_good_order_whatever_is_under_way() {
    let psp = Psp::start().await;
    psp.behave(json!({"delay_ms": 600_000, "webhooks": {"url": "http://127.0.0.1:9/"}})).await;
    let hanging = tokio::spawn({
        let (base, client) = (psp.base.clone(), Client::new());
        async move { client.get(format!("{base}{INTENTS}/pi_1")).bearer_auth(KEY).send().await.is_ok() }
    });
    crate::support::eventually("a call under way", || async {
        (psp.books().await.calls["received"] == 1).then_some(())
    })
    .await;
    assert_eq!(psp.end().await, Some(0));
    assert!(!hanging.await.expect("no panic"));
}

#[tokio::test]
async fn it_says_what_it_needs() {
    let secret = ("FRONTROW_PSP_WEBHOOK_SECRET", WEBHOOK_SECRET);
    for (arguments, variables, expected) in [
        (&["psp"][..], &[secret][..], "--key or FRONTROW_PSP_KEY is needed"),
        (&["psp", "--key", KEY][..], &[][..], "--webhook-secret or FRONTROW_PSP_WEBHOOK_SECRET is needed"),
        (&["psp", "--key", KEY][..], &[secret, ("FRONTROW_PSP_SEED", "x")][..], "FRONTROW_PSP_SEED is a number"),
        (&["psp", "--key", KEY, "--addr", "192.0.2.1:1"][..], &[secret][..], "cannot listen on 192.0.2.1:1"),
    ] {
        let mut process = Process::alone(arguments, variables);
        assert_eq!(process.end().await, Some(1), "{arguments:?}");
        assert!(process.output().contains(expected), "{}", process.output());
    }
    let given = [
        "psp",
        "--key",
        KEY,
        "--webhook-secret",
        WEBHOOK_SECRET,
        "--webhook-url",
        "http://127.0.0.1:9/",
        "--seed",
        "3",
    ];
    let process = Process::alone(&given, &[]);
    process.wait_for("ready http://127.0.0.1:").await;
}

/// The servers of a test run are started by `frontrow services`.
#[tokio::test]
async fn services_bring_a_sandbox() {
    let [base, key] = ["BASE_URL", "SECRET_KEY"].map(|name| server(&format!("FRONTROW__PAYMENTS__{name}")));
    assert!(server("FRONTROW__PAYMENTS__WEBHOOK_SECRET").starts_with("whsec_"));
    let books = Client::new().get(format!("{base}/sandbox/books")).bearer_auth(key).send().await.expect("an answer");
    assert_eq!(books.status(), 200);
    let behaviour: Value = Client::new()
        .get(format!("{base}/sandbox/behaviour"))
        .bearer_auth(server("FRONTROW__PAYMENTS__SECRET_KEY"))
        .send()
        .await
        .expect("an answer")
        .json()
        .await
        .expect("JSON");
    assert_eq!(behaviour["webhooks"]["url"], "http://127.0.0.1:8080/v1/payments/webhooks");
}
