//! The accept loop: a server is a function of its listener, its router and its shutdown.
//!
//! A connection has a place among `connections_max`. Where there is none, or no file descriptor, those connections
//! are dismissed that have waited longest for their client (`link.rs`); where every one is at work, further ones wait.
//! A connection that holds no request is closed after `header_timeout_secs` in any case.
//!
//! Draining: whoever is in the listener's backlog is still accepted; then no new
//! connections; every answer from now on closes its connection; connections that stay idle are kept a
//! moment longer, because a request may be on its way; after the drain timeout the rest is cut off.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::FutureExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use super::connection::Serving;
use super::link::Open;
use crate::platform::config::HttpSettings;
use crate::platform::shutdown::Shutdown;

/// Pause after the operating system refuses to accept (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long dismissed connections have to go before more are dismissed.
const PLACE_PAUSE: Duration = Duration::from_millis(50);
/// One of so many is dismissed at a time, so that looking for them costs little under a flood.
const DISMISSED_SHARE: usize = 100;

/// Serves until shutdown is requested, then drains.
pub async fn serve(listener: TcpListener, router: Router, settings: &HttpSettings, shutdown: &Shutdown) {
    let serving = Arc::new(Serving::new(router, settings, shutdown.clone()));
    let places = Places::new(settings.connections_max);
    let connections = TaskTracker::new();
    let begin = |stream: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit| {
        let (serving, entry) = (serving.clone(), places.open.enter());
        connections.spawn(async move {
            serving.serve(stream, peer, entry).await;
            drop(place);
        });
    };
    let accepting = async {
        let mut is_refused = false;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    is_refused = false;
                    begin(stream, peer, places.take().await);
                }
                Err(error) if is_of_one(&error) => tracing::debug!(%error, "a client left before it was accepted"),
                Err(error) => {
                    if !is_refused {
                        tracing::warn!(%error, "accept failed");
                    }
                    is_refused = true;
                    places.dismiss();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = shutdown.requested() => {}
    }
    while let (Ok(place), Some(Ok((stream, peer)))) =
        (places.free.clone().try_acquire_owned(), listener.accept().now_or_never())
    {
        begin(stream, peer, place);
    }
    drop(listener);
    connections.close();
    let limit = Duration::from_secs(settings.drain_timeout_secs);
    tokio::select! {
        () = connections.wait() => {}
        () = shutdown.forced() => {}
        () = tokio::time::sleep(limit) => {
            tracing::warn!(left = connections.len(), "drain timeout: cutting off the rest");
            shutdown.force();
        }
    }
}

/// Whether the error is about one client, and accepting goes on.
fn is_of_one(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// The places for connections, and who has one.
struct Places {
    free: Arc<Semaphore>,
    open: Arc<Open>,
    dismissed_at_once: usize,
}

impl Places {
    fn new(count: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(count)),
            open: Arc::default(),
            dismissed_at_once: (count / DISMISSED_SHARE).max(1),
        }
    }

    fn dismiss(&self) {
        let count = self.open.dismiss(self.dismissed_at_once);
        if count > 0 {
            tracing::debug!(count, "dismissed those who waited longest");
        }
    }

    /// A place; somebody else's where none is free.
    async fn take(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(place) = self.free.clone().try_acquire_owned() {
                return place;
            }
            self.dismiss();
            if let Ok(Ok(place)) = tokio::time::timeout(PLACE_PAUSE, self.free.clone().acquire_owned()).await {
                return place;
            }
        }
    }
}
