//! Hostile headers, methods and addresses: every operation of the API document is called with what proxies mangle and
//! attackers try.

use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::support::contract::{Operation, Site, operations};
use crate::support::{Call, Reply, Wire};

fn with_body<'a>(site: &Site, operation: &Operation, call: Call<'a>) -> Call<'a> {
    match site.body(operation) {
        Some(body) => call.json(&body),
        None => call,
    }
}

/// Calls with these bytes in place of a header's good value.
async fn send(site: &Site, operation: &Operation, name: &str, value: &[u8]) -> Reply {
    let call = site.call_at(operation, &site.path(operation), &[name]).bytes_header(name, value);
    with_body(site, operation, call).send().await
}

fn said(name: &str, value: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&value[..value.len().min(60)]).into_owned();
    format!("{name}: {shown:?} ({} bytes)", value.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_access_tokens_are_nobodys() {
    let site = Site::new().await;
    let token = site.owner.token.clone();
    let long = format!("Bearer {}", "A".repeat(20_000));
    let cut = format!("Bearer {}", &token[..token.len() - 2]);
    let more = format!("Bearer {token}AAAA");
    let padded = format!("Bearer {token}==");
    let basic = format!("Basic {token}");
    let two = format!("Bearer {token}, Bearer {token}");
    let (ticket, pass) = (format!("Bearer {}", site.ticket), format!("Bearer {}", site.pass));
    let values: [&[u8]; 20] = [
        b"",
        b" ",
        b"Bearer",
        b"Bearer ",
        b"Bearer x",
        b"Bearer null",
        b"Bearer ' OR 1=1 --",
        b"Bearer \xff\xfe\x80",
        b"\xff",
        b"Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.",
        b"Bearer\ttoken",
        b"Digest username=\"a\"",
        long.as_bytes(),
        cut.as_bytes(),
        more.as_bytes(),
        padded.as_bytes(),
        basic.as_bytes(),
        two.as_bytes(),
        ticket.as_bytes(),
        pass.as_bytes(),
    ];
    for operation in operations(&site.api).await.iter().filter(|operation| operation.is_signed_in()) {
        for value in values {
            let reply = send(&site, operation, "Authorization", value).await;
            operation.assert_refused(&reply, 401, "unauthenticated", &said("Authorization", value));
            assert!(reply.header("www-authenticate").is_some_and(|how| how.starts_with("Bearer")));
        }
        let call = site.call_at(operation, &site.path(operation), &["Authorization"]);
        let twice = with_body(&site, operation, call.bearer(&token).bearer(&token)).send().await;
        operation.assert_refused(&twice, 401, "unauthenticated", "two tokens");
    }
    site.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_keys_tickets_and_passes_are_refused() {
    let site = Site::new().await;
    let (long, quoted) = ("k".repeat(256), format!("\"{}\"", "k".repeat(256)));
    let keys: [&[u8]; 16] = [
        b"",
        b" ",
        b"\"\"",
        b"\"",
        b"\"abc",
        b"abc\"",
        b"a\"b",
        b"\"a\"b\"",
        b"\"a\\b\"",
        b"\"a\\\"",
        b"a\tb",
        b"\xff\xfe",
        "ключ".as_bytes(),
        "🎫".as_bytes(),
        long.as_bytes(),
        quoted.as_bytes(),
    ];
    let huge = "A".repeat(20_000);
    let tokens: [&[u8]; 9] = [
        b"",
        b"x",
        b"null",
        b"\xff\xfe",
        b"' OR 1=1 --",
        b"AAAA AAAA",
        "билет".as_bytes(),
        b"EAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        huge.as_bytes(),
    ];
    let mut refused = 0;
    for operation in &operations(&site.api).await {
        for key in keys.iter().filter(|_| operation.takes("Idempotency-Key")) {
            let reply = send(&site, operation, "Idempotency-Key", key).await;
            operation.assert_refused(&reply, 422, "invalid_parameter", &said("Idempotency-Key", key));
            assert_eq!(reply.body["errors"][0]["field"], "Idempotency-Key", "{}", reply.body);
            refused += 1;
        }
        if operation.parameter("Idempotency-Key")["required"] == true {
            let call = site.call_at(operation, &site.path(operation), &["Idempotency-Key"]);
            let reply = with_body(&site, operation, call).send().await;
            operation.assert_refused(&reply, 400, "idempotency_key_missing", "no key");
        }
        for (name, code) in [("Queue-Ticket", "invalid_ticket"), ("Queue-Pass", "invalid_pass")] {
            for token in tokens.iter().filter(|_| operation.takes(name)) {
                let reply = send(&site, operation, name, token).await;
                if operation.parameter(name)["required"] == false && name == "Queue-Ticket" {
                    // Joining takes a ticket as a favour: a bad one is as good as none.
                    operation.assert_documented(&reply, &said(name, token));
                    assert!(reply.status < 300, "{}", reply.body);
                } else {
                    operation.assert_refused(&reply, 401, code, &said(name, token));
                }
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "only {refused} headers");
    site.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_mean_nothing_harm_nobody() {
    let site = Site::new().await;
    let long = "x".repeat(10_000);
    let headers: [(&str, &[u8]); 20] = [
        ("X-Request-Id", b""),
        ("X-Request-Id", b"\xff\xfe"),
        ("X-Request-Id", b"a b"),
        ("X-Request-Id", b"<script>"),
        ("X-Request-Id", long.as_bytes()),
        ("X-Request-Id", b"../../etc"),
        ("If-None-Match", b""),
        ("If-None-Match", b"\xff"),
        ("If-None-Match", b"W/"),
        ("If-None-Match", b"\"unbalanced, W/W/\"x\",,,"),
        ("If-None-Match", long.as_bytes()),
        ("Accept", b"application/xml"),
        ("Accept", b"\xff"),
        ("Accept-Encoding", b"\xff, gzip;q=x, br;q=-1, zstd"),
        ("Range", b"bytes=0-0,-1,x"),
        ("If-Match", b"\"x\""),
        ("If-Modified-Since", b"yesterday"),
        ("traceparent", b"00-zz-00-\xff"),
        ("X-Forwarded-For", b"' OR 1=1 --, \xff"),
        ("X-HTTP-Method-Override", b"DELETE"),
    ];
    for operation in &operations(&site.api).await {
        for (name, value) in headers {
            let reply = send(&site, operation, name, value).await;
            let sent = said(name, value);
            operation.assert_documented(&reply, &sent);
            assert_ne!(reply.status, 304, "{} to {sent}", operation.name());
            let id = reply.header("x-request-id").expect("an id");
            assert!(Uuid::try_parse(id).is_ok(), "{} took the id {id:?} from {sent}", operation.name());
        }
    }
    site.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn methods_that_an_address_does_not_know_are_refused_with_those_that_it_does() {
    let site = Site::new().await;
    let operations = operations(&site.api).await;
    let all = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
        Method::TRACE,
        Method::from_bytes(b"BREW").expect("a method"),
        Method::from_bytes(b"get").expect("a method"),
        Method::from_bytes(&[b'X'; 500]).expect("a method"),
        Method::from_bytes(b"PROPFIND").expect("a method"),
    ];
    for operation in &operations {
        let mut known: Vec<&str> =
            operations.iter().filter(|other| other.path == operation.path).map(|other| other.method.as_str()).collect();
        if known.contains(&"GET") {
            known.push("HEAD");
        }
        known.sort_unstable();
        for method in all.iter().filter(|method| !known.contains(&method.as_str())) {
            let reply = site.api.call(method.clone(), &site.path(operation)).bearer(&site.owner.token).send().await;
            let allow =
                reply.header("allow").unwrap_or_else(|| panic!("{method} {}: no Allow", operation.path)).to_owned();
            let mut allowed: Vec<&str> = allow.split(',').map(str::trim).collect();
            allowed.sort_unstable();
            assert_eq!(allowed, known, "{method} {}", operation.path);
            reply.expect_problem(405, "method_not_allowed");
        }
        if operation.method == Method::GET {
            let mut like = operation.clone();
            like.method = Method::HEAD;
            let (whole, head) = (site.call(operation).send().await, site.call(&like).send().await);
            assert_eq!((head.status, head.bytes.len()), (whole.status, 0), "HEAD {}", operation.path);
            assert_eq!(head.header("content-type"), whole.header("content-type"), "HEAD {}", operation.path);
            assert!(head.header("x-request-id").is_some());
        } else if !known.contains(&"GET") {
            let head = site.api.call(Method::HEAD, &site.path(operation)).send().await;
            assert_eq!((head.status, head.bytes.len()), (405, 0), "HEAD {}", operation.path);
        }
    }
    site.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_lead_nowhere_are_problems() {
    let site = Site::new().await;
    let long = format!("/v1/{}", "a/".repeat(10_000));
    let targets = [
        "/",
        "//",
        "/v1",
        "/v1/",
        "/v1/concerts/",
        "/V1/concerts",
        "/v1//concerts",
        "/v1/concerts/../me",
        "/v1/%2e%2e/me",
        "/v1/concerts%2f",
        "/%00",
        "/%ff",
        "/..",
        "/etc/passwd",
        "/v1/admin",
        "/.env",
        "/.git/config",
        "/metrics/x",
        "/v1/me/",
        "/v1;a=b/me",
        "/problems",
        "/problems/",
        "/problems/%ff",
        "/problems/<script>",
        "/problems/..%2flivez",
        "/docs/nothing.js",
        "/docs/../livez",
        "/docs/..%2f..%2fetc%2fpasswd",
        "/openapi.json/",
        "*",
        &long,
        "http://127.0.0.1/nothing",
        "http://other.example/v1/nothing",
        "/v1/nothing?a=%ff",
        "/\u{7f}",
    ];
    let mut answered = 0;
    for target in targets {
        for method in ["GET", "POST", "DELETE", "OPTIONS", "BREW"] {
            let mut wire = Wire::to(&site.instance.base).await;
            wire.send(&format!("{method} {target} HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n")).await;
            let shown = &target[..target.len().min(60)];
            let reply = wire.reply().await.unwrap_or_else(|| panic!("{method} {shown}: no answer")).into_reply();
            assert!(matches!(reply.status, 400 | 404 | 405 | 422), "{method} {shown}: {} {}", reply.status, reply.body);
            let code = reply.body["code"].as_str().unwrap_or_else(|| panic!("{method} {shown}: no problem")).to_owned();
            assert_eq!(reply.status == 405, reply.header("allow").is_some(), "{method} {shown}");
            reply.clone().expect_problem(reply.status, &code);
            assert!(!String::from_utf8_lossy(&reply.bytes).contains("root:"), "{shown}");
            answered += usize::from(reply.status != 400);
        }
    }
    assert!(answered > 100, "only {answered} addresses were routed");
    let mut tunnel = Wire::to(&site.instance.base).await;
    tunnel.send("CONNECT other.example:443 HTTP/1.1\r\nhost: other.example:443\r\n\r\n").await;
    let reply = tunnel.reply().await.expect("an answer").into_reply();
    assert!(matches!(reply.status, 400 | 404 | 405), "CONNECT: {} {}", reply.status, reply.body);
    let escaped = site.api.get("/v1/%3Cscript%3E").send().await.expect_problem(404, "not_found");
    assert_eq!(escaped["detail"], json!("There is nothing at /v1/%3Cscript%3E."));
    site.end().await;
}
