//! Public reads are ready bytes: packed once per coding, whoever asks and however often.

use std::io::Read as _;

use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use frontrow::catalog::PerformanceId;
use http_body_util::BodyExt as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::arena::Plan;
use crate::support::{Api, Sale, World, eventually};

const CODINGS: [&str; 2] = ["gzip", "br"];

/// Rows of a hundred seats whose map is a large body.
const LARGE_MAP: u32 = 20;
/// And whose availability is worth packing besides.
const LARGE_HALL: u32 = 80;

fn hall(rows: u32) -> Plan {
    let rows: Vec<Value> = (1..=rows).map(|row| json!({"name": row.to_string(), "seats": 100})).collect();
    Plan { sections: json!([{"code": "A", "name": "Hall", "rows": rows}]), ..Plan::default() }
}

fn unpacked(coding: &str, packed: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match coding {
        "gzip" => drop(flate2::read::GzDecoder::new(packed).read_to_end(&mut plain).expect("gzip")),
        _ => brotli::BrotliDecompress(&mut &*packed, &mut plain).expect("brotli"),
    }
    plain
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packed_bodies_say_what_plain_ones_say() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &hall(LARGE_HALL)).await;
    let evening = &sale.performances[0];
    for path in [format!("/v1/performances/{evening}/seat-map"), format!("/v1/performances/{evening}/availability")] {
        let plain = api.get(&path).send().await;
        assert_eq!((plain.status, plain.header("content-encoding")), (200, None), "{path}");
        assert!(plain.bytes.len() > 1024, "{path}");
        let mut tags = vec![plain.header("etag").expect("a tag").to_owned()];
        for coding in CODINGS {
            // A large body's brotli form is made when nobody waits for it; gzip is sent until then.
            let packed = eventually("the form to be ready", || async {
                let packed = api.get(&path).header("accept-encoding", &format!("{coding}, gzip;q=0.5")).send().await;
                assert_eq!(packed.status, 200);
                (packed.header("content-encoding") == Some(coding)).then_some(packed)
            })
            .await;
            assert_eq!(unpacked(coding, &packed.bytes), plain.bytes, "{path} {coding}");
            assert_eq!(packed.header("vary"), Some("accept-encoding"));
            // The layer that packs as it sends does not know the length before.
            let length = packed.bytes.len().to_string();
            assert_eq!(packed.header("content-length"), Some(length.as_str()), "{path} {coding}");
            let head = api.call(Method::HEAD, &path).header("accept-encoding", coding).send().await;
            assert!(head.bytes.is_empty());
            for name in ["content-encoding", "content-length", "content-type", "etag", "vary", "cache-control"] {
                assert_eq!(head.header(name), packed.header(name), "{path} {coding} {name}");
            }
            tags.push(packed.header("etag").expect("a tag").to_owned());
        }
        for tag in &tags {
            for accepted in ["identity", "gzip", "br", "br, gzip"] {
                let known = api.get(&path).header("if-none-match", tag).header("accept-encoding", accepted);
                let known = known.send().await;
                assert_eq!(known.status, 304, "{path} {accepted} {tag}");
                assert!(known.bytes.is_empty() && known.header("content-encoding").is_none());
                assert_eq!((known.header("etag"), known.header("vary")), (Some(tag.as_str()), Some("accept-encoding")));
            }
        }
    }
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_read_packs_nothing_even_where_the_cache_is_off() {
    let world = World::new().await;
    for enabled in ["true", "false"] {
        let one = world.instance_with(&[("FRONTROW__CACHE__ENABLED", enabled)]).await;
        let api = Api::over(&[&one]);
        let sale = Sale::new(&api, &one, &hall(LARGE_MAP)).await;
        let id: PerformanceId = sale.performances[0].parse().expect("an id");
        for coding in CODINGS {
            let read = async || -> Option<Bytes> {
                let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(coding))]);
                let answer = one.state.catalog.get_seat_map(id).await.expect("a map").answer(&headers);
                let is_packed = answer.headers().get(header::CONTENT_ENCODING).is_some_and(|value| value == coding);
                let bytes = answer.into_body().collect().await.expect("a body").to_bytes();
                is_packed.then_some(bytes)
            };
            let first = eventually("the form to be ready", &read).await;
            let again = read().await.expect("it stays ready");
            assert_eq!(first.as_ptr(), again.as_ptr(), "{coding}, cache {enabled}: the very same bytes");
        }
        one.stop().await;
    }
    world.end(vec![]).await;
}

/// By the time that it is known what could be sent, a request has taken effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_refuses_every_coding_is_answered_all_the_same() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &hall(LARGE_HALL)).await;
    let path = format!("/v1/performances/{}/availability", sale.performances[0]);
    let plain = api.get(&path).send().await;
    for (number, accepted) in
        ["identity;q=0", "*;q=0", "deflate, identity;q=0", "identity;q=0, gzip;q=0"].iter().enumerate()
    {
        let answered = api.get(&path).header("accept-encoding", accepted).send().await;
        assert_eq!((answered.status, answered.header("content-encoding")), (200, None), "{accepted}");
        assert_eq!(answered.bytes, plain.bytes, "{accepted}");
        let email = format!("{number}-{}@example.com", uuid::Uuid::new_v4());
        let user = json!({"email": email, "password": "a long enough one", "name": "A Buyer"});
        api.post("/v1/users").header("accept-encoding", accepted).json(&user).send().await.expect(201);
        api.get("/v1/nothing").header("accept-encoding", accepted).send().await.expect_problem(404, "not_found");
    }
    let packed = api.get(&path).header("accept-encoding", "identity;q=0, gzip").send().await;
    assert_eq!((packed.status, packed.header("content-encoding")), (200, Some("gzip")));
    world.end(vec![one]).await;
}
