//! Amounts of money: whole minor units of one currency, checked arithmetic only.

use serde::{Deserialize, Serialize};

/// The installation's currency. Won have no smaller unit.
pub const CURRENCY: &str = "KRW";

/// An amount in minor units. May be negative in ledger entries only.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    sqlx::Type,
    utoipa::ToSchema,
)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct Money(pub i64);

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The sum, or `None` where it does not fit.
    #[must_use]
    pub fn plus(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The sum of all, or `None` where it does not fit.
    pub fn sum(mut amounts: impl Iterator<Item = Self>) -> Option<Self> {
        amounts.try_fold(Self::ZERO, Self::plus)
    }

    /// The amount with its sign turned.
    #[must_use]
    pub const fn negated(self) -> Self {
        Self(self.0.saturating_neg())
    }
}

impl std::fmt::Display for Money {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {CURRENCY}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_that_do_not_fit_are_refused() {
        assert_eq!(Money::sum([Money(1), Money(2)].into_iter()), Some(Money(3)));
        assert_eq!(Money(i64::MAX).plus(Money(1)), None);
    }
}
