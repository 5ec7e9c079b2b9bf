//! Buyers at the till: holds of two seats with points to pay them, paid so many at once, looked at and put back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use frontrow::accounts::UserId;
use frontrow::app::state::State;
use frontrow::booking::holds::HoldId;
use frontrow::platform::db::rows;
use frontrow::platform::http::keyed::RequestKey;
use sqlx::{AssertSqlSafe, Executor as _, MySqlConnection, MySqlPool};

use super::bare_pay::{self, Due};
use super::buyers::number;
use super::halls::Hall;
use super::{Maker, Rushed};

/// Rows of one INSERT.
const ROWS: usize = 500;
const POINTS: i64 = 1_000_000;

const INSERT_ACCOUNTS: &str =
    "INSERT INTO points_accounts (user_id, balance, entries, changed_at) VALUES (?, ?, 0, UTC_TIMESTAMP(6))";
const INSERT_HOLDS: &str = "INSERT INTO holds \
     (id, user_id, concert_id, performance_id, state, seat_count, amount, expires_at, created_at, changed_at) \
     VALUES (?, ?, ?, ?, 0, 2, ?, UTC_TIMESTAMP(6) + INTERVAL 4 HOUR, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))";
const INSERT_HOLD_SEATS: &str = "INSERT INTO hold_seats (hold_id, seat_no, label, grade, price) VALUES (?, ?, ?, ?, ?)";
const HOLD: &str = "UPDATE holds AS h JOIN hold_seats AS hs ON hs.hold_id = h.id \
     JOIN seats AS s ON s.performance_id = h.performance_id AND s.seat_no = hs.seat_no \
     SET s.hold_id = h.id, s.held_until = h.expires_at WHERE h.performance_id = ?";
/// What payments leave, and what must be so for each of them.
const CHECKS: &[&str] = &[
    "SELECT COUNT(*) FROM reservations AS r JOIN payments AS p ON p.id = r.payment_id AND p.amount = r.amount AND p.state = 1 \
     JOIN holds AS h ON h.id = r.hold_id AND h.state = 1 WHERE r.state = 1",
    "SELECT COUNT(*) DIV 2 FROM reservation_seats AS rs JOIN seats AS s ON s.performance_id = rs.performance_id \
     AND s.seat_no = rs.seat_no AND s.reservation_id = rs.reservation_id AND s.hold_id IS NULL",
    "SELECT COUNT(*) FROM ledger_entries AS e JOIN points_accounts AS a ON a.user_id = e.user_id \
     AND e.balance_after = a.balance AND a.entries = e.user_entry",
    "SELECT COUNT(*) DIV 2 FROM ledger_entries",
    "SELECT COUNT(*) FROM idempotency_keys WHERE status = 201",
    "SELECT COUNT(*) DIV 2 FROM outbox",
];
const CLEAR: &[&str] = &[
    "SET SESSION foreign_key_checks = 0",
    "TRUNCATE TABLE reservation_seats",
    "TRUNCATE TABLE reservations",
    "TRUNCATE TABLE payments",
    "TRUNCATE TABLE ledger_entries",
    "TRUNCATE TABLE ledger_transactions",
    "TRUNCATE TABLE points_accounts",
    "TRUNCATE TABLE hold_seats",
    "TRUNCATE TABLE holds",
    "TRUNCATE TABLE idempotency_keys",
    "TRUNCATE TABLE outbox",
    "SET SESSION foreign_key_checks = 1",
    "UPDATE seats SET hold_id = NULL, held_until = NULL, reservation_id = NULL \
     WHERE hold_id IS NOT NULL OR reservation_id IS NOT NULL",
    "UPDATE queue_passes SET is_live = 1, ended_at = NULL WHERE is_live IS NULL",
];

/// Gives the hall's buyers points and a hold of two seats each, as far as the seats go. What was there before is gone.
pub(super) async fn fill(sql: &MySqlPool, hall: &Hall) -> anyhow::Result<Vec<Due>> {
    let mut conn = sql.acquire().await?;
    for statement in CLEAR {
        conn.execute(*statement).await?;
    }
    let pairs = usize::try_from(hall.map.seats_total() / 2)?;
    let dues: Vec<Due> =
        hall.buyers.iter().take(pairs).map(|buyer| Due { user: buyer.user, hold: HoldId::new() }).collect();
    endow(sql, &dues.iter().map(|due| due.user).collect::<Vec<_>>()).await?;
    for (part, dues) in dues.chunks(ROWS).enumerate() {
        insert(&mut conn, hall, part * ROWS, dues).await?;
    }
    sqlx::query(HOLD).bind(hall.performance).execute(&mut *conn).await?;
    Ok(dues)
}

/// Gives these people, who have none, points.
pub(super) async fn endow(sql: &MySqlPool, users: &[UserId]) -> anyhow::Result<()> {
    for users in users.chunks(ROWS) {
        let insert = sqlx::query(AssertSqlSafe(rows(INSERT_ACCOUNTS, users.len())));
        let insert = users.iter().fold(insert, |insert, user| insert.bind(*user).bind(POINTS));
        insert.persistent(false).execute(sql).await?;
    }
    Ok(())
}

async fn insert(conn: &mut MySqlConnection, hall: &Hall, from: usize, dues: &[Due]) -> anyhow::Result<()> {
    let mut holds = sqlx::query(AssertSqlSafe(rows(INSERT_HOLDS, dues.len())));
    let mut seats = sqlx::query(AssertSqlSafe(rows(INSERT_HOLD_SEATS, 2 * dues.len())));
    for (number, due) in (from..).zip(dues) {
        let first = u32::try_from(2 * number)?;
        let two: Vec<_> = [first, first + 1].into_iter().filter_map(|number| hall.map.seat(number)).collect();
        holds = holds.bind(due.hold).bind(due.user).bind(hall.concert).bind(hall.performance);
        holds = holds.bind(two.iter().map(|seat| seat.price.0).sum::<i64>());
        for seat in two {
            seats = seats.bind(due.hold).bind(seat.index).bind(&*seat.label).bind(&*seat.grade).bind(seat.price);
        }
    }
    for query in [holds, seats] {
        query.persistent(false).execute(&mut *conn).await?;
    }
    Ok(())
}

/// Has so many at once pay for so long, one due after the other, until there are none left.
pub(super) async fn run(
    state: State,
    sql: MySqlPool,
    dues: Vec<Due>,
    (maker, at_once, millis): (Maker, usize, u64),
) -> anyhow::Result<Rushed> {
    let (dues, started) = (Arc::new(dues), Instant::now());
    let until = started + Duration::from_millis(millis);
    let till = |first: usize| {
        let (state, sql, dues) = (state.clone(), sql.clone(), dues.clone());
        tokio::spawn(async move {
            let mut micros = Vec::new();
            for due in dues.iter().skip(first).step_by(at_once).take_while(|_| Instant::now() < until) {
                let started = Instant::now();
                match maker {
                    Maker::Bare => bare_pay::pay(&sql, due).await?,
                    Maker::Service => pay(&state, due).await?,
                }
                micros.push(u64::try_from(started.elapsed().as_micros())?);
            }
            anyhow::Ok(micros)
        })
    };
    let tills: Vec<_> = (0..at_once).map(till).collect();
    let mut micros = Vec::new();
    for till in tills {
        micros.extend(till.await??);
    }
    let secs = started.elapsed().as_secs_f64();
    micros.sort_unstable();
    let count = micros.len();
    ensure!(count > 0, "nothing was paid");
    ensure!(count < dues.len(), "everything was paid before the time was over");
    let at = |share: usize| number(micros[(count * share / 100).min(count - 1)]);
    Ok(Rushed { holds: number(count as u64), refused: 0.0, secs, p50_micros: at(50), p99_micros: at(99) })
}

async fn pay(state: &State, due: &Due) -> anyhow::Result<()> {
    let key = RequestKey { key: Some(due.hold.to_string()), fingerprint: [7; 32] };
    state.checkout.pay_with_points(due.user, due.hold, key).await?;
    Ok(())
}

/// Looks whether the tables have so many payments, each whole.
pub(super) async fn check(sql: &MySqlPool, paid: u64) -> anyhow::Result<()> {
    let paid = i64::try_from(paid)?;
    for statement in CHECKS {
        let found: i64 = sqlx::query_scalar(*statement).fetch_one(sql).await?;
        ensure!(found == paid, "{paid} payments were made, but there are {found} by {statement}");
    }
    Ok(())
}
