//! Carries one delivery to its address: the only place that makes requests for webhooks.

use std::error::Error;
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Response, Url, redirect};
use uuid::Uuid;

use super::address::{Forbidden, Guard};
use super::domain::Outcome;
use super::signature::SigningSecret;
use crate::notices::Settings;
use crate::platform::clock::Timestamp;
use crate::platform::config::ConfigError;

/// Connections kept open to one host, and how long.
const IDLE_PER_HOST: usize = 4;
const IDLE: Duration = Duration::from_secs(30);

/// Sends. Clones share connections.
#[derive(Clone, Debug)]
pub(super) struct Courier {
    client: Client,
    guard: Guard,
    reply_bytes_max: usize,
}

impl Courier {
    /// A client that follows nobody anywhere.
    ///
    /// # Errors
    /// Where no client can be made.
    pub(super) fn new(settings: &Settings) -> Result<Self, ConfigError> {
        let guard = Guard::new(settings);
        let limit = Duration::from_millis(settings.timeout_ms);
        let client = Client::builder()
            .dns_resolver(std::sync::Arc::new(guard.clone()))
            .redirect(redirect::Policy::none())
            // A proxy in the environment would resolve names by itself.
            .no_proxy()
            .referer(false)
            .connect_timeout(limit / 2)
            .timeout(limit)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .pool_idle_timeout(IDLE)
            .user_agent(concat!("frontrow/", env!("CARGO_PKG_VERSION")))
            .build();
        let client = client.map_err(|error| ConfigError::Rejected {
            name: "notices.timeout_ms",
            reason: format!("no client: {error}"),
        })?;
        Ok(Self { client, guard, reply_bytes_max: settings.reply_bytes_max })
    }

    /// One try.
    pub(super) async fn deliver(
        &self,
        url: &str,
        secret: &SigningSecret,
        event: Uuid,
        body: Vec<u8>,
        now: Timestamp,
    ) -> Outcome {
        let Ok(url) = Url::parse(url) else { return Outcome::Unanswered("bad_address") };
        if !self.guard.allows_literal(&url) {
            return Outcome::Unanswered("forbidden_address");
        }
        let (id, secs) = (event.to_string(), now.millis().div_euclid(1000));
        let signature = secret.sign(&id, secs, &body);
        let request = self.client.post(url).header(CONTENT_TYPE, "application/json").header("webhook-id", id);
        let request = request.header("webhook-timestamp", secs).header("webhook-signature", signature).body(body);
        match request.send().await {
            Ok(response) => {
                let status = response.status().as_u16();
                self.drain(response).await;
                match status {
                    200..300 => Outcome::Accepted(status),
                    410 => Outcome::Gone,
                    _ => Outcome::Refused(status),
                }
            }
            Err(error) => Outcome::Unanswered(word_for(&error)),
        }
    }

    /// Reads what little may come, so that the connection can be used again; more than that ends it. Whatever the body does, the
    /// status has been said.
    async fn drain(&self, mut response: Response) {
        let mut read = 0;
        while let Ok(Some(chunk)) = response.chunk().await {
            read += chunk.len();
            if read > self.reply_bytes_max {
                return;
            }
        }
    }
}

/// Never the error's own text: it may name addresses inside the house.
fn word_for(error: &reqwest::Error) -> &'static str {
    let mut causes = std::iter::successors(error.source(), |&cause| cause.source());
    if causes.any(<dyn Error>::is::<Forbidden>) {
        "forbidden_address"
    } else if error.is_timeout() {
        "timeout"
    } else if error.is_connect() {
        "unreachable"
    } else {
        "broken_off"
    }
}
