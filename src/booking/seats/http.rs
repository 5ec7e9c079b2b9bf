//! Seats over REST: the bitmap, and pages of seats with their status.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::board::{BoardView, SeatStatus};
use super::service::Seats;
use crate::catalog::{PerformanceId, Seat};
use crate::platform::error::{Problem, ProblemBody};
use crate::platform::http::{Cached, Headers, Id, Page, PageParams, Params};
use crate::platform::money::Money;

/// The seats' routes.
pub fn router(seats: Arc<Seats>) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(availability)).routes(routes!(list)).with_state(seats)
}

/// Which seats are taken, as a bitmap.
#[utoipa::path(get, path = "/v1/performances/{id}/availability", tag = "catalogue",
    params(("id" = PerformanceId, Path, description = "The performance")),
    responses((status = 200, body = BoardView), (status = 304, description = "Unchanged"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json")))]
async fn availability(
    State(seats): State<Arc<Seats>>,
    Id(performance): Id<PerformanceId>,
    Headers(headers): Headers,
) -> Result<Response, Problem> {
    Ok(seats.get_board(performance).await?.body.answer(&headers))
}

/// Which seats to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Of this section only.
    section: Option<String>,
    /// Of this grade only.
    grade: Option<String>,
    /// Of this status only.
    status: Option<SeatStatus>,
}

/// A seat and what it is now.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct SeatView {
    /// Its label, unique in the performance.
    id: String,
    /// Its index in the map, from 0.
    index: u32,
    /// Its section.
    section: String,
    /// Its row.
    row: String,
    /// Its number in the row.
    number: u32,
    /// Its grade.
    grade: String,
    /// Its price.
    price: Money,
    /// What it is now.
    status: SeatStatus,
}

/// A page of seats with their status, in the order of the map.
#[utoipa::path(get, path = "/v1/performances/{id}/seats", tag = "catalogue",
    params(("id" = PerformanceId, Path, description = "The performance"), Filter,
        ("limit" = Option<u32>, Query, description = "1 to 100, 20 if left out"), ("cursor" = Option<String>, Query, description = "From next_cursor")),
    responses((status = 200, body = Page<SeatView>), (status = 304, description = "Unchanged"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, body = ProblemBody, content_type = "application/problem+json")))]
async fn list(
    State(seats): State<Arc<Seats>>,
    Id(performance): Id<PerformanceId>,
    Params(filter): Params<Filter>,
    page: PageParams<u32>,
    Headers(headers): Headers,
) -> Result<Response, Problem> {
    let map = seats.catalog().get_seat_map(performance).await?;
    let board = seats.get_board(performance).await?.board;
    let first = page.after.map_or(0, |after| after as usize + 1);
    let is_wanted = |seat: &&Seat| {
        filter.section.as_ref().is_none_or(|section| **section == *seat.section)
            && filter.grade.as_ref().is_none_or(|grade| **grade == *seat.grade)
            && filter.status.is_none_or(|status| status == board.status(seat.index))
    };
    let found = map.seats().iter().skip(first).filter(is_wanted).take(page.fetch() as usize).map(|seat| SeatView {
        id: seat.label.clone(),
        index: seat.index,
        section: seat.section.to_string(),
        row: seat.row.to_string(),
        number: seat.number,
        grade: seat.grade.to_string(),
        price: seat.price,
        status: board.status(seat.index),
    });
    let found = found.collect();
    Ok(Cached::json(&Page::of(found, &page, |seat: &SeatView| seat.index), "no-cache")?.answer(&headers))
}
