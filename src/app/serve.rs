//! Runs one instance: a function of its state, its listener and its shutdown.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use tokio::net::{TcpListener, TcpSocket, lookup_host};

use super::state::State;
use super::{router, schedule, schema};
use crate::platform::http::{files, server};
use crate::platform::shutdown::Shutdown;

/// How long a starting instance waits for Redis before it goes on without.
const REDIS_WAIT: Duration = Duration::from_secs(3);

/// Connections that may wait to be accepted: a sale opens for everybody at once. The system's own limit
/// (`net.core.somaxconn`) is the same by default.
const BACKLOG: u32 = 4096;

/// Brings the schema up to date if so configured, then serves until shutdown and drains.
///
/// # Errors
/// Where MySQL cannot be reached at the start, or too few file descriptors are allowed.
pub async fn run(state: State, listener: TcpListener, shutdown: Shutdown) -> anyhow::Result<()> {
    Box::pin(run_with(state, listener, shutdown, Router::new())).await
}

/// The same with `others` beside the server's own routes, behind the same accept loop and layers.
///
/// # Errors
/// As [`run`].
pub async fn run_with(state: State, listener: TcpListener, shutdown: Shutdown, others: Router) -> anyhow::Result<()> {
    let mut http = state.config.http.clone();
    // One more is for news of changes.
    let pools = state.config.redis.pool_size.saturating_add(state.config.database.pool_size as usize + 1);
    http.connections_max = files::allow(http.connections_max, pools)?;
    if state.config.database.migrate_on_start {
        schema::prepare(&state.config.database).await?;
    }
    state.db.align_clock().await.map_err(anyhow::Error::from).context("the database does not answer")?;
    schema::check_rights(&state.db).await?;
    if !state.redis.wait_for_connect(REDIS_WAIT).await {
        tracing::warn!("Redis does not answer; going on without it");
    }
    state.accounts.refresh_revocations().await?;
    schedule::start(&state, &shutdown).await?;
    let addr = listener.local_addr()?;
    tracing::info!(%addr, "serving");
    let limit = Duration::from_secs(state.config.http.drain_timeout_secs);
    let deadline = tokio::spawn(force_after(limit, shutdown.clone()));
    server::serve(listener, router::router_with(&state, &shutdown, others), &http, &shutdown).await;
    shutdown.wait().await;
    let closing = async {
        if let Err(problem) = state.queue.copy_places().await {
            tracing::warn!(%problem, "the last places were not copied: their tickets alone prove them");
        }
        if let Err(problem) = state.instances.leave().await {
            tracing::debug!(%problem, "this instance stays on the list for a moment");
        }
        state.redis.close().await;
        state.caches.close().await;
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
    let listen = async {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in lookup_host(addr).await? {
            match listen_on(address) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    listen.await.with_context(|| format!("cannot listen on {addr}"))
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
