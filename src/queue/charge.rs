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
pub(super) const MAKING: Duration = Duration::from_millis(250);
/// Places given up of which a line made anew is told at most; further ones are called, and lapse.
const LEFT_MAX: usize = 100_000;
/// How often the line is told of the same places: a lobby is drawn once, so the second time as a rule has their ranks.
const RESTORE_TRIES: usize = 4;

/// What an instance knew when it asked the line's store. An answer counts as of when it was asked for: others may have made the
/// line while it was on its way, or while whoever heard it waited for its turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    epoch: u32,
    ceiling: u64,
    at: Instant,
}

impl Asked {
    /// For a question that is put now.
    pub fn now(sale: &Sale) -> Self {
        let (epoch, ceiling) = sale.view(|state| (state.epoch, state.ceiling));
        Self { epoch, ceiling, at: Instant::now() }
    }
}

/// What is needed to make a line anew.
#[derive(Clone, Debug)]
struct Move {
    concert: ConcertId,
    order: Order,
    /// What the line's store was asked.
    asked: Asked,
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
    /// Another instance came first, or has heard from the line since this one asked.
    Before(SaleRow),
    /// Somebody has lately reached the line's store.
    Refused(SaleRow),
}

impl Queue {
    /// Makes the line anew after its store lost it. An instance that comes second takes over the first one's epoch.
    pub(super) async fn rebuild(&self, sale: &Sale, asked: Asked) -> Result<(), Problem> {
        let to = sale.view(|state| state.in_charge);
        if self.move_to(sale, asked, to).await? {
            return Ok(());
        }
        Self::note_trouble(sale);
        Err(Problem::new(&codes::UNAVAILABLE).detail("Another Redis keeps the line."))
    }

    /// Redis did not answer a tick: if nobody else reaches it either, MySQL keeps the line.
    pub(super) async fn redis_failed(&self, sale: &Sale, problem: Problem) -> Result<(), Problem> {
        let asked = Asked::now(sale);
        let is_silent = sale.view(|state| state.checkpoint.is_older_than(SILENCE));
        // Silence alone may as well be that of a MySQL that stalled, or of a line that is new.
        let is_troubled = lock(&sale.troubled_since).is_some_and(|since| since.elapsed() >= TROUBLED_FOR);
        if is_silent && is_troubled && self.move_to(sale, asked, InCharge::Standby).await? {
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
            match self.move_to(sale, Asked::now(sale), InCharge::Usual).await {
                Ok(_) => *lock(&sale.redis_back) = None,
                Err(problem) => tracing::warn!(concert = %sale.concert, %problem, "Redis did not get the line back"),
            }
        }
    }

    /// Makes the line anew in `to`, at an epoch that MySQL raises first. False where others reach the line's store.
    async fn move_to(&self, sale: &Sale, asked: Asked, to: InCharge) -> Result<bool, Problem> {
        let turn = sale.upkeep.lock().await;
        let (epoch, made_by) = sale.view(|state| (state.epoch, state.made_by));
        if epoch > asked.epoch {
            return Ok(true);
        }
        if let Some(by) = made_by.filter(|by| asked.at < *by) {
            // The next answer tells whether the line is there by then. Nobody waits behind this one.
            drop(turn);
            tokio::time::sleep(by.saturating_duration_since(Instant::now()).min(MAKING / 5)).await;
            return Ok(true);
        }
        let run_id = match to {
            InCharge::Usual => self.lines.run_id(sale.concert).await?,
            InCharge::Standby => String::new(),
        };
        let (serving, issued) = sale.view(|state| (state.snapshot.serving, state.snapshot.issued));
        let input = Move { concert: sale.concert, order: sale.order, asked, serving, issued, to, run_id };
        let moved = self.parts.db.in_tx("queue.rebuild", input, |conn, input| Box::pin(decide(conn, input))).await?;
        let (row, inside) = match moved {
            Moved::Done(row, inside) => (row, inside),
            // If the line is not there, the next answer is cold again and it is this one's turn.
            Moved::Before(row) => {
                self.adopt(sale, &row)?;
                sale.mark_made(asked.epoch, Some(Instant::now()));
                return Ok(true);
            }
            Moved::Refused(row) => return self.adopt(sale, &row).map(|()| false),
        };
        self.adopt(sale, &row)?;
        sale.mark_made(row.epoch, None);
        let line = remembered(sale, &row, &inside);
        // Of this epoch, whatever others have made of the line meanwhile.
        let at = At { concert: sale.concert, epoch: row.epoch };
        self.store(row.in_charge).rebuild(at, &line).await?;
        // Others of this instance may have asked between the epoch and the line, and wait for their turn now.
        sale.mark_made(row.epoch, Some(Instant::now()));
        sale.is_untold.store(true, Ordering::Relaxed);
        *lock(&sale.troubled_since) = None;
        tracing::info!(concert = %sale.concert, epoch = row.epoch, in_charge = row.in_charge.word(), "line made anew");
        if let Err(problem) = self.restore_left(sale).await
            && sale.neglect.is_due()
        {
            tracing::warn!(concert = %sale.concert, %problem, "the line is not told yet which places were given up");
        }
        Ok(true)
    }

    /// Tells a line that this instance has made anew which places were given up, where that is still to be done. Harmless where
    /// it was told before.
    ///
    /// # Errors
    /// Where a store does not answer, or the ranks of the places cannot be learnt: the next call begins again.
    pub(super) async fn restore_left(&self, sale: &Sale) -> Result<(), Problem> {
        if !sale.is_untold.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let told = self.tell_left(sale).await;
        if told.is_err() {
            sale.is_untold.store(true, Ordering::Relaxed);
        }
        told
    }

    async fn tell_left(&self, sale: &Sale) -> Result<(), Problem> {
        let (mut from, mut told) = (0, 0);
        while told < LEFT_MAX {
            let input = (sale.concert, from);
            let list = self.parts.db.read("queue.list_left", input, |conn, (concert, from)| {
                Box::pin(places::list_left(conn, *concert, *from, RESTORED_MAX))
            });
            let arrivals = list.await?;
            if !self.tell_batch(sale, &arrivals).await? {
                // Lost again: whoever makes it anew tells it.
                break;
            }
            let Some(last) = arrivals.last().filter(|_| arrivals.len() == RESTORED_MAX) else { break };
            (from, told) = (last + 1, told + arrivals.len());
        }
        Ok(())
    }

    /// False where the line was lost.
    async fn tell_batch(&self, sale: &Sale, arrivals: &[u64]) -> Result<bool, Problem> {
        for _ in 0..RESTORE_TRIES {
            let left: Vec<_> = arrivals.iter().map(|arrival| sale.spot(*arrival)).collect();
            let (line, at) = self.line(sale);
            match line.restore(at, &left).await? {
                Warm::Answer(true) => return Ok(true),
                // The lobby was drawn since the spots were looked up, by this instance or by another one: the same places once
                // more, by their ranks.
                Warm::Answer(false) => self.reread(sale).await?,
                Warm::Cold => return Ok(false),
            }
        }
        Err(Problem::new(&codes::UNAVAILABLE).detail("The line knows a draw that MySQL does not tell of."))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn decide(conn: &mut Conn, input: &Move) -> Result<Moved, Problem> {
    let row = store::find_sale_for_update(conn, input.concert).await?;
    let mut row = row.ok_or_else(|| Problem::not_found("concert"))?;
    let is_same = row.in_charge == input.to && row.run_id == input.run_id;
    // Whoever raised the ceiling since had heard from the line: places may have been given that this instance does not know of.
    if row.epoch != input.asked.epoch || (is_same && row.ceiling > input.asked.ceiling) {
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
            let ghosts = draw.ghosts(&gaps).filter(|rank| *rank >= row.serving).take(GHOSTS_MAX).collect();
            (gaps.behind(draw.lobby_size), ghosts)
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
