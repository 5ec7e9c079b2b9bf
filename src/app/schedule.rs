//! Every job on one page: what each instance repeats, and what the cluster runs once.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::state::State;
use super::{audit, letters};
use crate::accounts;
use crate::booking::holds::retention::Pace;
use crate::catalog::ConcertId;
use crate::notices::webhooks::Dispatcher;
use crate::platform::cache::news;
use crate::platform::error::Problem;
use crate::platform::jobs::{Claim, Jobs, Work};
use crate::platform::outbox::{Event, Handler, Relay};
use crate::platform::shutdown::Shutdown;
use crate::platform::telemetry::metrics;
use crate::queue::jobs::Ticker;
use crate::queue::pass::PASS_ENDED;

/// Rows deleted by one statement of a retention job, and statements per run.
const DELETE_ROWS: u32 = 1000;
const DELETES_MAX: u32 = 100;

/// Between runs that delete what every booking leaves behind: at 100,000 rows a run a sale's busiest hours are caught up with. What
/// comes more seldom has time.
const BUSY_SECS: u32 = 60;

/// How many audits' time an instance shows what it found.
const FINDINGS_KEPT: u32 = 3;

/// What an instance does again and again.
type Periodic = fn(State) -> BoxFuture<'static, Result<(), Problem>>;

/// Starts what this instance repeats, and its share of the cluster's jobs.
///
/// # Errors
/// Where the jobs cannot be registered, or a setting makes no sense.
pub async fn start(state: &State, shutdown: &Shutdown) -> anyhow::Result<()> {
    let every = |pause, work: Periodic, name: &'static str| {
        let state = state.clone();
        shutdown.repeat(pause, move || {
            let work = work(state.clone());
            async move {
                if let Err(problem) = work.await {
                    tracing::warn!(name, %problem, "periodic work failed");
                }
            }
        });
    };
    every(Duration::from_secs(5), |state| Box::pin(async move { state.db.align_clock().await }), "clock");
    every(
        Duration::from_millis(700),
        |state| Box::pin(async move { state.accounts.refresh_revocations().await }),
        "revocations",
    );
    every(Duration::from_secs(5), |state| Box::pin(async move { state.instances.beat().await }), "instances");
    every(
        Duration::from_secs(1),
        |state| Box::pin(async move { state.queue.publish_unticked().await }),
        "unticked lines",
    );
    // On every instance, so that none goes on showing what was true when a job last came by.
    every(
        Duration::from_secs(5),
        |state| Box::pin(async move { Relay::measure(&state.db).await.map(drop) }),
        "outbox age",
    );
    // Once another instance runs the audit, what this one found is no news.
    let kept = FINDINGS_KEPT * Duration::from_secs(u64::from(state.config.jobs.audit_every_secs));
    shutdown.repeat(Duration::from_secs(5), move || async move { metrics::forget_invariants(kept) });
    look_after_payments(state, shutdown, &every);
    every(Duration::from_millis(500), |state| Box::pin(async move { state.queue.copy_places().await }), "places");
    every(
        Duration::from_secs(1),
        |state| Box::pin(async move { state.aftermath.give_back().await }),
        "refunds of cancelled concerts",
    );
    every(
        Duration::from_millis(state.config.booking.reconcile_ms),
        |state| {
            Box::pin(async move {
                state.filter.reconcile().await;
                Ok(())
            })
        },
        "seat filters",
    );
    tick_lines(state, shutdown);
    shutdown.spawn(state.caches.clone().run(shutdown.clone()));
    keep_warm(state, shutdown);
    send_notices(state, shutdown)?;
    shutdown.spawn(relay(state).run(shutdown.clone()));
    let jobs = jobs(state);
    jobs.register().await?;
    let end = shutdown.clone();
    shutdown.spawn(async move {
        if let Err(error) = jobs.run(end).await {
            tracing::error!(%error, "the scheduler stopped");
        }
    });
    Ok(())
}

/// What is being loaded when the instance ends is dropped: another one takes it over.
fn keep_warm(state: &State, shutdown: &Shutdown) {
    let (warmer, end) = (state.warmer.clone(), shutdown.clone());
    shutdown.repeat(warmer.pause(), move || {
        let (warmer, end) = (warmer.clone(), end.clone());
        async move {
            tokio::select! {
                looked = warmer.look() => if let Err(problem) = looked {
                    tracing::warn!(name = "warmer", %problem, "periodic work failed");
                },
                () = end.requested() => {}
            }
        }
    });
}

fn tick_lines(state: &State, shutdown: &Shutdown) {
    let ticker = Arc::new(Ticker::new(state.queue.clone()));
    let (pause, keeper) = (Duration::from_millis(state.config.queue.tick_ms), ticker.clone());
    shutdown.repeat(pause, move || {
        let keeper = keeper.clone();
        async move { keeper.keep_up().await }
    });
    shutdown.repeat(pause, move || {
        let ticker = ticker.clone();
        async move { ticker.tick().await }
    });
}

/// Undecided payments and refunds are asked about, and those that are under way are waited for at the end.
fn look_after_payments(state: &State, shutdown: &Shutdown, every: &impl Fn(Duration, Periodic, &'static str)) {
    let pause = Duration::from_millis(state.config.attempts.recovery_ms);
    every(pause, |state| Box::pin(async move { state.attempts.find_out_due().await.map(drop) }), "payments");
    every(pause, |state| Box::pin(async move { state.attempts.give_back_due().await.map(drop) }), "refunds");
    every(Duration::from_secs(5), |state| Box::pin(async move { state.attempts.measure().await }), "open payments");
    let (attempts, draining) = (state.attempts.clone(), shutdown.clone());
    shutdown.spawn(async move {
        draining.requested().await;
        attempts.drain().await;
    });
}

/// Sends what webhooks and mails are to tell.
fn send_notices(state: &State, shutdown: &Shutdown) -> anyhow::Result<()> {
    let dispatcher = Dispatcher::new(state.webhooks.clone(), state.clock.clone())?;
    shutdown.spawn(dispatcher.run(shutdown.clone()));
    if let Some(mailer) = letters::mailer(state)? {
        shutdown.spawn(mailer.run(shutdown.clone()));
    }
    Ok(())
}

/// The cluster's jobs: one instance runs each when it is due.
#[must_use]
pub fn jobs(state: &State) -> Jobs {
    let settings = state.config.jobs.clone();
    let (audit_every, audit) = (settings.audit_every_secs, audit::job(state.db.clone(), settings.clone()));
    Jobs::new(state.db.clone(), settings)
        .every("audit", audit_every, audit)
        .every(
            "idempotency.tidy",
            BUSY_SECS,
            deletions(state, |state| Box::pin(async move { state.idempotency.delete_old(DELETE_ROWS).await })),
        )
        .every(
            "outbox.tidy",
            BUSY_SECS,
            deletions(state, |state| {
                Box::pin(async move { Relay::tidy(&state.db, state.config.outbox.keep_hours, DELETE_ROWS).await })
            }),
        )
        .every("booking.tidy_holds", 600, {
            let holds = state.holds.clone();
            Arc::new(move |_: Claim| {
                let holds = holds.clone();
                Box::pin(async move { holds.tidy(Pace::default()).await.map(drop) })
            })
        })
        .every(
            "webhooks.tidy",
            600,
            deletions(state, |state| Box::pin(async move { state.webhooks.tidy(DELETE_ROWS).await })),
        )
        .every(
            "mails.tidy",
            600,
            deletions(state, |state| Box::pin(async move { state.mails.tidy(DELETE_ROWS).await })),
        )
        .every(
            "warming.tidy",
            600,
            deletions(state, |state| Box::pin(async move { state.warmer.tidy(DELETE_ROWS).await })),
        )
        .every(
            "queue.tidy",
            600,
            deletions(state, |state| Box::pin(async move { state.queue.tidy_ranks(DELETE_ROWS).await })),
        )
        .every(
            "queue.tidy_places",
            600,
            deletions(state, |state| Box::pin(async move { state.queue.tidy_places(DELETE_ROWS).await })),
        )
        .every(
            "cache.tidy",
            600,
            deletions(state, |state| Box::pin(async move { news::delete_old(&state.db, DELETE_ROWS).await })),
        )
        .every(
            "payments.tidy_events",
            600,
            deletions(state, |state| Box::pin(async move { state.provider_events.delete_old(DELETE_ROWS).await })),
        )
        .every(accounts::jobs::PURGE, accounts::jobs::PURGE_EVERY_SECS, accounts::jobs::purge(state.accounts.clone()))
}

/// Deletes in bounded statements until nothing old is left, or the run's share is done.
fn deletions(state: &State, delete: fn(State) -> BoxFuture<'static, Result<u64, Problem>>) -> Work {
    let state = state.clone();
    Arc::new(move |_: Claim| {
        let state = state.clone();
        Box::pin(async move {
            for _ in 0..DELETES_MAX {
                if delete(state.clone()).await? < u64::from(DELETE_ROWS) {
                    break;
                }
            }
            Ok(())
        })
    })
}

/// What follows from events, on whichever instance relays them.
#[must_use]
pub fn relay(state: &State) -> Relay {
    let queue = state.queue.clone();
    let free_slot: Handler = Arc::new(move |event: Event| {
        let queue = queue.clone();
        Box::pin(async move {
            let concert = event.payload["concert_id"].as_str().and_then(|text| text.parse::<ConcertId>().ok());
            let (Some(concert), Some(arrival)) = (concert, event.payload["arrival"].as_u64()) else {
                return Err(Problem::internal(anyhow::anyhow!("event {} has no place", event.id)));
            };
            queue.free_slot(concert, arrival).await
        })
    });
    let (webhooks, mails) = (state.webhooks.clone(), state.mails.clone());
    Relay::new(state.db.clone(), state.redis.clone(), state.config.outbox.clone(), &state.wake)
        .recorded_by(Arc::new(move |events| {
            let webhooks = webhooks.clone();
            Box::pin(async move { webhooks.record(events).await })
        }))
        .recorded_by(Arc::new(move |events| {
            let mails = mails.clone();
            Box::pin(async move { mails.post_all(letters::confirmations(&events)?).await })
        }))
        .on(PASS_ENDED, free_slot)
}
