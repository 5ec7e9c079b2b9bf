//! Invariants as statements: each feature lists its own, and each returns the rows that break it.

use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;

use super::clock::Timestamp;
use super::db::{Conn, Db};
use super::error::Problem;
use super::telemetry::metrics;

/// Most breaches shown per invariant.
pub const SHOWN_MAX: u32 = 20;

/// Something that must always hold.
///
/// The statement binds the instant since which rows count as changed, then the clock's offset as often as it has
/// placeholders for it, then the limit, and returns one text column that describes a breach per row. Instants are compared
/// with columns directly: through a derived table neither server finds the rows by an index.
#[derive(Clone, Copy, Debug)]
pub struct Invariant {
    /// Its name in metrics and reports.
    pub name: &'static str,
    /// What must hold.
    pub promise: &'static str,
    /// Finds breaches.
    pub statement: &'static str,
}

/// What one invariant's check found.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Finding {
    /// The invariant's name.
    pub invariant: String,
    /// What must hold.
    pub promise: String,
    /// Descriptions of what breaks it, at most [`SHOWN_MAX`].
    pub breaches: Vec<String>,
    /// Why it could not be checked; nothing is known of it then.
    pub error: Option<String>,
}

impl Finding {
    /// Whether it was checked and holds.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.error.is_none() && self.breaches.is_empty()
    }
}

/// Checks every invariant on what changed since `since`, or on everything, each within `limit`. One that cannot be
/// checked does not keep the others from being checked.
pub async fn check(
    db: &Db,
    limit: Duration,
    invariants: &'static [&'static [Invariant]],
    since: Option<Timestamp>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for invariant in invariants.iter().flat_map(|list| list.iter()) {
        let input = (invariant, since);
        let outcome =
            db.read_within("audit.check", limit, input, |conn, (invariant, since)| run(conn, invariant, *since)).await;
        let (breaches, error) = match outcome {
            Ok(breaches) => {
                metrics::invariant(invariant.name, breaches.len());
                (breaches, None)
            }
            Err(problem) => {
                metrics::audit_failure(invariant.name);
                tracing::warn!(invariant = invariant.name, %problem, "invariant not checked");
                (Vec::new(), Some(problem.to_string()))
            }
        };
        if !breaches.is_empty() {
            tracing::error!(invariant = invariant.name, breaches = breaches.len(), "invariant broken");
        }
        findings.push(Finding { invariant: invariant.name.into(), promise: invariant.promise.into(), breaches, error });
    }
    findings
}

fn run<'c>(
    conn: &'c mut Conn,
    invariant: &'c Invariant,
    since: Option<Timestamp>,
) -> BoxFuture<'c, Result<Vec<String>, Problem>> {
    Box::pin(async move {
        let offset = conn.offset_micros();
        let since = match since.or_else(|| Timestamp::from_millis(0)) {
            Some(since) => since,
            None => super::db::now(conn).await?.minus(Duration::from_mins(1)),
        };
        let mut find = sqlx::query_scalar(invariant.statement).bind(since);
        for _ in 2..invariant.statement.matches('?').count() {
            find = find.bind(offset);
        }
        Ok(find.bind(SHOWN_MAX).fetch_all(conn.sql()).await?)
    })
}
