//! A hall that is wanted by more people than have room in it, all of whom ask two instances for the best seats.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use frontrow::app::state::State;
use frontrow::booking::holds::{Asked, Request};
use frontrow::booking::seats::{NOT_ENOUGH_SEATS, SEATS_TAKEN};
use frontrow::platform::error::codes::OVERLOADED;
use frontrow::platform::http::keyed::RequestKey;

use super::SoldOut;
use super::halls::{Buyer, Hall};

/// What some of them have seen on one instance.
#[derive(Default)]
struct Seen {
    holds: u32,
    refused: u32,
    beaten: u32,
    last_hold_secs: f64,
}

/// Every buyer of the hall asks once: one half of them the first instance, the other half the second.
pub(super) async fn run(
    instances: [State; 2],
    hall: Arc<Hall>,
    quantity: u32,
    at_once: usize,
) -> anyhow::Result<SoldOut> {
    let started = Instant::now();
    let mut tasks = Vec::new();
    for (instance, state) in instances.into_iter().enumerate() {
        let next = Arc::new(AtomicUsize::new(instance));
        for _ in 0..at_once {
            let task = tokio::spawn(ask(state.clone(), hall.clone(), next.clone(), quantity, started));
            tasks.push((instance, task));
        }
    }
    let mut sold = SoldOut { secs: 0.0, answered_secs: 0.0, holds: [0.0; 2], refused: 0.0, beaten: 0.0 };
    for (instance, task) in tasks {
        let seen = task.await??;
        sold.holds[instance] += f64::from(seen.holds);
        sold.refused += f64::from(seen.refused);
        sold.beaten += f64::from(seen.beaten);
        sold.secs = sold.secs.max(seen.last_hold_secs);
    }
    sold.answered_secs = started.elapsed().as_secs_f64();
    Ok(sold)
}

/// One after the other asks this instance.
async fn ask(
    state: State,
    hall: Arc<Hall>,
    next: Arc<AtomicUsize>,
    quantity: u32,
    started: Instant,
) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    while let Some(Buyer { user, sealed, .. }) = hall.buyers.get(next.fetch_add(2, Ordering::Relaxed)) {
        let seats = Asked::Best { quantity, grade: None };
        let request = Request { user: *user, performance: hall.performance, pass: Some(sealed.clone()), seats };
        let key = RequestKey { key: None, fingerprint: [0; 32] };
        match Box::pin(state.holds.hold(request, key)).await {
            Ok(_) => {
                seen.holds += 1;
                seen.last_hold_secs = started.elapsed().as_secs_f64();
            }
            Err(problem) if problem.code() == &NOT_ENOUGH_SEATS => seen.refused += 1,
            Err(problem) if [&SEATS_TAKEN, &OVERLOADED].contains(&problem.code()) => seen.beaten += 1,
            Err(problem) => return Err(problem.into()),
        }
    }
    Ok(seen)
}
