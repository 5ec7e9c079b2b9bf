//! What accounts ask of whoever sends mails; `app` wires it.

use std::fmt;

use futures::future::BoxFuture;
use uuid::Uuid;

use super::domain::UserId;
use crate::platform::db::Conn;
use crate::platform::error::Problem;

/// A mail that accounts ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// One with a token that verifies the address.
    Verification,
    /// One with a token that sets a new password.
    PasswordReset,
}

/// Takes mails to be sent, and takes them back.
pub trait Letterbox: fmt::Debug + Send + Sync {
    /// Asks for a mail to a user in the transaction of its cause. `reference` tells one request from another. A user whom there
    /// is not gets none.
    fn post<'c>(
        &'c self,
        conn: &'c mut Conn,
        request: Request,
        user: UserId,
        reference: Uuid,
    ) -> BoxFuture<'c, Result<(), Problem>>;

    /// Takes back what was not sent to a user, in the transaction that erases them.
    fn forget<'c>(&'c self, conn: &'c mut Conn, user: UserId) -> BoxFuture<'c, Result<(), Problem>>;

    /// Something was posted and committed.
    fn wake(&self);
}
