//! What a card provider must be able to do, whichever it is.
//!
//! A payment takes two calls. `create` makes an intent, which moves no money and may be repeated: it gives the same intent for
//! the same attempt. `confirm` charges it. So an attempt whose reply was lost is never guessed at: its intent is found by
//! repeating `create`, and asked for what became of it; and an intent that was cancelled cannot be charged any more, however
//! late a `confirm` arrives.

use std::fmt;

use futures::future::BoxFuture;

use super::domain::PaymentId;
use crate::platform::config::Secret;
use crate::platform::money::Money;

/// What is to be charged.
#[derive(Clone, Debug)]
pub struct Order {
    /// The attempt: the provider's idempotency keys are made from it.
    pub attempt: PaymentId,
    /// How much.
    pub amount: Money,
    /// The provider's payment method.
    pub card_token: Secret,
}

/// The provider's name for an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntentId(pub String);

/// Where an intent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Made, and never confirmed: no money has moved, and none will before somebody confirms it.
    Unconfirmed,
    /// Confirmed, and not decided.
    Processing,
    /// The money has moved.
    Succeeded,
    /// The card was refused, with the provider's code, such as `card_declined` or `insufficient_funds`.
    Declined(String),
    /// Cancelled: no money moved, and none ever will.
    Cancelled,
}

/// Where a refund is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefundStanding {
    /// Asked for, and on its way.
    Pending,
    /// The money has gone back.
    Succeeded,
    /// It cannot be given back: a person must look at it.
    Failed,
}

/// Why the provider gave no answer of use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayError {
    /// The request was never sent: too many are under way, the provider is being left alone, or there is no connection; or
    /// the provider turned it away before it looked at it.
    NotSent(String),
    /// It may have been carried out: the reply is late, lost, or says that something went wrong inside.
    Unknown(String),
    /// The provider says that the request itself is wrong, and did nothing.
    Refused(String),
}

impl fmt::Display for GatewayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, why) = match self {
            Self::NotSent(why) => ("not sent", why),
            Self::Unknown(why) => ("outcome unknown", why),
            Self::Refused(why) => ("refused", why),
        };
        write!(f, "{what}: {why}")
    }
}

/// The answer to a call.
pub type Reply<'a, T> = BoxFuture<'a, Result<T, GatewayError>>;

/// A card provider. Every call is repeatable: the same one again has no second effect.
pub trait Gateway: fmt::Debug + Send + Sync {
    /// Makes the attempt's intent, or finds the one that was made, and says where it is. Moves no money.
    fn create<'a>(&'a self, order: &'a Order) -> Reply<'a, (IntentId, Standing)>;

    /// Charges the intent. Where it is decided already, says how.
    fn confirm<'a>(&'a self, order: &'a Order, intent: &'a IntentId) -> Reply<'a, Standing>;

    /// Where the intent is.
    fn find<'a>(&'a self, intent: &'a IntentId) -> Reply<'a, Standing>;

    /// Sees to it that the intent is never charged, unless it was; says where it is afterwards.
    fn cancel<'a>(&'a self, attempt: PaymentId, intent: &'a IntentId) -> Reply<'a, Standing>;

    /// Gives the whole amount of a charged intent back.
    fn refund<'a>(&'a self, attempt: PaymentId, intent: &'a IntentId, amount: Money) -> Reply<'a, RefundStanding>;
}
