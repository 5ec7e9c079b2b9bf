//! Sends what is due. Every instance runs one; which of them sends a mail is decided by its row.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use rand::Rng as _;

use super::domain::{Mail, delay_after};
use super::service::{Mails, Writer};
use super::transport::{Refusal, Transport};
use super::{metrics, store};
use crate::platform::clock::Clock;
use crate::platform::error::Problem;
use crate::platform::shutdown::Shutdown;

/// A lease is longer than writing and sending a batch takes by this much.
const LEASE_MARGIN_SECS: u64 = 60;
/// How long a letter may take to be written: a few reads.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// Sends mails.
#[derive(Clone, Debug)]
pub struct Mailer {
    mails: Mails,
    writer: Arc<dyn Writer>,
    transport: Arc<dyn Transport>,
    clock: Clock,
    /// Mails sent at once.
    parallel: u32,
    /// Longest time for one.
    limit: Duration,
    pause: Duration,
}

/// How one try ended.
enum Outcome {
    Sent,
    Void,
    Failed(Refusal),
}

/// How much at once, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Mails sent at once.
    pub parallel: u32,
    /// Longest time for one.
    pub limit: Duration,
    /// How often is looked for mails when nothing wakes the mailer.
    pub pause: Duration,
}

impl Mailer {
    /// Sends these mails, as the writer says them, this way.
    #[must_use]
    pub fn new(
        mails: Mails,
        writer: Arc<dyn Writer>,
        transport: Arc<dyn Transport>,
        clock: Clock,
        bounds: Bounds,
    ) -> Self {
        let Bounds { parallel, limit, pause } = bounds;
        Self { mails, writer, transport, clock, parallel: parallel.max(1), limit, pause }
    }

    /// Sends until shutdown. A batch that has begun is sent to its end.
    pub async fn run(self, shutdown: Shutdown) {
        while !shutdown.is_requested() {
            let is_full = match self.send_due().await {
                Ok(count) => count >= self.parallel as usize,
                Err(problem) => {
                    tracing::warn!(%problem, "mails are not sent");
                    false
                }
            };
            if !is_full {
                tokio::select! {
                    () = tokio::time::sleep(self.pause) => {}
                    () = self.mails.woken() => {}
                    () = shutdown.requested() => {}
                }
            }
        }
    }

    /// Claims what is due, as much as may be sent at once, and sends it. Returns how many.
    ///
    /// # Errors
    /// Where MySQL does not answer. What was not claimed stays due.
    pub async fn send_due(&self) -> Result<usize, Problem> {
        let db = self.mails.db();
        let next = db.read("mails.find_next_due", (), |conn, ()| Box::pin(store::find_next_due(conn))).await?;
        let now = self.clock.now();
        metrics::overdue(next.map_or(0, |due_at| now.since(due_at).as_secs()));
        // Until a moment from now: the database's clock decides what is due, and this one may be a little behind it.
        if next.is_none_or(|due_at| due_at > now.plus(Duration::from_secs(1))) {
            return Ok(0);
        }
        let lease = (self.limit + WRITE_MAX).as_secs() + LEASE_MARGIN_SECS;
        let claim = db.in_tx("mails.claim", (self.parallel, lease), |conn, (limit, lease_secs)| {
            Box::pin(store::claim(conn, *limit, *lease_secs))
        });
        let claimed = claim.await?;
        let count = claimed.len();
        let sending = stream::iter(claimed).map(|mail| self.carry_out(mail));
        sending.buffer_unordered(self.parallel as usize).collect::<()>().await;
        Ok(count)
    }

    async fn carry_out(&self, mail: Mail) {
        let outcome = self.attempt(&mail).await;
        let (state, word, result) = match &outcome {
            Outcome::Sent => (Some(store::SENT), "", "sent"),
            Outcome::Void => (Some(store::VOID), "", "void"),
            Outcome::Failed(refusal) if refusal.is_permanent => (Some(store::DEAD), refusal.word.as_str(), "dead"),
            Outcome::Failed(refusal) => (None, refusal.word.as_str(), "failed"),
        };
        let delay = delay_after(mail.attempts.saturating_add(1), rand::rng().random_range(0.0..=1.0));
        let (state, result) = match (state, delay) {
            (None, None) => (Some(store::DEAD), "dead"),
            (state, _) => (state, result),
        };
        metrics::tried(mail.kind, result);
        if state == Some(store::DEAD) {
            tracing::warn!(mail = %mail.id, kind = mail.kind.name(), reason = word, "mail is dead");
        }
        let in_micros = delay.map_or(0, |delay| i64::try_from(delay.as_micros()).unwrap_or(i64::MAX));
        let input = (mail, state, word.to_owned(), in_micros);
        let kept = self.mails.db().in_tx("mails.settle", input, |conn, (mail, state, word, in_micros)| {
            Box::pin(async move {
                match *state {
                    Some(state) => store::end(conn, mail, state, word).await,
                    None => store::retry(conn, mail, word, *in_micros).await,
                }
            })
        });
        match kept.await {
            Ok(true) => {}
            // Erased meanwhile, or so slow that another instance has it.
            Ok(false) => tracing::info!(mail = %mail.id, "a mail's end was not recorded: it is no longer ours"),
            Err(problem) => tracing::warn!(mail = %mail.id, %problem, "a mail's end was not recorded"),
        }
    }

    async fn attempt(&self, mail: &Mail) -> Outcome {
        let letter = match tokio::time::timeout(WRITE_MAX, self.writer.write(*mail)).await {
            Ok(Ok(Some(letter))) => letter,
            Ok(Ok(None)) => return Outcome::Void,
            Ok(Err(problem)) => {
                tracing::warn!(mail = %mail.id, %problem, "a letter could not be written");
                return Outcome::Failed(Refusal::passing("unwritten"));
            }
            Err(_) => return Outcome::Failed(Refusal::passing("unwritten")),
        };
        match tokio::time::timeout(self.limit, self.transport.send(mail.id, letter)).await {
            Ok(Ok(())) => Outcome::Sent,
            Ok(Err(refusal)) => Outcome::Failed(refusal),
            Err(_) => Outcome::Failed(Refusal::passing("timeout")),
        }
    }
}
