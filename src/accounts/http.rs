//! Placeholder until accounts are merged: the operator's extractor.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::domain::UserId;
use crate::platform::error::{Problem, codes};

/// Who is signed in.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// The user.
    pub user: UserId,
}

/// A signed-in operator.
#[derive(Clone, Copy, Debug)]
pub struct Operator(pub Session);

impl<S: Send + Sync> FromRequestParts<S> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get().copied().map(Self).ok_or_else(|| Problem::new(&codes::UNAUTHENTICATED))
    }
}
