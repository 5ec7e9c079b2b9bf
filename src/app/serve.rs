//! Runs one instance: a function of its state, its listener and its shutdown.

use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;

use super::state::State;
use super::{router, schedule};
use crate::platform::db;
use crate::platform::http::server;
use crate::platform::shutdown::Shutdown;

/// How long a starting instance waits for Redis before it goes on without.
const REDIS_WAIT: Duration = Duration::from_secs(3);

/// Brings the schema up to date if so configured, then serves until shutdown and drains.
///
/// # Errors
/// Where MySQL cannot be reached at the start.
pub async fn run(state: State, listener: TcpListener, shutdown: Shutdown) -> anyhow::Result<()> {
    if state.config.database.migrate_on_start {
        db::migrate(&state.config.database).await?;
    }
    state.db.align_clock().await.map_err(anyhow::Error::from).context("the database does not answer")?;
    if !state.redis.wait_for_connect(REDIS_WAIT).await {
        tracing::warn!("Redis does not answer; going on without it");
    }
    state.accounts.refresh_revocations().await?;
    schedule::start(&state, &shutdown).await?;
    let addr = listener.local_addr()?;
    tracing::info!(%addr, "serving");
    let limit = Duration::from_secs(state.config.http.drain_timeout_secs);
    let deadline = tokio::spawn(force_after(limit, shutdown.clone()));
    server::serve(listener, router::router(&state, &shutdown), &state.config.http, &shutdown).await;
    shutdown.wait().await;
    let closing = async {
        state.redis.close().await;
        state.db.close().await;
    };
    tokio::select! {
        () = closing => {}
        () = shutdown.forced() => {}
    }
    deadline.abort();
    tracing::info!("ended");
    Ok(())
}

/// Drops whatever is left, in the background too, when draining takes longer than `limit`.
async fn force_after(limit: Duration, shutdown: Shutdown) {
    shutdown.requested().await;
    tokio::time::sleep(limit).await;
    tracing::warn!("drain timeout: dropping what is left");
    shutdown.force();
}

/// Binds the configured address.
///
/// # Errors
/// Where the address is taken or not ours.
pub async fn bind(addr: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| format!("cannot listen on {addr}"))
}
