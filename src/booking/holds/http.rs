//! Holds over REST.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::domain::{Hold, HoldId, MadeHold};
use super::service::{Asked, Holds, Request};
use crate::accounts::http::Buyer;
use crate::catalog::PerformanceId;
use crate::platform::error::{Problem, ProblemBody};
use crate::platform::http::keyed::Answer;
use crate::platform::http::{Id, KeyedBody, Page, PageParams};

/// What the handlers need.
#[derive(Clone, Debug)]
pub struct HoldRoutes {
    /// The service.
    pub holds: Holds,
    /// Most seats in one hold.
    pub seats_max: usize,
}

/// The holds' routes.
pub fn router(routes: HoldRoutes) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(hold))
        .routes(routes!(list))
        .routes(routes!(show, release))
        .with_state(Arc::new(routes))
}

/// What to hold: either seats by name or the best ones.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct HoldBody {
    /// Labels of the seats, all or none; how many at most is `booking.hold_seats_max`.
    #[schema(min_items = 1)]
    seat_ids: Option<Vec<String>>,
    /// The best seats that are free.
    best_available: Option<BestBody>,
}

/// What the best seats are to be.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct BestBody {
    /// How many, at most `booking.hold_seats_max`.
    #[schema(minimum = 1)]
    quantity: u32,
    /// Of this grade only.
    grade: Option<String>,
}

impl HoldBody {
    fn checked(self, seats_max: usize) -> Result<Asked, Problem> {
        match (self.seat_ids, self.best_available) {
            (Some(labels), None) => named(labels, seats_max),
            (None, Some(BestBody { quantity, grade })) => {
                if quantity == 0 || quantity as usize > seats_max {
                    return Err(Problem::invalid_body("best_available.quantity", format!("from 1 to {seats_max}")));
                }
                Ok(Asked::Best { quantity, grade })
            }
            _ => Err(Problem::invalid_body("seat_ids", "either seat_ids or best_available")),
        }
    }
}

fn named(labels: Vec<String>, seats_max: usize) -> Result<Asked, Problem> {
    if labels.is_empty() || labels.len() > seats_max {
        return Err(Problem::invalid_body("seat_ids", format!("from 1 to {seats_max} seats")));
    }
    let different: HashSet<&String> = labels.iter().collect();
    if different.len() != labels.len() {
        return Err(Problem::invalid_body("seat_ids", "a seat is named twice"));
    }
    Ok(Asked::Named(labels))
}

/// Holds seats for a few minutes, all or none.
#[utoipa::path(post, path = "/v1/performances/{id}/holds", tag = "booking",
    params(("id" = PerformanceId, Path, description = "The performance"), ("Queue-Pass" = String, Header, description = "The pass"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes the request repeatable")),
    request_body = HoldBody, security(("bearer" = [])),
    responses((status = 201, body = MadeHold),
        (status = 401, body = ProblemBody, content_type = "application/problem+json", description = "unauthenticated, invalid_pass"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json", description = "pass_required, pass_expired"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json", description = "not_found, unknown_seat with seat_ids"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json", description = "seats_taken with seat_ids, not_enough_seats, seat_limit_exceeded with limit, booking_closed, concert_cancelled"),
        (status = 429, body = ProblemBody, content_type = "application/problem+json", description = "rate_limited: this user has asked for seats too often in a minute"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "sale_stopped, overloaded, read_only, unavailable or timed_out")))]
async fn hold(
    State(routes): State<Arc<HoldRoutes>>,
    Buyer(session): Buyer,
    Id(performance): Id<PerformanceId>,
    headers: HeaderMap,
    KeyedBody { key, body }: KeyedBody<HoldBody>,
) -> Result<Answer, Problem> {
    let seats = body.checked(routes.seats_max)?;
    let pass = headers.get("queue-pass").map(|value| value.to_str().unwrap_or_default().to_owned());
    routes.holds.hold(Request { user: session.user, performance, pass, seats }, key).await
}

/// The buyer's holds, newest first.
#[utoipa::path(get, path = "/v1/me/holds", tag = "booking", security(("bearer" = [])),
    params(("limit" = Option<u32>, Query, description = "1 to 100, 20 if left out"), ("cursor" = Option<String>, Query, description = "From next_cursor")),
    responses((status = 200, body = Page<Hold>)))]
async fn list(
    State(routes): State<Arc<HoldRoutes>>,
    Buyer(session): Buyer,
    page: PageParams<HoldId>,
) -> Result<Json<Page<Hold>>, Problem> {
    Ok(Json(routes.holds.list(session.user, page).await?))
}

/// One of the buyer's holds.
#[utoipa::path(get, path = "/v1/holds/{id}", tag = "booking", security(("bearer" = [])),
    params(("id" = HoldId, Path, description = "The hold")),
    responses((status = 200, body = Hold), (status = 404, body = ProblemBody, content_type = "application/problem+json")))]
async fn show(
    State(routes): State<Arc<HoldRoutes>>,
    Buyer(session): Buyer,
    Id(hold): Id<HoldId>,
) -> Result<Json<Hold>, Problem> {
    Ok(Json(routes.holds.get(session.user, hold).await?))
}

/// Gives the seats back at once.
#[utoipa::path(delete, path = "/v1/holds/{id}", tag = "booking", security(("bearer" = [])),
    params(("id" = HoldId, Path, description = "The hold")),
    responses((status = 204), (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json", description = "already_paid, payment_in_progress")))]
async fn release(
    State(routes): State<Arc<HoldRoutes>>,
    Buyer(session): Buyer,
    Id(hold): Id<HoldId>,
) -> Result<StatusCode, Problem> {
    routes.holds.release(session.user, hold).await?;
    Ok(StatusCode::NO_CONTENT)
}
