//! The movements that other features make inside their own transactions.
//!
//! Each locks the buyer's balance until the transaction ends: in the lock order of `platform::db` the balance
//! comes after holds, orders and passes, and before seats.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::domain::{Account, Balance, Due, Kind, Movement, Purses, TransactionId};
use super::store;
use crate::accounts::UserId;
use crate::platform::db::{Conn, Outcomes, Script, Slot};
use crate::platform::error::Problem;
use crate::platform::money::Money;

/// Buyers granted points by one set of statements.
const GRANTS_PER_WRITE: usize = 500;

/// What a script asks about the balances of those who pay.
#[derive(Debug)]
pub struct AskedPurses(Slot<store::BalanceRow>);

/// Payments that a script makes, by how many balances it takes from.
#[derive(Debug)]
pub struct Taking(Slot<()>, usize);

/// Has a script lock the balances of these buyers, in their order.
pub fn ask_purses(script: &mut Script, users: impl IntoIterator<Item = UserId>) -> AskedPurses {
    let users: BTreeSet<UserId> = users.into_iter().collect();
    AskedPurses(store::ask_balances_for_update(script, &users.into_iter().collect::<Vec<_>>()))
}

impl AskedPurses {
    /// The balances of those who pay. Who never had anything has none, and can pay nothing but nothing: for that one is made.
    ///
    /// # Errors
    /// Where a statement fails.
    pub async fn read(&self, conn: &mut Conn, outcomes: &Outcomes, dues: &[Due]) -> Result<Purses, Problem> {
        let found = outcomes.list(&self.0)?;
        let mut balances: BTreeMap<UserId, Balance> =
            found.into_iter().map(|(user, amount, entries)| (user, Balance { amount, entries })).collect();
        for due in dues.iter().filter(|due| due.amount == Money::ZERO) {
            if let Entry::Vacant(none) = balances.entry(due.user) {
                none.insert(store::get_balance_for_update(conn, due.user).await?);
            }
        }
        Ok(Purses::new(balances))
    }
}

/// Takes from each of the buyers what is due as revenue, or says why not: one after the other, where several are of one buyer.
/// Nothing to pay is fine: it is written down as a payment of zero.
///
/// # Errors
/// 402 `insufficient_points` with `balance` and `amount` for a payment; for all of them, where one makes no sense.
pub fn take_all(purses: &mut Purses, dues: &[Due]) -> Result<Vec<Result<Movement, Problem>>, Problem> {
    let take = |due: &Due| {
        check_amount(due.amount)?;
        let Due { user, amount, payment: reference } = *due;
        let movement =
            |after| Movement { id: TransactionId::new(), kind: Kind::Payment, reference, user, amount, after };
        Ok(purses.take(user, amount).map(movement))
    };
    dues.iter().map(take).collect()
}

/// Has a script write down what was taken. The fault `Duplicate` says that a payment was booked before.
pub fn write_taken(script: &mut Script, offset_micros: i64, purses: &Purses, movements: &[Movement]) -> Taking {
    let taken: Vec<_> = purses.taken().collect();
    let taking = Taking(store::take(script, offset_micros, &taken), taken.len());
    store::write_movements(script, offset_micros, movements);
    taking
}

impl Taking {
    /// Makes sure that every balance was as high as it was when it was locked.
    ///
    /// # Errors
    /// Where one was not.
    pub fn check(&self, outcomes: &Outcomes) -> Result<(), Problem> {
        match outcomes.affected(&self.0) {
            count if count == self.1 as u64 => Ok(()),
            count => Err(Problem::internal(anyhow::anyhow!("{count} of {} locked balances were enough", self.1))),
        }
    }
}

/// Locks the buyer's balance for the rest of the transaction, whose row is made where it is missing: for what must come one after
/// the other although nothing else of the buyer's can be locked.
///
/// # Errors
/// Where a statement fails.
pub async fn lock(conn: &mut Conn, user: UserId) -> Result<(), Problem> {
    store::get_balance_for_update(conn, user).await.map(drop)
}

/// Gives `amount` of the revenue back to the buyer and gives the new balance. The balance limit of charges does
/// not stop it: what is owed is owed.
///
/// # Errors
/// The fault `Duplicate` where this refund was booked before.
pub async fn refund(conn: &mut Conn, user: UserId, amount: Money, refund_id: Uuid) -> Result<Money, Problem> {
    check_amount(amount)?;
    let before = store::get_balance_for_update(conn, user).await?;
    let sum =
        before.amount.plus(amount).ok_or_else(|| Problem::internal(anyhow::anyhow!("balance of {user} overflows")))?;
    credit(conn, Kind::Refund, refund_id, user, amount, Balance { amount: sum, entries: before.entries + 1 }).await
}

/// Writes down that a card was charged `amount` for this payment: from the provider to the revenue, past every buyer's points.
///
/// # Errors
/// The fault `Duplicate` where this payment was booked before.
pub async fn card_paid(conn: &mut Conn, amount: Money, payment_id: Uuid) -> Result<(), Problem> {
    check_amount(amount)?;
    let between = [(Account::Provider, amount.negated()), (Account::Revenue, amount)];
    store::insert_between(conn, TransactionId::new(), Kind::Payment, payment_id, between).await
}

/// Writes down that the provider gave such a payment back to the card.
///
/// # Errors
/// The fault `Duplicate` where this refund was booked before.
pub async fn card_refunded(conn: &mut Conn, amount: Money, payment_id: Uuid) -> Result<(), Problem> {
    check_amount(amount)?;
    let between = [(Account::Revenue, amount.negated()), (Account::Provider, amount)];
    store::insert_between(conn, TransactionId::new(), Kind::Refund, payment_id, between).await
}

/// Gives each of the buyers `amount` from the house, once however often they are named. For demonstrations and
/// load tests.
///
/// # Errors
/// What the database fails with.
pub async fn grant_many(conn: &mut Conn, users: &[UserId], amount: Money) -> Result<(), Problem> {
    check_amount(amount)?;
    let mut sorted = users.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    for users in sorted.chunks(GRANTS_PER_WRITE) {
        store::give_many(conn, users, amount).await?;
        let balances = store::list_balances(conn, users).await?;
        let movements: Vec<Movement> = balances
            .into_iter()
            .map(|(user, after)| {
                let id = TransactionId::new();
                Movement { id, kind: Kind::Grant, reference: id.0, user, amount, after }
            })
            .collect();
        store::insert_movements(conn, &movements).await?;
    }
    Ok(())
}

/// Sets the balance, whose row the caller has locked, and writes down why.
pub(super) async fn credit(
    conn: &mut Conn,
    kind: Kind,
    reference: Uuid,
    user: UserId,
    amount: Money,
    after: Balance,
) -> Result<Money, Problem> {
    store::set_balance(conn, user, after).await?;
    write(conn, kind, reference, user, amount, after).await
}

async fn write(
    conn: &mut Conn,
    kind: Kind,
    reference: Uuid,
    user: UserId,
    amount: Money,
    after: Balance,
) -> Result<Money, Problem> {
    let movement = Movement { id: TransactionId::new(), kind, reference, user, amount, after };
    store::insert_movements(conn, &[movement]).await?;
    Ok(after.amount)
}

/// Amounts come from prices that were checked when they were set: a negative one is a mistake in the caller.
fn check_amount(amount: Money) -> Result<(), Problem> {
    if amount < Money::ZERO {
        return Err(Problem::internal(anyhow::anyhow!("a movement of {amount}")));
    }
    Ok(())
}
