//! What the provider tells by itself: only ever a hint.
//!
//! A webhook that is signed by the provider makes its attempt due at once, so that the provider is asked sooner; nothing of what
//! it says is believed. So one that is early, late, repeated, out of order or forged can do no harm, and one that is lost
//! costs time only. Each event is acted upon once: its id is written in the transaction of what it does.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::Deserialize;

use super::domain::{INVALID_SIGNATURE, PaymentId};
use super::metrics;
use super::store::attempts as store;
use crate::platform::clock::{Clock, Timestamp};
use crate::platform::db::{Conn, Db};
use crate::platform::error::{Fault, Problem, codes};

/// Largest webhook that is read, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Longest id of an event.
const EVENT_ID_LEN_MAX: usize = 255;

/// Whether this header shows that this body is the provider's and was sent lately.
pub type Verify = Arc<dyn Fn(&str, &[u8], Timestamp) -> bool + Send + Sync>;

/// Takes webhooks.
#[derive(Clone)]
pub struct Webhooks {
    db: Db,
    clock: Clock,
    /// Nothing where there is no provider: every webhook is forged then.
    verify: Option<Verify>,
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhooks").field("is_open", &self.verify.is_some()).finish_non_exhaustive()
    }
}

/// What is read of an event.
#[derive(Debug, Deserialize)]
struct Event {
    id: String,
    #[serde(default)]
    data: Data,
}

#[derive(Debug, Default, Deserialize)]
struct Data {
    #[serde(default)]
    object: Object,
}

#[derive(Debug, Default, Deserialize)]
struct Object {
    metadata: Option<Metadata>,
}

#[derive(Debug, Default, Deserialize)]
struct Metadata {
    attempt: Option<String>,
}

impl Webhooks {
    /// Believes what `verify` does.
    #[must_use]
    pub fn new(db: Db, clock: Clock, verify: Option<Verify>) -> Self {
        Self { db, clock, verify }
    }

    /// Takes a webhook as it came. One that was taken before, or is about nothing of ours, is fine.
    ///
    /// # Errors
    /// `invalid_signature`, `malformed_json`, or where MySQL does not answer: the provider sends it again then.
    pub async fn take(&self, signature: Option<&str>, body: &[u8]) -> Result<(), Problem> {
        let now = self.clock.now();
        let is_believed = signature.zip(self.verify.as_ref()).is_some_and(|(header, verify)| verify(header, body, now));
        if !is_believed {
            metrics::webhook("forged");
            return Err(Problem::new(&INVALID_SIGNATURE));
        }
        let event: Event = serde_json::from_slice(body).map_err(|_| Problem::new(&codes::MALFORMED_JSON))?;
        if event.id.is_empty() || event.id.len() > EVENT_ID_LEN_MAX || !event.id.is_ascii() {
            return Err(Problem::invalid_body("id", "1 to 255 ASCII characters"));
        }
        let attempt = event.data.object.metadata.and_then(|metadata| metadata.attempt?.parse().ok());
        let hint = Hint { event: event.id, attempt };
        let taken = self.db.in_tx("payments.webhook", hint, |conn, hint| hint.take(conn)).await;
        match taken {
            Err(problem) if problem.fault() == Some(Fault::Duplicate) => metrics::webhook("repeated"),
            taken => {
                taken?;
                metrics::webhook("taken");
            }
        }
        Ok(())
    }

    /// Forgets what was told long ago, at most so many. Returns how many.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn delete_old(&self, limit: u32) -> Result<u64, Problem> {
        self.db
            .in_tx("payments.delete_old_events", limit, |conn, limit| Box::pin(store::delete_old_events(conn, *limit)))
            .await
    }
}

struct Hint {
    event: String,
    attempt: Option<PaymentId>,
}

impl Hint {
    fn take<'c>(&'c self, conn: &'c mut Conn) -> BoxFuture<'c, Result<(), Problem>> {
        Box::pin(async move {
            store::insert_event(conn, &self.event).await?;
            match self.attempt {
                Some(attempt) => store::hasten(conn, attempt).await,
                None => Ok(()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_whatever_else_it_says() {
        let attempt = |text: &str| {
            let event: Event = serde_json::from_str(text).expect("an event");
            event.data.object.metadata.and_then(|metadata| metadata.attempt)
        };
        assert_eq!(attempt(r#"{"id": "evt_1", "type": "x"}"#), None);
        assert_eq!(attempt(r#"{"id": "evt_1", "data": {"object": {"metadata": null, "amount": 5}}}"#), None);
        let told = r#"{"id": "evt_1", "data": {"object": {"metadata": {"attempt": "a", "other": "b"}}}}"#;
        assert_eq!(attempt(told).as_deref(), Some("a"));
    }
}
