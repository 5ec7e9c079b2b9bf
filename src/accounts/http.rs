//! Users and sessions over HTTP, and the extractors by which every feature learns who asks.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRef, FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::domain::{LINK_EXPIRED, Role, Session, User, UserId};
use super::limits::LetterLimits;
use super::service::{Accounts, Registration};
use crate::platform::clock::Timestamp;
use crate::platform::config::Secret;
use crate::platform::error::{Problem, ProblemBody, codes};
use crate::platform::http::{Body, ClientAddress};

/// What the handlers work with.
#[derive(Clone, Debug)]
pub struct AccountRoutes {
    /// The accounts.
    pub accounts: Arc<Accounts>,
    /// How often mails may be asked for.
    pub letters: LetterLimits,
}

impl FromRef<AccountRoutes> for Arc<Accounts> {
    fn from_ref(routes: &AccountRoutes) -> Self {
        routes.accounts.clone()
    }
}

impl FromRef<AccountRoutes> for LetterLimits {
    fn from_ref(routes: &AccountRoutes) -> Self {
        routes.letters.clone()
    }
}

/// The routes of accounts.
pub fn router(routes: AccountRoutes) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(register))
        .routes(routes!(verify))
        .routes(routes!(ask_verification))
        .routes(routes!(ask_reset))
        .routes(routes!(reset_password))
        .routes(routes!(log_in))
        .routes(routes!(log_out))
        .routes(routes!(get_me, erase_me))
        .with_state(routes)
}

/// Whoever is signed in.
#[derive(Clone, Copy, Debug)]
pub struct Buyer(pub Session);

impl<S: Send + Sync> FromRequestParts<S> for Buyer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        session(parts).map(Self)
    }
}

/// A signed-in operator.
#[derive(Clone, Copy, Debug)]
pub struct Operator(pub Session);

impl<S: Send + Sync> FromRequestParts<S> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let session = session(parts)?;
        match session.role {
            Role::Operator => Ok(Self(session)),
            Role::Buyer => Err(Problem::new(&codes::FORBIDDEN)),
        }
    }
}

/// The accounts are an extension of the request, so that the extractors work beside any handler's state.
fn session(parts: &Parts) -> Result<Session, Problem> {
    let Some(accounts) = parts.extensions.get::<Arc<Accounts>>() else {
        return Err(Problem::internal(anyhow::anyhow!("the router has no accounts layer")));
    };
    let token = bearer(&parts.headers).ok_or_else(|| Problem::new(&codes::UNAUTHENTICATED))?;
    accounts.authenticate(token)
}

/// The token of the one `Authorization: Bearer` header; the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start())
}

/// Whom to register.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RegisterBody {
    /// One user per address; its case does not matter.
    #[schema(
        min_length = 3,
        max_length = 254,
        pattern = r"^[^@\s\x00-\x1f\x7f-\x9f]+@[^@\s\x00-\x1f\x7f-\x9f]+$",
        example = "minji@example.com"
    )]
    email: String,
    #[schema(value_type = String, format = Password, min_length = 8, max_length = 128)]
    password: Secret,
    /// How to address them.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$",
        example = "Kim Minji"
    )]
    name: String,
}

/// Who signs in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LogInBody {
    #[schema(example = "minji@example.com")]
    email: String,
    #[schema(value_type = String, format = Password)]
    password: Secret,
}

/// What proves that somebody reads the mail of an address.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct VerifyBody {
    /// From the mail.
    #[schema(value_type = String)]
    token: Secret,
}

/// Whose password is to be set anew.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AskResetBody {
    #[schema(
        min_length = 3,
        max_length = 254,
        pattern = r"^[^@\s\x00-\x1f\x7f-\x9f]+@[^@\s\x00-\x1f\x7f-\x9f]+$",
        example = "minji@example.com"
    )]
    email: String,
}

/// The new password.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ResetBody {
    #[schema(value_type = String, format = Password, min_length = 8, max_length = 128)]
    password: Secret,
}

/// A user.
#[derive(Debug, Serialize, ToSchema)]
struct UserBody {
    id: UserId,
    /// The address, lower-cased.
    email: String,
    name: String,
    role: RoleBody,
    created_at: Timestamp,
    /// When they showed that they read the mail of their address; null until then.
    verified_at: Option<Timestamp>,
}

/// What a user may do. Operators may do what buyers may.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RoleBody {
    Buyer,
    Operator,
}

impl From<User> for UserBody {
    fn from(user: User) -> Self {
        let role = match user.role {
            Role::Buyer => RoleBody::Buyer,
            Role::Operator => RoleBody::Operator,
        };
        let User { id, email, name, created_at, verified_at, .. } = user;
        Self { id, email, name, role, created_at, verified_at }
    }
}

/// A session.
#[derive(Serialize, ToSchema)]
struct SessionBody {
    /// For `Authorization: Bearer`.
    access_token: String,
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// When the token stops working.
    expires_at: Timestamp,
    user: UserBody,
}

/// Register.
#[utoipa::path(
    post, path = "/v1/users", tag = "accounts", request_body = RegisterBody,
    responses(
        (status = 201, description = "Registered", body = UserBody),
        (status = 409, description = "`email_taken`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "`invalid_body`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "`overloaded`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn register(State(accounts): State<Arc<Accounts>>, Body(body): Body<RegisterBody>) -> Result<Response, Problem> {
    let RegisterBody { email, password, name } = body;
    let user = accounts.register(Registration { email, password, name }).await?;
    Ok((StatusCode::CREATED, Json(UserBody::from(user))).into_response())
}

/// Verify the address to which a token was sent.
#[utoipa::path(
    post, path = "/v1/users/verifications", tag = "accounts", request_body = VerifyBody,
    responses(
        (status = 204, description = "Verified"),
        (status = 410, description = "`link_expired`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn verify(State(accounts): State<Arc<Accounts>>, Body(body): Body<VerifyBody>) -> Result<StatusCode, Problem> {
    accounts.verify(&body.token).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ask for another mail with which the address can be verified. Nothing is sent where it is verified.
#[utoipa::path(
    post, path = "/v1/me/verifications", tag = "accounts", security(("bearer" = [])),
    responses((status = 202, description = "Asked for"))
)]
async fn ask_verification(
    State(AccountRoutes { accounts, letters }): State<AccountRoutes>,
    Buyer(session): Buyer,
    address: ClientAddress,
) -> Result<StatusCode, Problem> {
    letters.check(session.user.to_string(), address)?;
    accounts.ask_verification(session).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Ask for a mail with which the password of this address can be set anew. The answer says nothing about whether anybody has it.
#[utoipa::path(
    post, path = "/v1/password-resets", tag = "accounts", request_body = AskResetBody,
    responses((status = 202, description = "Asked for, where somebody has this address"))
)]
async fn ask_reset(
    State(AccountRoutes { accounts, letters }): State<AccountRoutes>,
    address: ClientAddress,
    Body(body): Body<AskResetBody>,
) -> Result<StatusCode, Problem> {
    letters.check(body.email.to_lowercase(), address)?;
    accounts.ask_reset(&body.email).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Set a new password with the token of a mail, once. Every session of the user ends.
#[utoipa::path(
    put, path = "/v1/password-resets/{token}", tag = "accounts", request_body = ResetBody,
    params(("token" = String, Path, description = "From the mail")),
    responses(
        (status = 204, description = "The password is the new one; every session has ended"),
        (status = 410, description = "`link_expired`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn reset_password(
    State(accounts): State<Arc<Accounts>>,
    token: Result<Path<String>, axum::extract::rejection::PathRejection>,
    Body(body): Body<ResetBody>,
) -> Result<StatusCode, Problem> {
    // What is not even text was never ours.
    let Path(token) = token.map_err(|_| Problem::new(&LINK_EXPIRED))?;
    accounts.reset_password(&Secret::new(token), body.password).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sign in.
#[utoipa::path(
    post, path = "/v1/sessions", tag = "accounts", request_body = LogInBody,
    responses(
        (status = 201, description = "Signed in", body = SessionBody),
        (status = 401, description = "`bad_credentials`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "`invalid_body`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "`overloaded`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn log_in(State(accounts): State<Arc<Accounts>>, Body(body): Body<LogInBody>) -> Result<Response, Problem> {
    let signed_in = accounts.log_in(&body.email, body.password).await?;
    let answer = SessionBody {
        access_token: signed_in.access_token.expose().to_owned(),
        token_type: "Bearer",
        expires_at: signed_in.expires_at,
        user: signed_in.user.into(),
    };
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

/// Sign out: the token stops working, on every instance within a second.
#[utoipa::path(
    delete, path = "/v1/sessions/current", tag = "accounts", security(("bearer" = [])),
    responses(
        (status = 204, description = "Signed out"),
        (status = 401, description = "`unauthenticated`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn log_out(State(accounts): State<Arc<Accounts>>, Buyer(session): Buyer) -> Result<StatusCode, Problem> {
    accounts.log_out(session).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The signed-in user.
#[utoipa::path(
    get, path = "/v1/me", tag = "accounts", security(("bearer" = [])),
    responses(
        (status = 200, description = "The user", body = UserBody),
        (status = 401, description = "`unauthenticated`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn get_me(State(accounts): State<Arc<Accounts>>, Buyer(session): Buyer) -> Result<Response, Problem> {
    let user = accounts.get_me(session).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(UserBody::from(user))).into_response())
}

/// Erase the signed-in user's personal data; the ledger and sold tickets are kept without it.
#[utoipa::path(
    delete, path = "/v1/me", tag = "accounts", security(("bearer" = [])),
    responses(
        (status = 204, description = "Erased; every session has ended"),
        (status = 401, description = "`unauthenticated`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn erase_me(State(accounts): State<Arc<Accounts>>, Buyer(session): Buyer) -> Result<StatusCode, Problem> {
    accounts.erase_me(session).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        bearer(&headers).map(str::to_owned)
    }

    #[test]
    fn one_bearer_header_is_taken_in_any_case() {
        assert_eq!(token(&["Bearer abc"]).as_deref(), Some("abc"));
        assert_eq!(token(&["bEARER   abc"]).as_deref(), Some("abc"));
        for bad in [&[][..], &["Basic abc"], &["Bearer"], &["abc"], &["Bearer a", "Bearer b"]] {
            assert_eq!(token(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn passwords_do_not_print() {
        let body: LogInBody = serde_json::from_str(r#"{"email": "a@b", "password": "hunter22"}"#).unwrap();
        assert!(!format!("{body:?}").contains("hunter22"));
    }

    #[test]
    fn unknown_fields_are_refused() {
        assert!(serde_json::from_str::<LogInBody>(r#"{"email": "a", "password": "b", "role": "operator"}"#).is_err());
    }
}
