//! Who is who: users, sessions, roles.
//!
//! Access tokens are sealed, not stored: knowing who sends a request costs no I/O. What takes a token back
//! before it expires is a row, which every instance reads into memory within a second.
//!
//! Invariants:
//! - An address belongs to one user at most; the unique key decides.
//! - A revoked session is refused at once by the instance that revoked it, and by every other after its next
//!   refresh. An instance that has never read the revocations lets nobody in.
//! - A user who was erased leaves an id, a role and times, and nothing else.
//! - What an operator did and its entry in the log of actions are committed together; entries are never changed.
//! - Passwords are neither stored nor printed, and at most `hashing_parallel` are hashed at once.
//!
//! Tables owned: `users`, `session_revocations`, `operator_actions`.

pub mod actions;
pub mod admin;
pub mod domain;
pub mod http;
pub mod jobs;
mod passwords;
pub mod service;
mod store;

pub use domain::{CODES, Role, Session, SessionId, User, UserId};
pub use http::{Buyer, Operator, router};
pub use service::{Accounts, Settings};
