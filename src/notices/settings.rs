//! The settings of notices.

use std::path::PathBuf;

use serde::Deserialize;

use crate::platform::config::Secret;
use crate::platform::http::Networks;

/// `[notices]`: webhooks, and how long what was sent is kept.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "each field is documented in config/default.toml")]
pub struct Settings {
    pub endpoints_max: u8,
    pub private_addresses: Networks,
    pub plain_http: bool,
    pub timeout_ms: u64,
    pub reply_bytes_max: usize,
    pub parallel_per_endpoint: u32,
    pub poll_ms: u64,
    pub keep_hours: u32,
    pub dead_keep_hours: u32,
}

/// `[mail]`.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "each field is documented in config/default.toml")]
pub struct MailSettings {
    pub transport: TransportKind,
    pub folder: PathBuf,
    pub host: String,
    pub port: u16,
    pub tls: Tls,
    pub user: String,
    pub password: Secret,
    pub from: String,
    pub base_url: String,
    pub timeout_ms: u64,
    pub connections_max: u32,
}

/// How mails leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransportKind {
    /// Not at all: none are written.
    None,
    /// To a mail server.
    Smtp,
    /// Into a folder.
    Files,
}

/// How the connection to the mail server is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// Not: for a server on the same machine.
    None,
    /// By STARTTLS, or no mail is sent.
    Starttls,
    /// From the first byte.
    Implicit,
}
