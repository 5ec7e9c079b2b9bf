//! A card provider inside the test's process, whose every answer a test decides: for exact interleavings. What happens over the
//! network is tested with the sandbox provider.
//!
//! It keeps books: what was charged and given back for each attempt, so that a test can compare them with the ledger.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use frontrow::payments::PaymentId;
use frontrow::payments::gateway::{Gateway, GatewayError, IntentId, Order, RefundStanding, Reply, Standing};
use frontrow::payments::webhooks::Verify;
use frontrow::platform::money::Money;
use tokio::sync::Notify;

/// What a test's webhooks are signed with.
pub const SIGNATURE: &str = "signed by the till";

/// What [`State::paid_through`](frontrow::app::state::State::paid_through) tells webhooks by.
pub fn verify() -> Verify {
    Arc::new(|header, _, _| header == SIGNATURE)
}

/// What is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    Create,
    Confirm,
    Find,
    Cancel,
    Refund,
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing does.
    None,
    /// It is not sent, and the caller knows it.
    NotSent,
    /// It does not arrive, and the caller does not know it.
    LoseRequest,
    /// It is carried out, and the answer is lost.
    LoseReply,
    /// It is carried out once the test says so, and then answered.
    Hold,
    /// It arrives when the test says so, long after the caller was told nothing.
    Late,
    /// It is refused, without effect.
    Refuse,
}

/// Decides what goes wrong.
pub type Mishap = Arc<dyn Fn(Question, PaymentId) -> Trouble + Send + Sync>;

/// What the provider has of an attempt.
#[derive(Clone, Debug)]
pub struct Intent {
    pub id: String,
    pub amount: Money,
    pub card: String,
    pub standing: Standing,
    /// How often the card was charged: the books of a good caller say 1 at most.
    pub charges: u32,
    pub refunds: u32,
}

/// A call that is on its way.
type Errand = Box<dyn FnOnce(&mut HashMap<PaymentId, Intent>) + Send>;

/// The provider.
pub struct Till {
    intents: Mutex<HashMap<PaymentId, Intent>>,
    mishap: Mutex<Mishap>,
    /// Calls that were held up go on.
    go_on: Notify,
    held: AtomicU64,
    late: Mutex<Vec<Errand>>,
    /// Whether the bank takes no refunds.
    keeps_all: AtomicBool,
    calls: Mutex<HashMap<Question, u64>>,
}

impl fmt::Debug for Till {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Till")
    }
}

impl Till {
    /// One with which nothing goes wrong.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            intents: Mutex::default(),
            mishap: Mutex::new(Arc::new(|_, _| Trouble::None)),
            go_on: Notify::new(),
            held: AtomicU64::new(0),
            late: Mutex::default(),
            keeps_all: AtomicBool::new(false),
            calls: Mutex::default(),
        })
    }

    /// From now on this goes wrong.
    pub fn on(&self, mishap: impl Fn(Question, PaymentId) -> Trouble + Send + Sync + 'static) {
        *self.mishap.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(mishap);
    }

    /// From now on this goes wrong with these questions, and nothing else.
    pub fn trouble(&self, questions: &'static [Question], trouble: Trouble) {
        self.on(move |question, _| if questions.contains(&question) { trouble } else { Trouble::None });
    }

    /// Nothing goes wrong any more.
    pub fn recover(&self) {
        self.on(|_, _| Trouble::None);
    }

    /// Waits until a call is held up.
    pub async fn wait_for_held(&self) {
        super::eventually("a call that is held up", || async { (self.held.load(Ordering::SeqCst) > 0).then_some(()) })
            .await;
    }

    /// Lets every call go on that is held up.
    pub fn let_go(&self) {
        self.go_on.notify_waiters();
    }

    /// Says of every refund that it cannot be given, or gives it.
    pub fn keep_all(&self, keeps_all: bool) {
        self.keeps_all.store(keeps_all, Ordering::SeqCst);
    }

    /// Charges an intent once more, which no provider should: for tests of those who look.
    pub fn charge_again(&self, attempt: PaymentId) {
        self.lock().get_mut(&attempt).expect("an intent").charges += 1;
    }

    /// Every call arrives that was on its way.
    pub fn deliver_late(&self) {
        let late = std::mem::take(&mut *self.late.lock().unwrap_or_else(PoisonError::into_inner));
        for errand in late {
            errand(&mut self.lock());
        }
    }

    /// How often this was asked.
    pub fn asked(&self, question: Question) -> u64 {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).get(&question).copied().unwrap_or_default()
    }

    /// Everything in its books.
    pub fn intents(&self) -> HashMap<PaymentId, Intent> {
        self.lock().clone()
    }

    /// The one intent in its books.
    pub fn only(&self) -> (PaymentId, Intent) {
        let intents = self.intents();
        assert_eq!(intents.len(), 1, "{intents:?}");
        intents.into_iter().next().expect("counted above")
    }

    /// Decides an intent that is being processed.
    pub fn decide(&self, attempt: PaymentId, standing: Standing) {
        let mut intents = self.lock();
        let intent = intents.get_mut(&attempt).expect("an intent");
        assert_eq!(intent.standing, Standing::Processing);
        intent.charges += u32::from(standing == Standing::Succeeded);
        intent.standing = standing;
    }

    /// What it took in and did not give back.
    pub fn kept(&self) -> i64 {
        let kept = |intent: &Intent| (i64::from(intent.charges) - i64::from(intent.refunds)) * intent.amount.0;
        self.lock().values().map(kept).sum()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PaymentId, Intent>> {
        self.intents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries a call out, with whatever goes wrong with it.
    async fn call<T: Send>(
        &self,
        question: Question,
        attempt: PaymentId,
        work: impl FnOnce(&mut HashMap<PaymentId, Intent>) -> Result<T, GatewayError> + Send + 'static,
    ) -> Result<T, GatewayError> {
        *self.calls.lock().unwrap_or_else(PoisonError::into_inner).entry(question).or_default() += 1;
        let mishap = self.mishap.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let unknown = |what: &str| Err(GatewayError::Unknown(what.to_owned()));
        match mishap(question, attempt) {
            Trouble::None => work(&mut self.lock()),
            Trouble::NotSent => Err(GatewayError::NotSent("not today".to_owned())),
            Trouble::LoseRequest => unknown("lost on the way there"),
            Trouble::LoseReply => {
                drop(work(&mut self.lock()));
                unknown("lost on the way back")
            }
            Trouble::Hold => {
                let go_on = self.go_on.notified();
                self.held.fetch_add(1, Ordering::SeqCst);
                go_on.await;
                work(&mut self.lock())
            }
            Trouble::Late => {
                let errand: Errand = Box::new(move |intents| drop(work(intents)));
                self.late.lock().unwrap_or_else(PoisonError::into_inner).push(errand);
                unknown("late")
            }
            Trouble::Refuse => Err(GatewayError::Refused("not this one".to_owned())),
        }
    }
}

fn found<'i>(intents: &'i mut HashMap<PaymentId, Intent>, id: &IntentId) -> Result<&'i mut Intent, GatewayError> {
    let found = intents.values_mut().find(|intent| intent.id == id.0);
    found.ok_or_else(|| GatewayError::Refused("no such intent".to_owned()))
}

impl Gateway for Till {
    fn create<'a>(&'a self, order: &'a Order) -> Reply<'a, (IntentId, Standing)> {
        let Order { attempt, amount, card_token } = order.clone();
        Box::pin(self.call(Question::Create, attempt, move |intents| {
            let intent = intents.entry(attempt).or_insert_with(|| Intent {
                id: format!("pi_{attempt}"),
                amount,
                card: card_token.expose().to_owned(),
                standing: Standing::Unconfirmed,
                charges: 0,
                refunds: 0,
            });
            Ok((IntentId(intent.id.clone()), intent.standing.clone()))
        }))
    }

    fn confirm<'a>(&'a self, order: &'a Order, intent: &'a IntentId) -> Reply<'a, Standing> {
        let name = intent.clone();
        Box::pin(self.call(Question::Confirm, order.attempt, move |intents| {
            let intent = found(intents, &name)?;
            if intent.standing == Standing::Unconfirmed {
                intent.standing = match intent.card.as_str() {
                    "pm_card_chargeDeclined" => Standing::Declined("card_declined".to_owned()),
                    "pm_card_processing" => Standing::Processing,
                    _ => Standing::Succeeded,
                };
                intent.charges += u32::from(intent.standing == Standing::Succeeded);
            }
            Ok(intent.standing.clone())
        }))
    }

    fn find<'a>(&'a self, intent: &'a IntentId) -> Reply<'a, Standing> {
        let (name, attempt) = (intent.clone(), intent.0.trim_start_matches("pi_").parse().expect("an id of ours"));
        Box::pin(self.call(Question::Find, attempt, move |intents| Ok(found(intents, &name)?.standing.clone())))
    }

    fn cancel<'a>(&'a self, attempt: PaymentId, intent: &'a IntentId) -> Reply<'a, Standing> {
        let name = intent.clone();
        Box::pin(self.call(Question::Cancel, attempt, move |intents| {
            let intent = found(intents, &name)?;
            if intent.standing == Standing::Unconfirmed {
                intent.standing = Standing::Cancelled;
            }
            Ok(intent.standing.clone())
        }))
    }

    fn refund<'a>(&'a self, attempt: PaymentId, intent: &'a IntentId, amount: Money) -> Reply<'a, RefundStanding> {
        let (name, keeps_all) = (intent.clone(), self.keeps_all.load(Ordering::SeqCst));
        Box::pin(self.call(Question::Refund, attempt, move |intents| {
            let intent = found(intents, &name)?;
            if keeps_all {
                return Ok(RefundStanding::Failed);
            }
            assert_eq!((intent.standing.clone(), intent.amount), (Standing::Succeeded, amount), "{attempt}");
            // The same refund again has no second effect.
            intent.refunds = 1;
            Ok(RefundStanding::Succeeded)
        }))
    }
}
