//! What can be paid for by card: what a feature must be able to do for it.
//!
//! Payments knows when money has moved; it does not know what for. Whatever is sold by card implements [`Payable`], and the
//! composition root hands it over. Every function runs in a transaction of payments', and decides from what that transaction
//! has locked: first what is paid for, then the attempt.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::domain::{PaymentId, PaymentStatus, Reason, Subject};
use crate::accounts::UserId;
use crate::platform::clock::Timestamp;
use crate::platform::config::Secret;
use crate::platform::db::Conn;
use crate::platform::error::Problem;
use crate::platform::http::keyed::Answer;
use crate::platform::money::Money;

/// What a buyer asks to pay by card.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Who pays.
    pub user: UserId,
    /// What for.
    pub subject: Subject,
    /// How much, where it is the buyer who says so.
    pub amount: Option<Money>,
    /// The provider's payment method.
    pub card_token: Secret,
}

/// An attempt to pay by card, as it is stored.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The payment.
    pub id: PaymentId,
    /// Who pays.
    pub user: UserId,
    /// Where it is.
    pub status: PaymentStatus,
    /// What for.
    pub subject: Subject,
    /// How much.
    pub amount: Money,
    /// The provider's name for it. It is known before anything is charged.
    pub intent: Option<String>,
    /// The id of what it becomes: the same for every attempt to pay the same thing.
    pub result: uuid::Uuid,
    /// Why it failed, or why it is given back.
    pub reason: Option<String>,
    /// The request that waits for its answer: none once it has one.
    pub request: Option<Request>,
    /// When it began.
    pub created_at: Timestamp,
}

/// The keyed request that began an attempt.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its key.
    pub key: Vec<u8>,
    /// What must be the same for a repeat.
    pub fingerprint: Vec<u8>,
}

impl Attempt {
    /// Why nothing was charged, where that is so.
    #[must_use]
    pub fn failure(&self) -> Option<Reason> {
        (self.status == PaymentStatus::Failed).then(|| Reason::of(self.reason.as_deref().unwrap_or_default()))
    }
}

/// What is done once the transaction is committed.
pub type After = BoxFuture<'static, ()>;

/// What came of money that has moved.
#[derive(Debug)]
pub enum Delivery {
    /// What it was for is the buyer's.
    Delivered(Told),
    /// It cannot be had any more, for this reason (a word): the money goes back.
    Impossible(&'static str, Told),
}

/// The answer to the buyer, and what follows the commit.
pub struct Told {
    /// The answer, 2xx.
    pub answer: Answer,
    /// What is done once it is committed.
    pub after: Option<After>,
}

impl Told {
    /// An answer that nothing follows.
    #[must_use]
    pub const fn only(answer: Answer) -> Self {
        Self { answer, after: None }
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").field("answer", &self.answer).finish_non_exhaustive()
    }
}

/// A step of a payable's, inside a transaction.
pub type Step<'c, T> = BoxFuture<'c, Result<T, Problem>>;

/// Something that is paid for by card.
pub trait Payable: fmt::Debug + Send + Sync {
    /// Locks what is to be paid until the transaction ends, and says what it costs, or why it cannot be paid now. The outer
    /// failure is the database's.
    fn quote<'c>(&'c self, conn: &'c mut Conn, ask: &'c Ask) -> Step<'c, Result<Money, Problem>>;

    /// Locks what an attempt pays for until the transaction ends.
    fn lock<'c>(&'c self, conn: &'c mut Conn, attempt: &'c Attempt) -> Step<'c, ()>;

    /// The money has moved: gives the buyer what it was for, or decides that it must go back; writes the movement into the
    /// ledger in both cases.
    fn deliver<'c>(&'c self, conn: &'c mut Conn, attempt: &'c Attempt) -> Step<'c, Delivery>;

    /// The buyer is answered before the attempt is decided: shows it as pending, and gives that answer.
    fn pend<'c>(&'c self, conn: &'c mut Conn, attempt: &'c Attempt) -> Step<'c, Answer>;

    /// Nothing was charged: takes back what [`Payable::pend`] showed.
    fn withdraw<'c>(&'c self, conn: &'c mut Conn, attempt: &'c Attempt) -> Step<'c, ()>;

    /// The provider has given the money back: writes that movement into the ledger.
    fn refunded<'c>(&'c self, conn: &'c mut Conn, attempt: &'c Attempt) -> Step<'c, ()>;
}

/// Who knows what is paid for, by kind.
#[derive(Clone, Debug, Default)]
pub struct Payables(Arc<HashMap<u8, Arc<dyn Payable>>>);

impl Payables {
    /// Holds and charges, each with who knows them.
    #[must_use]
    pub fn new(holds: Arc<dyn Payable>, charges: Arc<dyn Payable>) -> Self {
        let kind = |subject: Subject| subject.stored().0;
        let none = uuid::Uuid::nil();
        Self(Arc::new(HashMap::from([(kind(Subject::Hold(none)), holds), (kind(Subject::Charge(none)), charges)])))
    }

    /// Who knows this.
    ///
    /// # Errors
    /// Where nobody does.
    pub(super) fn of(&self, subject: Subject) -> Result<&dyn Payable, Problem> {
        let found = self.0.get(&subject.stored().0);
        found.map(Arc::as_ref).ok_or_else(|| Problem::internal(anyhow::anyhow!("nobody sells {subject:?} by card")))
    }
}
