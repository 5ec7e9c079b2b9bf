//! Moving a performance to a later date. Its buyers are told by an event, and may give their tickets back until it begins.

use serde_json::json;

use super::cancellation::Aftermath;
use crate::accounts::{UserId, actions};
use crate::catalog::views::PerformanceDetail;
use crate::catalog::{PerformanceId, changes};
use crate::platform::clock::Timestamp;
use crate::platform::db::{self, Conn};
use crate::platform::error::Problem;
use crate::platform::outbox;
use crate::queue::pass::{self, CONCERT_CANCELLED};

/// The event that a performance has another date.
const POSTPONED: &str = "performance.postponed";

struct Postponing {
    operator: UserId,
    performance: PerformanceId,
    starts_at: Timestamp,
}

impl Aftermath {
    /// Moves a performance to a later date. This instance shows it at once, others with the next news. Moving it to
    /// where it is changes nothing.
    ///
    /// # Errors
    /// 404, `concert_cancelled`, 422 `invalid_body` where the date is not a later one. 503 `unavailable` where the change took
    /// effect but nobody can tell the seats left.
    pub async fn postpone(
        &self,
        operator: UserId,
        performance: PerformanceId,
        starts_at: Timestamp,
    ) -> Result<PerformanceDetail, Problem> {
        let input = Postponing { operator, performance, starts_at };
        self.db.in_tx("aftermath.postpone", input, |conn, input| Box::pin(input.run(conn))).await?;
        self.catalog.show_changes().await;
        self.wake.now();
        self.catalog.performance_detail(performance).await
    }
}

impl Postponing {
    async fn run(&self, conn: &mut Conn) -> Result<(), Problem> {
        let before = changes::find_date_for_update(conn, self.performance).await?;
        let before = before.ok_or_else(|| Problem::not_found("performance"))?;
        if before.starts_at == self.starts_at {
            return Ok(());
        }
        if pass::find_halt(conn, before.concert_id).await?.is_cancelled {
            return Err(Problem::new(&CONCERT_CANCELLED));
        }
        if self.starts_at < before.starts_at {
            return Err(Problem::invalid_body("starts_at", "later than the performance's present date"));
        }
        if self.starts_at <= db::now(conn).await? {
            return Err(Problem::invalid_body("starts_at", "in the future"));
        }
        changes::postpone(conn, before.concert_id, self.performance, self.starts_at).await?;
        let details = json!({"performance_id": self.performance, "before": {"starts_at": before.starts_at},
            "after": {"starts_at": self.starts_at}});
        actions::record(conn, self.operator, POSTPONED, Some(before.concert_id), &details).await?;
        let facts = json!({"performance_id": self.performance, "concert_id": before.concert_id,
            "starts_at": self.starts_at, "previous_starts_at": before.starts_at});
        outbox::record(conn, POSTPONED, self.performance.0, before.postponements + 1, &facts).await?;
        changes::announce(conn, before.concert_id).await
    }
}
