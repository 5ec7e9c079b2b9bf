//! The line over REST.

use std::ops::Deref;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::board::QueueView;
use super::domain::{Place, Standing};
use super::limits::JoinLimits;
use super::listeners::Listeners;
use super::service::Queue;
use crate::accounts::Accounts;
use crate::accounts::http::Buyer;
use crate::catalog::ConcertId;
use crate::platform::clock::Timestamp;
use crate::platform::error::{Problem, ProblemBody};
use crate::platform::http::{ClientAddress, Headers, Id};

/// What the line's handlers work with: behind one pointer, as axum clones it several times for each request.
#[derive(Clone, Debug)]
pub struct QueueRoutes(Arc<Routes>);

#[derive(Debug)]
struct Routes {
    queue: Arc<Queue>,
    joins: JoinLimits,
    accounts: Arc<Accounts>,
    listeners: Listeners,
}

impl QueueRoutes {
    /// Handlers over these lines, with limits on how fast places are taken, on who may take one and on who listens.
    #[must_use]
    pub fn new(queue: Arc<Queue>, joins: JoinLimits, accounts: Arc<Accounts>, listeners: Listeners) -> Self {
        Self(Arc::new(Routes { queue, joins, accounts, listeners }))
    }
}

impl Deref for QueueRoutes {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        &self.0.queue
    }
}

/// The line's routes.
pub fn router(routes: QueueRoutes) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(show))
        .routes(routes!(events))
        .routes(routes!(join))
        .routes(routes!(poll, leave))
        .routes(routes!(claim))
        .routes(routes!(leave_inside))
        .with_state(routes)
}

/// A place in the line.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct PlaceView {
    /// The sealed ticket; shown when joining only.
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<String>,
    /// Where the place stands.
    status: Standing,
    /// The arrival index, from 0.
    arrival: u64,
    /// The rank, from 0; null in the lobby.
    rank: Option<u64>,
    /// Ranks that come first; null in the lobby.
    ahead: Option<u64>,
    /// Seconds until the call, estimated; null in the lobby.
    eta_seconds: Option<u64>,
    /// When to ask again.
    poll_after_ms: u64,
    /// When the ticket ends.
    expires_at: Timestamp,
    /// Until when a pass may be claimed; only while called.
    #[serde(skip_serializing_if = "Option::is_none")]
    claim_by: Option<Timestamp>,
}

impl PlaceView {
    fn of(place: &Place, ticket: Option<String>) -> Self {
        Self {
            ticket,
            status: place.standing,
            arrival: place.arrival,
            rank: place.rank,
            ahead: place.ahead,
            eta_seconds: place.eta_seconds,
            poll_after_ms: place.poll_after_ms,
            expires_at: place.expires_at,
            claim_by: place.claim_by,
        }
    }
}

/// What lets a buyer book.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct PassView {
    /// The sealed pass.
    pass: String,
    /// When it ends.
    expires_at: Timestamp,
}

/// A place is written into so many bytes at once.
const PLACE_LEN: usize = 256;

/// What is not text is a bad ticket or pass, not an absent one.
fn text_of<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// The public state of a line.
#[utoipa::path(get, path = "/v1/concerts/{id}/queue", tag = "queue", params(("id" = ConcertId, Path, description = "The concert")),
    responses((status = 200, body = QueueView), (status = 304, description = "Unchanged"), (status = 404, body = ProblemBody, content_type = "application/problem+json")))]
async fn show(
    State(queue): State<QueueRoutes>,
    Id(concert): Id<ConcertId>,
    Headers(headers): Headers,
) -> Result<Response, Problem> {
    let sale = queue.get_sale(concert).await?;
    Ok(sale.shown(queue.now())?.answer(&headers))
}

/// What changes in a line, as server-sent events, the same for everyone: `line` with `issued`, `serving`, `admit_per_second`,
/// `phase`, `seats_left` and `at`.
#[utoipa::path(get, path = "/v1/concerts/{id}/queue/events", tag = "queue", params(("id" = ConcertId, Path, description = "The concert"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was received")),
    responses((status = 200, body = String, content_type = "text/event-stream", description = "Events until the sale is closed"),
        (status = 204, description = "The sale is closed, and its last event was received"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "overloaded: too many listen")))]
async fn events(
    State(queue): State<QueueRoutes>,
    Id(concert): Id<ConcertId>,
    Headers(headers): Headers,
) -> Result<Response, Problem> {
    let sale = queue.get_sale(concert).await?;
    let known = text_of(&headers, "last-event-id").and_then(|id| id.parse().ok());
    let Some(listener) = queue.0.listeners.listen(&sale, known, queue.now())? else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    // The last one is for proxies that collect answers before they pass them on.
    let kind = [("content-type", "text/event-stream"), ("cache-control", "no-store"), ("x-accel-buffering", "no")];
    Ok((kind, Body::from_stream(listener.frames())).into_response())
}

/// Takes a place in the line, or shows the one that the buyer has.
#[utoipa::path(post, path = "/v1/concerts/{id}/queue/tickets", tag = "queue", params(("id" = ConcertId, Path, description = "The concert"),
        ("Queue-Ticket" = Option<String>, Header, description = "A ticket for this sale that the buyer has already")),
    security(("bearer" = [])),
    responses((status = 201, body = PlaceView), (status = 200, body = PlaceView, description = "The place that the buyer has"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json", description = "email_unverified, where this installation asks for verified addresses"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json", description = "queue_not_open, sold_out, joins_closed, booking_closed"),
        (status = 429, body = ProblemBody, content_type = "application/problem+json", description = "rate_limited: this user or this address has joined too often in a minute")))]
async fn join(
    State(queue): State<QueueRoutes>,
    Buyer(session): Buyer,
    address: ClientAddress,
    Id(concert): Id<ConcertId>,
    Headers(headers): Headers,
) -> Result<(StatusCode, Json<PlaceView>), Problem> {
    queue.0.joins.check(session.user, address)?;
    queue.0.accounts.check_verified(session.user).await?;
    let presented = text_of(&headers, "queue-ticket");
    let (ticket, place, is_new) = queue.join(concert, session.user, presented).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(PlaceView::of(&place, Some(ticket)))))
}

/// Where the ticket's place stands.
#[utoipa::path(get, path = "/v1/concerts/{id}/queue/tickets/me", tag = "queue",
    params(("id" = ConcertId, Path, description = "The concert"), ("Queue-Ticket" = String, Header, description = "The ticket")),
    responses((status = 200, body = PlaceView),
        (status = 401, body = ProblemBody, content_type = "application/problem+json", description = "invalid_ticket"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json")))]
async fn poll(
    State(queue): State<QueueRoutes>,
    Id(concert): Id<ConcertId>,
    Headers(headers): Headers,
) -> Result<Response, Problem> {
    let ticket = text_of(&headers, "queue-ticket");
    // Nearly all polls end here, without a wait.
    let place = match queue.find_waiting_place(concert, ticket) {
        Some(place) => place,
        None => queue.find_place(concert, ticket).await?,
    };
    let mut body = Vec::with_capacity(PLACE_LEN);
    serde_json::to_writer(&mut body, &PlaceView::of(&place, None)).map_err(Problem::internal)?;
    let mut response = Response::new(Body::from(body));
    let head = response.headers_mut();
    head.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    head.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Gives the place up.
#[utoipa::path(delete, path = "/v1/concerts/{id}/queue/tickets/me", tag = "queue",
    params(("id" = ConcertId, Path, description = "The concert"), ("Queue-Ticket" = String, Header, description = "The ticket")),
    security(("bearer" = [])),
    responses((status = 204),
        (status = 401, body = ProblemBody, content_type = "application/problem+json", description = "invalid_ticket"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json")))]
async fn leave(
    State(queue): State<QueueRoutes>,
    Buyer(session): Buyer,
    Id(concert): Id<ConcertId>,
    Headers(headers): Headers,
) -> Result<StatusCode, Problem> {
    queue.leave(concert, session.user, text_of(&headers, "queue-ticket")).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Exchanges a called ticket for a pass; again and again the same one.
#[utoipa::path(post, path = "/v1/concerts/{id}/queue/passes", tag = "queue",
    params(("id" = ConcertId, Path, description = "The concert"), ("Queue-Ticket" = String, Header, description = "The ticket")),
    security(("bearer" = [])),
    responses((status = 201, body = PassView),
        (status = 401, body = ProblemBody, content_type = "application/problem+json", description = "invalid_ticket"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json", description = "not_called, with ahead and poll_after_ms; booking_closed, concert_cancelled"),
        (status = 410, body = ProblemBody, content_type = "application/problem+json", description = "ticket_lapsed"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "sale_stopped, overloaded, read_only, unavailable or timed_out")))]
async fn claim(
    State(queue): State<QueueRoutes>,
    Buyer(session): Buyer,
    Id(concert): Id<ConcertId>,
    Headers(headers): Headers,
) -> Result<(StatusCode, Json<PassView>), Problem> {
    let (pass, expires_at) = queue.0.queue.claim(concert, session.user, text_of(&headers, "queue-ticket")).await?;
    Ok((StatusCode::CREATED, Json(PassView { pass, expires_at })))
}

/// Gives the slot back before the pass ends.
#[utoipa::path(delete, path = "/v1/concerts/{id}/queue/passes/me", tag = "queue",
    params(("id" = ConcertId, Path, description = "The concert"), ("Queue-Pass" = String, Header, description = "The pass")),
    security(("bearer" = [])),
    responses((status = 204),
        (status = 401, body = ProblemBody, content_type = "application/problem+json", description = "invalid_pass"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json", description = "pass_required, pass_expired"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json")))]
async fn leave_inside(
    State(queue): State<QueueRoutes>,
    Buyer(session): Buyer,
    Id(concert): Id<ConcertId>,
    Headers(headers): Headers,
) -> Result<StatusCode, Problem> {
    queue.leave_inside(concert, session.user, text_of(&headers, "queue-pass")).await?;
    Ok(StatusCode::NO_CONTENT)
}
