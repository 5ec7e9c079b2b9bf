//! What operators do with reservations.

use std::sync::Arc;

use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::checkout::Checkout;
use super::domain::{Reservation, ReservationId};
use crate::accounts::http::Operator;
use crate::platform::error::{Problem, ProblemBody};
use crate::platform::http::Id;
use crate::platform::http::keyed::{Answer, RequestKey};

/// The operator's routes.
pub fn router(checkout: Checkout) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(refund)).with_state(Arc::new(checkout))
}

/// Gives anybody's reservation back, at any time: the seats are free, the tickets void, and the money is back, or on its way to
/// the card.
#[utoipa::path(post, path = "/v1/admin/reservations/{id}/refund", tag = "operator", security(("bearer" = [])),
    params(("id" = ReservationId, Path, description = "The reservation"), ("Idempotency-Key" = String, Header, description = "Makes the request repeatable")),
    responses((status = 200, body = Reservation),
        (status = 400, body = ProblemBody, content_type = "application/problem+json", description = "idempotency_key_missing"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json", description = "not_refundable; idempotency_key_in_flight, with Retry-After"),
        (status = 422, body = ProblemBody, content_type = "application/problem+json", description = "invalid_parameter, idempotency_key_reused")))]
async fn refund(
    State(checkout): State<Arc<Checkout>>,
    Operator(session): Operator,
    Id(id): Id<ReservationId>,
    key: RequestKey,
) -> Result<Answer, Problem> {
    checkout.refund(session.user, id, key.required()?).await
}
