//! What each instance repeats for its lines. Ticks need the lines' store alone, so a line goes on while MySQL stalls; what
//! needs MySQL (rules, seats left, the ceiling, the draw, checkpoints) is kept up beside them.

use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;

use super::metrics;
use super::sale::Sale;
use super::service::Queue;
use crate::platform::error::Problem;
use crate::platform::telemetry::Seldom;

/// How often the list of live sales, their rules and their seats are reread, and checkpoints written: operators are obeyed
/// within two seconds.
const REFRESH_EVERY: Duration = Duration::from_millis(900);
/// Lines served at the same time by one instance.
const LINES_AT_ONCE: usize = 16;

impl Queue {
    /// Deletes up to `limit` rows of lines that MySQL kept before they were made anew, and says how many.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn tidy_ranks(&self, limit: u32) -> Result<u64, Problem> {
        self.standby.tidy(limit).await
    }
}

/// Serves every live line of one instance.
#[derive(Debug)]
pub struct Ticker {
    queue: Arc<Queue>,
    live: Mutex<Vec<Arc<Sale>>>,
    refreshed: Mutex<Option<Instant>>,
    unread: Seldom,
}

impl Ticker {
    /// For these lines.
    #[must_use]
    pub fn new(queue: Arc<Queue>) -> Self {
        Self { queue, live: Mutex::default(), refreshed: Mutex::default(), unread: Seldom::default() }
    }

    fn live(&self) -> Vec<Arc<Sale>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ticks every live line once.
    pub async fn tick(&self) {
        let sales = self.live();
        let tick = |sale: Arc<Sale>| async move {
            match self.queue.tick(&sale).await {
                Ok(()) if sale.standstill.end() => tracing::info!(concert = %sale.concert, "the line moves again"),
                Err(problem) if sale.standstill.is_due() => {
                    tracing::warn!(concert = %sale.concert, %problem, "the line does not move");
                }
                Ok(()) | Err(_) => {}
            }
            // Moved or not, its phase may have changed by time.
            sale.publish(self.queue.now());
        };
        futures::stream::iter(sales.clone()).for_each_concurrent(LINES_AT_ONCE, tick).await;
        metrics::lines(&sales);
    }

    /// Keeps up what every live line needs of MySQL; now and then rereads which are live.
    pub async fn keep_up(&self) {
        let is_due = {
            let refreshed = self.refreshed.lock().unwrap_or_else(PoisonError::into_inner);
            refreshed.is_none_or(|at| at.elapsed() >= REFRESH_EVERY)
        };
        if is_due {
            match self.queue.refresh().await {
                Ok(live) => {
                    *self.live.lock().unwrap_or_else(PoisonError::into_inner) = live;
                    *self.refreshed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                }
                Err(problem) if self.unread.is_due() => {
                    tracing::warn!(%problem, "the rules of the lines cannot be reread");
                }
                Err(_) => {}
            }
        }
        let keep_up = |sale: Arc<Sale>| async move {
            match self.queue.keep_up(&sale, is_due).await {
                Ok(()) => drop(sale.neglect.end()),
                Err(problem) if sale.neglect.is_due() => {
                    tracing::warn!(concert = %sale.concert, %problem, "the line is not kept up");
                }
                Err(_) => {}
            }
        };
        futures::stream::iter(self.live()).for_each_concurrent(LINES_AT_ONCE, keep_up).await;
    }
}
