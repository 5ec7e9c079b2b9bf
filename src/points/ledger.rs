//! The movements that other features make inside their own transactions.
//!
//! Each locks the buyer's balance until the transaction ends: in the lock order of `platform::db` the balance
//! comes after holds, orders and passes, and before seats.

use std::collections::HashSet;

use uuid::Uuid;

use super::domain::{Balance, Due, Kind, Movement, Purses, TransactionId};
use super::store;
use crate::accounts::UserId;
use crate::platform::db::Conn;
use crate::platform::error::Problem;
use crate::platform::money::Money;

/// Buyers granted points by one set of statements.
const GRANTS_PER_WRITE: usize = 500;

/// Takes from each of the buyers what is due as revenue, or says why not: one after the other, where several are of one buyer.
/// Nothing to pay is fine: it is written down as a payment of zero.
///
/// # Errors
/// 402 `insufficient_points` with `balance` and `amount` for a payment; for all of them the fault `Duplicate` where one was booked
/// before, and what the database fails with.
pub async fn pay_all(conn: &mut Conn, dues: &[Due]) -> Result<Vec<Result<(), Problem>>, Problem> {
    for due in dues {
        check_amount(due.amount)?;
    }
    let mut purses = lock_purses(conn, dues).await?;
    let (mut told, mut movements) = (Vec::with_capacity(dues.len()), Vec::with_capacity(dues.len()));
    for Due { user, amount, payment } in dues.iter().copied() {
        told.push(purses.take(user, amount).map(|after| {
            let id = TransactionId::new();
            movements.push(Movement { id, kind: Kind::Payment, reference: payment, user, amount, after });
        }));
    }
    let taken: Vec<_> = purses.taken().collect();
    let count = store::take(conn, &taken).await?;
    if count != taken.len() as u64 {
        return Err(Problem::internal(anyhow::anyhow!("{count} of {} locked balances were enough", taken.len())));
    }
    store::insert_movements(conn, &movements).await?;
    Ok(told)
}

/// The balances of those who pay, locked in the order of their users.
async fn lock_purses(conn: &mut Conn, dues: &[Due]) -> Result<Purses, Problem> {
    let mut users: Vec<UserId> = dues.iter().map(|due| due.user).collect();
    users.sort_unstable();
    users.dedup();
    let mut balances = store::list_balances_for_update(conn, &users).await?;
    // Who never had anything has no row. For a payment of nothing it is made.
    let has_row: HashSet<UserId> = balances.iter().map(|(user, _)| *user).collect();
    for user in users.into_iter().filter(|user| !has_row.contains(user)) {
        if dues.iter().any(|due| due.user == user && due.amount == Money::ZERO) {
            balances.push((user, store::get_balance_for_update(conn, user).await?));
        }
    }
    Ok(Purses::new(balances))
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
