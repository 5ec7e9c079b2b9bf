//! Bodies that come with an `Idempotency-Key`, and answers that are kept for a repeat.

use std::error::Error;

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::LengthLimitError;
use ring::digest;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::body::{parse, unreadable};
use crate::platform::error::{Problem, codes};

/// The status of what was created, for services that do not speak HTTP otherwise.
pub const CREATED: StatusCode = StatusCode::CREATED;
/// The status of what was changed, for the same.
pub const OK: StatusCode = StatusCode::OK;
/// The header's name.
pub const HEADER: &str = "idempotency-key";
const LEN_MAX: usize = 255;

/// What identifies a request that may be repeated.
#[derive(Clone, Debug)]
pub struct RequestKey {
    /// The client's key; none where it sent none.
    pub key: Option<String>,
    /// SHA-256 over method, path and body: what must be the same for a repeat.
    pub fingerprint: [u8; 32],
}

impl RequestKey {
    /// Refuses a request without a key.
    ///
    /// # Errors
    /// 400 `idempotency_key_missing`.
    pub fn required(self) -> Result<Self, Problem> {
        if self.key.is_none() {
            return Err(Problem::new(&codes::IDEMPOTENCY_KEY_MISSING));
        }
        Ok(self)
    }
}

/// A JSON body and the request's key.
#[derive(Debug)]
pub struct KeyedBody<T> {
    /// The key, as the client sent it.
    pub key: RequestKey,
    /// The parsed body.
    pub body: T,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for KeyedBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (key, headers, bytes) = RequestKey::read(request).await?;
        let body = parse(&headers, &bytes)?;
        Ok(Self { key, body })
    }
}

/// For requests whose address says everything: whatever body comes is part of what must be the same for a repeat.
impl<S: Send + Sync> FromRequest<S> for RequestKey {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        Ok(Self::read(request).await?.0)
    }
}

impl RequestKey {
    async fn read(request: Request) -> Result<(Self, HeaderMap, Bytes), Problem> {
        let (parts, body) = request.into_parts();
        let key = key_of(&parts.headers)?;
        // The layer in front bounds the body.
        let bytes = to_bytes(body, usize::MAX).await.map_err(|error| {
            // How deep the limit's own error lies depends on the layers in front.
            let mut causes = std::iter::successors(Error::source(&error), |&cause| cause.source());
            unreadable(if causes.any(<dyn Error>::is::<LengthLimitError>) { 413 } else { 400 })
        })?;
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [parts.method.as_str().as_bytes(), parts.uri.path().as_bytes(), &bytes] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(context.finish().as_ref());
        Ok((Self { key, fingerprint }, parts.headers, bytes))
    }
}

/// The key, quoted (as the IETF draft has it) or bare.
fn key_of(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let refuse = |message: &str| Problem::invalid_parameter("Idempotency-Key", message);
    let text = value.to_str().map_err(|_| refuse("visible ASCII only"))?.trim();
    let text = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    if text.is_empty() || text.len() > LEN_MAX {
        return Err(refuse("1 to 255 characters"));
    }
    Ok(Some(text.to_owned()))
}

/// A success that can be kept and sent again, byte for byte.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status, 2xx.
    pub status: u16,
    /// The JSON body.
    pub body: Bytes,
    /// Whether this is a repeat.
    pub replayed: bool,
}

impl Answer {
    /// Encodes `value`.
    ///
    /// # Errors
    /// Where the value cannot be written as JSON.
    pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Result<Self, Problem> {
        let body = Bytes::from(serde_json::to_vec(value).map_err(Problem::internal)?);
        Ok(Self { status: status.as_u16(), body, replayed: false })
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, self.body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.replayed {
            headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Result<Option<String>, Problem> {
        key_of(&HeaderMap::from_iter([(HEADER.parse().unwrap(), text.parse().unwrap())]))
    }

    #[test]
    fn keys_are_taken_quoted_or_bare() {
        assert_eq!(key("abc").unwrap().as_deref(), Some("abc"));
        assert_eq!(key("\"abc\"").unwrap().as_deref(), Some("abc"));
        assert!(key("\"\"").is_err());
        assert!(key(&"x".repeat(256)).is_err());
        assert!(key_of(&HeaderMap::new()).unwrap().is_none());
    }
}
