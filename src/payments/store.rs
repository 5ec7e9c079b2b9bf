//! The rows of payments.

use sqlx::AssertSqlSafe;

use super::domain::{Method, Payment, PaymentId, PaymentStatus, Subject};
use crate::accounts::UserId;
use crate::platform::audit::Invariant;
use crate::platform::db::{Conn, in_list};
use crate::platform::error::Problem;
use crate::platform::money::Money;

const INSERT_SETTLED: &str = "INSERT INTO payments (id, user_id, method, state, subject_kind, subject_id, amount, created_at, changed_at) \
     VALUES (?, ?, ?, 1, ?, ?, ?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
const MARK_REFUNDED: &str = "UPDATE payments SET state = 3, changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
     WHERE id = ? AND state = 1";
const LIST: &str = "SELECT id, method, state, amount FROM payments WHERE id IN (?)";

/// What must hold of payments.
pub const INVARIANTS: &[Invariant] = &[
    Invariant {
        name: "payment_is_booked",
        promise: "every settled payment by points is one ledger transaction that takes exactly its amount from the buyer",
        statement: "SELECT CAST(CONCAT('payment ', LOWER(HEX(p.id))) AS CHAR) \
             FROM payments AS p LEFT JOIN ledger_transactions AS l ON l.kind = 1 AND l.reference = p.id \
             LEFT JOIN ledger_entries AS e ON e.transaction_id = l.id AND e.account = 0 AND e.user_id = p.user_id \
             WHERE p.changed_at >= ? AND UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND IS NOT NULL AND p.method = 0 AND p.state IN (1, 3) AND (e.amount IS NULL OR e.amount <> -p.amount) LIMIT ?",
    },
    Invariant {
        name: "refund_is_booked",
        promise: "every refunded payment by points is one ledger transaction that gives exactly its amount back to the buyer, and no other payment has one",
        statement: "SELECT CAST(CONCAT('payment ', LOWER(HEX(p.id))) AS CHAR) \
             FROM payments AS p LEFT JOIN ledger_transactions AS l ON l.kind = 2 AND l.reference = p.id \
             LEFT JOIN ledger_entries AS e ON e.transaction_id = l.id AND e.account = 0 AND e.user_id = p.user_id \
             WHERE p.changed_at >= ? AND UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND IS NOT NULL AND p.method = 0 \
             AND IF(p.state = 3, e.amount IS NULL OR e.amount <> p.amount, l.id IS NOT NULL) LIMIT ?",
    },
    Invariant {
        name: "paid_once",
        promise: "nothing is paid for twice",
        statement: "SELECT CAST(CONCAT('subject ', LOWER(HEX(p.subject_id)), ' is paid ', COUNT(*), ' times') AS CHAR) \
             FROM payments AS c \
             JOIN payments AS p ON p.subject_kind = c.subject_kind AND p.subject_id = c.subject_id AND p.state = 1 \
             WHERE c.changed_at >= ? AND UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND IS NOT NULL AND c.state = 1 \
             GROUP BY c.id, p.subject_kind, p.subject_id HAVING COUNT(*) > 1 LIMIT ?",
    },
];

/// Records a payment whose money has moved in this transaction.
///
/// # Errors
/// Where the statement fails.
pub async fn insert_settled(
    conn: &mut Conn,
    id: PaymentId,
    user: UserId,
    method: Method,
    subject: Subject,
    amount: Money,
) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    let (kind, subject) = subject.stored();
    sqlx::query(INSERT_SETTLED)
        .bind(id)
        .bind(user)
        .bind(method.number())
        .bind(kind)
        .bind(subject)
        .bind(amount)
        .bind(offset)
        .bind(offset)
        .execute(conn.sql())
        .await?;
    Ok(())
}

/// Notes that a payment's money has gone back in this transaction. False where it was not there to give back.
///
/// # Errors
/// Where the statement fails.
pub async fn mark_refunded(conn: &mut Conn, id: PaymentId) -> Result<bool, Problem> {
    let offset = conn.offset_micros();
    let marked = sqlx::query(MARK_REFUNDED).bind(offset).bind(id).execute(conn.sql()).await?;
    Ok(marked.rows_affected() == 1)
}

/// These payments.
///
/// # Errors
/// Where the statement fails.
pub async fn list(conn: &mut Conn, ids: &[PaymentId]) -> Result<Vec<Payment>, Problem> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = sqlx::query_as::<_, (PaymentId, u8, u8, Money)>(AssertSqlSafe(in_list(LIST, ids.len())));
    for id in ids {
        query = query.bind(*id);
    }
    let found = query.fetch_all(conn.sql()).await?;
    let payment = |(id, method, state, amount)| Payment {
        id,
        method: Method::of(method),
        status: PaymentStatus::of(state),
        amount,
    };
    Ok(found.into_iter().map(payment).collect())
}
