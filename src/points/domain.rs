//! What a movement of points is, and which amounts may move.

use std::collections::BTreeMap;

use serde::Deserialize as _;
use serde::de::value::{Error, StrDeserializer};
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

/// What a buyer is to pay.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// Who.
    pub user: UserId,
    /// How much, not negative.
    pub amount: Money,
    /// The payment.
    pub payment: Uuid,
}

/// Locked balances, from which one payment after the other is taken.
#[derive(Debug, Default)]
pub struct Purses(BTreeMap<UserId, Purse>);

#[derive(Debug)]
struct Purse {
    before: Balance,
    left: Balance,
}

impl Purses {
    /// With these balances.
    #[must_use]
    pub fn new(balances: impl IntoIterator<Item = (UserId, Balance)>) -> Self {
        let purse = |(user, balance)| (user, Purse { before: balance, left: balance });
        Self(balances.into_iter().map(purse).collect())
    }

    /// Takes `amount` from the buyer's balance, if it is that high, and gives what is left. A buyer without a balance has
    /// nothing.
    ///
    /// # Errors
    /// 402 `insufficient_points`.
    pub fn take(&mut self, user: UserId, amount: Money) -> Result<Balance, Problem> {
        let Some(purse) = self.0.get_mut(&user) else { return Err(insufficient(Money::ZERO, amount)) };
        let left = purse.left.amount.plus(amount.negated()).filter(|left| *left >= Money::ZERO);
        let left = left.ok_or_else(|| insufficient(purse.left.amount, amount))?;
        purse.left = Balance { amount: left, entries: purse.left.entries + 1 };
        Ok(purse.left)
    }

    /// By how much each balance has fallen, and by how many entries: those from which something was taken.
    pub fn taken(&self) -> impl Iterator<Item = (UserId, Money, u32)> {
        let taken = self.0.iter().filter(|(_, purse)| purse.left.entries > purse.before.entries);
        taken.map(|(user, Purse { before, left })| {
            (*user, Money(before.amount.0 - left.amount.0), left.entries - before.entries)
        })
    }
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

/// A month of the calendar, in UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Month {
    /// Such as `2026-11`.
    pub name: String,
    /// Its first instant.
    pub from: Timestamp,
    /// The first instant of the next one.
    pub until: Timestamp,
}

impl Month {
    /// Reads `2026-11`.
    ///
    /// # Errors
    /// 422 `invalid_parameter`.
    pub fn parse(name: &str) -> Result<Self, Problem> {
        let read = || {
            let (year, month) = name.split_once('-').filter(|(year, month)| year.len() == 4 && month.len() == 2)?;
            let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            let numbers = (is_digits(year) && is_digits(month)).then(|| (year.parse::<u16>(), month.parse::<u16>()));
            let (Ok(year), Ok(month)) = numbers? else { return None };
            let (next_year, next) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
            Some(Self { name: name.to_owned(), from: first_of(year, month)?, until: first_of(next_year, next)? })
        };
        read().ok_or_else(|| Problem::invalid_parameter("month", "a month such as 2026-11, from 1970 to 9997"))
    }

    /// The month that an instant is in.
    ///
    /// # Errors
    /// As [`Month::parse`], for an instant of no such month.
    pub fn of(at: Timestamp) -> Result<Self, Problem> {
        Self::parse(at.to_string().get(..7).unwrap_or_default())
    }
}

fn first_of(year: u16, month: u16) -> Option<Timestamp> {
    let text = format!("{year:04}-{month:02}-01T00:00:00Z");
    Timestamp::deserialize(StrDeserializer::<Error>::new(&text)).ok()
}

/// How a month changed a buyer's balance. What was there before, and what came and went, make what was there afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statement {
    /// The balance before the month's first entry.
    pub opening: Money,
    /// Put on the account.
    pub charged: Money,
    /// Paid.
    pub paid: Money,
    /// Got back.
    pub refunded: Money,
    /// Given by the house.
    pub granted: Money,
    /// The balance after the month's last entry.
    pub closing: Money,
}

impl Statement {
    /// Whether it adds up.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let parts = [self.opening, self.charged, self.paid.negated(), self.refunded, self.granted];
        Money::sum(parts.into_iter()) == Some(self.closing)
    }
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
    fn payments_are_taken_from_a_balance_one_after_the_other() {
        let [ada, ben, poor] = [(); 3].map(|()| UserId::new());
        let balance = |amount, entries| Balance { amount: Money(amount), entries };
        let mut purses = Purses::new([(ada, balance(100, 4)), (ben, balance(0, 7))]);
        assert_eq!(purses.take(ada, Money(70)).unwrap(), balance(30, 5));
        let refused = purses.take(ada, Money(31)).unwrap_err();
        assert_eq!(refused.code(), &INSUFFICIENT_POINTS);
        assert_eq!((&refused.body("")["balance"], &refused.body("")["amount"]), (&30.into(), &31.into()));
        assert_eq!(purses.take(ada, Money(30)).unwrap(), balance(0, 6));
        assert_eq!(purses.take(ben, Money(1)).unwrap_err().code(), &INSUFFICIENT_POINTS);
        assert_eq!(purses.take(poor, Money(1)).unwrap_err().body("")["balance"], 0);
        assert_eq!(purses.taken().collect::<Vec<_>>(), [(ada, Money(100), 2)]);
        // What costs nothing is a payment as well.
        assert_eq!(purses.take(ben, Money(0)).unwrap(), balance(0, 8));
        assert_eq!(purses.taken().count(), 2);
    }

    #[test]
    fn months_follow_each_other() {
        let month = |name: &str| Month::parse(name).unwrap();
        assert_eq!(month("2026-11").from.to_string(), "2026-11-01T00:00:00.000Z");
        assert_eq!(month("2026-12").until, month("2027-01").from);
        assert_eq!(month("2028-02").until.to_string(), "2028-03-01T00:00:00.000Z");
        assert_eq!(Month::of(month("2026-11").until).unwrap().name, "2026-12");
        for bad in ["2026-00", "2026-13", "2026-1", "26-11", "2026-11-01", "+026-11", "1969-12", "9999-01", ""] {
            assert!(Month::parse(bad).is_err(), "{bad}");
        }
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
