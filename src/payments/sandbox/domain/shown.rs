//! How the books look in Stripe's JSON.

use serde_json::{Value, json};

use super::cards::Decline;
use super::{Intent, Refund, RefundStage, Refusal, Stage};
use crate::platform::money::CURRENCY;

fn currency() -> String {
    CURRENCY.to_lowercase()
}

impl Stage {
    /// As Stripe calls it.
    #[must_use]
    pub const fn status(self, has_card: bool) -> &'static str {
        match self {
            Self::Unconfirmed if has_card => "requires_confirmation",
            Self::Unconfirmed | Self::Declined(_) => "requires_payment_method",
            Self::Authenticating => "requires_action",
            Self::Processing => "processing",
            Self::Succeeded => "succeeded",
            Self::Cancelled => "canceled",
        }
    }

    /// As the books call it: what happened to the money.
    #[must_use]
    pub const fn booked(self) -> &'static str {
        match self {
            Self::Unconfirmed | Self::Authenticating => "unconfirmed",
            Self::Processing => "processing",
            Self::Succeeded => "succeeded",
            Self::Declined(_) => "declined",
            Self::Cancelled => "cancelled",
        }
    }
}

fn failure(decline: Decline) -> Value {
    json!({"type": "card_error", "code": decline.code, "decline_code": decline.decline_code,
        "message": "Your card was declined."})
}

impl Intent {
    /// The intent itself.
    #[must_use]
    pub fn shown(&self) -> Value {
        let is_charged = self.stage == Stage::Succeeded;
        let (failure, action) = match self.stage {
            Stage::Declined(decline) => (failure(decline), Value::Null),
            Stage::Authenticating => (Value::Null, json!({"type": "use_stripe_sdk"})),
            _ => (Value::Null, Value::Null),
        };
        json!({
            "id": self.id,
            "object": "payment_intent",
            "amount": self.amount,
            "amount_received": if is_charged { self.amount } else { 0 },
            "currency": currency(),
            "status": self.stage.status(self.payment_method.is_some()),
            "capture_method": "automatic",
            "confirmation_method": "automatic",
            "created": self.created,
            "last_payment_error": failure,
            "latest_charge": self.charge,
            "livemode": false,
            "metadata": self.metadata,
            "next_action": action,
            "payment_method": if matches!(self.stage, Stage::Declined(_)) { None } else { self.payment_method.as_ref() },
            "payment_method_types": ["card"],
        })
    }

    /// Its charge.
    #[must_use]
    pub fn charge_shown(&self) -> Value {
        let refunded = self.refunded();
        json!({
            "id": self.charge,
            "object": "charge",
            "amount": self.amount,
            "amount_refunded": refunded,
            "currency": currency(),
            "livemode": false,
            "metadata": self.metadata,
            "paid": self.charge.is_some(),
            "payment_intent": self.id,
            "refunded": refunded == self.amount,
            "status": "succeeded",
        })
    }

    /// How it stands in the books.
    #[must_use]
    pub fn booked(&self) -> Value {
        json!({
            "number": self.number,
            "id": self.id,
            "attempt": self.metadata.get("attempt"),
            "amount": self.amount,
            "status": self.stage.booked(),
            "refunded": self.refunded(),
        })
    }
}

impl Refund {
    /// The refund, which is one of this intent's.
    #[must_use]
    pub fn shown(&self, intent: &Intent) -> Value {
        let (status, reason) = match self.stage {
            RefundStage::Pending => ("pending", None),
            RefundStage::Succeeded => ("succeeded", None),
            RefundStage::Failed => ("failed", Some("expired_or_canceled_card")),
        };
        json!({
            "id": self.id,
            "object": "refund",
            "amount": self.amount,
            "charge": intent.charge,
            "created": self.created,
            "currency": currency(),
            "failure_reason": reason,
            "metadata": self.metadata,
            "payment_intent": intent.id,
            "status": status,
        })
    }
}

impl Refusal {
    /// The body of the answer.
    #[must_use]
    pub fn shown(&self) -> Value {
        let mut error = json!({"type": self.kind, "message": self.message});
        for (name, value) in
            [("code", self.code), ("decline_code", self.decline_code), ("param", self.param.as_deref())]
        {
            if let Some(value) = value {
                error[name] = json!(value);
            }
        }
        if let Some(intent) = &self.intent {
            error["payment_intent"] = (**intent).clone();
        }
        json!({"error": error})
    }
}
