//! One connection, from its acceptance to its end.
//!
//! Every request that is refused is told why by a problem, also where it cannot be read as a request at all or takes
//! too long (`io.rs` tells how). Two things stay as hyper has them. A request with both `Transfer-Encoding` and
//! `Content-Length` is read by the first alone, as RFC 9112 (6.1) has it, and its connection is closed after the
//! answer, so that nothing behind it is ever taken for a request. A client that closes its sending side before it is
//! answered has gone: its request is dropped.
//!
//! What a client still sends after the last answer is read and dropped for a moment; closing on unread input would
//! reset the connection, and the answer could be lost.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tower::ServiceExt as _;

use super::intake::Intake;
use super::io::{Facts, Watched};
use super::link::{Entry, Link};
use super::request_id;
use crate::platform::clock::Clock;
use crate::platform::config::HttpSettings;
use crate::platform::error::{Code, Problem, codes};
use crate::platform::shutdown::Shutdown;
use crate::platform::telemetry::metrics;

/// Largest request head, in bytes.
const HEAD_BYTES_MAX: usize = 32 * 1024;
const HEADERS_MAX: usize = 64;
/// What answers without end are made of.
const EVENT_STREAM: &str = "text/event-stream";
/// How long a client's further bytes are read and dropped after the last answer.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BUFFER_BYTES: usize = 8 * 1024;

/// What every connection of one server needs.
#[derive(Debug)]
pub(super) struct Serving {
    router: Router,
    intake: Intake,
    http: http1::Builder,
    write_timeout: Duration,
    drain_idle: Duration,
    shutdown: Shutdown,
}

impl Serving {
    pub(super) fn new(router: Router, settings: &HttpSettings, shutdown: Shutdown) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(settings.header_timeout_secs))
            .max_buf_size(HEAD_BYTES_MAX)
            // The buffer alone would let some larger heads pass: it bounds what is read before, not with, the last part.
            .max_header_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .keep_alive(true);
        Self {
            router,
            intake: Intake::new(settings),
            http,
            write_timeout: Duration::from_secs(settings.write_timeout_secs),
            drain_idle: Duration::from_millis(settings.drain_idle_ms),
            shutdown,
        }
    }

    /// Serves one connection to its end.
    pub(super) async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, entry: Entry) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was refused");
        }
        let link = entry.link.clone();
        let watched = Watched::new(stream, link.clone(), self.write_timeout);
        let service = hyper::service::service_fn(|request| self.clone().answer(request, peer, link.clone()));
        let mut serving = self.http.serve_connection(TokioIo::new(watched), service);
        let mut is_draining = false;
        let idle_end = async {
            self.shutdown.requested().await;
            tokio::time::sleep(self.drain_idle).await;
        };
        tokio::pin!(idle_end);
        let outcome = loop {
            tokio::select! {
                // First what has arrived: it may revoke a dismissal.
                biased;
                outcome = &mut serving => break outcome,
                () = self.shutdown.forced() => return,
                () = link.dismissed() => {
                    tracing::debug!(%peer, "dismissed for want of a place");
                    return;
                }
                () = &mut idle_end, if !is_draining => {
                    is_draining = true;
                    Pin::new(&mut serving).graceful_shutdown();
                }
            }
        };
        let parts = serving.into_parts();
        let (stream, facts) = parts.io.into_inner().into_parts();
        let refusal = outcome.as_ref().err().and_then(|error| {
            tracing::debug!(%error, "connection ended early");
            refusal_of(error, facts, link.is_quiet(), !parts.read_buf.is_empty())
        });
        link.answered();
        tokio::select! {
            () = finish(stream, facts, refusal, outcome.is_ok()) => {}
            () = self.shutdown.forced() => {}
            () = link.dismissed() => {}
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: hyper::Request<Incoming>,
        peer: SocketAddr,
        link: Arc<Link>,
    ) -> Result<Response<Answer>, Infallible> {
        link.receives();
        let is_readable = self.intake.accepts(request.body());
        let mut response = match self.intake.complete(request).await {
            Ok(mut request) => {
                link.works();
                request.extensions_mut().insert(ConnectInfo(peer));
                self.router.clone().oneshot(request).await?
            }
            Err(refused) => {
                link.works();
                refused
            }
        };
        if !is_readable {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == EVENT_STREAM) {
            link.listens();
        }
        Ok(response.map(|body| Answer { body, link }))
    }
}

/// An answer's body. It ends when the last of it is ready to be written.
struct Answer {
    body: Body,
    link: Arc<Link>,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.link.answered();
    }
}

/// What to tell a client whose request could not be read; nothing where it sent none or an answer is not written yet.
fn refusal_of(error: &hyper::Error, facts: Facts, is_quiet: bool, has_begun: bool) -> Option<&'static Code> {
    match facts.refused {
        Some(431 | 414) => Some(&codes::HEAD_TOO_LARGE),
        Some(_) => Some(&codes::MALFORMED_REQUEST),
        None if !is_quiet => None,
        None if error.is_timeout() => has_begun.then_some(&codes::REQUEST_TIMEOUT),
        None if error.is_parse() => Some(&codes::MALFORMED_REQUEST),
        None if error.is_incomplete_message() => has_begun.then_some(&codes::MALFORMED_REQUEST),
        None => None,
    }
}

/// Ends a connection: by a last word where one is due, and in such a way that it arrives.
async fn finish(mut stream: TcpStream, facts: Facts, refusal: Option<&'static Code>, is_well: bool) {
    if facts.is_stuck {
        // What lies in the kernel's buffers for a client that does not read is not kept.
        if let Err(error) = stream.set_zero_linger() {
            tracing::debug!(%error, "SO_LINGER was refused");
        }
        return;
    }
    if refusal.is_none() && !is_well {
        return;
    }
    let last = async {
        if let Some(code) = refusal {
            metrics::http_refusal(code.status);
            stream.write_all(&told(code)).await?;
            stream.shutdown().await?;
        }
        let mut dropped = vec![0; if facts.is_ended { 0 } else { LINGER_BUFFER_BYTES }];
        while stream.read(&mut dropped).await? > 0 {}
        std::io::Result::Ok(())
    };
    // Failing or not, that is the end of it.
    drop(tokio::time::timeout(LINGER, last).await);
}

/// A problem as a whole answer.
fn told(code: &'static Code) -> Vec<u8> {
    let id = uuid::Uuid::now_v7().to_string();
    let body = Problem::new(code).body(&id).to_string();
    let head = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n{}: {id}\r\n\
         connection: close\r\ncontent-length: {}\r\ndate: {}\r\n\r\n",
        code.status,
        code.title,
        request_id::HEADER,
        body.len(),
        Clock::default().now().http_date(),
    );
    [head.into_bytes(), body.into_bytes()].concat()
}
