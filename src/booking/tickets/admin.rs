//! The gate over HTTP.

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::gate::{CheckedIn, Gate};
use crate::accounts::http::Operator;
use crate::catalog::PerformanceId;
use crate::platform::error::{Problem, ProblemBody};
use crate::platform::http::keyed::{Answer, RequestKey};
use crate::platform::http::{Id, Params};

/// The operator's routes.
pub fn router(gate: Gate) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(check_in)).with_state(gate)
}

/// Where the gate stands.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct GateQuery {
    /// The performance behind the gate: a ticket for another one is refused, and not used up.
    performance: Option<PerformanceId>,
}

/// A ticket opens the gate: the first time, and never again.
#[utoipa::path(post, path = "/v1/admin/tickets/{code}/check-in", tag = "operator", security(("bearer" = [])),
    params(GateQuery, ("code" = String, Path, description = "The code, as the gate scanned it", min_length = 1),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes the request repeatable")),
    responses((status = 200, body = CheckedIn),
        (status = 404, body = ProblemBody, content_type = "application/problem+json", description = "not_found: no ticket of ours"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json", description = "already_checked_in with checked_in_at, ticket_void, other_performance with performance_id; idempotency_key_in_flight, with Retry-After")))]
async fn check_in(
    State(gate): State<Gate>,
    Operator(session): Operator,
    Id(code): Id<String>,
    Params(query): Params<GateQuery>,
    key: RequestKey,
) -> Result<Answer, Problem> {
    gate.check_in(session.user, &code, query.performance, key).await
}
