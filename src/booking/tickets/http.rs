//! Tickets over HTTP: the public keys, and pictures of codes.

use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::gate::Gate;
use super::keys::TicketKeySet;
use crate::accounts::http::Buyer;
use crate::booking::reservations::ReservationId;
use crate::platform::error::{Problem, ProblemBody};
use crate::platform::http::{Cached, Headers};

/// Keys change seldom, and a gate without a network goes on with those that it has.
const FOR_A_WHILE: &str = "public, max-age=300";
/// A picture is its owner's alone, and may have become void since.
const OWN: &str = "private, max-age=60";

/// The routes of whoever has tickets or looks at them.
pub fn router(gate: Gate) -> OpenApiRouter {
    let public = Cached::json(&gate.keys.public(), FOR_A_WHILE);
    let public = public.map_err(|problem| tracing::error!(%problem, "the keys of tickets cannot be shown")).ok();
    OpenApiRouter::new()
        .merge(OpenApiRouter::new().routes(routes!(keys)).with_state(public))
        .merge(OpenApiRouter::new().routes(routes!(picture)).with_state(gate))
}

/// The public keys of tickets: with them a gate tells a true ticket from a false one, without asking anybody.
#[utoipa::path(get, path = "/.well-known/frontrow-tickets.json", tag = "booking",
    responses((status = 200, body = TicketKeySet), (status = 304)))]
async fn keys(State(public): State<Option<Cached>>, Headers(headers): Headers) -> Result<Response, Problem> {
    let public = public.ok_or_else(|| Problem::internal(anyhow::anyhow!("no keys to show")))?;
    Ok(public.answer(&headers))
}

/// The code of one of the buyer's tickets as a QR code.
#[utoipa::path(get, path = "/v1/reservations/{id}/tickets/{picture}", tag = "booking", security(("bearer" = [])),
    params(("id" = ReservationId, Path, description = "The reservation"),
        ("picture" = String, Path, description = "The `ticket_code` of one of its seats, and `.svg`", pattern = r"^[A-Za-z0-9_-]+\.svg$")),
    responses((status = 200, content_type = "image/svg+xml", body = String),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 410, body = ProblemBody, content_type = "application/problem+json", description = "ticket_gone")))]
async fn picture(
    State(gate): State<Gate>,
    Buyer(session): Buyer,
    path: Result<Path<(String, String)>, axum::extract::rejection::PathRejection>,
) -> Result<Response, Problem> {
    let Path((id, picture)) = path.map_err(|_| Problem::invalid_parameter("id", "not readable"))?;
    let id = id.parse().map_err(|error: &str| Problem::invalid_parameter("id", error))?;
    let code = picture.strip_suffix(".svg").ok_or_else(|| Problem::invalid_parameter("picture", "ends in .svg"))?;
    let svg = gate.picture(session.user, id, code).await?;
    Ok(([(header::CONTENT_TYPE, "image/svg+xml"), (header::CACHE_CONTROL, OWN)], svg).into_response())
}
