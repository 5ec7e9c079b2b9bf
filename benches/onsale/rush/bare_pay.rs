//! What paying with points is compared with: one transaction per payment, with the same checks and the same rows, prepared,
//! over the same pool as [`super::bare`].

use anyhow::{Context as _, ensure};
use frontrow::accounts::UserId;
use frontrow::booking::holds::HoldId;
use frontrow::booking::reservations::ReservationId;
use frontrow::booking::reservations::domain::ticket_serial;
use frontrow::catalog::{ConcertId, PerformanceId};
use frontrow::payments::PaymentId;
use frontrow::platform::clock::Timestamp;
use serde_json::json;
use sqlx::{MySql, MySqlPool, Transaction};
use uuid::Uuid;

const FIND_KEY: &str = "SELECT fingerprint, status, body FROM idempotency_keys WHERE user_id = ? AND request_key = ?";
const FIND_HOLD_FOR_UPDATE: &str = "SELECT concert_id, performance_id, state, amount, expires_at, UTC_TIMESTAMP(6) AS now_at \
     FROM holds WHERE id = ? AND user_id = ? FOR UPDATE";
const FIND_IS_STOPPED: &str = "SELECT is_stopped FROM queue_sales WHERE concert_id = ?";
const COUNT_IN_PROGRESS: &str =
    "SELECT COUNT(*) FROM payments WHERE subject_kind = 0 AND subject_id = ? AND open_subject IS NOT NULL";
const FIND_PASS_FOR_UPDATE: &str =
    "SELECT id, arrival FROM queue_passes WHERE concert_id = ? AND user_id = ? AND is_live = 1 FOR UPDATE";
const COUNT_FAILED: &str = "SELECT COUNT(*) FROM reservations WHERE hold_id = ? AND state = 2";
const LIST_SEATS: &str = "SELECT seat_no, label, grade, price FROM hold_seats WHERE hold_id = ? ORDER BY seat_no";
const TAKE: &str = "UPDATE points_accounts SET balance = balance - ?, entries = entries + 1, changed_at = UTC_TIMESTAMP(6) \
     WHERE user_id = ? AND balance >= ?";
const FIND_BALANCE: &str = "SELECT balance, entries FROM points_accounts WHERE user_id = ?";
const INSERT_TRANSACTION: &str =
    "INSERT INTO ledger_transactions (id, kind, reference, created_at) VALUES (?, 1, ?, UTC_TIMESTAMP(6))";
const INSERT_ENTRIES: &str = "INSERT INTO ledger_entries \
     (transaction_id, line, account, user_id, amount, user_entry, balance_after) VALUES (?, 0, 0, ?, ?, ?, ?), (?, 1, 2, NULL, ?, NULL, NULL)";
const SELL: &str = "UPDATE seats SET reservation_id = ?, hold_id = NULL, held_until = NULL WHERE performance_id = ? \
     AND hold_id = ? AND held_until > UTC_TIMESTAMP(6) AND reservation_id IS NULL AND seat_no IN (?, ?)";
const INSERT_PAYMENT: &str = "INSERT INTO payments (id, user_id, method, state, subject_kind, subject_id, amount, created_at, changed_at) \
     VALUES (?, ?, 0, 1, 0, ?, ?, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))";
const MARK_PAID: &str = "UPDATE holds SET state = 1, changed_at = ? WHERE id = ?";
const INSERT_RESERVATION: &str = "INSERT INTO reservations (id, hold_id, user_id, concert_id, performance_id, payment_id, state, \
     seat_count, amount, created_at, paid_at, changed_at) VALUES (?, ?, ?, ?, ?, ?, 1, 2, ?, ?, ?, ?)";
const INSERT_SEATS: &str = "INSERT INTO reservation_seats \
     (reservation_id, seat_no, performance_id, label, grade, price, ticket_code, is_live) \
     VALUES (?, ?, ?, ?, ?, ?, ?, 1), (?, ?, ?, ?, ?, ?, ?, 1)";
const END_PASS: &str = "UPDATE queue_passes SET is_live = NULL, ended_at = UTC_TIMESTAMP(6) WHERE id = ?";
const INSERT_EVENTS: &str = "INSERT INTO outbox (id, topic, aggregate_id, version, payload, state, due_at, created_at) \
     VALUES (?, 'queue.pass_ended', ?, 1, ?, 0, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6)), \
     (?, 'reservation.confirmed', ?, 1, ?, 0, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))";
const INSERT_KEY: &str = "INSERT INTO idempotency_keys (user_id, request_key, fingerprint, status, body, created_at) \
     VALUES (?, ?, ?, 201, ?, UTC_TIMESTAMP(6))";

/// What is to be paid.
#[derive(Clone, Debug)]
pub(super) struct Due {
    pub user: UserId,
    pub hold: HoldId,
}

/// A locked hold.
#[derive(Clone, Copy, sqlx::FromRow)]
struct Hold {
    concert_id: ConcertId,
    performance_id: PerformanceId,
    state: u8,
    amount: i64,
    expires_at: Timestamp,
    now_at: Timestamp,
}

#[derive(sqlx::FromRow)]
struct HeldSeat {
    seat_no: u32,
    label: String,
    grade: String,
    price: i64,
}

/// Pays a hold of two seats.
///
/// # Errors
/// Where it cannot be paid: every due is prepared so that it can.
#[expect(clippy::disallowed_methods, reason = "compared with frontrow, it is to be without its rules")]
pub(super) async fn pay(pool: &MySqlPool, due: &Due) -> anyhow::Result<()> {
    let mut tx = pool.begin().await?;
    let key = due.hold.to_string();
    let known = sqlx::query(FIND_KEY).bind(due.user).bind(key.as_bytes()).fetch_optional(&mut *tx).await?;
    ensure!(known.is_none(), "a key that was used");
    let hold = sqlx::query_as(FIND_HOLD_FOR_UPDATE).bind(due.hold).bind(due.user).fetch_optional(&mut *tx).await?;
    let hold: Hold = hold.context("no such hold")?;
    ensure!(hold.state == 0 && hold.now_at < hold.expires_at, "a hold that is over");
    let is_stopped: bool = sqlx::query_scalar(FIND_IS_STOPPED).bind(hold.concert_id).fetch_one(&mut *tx).await?;
    let in_progress: i64 = sqlx::query_scalar(COUNT_IN_PROGRESS).bind(due.hold).fetch_one(&mut *tx).await?;
    ensure!(!is_stopped && in_progress == 0, "a sale that is stopped, or a payment in progress");
    let find = sqlx::query_as(FIND_PASS_FOR_UPDATE).bind(hold.concert_id).bind(due.user);
    let pass: Option<(Uuid, u64)> = find.fetch_optional(&mut *tx).await?;
    let pass = pass.context("a buyer without a pass")?;
    take_points(&mut tx, due, hold, pass).await?;
    tx.commit().await?;
    Ok(())
}

async fn take_points(tx: &mut Transaction<'_, MySql>, due: &Due, hold: Hold, pass: (Uuid, u64)) -> anyhow::Result<()> {
    let (payment, transaction) = (PaymentId::new(), Uuid::now_v7());
    let take = sqlx::query(TAKE).bind(hold.amount).bind(due.user).bind(hold.amount).execute(&mut **tx).await?;
    ensure!(take.rows_affected() == 1, "too few points");
    let (balance, entries): (i64, u32) = sqlx::query_as(FIND_BALANCE).bind(due.user).fetch_one(&mut **tx).await?;
    sqlx::query(INSERT_TRANSACTION).bind(transaction).bind(payment).execute(&mut **tx).await?;
    let insert = sqlx::query(INSERT_ENTRIES).bind(transaction).bind(due.user).bind(-hold.amount).bind(entries);
    insert.bind(balance).bind(transaction).bind(hold.amount).execute(&mut **tx).await?;
    write(tx, due, hold, pass, payment).await
}

async fn write(
    tx: &mut Transaction<'_, MySql>,
    due: &Due,
    hold: Hold,
    (pass, arrival): (Uuid, u64),
    payment: PaymentId,
) -> anyhow::Result<()> {
    let (id, now) = (ReservationId::new(), hold.now_at);
    let failed: i64 = sqlx::query_scalar(COUNT_FAILED).bind(due.hold).fetch_one(&mut **tx).await?;
    ensure!(failed == 0, "a payment that failed");
    let seats: Vec<HeldSeat> = sqlx::query_as(LIST_SEATS).bind(due.hold).fetch_all(&mut **tx).await?;
    let [first, second] = &seats[..] else { anyhow::bail!("{} seats", seats.len()) };
    let sell = sqlx::query(SELL).bind(id).bind(hold.performance_id).bind(due.hold).bind(first.seat_no);
    let sold = sell.bind(second.seat_no).execute(&mut **tx).await?.rows_affected();
    ensure!(sold == 2, "{sold} of two seats");
    let insert = sqlx::query(INSERT_PAYMENT).bind(payment).bind(due.user).bind(due.hold).bind(hold.amount);
    insert.execute(&mut **tx).await?;
    sqlx::query(MARK_PAID).bind(now).bind(due.hold).execute(&mut **tx).await?;
    let insert = sqlx::query(INSERT_RESERVATION).bind(id).bind(due.hold).bind(due.user).bind(hold.concert_id);
    let insert = insert.bind(hold.performance_id).bind(payment).bind(hold.amount).bind(now).bind(now).bind(now);
    insert.execute(&mut **tx).await?;
    let (mut insert, mut sold) = (sqlx::query(INSERT_SEATS), Vec::new());
    for seat in [first, second] {
        let code = ticket_serial();
        insert = insert.bind(id).bind(seat.seat_no).bind(hold.performance_id).bind(&seat.label).bind(&seat.grade);
        insert = insert.bind(seat.price).bind(code.clone());
        sold.push(json!({"id": seat.label, "grade": seat.grade, "price": seat.price, "ticket_code": code}));
    }
    insert.execute(&mut **tx).await?;
    sqlx::query(END_PASS).bind(pass).execute(&mut **tx).await?;
    let ended = json!({"concert_id": hold.concert_id, "arrival": arrival});
    let labels = [&first.label, &second.label];
    let facts = json!({"reservation_id": id, "user_id": due.user, "concert_id": hold.concert_id,
        "performance_id": hold.performance_id, "seat_ids": labels, "amount": hold.amount, "currency": "KRW"});
    let insert = sqlx::query(INSERT_EVENTS).bind(Uuid::now_v7()).bind(pass).bind(ended.to_string());
    insert.bind(Uuid::now_v7()).bind(id).bind(facts.to_string()).execute(&mut **tx).await?;
    let body = json!({"id": id, "status": "confirmed", "hold_id": due.hold, "performance_id": hold.performance_id,
        "concert": {"id": hold.concert_id, "title": "Bench Live"}, "seats": sold, "amount": hold.amount, "currency": "KRW",
        "payment": {"id": payment, "method": "points", "status": "succeeded"}, "created_at": now, "paid_at": now});
    let insert = sqlx::query(INSERT_KEY).bind(due.user).bind(due.hold.to_string().into_bytes());
    insert.bind(&[7_u8; 32][..]).bind(body.to_string()).execute(&mut **tx).await?;
    Ok(())
}
