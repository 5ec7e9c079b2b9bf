//! The sandbox's books: intents, what they were charged, what was given back. No I/O, no chance, and `now` is an argument.
//!
//! ```text
//! requires_payment_method ──┐ confirm                    ┌── succeeded ── refunds
//! requires_confirmation  ───┼──────────── processing ────┤
//!    ▲        │             └── requires_action          └── declined (requires_payment_method)
//!    └ create └── cancel: from anywhere but processing and succeeded → canceled
//! ```
//!
//! Invariants: the totals count every intent there ever was, also those that were forgotten for want of room; money moves
//! once, at the step to `succeeded`; never more is given back than was charged.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::Serialize;
use serde_json::Value;

pub mod cards;
mod shown;

use cards::{Card, DECLINED, Decline, UNAUTHENTICATED};

/// The greatest amount of one charge, as at Stripe: eight digits.
const AMOUNT_MAX: i64 = 99_999_999;
/// Refunds of one intent at most.
const REFUNDS_MAX: usize = 100;

/// Where an intent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Made, and not confirmed.
    Unconfirmed,
    /// Waiting for the card's holder.
    Authenticating,
    /// Waiting for the bank.
    Processing,
    /// Charged.
    Succeeded,
    /// Refused.
    Declined(Decline),
    /// Never to be charged.
    Cancelled,
}

/// An intent.
#[derive(Clone, Debug)]
pub struct Intent {
    /// Its number: they count from 1.
    pub number: u64,
    /// `pi_…`.
    pub id: String,
    /// How much.
    pub amount: i64,
    /// What the shop noted with it; `attempt` among it.
    pub metadata: BTreeMap<String, String>,
    /// The card.
    pub payment_method: Option<String>,
    /// Where it is.
    pub stage: Stage,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// `ch_…`, once it was charged.
    pub charge: Option<String>,
    /// What was given back, or tried to be.
    pub refunds: Vec<Refund>,
    /// Whether it stands among those that may be forgotten.
    is_forgettable: bool,
}

/// A refund.
#[derive(Clone, Debug)]
pub struct Refund {
    /// `re_…`.
    pub id: String,
    /// How much.
    pub amount: i64,
    /// Where it is.
    pub stage: RefundStage,
    /// What the shop noted with it.
    pub metadata: BTreeMap<String, String>,
    /// When it was asked for, in seconds since 1970.
    pub created: i64,
}

/// Where a refund is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefundStage {
    /// On its way.
    Pending,
    /// Arrived.
    Succeeded,
    /// It did not arrive.
    Failed,
}

impl Intent {
    /// What has been given back.
    #[must_use]
    pub fn refunded(&self) -> i64 {
        self.sum_of(RefundStage::Succeeded)
    }

    fn sum_of(&self, stage: RefundStage) -> i64 {
        self.refunds.iter().filter(|refund| refund.stage == stage).map(|refund| refund.amount).sum()
    }
}

/// Sums over every intent there ever was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Intents made.
    pub intents: u64,
    /// Intents by where they are now: not confirmed, or waiting for the card's holder.
    pub unconfirmed: u64,
    /// Waiting for the bank.
    pub processing: u64,
    /// Charged.
    pub succeeded: u64,
    /// Refused.
    pub declined: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// Won that were charged.
    pub charged: i64,
    /// Won that were given back.
    pub refunded: i64,
    /// Refunds asked for.
    pub refunds: u64,
    /// Refunds that did not arrive.
    pub refunds_failed: u64,
    /// Intents that are not listed any more, for want of room.
    pub forgotten: u64,
}

impl Totals {
    fn of(&mut self, stage: Stage) -> &mut u64 {
        match stage {
            Stage::Unconfirmed | Stage::Authenticating => &mut self.unconfirmed,
            Stage::Processing => &mut self.processing,
            Stage::Succeeded => &mut self.succeeded,
            Stage::Declined(_) => &mut self.declined,
            Stage::Cancelled => &mut self.cancelled,
        }
    }
}

/// Why something was not done, in Stripe's words.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Of the answer.
    pub status: u16,
    /// `type`.
    pub kind: &'static str,
    /// `code`.
    pub code: Option<&'static str>,
    /// `decline_code`.
    pub decline_code: Option<&'static str>,
    /// For people.
    pub message: String,
    /// The parameter that is to blame.
    pub param: Option<String>,
    /// The intent that it is about, as it is now.
    pub intent: Option<Box<Value>>,
}

impl Refusal {
    /// The request itself is wrong: nothing was begun.
    #[must_use]
    pub fn invalid(param: &str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { param: Some(param.to_owned()), ..Self::plain(400, code, message) }
    }

    /// There is no such thing.
    #[must_use]
    pub fn missing(what: &str) -> Self {
        Self::plain(404, Some("resource_missing"), format!("No such {what}"))
    }

    /// A refusal without more.
    #[must_use]
    pub fn plain(status: u16, code: Option<&'static str>, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, kind: "invalid_request_error", code, decline_code: None, message, param: None, intent: None }
    }

    fn stands(intent: &Intent, message: &str) -> Self {
        let shown = Some(Box::new(intent.shown()));
        Self { intent: shown, ..Self::plain(400, Some("payment_intent_unexpected_state"), message) }
    }

    fn declined(intent: &Intent, decline: Decline) -> Self {
        Self {
            kind: "card_error",
            decline_code: Some(decline.decline_code),
            intent: Some(Box::new(intent.shown())),
            ..Self::plain(402, Some(decline.code), "Your card was declined.")
        }
    }

    /// Whether the work had begun: then it is what the idempotency key stands for from now on.
    #[must_use]
    pub const fn is_kept(&self) -> bool {
        self.status == 402 || self.intent.is_some()
    }
}

/// What an intent is made of.
#[derive(Clone, Debug)]
pub struct NewIntent {
    /// How much.
    pub amount: i64,
    /// What to note with it.
    pub metadata: BTreeMap<String, String>,
    /// The card.
    pub payment_method: Option<String>,
}

/// How an intent is confirmed.
#[derive(Clone, Debug, Default)]
pub struct Confirmation {
    /// Another card.
    pub payment_method: Option<String>,
    /// Refuse a card that wants its holder to confirm.
    pub refuses_action: bool,
    /// Chance has it that the card is refused.
    pub is_unlucky: bool,
}

/// What happened, for webhooks.
#[derive(Clone, Debug)]
pub struct News {
    /// Such as `payment_intent.succeeded`.
    pub kind: &'static str,
    /// What it happened to, as it is now.
    pub object: Value,
}

/// What happens by itself some time later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Later {
    /// The bank decides on this intent.
    Decide(String, bool),
    /// This refund arrives, or not.
    Arrive(String, bool),
}

/// Every intent, in the order in which they were made.
#[derive(Debug)]
pub struct Books {
    intents: BTreeMap<u64, Intent>,
    numbers: HashMap<String, u64>,
    /// Of refunds: the intent's number.
    refunds: HashMap<String, u64>,
    /// Those that may be forgotten, the first to be decided first.
    decided: VecDeque<u64>,
    last: u64,
    intents_max: usize,
    totals: Totals,
    news: Vec<News>,
    later: Vec<Later>,
}

fn name(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::new_v4().simple())
}

impl Books {
    /// Empty books that list so many intents at most.
    #[must_use]
    pub fn new(intents_max: usize) -> Self {
        Self {
            intents: BTreeMap::new(),
            numbers: HashMap::new(),
            refunds: HashMap::new(),
            decided: VecDeque::new(),
            last: 0,
            intents_max,
            totals: Totals::default(),
            news: Vec::new(),
            later: Vec::new(),
        }
    }

    /// The sums.
    #[must_use]
    pub const fn totals(&self) -> &Totals {
        &self.totals
    }

    /// At most `limit` intents after this number.
    pub fn list(&self, after: u64, limit: usize) -> impl Iterator<Item = &Intent> {
        self.intents.range(after.saturating_add(1)..).map(|(_, intent)| intent).take(limit)
    }

    /// What has happened since this was asked last.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// What is to happen later, since this was asked last.
    pub fn take_later(&mut self) -> Vec<Later> {
        std::mem::take(&mut self.later)
    }

    /// The intent of this name.
    ///
    /// # Errors
    /// Where there is none.
    pub fn find(&self, id: &str) -> Result<&Intent, Refusal> {
        let found = self.numbers.get(id).and_then(|number| self.intents.get(number));
        found.ok_or_else(|| Refusal::missing("payment_intent"))
    }

    /// The intent that has this refund, and the refund.
    ///
    /// # Errors
    /// Where there is none.
    pub fn find_refund(&self, id: &str) -> Result<(&Intent, &Refund), Refusal> {
        let intent = self.refunds.get(id).and_then(|number| self.intents.get(number));
        let found = intent.and_then(|intent| Some((intent, intent.refunds.iter().find(|refund| refund.id == id)?)));
        found.ok_or_else(|| Refusal::missing("refund"))
    }

    /// Makes an intent.
    ///
    /// # Errors
    /// Where something is wrong with it, or there is no room.
    pub fn create(&mut self, new: NewIntent, now: i64) -> Result<&Intent, Refusal> {
        if !(1..=AMOUNT_MAX).contains(&new.amount) {
            return Err(Refusal::invalid("amount", Some("parameter_invalid_integer"), "Invalid amount"));
        }
        check_card(new.payment_method.as_deref())?;
        self.make_room()?;
        self.last += 1;
        let number = self.last;
        let intent = Intent {
            number,
            id: name("pi"),
            amount: new.amount,
            metadata: new.metadata,
            payment_method: new.payment_method,
            stage: Stage::Unconfirmed,
            created: now,
            charge: None,
            refunds: Vec::new(),
            is_forgettable: false,
        };
        self.totals.intents += 1;
        *self.totals.of(Stage::Unconfirmed) += 1;
        self.news.push(News { kind: "payment_intent.created", object: intent.shown() });
        self.numbers.insert(intent.id.clone(), number);
        Ok(self.intents.entry(number).or_insert(intent))
    }

    /// Forgets the intent that has been decided longest where there is no room for another.
    fn make_room(&mut self) -> Result<(), Refusal> {
        while self.intents.len() >= self.intents_max {
            let Some(number) = self.decided.pop_front() else {
                return Err(Refusal::plain(429, Some("rate_limit"), "Too many intents wait to be decided."));
            };
            // One that was confirmed with another card may wait to be decided once more.
            let is_open = |intent: &&mut Intent| matches!(intent.stage, Stage::Processing | Stage::Authenticating);
            if let Some(intent) = self.intents.get_mut(&number).filter(is_open) {
                intent.is_forgettable = false;
                continue;
            }
            if let Some(intent) = self.intents.remove(&number) {
                self.numbers.remove(&intent.id);
                intent.refunds.iter().for_each(|refund| _ = self.refunds.remove(&refund.id));
                self.totals.forgotten += 1;
            }
        }
        Ok(())
    }

    /// Charges an intent, if its card has nothing against it.
    ///
    /// # Errors
    /// Where the card is refused, or the intent cannot be confirmed as it is.
    pub fn confirm(&mut self, id: &str, asked: Confirmation) -> Result<&Intent, Refusal> {
        check_card(asked.payment_method.as_deref())?;
        let intent = self.find(id)?;
        let is_open = match intent.stage {
            Stage::Unconfirmed | Stage::Authenticating => true,
            Stage::Declined(_) => asked.payment_method.is_some(),
            _ => false,
        };
        let payment_method = asked.payment_method.or_else(|| intent.payment_method.clone());
        let Some(card) = payment_method.as_deref().and_then(Card::of).filter(|_| is_open) else {
            return Err(Refusal::stands(intent, "You cannot confirm this PaymentIntent as it is."));
        };
        let number = intent.number;
        let stage = match card {
            Card::Pays | Card::RefundsLate(_) | Card::Processes(_) if asked.is_unlucky => Stage::Declined(DECLINED),
            Card::Pays | Card::RefundsLate(_) => Stage::Succeeded,
            Card::Declines(decline) => Stage::Declined(decline),
            Card::Authenticates if asked.refuses_action => Stage::Declined(UNAUTHENTICATED),
            Card::Authenticates => Stage::Authenticating,
            Card::Processes(outcome) => {
                self.later.extend(outcome.map(|is_good| Later::Decide(id.to_owned(), is_good)));
                Stage::Processing
            }
        };
        if let Some(intent) = self.intents.get_mut(&number) {
            intent.payment_method = payment_method;
        }
        self.pass(number, stage);
        let intent = self.find(id)?;
        if let Stage::Declined(decline) = stage { Err(Refusal::declined(intent, decline)) } else { Ok(intent) }
    }

    /// What the bank says of an intent that it was thinking about.
    ///
    /// # Errors
    /// Where it was not thinking about it.
    pub fn decide(&mut self, id: &str, is_good: bool) -> Result<&Intent, Refusal> {
        let intent = self.find(id)?;
        if intent.stage != Stage::Processing {
            return Err(Refusal::stands(intent, "Only what is processing is decided."));
        }
        let number = intent.number;
        self.pass(number, if is_good { Stage::Succeeded } else { Stage::Declined(DECLINED) });
        self.find(id)
    }

    /// Sees to it that an intent is never charged.
    ///
    /// # Errors
    /// Where it was, or may be being, or was cancelled before.
    pub fn cancel(&mut self, id: &str) -> Result<&Intent, Refusal> {
        let intent = self.find(id)?;
        if matches!(intent.stage, Stage::Processing | Stage::Succeeded | Stage::Cancelled) {
            return Err(Refusal::stands(intent, "You cannot cancel this PaymentIntent as it is."));
        }
        let number = intent.number;
        self.pass(number, Stage::Cancelled);
        self.find(id)
    }

    /// The one place where an intent goes from one stage to another.
    fn pass(&mut self, number: u64, to: Stage) {
        let Some(intent) = self.intents.get_mut(&number) else { return };
        *self.totals.of(intent.stage) -= 1;
        *self.totals.of(to) += 1;
        intent.stage = to;
        let kind = match to {
            Stage::Unconfirmed => return,
            Stage::Authenticating => "payment_intent.requires_action",
            Stage::Processing => "payment_intent.processing",
            Stage::Succeeded => {
                intent.charge = Some(name("ch"));
                self.totals.charged += intent.amount;
                "payment_intent.succeeded"
            }
            Stage::Declined(_) => "payment_intent.payment_failed",
            Stage::Cancelled => "payment_intent.canceled",
        };
        let is_decided = matches!(to, Stage::Succeeded | Stage::Declined(_) | Stage::Cancelled);
        if is_decided && !std::mem::replace(&mut intent.is_forgettable, true) {
            self.decided.push_back(number);
        }
        self.news.push(News { kind, object: intent.shown() });
    }

    /// Gives back so much of what was charged; all that is left where nothing is said.
    ///
    /// # Errors
    /// Where it was not charged, or less is left.
    pub fn refund(
        &mut self,
        id: &str,
        amount: Option<i64>,
        metadata: BTreeMap<String, String>,
        now: i64,
    ) -> Result<(&Intent, &Refund), Refusal> {
        let intent = self.find(id)?;
        if intent.stage != Stage::Succeeded {
            return Err(Refusal::stands(intent, "This PaymentIntent does not have a successful charge to refund."));
        }
        let left = intent.amount - intent.refunded() - intent.sum_of(RefundStage::Pending);
        if left <= 0 {
            return Err(Refusal::plain(400, Some("charge_already_refunded"), "The charge has been refunded already."));
        }
        let amount = amount.unwrap_or(left);
        if !(1..=left).contains(&amount) || intent.refunds.len() >= REFUNDS_MAX {
            return Err(Refusal::invalid("amount", None, "The amount is greater than what is left of the charge."));
        }
        let number = intent.number;
        let card = intent.payment_method.as_deref().and_then(Card::of);
        let refund = Refund { id: name("re"), amount, stage: RefundStage::Pending, metadata, created: now };
        let refund_id = refund.id.clone();
        self.refunds.insert(refund_id.clone(), number);
        self.totals.refunds += 1;
        if let Some(intent) = self.intents.get_mut(&number) {
            self.news.push(News { kind: "refund.created", object: refund.shown(intent) });
            intent.refunds.push(refund);
        }
        match card {
            Some(Card::RefundsLate(arrives)) => self.later.push(Later::Arrive(refund_id.clone(), arrives)),
            _ => self.arrive(&refund_id, true),
        }
        self.find_refund(&refund_id)
    }

    /// A refund that was on its way arrives, or does not.
    pub fn arrive(&mut self, id: &str, is_good: bool) {
        let intent = self.refunds.get(id).and_then(|number| self.intents.get_mut(number));
        let Some(intent) = intent else { return };
        let Some(at) = intent.refunds.iter().position(|refund| refund.id == id) else { return };
        if intent.refunds[at].stage != RefundStage::Pending {
            return;
        }
        intent.refunds[at].stage = if is_good { RefundStage::Succeeded } else { RefundStage::Failed };
        let refund = &intent.refunds[at];
        if is_good {
            self.totals.refunded += refund.amount;
            self.news.push(News { kind: "charge.refunded", object: intent.charge_shown() });
            self.news.push(News { kind: "refund.updated", object: refund.shown(intent) });
        } else {
            self.totals.refunds_failed += 1;
            self.news.push(News { kind: "refund.failed", object: refund.shown(intent) });
        }
    }
}

fn check_card(payment_method: Option<&str>) -> Result<(), Refusal> {
    match payment_method {
        Some(name) if Card::of(name).is_none() => {
            let message = format!("No such PaymentMethod: '{name}'");
            Err(Refusal::invalid("payment_method", Some("resource_missing"), message))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
