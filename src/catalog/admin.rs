//! The operator's catalogue over HTTP.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::domain::ConcertId;
use super::input::{ConcertChange, NewConcert, NewVenue};
use super::service::Catalog;
use super::views::{ConcertDetail, VenueView};
use crate::accounts::http::Operator;
use crate::platform::error::{Problem, ProblemBody};
use crate::platform::http::keyed::Answer;
use crate::platform::http::{Body, Id, KeyedBody};

/// The operator's routes.
pub fn router(catalog: Arc<Catalog>) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(create_venue))
        .routes(routes!(create_concert))
        .routes(routes!(change_concert))
        .with_state(catalog)
}

/// Creates a venue with its layout.
#[utoipa::path(
    post, path = "/v1/admin/venues", tag = "operator", security(("bearer" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repeat harmless.")),
    request_body = NewVenue,
    responses(
        (status = 201, description = "The venue was created.", body = VenueView),
        (status = 401, description = "unauthenticated", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "forbidden", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "idempotency_key_in_flight", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "invalid_body, invalid_parameter or idempotency_key_reused", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn create_venue(
    State(catalog): State<Arc<Catalog>>,
    Operator(session): Operator,
    request: KeyedBody<NewVenue>,
) -> Result<Answer, Problem> {
    catalog.create_venue(session.user, request.key, request.body).await
}

/// Creates a concert with its performances, their seats and its waiting line.
#[utoipa::path(
    post, path = "/v1/admin/concerts", tag = "operator", security(("bearer" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repeat harmless.")),
    request_body = NewConcert,
    responses(
        (status = 201, description = "The concert was created.", body = ConcertDetail),
        (status = 401, description = "unauthenticated", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "forbidden", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "idempotency_key_in_flight", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "invalid_body, invalid_parameter or idempotency_key_reused", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn create_concert(
    State(catalog): State<Arc<Catalog>>,
    Operator(session): Operator,
    request: KeyedBody<NewConcert>,
) -> Result<Answer, Problem> {
    catalog.create_concert(session.user, request.key, request.body).await
}

/// Changes a concert's texts, limit or hours. Prices, seats and the line's order are fixed.
#[utoipa::path(
    patch, path = "/v1/admin/concerts/{id}", tag = "operator", security(("bearer" = [])),
    params(("id" = ConcertId, Path, description = "The concert.")),
    request_body = ConcertChange,
    responses(
        (status = 200, description = "The concert as it is now.", body = ConcertDetail),
        (status = 401, description = "unauthenticated", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "forbidden", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "not_found", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "sale_already_open or sale_already_closed", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "invalid_body or invalid_parameter", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn change_concert(
    State(catalog): State<Arc<Catalog>>,
    _operator: Operator,
    Id(id): Id<ConcertId>,
    Body(change): Body<ConcertChange>,
) -> Result<Json<ConcertDetail>, Problem> {
    catalog.change_concert(id, change).await.map(Json)
}
