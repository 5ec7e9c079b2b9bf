//! What operators do with a running line.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::domain::{Bound, InCharge, Phase, Rules};
use super::operators::RulesChange;
use super::sale;
use super::service::Queue;
use crate::accounts::http::Operator;
use crate::catalog::ConcertId;
use crate::platform::clock::Timestamp;
use crate::platform::error::{Problem, ProblemBody};
use crate::platform::http::{Body, Id};

/// The operator's routes.
pub fn router(queue: Arc<Queue>) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(show, change))
        .routes(routes!(stop))
        .routes(routes!(resume))
        .routes(routes!(end_stays))
        .with_state(queue)
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
    /// Refuse or take newcomers. Whoever has a place keeps it.
    joins_closed: Option<bool>,
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
            joins_closed: self.joins_closed,
            is_stopped: None,
        })
    }
}

/// How the line stands, as the operator sees it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct LineView {
    /// The concert.
    concert_id: ConcertId,
    /// Where the sale is.
    phase: Phase,
    /// The rules that this instance follows.
    rules: Rules,
    /// Which making of the line this is: it rises with each.
    epoch: u32,
    /// Places issued.
    issued: u64,
    /// No place is issued from here on before this is raised.
    ceiling: u64,
    /// Ranks called.
    serving: u64,
    /// Places still waiting.
    waiting: u64,
    /// Called and not let in yet.
    called: u64,
    /// Buyers inside.
    active: u64,
    /// Those among them who asked while all slots were taken.
    present: u64,
    /// Seats neither sold nor held; null while unknown.
    seats_left: Option<u64>,
    /// Who keeps the line.
    store: InCharge,
    /// What holds admission back.
    bound_by: Bound,
    /// Ranks called per second at most, after what the latency of holds and payments allows.
    pace_per_second: f64,
    /// The share of those called lately who did not come.
    no_show_share: f64,
}

impl LineView {
    /// What this instance knows of it.
    #[must_use]
    pub fn of(concert: ConcertId, state: &sale::State, now: Timestamp) -> Self {
        Self {
            concert_id: concert,
            phase: state.phase(now),
            rules: state.rules,
            epoch: state.epoch,
            issued: state.snapshot.issued,
            ceiling: state.ceiling,
            serving: state.snapshot.serving,
            waiting: state.snapshot.waiting(),
            called: state.snapshot.called,
            active: state.snapshot.active,
            present: state.snapshot.present,
            seats_left: state.supply.map(|supply| supply.available),
            store: state.in_charge,
            bound_by: state.snapshot.bound,
            pace_per_second: state.snapshot.pace,
            no_show_share: state.snapshot.no_show,
        }
    }
}

/// What ending all stays did.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct EndedView {
    /// How many were inside.
    ended: u64,
}

/// How the line stands on the instance that answers.
#[utoipa::path(get, path = "/v1/admin/concerts/{id}/queue", tag = "operator", params(("id" = ConcertId, Path, description = "The concert")),
    security(("bearer" = [])),
    responses((status = 200, body = LineView),
        (status = 404, body = ProblemBody, content_type = "application/problem+json")))]
async fn show(
    State(queue): State<Arc<Queue>>,
    _operator: Operator,
    Id(concert): Id<ConcertId>,
) -> Result<Response, Problem> {
    let sale = queue.get_sale(concert).await?;
    let view = sale.view(|state| LineView::of(concert, state, queue.now()));
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(view)).into_response())
}

/// Changes the rules of a line; every instance follows within two seconds.
#[utoipa::path(patch, path = "/v1/admin/concerts/{id}/queue", tag = "operator", params(("id" = ConcertId, Path, description = "The concert")),
    request_body = ChangeBody, security(("bearer" = [])),
    responses((status = 200, body = Rules),
        (status = 403, body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, body = ProblemBody, content_type = "application/problem+json")))]
async fn change(
    State(queue): State<Arc<Queue>>,
    Operator(session): Operator,
    Id(concert): Id<ConcertId>,
    Body(body): Body<ChangeBody>,
) -> Result<Json<Rules>, Problem> {
    queue.change_rules(session.user, concert, body.checked()?).await.map(Json)
}

/// Stops the sale at once: nobody is called or let in, nothing is held or paid. Joining, polling and releasing go on.
#[utoipa::path(post, path = "/v1/admin/concerts/{id}/stop", tag = "operator", params(("id" = ConcertId, Path, description = "The concert")),
    security(("bearer" = [])),
    responses((status = 200, body = Rules),
        (status = 404, body = ProblemBody, content_type = "application/problem+json")))]
async fn stop(
    State(queue): State<Arc<Queue>>,
    Operator(session): Operator,
    Id(concert): Id<ConcertId>,
) -> Result<Json<Rules>, Problem> {
    queue.stop(session.user, concert).await.map(Json)
}

/// Lets a stopped sale go on.
#[utoipa::path(post, path = "/v1/admin/concerts/{id}/resume", tag = "operator", params(("id" = ConcertId, Path, description = "The concert")),
    security(("bearer" = [])),
    responses((status = 200, body = Rules),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json", description = "concert_cancelled")))]
async fn resume(
    State(queue): State<Arc<Queue>>,
    Operator(session): Operator,
    Id(concert): Id<ConcertId>,
) -> Result<Json<Rules>, Problem> {
    queue.resume(session.user, concert).await.map(Json)
}

/// Ends every stay inside. Holds are kept to their end and may be paid.
#[utoipa::path(delete, path = "/v1/admin/concerts/{id}/queue/passes", tag = "operator", params(("id" = ConcertId, Path, description = "The concert")),
    security(("bearer" = [])),
    responses((status = 200, body = EndedView),
        (status = 404, body = ProblemBody, content_type = "application/problem+json")))]
async fn end_stays(
    State(queue): State<Arc<Queue>>,
    Operator(session): Operator,
    Id(concert): Id<ConcertId>,
) -> Result<Json<EndedView>, Problem> {
    let ended = queue.end_stays(session.user, concert).await?;
    Ok(Json(EndedView { ended }))
}
