//! What operators, orchestrators and readers of the API ask.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::arena::Plan;
use crate::support::{Api, Buyer, Sale, Wire, World, assert_members, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_labelled_by_route_and_never_by_an_id() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    assert_eq!(api.get(&format!("/v1/concerts/{}", sale.concert)).send().await.status, 200);
    assert_eq!(api.get(&format!("/{}", Uuid::now_v7())).send().await.status, 404);
    let odd = reqwest::Method::from_bytes(b"BREW").expect("a method");
    assert_eq!(api.call(odd, "/v1/concerts").send().await.status, 405);
    let page = api.get("/metrics").send().await;
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
    let text = String::from_utf8(page.bytes.to_vec()).expect("text");
    for line in [
        r#"frontrow_http_request_seconds_count{method="GET",route="/v1/concerts/{id}",status="200"}"#,
        r#"frontrow_http_request_seconds_count{method="GET",route="unmatched",status="404"}"#,
        r#"frontrow_http_request_seconds_count{method="other",route="/v1/concerts",status="405"}"#,
        r#"frontrow_db_pool_connections{state="idle"}"#,
    ] {
        assert!(text.contains(line), "{line} is missing");
    }
    for line in text.lines() {
        let is_id = |word: &str| word.len() >= 32 && Uuid::try_parse(word).is_ok();
        let has_id = line.split(|char: char| !char.is_ascii_hexdigit() && char != '-').any(is_id);
        assert!(!has_id && !line.contains("example.com"), "{line}");
    }
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_change_reaches_every_instance() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    let buyer = Buyer::many(&one.state, 1).await.remove(0);
    let path = format!("/v1/admin/concerts/{}/queue", sale.concert);
    let change = |token: &str| api.patch(&path).bearer(token).json(&json!({"max_active": 3, "paused": true})).send();
    change(&buyer.token).await.expect_problem(403, "forbidden");
    change("nonsense").await.expect_problem(401, "unauthenticated");
    assert_eq!(change(&sale.operator).await.status, 200);
    for instance in [&one, &two] {
        let api = Api::over(&[instance]);
        eventually("the change to arrive", || async {
            let line = api.get(&format!("/v1/concerts/{}/queue", sale.concert)).send().await.expect(200);
            (line["max_active"] == 3 && line["phase"] == "paused").then_some(())
        })
        .await;
    }
    world.end(vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_tells_each_dependency() {
    let world = World::new().await;
    let one = world.instance().await;
    let ready = Api::over(&[&one]).get("/readyz").send().await.expect(200);
    assert_members(&ready, &["status", "checks"]);
    assert_members(&ready["checks"], &["mysql", "redis", "queue", "draining"]);
    assert_eq!(ready["status"], "ready");
    assert_eq!(ready["checks"], json!({"mysql": "ok", "redis": "ok", "queue": "ok", "draining": false}));

    let alone = world.instance_with(&[("FRONTROW__REDIS__URL", "redis://127.0.0.1:1")]).await;
    let degraded = Api::over(&[&alone]).get("/readyz").send().await.expect(200);
    assert_eq!(
        (degraded["status"].as_str(), degraded["checks"]["redis"].as_str()),
        (Some("degraded"), Some("unreachable"))
    );

    // A connection that was there before is still answered while draining, and told to go.
    let mut wire = Wire::to(&one.base).await;
    assert_eq!(wire.get("/livez").await.expect("an answer").status, 200);
    one.shutdown.request();
    let reply = wire.get("/readyz").await.expect("an answer");
    assert_eq!(reply.status, 503);
    assert!(reply.head.contains("connection: close"), "{}", reply.head);
    let draining: Value = serde_json::from_str(&reply.body).expect("JSON");
    assert_eq!((draining["status"].as_str(), draining["checks"]["draining"].as_bool()), (Some("unready"), Some(true)));
    assert!(wire.get("/livez").await.is_none(), "the connection is closed");
    world.end(vec![one, alone]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_document_describes_every_operation() {
    let world = World::new().await;
    let one = world.instance().await;
    let document = Api::over(&[&one]).get("/openapi.json").send().await.expect(200);
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
    let (mut operations, mut names) = (0, BTreeSet::new());
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in ["get", "post", "put", "patch", "delete"] {
            let operation = &item[method];
            let Some(responses) = operation["responses"].as_object() else { continue };
            operations += 1;
            let name = operation["operationId"].as_str().unwrap_or_default();
            assert!(!name.is_empty() && names.insert(name), "{method} {path}: {name} stands twice");
            assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path} has no success");
            assert!(responses.contains_key("503") && responses.contains_key("500"), "{method} {path} never fails");
        }
    }
    assert!(operations >= 30, "only {operations} operations");
    for path in
        ["/v1/concerts/{id}/queue/tickets", "/v1/holds/{id}/payment", "/v1/me/points/charges", "/problems/{code}"]
    {
        assert!(document["paths"][path].is_object(), "{path} is missing");
    }
    world.end(vec![one]).await;
}

/// The values of `src` and `href` in a page.
fn references(page: &str) -> Vec<&str> {
    let quoted = ["src=\"", "href=\""].into_iter().flat_map(|start| page.split(start).skip(1));
    quoted.filter_map(|rest| rest.split('"').next()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documentation_needs_no_other_host() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let page = api.get("/docs/").send().await;
    assert!(page.status == 200 && page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
    let page = String::from_utf8(page.bytes.to_vec()).expect("text");
    let references = references(&page);
    assert!(references.iter().any(|reference| reference.contains(".js")), "{references:?}");
    for reference in references {
        assert!(!reference.contains("//"), "{reference} is elsewhere");
        let path = format!("/docs/{}", reference.trim_start_matches("./"));
        assert_eq!(api.get(&path).send().await.status, 200, "{path}");
    }
    let start = api.get("/docs/swagger-initializer.js").send().await;
    let start = String::from_utf8(start.bytes.to_vec()).expect("text");
    assert!(start.contains("/openapi.json") && !start.contains("://"), "{start}");
    world.end(vec![one]).await;
}
