//! Cancelling and postponing over HTTP.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::cancellation::Aftermath;
use super::domain::Cancellation;
use crate::accounts::http::Operator;
use crate::catalog::views::PerformanceDetail;
use crate::catalog::{ConcertId, PerformanceId};
use crate::platform::clock::Timestamp;
use crate::platform::error::{Problem, ProblemBody};
use crate::platform::http::{Body, Id};

/// The operator's routes.
pub fn router(aftermath: Aftermath) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(cancel, progress)).routes(routes!(postpone)).with_state(aftermath)
}

/// Cancels a concert for good: nothing of it is held or paid any more, and everybody who has paid gets the money back. Cancelling
/// it again only tells how far that has got.
#[utoipa::path(post, path = "/v1/admin/concerts/{id}/cancellation", tag = "operator", security(("bearer" = [])),
    params(("id" = ConcertId, Path, description = "The concert")),
    responses((status = 202, body = Cancellation, description = "Cancelled; the money is being given back"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json")))]
async fn cancel(
    State(aftermath): State<Aftermath>,
    Operator(session): Operator,
    Id(concert): Id<ConcertId>,
) -> Result<(StatusCode, Json<Cancellation>), Problem> {
    Ok((StatusCode::ACCEPTED, Json(aftermath.cancel(session.user, concert).await?)))
}

/// How far giving back the money of a cancelled concert has got. Cards have theirs once `refunds_owed` is 0: until then the
/// provider is asked, whatever the state.
#[utoipa::path(get, path = "/v1/admin/concerts/{id}/cancellation", tag = "operator", security(("bearer" = [])),
    params(("id" = ConcertId, Path, description = "The concert")),
    responses((status = 200, body = Cancellation),
        (status = 404, body = ProblemBody, content_type = "application/problem+json", description = "not_found: there is no such concert, or it is not cancelled")))]
async fn progress(
    State(aftermath): State<Aftermath>,
    _operator: Operator,
    Id(concert): Id<ConcertId>,
) -> Result<Json<Cancellation>, Problem> {
    Ok(Json(aftermath.get_cancellation(concert).await?))
}

/// The new date.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct PostponementBody {
    /// When the performance begins: later than it was to, and in the future.
    starts_at: Timestamp,
}

/// Moves a performance to a later date. Whoever chose the date before may give the tickets back until the new one.
#[utoipa::path(post, path = "/v1/admin/performances/{id}/postponement", tag = "operator", security(("bearer" = [])),
    params(("id" = PerformanceId, Path, description = "The performance")), request_body = PostponementBody,
    responses((status = 200, body = PerformanceDetail),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json", description = "concert_cancelled"),
        (status = 422, body = ProblemBody, content_type = "application/problem+json", description = "invalid_body, invalid_parameter")))]
async fn postpone(
    State(aftermath): State<Aftermath>,
    Operator(session): Operator,
    Id(performance): Id<PerformanceId>,
    Body(body): Body<PostponementBody>,
) -> Result<Json<PerformanceDetail>, Problem> {
    Ok(Json(aftermath.postpone(session.user, performance, body.starts_at).await?))
}
