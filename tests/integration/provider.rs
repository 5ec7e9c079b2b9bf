//! The card provider's adapter against the sandbox, a real process: whatever the sandbox does, the adapter tells what is
//! known from what is not, and asking again finds out. The sandbox's own books say what happened to the money.

use std::time::Duration;

use frontrow::app::config::Config;
use frontrow::payments::gateway::{Gateway, GatewayError, IntentId, Order, RefundStanding, Standing};
use frontrow::payments::stripe::Stripe;
use frontrow::payments::{PaymentId, Settings};
use frontrow::platform::config::Secret;
use frontrow::platform::money::Money;
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Psp, eventually};

mod process;
mod replies;
mod webhooks;

const AMOUNT: Money = Money(500);

/// `[payments]` with these settings over the defaults.
pub fn settings(extra: &[(&str, &str)]) -> Settings {
    let variables = extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::from_variables(None, variables).expect("settings").payments
}

/// An adapter to the sandbox, with these settings besides.
fn adapter_with(psp: &Psp, extra: &[(&str, &str)]) -> Stripe {
    let all: Vec<(&str, &str)> = psp.settings().into_iter().chain(extra.iter().copied()).collect();
    Stripe::configured(&settings(&all)).expect("good settings").expect("a provider")
}

fn adapter(psp: &Psp) -> Stripe {
    adapter_with(psp, &[("FRONTROW__PAYMENTS__BREAKER_FAILURES", "1000000")])
}

pub fn order(card: &str) -> Order {
    Order { attempt: PaymentId::new(), amount: AMOUNT, card_token: Secret::new(card) }
}

/// An order and its intent.
async fn made(stripe: &Stripe, card: &str) -> (Order, IntentId) {
    let order = order(card);
    let (intent, standing) = stripe.create(&order).await.expect("an intent");
    assert_eq!(standing, Standing::Unconfirmed);
    (order, intent)
}

#[track_caller]
fn assert_unknown<T: std::fmt::Debug>(outcome: &Result<T, GatewayError>) {
    assert!(matches!(outcome, Err(GatewayError::Unknown(_))), "{outcome:?}");
}

#[track_caller]
fn assert_not_sent<T: std::fmt::Debug>(outcome: &Result<T, GatewayError>) {
    assert!(matches!(outcome, Err(GatewayError::NotSent(_))), "{outcome:?}");
}

#[tokio::test]
async fn everything_can_be_said_twice_and_is_done_once() {
    let psp = Psp::start().await;
    let stripe = adapter(&psp);
    let (order, intent) = made(&stripe, "pm_card_visa").await;
    assert_eq!(psp.books().await.totals["charged"], 0, "an intent moves no money");
    for _ in 0..2 {
        assert_eq!(stripe.confirm(&order, &intent).await, Ok(Standing::Succeeded));
    }
    // What is repeated tells how it stands now, not how it stood then.
    assert_eq!(stripe.create(&order).await, Ok((intent.clone(), Standing::Succeeded)));
    assert_eq!(stripe.find(&intent).await, Ok(Standing::Succeeded));
    for _ in 0..2 {
        assert_eq!(stripe.cancel(order.attempt, &intent).await, Ok(Standing::Succeeded), "too late");
    }
    for _ in 0..2 {
        assert_eq!(stripe.refund(order.attempt, &intent, AMOUNT).await, Ok(RefundStanding::Succeeded));
    }
    let books = psp.books().await;
    assert_eq!((books.totals["intents"].clone(), books.totals["refunds"].clone()), (json!(1), json!(1)));
    let booked = &books.by_attempt()[&order.attempt.to_string()];
    assert_eq!((booked.amount, booked.refunded, booked.status.as_str()), (500, 500, "succeeded"));
    assert_eq!((booked.id.clone(), books.kept()), (intent.0, 0));
}

#[tokio::test]
async fn a_refused_card_is_told_by_its_code_and_charged_nothing() {
    let psp = Psp::start().await;
    let stripe = adapter(&psp);
    for (card, code) in [
        ("pm_card_chargeDeclined", "card_declined"),
        ("pm_card_chargeDeclinedInsufficientFunds", "insufficient_funds"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card"),
        ("pm_card_authenticationRequired", "authentication_required"),
    ] {
        let (order, intent) = made(&stripe, card).await;
        let declined = Standing::Declined(code.to_owned());
        assert_eq!(stripe.confirm(&order, &intent).await, Ok(declined.clone()));
        assert_eq!(stripe.confirm(&order, &intent).await, Ok(declined.clone()), "said again");
        assert_eq!(stripe.find(&intent).await, Ok(declined.clone()));
        assert_eq!(stripe.create(&order).await, Ok((intent.clone(), declined)));
        let refund = stripe.refund(order.attempt, &intent, AMOUNT).await;
        assert!(matches!(refund, Err(GatewayError::Refused(_))), "{refund:?}");
        assert_eq!(stripe.cancel(order.attempt, &intent).await, Ok(Standing::Cancelled));
    }
    let unknown = stripe.create(&order("pm_card_of_nobody")).await;
    let Err(GatewayError::Refused(why)) = unknown else { panic!("{unknown:?}") };
    assert!(why.contains("resource_missing") && !why.contains("nobody"), "{why}");
    assert_eq!((psp.books().await.totals["charged"].clone(), psp.books().await.kept()), (json!(0), 0));
}

#[tokio::test]
async fn an_intent_that_waits_for_the_cards_holder_is_called_off() {
    let psp = Psp::start().await;
    let stripe = adapter(&psp);
    let (order, intent) = made(&stripe, "pm_card_authenticationRequired").await;
    // As somebody would confirm it who can bring the holder to a page.
    let path = format!("/v1/payment_intents/{}/confirm", intent.0);
    let (status, shown) = psp.ask(Method::POST, &path, None).await;
    assert_eq!((status, shown["status"].as_str()), (200, Some("requires_action")));
    let declined = Standing::Declined("authentication_required".to_owned());
    assert_eq!(stripe.create(&order).await, Ok((intent.clone(), declined)));
    assert_eq!(stripe.find(&intent).await, Ok(Standing::Cancelled), "and stays so");
    assert_eq!(stripe.confirm(&order, &intent).await, Ok(Standing::Cancelled));
    assert_eq!(psp.books().await.totals["charged"], 0);
}

#[tokio::test]
async fn after_a_lost_reply_the_truth_is_found() {
    let psp = Psp::start().await;
    let stripe = adapter(&psp);
    let order = order("pm_card_visa");
    let lose = async |rate: &str| psp.behave(json!({rate: 1.0})).await;
    // Nothing was done, or it was and nobody was told: the adapter cannot know which.
    lose("drop_request_rate").await;
    assert_unknown(&stripe.create(&order).await);
    lose("drop_reply_rate").await;
    assert_unknown(&stripe.create(&order).await);
    psp.behave_well().await;
    let (intent, standing) = stripe.create(&order).await.expect("the intent that was made");
    assert_eq!((standing, psp.books().await.totals["intents"].clone()), (Standing::Unconfirmed, json!(1)));
    lose("drop_request_rate").await;
    assert_unknown(&stripe.confirm(&order, &intent).await);
    psp.behave_well().await;
    assert_eq!(stripe.find(&intent).await, Ok(Standing::Unconfirmed));
    lose("drop_reply_rate").await;
    assert_unknown(&stripe.confirm(&order, &intent).await);
    assert_unknown(&stripe.find(&intent).await);
    psp.behave_well().await;
    assert_eq!(stripe.find(&intent).await, Ok(Standing::Succeeded));
    lose("drop_reply_rate").await;
    assert_unknown(&stripe.refund(order.attempt, &intent, AMOUNT).await);
    psp.behave_well().await;
    assert_eq!(psp.books().await.kept(), 0);
    assert_eq!(stripe.refund(order.attempt, &intent, AMOUNT).await, Ok(RefundStanding::Succeeded));
    let (other, second) = made(&stripe, "pm_card_visa").await;
    lose("drop_reply_rate").await;
    assert_unknown(&stripe.cancel(other.attempt, &second).await);
    psp.behave_well().await;
    assert_eq!(stripe.cancel(other.attempt, &second).await, Ok(Standing::Cancelled));
    let books = psp.books().await;
    assert_eq!((books.totals["charged"].clone(), books.totals["refunds"].clone()), (json!(500), json!(1)));
}

/// A failure inside is saved under the key, before or after the effect, and would be said for ever.
#[tokio::test]
async fn a_failure_that_the_provider_saved_is_got_over() {
    let psp = Psp::start().await;
    let stripe = adapter(&psp);
    let (mut charged, mut uncharged) = (0, 0);
    for seed in 0..12 {
        let fail = async || psp.behave(json!({"error_rate": 1.0, "seed": seed})).await;
        let (paying, intent) = made(&stripe, "pm_card_visa").await;
        let (calling_off, open) = made(&stripe, "pm_card_visa").await;
        let never_made = order("pm_card_visa");
        fail().await;
        assert_unknown(&stripe.create(&never_made).await);
        assert_unknown(&stripe.cancel(calling_off.attempt, &open).await);
        fail().await;
        assert_unknown(&stripe.confirm(&paying, &intent).await);
        psp.behave_well().await;
        let refused = stripe.create(&never_made).await;
        assert!(matches!(refused, Err(GatewayError::Refused(_))), "{refused:?}");
        assert_eq!(stripe.cancel(calling_off.attempt, &open).await, Ok(Standing::Cancelled));
        match stripe.confirm(&paying, &intent).await {
            Ok(Standing::Succeeded) => {
                charged += 1;
                fail().await;
                assert_unknown(&stripe.refund(paying.attempt, &intent, AMOUNT).await);
                psp.behave_well().await;
                let refunded = stripe.refund(paying.attempt, &intent, AMOUNT).await;
                assert_eq!(refunded, Ok(RefundStanding::Succeeded));
            }
            Ok(Standing::Unconfirmed) => {
                uncharged += 1;
                assert_eq!(stripe.cancel(paying.attempt, &intent).await, Ok(Standing::Cancelled));
            }
            other => panic!("{other:?}"),
        }
    }
    let books = psp.books().await;
    let money = (books.totals["charged"].as_i64(), books.totals["refunded"].as_i64());
    assert_eq!(money, (Some(charged * 500), Some(charged * 500)), "each is given back once");
    assert!(charged > 0 && uncharged > 0, "both before and after the effect: {charged}, {uncharged}");
}

#[tokio::test]
async fn the_bank_may_take_its_time() {
    let psp = Psp::start().await;
    let stripe = adapter(&psp);
    for (succeeds, expected) in [(true, Standing::Succeeded), (false, Standing::Declined("card_declined".to_owned()))] {
        let (order, intent) = made(&stripe, "pm_sandbox_processing").await;
        assert_eq!(stripe.confirm(&order, &intent).await, Ok(Standing::Processing));
        assert_eq!(stripe.find(&intent).await, Ok(Standing::Processing));
        assert_eq!(stripe.cancel(order.attempt, &intent).await, Ok(Standing::Processing), "it cannot be called off");
        psp.decide(&intent.0, succeeds).await;
        assert_eq!(stripe.find(&intent).await, Ok(expected.clone()));
        assert_eq!(stripe.confirm(&order, &intent).await, Ok(expected));
        // The refusal of a moment ago is saved under the key; what counts is how it stands now.
        let cancelled = if succeeds { Standing::Succeeded } else { Standing::Cancelled };
        assert_eq!(stripe.cancel(order.attempt, &intent).await, Ok(cancelled));
    }
    for (card, expected) in [
        ("pm_sandbox_processing_succeeds", Standing::Succeeded),
        ("pm_sandbox_processing_fails", Standing::Declined("card_declined".to_owned())),
    ] {
        psp.behave(json!({"processing_ms": 20})).await;
        let (order, intent) = made(&stripe, card).await;
        assert_eq!(stripe.confirm(&order, &intent).await, Ok(Standing::Processing));
        eventually("the bank's decision", || async {
            (stripe.find(&intent).await == Ok(expected.clone())).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn refunds_that_take_their_time_or_fail_are_told_apart() {
    let psp = Psp::start().await;
    let stripe = adapter(&psp);
    psp.behave(json!({"processing_ms": 20})).await;
    for (card, expected) in
        [("pm_card_pendingRefund", RefundStanding::Succeeded), ("pm_card_refundFail", RefundStanding::Failed)]
    {
        let (order, intent) = made(&stripe, card).await;
        assert_eq!(stripe.confirm(&order, &intent).await, Ok(Standing::Succeeded));
        assert_eq!(stripe.refund(order.attempt, &intent, AMOUNT).await, Ok(RefundStanding::Pending));
        eventually("the refund to be decided", || async {
            let standing = stripe.refund(order.attempt, &intent, AMOUNT).await.expect("a standing");
            assert!(standing == expected || standing == RefundStanding::Pending, "{standing:?}");
            (standing == expected).then_some(())
        })
        .await;
    }
    let books = psp.books().await;
    assert_eq!((books.totals["refunded"].clone(), books.totals["refunds_failed"].clone()), (json!(500), json!(1)));
    // Keys are forgotten some day, and the money was given back by hand meanwhile: it is not given back twice.
    let (order, intent) = made(&stripe, "pm_card_visa").await;
    assert_eq!(stripe.confirm(&order, &intent).await, Ok(Standing::Succeeded));
    assert_eq!(stripe.refund(PaymentId::new(), &intent, AMOUNT).await, Ok(RefundStanding::Succeeded));
    assert_eq!(stripe.refund(order.attempt, &intent, AMOUNT).await, Ok(RefundStanding::Succeeded));
    assert_eq!(psp.books().await.totals["refunded"], 1000);
}

async fn late<T>(turns: u64, call: impl Future<Output = T>) -> T {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
    call.await
}

/// Whatever the order in which the provider sees them, both sides agree on what became of the money.
#[tokio::test]
async fn a_cancellation_and_a_late_confirmation_agree() {
    let psp = Psp::start().await;
    let stripe = adapter(&psp);
    let mut seen = [0, 0];
    for round in 0..60_u64 {
        let (order, intent) = made(&stripe, "pm_card_visa").await;
        let (confirm, cancel) = (stripe.confirm(&order, &intent), stripe.cancel(order.attempt, &intent));
        let (confirmed, cancelled) = match round {
            0 => {
                let cancelled = cancel.await;
                (confirm.await, cancelled)
            }
            1 => (confirm.await, cancel.await),
            _ if round % 2 == 0 => tokio::join!(late(round, confirm), cancel),
            _ => tokio::join!(confirm, late(round, cancel)),
        };
        let found = stripe.find(&intent).await.expect("a standing");
        assert!(matches!(found, Standing::Succeeded | Standing::Cancelled), "{found:?}");
        assert_eq!((confirmed, cancelled), (Ok(found.clone()), Ok(found.clone())));
        seen[usize::from(found == Standing::Succeeded)] += 1;
    }
    let books = psp.books().await;
    assert_eq!(books.totals["charged"], 500 * seen[1]);
    assert!(seen[0] > 0 && seen[1] > 0, "each of them was first at least once: {seen:?}");
}

#[tokio::test]
async fn many_at_once_with_one_attempt_charge_once() {
    let psp = Psp::start().await;
    let stripe = adapter(&psp);
    psp.behave(json!({"delay_ms": 30})).await;
    let order = order("pm_card_visa");
    let one = async || {
        let (intent, _) = stripe.create(&order).await?;
        stripe.confirm(&order, &intent).await
    };
    let outcomes = join_all((0..20).map(|_| one())).await;
    for outcome in &outcomes {
        // Whoever meets the same call under way is told that nothing is known yet.
        assert!(matches!(outcome, Ok(Standing::Succeeded) | Err(GatewayError::Unknown(_))), "{outcome:?}");
    }
    let books = psp.books().await;
    let (intents, charged) = (&books.totals["intents"], &books.totals["charged"]);
    assert_eq!(*intents, 1);
    assert!(*charged == 500 || (*charged == 0 && outcomes.iter().all(Result::is_err)), "{charged}");
}

#[tokio::test]
async fn a_provider_that_hangs_is_left_alone_and_asked_again_later() {
    let psp = Psp::start().await;
    let short = [
        ("FRONTROW__PAYMENTS__TIMEOUT_MS", "1000"),
        ("FRONTROW__PAYMENTS__CONNECT_TIMEOUT_MS", "900"),
        ("FRONTROW__PAYMENTS__BREAKER_FAILURES", "3"),
    ];
    let patient =
        adapter_with(&psp, &[short[0], short[1], short[2], ("FRONTROW__PAYMENTS__BREAKER_PAUSE_MS", "600000")]);
    let brief = adapter_with(&psp, &[short[0], short[1], short[2], ("FRONTROW__PAYMENTS__BREAKER_PAUSE_MS", "50")]);
    let (paying, intent) = made(&adapter(&psp), "pm_card_visa").await;
    psp.behave(json!({"hang_ms": 60_000})).await;
    assert_unknown(&patient.confirm(&paying, &intent).await);
    join_all([&patient, &brief].iter().flat_map(|stripe| (0..3).map(|_| stripe.find(&intent)))).await;
    let before = psp.books().await.calls["received"].clone();
    for _ in 0..50 {
        assert_not_sent(&patient.find(&intent).await);
    }
    assert_eq!(psp.books().await.calls["received"], before, "the provider is not troubled");
    // The charge was made although its reply never came, and a probe closes the breaker once the provider answers.
    psp.behave_well().await;
    let found = eventually("the breaker to close", || async {
        let found = brief.find(&intent).await;
        assert!(!matches!(found, Err(GatewayError::Refused(_))), "{found:?}");
        found.ok()
    })
    .await;
    assert_eq!(found, Standing::Succeeded);
    assert_not_sent(&patient.find(&intent).await);
}

#[tokio::test]
async fn no_more_calls_are_under_way_than_allowed() {
    let psp = Psp::start().await;
    let bounds = [("FRONTROW__PAYMENTS__PARALLEL_MAX", "3"), ("FRONTROW__PAYMENTS__WAIT_MS", "30")];
    let slow = [("FRONTROW__PAYMENTS__TIMEOUT_MS", "120000"), ("FRONTROW__PAYMENTS__CONNECT_TIMEOUT_MS", "5000")];
    let stripe = adapter_with(&psp, &[bounds[0], bounds[1], slow[0], slow[1]]);
    let (_, intent) = made(&stripe, "pm_card_visa").await;
    psp.behave(json!({"hang_ms": 60_000})).await;
    let held: Vec<_> = (0..3)
        .map(|_| {
            let (stripe, intent) = (stripe.clone(), intent.clone());
            tokio::spawn(async move { stripe.find(&intent).await })
        })
        .collect();
    eventually("three calls to hang", || async { (psp.books().await.calls["hung"] == 3).then_some(()) }).await;
    for _ in 0..5 {
        assert_not_sent(&stripe.find(&intent).await);
    }
    assert_eq!(psp.books().await.calls["hung"], 3);
    // A caller who does not wait any longer gives the place back.
    held.iter().for_each(tokio::task::JoinHandle::abort);
    join_all(held).await;
    psp.behave_well().await;
    assert_eq!(stripe.find(&intent).await, Ok(Standing::Unconfirmed));
}

#[tokio::test]
async fn where_nobody_listens_nothing_was_sent() {
    let psp = Psp::start().await;
    let stripe = adapter(&psp);
    let (order, intent) = made(&stripe, "pm_card_visa").await;
    psp.kill().await;
    // This one may still be written to a connection whose end nobody has noticed.
    assert!(stripe.find(&intent).await.is_err());
    assert_not_sent(&stripe.create(&order).await);
    assert_not_sent(&stripe.confirm(&order, &intent).await);
    assert_not_sent(&stripe.refund(order.attempt, &intent, AMOUNT).await);
}

#[tokio::test]
async fn without_a_provider_there_are_no_cards_and_bad_settings_are_refused() {
    assert!(Stripe::configured(&settings(&[])).expect("the defaults").is_none());
    let good = [
        ("FRONTROW__PAYMENTS__BASE_URL", "https://api.stripe.com"),
        ("FRONTROW__PAYMENTS__SECRET_KEY", "sk_test_4kGq9ZpXv2LmN8sTbW3cRdYe"),
    ];
    assert!(Stripe::configured(&settings(&good)).expect("good settings").is_some());
    for (name, value) in [
        ("base_url", "api.stripe.com"),
        ("secret_key", "sk_test"),
        ("parallel_max", "0"),
        ("timeout_ms", "2000"),
        ("connect_timeout_ms", "0"),
        ("breaker_failures", "0"),
    ] {
        let variable = format!("FRONTROW__PAYMENTS__{}", name.to_uppercase());
        let refused = Stripe::configured(&settings(&[good[0], good[1], (&variable, value)]));
        let told = refused.expect_err(name).to_string();
        assert!(told.starts_with(&format!("payments.{name}: ")), "{told}");
    }
}

/// A share of everything goes wrong; whoever goes on asking gets through, and the books agree with what was told.
#[tokio::test]
async fn everybody_gets_through_a_provider_that_misbehaves() {
    let psp = Psp::start().await;
    let stripe = adapter(&psp);
    psp.behave(json!({"decline_rate": 0.2, "drop_request_rate": 0.1, "drop_reply_rate": 0.1, "error_rate": 0.1,
        "delay_ms": 2, "seed": 11}))
        .await;
    let pay = async |card: &str| -> (Order, Option<Standing>) {
        let order = order(card);
        let intent = loop {
            match stripe.create(&order).await {
                Ok((intent, _)) => break intent,
                Err(GatewayError::Refused(_)) => return (order, None),
                Err(_) => {}
            }
        };
        drop(stripe.confirm(&order, &intent).await);
        for _ in 0..200 {
            match stripe.find(&intent).await {
                Ok(Standing::Unconfirmed) => drop(stripe.cancel(order.attempt, &intent).await),
                Ok(standing) => return (order, Some(standing)),
                Err(_) => {}
            }
        }
        panic!("the provider never says what became of {intent:?}");
    };
    let paid = join_all((0..150).map(|_| pay("pm_card_visa"))).await;
    psp.behave_well().await;
    let books = psp.books().await;
    let by_attempt = books.by_attempt();
    let mut told: i64 = 0;
    for (order, standing) in &paid {
        let booked = by_attempt.get(&order.attempt.to_string()).map_or("none", |booked| booked.status.as_str());
        let is_right = match standing {
            None => matches!(booked, "none" | "unconfirmed"),
            Some(Standing::Succeeded) => booked == "succeeded",
            Some(Standing::Declined(_)) => booked == "declined",
            Some(Standing::Cancelled) => booked == "cancelled",
            Some(other) => panic!("{other:?}"),
        };
        assert!(is_right, "told {standing:?}, booked {booked}");
        told += if *standing == Some(Standing::Succeeded) { 500 } else { 0 };
    }
    assert_eq!(books.totals["charged"].as_i64(), Some(told));
    assert!(told > 0 && books.calls["dropped_replies"].as_u64() > Some(10), "{:?}", books.calls);
    assert!(books.calls["errors"].as_u64() > Some(10) && books.totals["declined"].as_u64() > Some(5), "{books:?}");
}

/// Chance repeats itself: the same seed, the same calls, the same faults.
#[tokio::test]
async fn a_seeded_run_can_be_repeated() {
    let psp = Psp::start().await;
    let stripe = adapter(&psp);
    let mut runs = Vec::new();
    for seed in [5, 5, 6] {
        psp.behave(json!({"decline_rate": 0.4, "drop_reply_rate": 0.2, "error_rate": 0.2, "seed": seed})).await;
        let mut run = Vec::new();
        for _ in 0..40 {
            let order = order("pm_card_visa");
            let outcome = match stripe.create(&order).await {
                Ok((intent, _)) => format!("{:?}", stripe.confirm(&order, &intent).await),
                Err(error) => error.to_string(),
            };
            let told = outcome.split("req_").next().unwrap_or_default().to_owned();
            run.push(told);
        }
        runs.push(run);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2], "another seed, another run");
}

#[tokio::test]
async fn the_books_are_read_in_pages() {
    let psp = Psp::start().await;
    let stripe = adapter(&psp);
    let made = join_all((0..25).map(|_| made(&stripe, "pm_card_visa"))).await;
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let (_, page) = psp.ask(Method::GET, &format!("/sandbox/books?after={after}&limit=10"), None).await;
        let ids = page["intents"].as_array().expect("intents").iter().map(|intent| intent["id"].clone());
        seen.extend(ids.collect::<Vec<Value>>());
        assert_eq!(page["totals"]["intents"], 25, "the totals are of everything");
        match page["next_after"].as_u64() {
            Some(next) => after = next,
            None => break,
        }
    }
    let mut expected: Vec<Value> = made.iter().map(|(_, intent)| json!(intent.0)).collect();
    let key = |value: &Value| value.to_string();
    seen.sort_by_key(key);
    expected.sort_by_key(key);
    assert_eq!(seen, expected);
    let (status, _) = psp.ask(Method::POST, "/sandbox/behaviour", Some(json!({"error_rate": 2}))).await;
    assert_eq!(status, 400);
    let unknown = reqwest::Client::new().get(format!("{}/sandbox/books", psp.base)).bearer_auth("sk_test_other");
    assert_eq!(unknown.timeout(Duration::from_mins(1)).send().await.expect("an answer").status(), 401);
}
