//! The far tier under test: values that are in Redis and never in this process, and the handler they are compared with, which sends
//! one GET.
//!
//! Both sides answer with the same bytes. A value here is bytes and nothing else: what it costs to make a concert of them, say,
//! is not the tier's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use axum::Router;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use fred::clients::Client;
use fred::interfaces::{ClientLike as _, KeysInterface as _};
use fred::types::{Builder, config::Config as RedisConfig};
use frontrow::app::state::State;
use frontrow::platform::cache::{Caches, Ground, Keep, Kind, Lifetimes, Loader, Need, TwoTier};
use frontrow::platform::config::{CacheSettings, DatabaseSettings};
use frontrow::platform::db::Db;
use frontrow::platform::error::{Problem, codes};
use frontrow::platform::shutdown::Shutdown;

/// Names the value that a request asks for.
pub const HEADER: &str = "x-value";
/// The cache's name, for its metrics.
pub const NAME: &str = "bench";
/// About as much as a concert with its performances.
const SIZE: usize = 2048;

#[derive(Clone, Debug)]
struct Blob(Bytes);

impl Keep for Blob {
    fn weight(&self) -> usize {
        self.0.len()
    }

    async fn encode(&self) -> Option<Vec<u8>> {
        Some(self.0.to_vec())
    }

    async fn decode(bytes: Bytes) -> Option<Self> {
        Some(Self(bytes))
    }
}

struct Far {
    values: TwoTier<u32, Blob>,
    /// As many as the server has for its own commands.
    clients: Vec<Client>,
    turn: AtomicUsize,
    prefix: String,
}

/// The routes.
///
/// # Errors
/// Where Redis does not answer.
pub async fn router(state: &State, shutdown: &Shutdown) -> anyhow::Result<Router> {
    let (config, clock) = (&state.config, state.clock.clone());
    let news = DatabaseSettings { pool_size: 1, ..config.database.clone() };
    let caches = Caches::new(Ground {
        news: Db::new(&news, clock.clone())?,
        redis: state.redis.clone(),
        clock,
        // Nothing stays in memory.
        settings: CacheSettings { near_bytes_max: 0, ..config.cache.clone() },
    })?;
    tokio::spawn(caches.clone().run(shutdown.clone()));
    let load: Loader<u32, Blob> = Arc::new(|number| Box::pin(async move { Ok(Some(Blob(value(number)))) }));
    let values = TwoTier::new(&caches, Kind::new(NAME, 1, Lifetimes::fixed()), load);
    let mut clients = Vec::new();
    for _ in 0..config.redis.pool_size.max(1) {
        let client = Builder::from_config(RedisConfig::from_url(config.redis.url.expose())?).build()?;
        client.init().await.context("Redis does not answer")?;
        clients.push(client);
    }
    let far = Far { values, clients, turn: AtomicUsize::new(0), prefix: state.redis.key("bench-value") };
    let routes = Router::new().route("/bench/far", get(ours)).route("/bench/get", get(theirs));
    Ok(routes.with_state(Arc::new(far)))
}

/// JSON of that size: a string, another one for each number.
fn value(number: u32) -> Bytes {
    format!("\"{number:0>width$}\"", width = SIZE - 2).into()
}

fn number(headers: &HeaderMap) -> Result<u32, Problem> {
    let text = headers.get(HEADER).and_then(|value| value.to_str().ok());
    text.and_then(|text| text.parse().ok()).ok_or_else(|| Problem::invalid_parameter(HEADER, "a number"))
}

fn sent(bytes: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], bytes).into_response()
}

async fn ours(Shared(far): Shared<Arc<Far>>, headers: HeaderMap) -> Result<Response, Problem> {
    let found = far.values.find(&number(&headers)?, Need::Browsing).await?;
    Ok(sent(found.or_absent("value")?.0))
}

async fn theirs(Shared(far): Shared<Arc<Far>>, headers: HeaderMap) -> Result<Response, Problem> {
    let number = number(&headers)?;
    let key = format!("{}:{number}", far.prefix);
    let client = &far.clients[far.turn.fetch_add(1, Ordering::Relaxed) % far.clients.len()];
    let found: Option<Bytes> = client.get(key.as_str()).await.map_err(Problem::internal)?;
    if let Some(bytes) = found {
        return Ok(sent(bytes));
    }
    // The first time.
    let () = client.set(key, value(number), None, None, false).await.map_err(Problem::internal)?;
    Err(Problem::new(&codes::NOT_FOUND))
}
