//! What every request passes before it reaches a handler: its id, the limit on requests at once, the
//! time limit, the measurement, and the promise that whatever comes out is a problem or an answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use super::coding::Taken;
use super::request_id;
use crate::platform::config::HttpSettings;
use crate::platform::error::{Problem, codes};
use crate::platform::shutdown::Shutdown;
use crate::platform::telemetry::metrics;

/// What the edge needs to know: behind one pointer, as it is cloned for each request.
#[derive(Clone, Debug)]
pub struct Edge(Arc<Limits>);

#[derive(Debug)]
struct Limits {
    places: Semaphore,
    time_limit: Duration,
    shutdown: Shutdown,
}

impl Edge {
    /// The edge of one instance.
    #[must_use]
    pub fn new(settings: &HttpSettings, shutdown: Shutdown) -> Self {
        Self(Arc::new(Limits {
            places: Semaphore::new(settings.requests_max),
            time_limit: Duration::from_millis(settings.request_timeout_ms),
            shutdown,
        }))
    }
}

/// The outermost layer.
pub async fn pass(State(edge): State<Edge>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    accept_something(request.headers_mut());
    let id = request_id::choose(request.headers());
    let method = label(request.method());
    let path = request.extensions().get::<MatchedPath>().cloned();
    let route = path.as_ref().map_or("unmatched", MatchedPath::as_str);
    let exempt = matches!(route, "/livez" | "/readyz" | "/metrics");
    let mut response = request_id::scope(id.clone(), edge.0.answer(request, next, exempt)).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(request_id::HEADER, value);
    }
    if edge.0.shutdown.is_requested() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let (status, elapsed) = (response.status().as_u16(), started.elapsed());
    metrics::http_request(method, route, status, elapsed);
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    tracing::debug!(request_id = %id, method, route, status, elapsed_ms, "request answered");
    response
}

/// Who refuses every coding, and the body as it is too, is answered all the same, without a coding (RFC 9110, 12.5.3, leaves the
/// choice): by the time that the body is known, the request has taken effect.
fn accept_something(headers: &mut HeaderMap) {
    if headers.contains_key(header::ACCEPT_ENCODING) && Taken::by(headers).is_nothing() {
        headers.remove(header::ACCEPT_ENCODING);
    }
}

impl Limits {
    async fn answer(&self, request: Request, next: Next, exempt: bool) -> Response {
        let place = self.places.try_acquire();
        if place.is_err() && !exempt {
            return Problem::new(&codes::OVERLOADED).into_response();
        }
        let _active = Active::begin();
        let response = match tokio::time::timeout(self.time_limit, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::new(&codes::TIMED_OUT).into_response(),
        };
        replace_plain(response)
    }
}

/// Counts a request for as long as it is worked on, however it ends.
struct Active;

impl Active {
    fn begin() -> Self {
        metrics::http_active(1);
        Self
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        metrics::http_active(-1);
    }
}

/// Refusals made below the handlers (routing, body limit) speak plain text; clients are promised problems.
fn replace_plain(response: Response) -> Response {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/") || kind.starts_with("text/html") {
        return response;
    }
    match response.status() {
        StatusCode::METHOD_NOT_ALLOWED => {
            let allow = response.headers().get(header::ALLOW).cloned();
            let mut problem = Problem::new(&codes::METHOD_NOT_ALLOWED).into_response();
            if let Some(allow) = allow {
                problem.headers_mut().insert(header::ALLOW, allow);
            }
            problem
        }
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(&codes::PAYLOAD_TOO_LARGE).into_response(),
        StatusCode::NOT_FOUND => Problem::new(&codes::NOT_FOUND).into_response(),
        StatusCode::INTERNAL_SERVER_ERROR => Problem::new(&codes::INTERNAL).into_response(),
        status if status.is_client_error() => Problem::invalid_parameter("path", "not readable").into_response(),
        _ => response,
    }
}

/// The methods there are; anything else shares one label.
fn label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// 404 for addresses that do not exist.
pub async fn no_route(uri: Uri) -> Problem {
    Problem::new(&codes::NOT_FOUND).detail(format!("There is nothing at {}.", uri.path()))
}

/// 405 for methods that an address does not know.
pub async fn no_method(method: Method, uri: Uri) -> Problem {
    Problem::new(&codes::METHOD_NOT_ALLOWED).detail(format!("{method} is not possible at {}.", uri.path()))
}

/// What a handler's panic becomes.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "the layer's signature")]
pub fn panicked(cause: Box<dyn std::any::Any + Send>) -> Response {
    let text = cause.downcast_ref::<String>().cloned();
    let text = text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
    Problem::internal(anyhow::anyhow!("panic: {text}")).into_response()
}
