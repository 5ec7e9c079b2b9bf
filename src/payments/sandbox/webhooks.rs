//! Sends what happened to the shop, signed; late, twice, out of order and forged where it is told to.
//!
//! Each webhook waits and is sent again by a task of its own: at most [`WAITING_MAX`] of them, of which [`SENT_AT_ONCE`] speak
//! to the shop at any time. What finds no room is counted, not kept.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Client;
use reqwest::redirect::Policy;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::domain::News;
use crate::payments::signature::{self, Signer};
use crate::platform::clock::{Clock, Timestamp};
use crate::platform::config::Secret;
use crate::platform::shutdown::Shutdown;

/// Webhooks that wait at once; further ones are lost.
const WAITING_MAX: u64 = 50_000;
const SENT_AT_ONCE: usize = 16;
/// How often one is sent at most, and the pauses between two times: doubled from the first to the last.
const TRIES_MAX: u32 = 14;
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// Longest wait for the shop's answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What chance has in store for one webhook.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fate {
    /// It waits so long.
    pub delay: Duration,
    /// It is sent twice.
    pub is_doubled: bool,
    /// A forgery goes before it.
    pub is_forged: bool,
    /// Its signature's clock is ahead by so many milliseconds.
    pub ahead_ms: i64,
}

/// What became of the webhooks so far.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Delivery {
    /// Events that happened, each of which is one webhook or more.
    pub events: u64,
    /// Webhooks that wait, or are being sent.
    pub waiting: u64,
    /// Webhooks that the shop took.
    pub delivered: u64,
    /// Webhooks that it did not take however often they were sent.
    pub given_up: u64,
    /// Webhooks for which there was no room.
    pub lost: u64,
    /// Forgeries that were sent.
    pub forged: u64,
    /// Forgeries that the shop took for the truth. One is too many.
    pub forged_accepted: u64,
}

#[derive(Debug, Default)]
struct Counts {
    events: AtomicU64,
    waiting: AtomicU64,
    delivered: AtomicU64,
    given_up: AtomicU64,
    lost: AtomicU64,
    forged: AtomicU64,
    forged_accepted: AtomicU64,
}

/// Sends webhooks. Clones share everything.
#[derive(Clone, Debug)]
pub struct Poster(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Client,
    signer: Signer,
    forger: Signer,
    clock: Clock,
    shutdown: Shutdown,
    url: Mutex<String>,
    places: Semaphore,
    counts: Counts,
}

impl Poster {
    /// Signs with this secret and sends to this address; nowhere where it is empty.
    ///
    /// # Errors
    /// Where no client can be made.
    pub fn new(secret: &Secret, url: String, clock: Clock, shutdown: Shutdown) -> reqwest::Result<Self> {
        let client = Client::builder().redirect(Policy::none()).no_proxy().timeout(TIMEOUT).build()?;
        let forger = Signer::new(&Secret::new(format!("whsec_{}", uuid::Uuid::new_v4().simple())));
        let (url, places) = (Mutex::new(url), Semaphore::new(SENT_AT_ONCE));
        let signer = Signer::new(secret);
        let counts = Counts::default();
        Ok(Self(Arc::new(Shared { client, signer, forger, clock, shutdown, url, places, counts })))
    }

    /// Sends to this address from now on, also what waits already.
    pub fn send_to(&self, url: &str) {
        url.clone_into(&mut self.0.url.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Where webhooks go.
    #[must_use]
    pub fn url(&self) -> String {
        self.0.url.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What became of them.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        let counts = &self.0.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Acquire);
        Delivery {
            events: read(&counts.events),
            waiting: read(&counts.waiting),
            delivered: read(&counts.delivered),
            given_up: read(&counts.given_up),
            lost: read(&counts.lost),
            forged: read(&counts.forged),
            forged_accepted: read(&counts.forged_accepted),
        }
    }

    /// Sends what happened, as fate has it.
    pub fn post(&self, news: &News, fate: Fate) {
        self.0.counts.events.fetch_add(1, Ordering::AcqRel);
        if self.url().is_empty() {
            return;
        }
        let id = format!("evt_{}", uuid::Uuid::new_v4().simple());
        let now = self.0.clock.now();
        let body = event(&id, news.kind, &news.object, now);
        if fate.is_forged
            && let Some(lie) = opposite(news)
        {
            let forged = event(&format!("evt_{}", uuid::Uuid::new_v4().simple()), lie.kind, &lie.object, now);
            self.spawn(Webhook { body: forged, is_forged: true, fate });
        }
        if fate.is_doubled {
            self.spawn(Webhook { body: body.clone(), is_forged: false, fate });
        }
        self.spawn(Webhook { body, is_forged: false, fate });
    }

    fn spawn(&self, webhook: Webhook) {
        let counts = &self.0.counts;
        if counts.waiting.fetch_add(1, Ordering::AcqRel) >= WAITING_MAX {
            counts.waiting.fetch_sub(1, Ordering::AcqRel);
            counts.lost.fetch_add(1, Ordering::AcqRel);
            return;
        }
        let shared = self.0.clone();
        self.0.shutdown.spawn(async move {
            let outcome = tokio::select! {
                outcome = shared.deliver(&webhook) => outcome,
                () = shared.shutdown.requested() => false,
            };
            let counts = &shared.counts;
            let counted = match (webhook.is_forged, outcome) {
                (false, true) => Some(&counts.delivered),
                (false, false) => Some(&counts.given_up),
                (true, true) => Some(&counts.forged_accepted),
                (true, false) => None,
            };
            if let Some(counted) = counted {
                counted.fetch_add(1, Ordering::AcqRel);
            }
            // Last: whoever sees that nothing waits sees what became of everything.
            counts.waiting.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

struct Webhook {
    body: Vec<u8>,
    is_forged: bool,
    fate: Fate,
}

impl Shared {
    /// Whether the shop took it.
    async fn deliver(&self, webhook: &Webhook) -> bool {
        tokio::time::sleep(webhook.fate.delay).await;
        if webhook.is_forged {
            self.counts.forged.fetch_add(1, Ordering::AcqRel);
            return self.send(webhook, &self.forger).await;
        }
        let mut pause = PAUSES.0;
        for _ in 1..TRIES_MAX {
            if self.send(webhook, &self.signer).await {
                return true;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
        self.send(webhook, &self.signer).await
    }

    async fn send(&self, webhook: &Webhook, signer: &Signer) -> bool {
        let Ok(_place) = self.places.acquire().await else { return false };
        let url = self.url.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let signed = signer.sign(&webhook.body, moved(self.clock.now(), webhook.fate.ahead_ms));
        let request = self.client.post(url).header(signature::HEADER, signed);
        let request = request.header("content-type", "application/json; charset=utf-8").body(webhook.body.clone());
        match request.send().await {
            Ok(response) if response.status().is_success() => true,
            Ok(response) => {
                tracing::debug!(status = response.status().as_u16(), webhook.is_forged, "a webhook was not taken");
                false
            }
            Err(error) => {
                tracing::debug!(error = %error.without_url(), "a webhook did not arrive");
                false
            }
        }
    }
}

fn moved(now: Timestamp, ahead_ms: i64) -> Timestamp {
    let by = Duration::from_millis(ahead_ms.unsigned_abs());
    if ahead_ms < 0 { now.minus(by) } else { now.plus(by) }
}

fn event(id: &str, kind: &str, object: &Value, now: Timestamp) -> Vec<u8> {
    let event = json!({
        "id": id,
        "object": "event",
        "type": kind,
        "created": now.millis().div_euclid(1000),
        "livemode": false,
        "data": {"object": object},
    });
    event.to_string().into_bytes()
}

/// What would do most harm if it were believed.
fn opposite(news: &News) -> Option<News> {
    let (kind, status) = match news.kind {
        "payment_intent.succeeded" => ("payment_intent.payment_failed", "requires_payment_method"),
        kind if kind.starts_with("payment_intent.") => ("payment_intent.succeeded", "succeeded"),
        "refund.failed" => ("refund.updated", "succeeded"),
        kind if kind.starts_with("refund.") => ("refund.failed", "failed"),
        _ => return None,
    };
    let mut object = news.object.clone();
    object["status"] = json!(status);
    if kind == "payment_intent.payment_failed" {
        object["last_payment_error"] = json!({"type": "card_error", "code": "card_declined"});
    }
    Some(News { kind, object })
}
