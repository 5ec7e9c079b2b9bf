//! The audit: every feature's invariants, checked against the live database.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::accounts::http::Operator;
use crate::booking::{holds, reservations, seats};
use crate::platform::audit::{Finding, Invariant, check};
use crate::platform::clock::Timestamp;
use crate::platform::config::JobSettings;
use crate::platform::db::Db;
use crate::platform::error::Problem;
use crate::platform::jobs::{Claim, Work};
use crate::{payments, points, queue};

/// Everything that must always hold.
pub const INVARIANTS: &[&[Invariant]] = &[
    reservations::INVARIANTS,
    holds::INVARIANTS,
    seats::INVARIANTS,
    payments::INVARIANTS,
    points::INVARIANTS,
    queue::INVARIANTS,
];

/// How far a check reaches back before the beginning of the one before: rows become visible later than their time.
const OVERLAP: Duration = Duration::from_mins(2);

/// What an audit found.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Report {
    /// Whether every invariant was checked and holds.
    pub is_clean: bool,
    /// Each invariant with what breaks it.
    pub findings: Vec<Finding>,
}

/// Checks the whole database, or what changed since, each invariant within the configured time.
pub async fn run(db: &Db, settings: &JobSettings, since: Option<Timestamp>) -> Report {
    let findings = check(db, Duration::from_secs(settings.audit_timeout_secs), INVARIANTS, since).await;
    Report { is_clean: findings.iter().all(Finding::is_clean), findings }
}

/// The job that checks what changed since its last complete run. An incomplete one counts as failed, so that the
/// next reaches back behind it.
pub(super) fn job(db: Db, settings: JobSettings) -> Work {
    Arc::new(move |claim: Claim| {
        let (db, settings) = (db.clone(), settings.clone());
        Box::pin(async move {
            let report = run(&db, &settings, claim.last_ok_at.map(|began| began.minus(OVERLAP))).await;
            match report.findings.into_iter().find_map(|finding| Some((finding.invariant, finding.error?))) {
                Some((name, error)) => Err(Problem::internal(anyhow::anyhow!("{name} was not checked: {error}"))),
                None => Ok(()),
            }
        })
    })
}

/// The operator's route.
pub(super) fn router(db: Db, settings: JobSettings) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(invariants)).with_state((db, settings))
}

/// Checks every invariant against the whole live database.
#[utoipa::path(get, path = "/v1/admin/invariants", tag = "operator", security(("bearer" = [])),
    responses((status = 200, body = Report)))]
async fn invariants(State((db, settings)): State<(Db, JobSettings)>, _operator: Operator) -> Json<Report> {
    Json(run(&db, &settings, None).await)
}
