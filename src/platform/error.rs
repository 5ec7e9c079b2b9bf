//! One error for every failure that a client can see: an RFC 9457 problem with a stable code.
//!
//! Features declare their codes as [`Code`] constants and make problems from them; anything unexpected
//! becomes `internal`, whose cause is logged under the request id and never shown.

use std::fmt;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};

use super::http::request_id;

/// A kind of problem: what `/problems/{code}` explains.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// Stable, `snake_case`.
    pub code: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// A short title, the same each time.
    pub title: &'static str,
    /// What it means and what to do about it.
    pub about: &'static str,
}

/// Declares [`Code`] constants and a list of them, `CODES`.
#[macro_export]
macro_rules! problem_codes {
    ($($name:ident = $status:literal $code:literal $title:literal $about:literal;)+) => {
        $(
            #[doc = concat!("`", $code, "`: ", $title, ".")]
            pub const $name: $crate::platform::error::Code =
                $crate::platform::error::Code { code: $code, status: $status, title: $title, about: $about };
        )+
        /// Every code declared here, for the pages that explain them.
        pub const CODES: &[&$crate::platform::error::Code] = &[$(&$name),+];
    };
}

/// The codes that any endpoint may answer.
pub mod codes {
    problem_codes! {
        MALFORMED_REQUEST = 400 "malformed_request" "Malformed request" "This is not an HTTP/1.1 request, or its body is not framed as its head says. The connection is closed.";
        MALFORMED_JSON = 400 "malformed_json" "Malformed JSON" "The body is not JSON.";
        IDEMPOTENCY_KEY_MISSING = 400 "idempotency_key_missing" "Idempotency-Key missing" "This request moves money or goods: send an Idempotency-Key of your own, and the same one when you repeat it.";
        UNAUTHENTICATED = 401 "unauthenticated" "Not signed in" "The access token is missing, expired, revoked or not ours. Sign in again.";
        FORBIDDEN = 403 "forbidden" "Not allowed" "You are signed in, but this needs another role.";
        NOT_FOUND = 404 "not_found" "Not found" "There is no such thing, or it is not yours.";
        METHOD_NOT_ALLOWED = 405 "method_not_allowed" "Method not allowed" "The address exists, but not with this method.";
        REQUEST_TIMEOUT = 408 "request_timeout" "Request timeout" "The request was not complete in time, so nothing was done. The connection is closed; send it again.";
        IDEMPOTENCY_KEY_IN_FLIGHT = 409 "idempotency_key_in_flight" "Still running" "A request with this Idempotency-Key is running. Repeat it after Retry-After seconds.";
        PAYLOAD_TOO_LARGE = 413 "payload_too_large" "Body too large" "The body is over the size limit.";
        UNSUPPORTED_MEDIA_TYPE = 415 "unsupported_media_type" "Unsupported media type" "Send application/json.";
        INVALID_BODY = 422 "invalid_body" "Invalid body" "The JSON does not have the documented shape; errors names the fields.";
        INVALID_PARAMETER = 422 "invalid_parameter" "Invalid parameter" "A part of the address, a query parameter or a header is not valid; errors names it.";
        IDEMPOTENCY_KEY_REUSED = 422 "idempotency_key_reused" "Idempotency-Key reused" "This key was used for another request. Use a new one.";
        RATE_LIMITED = 429 "rate_limited" "Too many requests" "You are too fast. Repeat after Retry-After seconds.";
        HEAD_TOO_LARGE = 431 "head_too_large" "Request head too large" "The address or the headers are too long, or there are too many headers. The connection is closed.";
        INTERNAL = 500 "internal" "Internal error" "Something unexpected went wrong here. Nothing took effect unless a repeat with the same Idempotency-Key says otherwise.";
        OVERLOADED = 503 "overloaded" "Overloaded" "The server is at its limit. Repeat after Retry-After seconds.";
        READ_ONLY = 503 "read_only" "Read only" "The database cannot be reached; nothing can be changed right now. Repeat after Retry-After seconds.";
        UNAVAILABLE = 503 "unavailable" "Unavailable" "A part that this request needs cannot be reached. Repeat after Retry-After seconds.";
        TIMED_OUT = 503 "timed_out" "Timed out" "The request took too long. It may have taken effect: repeat it with the same Idempotency-Key.";
    }
}

/// What a database or Redis failure was, as far as callers care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Chosen as a deadlock's victim (1213).
    Deadlock,
    /// A lock was not to be had in time (1205, 3572).
    LockWait,
    /// The row changed since the snapshot (1020, MariaDB).
    SnapshotChanged,
    /// A unique key refused the row (1062).
    Duplicate,
    /// A CHECK constraint refused the row (3819, 4025).
    CheckViolated,
    /// The server could not be reached, or the connection broke.
    Disconnected,
    /// The server takes no writes (1290, 1792, 1836).
    ReadOnly,
    /// The server ended the statement because it took too long (3024, MySQL; 1969, MariaDB).
    Overdue,
    /// No connection became free in time, or too many were waiting.
    Exhausted,
}

impl Fault {
    /// Whether running the whole unit again can help.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Deadlock | Self::LockWait | Self::SnapshotChanged)
    }
}

/// What `RateLimit` and `RateLimit-Policy` say.
#[derive(Clone, Copy)]
struct Limit {
    name: &'static str,
    quota: usize,
    window_secs: Option<u32>,
}

struct Inner {
    code: &'static Code,
    detail: Option<String>,
    members: Map<String, Value>,
    retry_after_secs: Option<u32>,
    limit: Option<Limit>,
    fault: Option<Fault>,
    is_unanswered: bool,
    source: Option<anyhow::Error>,
}

/// A failure on its way to a client.
pub struct Problem(Box<Inner>);

/// One field's complaint, as in `errors`.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct FieldError {
    /// The field's path.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl Problem {
    /// A problem of this code, with the code's own explanation.
    #[must_use]
    pub fn new(code: &'static Code) -> Self {
        let inner = Inner {
            code,
            detail: None,
            members: Map::new(),
            retry_after_secs: None,
            limit: None,
            fault: None,
            is_unanswered: false,
            source: None,
        };
        Self(Box::new(inner))
    }

    /// `internal`, with a cause for the log.
    #[must_use]
    pub fn internal(cause: impl Into<anyhow::Error>) -> Self {
        let mut problem = Self::new(&codes::INTERNAL);
        problem.0.source = Some(cause.into());
        problem
    }

    /// 404, as if absent.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(&codes::NOT_FOUND).detail(format!("No such {what}."))
    }

    /// 422 `invalid_parameter` for one parameter.
    #[must_use]
    pub fn invalid_parameter(field: &str, message: impl Into<String>) -> Self {
        Self::new(&codes::INVALID_PARAMETER).field(field, message)
    }

    /// 422 `invalid_body` for one field.
    #[must_use]
    pub fn invalid_body(field: &str, message: impl Into<String>) -> Self {
        Self::new(&codes::INVALID_BODY).field(field, message)
    }

    /// A sentence about this occurrence.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// An extra member beside the standard ones.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.members.insert(name.to_owned(), value.into());
        self
    }

    /// One more entry in `errors`.
    #[must_use]
    pub fn field(mut self, field: &str, message: impl Into<String>) -> Self {
        let entry = serde_json::json!({"field": field, "message": message.into()});
        match self.0.members.entry("errors").or_insert_with(|| Value::Array(Vec::new())) {
            Value::Array(errors) => errors.push(entry),
            other => *other = Value::Array(vec![entry]),
        }
        self
    }

    /// Sends `Retry-After`.
    #[must_use]
    pub fn retry_after(mut self, secs: u32) -> Self {
        self.0.retry_after_secs = Some(secs);
        self
    }

    /// `rate_limited` by the limit of this name, which allows so many at once: again after so many seconds.
    #[must_use]
    pub fn rate_limited(name: &'static str, quota: usize, secs: u32) -> Self {
        let mut problem = Self::new(&codes::RATE_LIMITED).retry_after(secs);
        problem.0.limit = Some(Limit { name, quota, window_secs: None });
        problem
    }

    /// That limit's quota is for so many seconds, not for a moment.
    #[must_use]
    pub fn within(mut self, window_secs: u32) -> Self {
        if let Some(limit) = &mut self.0.limit {
            limit.window_secs = Some(window_secs);
        }
        self
    }

    /// Remembers what the store's failure was.
    #[must_use]
    pub fn fault_of(mut self, fault: Fault) -> Self {
        self.0.fault = Some(fault);
        self
    }

    /// Remembers that a commit may have been sent and was not answered.
    #[must_use]
    pub fn unanswered(mut self) -> Self {
        self.0.is_unanswered = true;
        self
    }

    /// Remembers that it was found out: nothing took effect.
    #[must_use]
    pub fn without_effect(mut self) -> Self {
        self.0.is_unanswered = false;
        if self.0.code == &codes::TIMED_OUT { self.recoded(&codes::OVERLOADED) } else { self }
    }

    /// Whether it may have taken effect all the same.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        self.0.is_unanswered
    }

    /// Attaches a cause for the log.
    #[must_use]
    pub fn because(mut self, cause: impl Into<anyhow::Error>) -> Self {
        self.0.source = Some(cause.into());
        self
    }

    /// The same failure once more, for another one of those who waited for it.
    #[must_use]
    pub fn again(&self) -> Self {
        let mut copy = Self::new(self.0.code).because(anyhow::anyhow!(self.to_string()));
        copy.0.detail.clone_from(&self.0.detail);
        copy.0.members.clone_from(&self.0.members);
        copy.0.retry_after_secs = self.0.retry_after_secs;
        copy.0.limit = self.0.limit;
        copy.0.fault = self.0.fault;
        copy.0.is_unanswered = self.0.is_unanswered;
        copy
    }

    /// The same failure under another code.
    #[must_use]
    pub fn recoded(mut self, code: &'static Code) -> Self {
        self.0.code = code;
        self
    }

    /// As whoever wanted to change something is told of it: while the database is away nothing can be changed, whatever it was
    /// asked for first.
    #[must_use]
    pub fn of_write(self) -> Self {
        let is_away = self.0.fault == Some(Fault::Disconnected) && self.0.code == &codes::UNAVAILABLE;
        if is_away { self.recoded(&codes::READ_ONLY) } else { self }
    }

    /// The store's failure behind this problem, if one was.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.0.fault
    }

    /// The problem's code.
    #[must_use]
    pub fn code(&self) -> &'static Code {
        self.0.code
    }

    /// The body as sent, with this request id.
    #[must_use]
    pub fn body(&self, request_id: &str) -> Value {
        let code = self.0.code;
        let mut body = Map::new();
        body.insert("type".into(), format!("/problems/{}", code.code).into());
        body.insert("title".into(), code.title.into());
        body.insert("status".into(), code.status.into());
        body.insert("detail".into(), self.0.detail.clone().unwrap_or_else(|| code.about.to_owned()).into());
        body.insert("code".into(), code.code.into());
        body.insert("request_id".into(), request_id.into());
        body.extend(self.0.members.clone());
        Value::Object(body)
    }
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Problem");
        shown.field("code", &self.0.code.code).field("detail", &self.0.detail);
        shown.field("fault", &self.0.fault).field("source", &self.0.source).finish_non_exhaustive()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.code.code)?;
        if let Some(detail) = &self.0.detail {
            write!(f, ": {detail}")?;
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {source:#}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let id = request_id::current();
        if self.0.code.status >= 500 {
            tracing::warn!(code = self.0.code.code, request_id = %id, cause = self.0.source.as_ref().map(|cause| format!("{cause:#}")), "request failed");
        }
        let status = StatusCode::from_u16(self.0.code.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, self.body(&id).to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // RFC 9110, 15.5.2: whatever is missing, a 401 says how to authenticate.
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"frontrow\""));
        }
        let retry_after = self.0.retry_after_secs.or((self.0.code.status == 503).then_some(1));
        if let Some(secs) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        // draft-ietf-httpapi-ratelimit-headers: nothing is left, and until when.
        if let (Some(Limit { name, quota, window_secs }), Some(secs)) = (self.0.limit, retry_after) {
            let window = window_secs.map_or(String::new(), |secs| format!(";w={secs}"));
            let said = [
                ("ratelimit", format!("\"{name}\";r=0;t={secs}")),
                ("ratelimit-policy", format!("\"{name}\";q={quota}{window}")),
            ];
            for (header, value) in said {
                headers
                    .extend(HeaderValue::from_str(&value).ok().map(|value| (HeaderName::from_static(header), value)));
            }
        }
        response
    }
}

/// The shape of every problem, for the API document.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ProblemBody {
    /// `/problems/<code>`, a page that explains it.
    pub r#type: String,
    /// A short title, the same each time.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// Stable, `snake_case`.
    pub code: String,
    /// Quote it when asking for help.
    pub request_id: String,
    /// The fields that were refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<Vec<FieldError>>,
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        let fault = fault_of(&error);
        let code = match fault {
            Some(Fault::Exhausted) => &codes::OVERLOADED,
            Some(fault) if fault.is_retryable() => &codes::OVERLOADED,
            Some(Fault::Disconnected | Fault::ReadOnly) => &codes::READ_ONLY,
            Some(Fault::Overdue) => &codes::TIMED_OUT,
            _ => &codes::INTERNAL,
        };
        let mut problem = Self::new(code).because(error);
        problem.0.fault = fault;
        problem
    }
}

fn fault_of(error: &sqlx::Error) -> Option<Fault> {
    match error {
        sqlx::Error::Database(error) => {
            let number = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()?.number();
            match number {
                1213 => Some(Fault::Deadlock),
                1205 | 3572 => Some(Fault::LockWait),
                1020 => Some(Fault::SnapshotChanged),
                1062 => Some(Fault::Duplicate),
                3819 | 4025 => Some(Fault::CheckViolated),
                // Shutting down, too many connections, killed, gone.
                1053 | 1040 | 1203 | 1317 | 1927 | 2006 | 2013 | 4031 => Some(Fault::Disconnected),
                1290 | 1792 | 1836 => Some(Fault::ReadOnly),
                3024 | 1969 => Some(Fault::Overdue),
                _ => None,
            }
        }
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
            Some(Fault::Disconnected)
        }
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Some(Fault::Exhausted),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_the_promised_members() {
        let body = Problem::not_found("hold").with("limit", 4).body("r1");
        assert_eq!(body["type"], "/problems/not_found");
        assert_eq!(body["status"], 404);
        assert_eq!(body["code"], "not_found");
        assert_eq!(body["request_id"], "r1");
        assert_eq!(body["limit"], 4);
    }

    #[test]
    fn who_is_too_fast_is_told_the_limit() {
        let response = Problem::rate_limited("writes", 65, 2).into_response();
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!((response.status().as_u16(), header("retry-after")), (429, "2".into()));
        assert_eq!(
            (header("ratelimit"), header("ratelimit-policy")),
            ("\"writes\";r=0;t=2".into(), "\"writes\";q=65".into())
        );
        let response = Problem::rate_limited("joins", 120, 2).within(60).into_response();
        assert_eq!(response.headers()["ratelimit-policy"], "\"joins\";q=120;w=60");
    }

    #[test]
    fn an_internal_cause_is_not_shown() {
        let body = Problem::internal(anyhow::anyhow!("the secret cause")).body("r1");
        assert!(!body.to_string().contains("secret"));
    }
}
