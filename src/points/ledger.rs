//! The movements that other features make inside their own transactions.
//!
//! Each locks the buyer's balance until the transaction ends: in the lock order of `platform::db` the balance
//! comes after holds, orders and passes, and before seats.

use uuid::Uuid;

use super::domain::{Account, Balance, Kind, Movement, TransactionId, insufficient};
use super::store;
use crate::accounts::UserId;
use crate::platform::db::Conn;
use crate::platform::error::Problem;
use crate::platform::money::Money;

/// Buyers granted points by one set of statements.
const GRANTS_PER_WRITE: usize = 500;

/// Takes `amount` from the buyer as revenue and gives the balance that is left. Nothing to pay is fine: it is
/// written down as a payment of zero.
///
/// # Errors
/// 402 `insufficient_points` with `balance` and `amount`; the fault `Duplicate` where this payment was booked
/// before.
pub async fn pay(conn: &mut Conn, user: UserId, amount: Money, payment_id: Uuid) -> Result<Money, Problem> {
    check_amount(amount)?;
    if !store::take(conn, user, amount).await? {
        // Locked, so that the refusal names the balance that it is about. It may have risen since the first
        // attempt, and a row that was missing is there now, which matters to a payment of nothing.
        let balance = store::get_balance_for_update(conn, user).await?.amount;
        if balance < amount || !store::take(conn, user, amount).await? {
            return Err(insufficient(balance, amount));
        }
    }
    let after = store::find_balance(conn, user).await?;
    write(conn, Kind::Payment, payment_id, user, amount, after).await
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
