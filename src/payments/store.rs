//! The rows of payments: those that are settled at once, and what must hold of all.

pub mod attempts;

use std::collections::HashSet;

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::domain::{Method, Payment, PaymentId, PaymentStatus, Settled, Subject};
use crate::platform::audit::Invariant;
use crate::platform::db::{Conn, Script, Slot, Text, in_list, parts, rows};
use crate::platform::error::Problem;
use crate::platform::money::Money;

const INSERT_SETTLED: &str = "INSERT INTO payments (id, user_id, method, state, subject_kind, subject_id, amount, created_at, changed_at) \
     VALUES (?, ?, ?, 1, ?, ?, ?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
/// By the subject's index: few rows have one, and fewer are open.
const LIST_IN_PROGRESS: &str =
    "SELECT subject_id FROM payments WHERE subject_kind = ? AND subject_id IN (?) AND open_subject IS NOT NULL";
const LIST_TRIED: &str = "SELECT subject_id FROM payments WHERE subject_kind = ? AND subject_id IN (?)";
const LIST_IDS_FOR_UPDATE: &str = "SELECT id FROM payments WHERE id IN (?) ORDER BY id FOR UPDATE";
/// A settled payment as text, in bytes.
const SETTLED_LEN: usize = 300;
const MARK_REFUNDED: &str = "UPDATE payments SET state = 3, changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
     WHERE id = ? AND state = 1";
const OWE_REFUND: &str = "UPDATE payments SET state = 4, checks = 0, \
     due_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
     WHERE id = ? AND state = 1 AND method = 1";
const LIST: &str = "SELECT id, method, state, amount FROM payments WHERE id IN (?)";
const COUNT_OWED: &str = "SELECT COUNT(*) FROM payments WHERE id IN (?) AND state = 4";

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
        name: "card_payment_is_booked",
        promise: "every charged card payment is one ledger transaction of exactly its amount between the provider and what it was for, and no other card payment has one",
        statement: "SELECT CAST(CONCAT('payment ', LOWER(HEX(p.id))) AS CHAR) \
             FROM payments AS p \
             LEFT JOIN ledger_transactions AS l ON l.kind = IF(p.subject_kind = 2 AND p.state = 1, 0, 1) \
                 AND l.reference = IF(p.subject_kind = 2 AND p.state = 1, p.subject_id, p.id) \
             LEFT JOIN ledger_entries AS e ON e.transaction_id = l.id AND e.account = 1 \
             WHERE p.changed_at >= ? AND UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND IS NOT NULL AND p.method = 1 \
             AND IF(p.state IN (1, 3, 4), e.amount IS NULL OR e.amount <> -p.amount, l.id IS NOT NULL) LIMIT ?",
    },
    Invariant {
        name: "card_refund_is_booked",
        promise: "every refunded card payment is one ledger transaction that gives exactly its amount back to the provider, and no other card payment has one",
        statement: "SELECT CAST(CONCAT('payment ', LOWER(HEX(p.id))) AS CHAR) \
             FROM payments AS p LEFT JOIN ledger_transactions AS l ON l.kind = 2 AND l.reference = p.id \
             LEFT JOIN ledger_entries AS e ON e.transaction_id = l.id AND e.account = 1 \
             WHERE p.changed_at >= ? AND UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND IS NOT NULL AND p.method = 1 \
             AND IF(p.state = 3, e.amount IS NULL OR e.amount <> p.amount, l.id IS NOT NULL) LIMIT ?",
    },
    Invariant {
        name: "open_payment_is_looked_after",
        promise: "an undecided card payment is open and due, one that is owed back is due and known to the provider, and every other is closed",
        statement: "SELECT CAST(CONCAT('payment ', LOWER(HEX(p.id)), ' in state ', p.state) AS CHAR) \
             FROM payments AS p \
             WHERE p.changed_at >= ? AND UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND IS NOT NULL AND p.method = 1 \
             AND (IF(p.state = 0, p.open_subject IS NULL OR p.open_subject <> p.subject_id, p.open_subject IS NOT NULL OR p.open_key IS NOT NULL) \
             OR (p.due_at IS NOT NULL) <> (p.state IN (0, 4)) OR (p.state IN (1, 3, 4) AND p.provider_id IS NULL)) LIMIT ?",
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

/// Records payments whose money has moved in this transaction.
pub fn insert_settled(script: &mut Script, offset_micros: i64, settled: &[Settled]) {
    let texts = parts(settled, |_| SETTLED_LEN).map(|part| {
        part.iter().fold(Text::new(rows(INSERT_SETTLED, part.len())), |text, one| {
            let (kind, subject) = one.subject.stored();
            let text = text.bind(&one.id).bind(&one.user).bind(&one.method.number()).bind(&kind).bind(&subject);
            text.bind(&one.amount).bind(&offset_micros).bind(&offset_micros)
        })
    });
    let _: Slot<()> = script.add_all(texts);
}

/// Asks for those of the subjects, all of one kind, that are being paid: a card payment of them is not decided yet. Their own
/// rows must be locked, as they are by whoever begins such a payment.
pub fn ask_in_progress(script: &mut Script, subjects: &[Subject]) -> Slot<(Uuid,)> {
    let first = subjects.first().map(|subject| subject.stored().0);
    let text = |kind| {
        let text = Text::new(in_list(LIST_IN_PROGRESS, subjects.len())).bind(&kind);
        subjects.iter().fold(text, |text, subject| text.bind(&subject.stored().1))
    };
    script.add_all(first.map(text))
}

/// Those of the subjects, all of one kind, that somebody paid or tried to pay.
///
/// # Errors
/// Where the statement fails.
pub async fn list_tried(conn: &mut Conn, subjects: &[Subject]) -> Result<HashSet<Uuid>, Problem> {
    let Some((kind, _)) = subjects.first().map(|subject| subject.stored()) else { return Ok(HashSet::new()) };
    let text = Text::new(in_list(LIST_TRIED, subjects.len())).bind(&kind);
    let text = subjects.iter().fold(text, |text, subject| text.bind(&subject.stored().1));
    Ok(text.list::<(Uuid,)>(conn).await?.into_iter().map(|(subject,)| subject).collect())
}

/// Whether any of these payments is there, once whoever may still be making it has ended.
///
/// # Errors
/// Where the statement fails.
pub async fn has_any_for_update(conn: &mut Conn, ids: &[PaymentId]) -> Result<bool, Problem> {
    let text = Text::new(in_list(LIST_IDS_FOR_UPDATE, ids.len()));
    let found: Vec<(PaymentId,)> = ids.iter().fold(text, Text::bind).list(conn).await?;
    Ok(!found.is_empty())
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

/// Notes that a card payment is owed back: the provider is asked once this transaction is committed, and again until it has
/// confirmed. False where there is nothing to give back.
///
/// # Errors
/// Where the statement fails.
pub async fn owe_refund(conn: &mut Conn, id: PaymentId) -> Result<bool, Problem> {
    let offset = conn.offset_micros();
    let marked = sqlx::query(OWE_REFUND).bind(offset).bind(offset).bind(id).execute(conn.sql()).await?;
    Ok(marked.rows_affected() == 1)
}

/// How many of these payments are owed back to a card: the provider has not confirmed yet that it was given back.
///
/// # Errors
/// Where the statement fails.
pub async fn count_owed(conn: &mut Conn, ids: &[PaymentId]) -> Result<u64, Problem> {
    if ids.is_empty() {
        return Ok(0);
    }
    let text = ids.iter().fold(Text::new(in_list(COUNT_OWED, ids.len())), Text::bind);
    let counts: Vec<(i64,)> = text.list(conn).await?;
    Ok(counts.first().map_or(0, |(count,)| count.unsigned_abs()))
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
