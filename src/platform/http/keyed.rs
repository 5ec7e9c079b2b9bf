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
/// The status of what is not decided yet, for the same.
pub const ACCEPTED: StatusCode = StatusCode::ACCEPTED;
/// The status of what was changed, for the same.
pub const OK: StatusCode = StatusCode::OK;
/// The header's name.
pub const HEADER: &str = "idempotency-key";
const LEN_MAX: usize = 255;
/// What [`HEADER`] may hold, for the API document: a string of RFC 9651, or the same without quotes.
pub const KEY_PATTERN: &str = r#"^("([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-~]([ !#-~]{0,253}[!#-~])?)$"#;

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
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let refuse = |message: &str| Problem::invalid_parameter("Idempotency-Key", message);
    if values.next().is_some() {
        return Err(refuse("one key"));
    }
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| refuse("ASCII only"))?.trim_matches([' ', '\t']);
    if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(refuse("visible ASCII only"));
    }
    let key = match text.strip_prefix('"') {
        Some(rest) => unquoted(rest).ok_or_else(|| refuse("the quotes do not fit together"))?,
        None if text.contains('"') => return Err(refuse("a key without quotes has none inside")),
        None => text.to_owned(),
    };
    if key.is_empty() || key.len() > LEN_MAX {
        return Err(refuse("1 to 255 characters"));
    }
    Ok(Some(key))
}

/// The rest of a string whose opening quote was read (RFC 9651, 4.2.5): it ends with the closing one, and a backslash
/// stands before a quote or another backslash only.
fn unquoted(rest: &str) -> Option<String> {
    let mut key = String::with_capacity(rest.len());
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return chars.next().is_none().then_some(key),
            '\\' => key.push(chars.next().filter(|escaped| matches!(escaped, '"' | '\\'))?),
            other => key.push(other),
        }
    }
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

    /// The same outcome once more.
    ///
    /// # Errors
    /// What the outcome was refused with.
    pub fn again(outcome: &Result<Self, Problem>) -> Result<Self, Problem> {
        match outcome {
            Ok(answer) => Ok(answer.clone()),
            Err(problem) => Err(problem.again()),
        }
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
        assert_eq!(key(&format!("\"{}\"", "x".repeat(255))).unwrap(), Some("x".repeat(255)));
        assert_eq!(key(r#""a \" \\ b""#).unwrap().as_deref(), Some(r#"a " \ b"#));
        assert_eq!(key(" a b ").unwrap().as_deref(), Some("a b"));
        for bad in ["\"", "\"abc", "abc\"", "a\"b", "\"a\"b\"", r#""a\b""#, r#""a\""#, "a\tb", "é", " "] {
            assert!(key(bad).is_err(), "{bad:?}");
        }
        let mut twice = HeaderMap::new();
        twice.append(HEADER, HeaderValue::from_static("a"));
        twice.append(HEADER, HeaderValue::from_static("a"));
        assert!(key_of(&twice).is_err());
        assert!(key_of(&HeaderMap::new()).unwrap().is_none());
    }

    proptest::proptest! {
        #![proptest_config(crate::platform::properties::config())]

        #[test]
        fn whatever_is_taken_is_short_and_visible(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes)
                && let Ok(Some(key)) = key_of(&HeaderMap::from_iter([(HEADER.parse().unwrap(), value)]))
            {
                proptest::prop_assert!((1..=LEN_MAX).contains(&key.len()));
                proptest::prop_assert!(key.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            }
        }

        #[test]
        fn a_quoted_key_is_the_key(text in proptest::collection::vec(32_u8..127, 1..256)) {
            let text = String::from_utf8(text).unwrap();
            let quoted = format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""));
            proptest::prop_assert_eq!(key(&quoted).unwrap(), Some(text));
        }
    }
}
