//! Mail: what people are told. At least once, by any instance, through a mail server or into a folder.
//!
//! Invariants:
//! - A row says which letter goes to whom and about what, by ids; address, name and text are put together when it is sent. So
//!   nothing about a person waits here, and whoever was erased gets no mail.
//! - The same letter about the same thing is one row: kind and reference are unique. Sent twice, it has the same `Message-ID`.
//! - What fails is tried for about half a day and then dead; what the mail server refuses for good is dead at once.
//! - Neither an address nor a mail server's words about one reach a log, a metric or a row.
//!
//! Table owned: `mails`.

pub mod domain;
pub mod letters;
pub mod mailer;
mod metrics;
pub mod service;
mod store;
pub mod transport;

pub use domain::{Kind, Letter, Mail, MailId, Recipient};
pub use mailer::Mailer;
pub use service::{Mails, Writer};
