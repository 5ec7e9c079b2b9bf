//! Paying and reservations over REST.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::checkout::Checkout;
use super::domain::{Reservation, ReservationId};
use crate::accounts::http::Buyer;
use crate::booking::holds::HoldId;
use crate::booking::holds::domain::COUPON_NOT_USABLE;
use crate::payments;
use crate::platform::error::{Problem, ProblemBody};
use crate::platform::http::keyed::{Answer, RequestKey};
use crate::platform::http::{Id, KeyedBody, Page, PageParams};

/// The reservations' routes.
pub fn router(checkout: Checkout) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(pay))
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(cancel))
        .with_state(Arc::new(checkout))
}

/// How to pay.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
enum PaymentBody {
    /// With the buyer's points.
    Points {
        /// A coupon of the buyer's; none is issued yet, so naming one is refused.
        #[serde(default)]
        coupon_id: Option<Uuid>,
    },
    /// With a card.
    Card {
        /// The provider's payment method.
        #[schema(min_length = 1, max_length = 255, example = "pm_card_visa")]
        card_token: String,
    },
}

/// Pays a hold: its seats are the buyer's for good.
#[utoipa::path(post, path = "/v1/holds/{id}/payment", tag = "booking",
    params(("id" = HoldId, Path, description = "The hold"), ("Idempotency-Key" = String, Header, description = "Makes the request repeatable")),
    request_body = PaymentBody, security(("bearer" = [])),
    responses((status = 201, body = Reservation),
        (status = 202, body = Reservation, description = "By card: pending while the provider decides; refunded where the money came too late for the seats, and goes back"),
        (status = 400, body = ProblemBody, content_type = "application/problem+json", description = "idempotency_key_missing, malformed_json"),
        (status = 402, body = ProblemBody, content_type = "application/problem+json", description = "insufficient_points with balance, amount; card_declined with decline_code"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json", description = "already_paid, payment_in_progress, coupon_not_usable, concert_cancelled, idempotency_key_in_flight"),
        (status = 410, body = ProblemBody, content_type = "application/problem+json", description = "hold_expired"),
        (status = 422, body = ProblemBody, content_type = "application/problem+json", description = "invalid_body, idempotency_key_reused; payment_method_unavailable, also where cards were tried too often for this hold"),
        (status = 429, body = ProblemBody, content_type = "application/problem+json", description = "rate_limited: this user has begun too many payments by card in a minute"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "sale_stopped, payment_unavailable, overloaded, read_only, unavailable or timed_out")))]
async fn pay(
    State(checkout): State<Arc<Checkout>>,
    Buyer(session): Buyer,
    Id(hold): Id<HoldId>,
    KeyedBody { key, body }: KeyedBody<PaymentBody>,
) -> Result<Answer, Problem> {
    let key = key.required()?;
    match body {
        PaymentBody::Points { coupon_id: Some(_) } => Err(Problem::new(&COUPON_NOT_USABLE)),
        PaymentBody::Points { coupon_id: None } => checkout.pay_with_points(session.user, hold, key).await,
        PaymentBody::Card { card_token } => {
            checkout.pay_with_card(session.user, hold, payments::card_token(card_token)?, key).await
        }
    }
}

/// The buyer's reservations, newest first.
#[utoipa::path(get, path = "/v1/me/reservations", tag = "booking", security(("bearer" = [])),
    params(("limit" = Option<u32>, Query, description = "1 to 100, 20 if left out"), ("cursor" = Option<String>, Query, description = "From next_cursor")),
    responses((status = 200, body = Page<Reservation>)))]
async fn list(
    State(checkout): State<Arc<Checkout>>,
    Buyer(session): Buyer,
    page: PageParams<ReservationId>,
) -> Result<Json<Page<Reservation>>, Problem> {
    Ok(Json(checkout.list(session.user, page).await?))
}

/// One of the buyer's reservations.
#[utoipa::path(get, path = "/v1/reservations/{id}", tag = "booking", security(("bearer" = [])),
    params(("id" = ReservationId, Path, description = "The reservation")),
    responses((status = 200, body = Reservation), (status = 404, body = ProblemBody, content_type = "application/problem+json")))]
async fn show(
    State(checkout): State<Arc<Checkout>>,
    Buyer(session): Buyer,
    Id(id): Id<ReservationId>,
) -> Result<Json<Reservation>, Problem> {
    Ok(Json(checkout.get(session.user, id).await?))
}

/// Gives a reservation back: the seats are free, the money is where it came from.
#[utoipa::path(post, path = "/v1/reservations/{id}/cancellation", tag = "booking", security(("bearer" = [])),
    params(("id" = ReservationId, Path, description = "The reservation"), ("Idempotency-Key" = String, Header, description = "Makes the request repeatable")),
    responses((status = 200, body = Reservation),
        (status = 400, body = ProblemBody, content_type = "application/problem+json", description = "idempotency_key_missing"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json", description = "not_cancellable, idempotency_key_in_flight"),
        (status = 422, body = ProblemBody, content_type = "application/problem+json", description = "idempotency_key_reused")))]
async fn cancel(
    State(checkout): State<Arc<Checkout>>,
    Buyer(session): Buyer,
    Id(id): Id<ReservationId>,
    key: RequestKey,
) -> Result<Answer, Problem> {
    checkout.cancel(session.user, id, key.required()?).await
}
