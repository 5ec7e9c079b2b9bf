//! Keeping lines moving and whole: rereading rules, ticks, checkpoints, the ceiling, rebuilding.

use std::sync::Arc;
use std::time::Duration;

use super::redis::{Remembered, Tick, Warm};
use super::sale::Sale;
use super::service::{CEILING_STEP, Queue};
use super::{metrics, store};
use crate::catalog::ConcertId;
use crate::platform::error::Problem;

/// Gaps remembered at most.
const GAPS_MAX: usize = 90;
/// How old the rules of a line may be that is not ticked.
const IDLE_MAX_AGE: Duration = Duration::from_secs(3);
/// How long before its opening a line is ticked.
const LEAD: Duration = Duration::from_mins(1);

impl Queue {
    /// Rereads what operators may have changed, for every sale that is live, and forgets the others.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn refresh(&self) -> Result<Vec<Arc<Sale>>, Problem> {
        let open = self.parts.catalog.list_live_sales(self.now(), LEAD, self.parts.settings.sales_max).await?;
        let ids: Vec<ConcertId> = open.iter().map(|sale| sale.concert_id).collect();
        let rows = self
            .parts
            .db
            .read("queue.list_sales", ids.clone(), |conn, ids| Box::pin(store::list_sales(conn, ids)))
            .await?;
        let mut live = Vec::with_capacity(rows.len());
        for row in rows {
            let Some(facts) = open.iter().find(|sale| sale.concert_id == row.concert) else { continue };
            let sale = self.get_sale(row.concert).await?;
            sale.refresh(facts.hours, &row);
            live.push(sale);
        }
        // What is not live is not kept up to date either: it is read again now and then.
        let is_old = |sale: &Sale| sale.loaded_at.elapsed() > IDLE_MAX_AGE;
        let idle = self.sales.iter().filter(|(id, sale)| !ids.contains(id) && is_old(sale));
        let idle: Vec<ConcertId> = idle.map(|(id, _)| *id).collect();
        for concert in idle {
            self.sales.invalidate(&concert).await;
        }
        Ok(live)
    }

    /// Moves one line on and remembers its numbers.
    ///
    /// # Errors
    /// Where Redis or MySQL does not answer: the next tick tries again.
    pub async fn tick(&self, sale: &Sale) -> Result<(), Problem> {
        let supply = self.parts.supply.supply(sale.concert).await;
        let (epoch, rules, hours, gone_seq, announced) =
            sale.view(|state| (state.epoch, state.rules, state.hours, state.snapshot.gone_seq, state.snapshot.serving));
        let tick = Tick {
            rules: &rules,
            hours: &hours,
            seats_left: supply.map_or(u64::from(u32::MAX), |supply| supply.available),
            calls_max: self.parts.settings.calls_per_tick_max,
            gone_seq,
            announced,
        };
        match self.lines.tick(sale.concert, epoch, &tick).await? {
            Warm::Cold => self.rebuild(sale, epoch).await,
            Warm::Answer(ticked) => {
                metrics::ticked(ticked.lapsed);
                let issued = ticked.snapshot.issued;
                sale.apply(epoch, &ticked.snapshot, supply);
                self.raise_ceiling(sale, issued).await
            }
        }
    }

    /// Writes down how far the line is, so that it can be rebuilt from there.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn checkpoint(&self, sale: &Sale) -> Result<(), Problem> {
        let input = sale.view(|state| (sale.concert, state.epoch, state.snapshot.serving, state.snapshot.issued));
        self.parts
            .db
            .in_tx("queue.checkpoint", input, |conn, (concert, epoch, serving, issued)| {
                Box::pin(store::checkpoint(conn, *concert, *epoch, *serving, *issued))
            })
            .await
    }

    /// Lets more places be given than the `issued` ones. One caller of an instance asks MySQL; the others wait for it.
    pub(super) async fn raise_ceiling(&self, sale: &Sale, issued: u64) -> Result<(), Problem> {
        let _turn = sale.upkeep.lock().await;
        let (epoch, ceiling) = sale.view(|state| (state.epoch, state.ceiling));
        if ceiling > issued + CEILING_STEP / 2 {
            return Ok(());
        }
        let input = (sale.concert, epoch, issued + CEILING_STEP);
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
        sale.adopt(&row.ok_or_else(|| Problem::not_found("concert"))?);
        Ok(())
    }

    /// Makes the line anew after Redis lost it, at an epoch that MySQL raises first. An instance that comes second
    /// takes over the first one's epoch.
    pub(super) async fn rebuild(&self, sale: &Sale, seen: u32) -> Result<(), Problem> {
        let _turn = sale.upkeep.lock().await;
        if sale.view(|state| state.epoch) > seen {
            return Ok(());
        }
        let (serving, issued) = sale.view(|state| (state.snapshot.serving, state.snapshot.issued));
        let input = (sale.concert, seen, serving, issued);
        let (row, slots) = self
            .parts
            .db
            .in_tx("queue.rebuild", input, |conn, (concert, seen, serving, issued)| {
                Box::pin(async move {
                    let row = store::find_sale_for_update(conn, *concert).await?;
                    let mut row = row.ok_or_else(|| Problem::not_found("concert"))?;
                    if row.epoch != *seen {
                        return Ok((row, None));
                    }
                    // Others may have called further since the checkpoint: whoever was let in shows how far at least.
                    let admitted = store::find_last_admitted(conn, *concert).await?.map_or(0, |rank| rank + 1);
                    row.serving = row.serving.max(*serving).max(admitted);
                    let issued = row.issued.max(*issued).max(row.serving).min(row.ceiling);
                    row.gaps = gaps_after(&row.gaps, row.serving, (issued, row.ceiling));
                    store::raise_epoch(conn, *concert, *seen, &row.gaps).await?;
                    row.epoch += 1;
                    Ok((row, Some(store::list_live_passes(conn, *concert).await?)))
                })
            })
            .await?;
        // Another instance has raised the epoch: if its line is not there, the next answer is cold again and it is this one's turn.
        let Some(slots) = slots else {
            sale.adopt(&row);
            return Ok(());
        };
        let line = Remembered {
            ceiling: row.ceiling,
            serving: row.serving,
            gaps: row.gaps.clone(),
            claim_secs: row.rules.claim_secs,
            closes_at: sale.view(|state| state.hours.booking_closes_at),
            slots,
        };
        self.lines.rebuild(sale.concert, row.epoch, &line).await?;
        sale.adopt(&row);
        tracing::info!(concert = %sale.concert, epoch = row.epoch, "line rebuilt");
        Ok(())
    }
}

/// The gaps that still lie ahead of `serving`, and the new one. The oldest are forgotten past [`GAPS_MAX`]: their ranks are then
/// called one by one.
fn gaps_after(gaps: &str, serving: u64, (from, below): (u64, u64)) -> String {
    let bounds = |gap: &str| -> Option<(u64, u64)> {
        let (from, below) = gap.split_once('-')?;
        Some((from.parse().ok()?, below.parse().ok()?))
    };
    let mut left: Vec<(u64, u64)> = gaps.split(',').filter_map(bounds).filter(|(_, below)| *below > serving).collect();
    if from < below {
        left.push((from, below));
    }
    let kept = &left[left.len().saturating_sub(GAPS_MAX)..];
    kept.iter().fold(String::new(), |text, (from, below)| text + &format!("{from}-{below},"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_kept_until_the_line_has_passed_them() {
        assert_eq!(gaps_after("", 0, (10, 50)), "10-50,");
        assert_eq!(gaps_after("10-50,", 5, (60, 90)), "10-50,60-90,");
        assert_eq!(gaps_after("10-50,60-90,", 50, (95, 95)), "60-90,");
        let many: Vec<String> = (0..GAPS_MAX * 2).map(|n| format!("{}-{}", n * 10, n * 10 + 5)).collect();
        let many = many.join(",");
        assert_eq!(gaps_after(&many, 0, (1, 1)).matches(',').count(), GAPS_MAX);
    }
}
