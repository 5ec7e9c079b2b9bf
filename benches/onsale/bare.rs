//! What frontrow is compared with: handlers that do the least there is to do, behind the same accept loop and layers.
//!
//! They answer with as many bytes, and the same headers, as what they are compared with: `PUT /bare/body/{size}` sets
//! the size, once per answer, before anything is measured.

use std::convert::Infallible;
use std::sync::{Arc, LazyLock, RwLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use bytes::Bytes;
use frontrow::app::state::State;
use frontrow::platform::error::Problem;
use frontrow::platform::redis::{Redis, Script};
use futures::StreamExt as _;
use tokio::sync::broadcast;

/// The least that gives a place away: the next number.
static COUNT: LazyLock<Script> = LazyLock::new(|| {
    Script::new("bench.count", "return {'new', tostring(redis.call('HINCRBY', KEYS[1], 'issued', 1))}")
});

/// The least that refuses a seat: one bit.
static LOOK: LazyLock<Script> =
    LazyLock::new(|| Script::new("bench.look", "return {'refused', tostring(redis.call('GETBIT', KEYS[1], ARGV[1]))}"));

/// A stream's event, as large as a line's state.
const EVENT: &str = concat!(
    "event: line\nid: 1234567\n",
    "data: {\"issued\":1234567,\"serving\":1234567,\"admit_per_second\":1000,\"phase\":\"open\",",
    "\"seats_left\":12345,\"at\":\"2026-01-01T00:00:00.000Z\"}\n\n"
);

/// Shared by one pointer: axum clones a handler's state for each request.
struct Bare {
    redis: Redis,
    key: String,
    body: RwLock<Bytes>,
    events: broadcast::Sender<Bytes>,
}

/// The bare handlers.
pub fn router(state: &State) -> Router {
    let (events, _) = broadcast::channel(16);
    let pause = Duration::from_millis(state.config.queue.tick_ms);
    tokio::spawn(tick(events.clone(), pause));
    let bare = Bare { redis: state.redis.clone(), key: state.redis.key("bare"), body: RwLock::default(), events };
    Router::new()
        .route("/bare/body/{size}", put(set_body))
        .route("/bare/poll", get(poll))
        .route("/bare/ready", get(ready))
        .route("/bare/join", post(join))
        .route("/bare/refused", post(refuse))
        .route("/bare/events", get(listen))
        .with_state(Arc::new(bare))
}

async fn set_body(Shared(bare): Shared<Arc<Bare>>, Path(size): Path<usize>) -> StatusCode {
    // JSON of that size: a string.
    let text = format!("\"{}\"", "x".repeat(size.saturating_sub(2)));
    *bare.body.write().unwrap_or_else(std::sync::PoisonError::into_inner) = text.into();
    StatusCode::NO_CONTENT
}

impl Bare {
    fn body(&self) -> Bytes {
        self.body.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

async fn poll(Shared(bare): Shared<Arc<Bare>>) -> Response {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], bare.body()).into_response()
}

/// As a public read: 304 for whoever names a tag, without looking at it.
async fn ready(Shared(bare): Shared<Arc<Bare>>, headers: HeaderMap) -> Response {
    let common = [(header::ETAG, "W/\"bare\""), (header::CACHE_CONTROL, "no-cache"), (header::VARY, "accept-encoding")];
    if headers.contains_key(header::IF_NONE_MATCH) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    (common, [(header::CONTENT_TYPE, "application/json")], bare.body()).into_response()
}

async fn join(Shared(bare): Shared<Arc<Bare>>) -> Result<Response, Problem> {
    let _: Vec<String> = bare.redis.run(&COUNT, vec![bare.key.clone()], Vec::new()).await?;
    Ok((StatusCode::CREATED, [(header::CONTENT_TYPE, "application/json")], bare.body()).into_response())
}

/// As a refused hold, without looking at who asks for what.
async fn refuse(Shared(bare): Shared<Arc<Bare>>, _: Bytes) -> Result<Response, Problem> {
    let _: Vec<String> = bare.redis.run(&LOOK, vec![bare.key.clone() + "-seats"], vec!["7".into()]).await?;
    let headers = [(header::CONTENT_TYPE, "application/problem+json"), (header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CONFLICT, headers, bare.body()).into_response())
}

async fn listen(Shared(bare): Shared<Arc<Bare>>) -> Response {
    let events = futures::stream::unfold(bare.events.subscribe(), async |mut events| {
        // Whoever lags is let go.
        let event = events.recv().await.ok()?;
        Some((event, events))
    });
    let body = Body::from_stream(events.map(Ok::<_, Infallible>));
    ([(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")], body).into_response()
}

async fn tick(events: broadcast::Sender<Bytes>, pause: Duration) {
    let mut ticks = tokio::time::interval(pause);
    loop {
        ticks.tick().await;
        // Fails where nobody listens.
        drop(events.send(Bytes::from_static(EVENT.as_bytes())));
    }
}
