//! Webhooks of the card provider over REST.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::signature;
use super::webhooks::{BODY_BYTES_MAX, Webhooks};
use crate::platform::error::{Problem, ProblemBody, codes};
use crate::platform::http::body::unreadable;

/// The payments' routes.
pub fn router(webhooks: Webhooks) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(take)).with_state(webhooks)
}

/// An event of the provider's. It says more; what is not named here is not looked at.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the body, which is read as it was signed")]
struct ProviderEvent {
    /// The event's id: each is acted upon once.
    #[schema(min_length = 1, max_length = 255)]
    id: String,
    /// What it is about; `object.metadata.attempt` names the payment.
    data: Option<serde_json::Value>,
}

/// Takes an event of the card provider. It is a hint only: the provider is asked what is true.
#[utoipa::path(post, path = "/v1/payments/webhooks", tag = "payments", request_body = ProviderEvent,
    params(("Stripe-Signature" = String, Header, description = "The provider's signature of the body, with the time")),
    responses((status = 204, description = "Taken, now or before"),
        (status = 400, body = ProblemBody, content_type = "application/problem+json", description = "invalid_signature, malformed_json"),
        (status = 413, body = ProblemBody, content_type = "application/problem+json", description = "payload_too_large"),
        (status = 422, body = ProblemBody, content_type = "application/problem+json", description = "invalid_body")))]
async fn take(
    State(webhooks): State<Webhooks>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Problem> {
    let body = body.map_err(|rejection| unreadable(rejection.status().as_u16()))?;
    if body.len() > BODY_BYTES_MAX {
        return Err(Problem::new(&codes::PAYLOAD_TOO_LARGE));
    }
    let signature = headers.get(signature::HEADER).and_then(|value| value.to_str().ok());
    webhooks.take(signature, &body).await?;
    Ok(StatusCode::NO_CONTENT)
}
