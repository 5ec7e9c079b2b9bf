//! What a person does about payments by card that stay open: sees them, and ends those that the provider never will.

use serde::Serialize;

use super::attempts::{Attempts, Settled};
use super::domain::{PaymentId, PaymentStatus, Reason, Verdict};
use super::gateway::{Gateway, GatewayError, IntentId, RefundStanding, Standing};
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

/// What came of ending a payment by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByHand {
    /// It is closed.
    Closed,
    /// There is no such payment that is open in this way.
    NotOpen,
    /// The provider says otherwise: it was charged or may be, or its refund is on the way.
    Contradicted,
    /// The provider does not say, or none is configured: nobody knows.
    Unanswered,
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
    /// ledger. Only where the provider agrees at this moment, or says that it does not know the payment: what it has not
    /// decided is cancelled there first, so that no confirmation still on its way can charge it.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn close_by_hand(&self, id: PaymentId, closed: ClosedAs) -> Result<ByHand, Problem> {
        let found = self.parts.db.read("payments.find", id, |conn, id| Box::pin(store::find(conn, *id))).await?;
        let Some(attempt) = found else { return Ok(ByHand::NotOpen) };
        let (Some(gateway), intent) = (&self.parts.gateway, attempt.intent.clone().map(IntentId)) else {
            return Ok(ByHand::Unanswered);
        };
        let agreed = match (attempt.status, closed, &intent) {
            // Nothing was charged by a name that nobody has; whoever is about to give it one finds it closed.
            (PaymentStatus::Pending, ClosedAs::NotCharged, None) => {
                return Ok(first(&self.close_unnamed(id).await?));
            }
            (PaymentStatus::Pending, ClosedAs::NotCharged, Some(intent)) => {
                was_not_charged(&**gateway, id, intent).await
            }
            (PaymentStatus::Refunding, ClosedAs::Refunded, Some(intent)) => {
                will_not_refund(&gateway.refund(id, intent, attempt.amount).await)
            }
            _ => ByHand::NotOpen,
        };
        if agreed != ByHand::Closed {
            return Ok(agreed);
        }
        tracing::warn!(payment = %id, closed = ?closed, "a payment is closed by hand");
        if closed == ClosedAs::NotCharged {
            return Ok(first(&self.settle(id, Verdict::NotCharged(Reason::Abandoned)).await?));
        }
        let refunded = Refunded { id, payables: self.parts.payables.clone() };
        self.parts.db.in_tx("payments.refunded", refunded, |conn, refunded| refunded.run(conn)).await?;
        Ok(ByHand::Closed)
    }
}

fn first(settled: &Settled) -> ByHand {
    if settled.is_first { ByHand::Closed } else { ByHand::NotOpen }
}

/// Whether the provider has not charged the intent and never will.
async fn was_not_charged(gateway: &dyn Gateway, id: PaymentId, intent: &IntentId) -> ByHand {
    let standing = match gateway.find(intent).await {
        Ok(Standing::Unconfirmed) => gateway.cancel(id, intent).await,
        known => known,
    };
    match standing {
        // It does not know the intent any more.
        Ok(Standing::Declined(_) | Standing::Cancelled) | Err(GatewayError::Refused(_)) => ByHand::Closed,
        Ok(Standing::Succeeded | Standing::Processing | Standing::Unconfirmed) => ByHand::Contradicted,
        Err(GatewayError::NotSent(_) | GatewayError::Unknown(_)) => ByHand::Unanswered,
    }
}

/// Whether the money that is owed does not go back by the provider, or has gone back already.
fn will_not_refund(asked: &Result<RefundStanding, GatewayError>) -> ByHand {
    match asked {
        Ok(RefundStanding::Succeeded | RefundStanding::Failed) | Err(GatewayError::Refused(_)) => ByHand::Closed,
        Ok(RefundStanding::Pending) => ByHand::Contradicted,
        Err(GatewayError::NotSent(_) | GatewayError::Unknown(_)) => ByHand::Unanswered,
    }
}
