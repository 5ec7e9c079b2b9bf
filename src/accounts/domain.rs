//! Users and their roles.

crate::id_types! {
    /// A user.
    UserId;
    /// A session: one signing in.
    SessionId;
}
