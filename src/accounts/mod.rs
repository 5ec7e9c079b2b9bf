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
//! - A token in a mail is random, stored as its hash alone, and used by one statement that one caller wins.
//! - Who asks to reset a password learns nothing about who is registered: the same statements run, and the same is answered.
//!
//! Tables owned: `users`, `session_revocations`, `operator_actions`, `user_tokens`.

pub mod actions;
pub mod admin;
pub mod domain;
pub mod http;
pub mod jobs;
mod limits;
mod passwords;
pub mod ports;
pub mod proofs;
pub mod service;
mod store;

pub use domain::{CODES, Role, Session, SessionId, User, UserId};
pub use http::{AccountRoutes, Buyer, Operator, router};
pub use limits::LetterLimits;
pub use ports::{Letterbox, Request};
pub use service::{Accounts, Parts, Settings};
