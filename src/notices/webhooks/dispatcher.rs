//! Sends what is due. Every instance runs one; which of them sends a delivery is decided by its row.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use super::courier::Courier;
use super::domain::{Claimed, EndpointId, Outcome, Target, delay_after};
use super::service::Webhooks;
use super::store::{self, Ended};
use super::{metrics, signature};
use crate::platform::clock::Clock;
use crate::platform::config::ConfigError;
use crate::platform::error::Problem;
use crate::platform::shutdown::Shutdown;
use crate::platform::telemetry::Seldom;

/// A lease is longer than a try by this much: nobody else sends what is only slow to be written down.
const LEASE_MARGIN_SECS: u64 = 60;

/// Sends deliveries. Clones share their places.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    webhooks: Webhooks,
    courier: Courier,
    clock: Clock,
    /// Of each active endpoint: how many more may be under way.
    places: Arc<Mutex<HashMap<EndpointId, Arc<Semaphore>>>>,
    under_way: TaskTracker,
    /// A secret whose key is gone is met at every look.
    shut: Arc<Seldom>,
}

/// A claimed delivery and what it needs.
struct Errand {
    target: Arc<Target>,
    secret: signature::SigningSecret,
    delivery: Claimed,
    _place: OwnedSemaphorePermit,
}

impl Dispatcher {
    /// For these endpoints.
    ///
    /// # Errors
    /// Where the settings make no client.
    pub fn new(webhooks: Webhooks, clock: Clock) -> Result<Self, ConfigError> {
        let courier = Courier::new(webhooks.settings())?;
        Ok(Self {
            webhooks,
            courier,
            clock,
            places: Arc::default(),
            under_way: TaskTracker::new(),
            shut: Arc::default(),
        })
    }

    /// Sends until shutdown, and waits for what is under way.
    pub async fn run(self, shutdown: Shutdown) {
        let pause = Duration::from_millis(self.webhooks.settings().poll_ms);
        while !shutdown.is_requested() {
            if let Err(problem) = self.dispatch().await {
                tracing::warn!(%problem, "webhooks are not sent");
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.webhooks.woken() => {}
                () = shutdown.requested() => {}
            }
        }
        self.settle().await;
    }

    /// Waits until nothing is under way.
    pub async fn settle(&self) {
        self.under_way.close();
        self.under_way.wait().await;
    }

    /// Claims what is due and begins to send it. Returns how many.
    ///
    /// # Errors
    /// Where MySQL does not answer. What was not claimed stays due.
    pub async fn dispatch(&self) -> Result<usize, Problem> {
        let targets =
            self.webhooks.db().read("webhooks.list_targets", (), |conn, ()| Box::pin(store::list_targets(conn)));
        let targets = targets.await?;
        let now = self.clock.now();
        let first = targets.iter().filter_map(|target| target.due_at).min();
        metrics::overdue(first.map_or(0, |due_at| now.since(due_at).as_secs()));
        self.lock().retain(|id, _| targets.iter().any(|target| target.id == *id));
        let mut begun = 0;
        // Until a moment from now: the database's clock decides what is due, and this one may be a little behind it.
        let soon = now.plus(Duration::from_secs(1));
        for target in targets.into_iter().filter(|target| target.due_at.is_some_and(|due_at| due_at <= soon)) {
            begun += self.serve(target).await?;
        }
        Ok(begun)
    }

    /// Claims as many deliveries of one endpoint as it has places for.
    async fn serve(&self, target: Target) -> Result<usize, Problem> {
        let settings = self.webhooks.settings();
        let places = {
            let mut all = self.lock();
            let most = settings.parallel_per_endpoint.max(1) as usize;
            all.entry(target.id).or_insert_with(|| Arc::new(Semaphore::new(most))).clone()
        };
        let free = u32::try_from(places.available_permits()).unwrap_or(u32::MAX);
        if free == 0 {
            return Ok(0);
        }
        let Some(secret) = self.webhooks.opened(&target.secret_sealed) else {
            if self.shut.is_due() {
                tracing::error!(webhook = %target.id, "the secret cannot be opened: was its key taken away?");
            }
            return Ok(0);
        };
        let input = (target.id, free, settings.timeout_ms / 1000 + LEASE_MARGIN_SECS);
        let claimed = self.webhooks.db().in_tx("webhooks.claim", input, |conn, (endpoint, limit, lease_secs)| {
            Box::pin(store::claim(conn, *endpoint, *limit, *lease_secs))
        });
        let claimed = claimed.await?;
        let (count, target) = (claimed.len(), Arc::new(target));
        for delivery in claimed {
            // Only this loop takes places, so there is one for each that was claimed.
            let Ok(place) = places.clone().try_acquire_owned() else { break };
            let errand = Errand { target: target.clone(), secret: secret.clone(), delivery, _place: place };
            let dispatcher = self.clone();
            self.under_way.spawn(async move {
                dispatcher.carry_out(errand).await;
                dispatcher.webhooks.wake();
            });
        }
        Ok(count)
    }

    async fn carry_out(&self, errand: Errand) {
        let Errand { target, secret, delivery, .. } = errand;
        let Claimed { event_id, body, attempts, fence } = delivery;
        let outcome = self.courier.deliver(&target.url, &secret, event_id, body, self.clock.now()).await;
        let ended =
            Ended { endpoint: target.id, event: event_id, fence, status: outcome.status(), word: outcome.word() };
        let delay = delay_after(attempts.saturating_add(1), rand::rng().random_range(0.0..=1.0));
        let next = match (outcome, delay) {
            (Outcome::Accepted(_), _) => Next::End(store::ACCEPTED),
            (Outcome::Gone, _) => Next::Disable,
            (_, Some(delay)) => Next::Retry(i64::try_from(delay.as_micros()).unwrap_or(i64::MAX)),
            (_, None) => Next::End(store::DEAD),
        };
        metrics::tried(next.word());
        let kept = self.webhooks.db().in_tx("webhooks.settle", (ended, next), |conn, (ended, next)| {
            Box::pin(async move {
                match *next {
                    Next::End(state) => store::end_delivery(conn, *ended, state).await,
                    Next::Retry(in_micros) => store::retry(conn, *ended, in_micros).await,
                    Next::Disable => {
                        store::disable_endpoint(conn, ended.endpoint).await?;
                        store::end_delivery(conn, *ended, store::DEAD).await
                    }
                }
            })
        });
        match (kept.await, next) {
            (Ok(true), Next::Disable) => tracing::warn!(webhook = %ended.endpoint, "webhook disabled: it answered 410"),
            (Ok(true), Next::End(store::DEAD)) => {
                tracing::warn!(webhook = %ended.endpoint, event = %ended.event, reason = ended.word, "webhook delivery is dead");
            }
            (Ok(true), _) => {}
            (Ok(false), _) => {
                tracing::warn!(webhook = %ended.endpoint, "a delivery was claimed by another instance meanwhile");
            }
            (Err(problem), _) => {
                tracing::warn!(webhook = %ended.endpoint, %problem, "a delivery's end was not recorded");
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<EndpointId, Arc<Semaphore>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What becomes of a delivery after a try.
#[derive(Clone, Copy, Debug)]
enum Next {
    End(u8),
    /// In so many microseconds.
    Retry(i64),
    Disable,
}

impl Next {
    const fn word(self) -> &'static str {
        match self {
            Self::End(store::ACCEPTED) => "accepted",
            Self::End(_) => "dead",
            Self::Retry(_) => "failed",
            Self::Disable => "gone",
        }
    }
}
