//! What many clients asked and saw, kept in order to be held against what is there afterwards.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::Rng as _;
use tokio::sync::watch;

use super::api::Call;
use super::{PATIENCE, Reply};

/// How long a client goes on asking, far above what any restart takes.
const STUBBORN: Duration = Duration::from_mins(3);

/// One request.
#[derive(Clone, Debug)]
pub struct Event {
    /// What it was about, in the test's words; mostly the client's name or key.
    pub about: String,
    /// From the beginning of the history.
    pub at: Duration,
    /// How long the client waited.
    pub took: Duration,
    /// The answer; none where the connection failed or ended first.
    pub reply: Option<Reply>,
}

impl Event {
    /// The status, 0 without an answer.
    pub fn status(&self) -> u16 {
        self.reply.as_ref().map_or(0, |reply| reply.status)
    }

    /// The problem's code, or nothing.
    pub fn code(&self) -> &str {
        self.reply.as_ref().and_then(|reply| reply.body["code"].as_str()).unwrap_or_default()
    }

    /// When the client may ask again, if it was told.
    pub fn retry_after(&self) -> Option<Duration> {
        let secs = self.reply.as_ref()?.header("retry-after")?.parse().ok()?;
        Some(Duration::from_secs(secs))
    }

    /// Whether it says that it took effect.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status())
    }
}

/// The record. Share it by reference or in an `Arc`.
#[derive(Debug)]
pub struct History {
    began: Instant,
    events: Mutex<Vec<Event>>,
    successes: watch::Sender<usize>,
}

impl Default for History {
    fn default() -> Self {
        Self { began: Instant::now(), events: Mutex::default(), successes: watch::Sender::new(0) }
    }
}

impl History {
    /// Sends and records. A client gives up after [`PATIENCE`], far past any deadline of the server.
    pub async fn send(&self, about: &str, call: Call<'_>) -> Event {
        let started = Instant::now();
        let reply = tokio::time::timeout(PATIENCE, call.try_send()).await.ok().and_then(Result::ok);
        let event = Event { about: about.to_owned(), at: started - self.began, took: started.elapsed(), reply };
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
        if event.is_success() {
            self.successes.send_modify(|count| *count += 1);
        }
        event
    }

    /// Sends the same request until it is answered, as a good client does: again after a lost connection, an error of the
    /// server or a key that is still running, at a random moment, but not before `Retry-After`.
    pub async fn insist<'a>(&self, about: &str, call: impl Fn() -> Call<'a>) -> Reply {
        let asking = async {
            loop {
                let event = self.send(about, call()).await;
                let is_answer = matches!(event.status(), 1..500) && event.code() != "idempotency_key_in_flight";
                if let Some(reply) = event.reply.clone().filter(|_| is_answer) {
                    return reply;
                }
                let pause = event.retry_after().unwrap_or_default();
                let spread = Duration::from_millis(rand::rng().random_range(10..250));
                tokio::time::sleep(pause + spread).await;
            }
        };
        let answer = tokio::time::timeout(STUBBORN, asking).await;
        answer.unwrap_or_else(|_| panic!("{about} is not answered: {:?}", self.outcomes()))
    }

    /// Waits until so many requests succeeded.
    pub async fn reaches(&self, successes: usize) {
        let mut count = self.successes.subscribe();
        let reached = tokio::time::timeout(STUBBORN, count.wait_for(|count| *count >= successes)).await;
        reached.unwrap_or_else(|_| panic!("{successes} successes: {:?}", self.outcomes())).expect("its own sender");
    }

    /// Asserts that nobody was told of an error of the server but "not now, come back at that time".
    #[track_caller]
    pub fn assert_no_server_error(&self) {
        for event in self.events() {
            let is_fair = event.status() < 500 || (event.status() == 503 && event.retry_after().is_some());
            assert!(is_fair, "{event:?}");
        }
    }

    /// Everything so far, in the order in which the answers came.
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often each outcome was seen: `201`, `409 seats_taken`, `0` for no answer.
    pub fn outcomes(&self) -> BTreeMap<String, usize> {
        let mut seen = BTreeMap::new();
        for event in self.events() {
            let outcome = format!("{} {}", event.status(), event.code());
            *seen.entry(outcome.trim_end().to_owned()).or_default() += 1;
        }
        seen
    }

    /// How many saw this outcome.
    pub fn count(&self, outcome: &str) -> usize {
        self.outcomes().get(outcome).copied().unwrap_or_default()
    }

    /// The time under which the middle answer came, and the longest.
    pub fn latency(&self) -> (Duration, Duration) {
        let mut times: Vec<Duration> = self.events().iter().map(|event| event.took).collect();
        times.sort_unstable();
        (times.get(times.len() / 2).copied().unwrap_or_default(), times.last().copied().unwrap_or_default())
    }

    /// What was seen that is none of these outcomes.
    pub fn others(&self, expected: &[&str]) -> BTreeMap<String, usize> {
        let mut outcomes = self.outcomes();
        outcomes.retain(|outcome, _| !expected.contains(&outcome.as_str()));
        outcomes
    }
}
