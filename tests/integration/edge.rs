//! What the edge promises of every request and answer, whatever is behind it.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use frontrow::app::config::Config;
use frontrow::platform::http::edge::{self, Edge};
use frontrow::platform::shutdown::Shutdown;
use reqwest::Method;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use tower_http::catch_panic::CatchPanicLayer;
use uuid::Uuid;

use crate::support::arena::Plan;
use crate::support::{Api, Buyer, Sale, Wire, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_is_taken_if_sane_and_made_otherwise() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    for path in ["/livez", "/v1/concerts", "/v1/nothing"] {
        let reply = api.get(path).header("x-request-id", "abc-1.2_3").send().await;
        assert_eq!(reply.header("x-request-id"), Some("abc-1.2_3"), "{path}");
        let long = "x".repeat(65);
        for bad in ["a b", "<script>", "", &long] {
            let reply = api.get(path).header("x-request-id", bad).send().await;
            let made = reply.header("x-request-id").expect("an id");
            assert!(Uuid::try_parse(made).is_ok(), "{bad:?} became {made}");
        }
        assert!(api.get(path).send().await.header("x-request-id").is_some());
    }
    let problem = api.get("/v1/nothing").header("x-request-id", "mine").send().await;
    assert_eq!(problem.expect_problem(404, "not_found")["request_id"], "mine");
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_make_no_sense_are_refused_alike_everywhere() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let buyer = Buyer::many(&one.state, 1).await.remove(0);
    let user = json!({"email": "a@example.com", "password": "a long enough one", "name": "A", "role": "operator"});
    let charge = json!({"amount": 5, "currency": "KRW"});
    for (path, unknown, field) in [("/v1/users", user, "role"), ("/v1/me/points/charges", charge, "currency")] {
        let send = async |media: &str, body: String| {
            api.post(path).bearer(&buyer.token).key("k").raw(media, body).send().await
        };
        for text in ["", "{", "{]", "\u{0}"] {
            send("application/json", text.to_owned()).await.expect_problem(400, "malformed_json");
        }
        for media in ["text/plain", "application/x-www-form-urlencoded", "application", ""] {
            send(media, unknown.to_string()).await.expect_problem(415, "unsupported_media_type");
        }
        let refused = send("application/json; charset=utf-8", unknown.to_string()).await;
        let refused = refused.expect_problem(422, "invalid_body");
        assert_eq!(refused["errors"][0]["field"], field);
        for text in ["null", "[]", "5", "{}"] {
            send("application/json", text.to_owned()).await.expect_problem(422, "invalid_body");
        }
    }
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_refused_announced_or_not() {
    let world = World::with(&[("FRONTROW__HTTP__BODY_BYTES_MAX", "1000")]).await;
    let one = world.instance().await;
    let buyer = Buyer::many(&one.state, 1).await.remove(0);
    for path in ["/v1/users", "/v1/me/points/charges"] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\nauthorization: Bearer {}\r\nidempotency-key: k\r\n",
            buyer.token
        );
        // Nothing of the body is ever sent: the announcement is enough.
        let mut announced = Wire::to(&one.base).await;
        announced.send(&format!("{head}content-length: 1001\r\n\r\n")).await;
        let reply = announced.reply().await.expect("an answer");
        assert_eq!(reply.status, 413, "{reply:?}");
        assert!(reply.body.contains("payload_too_large"), "{reply:?}");

        let mut chunked = Wire::to(&one.base).await;
        chunked.send(&format!("{head}transfer-encoding: chunked\r\n\r\n3e9\r\n{:>1001}\r\n0\r\n\r\n", "{}")).await;
        let reply = chunked.reply().await.expect("an answer");
        assert_eq!(reply.status, 413, "{reply:?}");
        assert!(reply.body.contains("payload_too_large"), "{reply:?}");

        let mut fitting = Wire::to(&one.base).await;
        fitting.send(&format!("{head}transfer-encoding: chunked\r\n\r\n3e8\r\n{:>1000}\r\n0\r\n\r\n", "{}")).await;
        assert_eq!(fitting.reply().await.expect("an answer").status, 422);
    }
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_and_methods_that_do_not_exist_are_problems() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    for path in ["/", "/v1", "/v1/nothing", "/v2/concerts", "/problems/nothing", "/v1/concerts/"] {
        api.get(path).send().await.expect_problem(404, "not_found");
    }
    for (method, path, allowed) in [
        (Method::DELETE, "/v1/concerts", "GET"),
        (Method::GET, "/v1/users", "POST"),
        (Method::PUT, "/v1/me/points/charges", "POST"),
        (Method::POST, "/livez", "GET"),
        (Method::from_bytes(b"BREW").expect("a method"), "/v1/concerts", "GET"),
    ] {
        let reply = api.call(method, path).send().await;
        let allow = reply.header("allow").expect("Allow").to_owned();
        assert!(allow.split(',').any(|one| one.trim() == allowed), "{allow}");
        reply.expect_problem(405, "method_not_allowed");
    }
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_that_make_no_sense_are_named() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let buyer = Buyer::many(&one.state, 1).await.remove(0);
    let nobody = Uuid::now_v7();
    for (path, field) in [
        ("/v1/concerts/7".to_owned(), "id"),
        ("/v1/concerts/%ff".to_owned(), "id"),
        (format!("/v1/performances/{nobody}x/seat-map"), "id"),
        ("/v1/holds/1".to_owned(), "id"),
        ("/v1/concerts?limit=0".to_owned(), "limit"),
        ("/v1/concerts?limit=101".to_owned(), "limit"),
        ("/v1/concerts?limit=-1".to_owned(), "limit"),
        ("/v1/concerts?limit=ten".to_owned(), "limit"),
        ("/v1/concerts?cursor=nonsense".to_owned(), "cursor"),
        ("/v1/concerts?cursor=%21".to_owned(), "cursor"),
        ("/v1/concerts?status=lost".to_owned(), "status"),
        ("/v1/me/points/entries?cursor=bm8".to_owned(), "cursor"),
        ("/v1/me/holds?limit=1000000000000".to_owned(), "limit"),
    ] {
        let refused = api.get(&path).bearer(&buyer.token).send().await.expect_problem(422, "invalid_parameter");
        assert_eq!(refused["errors"][0]["field"], field, "{path}: {refused}");
        assert!(refused["errors"][0]["message"].is_string());
    }
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_answers_are_compressed_for_who_accepts_it() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let plain = api.get("/openapi.json").send().await;
    assert_eq!((plain.status, plain.header("content-encoding")), (200, None));
    assert!(plain.bytes.len() > 1024);
    for encoding in ["gzip", "br"] {
        let packed = api.get("/openapi.json").header("accept-encoding", encoding).send().await;
        assert_eq!((packed.status, packed.header("content-encoding")), (200, Some(encoding)));
        assert!(packed.bytes.len() < plain.bytes.len() / 2, "{encoding}");
        assert!(packed.header("vary").is_some_and(|vary| vary.to_lowercase().contains("accept-encoding")));
    }
    let small = api.get("/v1/concerts").header("accept-encoding", "gzip, br").send().await;
    assert!(small.bytes.len() < 1024);
    assert_eq!((small.status, small.header("content-encoding")), (200, None));
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_has_is_not_sent_again() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    let (concert, evening) = (&sale.concert, &sale.performances[0]);
    for path in [
        "/v1/concerts".to_owned(),
        format!("/v1/concerts/{concert}"),
        format!("/v1/concerts/{concert}/performances"),
        format!("/v1/concerts/{concert}/queue"),
        format!("/v1/performances/{evening}"),
        format!("/v1/performances/{evening}/seat-map"),
        format!("/v1/performances/{evening}/seats"),
    ] {
        // What counts people or seats may change in between, so several tries are made.
        let mut statuses = Vec::new();
        for _ in 0..5 {
            let first = api.get(&path).send().await;
            let tag = first.header("etag").unwrap_or_else(|| panic!("{path} has an ETag")).to_owned();
            assert!(first.header("cache-control").is_some(), "{path}");
            let other = api.get(&path).header("if-none-match", "\"another\"").send().await;
            assert_eq!(other.status, 200, "{path}");
            let again = api.get(&path).header("if-none-match", &format!("\"x\", W/{tag}")).send().await;
            statuses.push(again.status);
            if again.status == 304 {
                assert!(again.bytes.is_empty() && again.header("etag") == Some(&tag), "{path}");
                break;
            }
        }
        assert_eq!(statuses.last(), Some(&304), "{path}: {statuses:?}");
    }
    world.end(vec![one]).await;
}

async fn boom() -> &'static str {
    panic!("a secret")
}

/// The real routes offer no way to panic, so this is the same edge over one that does.
#[tokio::test]
async fn a_handlers_panic_is_a_problem_that_tells_nothing() {
    let config = Config::from_variables(None, std::iter::empty()).expect("the defaults");
    let router = Router::new()
        .route("/boom", get(boom))
        .layer(CatchPanicLayer::custom(edge::panicked))
        .layer(from_fn_with_state(Edge::new(&config.http, Shutdown::default()), edge::pass));
    let request = Request::get("/boom").header("x-request-id", "r1").body(Body::empty()).expect("a request");
    let response = router.oneshot(request).await.expect("an answer");
    assert_eq!(response.status(), 500);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(response.headers()["x-request-id"], "r1");
    let bytes = to_bytes(response.into_body(), 10_000).await.expect("a body");
    let body: Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!((body["code"].as_str(), body["request_id"].as_str()), (Some("internal"), Some("r1")));
    assert!(!body.to_string().contains("secret"));
}
