//! What a movement of points is, and which amounts may move.

use uuid::Uuid;

use crate::accounts::UserId;
use crate::platform::clock::Timestamp;
use crate::platform::error::Problem;
use crate::platform::money::Money;

crate::id_types! {
    /// A ledger transaction: one movement of money.
    TransactionId;
    /// A charge: a buyer putting points on their account.
    ChargeId;
}

crate::problem_codes! {
    INSUFFICIENT_POINTS = 402 "insufficient_points" "Not enough points" "Your balance is below the amount. Charge points and repeat the payment.";
    BALANCE_LIMIT_EXCEEDED = 409 "balance_limit_exceeded" "Balance limit exceeded" "The balance would exceed 10,000,000. Charge less.";
    AMOUNT_OUT_OF_RANGE = 422 "amount_out_of_range" "Amount out of range" "One charge is from 1 to 1,000,000.";
}

/// Largest amount of one charge.
pub const CHARGE_MAX: Money = Money(1_000_000);
/// Largest balance that a charge may lead to. Refunds and grants may lead past it: they are owed.
pub const BALANCE_MAX: Money = Money(10_000_000);

/// Why money moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The buyer put points on their account.
    Charge,
    /// The buyer paid.
    Payment,
    /// The buyer got a payment back.
    Refund,
    /// The house gave points.
    Grant,
}

impl Kind {
    /// Its number in rows.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Charge => 0,
            Self::Payment => 1,
            Self::Refund => 2,
            Self::Grant => 3,
        }
    }

    /// The kind of this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Charge),
            1 => Some(Self::Payment),
            2 => Some(Self::Refund),
            3 => Some(Self::Grant),
            _ => None,
        }
    }

    /// Where the money comes from, or where it goes, on the house's side.
    #[must_use]
    pub const fn counterpart(self) -> Account {
        match self {
            Self::Charge => Account::Provider,
            Self::Payment | Self::Refund => Account::Revenue,
            Self::Grant => Account::Grants,
        }
    }

    /// What `amount` of this does to the buyer's balance.
    #[must_use]
    pub const fn change(self, amount: Money) -> Money {
        match self {
            Self::Payment => amount.negated(),
            Self::Charge | Self::Refund | Self::Grant => amount,
        }
    }
}

/// Whose money an entry counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Account {
    /// A buyer's points.
    Buyer,
    /// What came from outside: the card provider.
    Provider,
    /// What was earned.
    Revenue,
    /// What the house gave away.
    Grants,
}

impl Account {
    /// Its number in rows.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Buyer => 0,
            Self::Provider => 1,
            Self::Revenue => 2,
            Self::Grants => 3,
        }
    }
}

/// A buyer's balance, as its row says. A missing row is a balance of zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// The points.
    pub amount: Money,
    /// How many entries made it.
    pub entries: u32,
}

/// A movement between one buyer and the house, to be written down.
#[derive(Clone, Copy, Debug)]
pub struct Movement {
    /// Its id.
    pub id: TransactionId,
    /// Why.
    pub kind: Kind,
    /// What it is for.
    pub reference: Uuid,
    /// Who.
    pub user: UserId,
    /// How much, not negative.
    pub amount: Money,
    /// The buyer's balance after it.
    pub after: Balance,
}

/// One of a buyer's entries.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The transaction.
    pub id: TransactionId,
    /// Its number among the buyer's entries.
    pub number: u32,
    /// Why.
    pub kind: Kind,
    /// What the balance changed by.
    pub amount: Money,
    /// The balance after it.
    pub balance_after: Money,
    /// The charge, payment, refund or grant.
    pub reference: Uuid,
    /// When.
    pub created_at: Timestamp,
}

/// Refuses a charge whose amount is out of range.
///
/// # Errors
/// 422 `amount_out_of_range`.
pub fn check_charge(amount: Money) -> Result<(), Problem> {
    if (Money(1)..=CHARGE_MAX).contains(&amount) {
        return Ok(());
    }
    Err(Problem::new(&AMOUNT_OUT_OF_RANGE).with("min", 1).with("max", CHARGE_MAX.0))
}

/// The balance after charging `amount`, which passed [`check_charge`].
///
/// # Errors
/// 409 `balance_limit_exceeded`.
pub fn charged(balance: Money, amount: Money) -> Result<Money, Problem> {
    let exceeded = || Problem::new(&BALANCE_LIMIT_EXCEEDED).with("balance", balance.0).with("limit", BALANCE_MAX.0);
    balance.plus(amount).filter(|sum| *sum <= BALANCE_MAX).ok_or_else(exceeded)
}

/// 402 for a buyer who has `balance` and owes `amount`.
#[must_use]
pub fn insufficient(balance: Money, amount: Money) -> Problem {
    Problem::new(&INSUFFICIENT_POINTS).with("balance", balance.0).with("amount", amount.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_are_from_one_to_a_million() {
        for good in [1, 1_000_000] {
            assert!(check_charge(Money(good)).is_ok(), "{good}");
        }
        for bad in [i64::MIN, -1, 0, 1_000_001, i64::MAX] {
            assert_eq!(check_charge(Money(bad)).unwrap_err().code(), &AMOUNT_OUT_OF_RANGE, "{bad}");
        }
    }

    #[test]
    fn a_charge_never_leads_past_the_limit() {
        assert_eq!(charged(Money(9_999_999), Money(1)).unwrap(), BALANCE_MAX);
        assert_eq!(charged(BALANCE_MAX, Money(1)).unwrap_err().code(), &BALANCE_LIMIT_EXCEEDED);
        assert!(charged(Money(i64::MAX), Money(1)).is_err());
    }

    #[test]
    fn kinds_are_read_back_and_only_payments_take() {
        for kind in [Kind::Charge, Kind::Payment, Kind::Refund, Kind::Grant] {
            assert_eq!(Kind::from_number(kind.number()), Some(kind));
            assert_eq!(kind.change(Money(5)).0 < 0, kind == Kind::Payment);
        }
        assert_eq!(Kind::from_number(4), None);
    }
}
