//! Hostile input: every operation of the API document is sent what no well-behaved client sends, and answers each with
//! a documented problem.
//!
//! The operations come from `/openapi.json` itself ([`operations`]), what they need from a [`Site`] that refuses
//! operations it does not know, so a new one is tried as well or fails these tests.

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::contract::{Operation, Site, operations, percent_encoded};
use crate::support::{Reply, Wire, World};

const JSON: &str = "application/json";

/// Text that means something to whoever forgets to escape it.
const INJECTIONS: [&str; 14] = [
    "' OR '1'='1' -- ",
    "\"; DROP TABLE users; --",
    "1); SELECT SLEEP(5); --",
    "%' AND 1=0 UNION SELECT password_hash FROM users -- ",
    "\\'; /* */ \u{0}",
    "]] redis.call('FLUSHALL') --[[",
    "\r\n*1\r\n$8\r\nFLUSHALL\r\n",
    "<script>alert(1)</script>",
    "{{7*7}}${7*7}#{7*7}",
    "$(reboot) `reboot` | reboot",
    "../../../../etc/passwd",
    "\u{202e}\u{feff}\u{200d}👩‍👩‍👧‍👦\u{0301}",
    "%s%n%x {} {0} %00",
    "Queue-Pass: x\r\nX-Admin: true",
];

fn sample(text: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&text[..text.len().min(80)]).into_owned();
    format!("{shown:?} ({} bytes)", text.len())
}

/// Nothing is sent but the announcement, which is enough.
async fn announce(site: &Site, operation: &Operation, length: usize) -> Reply {
    let (method, path, token) = (&operation.method, site.path(operation), site.token(operation));
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {token}\r\ncontent-type: {JSON}\r\n\
         content-length: {length}\r\n\r\n"
    );
    let mut wire = Wire::to(&site.instance.base).await;
    wire.send(&head).await;
    wire.reply().await.expect("an answer").into_reply()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_over_the_limit_are_refused_wherever_they_are_sent() {
    const LIMIT: usize = 20_000;
    let world = World::with(&[("FRONTROW__HTTP__BODY_BYTES_MAX", &LIMIT.to_string())]).await;
    let site = Site::in_world(world).await;
    // With or without a use for a body.
    let operations = operations(&site.api).await;
    let announced = join_all(operations.iter().map(|operation| announce(&site, operation, LIMIT + 1))).await;
    for (operation, reply) in operations.iter().zip(&announced) {
        operation.assert_refused(reply, 413, "payload_too_large", "an announcement");
        // Who sends all of it gets the answer as well, and not a broken connection.
        for length in [LIMIT + 1, 3 * LIMIT] {
            let (reply, sent) = send_body(&site, operation, JSON, vec![b' '; length]).await;
            operation.assert_refused(&reply, 413, "payload_too_large", &sent);
        }
        if operation.is_signed_in() {
            let call = site.call_at(operation, &site.path(operation), &["Authorization"]);
            let reply = call.raw(JSON, vec![b' '; LIMIT]).send().await;
            operation.assert_refused(&reply, 401, "unauthenticated", "a large body of nobody's");
        }
    }
    site.end().await;
}

async fn send_body(site: &Site, operation: &Operation, media: &str, body: Vec<u8>) -> (Reply, String) {
    let sent = format!("{media} {}", sample(&body));
    (site.call(operation).raw(media, body).send().await, sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_no_json_are_refused() {
    let site = Site::new().await;
    let deep = "[".repeat(100_000);
    let malformed: [&[u8]; 16] = [
        b"",
        b" ",
        b"{",
        b"{]",
        b"\0",
        b"\xff\xfe",
        b"{\"a\": \"\xc3\x28\"}",
        b"nul",
        b"'a'",
        b"{\"a\": 01}",
        b"{\"a\": NaN}",
        b"{\"a\": 1e999}",
        br#"{"a": "\ud800"}"#,
        b"{} {}",
        b"\xef\xbb\xbf{}",
        deep.as_bytes(),
    ];
    for operation in operations(&site.api).await.iter().filter(|operation| operation.takes_body()) {
        for body in malformed {
            let (reply, sent) = send_body(&site, operation, JSON, body.to_vec()).await;
            // What has another shape may be refused before the text is read to its end.
            if reply.status == 422 && body.starts_with(b"{") || body.starts_with(b"[") {
                operation.assert_refused(&reply, 422, "invalid_body", &sent);
            } else {
                operation.assert_refused(&reply, 400, "malformed_json", &sent);
            }
        }
        let body = site.body(operation).expect("a body").to_string().into_bytes();
        for media in
            ["text/plain", "application/xml", "multipart/form-data; boundary=x", "application", "/", "json", ""]
        {
            let (reply, sent) = send_body(&site, operation, media, body.clone()).await;
            operation.assert_refused(&reply, 415, "unsupported_media_type", &sent);
        }
        let silent = site.call(operation).bytes_header("content-type", b"\xff/json").send().await;
        operation.assert_refused(&silent, 415, "unsupported_media_type", "a type that is not text");
        let packed = site.call(operation).header("content-encoding", "gzip").raw(JSON, &b"\x1f\x8b\x08\x00"[..]);
        operation.assert_refused(&packed.send().await, 400, "malformed_json", "a compressed body");
        let limit = site.instance.state.config.http.body_bytes_max;
        let (reply, sent) = send_body(&site, operation, JSON, vec![b' '; limit]).await;
        operation.assert_refused(&reply, 400, "malformed_json", &sent);
    }
    site.end().await;
}

/// Values that a field might be sent in place of a good one.
fn extremes() -> Vec<Value> {
    let mut values = vec![
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(1e308),
        json!(i64::MIN),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(4_294_967_296_u64),
        json!(""),
        json!(" "),
        json!("\0"),
        json!("\u{7f}"),
        json!("🎫"),
        json!("x".repeat(100_000)),
        json!("é".repeat(50_000)),
        json!([]),
        json!({}),
        json!([[]]),
        json!(vec![0; 100_000]),
        json!({"id": 1}),
        json!("9999-12-31T23:59:59Z"),
        json!("1969-12-31T23:59:59Z"),
        json!("2016-12-31T23:59:60Z"),
        json!("0001-01-01T00:00:00Z"),
        json!("+12345-01-01T00:00:00Z"),
        json!("2030-02-30T00:00:00Z"),
        json!(Uuid::nil()),
        json!(Uuid::max()),
        json!(Uuid::now_v7().simple().to_string()),
        (0..100).fold(json!(1), |inner, _| json!([inner])),
    ];
    values.extend(INJECTIONS.iter().map(|text| json!(text)));
    values
}

/// The members' values alone: what a struct could be read from if nobody looked.
fn positional(value: &Value) -> Option<Value> {
    let members = value.as_object()?;
    Some(members.values().cloned().collect())
}

/// Pointers to each value inside, the whole left out.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(name, child)| (name.clone(), child)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(index, child)| (index.to_string(), child)).collect(),
        _ => Vec::new(),
    };
    for (name, child) in children {
        let place = format!("{at}/{name}");
        places(child, &place, found);
        found.push(place);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_of_any_value_are_taken_or_refused() {
    let site = Site::new().await;
    let (extremes, mut sent_count) = (extremes(), 0);
    for operation in operations(&site.api).await.iter().filter(|operation| operation.takes_body()) {
        let good = site.body(operation).expect("a body");
        for value in &extremes {
            if !value.is_object() {
                let reply = site.call(operation).json(value).send().await;
                operation.assert_refused(&reply, 422, "invalid_body", &sample(value.to_string().as_bytes()));
            }
        }
        let mut found = Vec::new();
        places(&good, "", &mut found);
        for place in found {
            for value in &extremes {
                let mut body = site.body(operation).expect("a body");
                *body.pointer_mut(&place).expect("a value") = value.clone();
                let reply = site.call(operation).json(&body).send().await;
                operation.assert_documented(&reply, &format!("{place} = {}", sample(value.to_string().as_bytes())));
                sent_count += 1;
            }
        }
    }
    assert!(sent_count > 1_000, "only {sent_count} bodies");
    site.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_are_unknown_missing_or_double_are_refused() {
    let site = Site::new().await;
    for operation in operations(&site.api).await.iter().filter(|operation| operation.takes_body()) {
        let good = site.body(operation).expect("a body");
        let mut found = vec![String::new()];
        places(&good, "", &mut found);
        for place in found {
            if let Some(array) = good.pointer(&place).and_then(positional) {
                let mut without_names = good.clone();
                *without_names.pointer_mut(&place).expect("a value") = array;
                let reply = site.call(operation).json(&without_names).send().await;
                operation.assert_refused(&reply, 422, "invalid_body", &format!("an array in place of {place:?}"));
            }
            let mut unknown = good.clone();
            if let Some(members) = unknown.pointer_mut(&place).and_then(Value::as_object_mut) {
                members.insert("role".to_owned(), json!("operator"));
                let reply = site.call(operation).json(&unknown).send().await;
                operation.assert_refused(&reply, 422, "invalid_body", &format!("an unknown member of {place:?}"));
            }
        }
        let members = good.as_object().expect("an object");
        for (name, value) in members {
            let text = good.to_string();
            let doubled = format!("{{{}:{value},{}", json!(name), &text[1..]);
            let reply = site.call(operation).raw(JSON, doubled).send().await;
            operation.assert_refused(&reply, 422, "invalid_body", &format!("{name} twice"));
            let mut without = good.clone();
            without.as_object_mut().expect("an object").remove(name);
            let reply = site.call(operation).json(&without).send().await;
            operation.assert_documented(&reply, &format!("no {name}"));
        }
        // A change without a change is one; everything else has something that it cannot do without.
        let empty = site.call(operation).json(&json!({})).send().await;
        if operation.method == Method::PATCH {
            assert_eq!(empty.status, 200, "{}: {}", operation.name(), empty.body);
        } else {
            operation.assert_refused(&empty, 422, "invalid_body", "{}");
        }
    }
    site.end().await;
}

/// What stands in the address, as it is sent.
fn bad_ids() -> Vec<String> {
    let id = Uuid::now_v7();
    let mut ids: Vec<String> =
        ["7", "null", "me", "%00", "%ff", "%C3%28", "%F0%9F%8E%AB", "%7Bid%7D", "..%2f..%2fme", "%2e%2e"]
            .map(str::to_owned)
            .into();
    ids.extend([
        format!("{id}x"),
        format!("{id}%20"),
        format!("%20{id}"),
        format!("{id}%00"),
        id.simple().to_string(),
        format!("%7B{id}%7D"),
        format!("urn:uuid:{id}"),
        id.to_string().replace('0', "%C2%B2"),
        "1".repeat(20_000),
        format!("{id}%2f{id}"),
        format!("{id};a=b"),
        format!("-{id}"),
        "'%20OR%201=1%20--%20".to_owned(),
        "%3Cscript%3Ealert(1)%3C%2Fscript%3E".to_owned(),
        "%0d%0aX-Injected:%201".to_owned(),
    ]);
    ids
}

/// Sends an address as it is, which no well-behaved client does, and reads the answer.
async fn wire(site: &Site, operation: &Operation, target: &str) -> Reply {
    let body = site.body(operation).map_or_else(String::new, |body| body.to_string());
    let token = site.token(operation);
    let (method, key, length) = (&operation.method, Uuid::new_v4(), body.len());
    let Site { ticket, pass, .. } = site;
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {token}\r\nqueue-ticket: {ticket}\r\n\
         queue-pass: {pass}\r\nidempotency-key: {key}\r\ncontent-type: {JSON}\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let mut wire = Wire::to(&site.instance.base).await;
    wire.send(&head).await;
    wire.reply().await.expect("an answer").into_reply()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_with_bad_ids_are_refused() {
    let site = Site::new().await;
    for operation in operations(&site.api).await.iter().filter(|operation| operation.takes_id()) {
        for id in bad_ids() {
            let reply = wire(&site, operation, &operation.path.replace("{id}", &id)).await;
            operation.assert_refused(&reply, 422, "invalid_parameter", &id);
            assert_eq!(reply.body["errors"][0]["field"], "id", "{}", reply.body);
            assert!(reply.header("x-injected").is_none());
        }
        // These lead elsewhere: to nothing, or to what has another method.
        for id in ["", "../../me/x", "/", "a/b/c"] {
            let reply = wire(&site, operation, &operation.path.replace("{id}", id)).await;
            assert!(matches!(reply.status, 404 | 405 | 422), "{} at {id}: {}", operation.name(), reply.status);
            let code = reply.body["code"].as_str().expect("a code").to_owned();
            reply.clone().expect_problem(reply.status, &code);
        }
    }
    site.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_query_parameters_are_refused() {
    let site = Site::new().await;
    let deep = "WyJbW1tbW1tbW1tb";
    let cursors = [
        "",
        "!",
        "nonsense",
        "bnVsbA",
        "e30",
        "W10",
        "LTE",
        "MS41",
        "IjAi",
        "bm8",
        deep,
        "%00",
        "%ff",
        &"A".repeat(8_000),
    ];
    let limits =
        ["0", "101", "-1", "abc", "", "1.5", "1e1", "0x10", "99999999999999999999", "%00", "%F0%9F%8E%AB", "5&limit=5"];
    let (mut refused, mut harmless) = (0, 0);
    for operation in operations(&site.api).await.iter().filter(|operation| !operation.ends_session()) {
        let path = site.path(operation);
        for (name, values) in [("limit", &limits[..]), ("cursor", &cursors[..])] {
            for value in values.iter().filter(|_| operation.takes(name)) {
                let reply = wire(&site, operation, &format!("{path}?{name}={value}")).await;
                operation.assert_refused(&reply, 422, "invalid_parameter", &format!("{name}={value}"));
                assert_eq!(reply.body["errors"][0]["field"], name, "{value}: {}", reply.body);
                refused += 1;
            }
        }
        if operation.takes("status") {
            for value in ["lost", "", "OPEN", "%00", "open&status=open"] {
                let reply = wire(&site, operation, &format!("{path}?status={value}")).await;
                operation.assert_refused(&reply, 422, "invalid_parameter", &format!("status={value}"));
            }
        }
        // What no operation knows harms none.
        for query in
            ["limit[]=1", "%00", "%ff=%ff", "&&==&", "a=1&a=2", "?", "q=%25%5f%27%22%5c", "section=%00&grade=%27--"]
        {
            let reply = wire(&site, operation, &format!("{path}?{query}")).await;
            operation.assert_documented(&reply, query);
            harmless += 1;
        }
    }
    assert!(refused > 100 && harmless > 200, "{refused} and {harmless}");
    for text in INJECTIONS {
        let query = form(&[("q", text), ("status", "open")]);
        let found = site.api.get(&format!("/v1/concerts?{query}")).send().await.expect(200);
        assert_eq!(found["items"], json!([]), "{text}");
    }
    let long = form(&[("q", &"가".repeat(101))]);
    site.api.get(&format!("/v1/concerts?{long}")).send().await.expect_problem(422, "invalid_parameter");
    site.end().await;
}

/// A query of these pairs.
fn form(pairs: &[(&str, &str)]) -> String {
    let pairs = pairs.iter().map(|(name, value)| format!("{name}={}", percent_encoded(value.as_bytes())));
    pairs.collect::<Vec<String>>().join("&")
}
