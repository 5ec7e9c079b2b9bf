//! Who is who: users, sessions, roles.

pub mod domain;

pub use domain::UserId;
