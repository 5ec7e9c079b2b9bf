//! The sandbox's addresses: Stripe's below `/v1`, its own below `/sandbox`.

use axum::extract::{DefaultBodyLimit, Path, Query, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;

use super::behaviour::{Behaviour, Operation};
use super::domain::Refusal;
use super::service::{Outcome, Request, Sandbox};
use super::webhooks::Poster;
use crate::platform::clock::Clock;
use crate::platform::config::Secret;
use crate::platform::shutdown::Shutdown;

mod connections;

/// Largest request body, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Intents on a page where nothing is said.
const PAGE: usize = 100;

/// What a sandbox needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The shop's secret key.
    pub key: Secret,
    /// Where webhooks go; nowhere where it is empty.
    pub webhook_url: String,
    /// What they are signed with.
    pub webhook_secret: Secret,
    /// Chance begins with it.
    pub seed: u64,
}

/// Serves a sandbox until shutdown, and waits for what is under way.
///
/// # Errors
/// Where webhooks cannot be sent at all.
pub async fn serve(listener: TcpListener, options: Options, shutdown: Shutdown) -> anyhow::Result<()> {
    let clock = Clock::default();
    let poster = Poster::new(&options.webhook_secret, options.webhook_url, clock.clone(), shutdown.clone())?;
    let sandbox = Sandbox::new(options.key, options.seed, poster, clock, shutdown.clone());
    connections::serve(listener, router(sandbox), &shutdown).await;
    shutdown.wait().await;
    Ok(())
}

fn router(sandbox: Sandbox) -> Router {
    Router::new()
        .route("/v1/payment_intents", post(create))
        .route("/v1/payment_intents/{id}", get(find))
        .route("/v1/payment_intents/{id}/confirm", post(confirm))
        .route("/v1/payment_intents/{id}/cancel", post(cancel))
        .route("/v1/refunds", post(refund).get(list_refunds))
        .route("/v1/refunds/{id}", get(find_refund))
        .route("/sandbox/books", get(books))
        .route("/sandbox/behaviour", get(behaviour).post(behave))
        .route("/sandbox/intents/{id}/decision", post(decide))
        .fallback(async || refused(&Refusal::plain(404, None, "Unrecognized request URL.")))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn_with_state(sandbox.clone(), authenticate))
        .with_state(sandbox)
}

/// Every address asks for the shop's key, as a bearer token or as the user of basic authentication.
async fn authenticate(
    State(sandbox): State<Sandbox>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    let sent = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if sent.and_then(key_of).is_some_and(|key| sandbox.knows(&key)) {
        return next.run(request).await;
    }
    refused(&Refusal::plain(401, None, "Invalid API Key provided."))
}

fn key_of(authorization: &str) -> Option<String> {
    let (scheme, value) = authorization.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().to_owned());
    }
    let decoded = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(value.trim()).ok()).flatten()?;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(user, _)| user.to_owned())
}

async fn create(State(sandbox): State<Sandbox>, headers: HeaderMap, body: Bytes) -> Response {
    call(&sandbox, Operation::Create, None, &headers, &body).await
}

async fn find(State(sandbox): State<Sandbox>, Path(id): Path<String>, RawQuery(query): RawQuery) -> Response {
    look(&sandbox, Operation::Find, Some(id), query).await
}

async fn confirm(State(sandbox): State<Sandbox>, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    call(&sandbox, Operation::Confirm, Some(id), &headers, &body).await
}

async fn cancel(State(sandbox): State<Sandbox>, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    call(&sandbox, Operation::Cancel, Some(id), &headers, &body).await
}

async fn refund(State(sandbox): State<Sandbox>, headers: HeaderMap, body: Bytes) -> Response {
    call(&sandbox, Operation::Refund, None, &headers, &body).await
}

async fn list_refunds(State(sandbox): State<Sandbox>, RawQuery(query): RawQuery) -> Response {
    look(&sandbox, Operation::FindRefunds, None, query).await
}

async fn find_refund(State(sandbox): State<Sandbox>, Path(id): Path<String>, RawQuery(query): RawQuery) -> Response {
    look(&sandbox, Operation::FindRefunds, Some(id), query).await
}

async fn look(sandbox: &Sandbox, operation: Operation, id: Option<String>, query: Option<String>) -> Response {
    call(sandbox, operation, id, &HeaderMap::new(), query.unwrap_or_default().as_bytes()).await
}

/// The parameters are the same in a body and behind a question mark.
async fn call(
    sandbox: &Sandbox,
    operation: Operation,
    id: Option<String>,
    headers: &HeaderMap,
    parameters: &[u8],
) -> Response {
    let key = headers.get("idempotency-key").map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned());
    let parameters = form_urlencoded::parse(parameters).into_owned().collect();
    match sandbox.call(Request { operation, id, parameters, key }).await {
        Outcome::Said(said) => {
            let status = StatusCode::from_u16(said.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response = answer(status, said.body);
            if said.is_replayed {
                let is_so = axum::http::HeaderValue::from_static("true");
                response.headers_mut().insert("idempotent-replayed", is_so);
            }
            response
        }
        Outcome::Dropped => connections::dropped(),
    }
}

fn answer(status: StatusCode, body: Bytes) -> Response {
    let request = format!("req_{}", uuid::Uuid::new_v4().simple());
    let kind = "application/json".to_owned();
    (status, [("content-type", kind), ("request-id", request)], body).into_response()
}

fn refused(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
    answer(status, refusal.shown().to_string().into())
}

/// A page of the books.
#[derive(Debug, Deserialize)]
struct PageParams {
    #[serde(default)]
    after: u64,
    #[serde(default = "page")]
    limit: usize,
}

const fn page() -> usize {
    PAGE
}

async fn books(State(sandbox): State<Sandbox>, Query(page): Query<PageParams>) -> Response {
    Json(sandbox.books(page.after, page.limit)).into_response()
}

async fn behaviour(State(sandbox): State<Sandbox>) -> Response {
    Json(sandbox.behaviour()).into_response()
}

async fn behave(State(sandbox): State<Sandbox>, Json(behaviour): Json<Behaviour>) -> Response {
    match sandbox.behave(behaviour) {
        Ok(()) => Json(sandbox.behaviour()).into_response(),
        Err(why) => refused(&Refusal::plain(400, None, why)),
    }
}

/// What the bank says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Decision {
    succeeds: bool,
}

async fn decide(State(sandbox): State<Sandbox>, Path(id): Path<String>, Json(decision): Json<Decision>) -> Response {
    match sandbox.decide(&id, decision.succeeds) {
        Ok(intent) => Json(json!(intent)).into_response(),
        Err(refusal) => refused(&refusal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_comes_as_a_token_or_as_a_user() {
        assert_eq!(key_of("Bearer sk_test_a").as_deref(), Some("sk_test_a"));
        let basic = format!("Basic {}", STANDARD.encode("sk_test_a:"));
        assert_eq!(key_of(&basic).as_deref(), Some("sk_test_a"));
        for bad in ["", "sk_test_a", "Digest a", "Basic !!", "Basic YQ=="] {
            assert_eq!(key_of(bad), None, "{bad}");
        }
    }
}
