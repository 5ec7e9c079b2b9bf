//! Requests are complete before anything works on them.
//!
//! A body is read here, within its time limit, before the request takes a place among `requests_max`: whoever sends
//! slowly costs a connection and a small buffer, and nobody else's place. Bodies that are larger than any buyer's are
//! few at once, which bounds the memory.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::request_id;
use crate::platform::config::HttpSettings;
use crate::platform::error::{Problem, codes};
use crate::platform::telemetry::metrics;

/// Larger bodies need a place.
const SMALL_BYTES: usize = 16 * 1024;

/// The limits on bodies.
#[derive(Clone, Debug)]
pub(super) struct Intake {
    time_limit: Duration,
    bytes_max: usize,
    places: Arc<Semaphore>,
}

/// A large body's place, kept as long as its request.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "only its end matters")]
struct Place(Arc<OwnedSemaphorePermit>);

impl Intake {
    pub(super) fn new(settings: &HttpSettings) -> Self {
        Self {
            time_limit: Duration::from_secs(settings.body_timeout_secs),
            bytes_max: settings.body_bytes_max,
            places: Arc::new(Semaphore::new(settings.large_bodies_max)),
        }
    }

    /// Whether a body's declared length is within the limit.
    pub(super) fn accepts(&self, body: &Incoming) -> bool {
        declared(body) <= self.bytes_max
    }

    /// Waits for the request's body. A refusal is the answer.
    pub(super) async fn complete(&self, request: hyper::Request<Incoming>) -> Result<Request, Response> {
        let (mut parts, body) = request.into_parts();
        if !self.accepts(&body) {
            // Refused by its length further inside, unread.
            return Ok(Request::from_parts(parts, Body::new(body)));
        }
        if body.is_end_stream() {
            return Ok(Request::from_parts(parts, Body::empty()));
        }
        let read = tokio::time::timeout(self.time_limit, self.read(body)).await;
        match read.unwrap_or_else(|_| Err(Problem::new(&codes::REQUEST_TIMEOUT))) {
            Ok((bytes, place)) => {
                if let Some(place) = place {
                    parts.extensions.insert(Place(Arc::new(place)));
                }
                Ok(Request::from_parts(parts, Body::from(bytes)))
            }
            Err(problem) => Err(refuse(&parts.headers, problem).await),
        }
    }

    async fn read(&self, mut body: Incoming) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Problem> {
        // Neither memory nor a place is given for what was only announced.
        let (mut bytes, mut place) = (BytesMut::new(), None);
        loop {
            if place.is_none() && bytes.len() > SMALL_BYTES {
                let free = self.places.clone().try_acquire_owned();
                place = Some(free.map_err(|_| Problem::new(&codes::OVERLOADED))?);
            }
            match body.frame().await {
                None => return Ok((bytes.freeze(), place)),
                Some(Ok(frame)) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Some(Err(_)) => {
                    return Err(Problem::new(&codes::MALFORMED_REQUEST).detail("The body is not framed right."));
                }
            }
            if bytes.len() > self.bytes_max {
                return Err(Problem::new(&codes::PAYLOAD_TOO_LARGE));
            }
        }
    }
}

fn declared(body: &Incoming) -> usize {
    usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX)
}

/// The rest of the body is not read, so the connection ends.
async fn refuse(headers: &HeaderMap, problem: Problem) -> Response {
    let id = request_id::choose(headers);
    metrics::http_refusal(problem.code().status);
    let mut response = request_id::scope(id.clone(), async { problem.into_response() }).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(request_id::HEADER, value);
    }
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
