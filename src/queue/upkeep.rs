//! Keeping lines moving: rereading rules, ticks, the draw, checkpoints, the ceiling.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::charge::Asked;
use super::domain::InCharge;
use super::gaps::GHOSTS_MAX;
use super::line::{ASKED_MAX, Drawing, Latency, Tick, Warm};
use super::sale::Sale;
use super::service::Queue;
use super::store::Progress;
use super::store::SaleRow;
use super::{metrics, pace, store};
use crate::catalog::ConcertId;
use crate::catalog::domain::Hours;
use crate::platform::error::Problem;

/// How far ahead of what is issued MySQL allows, in times of what was issued in the last second: about a second of joins.
const CEILING_SECS: u64 = 2;
/// The least and the most of it.
const CEILING_STEP_MIN: u64 = 200;
const CEILING_STEP_MAX: u64 = 20_000;
/// A checkpoint that another instance has just written is good for all.
const CHECKPOINT_SHARED: Duration = Duration::from_millis(700);
/// What the line's store said longer ago is no news.
const CHECKPOINT_MAX_AGE: Duration = Duration::from_secs(2);
/// How old the rules of a line may be that is not ticked.
const IDLE_MAX_AGE: Duration = Duration::from_secs(3);
/// How long before its opening a line is ticked.
const LEAD: Duration = Duration::from_mins(1);
/// How long after its end a line is still kept up to date: a booking that ends sooner than was said, because the concert is
/// cancelled, must be seen by every instance.
const LINGER: Duration = Duration::from_secs(10);

impl Queue {
    /// Rereads what operators may have changed, for every sale that is live, and forgets the others.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn refresh(&self) -> Result<Vec<Arc<Sale>>, Problem> {
        let (since, lead) = (self.now().minus(LINGER), LEAD + LINGER);
        let open = self.parts.catalog.list_live_sales(since, lead, self.parts.settings.sales_max).await?;
        if open.len() >= self.parts.settings.sales_max as usize && self.crowded.is_due() {
            tracing::error!(sales_max = open.len(), "more sales are open than are served: the oldest may stand still");
        }
        let ids: Vec<ConcertId> = open.iter().map(|sale| sale.concert_id).collect();
        let rows = self
            .parts
            .db
            .read("queue.list_sales", ids.clone(), |conn, ids| Box::pin(store::list_sales(conn, ids)))
            .await?;
        let mut live = Vec::with_capacity(rows.len());
        for row in rows {
            let Some(facts) = open.iter().find(|sale| sale.concert_id == row.concert) else { continue };
            match self.refresh_sale(facts.hours, &row).await {
                Ok(sale) => live.push(sale),
                // One sale that cannot be read stops no other.
                Err(problem) if self.seldom.is_due() => {
                    tracing::error!(concert = %row.concert, %problem, "a line cannot be served");
                }
                Err(_) => {}
            }
        }
        let kept = live.iter().map(|sale: &Arc<Sale>| (sale.concert, sale.clone())).collect();
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = kept;
        // What is not live is not kept up to date either: it is read again now and then.
        let is_old = |sale: &Sale| sale.loaded_at.elapsed() > IDLE_MAX_AGE;
        let idle = self.sales.iter().filter(|(id, sale)| !ids.contains(id) && is_old(sale));
        let idle: Vec<ConcertId> = idle.map(|(id, _)| *id).collect();
        for concert in idle {
            self.sales.invalidate(&concert).await;
        }
        Ok(live)
    }

    async fn refresh_sale(&self, hours: Hours, row: &SaleRow) -> Result<Arc<Sale>, Problem> {
        let sale = self.get_sale(row.concert).await?;
        sale.refresh(hours, row, self.new_draw(&sale, row)?);
        Ok(sale)
    }

    /// Moves one line on and remembers its numbers.
    ///
    /// # Errors
    /// Where the line's store does not answer: the next tick tries again.
    pub async fn tick(&self, sale: &Sale) -> Result<(), Problem> {
        if sale.view(|state| state.supply.is_none()) {
            self.count_seats(sale).await;
        }
        if Self::is_out_of_reach(sale) {
            self.reread(sale).await?;
        }
        let tick = self.tick_of(sale);
        let in_charge = sale.view(|state| state.in_charge);
        let asked = Asked::now(sale);
        let (line, at) = self.line(sale);
        let ticked = match line.tick(at, &tick).await {
            Ok(Warm::Answer(ticked)) => ticked,
            Ok(Warm::Cold) => return self.rebuild(sale, asked).await,
            Err(problem) if in_charge == InCharge::Usual => return self.redis_failed(sale, problem).await,
            Err(problem) => return Err(problem),
        };
        metrics::ticked(ticked.lapsed);
        sale.apply(at.epoch, &ticked);
        self.store_answered(sale, in_charge).await;
        // Another instance drew the lots: who is called from now on must not be told to wait in the lobby.
        if ticked.is_drawn && sale.is_undrawn() {
            self.reread(sale).await?;
        }
        Ok(())
    }

    /// What one line needs of MySQL: room for places, the draw of its lobby, and where `is_due` seats left, a checkpoint, and what
    /// a line made anew is still to be told.
    ///
    /// # Errors
    /// Where MySQL does not answer: the next call tries again.
    pub async fn keep_up(&self, sale: &Sale, is_due: bool) -> Result<(), Problem> {
        // Before the line is there, nobody can be given a place, and whatever lies below the ceiling would be a gap.
        if let Some(issued) = sale.view(|state| state.snapshot.at.map(|_| state.snapshot.issued)) {
            self.raise_ceiling(sale, issued).await?;
        }
        self.draw_lots(sale).await?;
        if is_due {
            self.checkpoint(sale).await?;
            self.count_seats(sale).await;
            self.restore_left(sale).await?;
        }
        Ok(())
    }

    /// What was counted last holds until it can be counted again.
    async fn count_seats(&self, sale: &Sale) {
        if let Some(supply) = self.parts.supply.supply(sale.concert).await {
            sale.set_supply(supply);
        }
    }

    fn tick_of(&self, sale: &Sale) -> Tick {
        let settings = &self.parts.settings;
        let latency = match self.parts.latencies.p95() {
            None => Latency::Unknown,
            Some(p95) if p95 > Duration::from_millis(settings.slo_ms) => Latency::Over,
            Some(_) => Latency::Within,
        };
        sale.view(|state| {
            let mut rules = state.rules;
            if state.in_charge == InCharge::Standby {
                rules.admit_per_second = rules.admit_per_second.min(settings.standby_admit_per_second);
            }
            let lobby_size = state.draw.as_ref().map_or(0, |draw| draw.lobby_size);
            let spread = Duration::from_millis(pace::lobby_spread_ms(lobby_size, settings));
            let window = Duration::from_secs(rules.claim_secs.into());
            Tick {
                rules,
                hours: state.hours,
                ranking: sale.ranking_of(state),
                seats_left: state.supply.map_or(0, |supply| supply.available),
                calls_max: settings.calls_per_tick_max,
                gone_seq: state.snapshot.gone_seq,
                announced: state.snapshot.serving,
                latency,
                lapses_from: state.hours.booking_opens_at.plus(spread + window),
            }
        })
    }

    /// After the lobby of a draw has closed: commits its size once, and makes the ranks count.
    async fn draw_lots(&self, sale: &Sale) -> Result<(), Problem> {
        let (closed, epoch) = sale.view(|state| (state.closed_lobby, state.epoch));
        let Some(closed) = closed else { return Ok(()) };
        if sale.is_undrawn() {
            let input = (sale.concert, epoch, closed);
            let row = self
                .parts
                .db
                .in_tx("queue.commit_lobby", input, |conn, (concert, epoch, size)| {
                    Box::pin(async move {
                        store::commit_lobby(conn, *concert, *epoch, *size).await?;
                        store::find_sale(conn, *concert).await
                    })
                })
                .await?;
            self.adopt(sale, &row.ok_or_else(|| Problem::not_found("concert"))?)?;
        }
        let (draw, gaps) = sale.view(|state| (state.draw.clone(), state.gaps.clone()));
        let Some(draw) = draw else { return Ok(()) };
        let ghosts = draw.ghosts(&gaps).take(GHOSTS_MAX).collect();
        let gaps = gaps.behind(draw.lobby_size).to_string();
        let mut drawing = Drawing { lobby_size: draw.lobby_size, gaps, ghosts, left: Vec::new() };
        // Each step but the last settles up to ASKED_MAX places that were given up.
        for _ in 0..=draw.lobby_size / ASKED_MAX as u64 + 1 {
            let (line, at) = self.line(sale);
            match line.draw(at, &drawing).await? {
                Warm::Cold => return Ok(()),
                Warm::Answer(asked) if asked.is_empty() => break,
                Warm::Answer(asked) => {
                    drawing.ghosts.clear();
                    drawing.left = asked.into_iter().map(|arrival| (arrival, draw.rank_of(arrival))).collect();
                }
            }
        }
        sale.mark_drawn();
        tracing::info!(concert = %sale.concert, lobby_size = draw.lobby_size, "the draw was made");
        Ok(())
    }

    /// Writes down how far the line is, so that it can be rebuilt from there. It is also the sign of life by which instances that
    /// do not reach the line's store know that others do: whoever does not reach it itself writes nothing.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn checkpoint(&self, sale: &Sale) -> Result<(), Problem> {
        let progress = sale.view(|state| {
            let (known, snapshot) = (state.checkpoint, &state.snapshot);
            let is_fresh = known.age.is_some_and(|age| age < CHECKPOINT_SHARED);
            let is_known = is_fresh && known.serving >= snapshot.serving && known.issued >= snapshot.issued;
            let at = state.ticked_at.filter(|at| !is_known && at.elapsed() < CHECKPOINT_MAX_AGE)?;
            let (serving, issued) = (snapshot.serving, snapshot.issued);
            Some(Progress { concert: sale.concert, epoch: state.epoch, serving, issued, at })
        });
        let Some(progress) = progress else { return Ok(()) };
        self.parts
            .db
            .in_tx("queue.checkpoint", progress, |conn, progress| Box::pin(store::checkpoint(conn, progress)))
            .await
    }

    /// Lets more places be given than the `issued` ones. One caller of an instance asks MySQL; the others wait for it.
    pub(super) async fn raise_ceiling(&self, sale: &Sale, issued: u64) -> Result<(), Problem> {
        let step = sale.joins_per_second(issued).saturating_mul(CEILING_SECS).clamp(CEILING_STEP_MIN, CEILING_STEP_MAX);
        if sale.view(|state| state.ceiling) > issued + step / 2 {
            return Ok(());
        }
        let _turn = sale.upkeep.lock().await;
        let (epoch, ceiling) = sale.view(|state| (state.epoch, state.ceiling));
        if ceiling > issued + step / 2 {
            return Ok(());
        }
        let input = (sale.concert, epoch, issued + step);
        let row = self
            .parts
            .db
            .in_tx("queue.raise_ceiling", input, |conn, (concert, epoch, to)| {
                Box::pin(async move {
                    store::raise_ceiling(conn, *concert, *epoch, *to).await?;
                    store::find_sale(conn, *concert).await
                })
            })
            .await?;
        self.adopt(sale, &row.ok_or_else(|| Problem::not_found("concert"))?)
    }
}
