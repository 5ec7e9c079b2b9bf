//! Extractors whose refusals are problems: JSON bodies, ids in the path, query parameters.

use std::convert::Infallible;
use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::str::FromStr;

use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Json, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::de::{self, DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer};

use crate::platform::error::{Problem, codes};
use crate::platform::json::Object;

/// A JSON body of the documented shape.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Json::<Object<T>>::from_request(request, state).await {
            Ok(Json(Object(value))) => Ok(Self(value)),
            Err(JsonRejection::JsonDataError(error)) => Err(shape(&error.body_text())),
            Err(JsonRejection::JsonSyntaxError(_)) => Err(Problem::new(&codes::MALFORMED_JSON)),
            Err(JsonRejection::MissingJsonContentType(_)) => Err(Problem::new(&codes::UNSUPPORTED_MEDIA_TYPE)),
            Err(rejection) => Err(unreadable(rejection.status().as_u16())),
        }
    }
}

/// Parses a body that was read already, with the same refusals as [`Body`].
///
/// # Errors
/// 415, 400 `malformed_json` or 422 `invalid_body`.
pub fn parse<T: DeserializeOwned>(headers: &HeaderMap, bytes: &[u8]) -> Result<T, Problem> {
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence != "application/json" && !(essence.starts_with("application/") && essence.ends_with("+json")) {
        return Err(Problem::new(&codes::UNSUPPORTED_MEDIA_TYPE));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let malformed = || Problem::new(&codes::MALFORMED_JSON);
    let Object(parsed) = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| if error.inner().is_data() { shape(&error.to_string()) } else { malformed() })?;
    deserializer.end().map_err(|_| malformed())?;
    Ok(parsed)
}

/// 413 or a plain refusal for a body that could not be read.
#[must_use]
pub fn unreadable(status: u16) -> Problem {
    match status {
        413 => Problem::new(&codes::PAYLOAD_TOO_LARGE),
        _ => Problem::new(&codes::MALFORMED_JSON).detail("The body could not be read."),
    }
}

/// The message begins with the field's path, unless the body as a whole is meant; a missing field is named in
/// backquotes. Anything else in backquotes may be a value, which is not a name.
fn shape(message: &str) -> Problem {
    let message = message.strip_prefix("Failed to deserialize the JSON body into the target type: ").unwrap_or(message);
    let (path, message) = match message.split_once(": ") {
        Some((path, rest)) if !path.contains([' ', '`']) => (path, rest),
        _ => ("", message),
    };
    let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    let field = match (path, missing) {
        ("", None) => "body".to_owned(),
        ("", Some(name)) => name.to_owned(),
        (path, None) => path.to_owned(),
        (path, Some(name)) => format!("{path}.{name}"),
    };
    Problem::invalid_body(&field, message)
}

/// The one id in the path.
#[derive(Clone, Copy, Debug)]
pub struct Id<T>(pub T);

/// What a text says, read where it stands: a path's parameter needs no copy of its own.
struct Parsed<T: FromStr>(Result<T, T::Err>);

impl<'de, T: FromStr> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reads<T>(PhantomData<T>);

        impl<T: FromStr> Visitor<'_> for Reads<T> {
            type Value = Parsed<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Parsed(text.parse()))
            }
        }

        deserializer.deserialize_str(Reads(PhantomData))
    }
}

impl<T, S> FromRequestParts<S> for Id<T>
where
    T: FromStr + Send,
    T::Err: Display + Send,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(Parsed(id)) = Path::<Parsed<T>>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::invalid_parameter("id", "not readable"))?;
        id.map(Self).map_err(|error: T::Err| Problem::invalid_parameter("id", error.to_string()))
    }
}

/// The request's headers, taken instead of copied: for a handler's last argument, as nobody finds them afterwards.
#[derive(Debug)]
pub struct Headers(pub HeaderMap);

impl<S: Send + Sync> FromRequestParts<S> for Headers {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(std::mem::take(&mut parts.headers)))
    }
}

/// Query parameters of the documented shape.
#[derive(Debug)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let text = rejection.body_text();
                let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
                let double = text.strip_prefix("duplicate field `").and_then(|rest| rest.strip_suffix('`'));
                let field = double.unwrap_or_else(|| text.split([':', '`']).next().unwrap_or_default().trim());
                Err(Problem::invalid_parameter(if field.contains(' ') { "query" } else { field }, text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body as Bytes;
    use axum::http::HeaderValue;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        #[expect(dead_code, reason = "only its shape matters")]
        items: Vec<Item>,
    }
    #[derive(Debug, Deserialize)]
    struct Item {
        #[expect(dead_code, reason = "only its shape matters")]
        quantity: u32,
    }

    /// What [`Body`] and [`parse`] refuse `text` with, which is the same: code and field.
    async fn refusal(text: &'static str) -> (&'static str, String) {
        let request = Request::post("/").header(header::CONTENT_TYPE, "application/json");
        let request = request.body(Bytes::from(text)).unwrap();
        let extracted = Body::<Order>::from_request(request, &()).await.unwrap_err();
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let parsed = parse::<Order>(&headers, text.as_bytes()).unwrap_err();
        assert_eq!(extracted.body("-"), parsed.body("-"), "{text}");
        (parsed.code().code, parsed.body("-")["errors"][0]["field"].as_str().unwrap_or_default().to_owned())
    }

    #[tokio::test]
    async fn a_refusal_names_the_field_and_never_the_value() {
        for (text, field) in [
            (r#"{"items": 5}"#, "items"),
            (r#"{"items": [{"quantity": "two: `x`"}]}"#, "items[0].quantity"),
            (r#"{"items": [{"quantity": 1.5}]}"#, "items[0].quantity"),
            (r#"{"items": [{"quantity": 1}, {}]}"#, "items[1].quantity"),
            (r#"{"items": [], "more": 1}"#, "more"),
            ("{}", "items"),
            ("5", "body"),
            ("[[]]", "body"),
        ] {
            assert_eq!(refusal(text).await, ("invalid_body", field.to_owned()), "{text}");
        }
        for text in ["", "{", r#"{"items": []} x"#] {
            assert_eq!(refusal(text).await.0, "malformed_json", "{text}");
        }
    }
}
