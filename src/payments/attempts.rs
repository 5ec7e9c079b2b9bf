//! Paying by card: an attempt is committed, then the provider is asked, then what it said is committed.
//!
//! - The attempt, with the request's key, is in the database before the provider hears of it. So whatever happens next, it is
//!   known what to ask the provider about.
//! - Nothing is charged but by `confirm`, which only the task that began the attempt sends, and only once the provider's name
//!   for the attempt is committed, too. So an attempt without that name has certainly charged nothing, and every other can be
//!   asked about. One whose confirmation was never sent is closed at once; any other that has no answer is in doubt,
//!   and is left to recovery (`recovery.rs`).
//! - What the provider said is settled by one function, whoever heard it: the buyer's request, recovery. It has an
//!   effect once, because it changes an undecided attempt only, whose row it has locked.
//! - The task goes on when its client goes away, and is waited for when the instance drains.
//!
//! Locks: what is paid for, then the attempt, then whatever the payable needs, in the order of `platform::db`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::asking::{Heard, Questions};
use super::domain::{
    CARD_DECLINED, Event, Method, PAYMENT_IN_PROGRESS, PAYMENT_METHOD_UNAVAILABLE, PAYMENT_UNAVAILABLE, PaymentId,
    PaymentStatus, Reason, Verdict,
};
use super::gateway::{Gateway, IntentId, Order};
use super::limits::{self, CardLimits};
use super::metrics;
use super::payable::{After, Ask, Attempt, Delivery, Payables, Request, Told};
use super::store::attempts as store;
use crate::platform::config::Secret;
use crate::platform::db::{Conn, Db};
use crate::platform::error::{Fault, Problem};
use crate::platform::http::keyed::{Answer, RequestKey};
use crate::platform::idempotency::{self, Before, Begun, Idempotency};
use crate::platform::money::Money;
use crate::platform::outbox::Wake;

/// Longest payment method that is taken.
pub const CARD_TOKEN_LEN_MAX: usize = 255;
/// When to ask again about a payment that is not decided, and when to pay again where the provider was not reached.
const IN_PROGRESS_RETRY_SECS: u32 = 2;
const UNAVAILABLE_RETRY_SECS: u32 = 5;
/// How often it is tried to write down what the provider said before it is left to recovery.
const SETTLE_TRIES: u32 = 3;

/// `[attempts]`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[expect(missing_docs, reason = "each field is documented in config/default.toml")]
pub struct Settings {
    pub answer_ms: u64,
    pub tries_max: u32,
    pub retry_ms: u64,
    pub under_way_max: usize,
    pub grace_secs: u64,
    pub recovery_ms: u64,
    pub recovery_batch_max: u32,
    pub recovery_parallel_max: usize,
    pub lease_secs: u64,
    pub pause_max_secs: u64,
    pub per_subject_max: u32,
}

/// What [`Attempts`] is built from.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The database.
    pub db: Db,
    /// Keys of requests.
    pub idempotency: Idempotency,
    /// The card provider, if there is one.
    pub gateway: Option<Arc<dyn Gateway>>,
    /// What can be paid for.
    pub payables: Payables,
    /// Wakes the relay.
    pub wake: Wake,
    /// How often a buyer may try.
    pub limits: CardLimits,
    /// `[attempts]`.
    pub settings: Settings,
}

/// Payments by card, of one instance. Clones share it.
#[derive(Clone)]
pub struct Attempts {
    pub(super) parts: Arc<Parts>,
    /// What is under way; closed once the instance drains.
    pub(super) tasks: TaskTracker,
    /// Places of payments that are under way.
    places: Arc<Semaphore>,
}

impl fmt::Debug for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempts").field("under_way", &self.tasks.len()).finish_non_exhaustive()
    }
}

/// What settling an attempt came to.
#[derive(Debug)]
pub(super) struct Settled {
    /// The attempt as it is now.
    pub attempt: Attempt,
    /// The answer to the buyer, where this decided it.
    pub answer: Option<Answer>,
    /// Whether this decided it.
    pub is_first: bool,
}

/// Reads the token that a client sent.
///
/// # Errors
/// `invalid_body` where it cannot be one.
pub fn card_token(text: String) -> Result<Secret, Problem> {
    let refuse = |what: &str| Err(Problem::invalid_body("card_token", what));
    match text.len() {
        0 => refuse("the provider's payment method is missing"),
        1..=CARD_TOKEN_LEN_MAX if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Secret::new(text)),
        1..=CARD_TOKEN_LEN_MAX => refuse("visible ASCII characters only"),
        _ => refuse("at most 255 characters"),
    }
}

impl Attempts {
    /// Over these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let places = parts.settings.under_way_max.min(Semaphore::MAX_PERMITS);
        Self { parts: Arc::new(parts), tasks: TaskTracker::new(), places: Arc::new(Semaphore::new(places)) }
    }

    /// Whether there is a card provider.
    #[must_use]
    pub fn has_provider(&self) -> bool {
        self.parts.gateway.is_some()
    }

    /// Ends in good order: no further try begins, and what is under way is waited for.
    pub async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Whether the instance drains.
    pub(super) fn is_draining(&self) -> bool {
        self.tasks.is_closed()
    }

    /// Has it paid by card, once for a key: 201 what it became, or 202 while the provider decides, or where the money goes back.
    ///
    /// # Errors
    /// `payment_method_unavailable`, `rate_limited`, `card_declined`, `payment_unavailable`, `payment_in_progress`, those of the
    /// key, and whatever the payable refuses with.
    pub async fn pay(&self, ask: Ask, key: RequestKey) -> Result<Answer, Problem> {
        let begun = self.parts.idempotency.start(ask.user.0, key.required()?)?;
        let begun = begun.ok_or_else(|| Problem::internal(anyhow::anyhow!("a required key is missing")))?;
        // Nothing has begun, so nothing is left behind.
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return Err(Problem::new(&PAYMENT_UNAVAILABLE).retry_after(UNAVAILABLE_RETRY_SECS));
        };
        let attempts = self.clone();
        // In a task of its own: a client that goes away changes nothing.
        let paying = self.tasks.spawn(async move {
            let _place = place;
            attempts.run(ask, begun).await
        });
        paying.await.map_err(Problem::internal)?
    }

    async fn run(&self, ask: Ask, begun: Arc<Begun>) -> Result<Answer, Problem> {
        let begin = match &self.parts.gateway {
            None => Err(Problem::new(&PAYMENT_METHOD_UNAVAILABLE)),
            Some(gateway) => match self.parts.limits.check(ask.user) {
                Ok(()) => self.open(&ask, &begun).await.map(|opened| (gateway.clone(), opened)),
                Err(refusal) => Err(refusal),
            },
        };
        match begin {
            Ok((_, Opened::Before(answer))) => answer,
            Ok((gateway, Opened::Attempt(id, amount))) => {
                let order = Order { attempt: id, amount, card_token: ask.card_token };
                self.charge(gateway.as_ref(), &order, begun).await
            }
            // What took effect once is answered as it was, whatever stands in its way now.
            Err(refusal) if refusal.code().status < 500 => {
                self.parts.idempotency.recall(begun).await?.unwrap_or(Err(refusal))
            }
            Err(problem) => Err(problem),
        }
    }

    /// Commits the attempt.
    async fn open(&self, ask: &Ask, begun: &Arc<Begun>) -> Result<Opened, Problem> {
        let beginning = Beginning {
            id: PaymentId::new(),
            ask: ask.clone(),
            begun: begun.clone(),
            payables: self.parts.payables.clone(),
            grace: Duration::from_secs(self.parts.settings.grace_secs),
            tries_max: self.parts.settings.per_subject_max,
        };
        let id = beginning.id;
        let began =
            self.parts.db.in_tx_of(ask.user.0, "payments.begin", beginning, |conn, beginning| beginning.run(conn));
        match began.await {
            Err(problem) if problem.is_unanswered() => {
                // Nobody else knows of it yet: if it is there, it goes on from here.
                let found = self.parts.db.in_tx("payments.find_out", id, |conn, id| find_locked(conn, *id));
                match found.await? {
                    Some(attempt) => Ok(Opened::Attempt(id, attempt.amount)),
                    None => Err(problem.without_effect()),
                }
            }
            known => known,
        }
    }

    /// Asks the provider, and settles what it says; what stays open is answered as pending, and left to recovery.
    async fn charge(&self, gateway: &dyn Gateway, order: &Order, begun: Arc<Begun>) -> Result<Answer, Problem> {
        let questions = Questions::new(gateway, order, &self.parts.settings, &self.tasks);
        let verdict = match questions.create().await {
            Err(reason) => Verdict::NotCharged(reason),
            // Where it is decided meanwhile, settling tells how.
            Ok((intent, _)) if !self.note(order.attempt, &intent).await => Verdict::NotCharged(Reason::NotSent),
            Ok((intent, standing)) => match questions.confirm(&intent, standing).await {
                Heard::Verdict(verdict) => verdict,
                Heard::Doubt => return self.pend(order.attempt, begun).await,
            },
        };
        let settled = self.settle(order.attempt, verdict).await?;
        self.answer(settled, begun).await
    }

    /// Commits the provider's name for the attempt. False where that may not have come about: it must not be confirmed then.
    async fn note(&self, id: PaymentId, intent: &IntentId) -> bool {
        let named = (id, intent.0.clone());
        let noted = self.parts.db.in_tx("payments.note", named, |conn, named| set_intent(conn, named)).await;
        noted.unwrap_or_else(|problem| {
            tracing::warn!(payment = %id, %problem, "the provider's name for a payment was not written down");
            false
        })
    }

    async fn answer(&self, settled: Settled, begun: Arc<Begun>) -> Result<Answer, Problem> {
        if let Some(answer) = settled.answer {
            return Ok(answer);
        }
        match settled.attempt.failure() {
            Some(Reason::Declined(code)) => Err(Problem::new(&CARD_DECLINED).with("decline_code", code)),
            Some(Reason::Rejected) => {
                Err(Problem::invalid_body("card_token", "the payment provider does not take this payment method"))
            }
            Some(Reason::NotSent | Reason::Abandoned) => {
                Err(Problem::new(&PAYMENT_UNAVAILABLE).retry_after(UNAVAILABLE_RETRY_SECS))
            }
            // Somebody else has settled it, and has stored the answer: to this request it is new.
            None => {
                let stored: Option<Before> = self.parts.idempotency.recall(begun).await?;
                let answer = stored.unwrap_or_else(|| {
                    Err(Problem::internal(anyhow::anyhow!(
                        "payment {} was settled without an answer",
                        settled.attempt.id
                    )))
                })?;
                Ok(Answer { replayed: false, ..answer })
            }
        }
    }

    /// Answers a request whose attempt is not decided.
    async fn pend(&self, id: PaymentId, begun: Arc<Begun>) -> Result<Answer, Problem> {
        let pending = Pending { id, payables: self.parts.payables.clone() };
        let settled = self.parts.db.in_tx("payments.pend", pending, |conn, pending| pending.run(conn)).await?;
        if settled.is_first {
            metrics::attempt("pending");
        }
        self.answer(settled, begun).await
    }

    /// Commits what the provider said of an attempt; where that is decided already, tells what was decided.
    pub(super) async fn settle(&self, id: PaymentId, verdict: Verdict) -> Result<Settled, Problem> {
        let payables = self.parts.payables.clone();
        self.run_settling(Settling { id, verdict, only_unnamed: false, payables }).await
    }

    /// Closes an attempt that nobody will confirm, unless the provider's name for it has been written down meanwhile: then it
    /// stays undecided, as its request may be confirming it at this moment.
    pub(super) async fn close_unnamed(&self, id: PaymentId) -> Result<Settled, Problem> {
        let (verdict, payables) = (Verdict::NotCharged(Reason::Abandoned), self.parts.payables.clone());
        self.run_settling(Settling { id, verdict, only_unnamed: true, payables }).await
    }

    async fn run_settling(&self, settling: Settling) -> Result<Settled, Problem> {
        let (settling, mut tries) = (Arc::new(settling), 0);
        let (settled, after) = loop {
            let settle = self.parts.db.in_tx("payments.settle", settling.clone(), |conn, settling| settling.run(conn));
            tries += 1;
            match settle.await {
                // Once more is harmless, whatever became of the commit.
                Err(problem) if problem.is_unanswered() && tries < SETTLE_TRIES => {}
                known => break known?,
            }
        };
        if settled.is_first {
            metrics::attempt(metrics::outcome_of(&settled.attempt));
            self.parts.wake.now();
        }
        if let Some(after) = after {
            after.await;
        }
        Ok(settled)
    }
}

/// What opening an attempt came to.
enum Opened {
    /// The request took effect before, or its key was used for another.
    Before(Before),
    /// An attempt was committed.
    Attempt(PaymentId, Money),
}

struct Beginning {
    id: PaymentId,
    ask: Ask,
    /// Lives as long as the transaction, even when the client is gone.
    begun: Arc<Begun>,
    payables: Payables,
    grace: Duration,
    /// For the same thing.
    tries_max: u32,
}

impl Beginning {
    fn run<'c>(&'c self, conn: &'c mut Conn) -> BoxFuture<'c, Result<Opened, Problem>> {
        Box::pin(async move {
            let ask = &self.ask;
            // Locked before the key is looked up: whoever settles this stores the answer under the same lock.
            let quote = self.payables.of(ask.subject)?.quote(conn, ask).await?;
            if let Some(before) = idempotency::find_stored(conn, &[&self.begun]).await?.pop().flatten() {
                return Ok(Opened::Before(before));
            }
            let earlier = store::list_of_subject(conn, ask.subject, self.tries_max.saturating_add(1)).await?;
            if let Some(open) = earlier.iter().find(|one| one.is_open) {
                let is_same = open.key.as_deref() == Some(self.begun.key().as_bytes());
                return Err(if is_same { idempotency::in_flight() } else { in_progress() });
            }
            let amount = quote?;
            limits::check_tries(earlier.len(), self.tries_max)?;
            let request =
                Request { key: self.begun.key().as_bytes().to_vec(), fingerprint: self.begun.fingerprint().to_vec() };
            let result = earlier.iter().find_map(|one| one.result).unwrap_or_else(|| ask.subject.new_result());
            let new = store::NewAttempt { id: self.id, ask, amount, result, request: &request, grace: self.grace };
            store::insert(conn, &new).await.map_err(busy)?;
            Ok(Opened::Attempt(self.id, amount))
        })
    }
}

/// Another payment has the key: its request waits for an answer.
fn busy(problem: Problem) -> Problem {
    if problem.fault() == Some(Fault::Duplicate) { idempotency::in_flight() } else { problem }
}

/// What is said while an attempt to pay the same is not decided.
#[must_use]
pub fn in_progress() -> Problem {
    Problem::new(&PAYMENT_IN_PROGRESS).retry_after(IN_PROGRESS_RETRY_SECS)
}

struct Settling {
    id: PaymentId,
    verdict: Verdict,
    /// Whether it holds only of an attempt for which the provider has no name.
    only_unnamed: bool,
    payables: Payables,
}

impl Settling {
    fn run<'c>(&'c self, conn: &'c mut Conn) -> BoxFuture<'c, Result<(Settled, Option<After>), Problem>> {
        Box::pin(async move {
            let mut attempt = lock(conn, &self.payables, self.id).await?;
            let is_named = self.only_unnamed && attempt.intent.is_some();
            if attempt.status == PaymentStatus::Failed && self.verdict == Verdict::Charged {
                tracing::error!(payment = %attempt.id, "the provider charged what was closed as not charged: a person must give it back");
            }
            if attempt.status != PaymentStatus::Pending || is_named {
                return Ok((Settled { attempt, answer: None, is_first: false }, None));
            }
            let payable = self.payables.of(attempt.subject)?;
            let (event, reason, told) = match &self.verdict {
                Verdict::Charged => match payable.deliver(conn, &attempt).await? {
                    Delivery::Delivered(told) => (Event::Delivered, None, Some(told)),
                    Delivery::Impossible(why, told) => (Event::ChargedInVain, Some(why.to_owned()), Some(told)),
                },
                Verdict::NotCharged(reason) => {
                    payable.withdraw(conn, &attempt).await?;
                    (Event::NotCharged, Some(reason.stored()), None)
                }
            };
            let status = attempt.status.after(Method::Card, event).ok_or_else(|| lost(&attempt))?;
            if !store::decide(conn, attempt.id, status, reason.as_deref()).await? {
                return Err(lost(&attempt));
            }
            (attempt.status, attempt.reason) = (status, reason);
            let (answer, after) = match told {
                Some(Told { answer, after }) => (Some(answer), after),
                None => (None, None),
            };
            if let (Some(answer), Some(request)) = (&answer, &attempt.request) {
                idempotency::keep(conn, attempt.user.0, &request.key, &request.fingerprint, answer).await?;
            }
            Ok((Settled { attempt, answer, is_first: true }, after))
        })
    }
}

struct Pending {
    id: PaymentId,
    payables: Payables,
}

impl Pending {
    fn run<'c>(&'c self, conn: &'c mut Conn) -> BoxFuture<'c, Result<Settled, Problem>> {
        Box::pin(async move {
            let attempt = lock(conn, &self.payables, self.id).await?;
            if attempt.status != PaymentStatus::Pending {
                return Ok(Settled { attempt, answer: None, is_first: false });
            }
            let answer = self.payables.of(attempt.subject)?.pend(conn, &attempt).await?;
            store::hand_over(conn, attempt.id).await?;
            if let Some(request) = &attempt.request {
                idempotency::keep(conn, attempt.user.0, &request.key, &request.fingerprint, &answer).await?;
            }
            Ok(Settled { attempt, answer: Some(answer), is_first: true })
        })
    }
}

/// An attempt, locked after what it pays for.
async fn lock(conn: &mut Conn, payables: &Payables, id: PaymentId) -> Result<Attempt, Problem> {
    let missing = || Problem::internal(anyhow::anyhow!("payment {id} is not there"));
    let seen = store::find(conn, id).await?.ok_or_else(missing)?;
    payables.of(seen.subject)?.lock(conn, &seen).await?;
    store::find_for_update(conn, id).await?.ok_or_else(missing)
}

fn find_locked(conn: &mut Conn, id: PaymentId) -> BoxFuture<'_, Result<Option<Attempt>, Problem>> {
    Box::pin(store::find_for_update(conn, id))
}

fn set_intent<'c>(conn: &'c mut Conn, (id, intent): &'c (PaymentId, String)) -> BoxFuture<'c, Result<bool, Problem>> {
    Box::pin(store::set_intent(conn, *id, intent))
}

fn lost(attempt: &Attempt) -> Problem {
    Problem::internal(anyhow::anyhow!("payment {} was decided while it was locked", attempt.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_token_is_short_and_visible() {
        let code = |text: &str| card_token(text.to_owned()).err().map(|problem| problem.code().code);
        assert_eq!(code("pm_card_visa"), None);
        assert_eq!(code(&"x".repeat(255)), None);
        for bad in ["", "a b", "é", "a\u{7f}", &"x".repeat(256)] {
            assert_eq!(code(bad), Some("invalid_body"), "{bad:?}");
        }
        assert_eq!(card_token("pm".to_owned()).unwrap().expose(), "pm");
    }
}
