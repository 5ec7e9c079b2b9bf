//! What a person does about payments by card that stay open: sees them, and ends those that the provider never will.

use serde::Serialize;

use super::attempts::Attempts;
use super::domain::{PaymentId, PaymentStatus, Reason, Verdict};
use super::gateway::{IntentId, Standing};
use super::recovery::Refunded;
use super::store::attempts as store;
use crate::platform::clock::Timestamp;
use crate::platform::error::Problem;
use crate::platform::money::Money;

/// Payments of one state that are listed, those that are due first.
const LISTED_MAX: u32 = 10_000;

/// A payment that is undecided, or whose refund is owed.
#[derive(Clone, Debug, Serialize)]
pub struct OpenPayment {
    /// The payment.
    pub id: PaymentId,
    /// `pending` or `refunding`.
    pub status: PaymentStatus,
    /// What was to be charged, in won.
    pub amount: Money,
    /// The provider's name for it; none where it never got that far.
    pub intent: Option<String>,
    /// Why the money goes back, where it does.
    pub reason: Option<String>,
    /// When it began.
    pub created_at: Timestamp,
}

/// How a payment ends that nobody else can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedAs {
    /// An undecided one: it was never charged.
    NotCharged,
    /// A refund that is owed: the money was given back in another way.
    Refunded,
}

impl Attempts {
    /// Payments that are open, at most ten thousand of each state.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn list_open(&self) -> Result<Vec<OpenPayment>, Problem> {
        let list = self.parts.db.read("payments.list_open", (), |conn, ()| {
            Box::pin(async move {
                let mut open = store::list_open(conn, PaymentStatus::Pending, LISTED_MAX).await?;
                open.extend(store::list_open(conn, PaymentStatus::Refunding, LISTED_MAX).await?);
                Ok(open)
            })
        });
        let open = list.await?.into_iter().map(|attempt| OpenPayment {
            id: attempt.id,
            status: attempt.status,
            amount: attempt.amount,
            intent: attempt.intent,
            reason: attempt.reason,
            created_at: attempt.created_at,
        });
        Ok(open.collect())
    }

    /// Ends a payment with everything that its end brings along: the reservation that comes to nothing, or the refund in the
    /// ledger. False where it is not open in this way, or where the provider says at this moment that it was charged, or
    /// may be.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn close_by_hand(&self, id: PaymentId, closed: ClosedAs) -> Result<bool, Problem> {
        let found = self.parts.db.read("payments.find", id, |conn, id| Box::pin(store::find(conn, *id))).await?;
        let Some(attempt) = found else { return Ok(false) };
        match (attempt.status, closed) {
            (PaymentStatus::Pending, ClosedAs::NotCharged) => {
                if let (Some(gateway), Some(intent)) = (&self.parts.gateway, attempt.intent.map(IntentId)) {
                    let standing = gateway.find(&intent).await;
                    if matches!(standing, Ok(Standing::Succeeded | Standing::Processing)) {
                        return Ok(false);
                    }
                }
                let settled = self.settle(id, Verdict::NotCharged(Reason::Abandoned)).await?;
                Ok(settled.is_first)
            }
            (PaymentStatus::Refunding, ClosedAs::Refunded) => {
                let refunded = Refunded { id, payables: self.parts.payables.clone() };
                self.parts.db.in_tx("payments.refunded", refunded, |conn, refunded| refunded.run(conn)).await?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}
