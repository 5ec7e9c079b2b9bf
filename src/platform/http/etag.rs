//! Ready bodies for public reads: bytes with an `ETag`, answered with 304 where the client has them.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use ring::digest;
use serde::Serialize;

use crate::platform::error::Problem;

/// A JSON body, encoded once. Cloning copies a reference.
#[derive(Clone, Debug)]
pub struct Cached {
    bytes: Bytes,
    etag: HeaderValue,
    cache_control: &'static str,
}

impl Cached {
    /// Encodes `value`; `cache_control` is sent with it.
    ///
    /// # Errors
    /// Where the value cannot be written as JSON.
    pub fn json<T: Serialize>(value: &T, cache_control: &'static str) -> Result<Self, Problem> {
        let bytes = Bytes::from(serde_json::to_vec(value).map_err(Problem::internal)?);
        let hash = digest::digest(&digest::SHA256, &bytes);
        let tag = format!("\"{}\"", hex::encode(&hash.as_ref()[..12]));
        let etag = HeaderValue::from_str(&tag).map_err(Problem::internal)?;
        Ok(Self { bytes, etag, cache_control })
    }

    /// The body's length in bytes, for caches that bound their memory.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.bytes.len()
    }

    /// 200 with the body, or 304 if the client's `If-None-Match` names it.
    #[must_use]
    pub fn answer(&self, headers: &HeaderMap) -> Response {
        let common = [
            (header::ETAG, self.etag.clone()),
            (header::CACHE_CONTROL, HeaderValue::from_static(self.cache_control)),
            (header::VARY, HeaderValue::from_static("accept-encoding")),
        ];
        if self.is_known_to(headers) {
            return (StatusCode::NOT_MODIFIED, common).into_response();
        }
        let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        (StatusCode::OK, common, kind, self.bytes.clone()).into_response()
    }

    /// Weak comparison (RFC 9110, 13.1.2): a compressing layer may have marked the tag weak.
    fn is_known_to(&self, headers: &HeaderMap) -> bool {
        let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let mine = self.etag.to_str().unwrap_or_default();
        known
            .flat_map(|list| list.split(','))
            .map(str::trim)
            .any(|tag| tag == "*" || tag.trim_start_matches("W/") == mine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_body_is_not_sent_again() {
        let body = Cached::json(&[1, 2, 3], "no-cache").unwrap();
        let first = body.answer(&HeaderMap::new());
        assert_eq!(first.status(), StatusCode::OK);
        let tag = first.headers()[header::ETAG].to_str().unwrap().to_owned();
        for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
            let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, known.parse().unwrap())]);
            assert_eq!(body.answer(&headers).status(), StatusCode::NOT_MODIFIED, "{known}");
        }
        let other = HeaderMap::from_iter([(header::IF_NONE_MATCH, "\"x\"".parse().unwrap())]);
        assert_eq!(body.answer(&other).status(), StatusCode::OK);
    }

    proptest::proptest! {
        #![proptest_config(crate::platform::properties::config())]

        #[test]
        fn nothing_but_the_tag_or_a_star_is_known(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let body = Cached::json(&[1, 2, 3], "no-cache").unwrap();
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let has_star = value.to_str().is_ok_and(|text| text.split(',').any(|tag| tag.trim() == "*"));
                let status = body.answer(&HeaderMap::from_iter([(header::IF_NONE_MATCH, value)])).status();
                proptest::prop_assert_eq!(status == StatusCode::NOT_MODIFIED, has_star);
            }
        }
    }
}
