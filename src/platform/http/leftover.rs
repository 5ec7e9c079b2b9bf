//! What is left of a request's body when its answer is a refusal.
//!
//! Who is still writing when the server closes the connection loses the answer that is on its way: the close arrives as
//! a reset. So what a refused request still sends is read and thrown away first, within bounds.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header;
use bytes::Bytes;
use http_body_util::BodyExt as _;

/// Longest pause of a client that is worth waiting for.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Longest time altogether.
const TIME_MAX: Duration = Duration::from_secs(2);
/// Most bytes that are thrown away.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// A body that the handler reads and the edge can read on.
#[derive(Clone)]
struct Shared(Arc<Mutex<Body>>);

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        let mut body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

/// The rest of a body.
pub struct Leftover(Option<Shared>);

impl std::fmt::Debug for Leftover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leftover").field("is_shared", &self.0.is_some()).finish()
    }
}

impl Leftover {
    /// The request as its handler gets it, and what the edge keeps of it.
    #[must_use]
    pub fn keep(request: Request) -> (Request, Self) {
        // Who waits for a `100 Continue` sends nothing before it.
        if request.body().is_end_stream() || request.headers().contains_key(header::EXPECT) {
            return (request, Self(None));
        }
        let (parts, body) = request.into_parts();
        let shared = Shared(Arc::new(Mutex::new(body)));
        (Request::from_parts(parts, Body::new(shared.clone())), Self(Some(shared)))
    }

    /// Reads the rest and throws it away, until its end or a bound.
    pub async fn discard(self) {
        let Some(mut shared) = self.0 else { return };
        let mut left = BYTES_MAX;
        let reading = async {
            while let Ok(Some(Ok(frame))) = tokio::time::timeout(PAUSE_MAX, shared.frame()).await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    break;
                }
            }
        };
        if tokio::time::timeout(TIME_MAX, reading).await.is_err() {
            tracing::debug!("a refused body did not end in time");
        }
    }
}
