//! What operators do with a running line.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::domain::Rules;
use super::service::Queue;
use super::upkeep::RulesChange;
use crate::accounts::http::Operator;
use crate::catalog::ConcertId;
use crate::platform::error::{Problem, ProblemBody};
use crate::platform::http::{Body, Id};

/// The operator's routes.
pub fn router(queue: Arc<Queue>) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(change)).with_state(queue)
}

/// What to change; what is left out stays.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangeBody {
    /// Stop or go on calling.
    paused: Option<bool>,
    /// Ranks called per second at most, 1 to 10,000.
    #[schema(minimum = 1, maximum = 10_000)]
    admit_per_second: Option<u32>,
    /// Passes live at once at most, 1 to 100,000. Lowering it ends nobody's stay.
    #[schema(minimum = 1, maximum = 100_000)]
    max_active: Option<u32>,
    /// How long a called buyer may take to claim, 5 to 3,600 seconds.
    #[schema(minimum = 5, maximum = 3600)]
    claim_secs: Option<u32>,
    /// How long a new pass lives, 30 to 86,400 seconds.
    #[schema(minimum = 30, maximum = 86_400)]
    session_secs: Option<u32>,
}

impl ChangeBody {
    fn checked(&self) -> Result<RulesChange, Problem> {
        let limits = [
            ("admit_per_second", self.admit_per_second, 1..=10_000),
            ("max_active", self.max_active, 1..=100_000),
            ("claim_secs", self.claim_secs, 5..=3600),
            ("session_secs", self.session_secs, 30..=86_400),
        ];
        for (field, value, range) in limits {
            if value.is_some_and(|value| !range.contains(&value)) {
                return Err(Problem::invalid_body(field, format!("from {} to {}", range.start(), range.end())));
            }
        }
        Ok(RulesChange {
            is_paused: self.paused,
            admit_per_second: self.admit_per_second,
            max_active: self.max_active,
            claim_secs: self.claim_secs,
            session_secs: self.session_secs,
        })
    }
}

/// The rules now in force.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct RulesView {
    /// Whether calling is stopped.
    paused: bool,
    /// Ranks called per second at most.
    admit_per_second: u32,
    /// Passes live at once at most.
    max_active: u32,
    /// How long a called buyer may take to claim.
    claim_secs: u32,
    /// How long a new pass lives.
    session_secs: u32,
}

impl From<Rules> for RulesView {
    fn from(rules: Rules) -> Self {
        Self {
            paused: rules.is_paused,
            admit_per_second: rules.admit_per_second,
            max_active: rules.max_active,
            claim_secs: rules.claim_secs,
            session_secs: rules.session_secs,
        }
    }
}

/// Changes the rules of a line; every instance follows within two seconds.
#[utoipa::path(patch, path = "/v1/admin/concerts/{id}/queue", tag = "operator", params(("id" = ConcertId, Path, description = "The concert")),
    request_body = ChangeBody, security(("bearer" = [])),
    responses((status = 200, body = RulesView),
        (status = 403, body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, body = ProblemBody, content_type = "application/problem+json")))]
async fn change(
    State(queue): State<Arc<Queue>>,
    _operator: Operator,
    Id(concert): Id<ConcertId>,
    Body(body): Body<ChangeBody>,
) -> Result<Json<RulesView>, Problem> {
    Ok(Json(queue.change_rules(concert, body.checked()?).await?.into()))
}
