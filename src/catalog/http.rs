//! The public catalogue over HTTP.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::domain::{ConcertId, PerformanceId, Status};
use super::service::{Catalog, Filter};
use super::views::{ConcertDetail, ConcertItem, PerformanceDetail, PerformanceView, SeatMapView};
use crate::platform::error::{Problem, ProblemBody};
use crate::platform::http::{Headers, Id, Page, PageParams, Params};

const Q_LEN_MAX: usize = 100;

/// The public routes.
pub fn router(catalog: Arc<Catalog>) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list_concerts))
        .routes(routes!(get_concert))
        .routes(routes!(list_performances))
        .routes(routes!(get_performance))
        .routes(routes!(get_seat_map))
        .with_state(catalog)
}

/// Which concerts to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ConcertsQuery {
    /// Part of the title or the artist, up to 100 characters.
    #[param(max_length = 100)]
    q: Option<String>,
    /// Only concerts in this state.
    status: Option<Status>,
}

impl ConcertsQuery {
    fn filter(self) -> Result<Filter, Problem> {
        let q = self.q.map(|q| q.trim().to_owned()).filter(|q| !q.is_empty());
        if q.as_ref().is_some_and(|q| q.chars().count() > Q_LEN_MAX) {
            return Err(Problem::invalid_parameter("q", format!("at most {Q_LEN_MAX} characters")));
        }
        Ok(Filter { status: self.status, q })
    }
}

/// Lists concerts, the newest first.
#[utoipa::path(
    get, path = "/v1/concerts", tag = "catalogue",
    params(
        ConcertsQuery,
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100, description = "How many items, 20 if left out."),
        ("cursor" = Option<String>, Query, description = "next_cursor of the page before."),
    ),
    responses(
        (status = 200, description = "A page of concerts.", body = Page<ConcertItem>),
        (status = 304, description = "The ETag in If-None-Match is current."),
        (status = 422, description = "invalid_parameter", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn list_concerts(
    State(catalog): State<Arc<Catalog>>,
    Params(query): Params<ConcertsQuery>,
    page: PageParams<ConcertId>,
    Headers(headers): Headers,
) -> Result<Response, Problem> {
    Ok(catalog.list_concerts(query.filter()?, page).await?.answer(&headers))
}

/// Shows a concert with its grades, performances and line.
#[utoipa::path(
    get, path = "/v1/concerts/{id}", tag = "catalogue",
    params(("id" = ConcertId, Path, description = "The concert.")),
    responses(
        (status = 200, description = "The concert.", body = ConcertDetail),
        (status = 304, description = "The ETag in If-None-Match is current."),
        (status = 404, description = "not_found", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "invalid_parameter", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "unavailable", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn get_concert(
    State(catalog): State<Arc<Catalog>>,
    Id(id): Id<ConcertId>,
    Headers(headers): Headers,
) -> Result<Response, Problem> {
    Ok(catalog.get_concert(id).await?.answer(&headers))
}

/// Lists a concert's performances, by their start.
#[utoipa::path(
    get, path = "/v1/concerts/{id}/performances", tag = "catalogue",
    params(
        ("id" = ConcertId, Path, description = "The concert."),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100, description = "How many items, 20 if left out."),
        ("cursor" = Option<String>, Query, description = "next_cursor of the page before."),
    ),
    responses(
        (status = 200, description = "A page of performances.", body = Page<PerformanceView>),
        (status = 304, description = "The ETag in If-None-Match is current."),
        (status = 404, description = "not_found", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "invalid_parameter", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "unavailable", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn list_performances(
    State(catalog): State<Arc<Catalog>>,
    Id(id): Id<ConcertId>,
    page: PageParams<PerformanceId>,
    Headers(headers): Headers,
) -> Result<Response, Problem> {
    Ok(catalog.list_performances(id, page).await?.answer(&headers))
}

/// Shows a performance with its concert.
#[utoipa::path(
    get, path = "/v1/performances/{id}", tag = "catalogue",
    params(("id" = PerformanceId, Path, description = "The performance.")),
    responses(
        (status = 200, description = "The performance.", body = PerformanceDetail),
        (status = 304, description = "The ETag in If-None-Match is current."),
        (status = 404, description = "not_found", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "invalid_parameter", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "unavailable", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn get_performance(
    State(catalog): State<Arc<Catalog>>,
    Id(id): Id<PerformanceId>,
    Headers(headers): Headers,
) -> Result<Response, Problem> {
    Ok(catalog.get_performance(id).await?.answer(&headers))
}

/// Shows a performance's seat map, which never changes.
#[utoipa::path(
    get, path = "/v1/performances/{id}/seat-map", tag = "catalogue",
    params(("id" = PerformanceId, Path, description = "The performance.")),
    responses(
        (status = 200, description = "The seat map.", body = SeatMapView),
        (status = 304, description = "The ETag in If-None-Match is current."),
        (status = 404, description = "not_found", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "invalid_parameter", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn get_seat_map(
    State(catalog): State<Arc<Catalog>>,
    Id(id): Id<PerformanceId>,
    Headers(headers): Headers,
) -> Result<Response, Problem> {
    Ok(catalog.get_seat_map(id).await?.answer(&headers))
}
