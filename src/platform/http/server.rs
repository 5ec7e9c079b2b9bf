//! The accept loop: a server is a function of its listener, its router and its shutdown.
//!
//! A connection has a time limit for each request's head (and so for idling) and a place among
//! `connections_max`. Draining: whoever is in the listener's backlog is still accepted; then no new
//! connections; every answer from now on closes its connection; connections that stay idle are kept a
//! moment longer, because a request may be on its way; after the drain timeout the rest is cut off.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use futures::FutureExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tower::Service as _;

use crate::platform::config::HttpSettings;
use crate::platform::shutdown::Shutdown;
use crate::platform::telemetry::metrics;

/// Pause after the operating system refuses to accept (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Largest request head, in bytes.
const HEAD_BYTES_MAX: usize = 32 * 1024;
const HEADERS_MAX: usize = 64;

/// Serves until shutdown is requested, then drains.
pub async fn serve(listener: TcpListener, router: Router, settings: &HttpSettings, shutdown: &Shutdown) {
    let places = Arc::new(Semaphore::new(settings.connections_max));
    let connections = TaskTracker::new();
    let accept = |stream: TcpStream, peer, place| {
        let work = connection(stream, peer, router.clone(), settings.clone(), shutdown.clone(), place);
        connections.spawn(work);
    };
    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place,
            () = shutdown.requested() => break,
        };
        let Ok(place) = place else { break };
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => accept(stream, peer, place),
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            () = shutdown.requested() => break,
        }
    }
    while let (Ok(place), Some(Ok((stream, peer)))) =
        (places.clone().try_acquire_owned(), listener.accept().now_or_never())
    {
        accept(stream, peer, place);
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

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    settings: HttpSettings,
    shutdown: Shutdown,
    _place: OwnedSemaphorePermit,
) {
    let _open = Open::begin();
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut router = router.clone();
        async move {
            let mut request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            std::future::poll_fn(|context| {
                <Router as tower::Service<axum::extract::Request>>::poll_ready(&mut router, context)
            })
            .await?;
            router.call(request).await
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(settings.header_timeout_secs))
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .keep_alive(true);
    let serving = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let idle_end = async {
        shutdown.requested().await;
        tokio::time::sleep(Duration::from_millis(settings.drain_idle_ms)).await;
    };
    let outcome = tokio::select! {
        outcome = serving.as_mut() => outcome,
        () = shutdown.forced() => return,
        () = idle_end => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                outcome = serving.as_mut() => outcome,
                () = shutdown.forced() => return,
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "connection ended early");
    }
}

/// Counts a connection for as long as it is open.
struct Open;

impl Open {
    fn begin() -> Self {
        metrics::http_connections(1);
        Self
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        metrics::http_connections(-1);
    }
}
