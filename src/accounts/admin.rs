//! The log of operators' actions over HTTP.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::actions::Action;
use super::domain::ActionId;
use super::http::Operator;
use super::service::Accounts;
use crate::catalog::ConcertId;
use crate::platform::error::Problem;
use crate::platform::http::{Page, PageParams, Params};

/// The operator's routes.
pub fn router(accounts: Arc<Accounts>) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(list_actions)).with_state(accounts)
}

/// Which actions to list.
#[derive(Debug, Deserialize)]
struct Filter {
    concert: Option<ConcertId>,
}

/// What operators did, the newest first.
#[utoipa::path(get, path = "/v1/admin/actions", tag = "operator", security(("bearer" = [])),
    params(("concert" = Option<ConcertId>, Query, description = "Only what was done to this concert"),
        ("limit" = Option<u32>, Query, description = "1 to 100, 20 if left out"), ("cursor" = Option<String>, Query, description = "From next_cursor")),
    responses((status = 200, body = Page<Action>)))]
async fn list_actions(
    State(accounts): State<Arc<Accounts>>,
    _operator: Operator,
    Params(filter): Params<Filter>,
    page: PageParams<ActionId>,
) -> Result<Response, Problem> {
    let actions = accounts.list_actions(filter.concert, page).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(actions)).into_response())
}
