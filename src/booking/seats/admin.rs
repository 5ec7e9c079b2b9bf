//! House seats over HTTP.

use std::collections::HashSet;

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::blocks::{BlockView, Blocks, Order, SEATS_MAX};
use crate::accounts::http::Operator;
use crate::catalog::PerformanceId;
use crate::platform::error::{Problem, ProblemBody};
use crate::platform::http::keyed::Answer;
use crate::platform::http::{Body, Id, KeyedBody};

/// The operator's routes.
pub fn router(blocks: Blocks) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(block, give_back)).with_state(blocks)
}

/// Which seats.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct BlockBody {
    /// Labels of the seats.
    #[schema(min_items = 1, max_items = 2000)]
    seat_ids: Vec<String>,
}

impl BlockBody {
    fn checked(self) -> Result<Vec<String>, Problem> {
        if self.seat_ids.is_empty() || self.seat_ids.len() > SEATS_MAX {
            return Err(Problem::invalid_body("seat_ids", format!("from 1 to {SEATS_MAX} seats")));
        }
        let different: HashSet<&String> = self.seat_ids.iter().collect();
        if different.len() != self.seat_ids.len() {
            return Err(Problem::invalid_body("seat_ids", "a seat is named twice"));
        }
        Ok(self.seat_ids)
    }
}

/// Takes house seats out of sale, all or none. Seats that are blocked already count as blocked by this as well.
#[utoipa::path(post, path = "/v1/admin/performances/{id}/blocks", tag = "operator", security(("bearer" = [])),
    params(("id" = PerformanceId, Path, description = "The performance"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes the request repeatable")),
    request_body = BlockBody,
    responses((status = 201, body = BlockView),
        (status = 404, body = ProblemBody, content_type = "application/problem+json", description = "not_found, unknown_seat with seat_ids"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json", description = "seats_taken with seat_ids, those that are sold or held; idempotency_key_in_flight, with Retry-After")))]
async fn block(
    State(blocks): State<Blocks>,
    Operator(session): Operator,
    Id(performance): Id<PerformanceId>,
    KeyedBody { key, body }: KeyedBody<BlockBody>,
) -> Result<Answer, Problem> {
    let seat_ids = body.checked()?;
    Box::pin(blocks.block(Order { operator: session.user, performance, seat_ids }, key)).await
}

/// Puts house seats on sale again. Seats that are not blocked stay as they are, so that a repeat is harmless.
#[utoipa::path(delete, path = "/v1/admin/performances/{id}/blocks", tag = "operator", security(("bearer" = [])),
    params(("id" = PerformanceId, Path, description = "The performance")), request_body = BlockBody,
    responses((status = 204, description = "None of the seats is blocked"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json", description = "not_found, unknown_seat with seat_ids")))]
async fn give_back(
    State(blocks): State<Blocks>,
    Operator(session): Operator,
    Id(performance): Id<PerformanceId>,
    Body(body): Body<BlockBody>,
) -> Result<StatusCode, Problem> {
    let seat_ids = body.checked()?;
    blocks.give_back(Order { operator: session.user, performance, seat_ids }).await?;
    Ok(StatusCode::NO_CONTENT)
}
