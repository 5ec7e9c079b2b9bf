//! Notices: what the house tells others by itself, after something has happened.
//!
//! [`webhooks`] tell other systems of events, [`mail`] tells people. Both are rows that the transaction of their cause, or the
//! relay of its event, has committed; both are sent at least once, by any instance, and outlive every process. What a mail
//! says and to whom is asked of other features when it is sent, through a trait that `app` wires.

pub mod mail;
mod settings;
pub mod webhooks;

pub use settings::{MailSettings, Settings};
