//! Who keeps a line, and making it anew: after its store has lost it, and when it passes from Redis to MySQL and back.
//!
//! Whatever happens, MySQL decides, under the lock of the sale's row: the epoch rises by one, so whoever comes with the old one
//! changes nothing any more, and the new line starts from what is known to be true. An instance moves the line only if nobody
//! else has lately moved it where it stands: a checkpoint less than [`SILENCE`] old says that others reach the line's store, and
//! then this instance is the one that is cut off.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::domain::InCharge;
use super::gaps::{GHOSTS_MAX, Gaps};
use super::line::{At, RESTORED_MAX, Remembered, Warm};
use super::sale::Sale;
use super::service::Queue;
use super::store::{self, SaleRow, places};
use crate::catalog::ConcertId;
use crate::catalog::domain::Order;
use crate::platform::clock::Timestamp;
use crate::platform::db::Conn;
use crate::platform::error::{Problem, codes};

/// How long nobody must have checkpointed a line before it is taken from the store that keeps it.
const SILENCE: Duration = Duration::from_secs(3);
/// The same for a Redis that has been started anew: mostly it is the one that everybody uses.
const SILENCE_ANEW: Duration = Duration::from_secs(2);
/// How long an instance must have failed to reach Redis itself before it takes a line from it.
const TROUBLED_FOR: Duration = Duration::from_secs(1);
/// After so long without an answer the line may have been moved: Redis is not asked before MySQL has said who keeps it.
const OUT_OF_REACH: Duration = Duration::from_millis(500);
/// How much later than its own first failure another instance's checkpoint must be to prove that others do better.
const MARGIN: Duration = Duration::from_millis(500);
/// How long Redis must have answered again before it gets the line back.
const BACK_FOR: Duration = Duration::from_secs(2);
/// How long another instance that has raised the epoch may take to make its line, before it is made anew once more.
const MAKING: Duration = Duration::from_millis(250);
/// Places given up of which a line made anew is told at most; further ones are called, and lapse.
const LEFT_MAX: usize = 100_000;

/// What is needed to make a line anew.
#[derive(Clone, Debug)]
struct Move {
    concert: ConcertId,
    order: Order,
    /// The epoch that this instance knows.
    seen: u32,
    /// What this instance knows to be called and issued.
    serving: u64,
    issued: u64,
    /// Who is to keep the line, and which Redis.
    to: InCharge,
    run_id: String,
}

/// What became of it.
enum Moved {
    /// The row, at its new epoch, with the places of those inside.
    Done(SaleRow, Vec<(u64, Timestamp)>),
    /// Another instance came first.
    Before(SaleRow),
    /// Somebody has lately reached the line's store.
    Refused(SaleRow),
}

impl Queue {
    /// Makes the line anew after its store lost it. An instance that comes second takes over the first one's epoch.
    pub(super) async fn rebuild(&self, sale: &Sale, seen: u32) -> Result<(), Problem> {
        let to = sale.view(|state| state.in_charge);
        if self.move_to(sale, seen, to).await? {
            return Ok(());
        }
        Self::note_trouble(sale);
        Err(Problem::new(&codes::UNAVAILABLE).detail("Another Redis keeps the line."))
    }

    /// Redis did not answer a tick: if nobody else reaches it either, MySQL keeps the line.
    pub(super) async fn redis_failed(&self, sale: &Sale, problem: Problem) -> Result<(), Problem> {
        let (seen, is_silent) = sale.view(|state| (state.epoch, state.checkpoint.is_older_than(SILENCE)));
        // Silence alone may as well be that of a MySQL that stalled, or of a line that is new.
        let is_troubled = lock(&sale.troubled_since).is_some_and(|since| since.elapsed() >= TROUBLED_FOR);
        if is_silent && is_troubled && self.move_to(sale, seen, InCharge::Standby).await? {
            return Ok(());
        }
        Self::note_trouble(sale);
        Err(problem)
    }

    /// Whether this instance has not reached the line's Redis for a while. When Redis answers again, what it says may be older
    /// than what others have answered from another store.
    pub(super) fn is_out_of_reach(sale: &Sale) -> bool {
        let is_troubled = lock(&sale.troubled_since).is_some_and(|since| since.elapsed() >= OUT_OF_REACH);
        is_troubled && sale.view(|state| state.in_charge == InCharge::Usual)
    }

    /// If others have moved the line since this instance could not, it is cut off.
    fn note_trouble(sale: &Sale) {
        let since = *lock(&sale.troubled_since).get_or_insert_with(Instant::now);
        let moved_by_others = sale.view(|state| state.checkpoint.is_later_than(since + MARGIN));
        if moved_by_others {
            sale.is_cut_off.store(true, Ordering::Relaxed);
        }
    }

    /// The line's store has answered. While that is MySQL, Redis gets the line back once it answers again for a while.
    pub(super) async fn store_answered(&self, sale: &Sale, in_charge: InCharge) {
        *lock(&sale.troubled_since) = None;
        sale.is_cut_off.store(false, Ordering::Relaxed);
        if in_charge == InCharge::Usual {
            return;
        }
        let is_back = self.lines.run_id(sale.concert).await.is_ok();
        let since = {
            let mut back = lock(&sale.redis_back);
            *back = if is_back { back.or_else(|| Some(Instant::now())) } else { None };
            *back
        };
        if since.is_some_and(|since| since.elapsed() >= BACK_FOR) {
            let seen = sale.view(|state| state.epoch);
            match self.move_to(sale, seen, InCharge::Usual).await {
                Ok(_) => *lock(&sale.redis_back) = None,
                Err(problem) => tracing::warn!(concert = %sale.concert, %problem, "Redis did not get the line back"),
            }
        }
    }

    /// Makes the line anew in `to`, at an epoch that MySQL raises first. False where others reach the line's store.
    async fn move_to(&self, sale: &Sale, seen: u32, to: InCharge) -> Result<bool, Problem> {
        let _turn = sale.upkeep.lock().await;
        let (epoch, adopted_at) = sale.view(|state| (state.epoch, state.adopted_at));
        if epoch > seen {
            return Ok(true);
        }
        if adopted_at.is_some_and(|since| since.elapsed() < MAKING) {
            // The next answer tells whether the other's line is there by then.
            tokio::time::sleep(MAKING / 5).await;
            return Ok(true);
        }
        let run_id = match to {
            InCharge::Usual => self.lines.run_id(sale.concert).await?,
            InCharge::Standby => String::new(),
        };
        let (serving, issued) = sale.view(|state| (state.snapshot.serving, state.snapshot.issued));
        let input = Move { concert: sale.concert, order: sale.order, seen, serving, issued, to, run_id };
        let moved = self.parts.db.in_tx("queue.rebuild", input, |conn, input| Box::pin(decide(conn, input))).await?;
        let (row, inside) = match moved {
            Moved::Done(row, inside) => (row, inside),
            // If the other's line is not there, the next answer is cold again and it is this one's turn.
            Moved::Before(row) => return self.adopt(sale, &row).map(|()| true),
            Moved::Refused(row) => return self.adopt(sale, &row).map(|()| false),
        };
        self.adopt(sale, &row)?;
        sale.mark_making();
        let line = remembered(sale, &row, &inside);
        // Of this epoch, whatever others have made of the line meanwhile.
        let at = At { concert: sale.concert, epoch: row.epoch };
        self.store(row.in_charge).rebuild(at, &line).await?;
        self.restore_left(sale).await?;
        *lock(&sale.troubled_since) = None;
        tracing::info!(concert = %sale.concert, epoch = row.epoch, in_charge = row.in_charge.word(), "line made anew");
        Ok(true)
    }

    /// Tells the line which places were given up.
    async fn restore_left(&self, sale: &Sale) -> Result<(), Problem> {
        let (mut from, mut told) = (0, 0);
        while told < LEFT_MAX {
            let input = (sale.concert, from);
            let list = self.parts.db.read("queue.list_left", input, |conn, (concert, from)| {
                Box::pin(places::list_left(conn, *concert, *from, RESTORED_MAX))
            });
            let arrivals = list.await?;
            let left: Vec<_> = arrivals.iter().map(|arrival| sale.spot(*arrival)).collect();
            let (line, at) = self.line(sale);
            match line.restore(at, &left).await? {
                Warm::Answer(true) => {}
                Warm::Answer(false) if sale.is_undrawn() => {
                    // Ranks became known meanwhile.
                    self.reread(sale).await?;
                    continue;
                }
                // Ranks became known meanwhile, or the line was lost again: whoever made that happen tells it.
                Warm::Answer(false) | Warm::Cold => return Ok(()),
            }
            let Some(last) = arrivals.last().filter(|_| arrivals.len() == RESTORED_MAX) else { break };
            (from, told) = (last + 1, told + arrivals.len());
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn decide(conn: &mut Conn, input: &Move) -> Result<Moved, Problem> {
    let row = store::find_sale_for_update(conn, input.concert).await?;
    let mut row = row.ok_or_else(|| Problem::not_found("concert"))?;
    if row.epoch != input.seen {
        return Ok(Moved::Before(row));
    }
    let silence = match (row.in_charge, input.to) {
        (InCharge::Usual, InCharge::Standby) => SILENCE,
        (InCharge::Usual, InCharge::Usual) if !row.run_id.is_empty() && row.run_id != input.run_id => SILENCE_ANEW,
        _ => Duration::ZERO,
    };
    if row.checkpoint_age.is_some_and(|age| age < silence) {
        return Ok(Moved::Refused(row));
    }
    // Others may have called further since the checkpoint: whoever was let in shows how far at least.
    let admitted = store::find_last_admitted(conn, input.concert, input.order).await?.map_or(0, |rank| rank + 1);
    let copied = places::find_newest(conn, input.concert).await?.map_or(0, |arrival| arrival + 1);
    row.serving = row.serving.max(input.serving).max(admitted);
    let issued = row.issued.max(input.issued).max(copied).max(row.serving).min(row.ceiling);
    let mut gaps = Gaps::parse(&row.gaps);
    let lobby_size = match input.order {
        Order::Fifo => 0,
        Order::Draw => row.lobby_size.unwrap_or(u64::MAX),
    };
    gaps.forget_passed(row.serving, lobby_size);
    gaps.push(issued, row.ceiling);
    row.gaps = gaps.to_string();
    (row.in_charge, row.run_id) = (input.to, input.run_id.clone());
    store::raise_epoch(conn, &row).await?;
    row.epoch += 1;
    let inside = store::list_live_passes(conn, input.concert).await?;
    Ok(Moved::Done(row, inside))
}

fn remembered(sale: &Sale, row: &SaleRow, inside: &[(u64, Timestamp)]) -> Remembered {
    let (draw, closes_at) = sale.view(|state| (state.draw.clone(), state.hours.booking_closes_at));
    let gaps = Gaps::parse(&row.gaps);
    let (gaps, ghosts) = match (sale.order, &draw) {
        (Order::Fifo, _) => (gaps, Vec::new()),
        // They are told with the draw.
        (Order::Draw, None) => (Gaps::default(), Vec::new()),
        (Order::Draw, Some(draw)) => {
            let ranks = gaps.inside(draw.lobby_size).map(|arrival| draw.rank_of(arrival));
            (gaps.behind(draw.lobby_size), ranks.filter(|rank| *rank >= row.serving).take(GHOSTS_MAX).collect())
        }
    };
    Remembered {
        ceiling: row.ceiling,
        serving: row.serving,
        gaps: gaps.to_string(),
        ghosts,
        lobby_size: draw.map(|draw| draw.lobby_size),
        claim_secs: row.rules.claim_secs,
        closes_at,
        slots: inside.iter().filter_map(|(arrival, until)| Some((sale.spot(*arrival).rank?, *until))).collect(),
    }
}
