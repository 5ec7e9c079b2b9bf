//! Who is who: users, sessions, roles.

pub mod domain;
pub mod http;

pub use domain::UserId;
