//! What operators and orchestrators ask: alive, ready, metrics, and what a problem means.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::state::State;
use crate::platform::error::{Code, Problem, ProblemBody, codes};
use crate::platform::shutdown::Shutdown;
use crate::platform::telemetry::metrics;
use crate::{accounts, booking, catalog, notices, payments, points, queue};

/// Longest wait for a dependency that is asked whether it is there.
const PROBE_MAX: Duration = Duration::from_secs(2);

/// Every problem code that this server can answer.
pub fn all_codes() -> Vec<&'static Code> {
    let mut all: Vec<&'static Code> = Vec::new();
    let features = [
        codes::CODES,
        accounts::CODES,
        catalog::CODES,
        catalog::warming::CODES,
        queue::CODES,
        points::CODES,
        payments::CODES,
        notices::webhooks::CODES,
    ];
    for code in features.into_iter().chain(booking::CODES.iter().copied()).flatten() {
        if !all.iter().any(|known| known.code == code.code) {
            all.push(code);
        }
    }
    all
}

/// The routes that the API document describes.
pub(super) fn router() -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(explain))
}

/// The routes of orchestrators.
pub(super) fn probes(state: Arc<State>, shutdown: Shutdown) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(liveness))
        .routes(routes!(readiness))
        .routes(routes!(metrics_page))
        .with_state(Probes { state, shutdown })
}

/// What the probes look at.
#[derive(Clone)]
struct Probes {
    state: Arc<State>,
    shutdown: Shutdown,
}

/// Says that the process answers.
#[utoipa::path(get, path = "/livez", tag = "operations",
    responses((status = 200, description = "Alive", content_type = "text/plain", body = String)))]
async fn liveness() -> &'static str {
    "alive\n"
}

/// What `/readyz` says.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Readiness {
    /// `ready`, `degraded` (without Redis) or `unready`.
    status: &'static str,
    checks: Checks,
}

/// What an instance depends on.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Checks {
    /// `ok` or `unreachable`.
    mysql: &'static str,
    /// `ok` or `unreachable`.
    redis: &'static str,
    /// `ok`, or `cut_off` where other instances move the lines that this one cannot.
    queue: &'static str,
    /// Whether the instance is about to end.
    draining: bool,
}

/// Tells whether new requests should come here: not without MySQL, nor while draining, nor while this instance alone does not
/// reach Redis. That Redis may vanish for everyone: then MySQL keeps the lines.
#[utoipa::path(get, path = "/readyz", tag = "operations",
    responses((status = 200, description = "Ready, or degraded", body = Readiness),
        (status = 503, description = "Unready", body = Readiness)))]
async fn readiness(axum::extract::State(Probes { state, shutdown }): axum::extract::State<Probes>) -> Response {
    let (mysql, redis) = tokio::join!(
        tokio::time::timeout(PROBE_MAX, state.db.is_reachable()),
        tokio::time::timeout(PROBE_MAX, state.redis.ping()),
    );
    let (mysql, redis) = (mysql == Ok(true), matches!(redis, Ok(Ok(()))));
    let (draining, cut_off) = (shutdown.is_requested(), state.queue.is_cut_off());
    let word = |ok| if ok { "ok" } else { "unreachable" };
    let (code, status) = match (mysql && !draining && !cut_off, redis) {
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "unready"),
        (true, false) => (StatusCode::OK, "degraded"),
        (true, true) => (StatusCode::OK, "ready"),
    };
    let queue = if cut_off { "cut_off" } else { "ok" };
    let checks = Checks { mysql: word(mysql), redis: word(redis), queue, draining };
    let mut response =
        (code, [(header::CACHE_CONTROL, "no-store")], Json(Readiness { status, checks })).into_response();
    if code == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "operations",
    responses((status = 200, description = "Every metric", content_type = "text/plain", body = String)))]
async fn metrics_page(axum::extract::State(Probes { state, .. }): axum::extract::State<Probes>) -> Response {
    let (open, idle) = state.db.pool_state();
    metrics::db_pool(open, idle);
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    let mut response = metrics::render().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Explains a problem code.
#[utoipa::path(get, path = "/problems/{code}", tag = "operations",
    params(("code" = String, Path, description = "A problem's code", min_length = 1)),
    responses((status = 200, description = "A page", content_type = "text/html", body = String),
        (status = 404, body = ProblemBody, content_type = "application/problem+json")))]
async fn explain(Path(code): Path<String>) -> Result<Html<String>, Problem> {
    let found = all_codes().into_iter().find(|known| known.code == code);
    let known = found.ok_or_else(|| Problem::not_found("problem code"))?;
    // Code, title and text are constants of the source, without a character that HTML would read.
    Ok(Html(format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\n\
         <style>body{{font:1.1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem}}</style>\n\
         <h1>{title}</h1>\n<p>{about}</p>\n<p><code>{code}</code>, HTTP status {status}</p>\n</html>\n",
        title = known.title,
        about = known.about,
        code = known.code,
        status = known.status,
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_plain_and_explained() {
        for code in all_codes() {
            assert!(
                code.code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{}",
                code.code
            );
            assert!((400..600).contains(&code.status), "{}", code.code);
            assert!(!code.about.is_empty() && !code.title.contains(['<', '&']) && !code.about.contains(['<', '&']));
        }
    }
}
