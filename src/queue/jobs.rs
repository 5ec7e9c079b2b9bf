//! What each instance repeats for its lines: reread the rules, tick, checkpoint.

use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::sale::Sale;
use super::service::Queue;

/// How often the list of live sales and their rules are reread: operators are obeyed within two seconds.
const REFRESH_EVERY: Duration = Duration::from_millis(900);
/// Lines ticked at the same time by one instance.
const TICKS_AT_ONCE: usize = 8;

/// Ticks every live line of one instance.
#[derive(Debug)]
pub struct Ticker {
    queue: Arc<Queue>,
    known: Mutex<(Option<Instant>, Vec<Arc<Sale>>)>,
}

impl Ticker {
    /// For these lines.
    #[must_use]
    pub fn new(queue: Arc<Queue>) -> Self {
        Self { queue, known: Mutex::new((None, Vec::new())) }
    }

    /// Ticks every live line once; now and then rereads which are live and writes the checkpoints.
    pub async fn run_once(&self) {
        use futures::StreamExt as _;
        let (refreshed, mut sales) = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_due = refreshed.is_none_or(|at| at.elapsed() >= REFRESH_EVERY);
        if is_due {
            match self.queue.refresh().await {
                Ok(live) => {
                    sales = live;
                    *self.known.lock().unwrap_or_else(PoisonError::into_inner) = (Some(Instant::now()), sales.clone());
                }
                Err(problem) => tracing::warn!(%problem, "the rules of the lines could not be reread"),
            }
        }
        let tick = |sale: Arc<Sale>| async move { self.tick(&sale, is_due).await };
        futures::stream::iter(sales).for_each_concurrent(TICKS_AT_ONCE, tick).await;
    }

    async fn tick(&self, sale: &Sale, is_checkpoint_due: bool) {
        if let Err(problem) = self.queue.tick(sale).await {
            tracing::warn!(concert = %sale.concert, %problem, "the line did not move");
        } else if is_checkpoint_due && let Err(problem) = self.queue.checkpoint(sale).await {
            tracing::warn!(concert = %sale.concert, %problem, "the line was not checkpointed");
        }
        // Moved or not, its phase may have changed by time.
        sale.publish(self.queue.now());
    }
}
