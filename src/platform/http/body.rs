//! Extractors whose refusals are problems: JSON bodies, ids in the path, query parameters.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Json, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::de::DeserializeOwned;

use crate::platform::error::{Problem, codes};

/// A JSON body of the documented shape.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
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
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => shape(&error.to_string()),
        _ => Problem::new(&codes::MALFORMED_JSON),
    })
}

/// 413 or a plain refusal for a body that could not be read.
#[must_use]
pub fn unreadable(status: u16) -> Problem {
    match status {
        413 => Problem::new(&codes::PAYLOAD_TOO_LARGE),
        _ => Problem::new(&codes::MALFORMED_JSON).detail("The body could not be read."),
    }
}

/// serde names the field in backquotes where it can.
fn shape(message: &str) -> Problem {
    let message = message.strip_prefix("Failed to deserialize the JSON body into the target type: ").unwrap_or(message);
    let field = message.split('`').nth(1).unwrap_or("body").to_owned();
    Problem::invalid_body(&field, message)
}

/// The one id in the path.
#[derive(Clone, Copy, Debug)]
pub struct Id<T>(pub T);

impl<T, S> FromRequestParts<S> for Id<T>
where
    T: FromStr,
    T::Err: Display,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::invalid_parameter("id", "not readable"))?;
        text.parse().map(Self).map_err(|error: T::Err| Problem::invalid_parameter("id", error.to_string()))
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
                let field = text.split([':', '`']).next().unwrap_or("query").trim();
                Err(Problem::invalid_parameter(if field.contains(' ') { "query" } else { field }, text))
            }
        }
    }
}
