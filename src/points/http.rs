//! A buyer's points over HTTP.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::domain::{ChargeId, Entry, Kind, TransactionId};
use super::service::{Charge, ChargeBody, Points};
use crate::accounts::Buyer;
use crate::payments;
use crate::platform::clock::Timestamp;
use crate::platform::error::{Problem, ProblemBody};
use crate::platform::http::keyed::Answer;
use crate::platform::http::{Id, KeyedBody, Page, PageParams, Params};
use crate::platform::money::{CURRENCY, Money};

/// The routes of points.
pub fn router(points: Points) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(get_points))
        .routes(routes!(charge))
        .routes(routes!(show_charge))
        .routes(routes!(list_entries))
        .routes(routes!(get_statement))
        .with_state(points)
}

/// A balance.
#[derive(Serialize, ToSchema)]
struct PointsBody {
    balance: Money,
    #[schema(example = "KRW")]
    currency: &'static str,
}

/// What to charge.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChargeRequest {
    #[schema(value_type = i64, minimum = 1, maximum = 1_000_000, example = 100_000)]
    amount: Money,
    /// The provider's payment method. May be left out only where `points.charge_without_card` is set.
    #[schema(min_length = 1, max_length = 255, example = "pm_card_visa")]
    card_token: Option<String>,
}

/// One movement of the buyer's points.
#[derive(Serialize, ToSchema)]
struct EntryBody {
    /// The transaction.
    id: TransactionId,
    kind: KindBody,
    /// What the balance changed by: negative for payments.
    amount: Money,
    balance_after: Money,
    /// The charge, payment, refund or grant.
    reference: Uuid,
    created_at: Timestamp,
}

/// Why points moved.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum KindBody {
    Charge,
    Payment,
    Refund,
    Grant,
}

impl From<Entry> for EntryBody {
    fn from(entry: Entry) -> Self {
        let kind = match entry.kind {
            Kind::Charge => KindBody::Charge,
            Kind::Payment => KindBody::Payment,
            Kind::Refund => KindBody::Refund,
            Kind::Grant => KindBody::Grant,
        };
        let Entry { id, amount, balance_after, reference, created_at, .. } = entry;
        Self { id, kind, amount, balance_after, reference, created_at }
    }
}

/// The buyer's balance.
#[utoipa::path(
    get, path = "/v1/me/points", tag = "points", security(("bearer" = [])),
    responses(
        (status = 200, description = "The balance", body = PointsBody),
        (status = 401, description = "`unauthenticated`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn get_points(State(points): State<Points>, Buyer(session): Buyer) -> Result<Response, Problem> {
    let balance = points.find_balance(session.user).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(PointsBody { balance, currency: CURRENCY })).into_response())
}

/// Charge points.
#[utoipa::path(
    post, path = "/v1/me/points/charges", tag = "points", security(("bearer" = [])), request_body = ChargeRequest,
    params(("Idempotency-Key" = String, Header, description = "Makes a repeat harmless", max_length = 255)),
    responses(
        (status = 201, description = "Charged", body = ChargeBody),
        (status = 202, description = "Not decided yet, or the money goes back: see status, and GET /v1/me/points/charges/{id} for how it ends", body = ChargeBody),
        (status = 400, description = "`idempotency_key_missing`, `malformed_json`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "`unauthenticated`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 402, description = "`card_declined` with `decline_code`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "`balance_limit_exceeded`, `idempotency_key_in_flight`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "`amount_out_of_range`, `payment_method_unavailable`, `invalid_body`, `idempotency_key_reused`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 429, description = "`rate_limited`: this user has begun too many payments by card in a minute", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "`payment_unavailable`, overloaded, read_only, unavailable or timed_out", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn charge(
    State(points): State<Points>,
    Buyer(session): Buyer,
    KeyedBody { key, body }: KeyedBody<ChargeRequest>,
) -> Result<Answer, Problem> {
    let ChargeRequest { amount, card_token } = body;
    let card_token = card_token.map(payments::card_token).transpose()?;
    points.charge(session.user, key.required()?, Charge { amount, card_token }).await
}

/// One of the buyer's charges.
#[utoipa::path(
    get, path = "/v1/me/points/charges/{id}", tag = "points", security(("bearer" = [])),
    params(("id" = ChargeId, Path, description = "The charge")),
    responses(
        (status = 200, description = "The charge as it is now, with the present balance", body = ChargeBody),
        (status = 401, description = "`unauthenticated`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn show_charge(
    State(points): State<Points>,
    Buyer(session): Buyer,
    Id(id): Id<ChargeId>,
) -> Result<Response, Problem> {
    let charge = points.find_charge(session.user, id).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(charge)).into_response())
}

/// The buyer's movements, newest first.
#[utoipa::path(
    get, path = "/v1/me/points/entries", tag = "points", security(("bearer" = [])),
    params(
        ("limit" = Option<u32>, Query, description = "1 to 100, 20 if left out", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, description = "A page of movements", body = Page<EntryBody>),
        (status = 401, description = "`unauthenticated`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "`invalid_parameter`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn list_entries(
    State(points): State<Points>,
    Buyer(session): Buyer,
    params: PageParams<u32>,
) -> Result<Response, Problem> {
    let page = points.list_entries(session.user, params).await?.map(EntryBody::from);
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(page)).into_response())
}

/// Which month.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatementQuery {
    month: Option<String>,
}

/// How a month changed the balance: `opening_balance + charged - paid + refunded + granted = closing_balance`.
#[derive(Serialize, ToSchema)]
struct StatementBody {
    #[schema(example = "2026-11")]
    month: String,
    opening_balance: Money,
    closing_balance: Money,
    charged: Money,
    paid: Money,
    refunded: Money,
    granted: Money,
    #[schema(example = "KRW")]
    currency: &'static str,
    /// Where the entries behind it are.
    entries_url: &'static str,
}

/// What a month did to the buyer's balance.
#[utoipa::path(
    get, path = "/v1/me/points/statement", tag = "points", security(("bearer" = [])),
    params(("month" = Option<String>, Query, description = "A month of UTC such as `2026-11`; the present one if left out", pattern = "^(19[7-9][0-9]|[2-8][0-9]{3}|9[0-8][0-9]{2}|99[0-8][0-9]|999[0-7])-(0[1-9]|1[0-2])$")),
    responses(
        (status = 200, description = "The statement", body = StatementBody),
        (status = 401, description = "`unauthenticated`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "`invalid_parameter`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn get_statement(
    State(points): State<Points>,
    Buyer(session): Buyer,
    Params(query): Params<StatementQuery>,
) -> Result<Response, Problem> {
    let (month, statement) = points.find_statement(session.user, query.month.as_deref()).await?;
    let body = StatementBody {
        month: month.name,
        opening_balance: statement.opening,
        closing_balance: statement.closing,
        charged: statement.charged,
        paid: statement.paid,
        refunded: statement.refunded,
        granted: statement.granted,
        currency: CURRENCY,
        entries_url: "/v1/me/points/entries",
    };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_whole_numbers() {
        for bad in ["1.5", "1e3", "\"1\"", "null", "99999999999999999999"] {
            assert!(serde_json::from_str::<ChargeRequest>(&format!("{{\"amount\": {bad}}}")).is_err(), "{bad}");
        }
        let body: ChargeRequest = serde_json::from_str(r#"{"amount": 5, "card_token": null}"#).unwrap();
        assert!(body.card_token.is_none());
    }
}
