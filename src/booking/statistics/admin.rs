//! The operator's figures over HTTP.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{SaleStats, Statistics};
use crate::accounts::http::Operator;
use crate::catalog::ConcertId;
use crate::platform::error::{Problem, ProblemBody};
use crate::platform::http::Id;

/// The operator's route.
pub fn router(statistics: Statistics) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(show)).with_state(statistics)
}

/// How a sale goes: the line, what is held, what is sold, and the money.
#[utoipa::path(get, path = "/v1/admin/concerts/{id}/stats", tag = "operator", security(("bearer" = [])),
    params(("id" = ConcertId, Path, description = "The concert")),
    responses((status = 200, body = SaleStats),
        (status = 404, body = ProblemBody, content_type = "application/problem+json")))]
async fn show(
    State(statistics): State<Statistics>,
    _operator: Operator,
    Id(concert): Id<ConcertId>,
) -> Result<Response, Problem> {
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(statistics.get(concert).await?)).into_response())
}
