//! One call to the provider: within bounds of time, number and size, so that a provider in trouble is nobody else's.
//!
//! A call that was not written to a connection is told apart from one whose outcome nobody knows: the first has had no
//! effect, the second may have had.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus::{HistogramVec, IntGaugeVec};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, Url};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::payments::gateway::GatewayError;
use crate::payments::settings::{Settings, check_secret};
use crate::platform::breaker::Breaker;
use crate::platform::config::{ConfigError, Secret};
use crate::platform::telemetry::{Seldom, metrics};

/// The version of the API whose replies `wire` reads.
const API_VERSION: &str = "2024-06-20";
/// A longer reply is not read to its end. An intent takes about 2 KB.
const REPLY_BYTES_MAX: usize = 256 * 1024;
/// How a key begins that moves nobody's money.
const TEST_KEY: &str = "sk_test_";
/// Shorter than any provider keeps an idle connection, so that few calls meet one that is being closed.
const IDLE: Duration = Duration::from_secs(20);

/// A call that nobody waits for any more counts as one without an answer once it has taken so long.
const ABANDONED: Duration = Duration::from_secs(1);

static CALL_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    metrics::histogram(
        "frontrow_provider_call_seconds",
        "Time of a call to the card provider, waiting for its turn included.",
        &["operation", "result"],
    )
});
static CALLS_ACTIVE: LazyLock<IntGaugeVec> =
    LazyLock::new(|| metrics::gauge("frontrow_provider_calls_active", "Calls to the card provider under way.", &[]));

/// What is asked of the provider.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// As metrics call it.
    pub operation: &'static str,
    pub method: Method,
    /// The parts of the path after `/v1/`.
    pub path: &'a [&'a str],
    /// Parameters: in the address of a GET, in the body of a POST.
    pub parameters: Vec<(&'static str, String)>,
    /// Under which the provider carries it out once.
    pub key: Option<String>,
}

/// What the provider said, whatever it was.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    /// Whether this is what was said to an earlier call with the same key, and may be out of date.
    pub is_replayed: bool,
    /// The provider's name for the call, for asking its support.
    pub request: Option<String>,
    pub body: Bytes,
}

/// The way to the provider. Clones share its bounds.
#[derive(Clone)]
pub(super) struct Transport {
    client: Client,
    base: Url,
    key: Secret,
    places: Arc<Semaphore>,
    wait: Duration,
    timeout: Duration,
    breaker: Breaker,
    refusals: Arc<Seldom>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

impl Transport {
    /// The way to the configured provider.
    ///
    /// # Errors
    /// Where a setting makes no sense, the key is weak, or a live one would be sent in the clear to another machine.
    pub(super) fn new(settings: &Settings) -> Result<Self, ConfigError> {
        check_secret("payments.secret_key", &settings.secret_key)?;
        let base = base_of(&settings.base_url, settings.secret_key.expose().starts_with(TEST_KEY))?;
        for (name, value) in [
            ("payments.parallel_max", settings.parallel_max as u64),
            ("payments.connect_timeout_ms", settings.connect_timeout_ms),
            ("payments.breaker_failures", settings.breaker_failures.into()),
        ] {
            if value == 0 {
                return Err(rejected(name, "at least 1"));
            }
        }
        if settings.connect_timeout_ms >= settings.timeout_ms {
            return Err(rejected(
                "payments.timeout_ms",
                "longer than payments.connect_timeout_ms, which is a part of it",
            ));
        }
        let client = Client::builder()
            .user_agent(concat!("frontrow/", env!("CARGO_PKG_VERSION")))
            // The key goes to the configured address and nowhere else.
            .redirect(Policy::none())
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_millis(settings.connect_timeout_ms))
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(settings.parallel_max)
            .build()
            .map_err(|error| rejected("payments.base_url", &format!("an address that can be called: {error}")))?;
        let pause = Duration::from_millis(settings.breaker_pause_ms);
        Ok(Self {
            client,
            base,
            key: settings.secret_key.clone(),
            places: Arc::new(Semaphore::new(settings.parallel_max.min(Semaphore::MAX_PERMITS))),
            wait: Duration::from_millis(settings.wait_ms),
            timeout: Duration::from_millis(settings.timeout_ms),
            breaker: Breaker::new("card_provider", settings.breaker_failures, pause),
            refusals: Arc::default(),
        })
    }

    /// Makes the call.
    ///
    /// # Errors
    /// [`GatewayError::NotSent`] where the provider never saw it, [`GatewayError::Unknown`] where no whole answer came.
    pub(super) async fn send(&self, call: Call<'_>) -> Result<Answer, GatewayError> {
        let started = Instant::now();
        let operation = call.operation;
        let outcome = self.within_bounds(call).await;
        let result = match &outcome {
            Ok(answer) if answer.status < 300 => "ok",
            Ok(answer) if answer.status == 402 => "declined",
            Ok(answer) if (400..500).contains(&answer.status) => "refused",
            Ok(_) => "failed",
            Err(GatewayError::NotSent(_)) => "not_sent",
            Err(_) => "lost",
        };
        CALL_SECONDS.with_label_values(&[operation, result]).observe(started.elapsed().as_secs_f64());
        if let Err(error) = &outcome {
            tracing::debug!(operation, %error, "no answer from the card provider");
        }
        outcome
    }

    async fn within_bounds(&self, call: Call<'_>) -> Result<Answer, GatewayError> {
        // Asked before waiting for a place: those that have one may be waiting for a provider that hangs.
        self.refuse_while_open()?;
        let _place = self.place().await?;
        self.refuse_while_open()?;
        if !self.breaker.lets_pass(Instant::now()) {
            return Err(left_alone());
        }
        let mut active = Active::begin(&self.breaker, call.operation);
        let outcome = timeout(self.timeout, self.exchange(call)).await;
        active.is_over = true;
        let Ok(outcome) = outcome else {
            self.breaker.failed(Instant::now());
            return Err(GatewayError::Unknown("no answer in time".to_owned()));
        };
        match &outcome {
            // Somebody in front of the provider tells that it is not there.
            Ok(answer) if !matches!(answer.status, 502..=504) => {
                self.breaker.succeeded(Instant::now());
                if matches!(answer.status, 401 | 403) && self.refusals.is_due() {
                    tracing::error!(status = answer.status, "the card provider refuses payments.secret_key");
                }
            }
            _ => self.breaker.failed(Instant::now()),
        }
        outcome
    }

    fn refuse_while_open(&self) -> Result<(), GatewayError> {
        if self.breaker.is_open(Instant::now()) { Err(left_alone()) } else { Ok(()) }
    }

    async fn place(&self) -> Result<SemaphorePermit<'_>, GatewayError> {
        match timeout(self.wait, self.places.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(GatewayError::NotSent("too many calls are under way".to_owned())),
        }
    }

    async fn exchange(&self, call: Call<'_>) -> Result<Answer, GatewayError> {
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => _ = segments.pop_if_empty().push("v1").extend(call.path),
            Err(()) => return Err(GatewayError::NotSent("the provider's address takes no path".to_owned())),
        }
        let mut request = self.client.request(call.method.clone(), url).bearer_auth(self.key.expose());
        request = request.header("stripe-version", API_VERSION);
        request = match call.method {
            Method::GET => request.query(&call.parameters),
            _ => request.form(&call.parameters),
        };
        if let Some(key) = call.key {
            request = request.header("idempotency-key", key);
        }
        let response = request.send().await.map_err(|error| lost(&error))?;
        let header = |name: &str| response.headers().get(name)?.to_str().ok().map(str::to_owned);
        let is_replayed = header("idempotent-replayed").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let (status, request) = (response.status().as_u16(), header("request-id"));
        Ok(Answer { status, is_replayed, request, body: read(response).await? })
    }
}

fn left_alone() -> GatewayError {
    GatewayError::NotSent("it has not answered lately and is left alone for a moment".to_owned())
}

/// Without the address: it may hold what others should not see in a log.
fn lost(error: &reqwest::Error) -> GatewayError {
    if error.is_builder() {
        return GatewayError::NotSent("the request cannot be written".to_owned());
    }
    if error.is_connect() {
        return GatewayError::NotSent("no connection".to_owned());
    }
    GatewayError::Unknown("the connection broke before the answer".to_owned())
}

async fn read(mut response: Response) -> Result<Bytes, GatewayError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| lost(&error))? {
        if body.len() + chunk.len() > REPLY_BYTES_MAX {
            return Err(GatewayError::Unknown("the answer is too long".to_owned()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}

fn rejected(name: &'static str, reason: &str) -> ConfigError {
    ConfigError::Rejected { name, reason: reason.to_owned() }
}

/// A key for tests may go to another machine in the clear: to a sandbox in the next container, say.
fn base_of(text: &str, is_test: bool) -> Result<Url, ConfigError> {
    let refuse = |reason: &str| rejected("payments.base_url", reason);
    let url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
    if url.cannot_be_a_base() || !matches!(url.scheme(), "http" | "https") {
        return Err(refuse("expected an address such as https://api.stripe.com"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("an address alone: the key is payments.secret_key"));
    }
    let is_here = url.host_str().is_some_and(|host| {
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    });
    if url.scheme() == "http" && !is_here && !is_test {
        return Err(refuse("another machine is called by https: the key would be readable on the way"));
    }
    Ok(url)
}

/// Counts a call while it is under way. Where whoever made it does not wait for its end, but has waited for long, the
/// provider has failed: else one that hangs would never be left alone, as buyers' patience ends first.
struct Active<'a> {
    breaker: &'a Breaker,
    operation: &'static str,
    began: Instant,
    is_over: bool,
}

impl<'a> Active<'a> {
    fn begin(breaker: &'a Breaker, operation: &'static str) -> Self {
        CALLS_ACTIVE.with_label_values::<&str>(&[]).inc();
        Self { breaker, operation, began: Instant::now(), is_over: false }
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        CALLS_ACTIVE.with_label_values::<&str>(&[]).dec();
        let took = self.began.elapsed();
        if !self.is_over && took >= ABANDONED {
            CALL_SECONDS.with_label_values(&[self.operation, "lost"]).observe(took.as_secs_f64());
            self.breaker.failed(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_key_is_never_sent_in_the_clear_to_another_machine() {
        for good in [
            "https://api.stripe.com",
            "https://pay.example.com/stripe/",
            "http://127.0.0.1:8111",
            "http://localhost:1",
            "http://[::1]:9",
        ] {
            assert!(base_of(good, false).is_ok(), "{good}");
        }
        for bad in [
            "",
            "api.stripe.com",
            "http://api.stripe.com",
            "http://10.0.0.1",
            "ftp://127.0.0.1",
            "mailto:a@b.c",
            "https://sk_live@api.stripe.com",
            "https://api.stripe.com?key=a",
            "http://localhost.example.com",
        ] {
            let refusal = base_of(bad, false).unwrap_err().to_string();
            assert!(refusal.starts_with("payments.base_url: "), "{bad}: {refusal}");
        }
        assert!(base_of("http://psp:8111", true).is_ok() && base_of("http://psp:8111", false).is_err());
        assert!(base_of("ftp://psp:8111", true).is_err());
    }
}
