//! The sandbox's accept loop: a plain one, but for connections that end without an answer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::platform::shutdown::Shutdown;

/// Connections at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 4096;
/// How long an idle connection is kept; also the longest time for a request's head.
const IDLE: Duration = Duration::from_mins(1);
/// Pause after the operating system refuses to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// After shutdown was requested: how long answers may take.
const DRAIN: Duration = Duration::from_secs(3);

/// Marks an answer in whose place the connection is closed.
#[derive(Clone, Copy)]
struct Dropped;

/// The answer that is none.
pub(super) fn dropped() -> Response {
    let mut response = ().into_response();
    response.extensions_mut().insert(Dropped);
    response
}

/// Serves until shutdown is requested; what is under way then has a moment.
pub(super) async fn serve(listener: TcpListener, router: Router, shutdown: &Shutdown) {
    let connections = TaskTracker::new();
    tokio::select! {
        () = accept(&listener, router, shutdown, &connections) => {}
        () = shutdown.requested() => {}
    }
    drop(listener);
    connections.close();
    tokio::select! {
        () = connections.wait() => {}
        () = tokio::time::sleep(DRAIN) => shutdown.force(),
        () = shutdown.forced() => {}
    }
}

async fn accept(listener: &TcpListener, router: Router, shutdown: &Shutdown, connections: &TaskTracker) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (router, shutdown) = (router.clone(), shutdown.clone());
                connections.spawn(async move {
                    connection(stream, router, &shutdown).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router, shutdown: &Shutdown) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
    let service = hyper::service::service_fn(|request| answer(router.clone(), request));
    let mut http = http1::Builder::new();
    let serving = http.timer(TokioTimer::new()).header_read_timeout(IDLE);
    let serving = serving.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let mut is_draining = false;
    loop {
        tokio::select! {
            outcome = &mut serving => {
                if let Err(error) = outcome {
                    tracing::debug!(%error, "a connection ended early");
                }
                return;
            }
            () = shutdown.requested(), if !is_draining => {
                is_draining = true;
                serving.as_mut().graceful_shutdown();
            }
            () = shutdown.forced() => return,
        }
    }
}

async fn answer(router: Router, request: hyper::Request<Incoming>) -> io::Result<Response> {
    let Ok(response) = router.oneshot(request.map(Body::new)).await;
    if response.extensions().get::<Dropped>().is_some() {
        // hyper closes the connection where a service fails, and writes nothing.
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    Ok(response)
}
