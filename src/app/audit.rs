//! The audit: every feature's invariants, checked against the live database.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::accounts::http::Operator;
use crate::booking::{holds, reservations};
use crate::platform::audit::{Finding, Invariant, check};
use crate::platform::clock::Timestamp;
use crate::platform::db::Db;
use crate::platform::error::Problem;
use crate::platform::jobs::{Claim, Work};
use crate::{payments, points, queue};

/// Everything that must always hold.
pub const INVARIANTS: &[&[Invariant]] =
    &[reservations::INVARIANTS, holds::INVARIANTS, payments::INVARIANTS, points::INVARIANTS, queue::INVARIANTS];

/// How far a check reaches back before the end of the one before: rows become visible later than their time.
const OVERLAP: Duration = Duration::from_mins(2);

/// What an audit found.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Report {
    /// Whether every invariant holds.
    pub is_clean: bool,
    /// Each invariant with what breaks it.
    pub findings: Vec<Finding>,
}

/// Checks the whole database, or what changed since.
///
/// # Errors
/// Where a statement fails.
pub async fn run(db: &Db, since: Option<Timestamp>) -> Result<Report, Problem> {
    let findings = check(db, INVARIANTS, since).await?;
    Ok(Report { is_clean: findings.iter().all(|finding| finding.breaches.is_empty()), findings })
}

/// The job that checks what changed since its last run.
pub(super) fn job(db: Db) -> Work {
    Arc::new(move |claim: Claim| {
        let db = db.clone();
        Box::pin(async move {
            let since = claim.last_ended_at.map(|ended| ended.minus(OVERLAP));
            run(&db, since).await.map(drop)
        })
    })
}

/// The operator's route.
pub(super) fn router(db: Db) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(invariants)).with_state(db)
}

/// Checks every invariant against the whole live database.
#[utoipa::path(get, path = "/v1/admin/invariants", tag = "operator", security(("bearer" = [])),
    responses((status = 200, body = Report)))]
async fn invariants(State(db): State<Db>, _operator: Operator) -> Result<Json<Report>, Problem> {
    Ok(Json(run(&db, None).await?))
}
