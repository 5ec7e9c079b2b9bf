//! Subscribing, what an event becomes, dead letters, and forgetting.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use uuid::Uuid;

use super::address::Guard;
use super::domain::{
    DeadLetter, Endpoint, EndpointId, EndpointStatus, Envelope, NewEndpoint, WEBHOOK_EXISTS, WEBHOOKS_FULL,
    checked_topics, schema_version,
};
use super::signature::SigningSecret;
use super::store::{self, NewDelivery};
use crate::accounts::UserId;
use crate::notices::Settings;
use crate::platform::clock::Timestamp;
use crate::platform::config::Secret;
use crate::platform::db::{self, Conn, Db};
use crate::platform::error::{Fault, Problem};
use crate::platform::http::keyed::{Answer, CREATED, RequestKey};
use crate::platform::http::{Page, PageParams};
use crate::platform::idempotency::Idempotency;
use crate::platform::outbox::Event;
use crate::platform::token::{KeyRing, Sealer};

/// The member of an answer that has the secret.
const SECRET: &str = "secret";
/// Rows stored by one statement.
const ROWS_PER_INSERT: usize = 200;
/// Dead letters made due by one transaction.
const RESEND_ROWS: u32 = 1000;

/// Where it is written down what operators do; the log is another feature's.
pub trait ActionLog: fmt::Debug + Send + Sync {
    /// Writes an entry in the transaction of what it tells of.
    fn record<'c>(
        &'c self,
        conn: &'c mut Conn,
        operator: UserId,
        action: &'static str,
        details: &'c Value,
    ) -> BoxFuture<'c, Result<(), Problem>>;
}

/// What an operator wants subscribed.
#[derive(Clone, Debug)]
pub struct Order {
    /// Who orders it.
    pub operator: UserId,
    /// Where deliveries go.
    pub url: String,
    /// Which events.
    pub topics: Vec<String>,
}

/// The endpoints of an installation. Clones share them.
#[derive(Clone, Debug)]
pub struct Webhooks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: Db,
    idempotency: Idempotency,
    guard: Guard,
    sealer: Sealer,
    log: Arc<dyn ActionLog>,
    wake: Notify,
    settings: Settings,
}

struct Subscribing {
    inner: Arc<Inner>,
    operator: UserId,
    id: EndpointId,
    url: String,
    topics: Vec<&'static str>,
    sealed: Secret,
}

impl Webhooks {
    /// The endpoints in this database, with secrets sealed under these keys.
    #[must_use]
    pub fn new(
        (db, idempotency): (Db, Idempotency),
        keys: &KeyRing,
        log: Arc<dyn ActionLog>,
        settings: &Settings,
    ) -> Self {
        let guard = Guard::new(settings);
        let (sealer, settings) = (keys.sealer("webhook.secret", b""), settings.clone());
        Self(Arc::new(Inner { db, idempotency, guard, sealer, log, wake: Notify::new(), settings }))
    }

    pub(super) fn db(&self) -> &Db {
        &self.0.db
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Resolves when deliveries were stored here.
    pub(super) async fn woken(&self) {
        self.0.wake.notified().await;
    }

    /// Something may be due.
    pub(super) fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// The secret of an endpoint; none where its key is no longer known.
    pub(super) fn opened(&self, sealed: &Secret) -> Option<SigningSecret> {
        SigningSecret::from_bytes(&self.0.sealer.open(sealed.expose())?)
    }

    /// Subscribes an address to topics, once for a key. The secret is in the answer; what is kept of it anywhere is sealed.
    ///
    /// # Errors
    /// 422 `invalid_body`, 409 `webhook_exists`, 409 `webhooks_full`, and those of the key.
    pub async fn subscribe(&self, order: Order, key: RequestKey) -> Result<Answer, Problem> {
        let (url, topics) = (self.0.guard.checked_url(&order.url)?.to_string(), checked_topics(&order.topics)?);
        let sealed = Secret::new(self.0.sealer.seal(SigningSecret::random().bytes()));
        let (id, operator) = (EndpointId::new(), order.operator);
        let mut tries = 0_u16;
        let answer = loop {
            let (inner, url, topics) = (self.0.clone(), url.clone(), topics.clone());
            let subscribing = Subscribing { inner, operator, id, url, topics, sealed: sealed.clone() };
            let stored =
                self.0.idempotency.once("webhooks.subscribe", operator.0, key.clone(), subscribing, |conn, it| {
                    Box::pin(it.run(conn))
                });
            let stored = stored.await;
            tries = tries.saturating_add(1);
            match stored {
                // Another request took the slot, or the address: look again which. There are only so many who can.
                Err(problem)
                    if problem.fault() == Some(Fault::Duplicate)
                        && tries <= u16::from(self.0.settings.endpoints_max) => {}
                stored => break stored?,
            }
        };
        self.unsealed(&answer)
    }

    /// The answer as the operator gets it: what is kept for a repeat has the secret sealed.
    fn unsealed(&self, answer: &Answer) -> Result<Answer, Problem> {
        let mut body: Map<String, Value> = serde_json::from_slice(&answer.body).map_err(Problem::internal)?;
        let sealed = body.get(SECRET).and_then(Value::as_str).unwrap_or_default();
        let secret = self.opened(&Secret::new(sealed));
        let secret = secret.ok_or_else(|| Problem::internal(anyhow::anyhow!("a kept secret cannot be opened")))?;
        body.insert(SECRET.to_owned(), secret.text().into());
        let body = serde_json::to_vec(&body).map_err(Problem::internal)?;
        Ok(Answer { body: body.into(), status: answer.status, replayed: answer.replayed })
    }

    /// The endpoints, oldest first.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn list(&self, page: PageParams<EndpointId>) -> Result<Page<Endpoint>, Problem> {
        let input = (page.after.unwrap_or(EndpointId(Uuid::nil())), page.fetch());
        let found = self
            .0
            .db
            .read("webhooks.list", input, |conn, (after, limit)| Box::pin(store::list_endpoints(conn, *after, *limit)));
        Ok(Page::of(found.await?, &page, |endpoint| endpoint.id))
    }

    /// Takes an endpoint away. What is under way is sent to its end, the rest is not.
    ///
    /// # Errors
    /// 404 where there is none of that id.
    pub async fn remove(&self, operator: UserId, id: EndpointId) -> Result<(), Problem> {
        let input = (self.0.log.clone(), operator, id);
        let removal = self.0.db.in_tx("webhooks.remove", input, |conn, (log, operator, id)| {
            Box::pin(async move {
                if !store::remove_endpoint(conn, *id).await? {
                    return Err(Problem::not_found("webhook"));
                }
                log.record(conn, *operator, "webhooks.removed", &json!({"webhook_id": id})).await
            })
        });
        removal.await
    }

    /// Stores a delivery of each of these events for every active endpoint that asked for its topic. Repeatable.
    ///
    /// # Errors
    /// Where MySQL does not answer; then none is stored.
    pub async fn record(&self, events: Arc<[Event]>) -> Result<(), Problem> {
        let stored =
            self.0.db.in_tx("webhooks.record", events, |conn, events| Box::pin(record_in(conn, events))).await?;
        if stored {
            self.wake();
        }
        Ok(())
    }

    /// Dead letters behind the one that died at `after.0` with the event `after.1`, oldest first.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn list_dead(&self, after: (Timestamp, Uuid), limit: u32) -> Result<Vec<DeadLetter>, Problem> {
        let read = self.0.db.read("webhooks.list_dead", (after, limit), |conn, (after, limit)| {
            Box::pin(store::list_dead(conn, *after, *limit))
        });
        read.await
    }

    /// Makes the dead letters of one active endpoint, or of all of them, due again. Returns how many.
    ///
    /// # Errors
    /// 404 where there is no active endpoint of that id.
    pub async fn resend(&self, endpoint: Option<EndpointId>) -> Result<u64, Problem> {
        let active =
            self.0.db.read("webhooks.list_active", (), |conn, ()| Box::pin(store::list_subscriptions(conn))).await?;
        let wanted = |id: &EndpointId| endpoint.is_none_or(|wanted| wanted == *id);
        let wanted: Vec<EndpointId> = active.into_iter().map(|(id, _)| id).filter(wanted).collect();
        if wanted.is_empty() && endpoint.is_some() {
            return Err(Problem::not_found("active webhook"));
        }
        let mut total = 0;
        for id in wanted {
            loop {
                let resend =
                    self.0.db.in_tx("webhooks.resend", id, |conn, id| Box::pin(store::resend(conn, *id, RESEND_ROWS)));
                let made_due = resend.await?;
                total += made_due;
                if made_due < u64::from(RESEND_ROWS) {
                    break;
                }
            }
        }
        self.wake();
        Ok(total)
    }

    /// Forgets what was accepted or died long ago and what belongs to endpoints that were removed, and gives up what waits for
    /// disabled ones; at most `limit` rows of each. Returns the most that one of these did.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn tidy(&self, limit: u32) -> Result<u64, Problem> {
        let Settings { keep_hours, dead_keep_hours, .. } = self.0.settings;
        let mut most = 0;
        for (state, hours) in [(store::ACCEPTED, keep_hours), (store::DEAD, dead_keep_hours)] {
            let delete = self.0.db.in_tx("webhooks.tidy", (state, hours, limit), |conn, (state, hours, limit)| {
                Box::pin(store::delete_old(conn, *state, *hours, *limit))
            });
            most = most.max(delete.await?);
        }
        let over = self.0.db.read("webhooks.list_over", (), |conn, ()| Box::pin(store::list_over(conn))).await?;
        for (id, is_removed) in over {
            let done = self.0.db.in_tx("webhooks.clear", (id, is_removed, limit), |conn, (id, is_removed, limit)| {
                Box::pin(async move {
                    if !*is_removed {
                        return store::bury(conn, *id, *limit).await;
                    }
                    let deleted = store::delete_of_endpoint(conn, *id, *limit).await?;
                    if deleted == 0 {
                        store::delete_endpoint(conn, *id).await?;
                    }
                    Ok(deleted)
                })
            });
            most = most.max(done.await?);
        }
        Ok(most)
    }
}

impl Subscribing {
    /// The answer with the sealed secret.
    async fn run(&self, conn: &mut Conn) -> Result<Answer, Problem> {
        let taken = store::list_taken(conn).await?;
        if taken.iter().any(|(_, url)| *url == self.url) {
            return Err(Problem::new(&WEBHOOK_EXISTS));
        }
        let limit = self.inner.settings.endpoints_max;
        let free = (0..limit).find(|slot| taken.iter().all(|(other, _)| other != slot));
        let slot = free.ok_or_else(|| Problem::new(&WEBHOOKS_FULL).with("limit", limit))?;
        let topics = self.topics.join(",");
        store::insert_endpoint(conn, self.id, slot, &self.url, &topics, &self.sealed).await?;
        let details = json!({"webhook_id": self.id, "url": self.url, "topics": self.topics});
        self.inner.log.record(conn, self.operator, "webhooks.subscribed", &details).await?;
        let endpoint = Endpoint {
            id: self.id,
            url: self.url.clone(),
            topics: self.topics.iter().map(|topic| (*topic).to_owned()).collect(),
            status: EndpointStatus::Active,
            created_at: db::now(conn).await?,
        };
        Answer::json(CREATED, &NewEndpoint { endpoint, secret: self.sealed.expose().to_owned() })
    }
}

/// Whether any endpoint had asked for one of them.
async fn record_in(conn: &mut Conn, events: &[Event]) -> Result<bool, Problem> {
    let subscriptions = store::list_subscriptions(conn).await?;
    let mut deliveries = Vec::new();
    for event in events {
        let asked = |topics: &str| topics.split(',').any(|topic| topic == event.topic);
        let mut endpoints = subscriptions.iter().filter(|(_, topics)| asked(topics)).peekable();
        if endpoints.peek().is_none() {
            continue;
        }
        let body = body_of(event)?;
        deliveries.extend(endpoints.map(|(endpoint, _)| NewDelivery {
            endpoint: *endpoint,
            event: event.id,
            topic: event.topic.clone(),
            body: body.clone(),
        }));
    }
    // Whoever stores the same ones at the same time does it in the same order.
    deliveries.sort_by_key(|delivery| (delivery.endpoint, delivery.event));
    for part in deliveries.chunks(ROWS_PER_INSERT) {
        store::insert_deliveries(conn, part).await?;
    }
    Ok(!deliveries.is_empty())
}

fn body_of(event: &Event) -> Result<Vec<u8>, Problem> {
    let envelope = Envelope {
        id: event.id,
        topic: &event.topic,
        version: schema_version(&event.topic).unwrap_or(1),
        aggregate_id: event.aggregate_id,
        sequence: event.version,
        occurred_at: event.occurred_at,
        data: &event.payload,
    };
    serde_json::to_vec(&envelope).map_err(Problem::internal)
}
