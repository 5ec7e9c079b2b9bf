//! `frontrow warm`: concerts loaded anew into the caches of the instances that run.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::state::State;
use crate::catalog::ConcertId;
use crate::catalog::warming::orders::{Ordered, is_carried_out};

/// How often it looks whether all is warm.
const PAUSE: Duration = Duration::from_millis(250);

/// What to warm, and whether to wait for it.
#[derive(Debug, clap::Args)]
pub(super) struct Warm {
    #[command(flatten)]
    which: Which,
    /// Wait until every instance that runs is warm, at most so long.
    #[arg(long, value_name = "SECS", default_value_t = 0)]
    wait_secs: u64,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// This concert.
    #[arg(long, value_name = "ID")]
    concert: Option<ConcertId>,
    /// Every concert whose doors are open, or open within the warmer's lead time.
    #[arg(long)]
    due: bool,
}

/// Orders it, prints a JSON line for each concert, and waits if that is wanted.
///
/// # Errors
/// Where there is no such concert, the warmer is off, or the database fails.
pub(super) async fn run(state: &State, given: &Warm) -> anyhow::Result<ExitCode> {
    let concerts = match given.which.concert.filter(|_| !given.which.due) {
        Some(concert) => vec![concert],
        None => state.warmer.list_near().await?,
    };
    let mut orders = Vec::with_capacity(concerts.len());
    for concert in concerts {
        let order = state.warmer.order_by_command(concert).await?;
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&order)?)?;
        orders.push(order);
    }
    if given.wait_secs == 0 || wait(state, orders, Duration::from_secs(given.wait_secs)).await? {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("frontrow: not everything is warm yet");
    Ok(ExitCode::FAILURE)
}

/// Whether all was carried out in time.
async fn wait(state: &State, orders: Vec<Ordered>, limit: Duration) -> anyhow::Result<bool> {
    let started = Instant::now();
    for order in orders {
        while !is_carried_out(&state.warmer.get_cache(order.concert_id).await?, order.ordered_at) {
            if started.elapsed() >= limit {
                return Ok(false);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(true)
}
