//! Recovery: every attempt that is not decided, and every refund that is owed, is asked about until it is.
//!
//! Any instance may do it, at any time, beside the buyer's own request, webhooks and other instances: rows are claimed with
//! SKIP LOCKED for the time of a lease, and what is heard is settled by the one function that changes undecided attempts
//! only. Whoever dies leaves a lease that lapses.
//!
//! - Nothing is guessed. The provider says where an attempt is; one that the provider has no name for was never confirmed.
//!   It is closed while it still has none, under its lock: whoever began it writes the name down first, and finds it closed.
//! - Recovery never confirms. What nobody has confirmed within the grace is cancelled first, and only then closed: an
//!   intent that is cancelled cannot be charged any more, however late a confirmation arrives.
//! - What cannot be learnt now is asked about later, each time later still, but for ever.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt as _, stream};

use super::attempts::{Attempts, Settled};
use super::domain::{PaymentId, PaymentStatus, Reason, Verdict};
use super::gateway::{Gateway, GatewayError, IntentId, RefundStanding, Standing};
use super::metrics;
use super::payable::{Attempt, Payables};
use super::store::attempts as store;
use crate::platform::clock::Timestamp;
use crate::platform::db::{self, Conn};
use crate::platform::error::Problem;

/// What asking about one of them came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// It is decided.
    Done,
    /// It is asked about later.
    Later,
    /// It was not asked about: the instance drains.
    Left,
}

impl Attempts {
    /// Asks about every undecided attempt that is due, in batches. Returns how many were asked about.
    ///
    /// # Errors
    /// Where MySQL does not answer. What was claimed is due again once its lease has lapsed.
    pub async fn find_out_due(&self) -> Result<usize, Problem> {
        self.look_after_all(PaymentStatus::Pending).await
    }

    /// Has every refund that is owed and due given by the provider, in batches. Returns how many it was asked for. Apart from
    /// the undecided, since a cancelled concert owes thousands of refunds, and a buyer waits for the others.
    ///
    /// # Errors
    /// As [`Attempts::find_out_due`].
    pub async fn give_back_due(&self) -> Result<usize, Problem> {
        self.look_after_all(PaymentStatus::Refunding).await
    }

    async fn look_after_all(&self, status: PaymentStatus) -> Result<usize, Problem> {
        let Some(gateway) = self.parts.gateway.clone() else { return Ok(0) };
        let mut asked = 0;
        loop {
            let count = self.look_after_batch(gateway.as_ref(), status).await?;
            asked += count;
            if count < self.parts.settings.recovery_batch_max as usize || self.is_draining() {
                return Ok(asked);
            }
        }
    }

    /// Counts what is open, for the metrics.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn measure(&self) -> Result<(), Problem> {
        let (in_doubt, owed, oldest_secs) =
            self.parts.db.read("payments.measure", (), |conn, ()| Box::pin(store::measure(conn))).await?;
        metrics::open(in_doubt, owed, oldest_secs);
        Ok(())
    }

    async fn look_after_batch(&self, gateway: &dyn Gateway, status: PaymentStatus) -> Result<usize, Problem> {
        let settings = &self.parts.settings;
        let input = (status, settings.recovery_batch_max, Duration::from_secs(settings.lease_secs));
        let (now, claimed) = self.parts.db.in_tx("payments.claim", input, |conn, input| claim(conn, *input)).await?;
        let count = claimed.len();
        let mut asking = stream::iter(claimed)
            .map(|attempt| async move { (attempt.id, self.look_after(gateway, &attempt, now).await) })
            .buffer_unordered(settings.recovery_parallel_max.max(1));
        let mut open =
            Open { later: Vec::new(), left: Vec::new(), longest: Duration::from_secs(settings.pause_max_secs) };
        while let Some((id, asked)) = asking.next().await {
            match asked {
                Asked::Done => {}
                Asked::Later => open.later.push(id),
                Asked::Left => open.left.push(id),
            }
        }
        drop(asking);
        if !open.later.is_empty() || !open.left.is_empty() {
            self.parts.db.in_tx("payments.postpone", open, |conn, open| open.put_off(conn)).await?;
        }
        Ok(count)
    }

    /// Asks about one of them. A failure is only ever a reason to ask later.
    async fn look_after(&self, gateway: &dyn Gateway, attempt: &Attempt, now: Timestamp) -> Asked {
        if self.is_draining() {
            return Asked::Left;
        }
        let asked = match attempt.status {
            PaymentStatus::Pending => self.find_out(gateway, attempt, now).await,
            PaymentStatus::Refunding => self.give_back(gateway, attempt).await,
            // Nothing is due of any other.
            PaymentStatus::Succeeded | PaymentStatus::Failed | PaymentStatus::Refunded => Ok(Asked::Later),
        };
        match asked {
            Ok(asked) => asked,
            Err(problem) => {
                metrics::check("failed");
                tracing::warn!(payment = %attempt.id, %problem, "an open payment is asked about later");
                Asked::Later
            }
        }
    }

    async fn find_out(&self, gateway: &dyn Gateway, attempt: &Attempt, now: Timestamp) -> Result<Asked, Problem> {
        let is_abandoned = self.is_abandoned(attempt, now);
        let Some(intent) = attempt.intent.clone().map(IntentId) else {
            if !is_abandoned {
                return Ok(Asked::Later);
            }
            return Ok(closed(attempt.id, &self.close_unnamed(attempt.id).await?));
        };
        let standing = match gateway.find(&intent).await {
            Ok(Standing::Unconfirmed) if is_abandoned => gateway.cancel(attempt.id, &intent).await,
            known => known,
        };
        let verdict = match standing {
            Ok(Standing::Succeeded) => Verdict::Charged,
            Ok(Standing::Declined(code)) => Verdict::NotCharged(Reason::Declined(code)),
            Ok(Standing::Cancelled) => Verdict::NotCharged(Reason::Abandoned),
            Ok(Standing::Unconfirmed | Standing::Processing) => {
                metrics::check("undecided");
                return Ok(Asked::Later);
            }
            Err(error) => return Ok(silent(attempt, &error)),
        };
        Ok(closed(attempt.id, &self.settle(attempt.id, verdict).await?))
    }

    /// Whether nobody is confirming it any more: its request was answered, or has had all the time there is.
    fn is_abandoned(&self, attempt: &Attempt, now: Timestamp) -> bool {
        let grace = Duration::from_secs(self.parts.settings.grace_secs);
        attempt.request.is_none() || now >= attempt.created_at.plus(grace)
    }

    async fn give_back(&self, gateway: &dyn Gateway, attempt: &Attempt) -> Result<Asked, Problem> {
        let Some(intent) = attempt.intent.clone().map(IntentId) else {
            return Err(Problem::internal(anyhow::anyhow!("a charge that the provider has no name for")));
        };
        match gateway.refund(attempt.id, &intent, attempt.amount).await {
            Ok(RefundStanding::Succeeded) => {
                let refunded = Refunded { id: attempt.id, payables: self.parts.payables.clone() };
                self.parts.db.in_tx("payments.refunded", refunded, |conn, refunded| refunded.run(conn)).await?;
                metrics::check("refunded");
                Ok(Asked::Done)
            }
            Ok(RefundStanding::Pending) => {
                metrics::check("refund_pending");
                Ok(Asked::Later)
            }
            Ok(RefundStanding::Failed) => {
                metrics::check("refund_failed");
                tracing::error!(payment = %attempt.id, "the provider cannot give the money back: a person must look at it");
                Ok(Asked::Later)
            }
            Err(error) => Ok(silent(attempt, &error)),
        }
    }
}

fn closed(id: PaymentId, settled: &Settled) -> Asked {
    if settled.is_first {
        metrics::check("settled");
        let outcome = metrics::outcome_of(&settled.attempt);
        tracing::info!(payment = %id, outcome, "an undecided payment was settled");
    }
    if settled.attempt.status == PaymentStatus::Pending { Asked::Later } else { Asked::Done }
}

fn silent(attempt: &Attempt, error: &GatewayError) -> Asked {
    metrics::check("no_answer");
    tracing::info!(payment = %attempt.id, %error, "the payment provider does not say what became of a payment");
    Asked::Later
}

/// What is still open after a batch.
struct Open {
    later: Vec<PaymentId>,
    left: Vec<PaymentId>,
    longest: Duration,
}

impl Open {
    fn put_off<'c>(&'c self, conn: &'c mut Conn) -> BoxFuture<'c, Result<(), Problem>> {
        Box::pin(async move {
            store::postpone(conn, &self.later, self.longest).await?;
            store::give_back(conn, &self.left).await
        })
    }
}

/// The provider has given the money back.
pub(super) struct Refunded {
    pub id: PaymentId,
    pub payables: Payables,
}

impl Refunded {
    pub(super) fn run<'c>(&'c self, conn: &'c mut Conn) -> BoxFuture<'c, Result<(), Problem>> {
        Box::pin(async move {
            let attempt = store::find_for_update(conn, self.id).await?;
            let Some(attempt) = attempt.filter(|attempt| attempt.status == PaymentStatus::Refunding) else {
                return Ok(());
            };
            if !store::mark_given_back(conn, attempt.id).await? {
                return Err(Problem::internal(anyhow::anyhow!("a refund was lost while it was locked")));
            }
            self.payables.of(attempt.subject)?.refunded(conn, &attempt).await
        })
    }
}

type Claimed = (Timestamp, Vec<Attempt>);

fn claim(
    conn: &mut Conn,
    (status, limit, lease): (PaymentStatus, u32, Duration),
) -> BoxFuture<'_, Result<Claimed, Problem>> {
    Box::pin(async move { Ok((db::now(conn).await?, store::claim(conn, status, limit, lease).await?)) })
}
