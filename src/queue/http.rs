//! The line over REST.

use std::sync::Arc;

use axum::extract::{FromRef, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, http::header};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::domain::{Phase, Standing};
use super::limits::JoinLimits;
use super::service::{Place, Queue};
use crate::accounts::http::Buyer;
use crate::catalog::ConcertId;
use crate::catalog::domain::Order;
use crate::platform::clock::Timestamp;
use crate::platform::error::{Problem, ProblemBody};
use crate::platform::http::{Cached, ClientAddress, Id};

/// What the line's handlers work with.
#[derive(Clone, Debug)]
pub struct QueueRoutes {
    /// The lines.
    pub queue: Arc<Queue>,
    /// How fast places are taken.
    pub joins: JoinLimits,
}

impl FromRef<QueueRoutes> for Arc<Queue> {
    fn from_ref(routes: &QueueRoutes) -> Self {
        routes.queue.clone()
    }
}

impl FromRef<QueueRoutes> for JoinLimits {
    fn from_ref(routes: &QueueRoutes) -> Self {
        routes.joins.clone()
    }
}

/// The line's routes.
pub fn router(routes: QueueRoutes) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(show))
        .routes(routes!(join))
        .routes(routes!(poll, leave))
        .routes(routes!(claim))
        .routes(routes!(leave_inside))
        .with_state(routes)
}

/// The public state of a line.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct QueueView {
    /// The concert.
    concert_id: ConcertId,
    /// Where the sale is.
    phase: Phase,
    /// Who comes first.
    order: Order,
    /// When the lobby opens, where there is one.
    lobby_opens_at: Option<Timestamp>,
    /// When calling begins.
    opens_at: Timestamp,
    /// Places issued.
    issued: u64,
    /// Ranks called.
    serving: u64,
    /// Places still waiting.
    waiting: u64,
    /// Buyers inside.
    active: u64,
    /// How many may be inside at once.
    max_active: u32,
    /// Ranks called per second at most.
    admit_per_second: u32,
    /// Seats neither sold nor held; null while unknown.
    seats_left: Option<u64>,
    /// What lets anyone verify the draw.
    draw: DrawView,
}

/// What lets anyone verify the draw.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct DrawView {
    /// Hex SHA-256 of the seed.
    commitment: String,
    /// How many came before opening; null before the draw.
    lobby_size: Option<u64>,
    /// The seed in hex; null before the draw.
    seed: Option<String>,
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

/// What is not text is a bad ticket or pass, not an absent one.
fn text_of<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// The public state of a line.
#[utoipa::path(get, path = "/v1/concerts/{id}/queue", tag = "queue", params(("id" = ConcertId, Path, description = "The concert")),
    responses((status = 200, body = QueueView), (status = 304, description = "Unchanged"), (status = 404, body = ProblemBody, content_type = "application/problem+json")))]
async fn show(
    State(queue): State<Arc<Queue>>,
    Id(concert): Id<ConcertId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let sale = queue.get_sale(concert).await?;
    let now = queue.now();
    let view = sale.view(|state| QueueView {
        concert_id: concert,
        phase: state.phase(now),
        order: sale.order,
        lobby_opens_at: state.hours.lobby_opens_at,
        opens_at: state.hours.booking_opens_at,
        issued: state.snapshot.issued,
        serving: state.snapshot.serving,
        waiting: state.snapshot.waiting(),
        active: state.snapshot.active,
        max_active: state.rules.max_active,
        admit_per_second: state.rules.admit_per_second,
        seats_left: state.supply.map(|supply| supply.available),
        draw: DrawView {
            commitment: sale.commitment.clone(),
            lobby_size: state.draw.as_ref().map(|draw| draw.lobby_size),
            seed: state.draw.as_ref().map(|draw| draw.seed.clone()),
        },
    });
    Ok(Cached::json(&view, "public, max-age=1")?.answer(&headers))
}

/// Takes a place in the line, or shows the one that the buyer has.
#[utoipa::path(post, path = "/v1/concerts/{id}/queue/tickets", tag = "queue", params(("id" = ConcertId, Path, description = "The concert"),
        ("Queue-Ticket" = Option<String>, Header, description = "A ticket for this sale that the buyer has already")),
    security(("bearer" = [])),
    responses((status = 201, body = PlaceView), (status = 200, body = PlaceView, description = "The place that the buyer has"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json", description = "queue_not_open, sold_out, joins_closed, booking_closed"),
        (status = 429, body = ProblemBody, content_type = "application/problem+json", description = "rate_limited: this user or this address has joined too often in a minute")))]
async fn join(
    State(queue): State<Arc<Queue>>,
    State(limits): State<JoinLimits>,
    Buyer(session): Buyer,
    address: ClientAddress,
    Id(concert): Id<ConcertId>,
    headers: HeaderMap,
) -> Result<(StatusCode, Json<PlaceView>), Problem> {
    limits.check(session.user, address)?;
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
    State(queue): State<Arc<Queue>>,
    Id(concert): Id<ConcertId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let place = queue.find_place(concert, text_of(&headers, "queue-ticket")).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(PlaceView::of(&place, None))).into_response())
}

/// Gives the place up.
#[utoipa::path(delete, path = "/v1/concerts/{id}/queue/tickets/me", tag = "queue",
    params(("id" = ConcertId, Path, description = "The concert"), ("Queue-Ticket" = String, Header, description = "The ticket")),
    security(("bearer" = [])),
    responses((status = 204),
        (status = 401, body = ProblemBody, content_type = "application/problem+json", description = "invalid_ticket"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json")))]
async fn leave(
    State(queue): State<Arc<Queue>>,
    Buyer(session): Buyer,
    Id(concert): Id<ConcertId>,
    headers: HeaderMap,
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
        (status = 409, body = ProblemBody, content_type = "application/problem+json", description = "not_called, with ahead and poll_after_ms"),
        (status = 410, body = ProblemBody, content_type = "application/problem+json", description = "ticket_lapsed"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "sale_stopped, overloaded, read_only, unavailable or timed_out")))]
async fn claim(
    State(queue): State<Arc<Queue>>,
    Buyer(session): Buyer,
    Id(concert): Id<ConcertId>,
    headers: HeaderMap,
) -> Result<(StatusCode, Json<PassView>), Problem> {
    let (pass, expires_at) = queue.claim(concert, session.user, text_of(&headers, "queue-ticket")).await?;
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
    State(queue): State<Arc<Queue>>,
    Buyer(session): Buyer,
    Id(concert): Id<ConcertId>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    queue.leave_inside(concert, session.user, text_of(&headers, "queue-pass")).await?;
    Ok(StatusCode::NO_CONTENT)
}
