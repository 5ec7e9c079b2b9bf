//! The operator's webhooks over HTTP.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::domain::{Endpoint, EndpointId, NewEndpoint};
use super::service::{Order, Webhooks};
use crate::accounts::Operator;
use crate::platform::error::{Problem, ProblemBody};
use crate::platform::http::keyed::Answer;
use crate::platform::http::{Id, KeyedBody, Page, PageParams};

/// The operator's routes.
pub fn router(webhooks: Webhooks) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(subscribe, list)).routes(routes!(remove)).with_state(webhooks)
}

/// What to subscribe.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WebhookBody {
    /// Where deliveries go: https, at a public address, one subscription for each.
    #[schema(max_length = 1000, example = "https://hooks.example.com/frontrow")]
    url: String,
    /// Which events; docs/events.md lists them.
    #[schema(min_items = 1, example = json!(["reservation.confirmed"]))]
    topics: Vec<String>,
}

/// Subscribes an address to events. The secret is in this answer only, and in that to a repeat with the same key; any other repeat
/// is refused, so that nobody but whoever sent this has it.
#[utoipa::path(
    post, path = "/v1/admin/webhooks", tag = "operator", security(("bearer" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repeat harmless.")),
    request_body = WebhookBody,
    responses(
        (status = 201, description = "Subscribed.", body = NewEndpoint),
        (status = 401, description = "unauthenticated", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "forbidden", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "webhook_exists, webhooks_full with limit, idempotency_key_in_flight", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "invalid_body or idempotency_key_reused", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn subscribe(
    State(webhooks): State<Webhooks>,
    Operator(session): Operator,
    KeyedBody { key, body: WebhookBody { url, topics } }: KeyedBody<WebhookBody>,
) -> Result<Answer, Problem> {
    webhooks.subscribe(Order { operator: session.user, url, topics }, key).await
}

/// The webhooks, oldest first, without their secrets.
#[utoipa::path(
    get, path = "/v1/admin/webhooks", tag = "operator", security(("bearer" = [])),
    params(("limit" = Option<u32>, Query, description = "1 to 100, 20 if left out"), ("cursor" = Option<String>, Query, description = "From next_cursor")),
    responses((status = 200, body = Page<Endpoint>)),
)]
async fn list(
    State(webhooks): State<Webhooks>,
    _operator: Operator,
    page: PageParams<EndpointId>,
) -> Result<Response, Problem> {
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(webhooks.list(page).await?)).into_response())
}

/// Removes a webhook with its secret. What has not been sent to it is not sent any more.
#[utoipa::path(
    delete, path = "/v1/admin/webhooks/{id}", tag = "operator", security(("bearer" = [])),
    params(("id" = EndpointId, Path, description = "The webhook.")),
    responses(
        (status = 204, description = "Removed."),
        (status = 404, description = "not_found", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn remove(
    State(webhooks): State<Webhooks>,
    Operator(session): Operator,
    Id(id): Id<EndpointId>,
) -> Result<StatusCode, Problem> {
    webhooks.remove(session.user, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
