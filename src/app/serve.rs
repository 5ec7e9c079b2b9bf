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
    server::serve(listener, router::router(&state, &shutdown), &state.config.http, &shutdown).await;
    shutdown.wait().await;
    state.redis.close().await;
    tokio::select! {
        () = state.db.close() => {}
        () = shutdown.forced() => {}
    }
    tracing::info!("ended");
    Ok(())
}

/// Binds the configured address.
///
/// # Errors
/// Where the address is taken or not ours.
pub async fn bind(addr: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| format!("cannot listen on {addr}"))
}
