//! What the sandbox's cards do. Stripe's test names, and a few of our own for what Stripe shows only now and then.

/// How a card behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Card {
    /// It pays.
    Pays,
    /// It is refused, with the code and the more precise one.
    Declines(Decline),
    /// It wants its holder to confirm.
    Authenticates,
    /// It pays or is refused some time later; where nothing is said, when somebody decides.
    Processes(Option<bool>),
    /// It pays, and what is given back arrives, or not, some time later.
    RefundsLate(bool),
}

/// Why a card is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decline {
    /// As `code` has it.
    pub code: &'static str,
    /// As `decline_code` has it.
    pub decline_code: &'static str,
}

/// A refusal without a reason.
pub const DECLINED: Decline = Decline { code: "card_declined", decline_code: "generic_decline" };
/// The holder should have confirmed.
pub const UNAUTHENTICATED: Decline =
    Decline { code: "authentication_required", decline_code: "authentication_required" };

const PAYING: &[&str] = &[
    "visa",
    "visa_debit",
    "mastercard",
    "mastercard_debit",
    "mastercard_prepaid",
    "amex",
    "discover",
    "diners",
    "jcb",
    "unionpay",
    "us",
    "kr",
    "jp",
];

const DECLINING: &[(&str, Decline)] = &[
    ("chargeDeclined", DECLINED),
    ("chargeDeclinedInsufficientFunds", declined("insufficient_funds")),
    ("chargeDeclinedLostCard", declined("lost_card")),
    ("chargeDeclinedStolenCard", declined("stolen_card")),
    ("chargeDeclinedFraudulent", declined("fraudulent")),
    ("chargeDeclinedVelocityLimitExceeded", declined("card_velocity_exceeded")),
    ("chargeDeclinedExpiredCard", Decline { code: "expired_card", decline_code: "expired_card" }),
    ("chargeDeclinedIncorrectCvc", Decline { code: "incorrect_cvc", decline_code: "incorrect_cvc" }),
    ("chargeDeclinedProcessingError", Decline { code: "processing_error", decline_code: "processing_error" }),
];

const OTHERS: &[(&str, Card)] = &[
    ("pm_card_authenticationRequired", Card::Authenticates),
    ("pm_card_pendingRefund", Card::RefundsLate(true)),
    ("pm_card_refundFail", Card::RefundsLate(false)),
    ("pm_sandbox_processing", Card::Processes(None)),
    ("pm_sandbox_processing_succeeds", Card::Processes(Some(true))),
    ("pm_sandbox_processing_fails", Card::Processes(Some(false))),
];

const fn declined(decline_code: &'static str) -> Decline {
    Decline { code: "card_declined", decline_code }
}

impl Card {
    /// The card of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        if let Some((_, card)) = OTHERS.iter().find(|(known, _)| *known == name) {
            return Some(*card);
        }
        let rest = name.strip_prefix("pm_card_")?;
        if PAYING.contains(&rest) {
            return Some(Self::Pays);
        }
        // `pm_card_visa_chargeDeclined` is the same card as `pm_card_chargeDeclined`.
        let rest = rest.strip_prefix("visa_").unwrap_or(rest);
        DECLINING.iter().find(|(known, _)| *known == rest).map(|(_, decline)| Self::Declines(*decline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_have_the_names_that_stripe_gave_them() {
        assert_eq!(Card::of("pm_card_visa"), Some(Card::Pays));
        assert_eq!(Card::of("pm_card_mastercard"), Some(Card::Pays));
        assert_eq!(Card::of("pm_card_chargeDeclined"), Some(Card::Declines(DECLINED)));
        assert_eq!(Card::of("pm_card_visa_chargeDeclined"), Some(Card::Declines(DECLINED)));
        let funds = Card::Declines(declined("insufficient_funds"));
        assert_eq!(Card::of("pm_card_chargeDeclinedInsufficientFunds"), Some(funds));
        assert_eq!(Card::of("pm_sandbox_processing_fails"), Some(Card::Processes(Some(false))));
        for unknown in ["", "visa", "pm_card_", "pm_card_gold", "pm_sandbox_", "pm_card_visa_visa"] {
            assert_eq!(Card::of(unknown), None, "{unknown}");
        }
    }
}
