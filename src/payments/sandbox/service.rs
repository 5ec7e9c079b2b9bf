//! Carries out what is asked of the sandbox: once per idempotency key, and as badly as it is told to.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::asked;
use super::behaviour::{Behaviour, Operation};
use super::domain::{Books, Later, Refusal};
use super::webhooks::{Fate, Poster};
use crate::platform::clock::Clock;
use crate::platform::config::Secret;
use crate::platform::shutdown::Shutdown;

/// Intents that are listed; past them the one that has been decided longest is forgotten, and counted in the totals alone.
const INTENTS_MAX: usize = 50_000;
/// Idempotency keys that are known; past them the oldest is forgotten.
const KEYS_MAX: usize = 200_000;
/// Longest key, as at Stripe.
const KEY_LEN_MAX: usize = 255;
/// Calls under way at once, those whose client has gone among them; further ones are turned away.
const CALLS_MAX: usize = 4096;
/// Intents on one page of the books, at most.
const PAGE_MAX: usize = 1000;
/// Webhooks change places within this time at least.
const SHUFFLE_MS_MIN: u64 = 200;

/// A call.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is asked.
    pub operation: Operation,
    /// What it is asked of, where the address has it.
    pub id: Option<String>,
    /// The parameters as they came.
    pub parameters: Vec<(String, String)>,
    /// The idempotency key.
    pub key: Option<String>,
}

/// What becomes of a call.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is answered.
    Said(Said),
    /// The connection is closed.
    Dropped,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Said {
    /// Of HTTP.
    pub status: u16,
    /// JSON.
    pub body: Bytes,
    /// Whether it was said before.
    pub is_replayed: bool,
}

/// What was done with the calls so far.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Calls {
    received: u64,
    replayed: u64,
    dropped_requests: u64,
    dropped_replies: u64,
    errors: u64,
    hung: u64,
}

/// Where a call's connection is closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Loss {
    #[default]
    Nowhere,
    BeforeWork,
    BeforeAnswer,
}

/// Where a call fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Failure {
    #[default]
    Nowhere,
    BeforeEffect,
    AfterEffect,
}

/// What chance has in store for a call.
#[derive(Clone, Copy, Debug, Default)]
struct Draw {
    loss: Loss,
    failure: Failure,
    is_unlucky: bool,
    delay: Duration,
    hang: Duration,
}

/// An idempotency key: the call that it stands for, and what was said; nothing while that is under way.
#[derive(Debug)]
struct Kept {
    call: String,
    said: Option<(u16, Bytes)>,
}

struct Inner {
    books: Books,
    keys: HashMap<String, Kept>,
    key_order: VecDeque<String>,
    behaviour: Behaviour,
    dice: StdRng,
    calls: Calls,
}

/// The sandbox. Clones share it.
#[derive(Clone)]
pub struct Sandbox(Arc<Shared>);

struct Shared {
    key: Secret,
    clock: Clock,
    poster: Poster,
    shutdown: Shutdown,
    places: Arc<Semaphore>,
    inner: Mutex<Inner>,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sandbox")
    }
}

impl Sandbox {
    /// Empty books, and nothing goes wrong yet.
    #[must_use]
    pub fn new(key: Secret, seed: u64, poster: Poster, clock: Clock, shutdown: Shutdown) -> Self {
        let inner = Mutex::new(Inner {
            books: Books::new(INTENTS_MAX),
            keys: HashMap::new(),
            key_order: VecDeque::new(),
            behaviour: Behaviour::default(),
            dice: StdRng::seed_from_u64(seed),
            calls: Calls::default(),
        });
        let places = Arc::new(Semaphore::new(CALLS_MAX));
        Self(Arc::new(Shared { key, clock, poster, shutdown, places, inner }))
    }

    /// Whether this is the shop's key.
    #[must_use]
    pub fn knows(&self, key: &str) -> bool {
        key == self.0.key.expose()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries a call out, to its end, whether or not its client waits for that.
    pub async fn call(&self, request: Request) -> Outcome {
        let Ok(place) = self.0.places.clone().try_acquire_owned() else {
            return said(&Refusal::plain(429, Some("rate_limit"), "Too many calls at once."));
        };
        let sandbox = self.clone();
        let carried_out = tokio::spawn(async move {
            let _place = place;
            sandbox.carry_out(request).await
        });
        carried_out.await.unwrap_or(Outcome::Dropped)
    }

    async fn carry_out(&self, request: Request) -> Outcome {
        let draw = self.lock().draw(request.operation);
        if draw.loss == Loss::BeforeWork {
            return Outcome::Dropped;
        }
        let known = self.lock().claim(&request);
        let answer = match known {
            Claim::Said(answer) => answer,
            Claim::Refused(refusal) => return said(&refusal),
            Claim::New => {
                tokio::time::sleep(draw.delay).await;
                self.work(&request, draw)
            }
        };
        tokio::time::sleep(draw.hang).await;
        if draw.loss == Loss::BeforeAnswer { Outcome::Dropped } else { Outcome::Said(answer) }
    }

    /// The effect, its news and what is kept under the key, all at once.
    fn work(&self, request: &Request, draw: Draw) -> Said {
        let mut inner = self.lock();
        inner.calls.errors += u64::from(draw.failure != Failure::Nowhere);
        let (mut status, mut body, mut is_kept) = (500, failure(), true);
        if draw.failure != Failure::BeforeEffect {
            let now = self.0.clock.now().millis().div_euclid(1000);
            let outcome = asked::perform(&mut inner.books, request, draw.is_unlucky, now);
            if draw.failure == Failure::Nowhere {
                (status, body, is_kept) = match outcome {
                    Ok(value) => (200, value, true),
                    Err(refusal) => (refusal.status, refusal.shown(), refusal.is_kept()),
                };
            }
        }
        let body = Bytes::from(body.to_string());
        if let Some(key) = &request.key {
            inner.keep(key, is_kept.then(|| (status, body.clone())));
        }
        self.tell(&mut inner);
        drop(inner);
        Said { status, body, is_replayed: false }
    }

    /// Sends webhooks of what happened, and sees to what happens later.
    fn tell(&self, inner: &mut Inner) {
        for news in inner.books.take_news() {
            let fate = inner.fate();
            self.0.poster.post(&news, fate);
        }
        let pause = Duration::from_millis(inner.behaviour.processing_ms);
        for later in inner.books.take_later() {
            let sandbox = self.clone();
            self.0.shutdown.spawn(async move {
                tokio::select! {
                    () = tokio::time::sleep(pause) => sandbox.happen(&later),
                    () = sandbox.0.shutdown.requested() => {}
                }
            });
        }
    }

    fn happen(&self, later: &Later) {
        let mut inner = self.lock();
        match later {
            // Somebody may have decided before.
            Later::Decide(intent, is_good) => drop(inner.books.decide(intent, *is_good).map(|_| ())),
            Later::Arrive(refund, is_good) => inner.books.arrive(refund, *is_good),
        }
        self.tell(&mut inner);
    }

    /// Decides on an intent that is processing, at once.
    ///
    /// # Errors
    /// Where there is none.
    pub fn decide(&self, intent: &str, is_good: bool) -> Result<Value, Refusal> {
        let mut inner = self.lock();
        let shown = inner.books.decide(intent, is_good)?.shown();
        self.tell(&mut inner);
        Ok(shown)
    }

    /// How it behaves.
    #[must_use]
    pub fn behaviour(&self) -> Behaviour {
        let mut behaviour = self.lock().behaviour.clone();
        behaviour.webhooks.url = Some(self.0.poster.url());
        behaviour
    }

    /// Behaves so from now on.
    ///
    /// # Errors
    /// A sentence about what makes no sense.
    pub fn behave(&self, behaviour: Behaviour) -> Result<(), String> {
        behaviour.check()?;
        let mut inner = self.lock();
        if let Some(url) = &behaviour.webhooks.url {
            self.0.poster.send_to(url);
        }
        if let Some(seed) = behaviour.seed {
            inner.dice = StdRng::seed_from_u64(seed);
        }
        inner.behaviour = behaviour;
        Ok(())
    }

    /// A page of the books: everything of it at one moment.
    #[must_use]
    pub fn books(&self, after: u64, limit: usize) -> Value {
        let limit = limit.clamp(1, PAGE_MAX);
        let inner = self.lock();
        let page: Vec<_> = inner.books.list(after, limit + 1).collect();
        let last = page.get(limit - 1).filter(|_| page.len() > limit).map(|intent| intent.number);
        let intents: Vec<Value> = page.iter().take(limit).map(|intent| intent.booked()).collect();
        json!({
            "totals": inner.books.totals(),
            "calls": inner.calls,
            "webhooks": self.0.poster.delivery(),
            "intents": intents,
            "next_after": last,
        })
    }
}

/// What is known of a call before it is carried out.
enum Claim {
    New,
    Said(Said),
    Refused(Refusal),
}

impl Inner {
    fn draw(&mut self, operation: Operation) -> Draw {
        self.calls.received += 1;
        let behaviour = self.behaviour.clone();
        let is_unlucky = operation == Operation::Confirm && self.dice.random_bool(behaviour.decline_rate);
        if !behaviour.operations.contains(&operation) {
            return Draw { is_unlucky, ..Draw::default() };
        }
        let failure = match (self.dice.random_bool(behaviour.error_rate), self.dice.random_bool(0.5)) {
            (false, _) => Failure::Nowhere,
            (true, false) => Failure::BeforeEffect,
            (true, true) => Failure::AfterEffect,
        };
        let loss = if self.dice.random_bool(behaviour.drop_request_rate) {
            Loss::BeforeWork
        } else if self.dice.random_bool(behaviour.drop_reply_rate) {
            Loss::BeforeAnswer
        } else {
            Loss::Nowhere
        };
        let hangs = behaviour.hang_ms > 0 && self.dice.random_bool(behaviour.hang_rate);
        self.calls.dropped_requests += u64::from(loss == Loss::BeforeWork);
        self.calls.dropped_replies += u64::from(loss == Loss::BeforeAnswer);
        self.calls.hung += u64::from(hangs && loss != Loss::BeforeWork);
        Draw {
            loss,
            failure,
            is_unlucky,
            delay: Duration::from_millis(behaviour.delay_ms),
            hang: if hangs { Duration::from_millis(behaviour.hang_ms) } else { Duration::ZERO },
        }
    }

    fn fate(&mut self) -> Fate {
        let webhooks = &self.behaviour.webhooks;
        let delay_ms = if webhooks.shuffle {
            self.dice.random_range(0..=2 * webhooks.delay_ms.max(SHUFFLE_MS_MIN))
        } else {
            webhooks.delay_ms
        };
        Fate {
            delay: Duration::from_millis(delay_ms),
            is_doubled: self.dice.random_bool(webhooks.duplicate_rate),
            is_forged: self.dice.random_bool(webhooks.wrong_signature_rate),
            ahead_ms: webhooks.clock_ahead_ms,
        }
    }

    /// Looks the key up, and takes it for this call where nobody has.
    fn claim(&mut self, request: &Request) -> Claim {
        let Some(key) = &request.key else { return Claim::New };
        if key.is_empty() || key.len() > KEY_LEN_MAX {
            let message = format!("An idempotency key has 1 to {KEY_LEN_MAX} characters.");
            return Claim::Refused(Refusal { kind: "idempotency_error", ..Refusal::plain(400, None, message) });
        }
        let call = format!("{:?} {:?} {:?}", request.operation, request.id, request.parameters);
        match self.keys.get(key) {
            Some(kept) if kept.call != call => {
                let message = "Keys for idempotent requests can only be used with the same parameters.";
                Claim::Refused(Refusal { kind: "idempotency_error", ..Refusal::plain(400, None, message) })
            }
            Some(Kept { said: Some((status, body)), .. }) => {
                self.calls.replayed += 1;
                Claim::Said(Said { status: *status, body: body.clone(), is_replayed: true })
            }
            Some(_) => {
                let message = "Another request with the same idempotency key is under way.";
                Claim::Refused(Refusal::plain(409, Some("idempotency_key_in_use"), message))
            }
            None => {
                self.forget_keys();
                self.keys.insert(key.clone(), Kept { call, said: None });
                self.key_order.push_back(key.clone());
                Claim::New
            }
        }
    }

    fn forget_keys(&mut self) {
        while self.key_order.len() >= KEYS_MAX {
            if let Some(key) = self.key_order.pop_front() {
                self.keys.remove(&key);
            }
        }
    }

    /// Keeps what was said, or gives the key back where nothing was begun.
    fn keep(&mut self, key: &str, said: Option<(u16, Bytes)>) {
        match (self.keys.get_mut(key), said) {
            (Some(kept), Some(said)) => kept.said = Some(said),
            (Some(_), None) => {
                self.keys.remove(key);
                // Almost always the last one: it was taken a moment ago.
                if let Some(at) = self.key_order.iter().rposition(|kept| kept == key) {
                    self.key_order.remove(at);
                }
            }
            (None, _) => {}
        }
    }
}

fn said(refusal: &Refusal) -> Outcome {
    let body = Bytes::from(refusal.shown().to_string());
    Outcome::Said(Said { status: refusal.status, body, is_replayed: false })
}

fn failure() -> Value {
    json!({"error": {"type": "api_error", "message": "Something went wrong inside."}})
}
