//! Properties: whatever the body, whatever the headers, the answer is a documented one.
//!
//! Bodies are good ones that were changed at one to three places; headers hold any bytes that a header may hold. The same
//! cases are tried each time; `PROPTEST_CASES` (256 here) and `PROPTEST_RNG_SEED` try more and others.

use std::future::Future;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use reqwest::header::HeaderValue;
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::support::Reply;
use crate::support::contract::{Operation, Site, operations, percent_encoded};

/// Any JSON, a few levels deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3_i64..1_000_001).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| serde_json::Number::from_f64(number).map_or(Value::Null, Value::Number)),
        any::<String>().prop_map(Value::from),
        vec(any::<char>(), 0..300).prop_map(|chars| Value::from(String::from_iter(chars))),
        any::<i64>()
            .prop_map(|secs| chrono::DateTime::from_timestamp(secs % 300_000_000_000, 0)
                .map_or(Value::Null, |time| json!(time))),
        any::<[u8; 16]>().prop_map(|bytes| Value::from(uuid::Uuid::from_bytes(bytes).to_string())),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::Array),
            vec((any::<String>(), inner), 0..6).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// What happens to one place of a good body.
#[derive(Clone, Debug)]
enum Change {
    Put(Value),
    Remove,
    Add(String, Value),
    Repeat(usize),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => any_json().prop_map(Change::Put),
        1 => Just(Change::Remove),
        1 => (any::<String>(), any_json()).prop_map(|(name, value)| Change::Add(name, value)),
        1 => (2_usize..200).prop_map(Change::Repeat),
    ]
}

/// Changes the place that `choice` leads to: at each level a child, or the level itself.
fn apply(value: &mut Value, choice: &[u8], change: Change) {
    let Some((first, rest)) = choice.split_first() else { return change_here(value, change) };
    let at = |len: usize| usize::from(*first) % (len + 1);
    match value {
        Value::Object(members) if at(members.len()) < members.len() => {
            let name = members.keys().nth(at(members.len())).expect("one of them").clone();
            match (rest, &change) {
                ([], Change::Remove) => drop(members.remove(&name)),
                _ => apply(&mut members[&name], rest, change),
            }
        }
        Value::Array(items) if at(items.len()) < items.len() => {
            let index = at(items.len());
            apply(&mut items[index], rest, change);
        }
        here => change_here(here, change),
    }
}

fn change_here(value: &mut Value, change: Change) {
    match (change, value) {
        (Change::Put(other), here) => *here = other,
        (Change::Remove, here) => *here = Value::Null,
        (Change::Add(name, other), Value::Object(members)) => drop(members.insert(name, other)),
        (Change::Add(name, other), here) => *here = Value::Object(Map::from_iter([(name, other)])),
        (Change::Repeat(times), here) => *here = Value::Array(vec![here.clone(); times]),
    }
}

fn runner() -> TestRunner {
    let seed = match Config::default().rng_seed {
        RngSeed::Random => RngSeed::Fixed(7),
        chosen @ RngSeed::Fixed(_) => chosen,
    };
    TestRunner::new(Config { rng_seed: seed, failure_persistence: None, max_shrink_iters: 500, ..Config::default() })
}

/// Tries the cases of `strategy`, one after the other.
fn try_all<S: Strategy, F>(strategy: &S, ask: impl Fn(S::Value) -> F)
where
    F: Future<Output = Result<(), TestCaseError>>,
{
    let outcome = runner().run(strategy, |case| block_in_place(|| Handle::current().block_on(ask(case))));
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, case)) => panic!("{reason}\nwith {case:?}"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

/// As [`Operation::assert_documented`], without ending the test: a smaller case is looked for.
fn is_documented(operation: &Operation, reply: &Reply) -> Result<(), TestCaseError> {
    let (name, text) = (operation.name(), String::from_utf8_lossy(&reply.bytes));
    prop_assert!(reply.status < 500, "{name}: {} {text}", reply.status);
    prop_assert!(operation.documents(reply.status), "{name} does not document {}: {text}", reply.status);
    if reply.status >= 400 {
        prop_assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{}", name);
        prop_assert_eq!(reply.body["status"].as_u64(), Some(reply.status.into()), "{}", name);
        prop_assert_eq!(reply.body["request_id"].as_str(), reply.header("x-request-id"), "{}", name);
        prop_assert!(reply.body["code"].is_string() && reply.body["detail"].is_string(), "{name}: {text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_body_gets_a_documented_answer() {
    let site = Site::new().await;
    let operations = operations(&site.api).await;
    let takers: Vec<&Operation> = operations.iter().filter(|operation| operation.takes_body()).collect();
    let changes = vec((vec(any::<u8>(), 1..6), change()), 1..4);
    try_all(&(0..takers.len(), changes), |(index, changes)| {
        let (site, operation) = (&site, takers[index]);
        async move {
            let mut body = site.body(operation).expect("a body");
            for (choice, change) in changes {
                apply(&mut body, &choice, change);
            }
            // What is larger than the server takes says nothing about its fields.
            if body.to_string().len() > site.instance.state.config.http.body_bytes_max {
                return Ok(());
            }
            is_documented(operation, &site.call(operation).json(&body).send().await)
        }
    });
    site.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_text_as_a_body_gets_a_documented_answer() {
    let site = Site::new().await;
    let operations = operations(&site.api).await;
    let takers: Vec<&Operation> = operations.iter().filter(|operation| operation.takes_body()).collect();
    // A good body with a few bytes put in place of others: often almost JSON.
    let edits = vec((any::<prop::sample::Index>(), any::<u8>()), 0..8);
    try_all(&(0..takers.len(), edits, any::<Option<prop::sample::Index>>()), |(index, edits, end)| {
        let (site, operation) = (&site, takers[index]);
        async move {
            let mut text = site.body(operation).expect("a body").to_string().into_bytes();
            for (place, byte) in edits {
                let place = place.index(text.len());
                text[place] = byte;
            }
            if let Some(end) = end {
                text.truncate(end.index(text.len()));
            }
            is_documented(operation, &site.call(operation).raw("application/json", text).send().await)
        }
    });
    site.end().await;
}

/// Any bytes that the protocol lets a header hold.
fn header_value() -> impl Strategy<Value = Vec<u8>> {
    let bytes =
        prop_oneof![vec(any::<u8>(), 0..300), vec(32_u8..127, 0..300), any::<String>().prop_map(String::into_bytes)];
    bytes.prop_filter("a header cannot hold it", |bytes| HeaderValue::from_bytes(bytes).is_ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_header_gets_a_documented_answer() {
    const NAMES: [&str; 12] = [
        "Authorization",
        "Queue-Ticket",
        "Queue-Pass",
        "Idempotency-Key",
        "Content-Type",
        "X-Request-Id",
        "If-None-Match",
        "Accept",
        "Accept-Encoding",
        "Accept-Language",
        "traceparent",
        "X-Forwarded-For",
    ];
    let site = Site::new().await;
    let operations: Vec<Operation> =
        operations(&site.api).await.into_iter().filter(|operation| !operation.ends_session()).collect();
    try_all(&(0..operations.len(), 0..NAMES.len(), header_value(), any::<bool>()), |(index, name, value, twice)| {
        let (site, operation, name) = (&site, &operations[index], NAMES[name]);
        async move {
            let mut call = site.call_at(operation, &site.path(operation), &[name]);
            if let Some(body) = site.body(operation) {
                let text = body.to_string();
                call = if name == "Content-Type" { call.body(text) } else { call.raw("application/json", text) };
            }
            for _ in 0..=u8::from(twice) {
                call = call.bytes_header(name, &value);
            }
            is_documented(operation, &call.send().await)
        }
    });
    site.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_address_gets_a_documented_answer() {
    let site = Site::new().await;
    let operations: Vec<Operation> =
        operations(&site.api).await.into_iter().filter(|operation| !operation.ends_session()).collect();
    let pairs = vec(
        (prop_oneof![Just("limit"), Just("cursor"), Just("status"), Just("q"), Just("section")], any::<Vec<u8>>()),
        0..4,
    );
    try_all(&(0..operations.len(), any::<Option<Vec<u8>>>(), pairs), |(index, id, pairs)| {
        let (site, operation) = (&site, &operations[index]);
        async move {
            let path = match id.filter(|id| !id.is_empty() && operation.takes_id()) {
                Some(id) => operation.path.replace("{id}", &percent_encoded(&id)),
                None => site.path(operation),
            };
            let query: Vec<String> =
                pairs.iter().map(|(name, value)| format!("{name}={}", percent_encoded(value))).collect();
            let mut call = site.call_at(operation, &format!("{path}?{}", query.join("&")), &[]);
            if let Some(body) = site.body(operation) {
                call = call.json(&body);
            }
            is_documented(operation, &call.send().await)
        }
    });
    site.end().await;
}
