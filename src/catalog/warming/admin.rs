//! The operator's view of the caches over HTTP.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::domain::CacheView;
use super::orders::Ordered;
use super::service::Warmer;
use crate::accounts::http::Operator;
use crate::catalog::domain::ConcertId;
use crate::platform::error::{Problem, ProblemBody};
use crate::platform::http::Id;
use crate::platform::http::keyed::{Answer, RequestKey};

/// The operator's routes.
pub fn router(warmer: Warmer) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(show)).routes(routes!(warm)).with_state(warmer)
}

/// What of a concert is warm: when it is loaded and why, and which instance has it in memory, since when and until when.
#[utoipa::path(
    get, path = "/v1/admin/concerts/{id}/cache", tag = "operator", security(("bearer" = [])),
    params(("id" = ConcertId, Path, description = "The concert.")),
    responses(
        (status = 200, description = "What is warm.", body = CacheView),
        (status = 404, description = "not_found", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn show(
    State(warmer): State<Warmer>,
    _operator: Operator,
    Id(concert): Id<ConcertId>,
) -> Result<Response, Problem> {
    let view = warmer.get_cache(concert).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(view)).into_response())
}

/// Loads a concert anew into every cache, about a second later; the cache's page tells how far that is.
#[utoipa::path(
    post, path = "/v1/admin/concerts/{id}/cache/warm", tag = "operator", security(("bearer" = [])),
    params(
        ("id" = ConcertId, Path, description = "The concert."),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repeat harmless."),
    ),
    responses(
        (status = 202, description = "It will be.", body = Ordered),
        (status = 401, description = "unauthenticated", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "forbidden", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "not_found", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "warmer_off or idempotency_key_in_flight", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "invalid_parameter or idempotency_key_reused", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn warm(
    State(warmer): State<Warmer>,
    Operator(session): Operator,
    Id(concert): Id<ConcertId>,
    key: RequestKey,
) -> Result<Answer, Problem> {
    warmer.order(session.user, concert, key).await
}
