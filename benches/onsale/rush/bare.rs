//! What holding seats is compared with: one transaction per hold, with the same checks and the same rows, prepared, over a
//! pool of connections. No filter, no lanes, no time limits.

use anyhow::{Context as _, ensure};
use frontrow::accounts::UserId;
use frontrow::booking::holds::HoldId;
use frontrow::catalog::{ConcertId, PerformanceId, Seat};
use frontrow::platform::clock::Timestamp;
use frontrow::queue::pass::PassId;
use sqlx::mysql::MySqlPoolOptions;
use sqlx::{Executor as _, MySql, MySqlPool, Transaction};

/// Connections, as many as frontrow has.
const POOL: u32 = 32;
/// How often a transaction is run again after a deadlock or a wait for a lock.
const REPEATS_MAX: u32 = 6;
/// Seats that a buyer may hold and reserve.
pub(super) const LIMIT: u32 = 4;
const HOLD_SECS: u64 = 300;

const FIND_PASS_FOR_UPDATE: &str = "SELECT UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND AS now_at, expires_at, is_live IS NOT NULL AS live \
     FROM queue_passes WHERE id = ? FOR UPDATE";
const FIND_IS_STOPPED: &str = "SELECT is_stopped FROM queue_sales WHERE concert_id = ?";
const LIST_HELD: &str =
    "SELECT seat_count FROM holds WHERE concert_id = ? AND state = 0 AND expires_at > ? AND user_id = ?";
const LIST_RESERVED: &str =
    "SELECT seat_count FROM reservations WHERE concert_id = ? AND state IN (0, 1) AND user_id = ?";
const LIST_FREE_FOR_UPDATE: &str = "SELECT seat_no FROM seats WHERE performance_id = ? AND reservation_id IS NULL \
     AND (hold_id IS NULL OR held_until <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) AND seat_no IN (?, ?) ORDER BY seat_no FOR UPDATE";
const INSERT_HOLD: &str = "INSERT INTO holds \
     (id, user_id, concert_id, performance_id, state, seat_count, amount, expires_at, created_at, changed_at) \
     VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?, ?)";
const INSERT_HOLD_SEATS: &str =
    "INSERT INTO hold_seats (hold_id, seat_no, label, grade, price) VALUES (?, ?, ?, ?, ?), (?, ?, ?, ?, ?)";
const HOLD: &str = "UPDATE seats SET hold_id = ?, held_until = ? \
     WHERE performance_id = ? AND reservation_id IS NULL AND seat_no IN (?, ?)";

/// Two seats for a buyer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub user: UserId,
    pub pass: PassId,
    pub concert: ConcertId,
    pub performance: PerformanceId,
    /// By number.
    pub seats: [&'a Seat; 2],
}

/// Makes holds.
#[derive(Clone, Debug)]
pub(super) struct Bare(MySqlPool);

impl Bare {
    /// Connects when first used.
    pub(super) fn new(url: &str) -> anyhow::Result<Self> {
        let pool = MySqlPoolOptions::new().max_connections(POOL).test_before_acquire(false).after_connect(|conn, _| {
            Box::pin(async move {
                conn.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
                Ok(())
            })
        });
        Ok(Self(pool.connect_lazy(url)?))
    }

    /// Its connections, for preparing and looking.
    pub(super) fn pool(&self) -> &MySqlPool {
        &self.0
    }

    /// Holds the seats; `false` where one is taken.
    pub(super) async fn hold(&self, wanted: Wanted<'_>) -> anyhow::Result<bool> {
        let mut repeats = 0;
        loop {
            match self.attempt(wanted).await {
                Err(error) if repeats < REPEATS_MAX && is_conflict(&error) => repeats += 1,
                done => return done,
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "compared with frontrow, it is to be without its rules")]
    async fn attempt(&self, wanted: Wanted<'_>) -> anyhow::Result<bool> {
        let Wanted { user, pass, concert, performance, seats: [first, second] } = wanted;
        let mut tx = self.0.begin().await?;
        let found = sqlx::query_as(FIND_PASS_FOR_UPDATE).bind(0_i64).bind(pass).fetch_optional(&mut *tx).await?;
        let (now, until, is_live): (Timestamp, Timestamp, bool) = found.context("a buyer without a pass")?;
        ensure!(is_live && now < until, "a pass that is over");
        let is_stopped: bool = sqlx::query_scalar(FIND_IS_STOPPED).bind(concert).fetch_one(&mut *tx).await?;
        ensure!(!is_stopped, "a sale that is stopped");
        let held: Vec<u32> =
            sqlx::query_scalar(LIST_HELD).bind(concert).bind(now).bind(user).fetch_all(&mut *tx).await?;
        let reserved: Vec<u32> = sqlx::query_scalar(LIST_RESERVED).bind(concert).bind(user).fetch_all(&mut *tx).await?;
        ensure!(held.iter().chain(&reserved).sum::<u32>() + 2 <= LIMIT, "a buyer at the limit");
        let free = sqlx::query_scalar(LIST_FREE_FOR_UPDATE).bind(performance).bind(0_i64);
        let free: Vec<u32> = free.bind(first.index).bind(second.index).fetch_all(&mut *tx).await?;
        if free.len() < 2 {
            tx.rollback().await?;
            return Ok(false);
        }
        write(&mut tx, wanted, now).await?;
        tx.commit().await?;
        Ok(true)
    }
}

async fn write(tx: &mut Transaction<'_, MySql>, wanted: Wanted<'_>, now: Timestamp) -> anyhow::Result<()> {
    let Wanted { user, concert, performance, seats: [first, second], .. } = wanted;
    let (id, until) = (HoldId::new(), now.plus(std::time::Duration::from_secs(HOLD_SECS)));
    let insert = sqlx::query(INSERT_HOLD).bind(id).bind(user).bind(concert).bind(performance).bind(2_u32);
    insert.bind(first.price.0 + second.price.0).bind(until).bind(now).bind(now).execute(&mut **tx).await?;
    let mut insert = sqlx::query(INSERT_HOLD_SEATS);
    for seat in [first, second] {
        insert = insert.bind(id).bind(seat.index).bind(&*seat.label).bind(&*seat.grade).bind(seat.price);
    }
    insert.execute(&mut **tx).await?;
    let update = sqlx::query(HOLD).bind(id).bind(until).bind(performance).bind(first.index).bind(second.index);
    let changed = update.execute(&mut **tx).await?.rows_affected();
    ensure!(changed == 2, "{changed} of two locked seats were held");
    Ok(())
}

/// A deadlock, or a lock that did not come.
fn is_conflict(error: &anyhow::Error) -> bool {
    let Some(sqlx::Error::Database(error)) = error.downcast_ref() else { return false };
    matches!(error.try_downcast_ref().map(sqlx::mysql::MySqlDatabaseError::number), Some(1205 | 1213))
}
