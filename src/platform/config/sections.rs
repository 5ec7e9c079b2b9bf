//! The settings of the platform itself. Features bring their own next to the code that reads them.

use serde::Deserialize;

use super::Secret;
use crate::platform::http::Networks;

/// `[http]`: the listener and its limits.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "each field is documented in config/default.toml")]
pub struct HttpSettings {
    pub addr: String,
    pub connections_max: usize,
    pub requests_max: usize,
    pub request_timeout_ms: u64,
    pub header_timeout_secs: u64,
    pub body_timeout_secs: u64,
    pub write_timeout_secs: u64,
    pub body_bytes_max: usize,
    pub large_bodies_max: usize,
    pub drain_idle_ms: u64,
    pub drain_timeout_secs: u64,
}

/// `[database]`: the pool and its limits.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "each field is documented in config/default.toml")]
pub struct DatabaseSettings {
    pub url: Secret,
    pub migration_url: Secret,
    pub pool_size: u32,
    pub waiting_max: usize,
    pub waiting_per_buyer_max: usize,
    pub acquire_timeout_ms: u64,
    pub unit_timeout_ms: u64,
    pub lock_wait_secs: u32,
    pub retries_max: u32,
    pub migrate_on_start: bool,
}

impl DatabaseSettings {
    /// The account that migrates.
    #[must_use]
    pub fn owner_url(&self) -> &Secret {
        if self.migration_url.is_empty() { &self.url } else { &self.migration_url }
    }
}

/// `[redis]`: the clients and their limits.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "each field is documented in config/default.toml")]
pub struct RedisSettings {
    pub url: Secret,
    pub prefix: String,
    pub pool_size: usize,
    pub command_timeout_ms: u64,
    pub connect_timeout_ms: u64,
    pub buffer_max: usize,
}

/// `[secrets]`.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "each field is documented in config/default.toml")]
pub struct SecretSettings {
    pub token_keys: Secret,
    pub ticket_keys: Secret,
}

/// `[log]`.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "each field is documented in config/default.toml")]
pub struct LogSettings {
    pub filter: String,
    pub format: String,
}

/// `[cache]`.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "each field is documented in config/default.toml")]
pub struct CacheSettings {
    pub enabled: bool,
    pub soft_secs: u64,
    pub hard_secs: u64,
    pub stale_secs: u64,
    pub absent_secs: u64,
    pub near_bytes_max: u64,
    pub far_value_bytes_max: usize,
    pub lease_ms: u64,
    pub wait_ms: u64,
    pub loads_max: usize,
    pub news_ms: u64,
    pub news_max_ms: u64,
    pub entries_max: u64,
}

/// `[limits]`: how fast one user and one address may be.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "each field is documented in config/default.toml")]
pub struct LimitSettings {
    pub trusted_proxies: Networks,
    pub exempt_networks: Networks,
    pub joins_per_user_per_minute: u32,
    pub joins_per_address_per_minute: u32,
    pub holds_per_user_per_minute: u32,
    pub mails_per_recipient_per_minute: u32,
    pub mails_per_address_per_minute: u32,
    pub card_payments_per_user_per_minute: u32,
    pub keys_max: u64,
}

/// `[outbox]`.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "each field is documented in config/default.toml")]
pub struct OutboxSettings {
    pub batch_max: u32,
    pub poll_ms: u64,
    pub stream_len_max: i64,
    pub keep_hours: u32,
}

/// `[jobs]`.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "each field is documented in config/default.toml")]
pub struct JobSettings {
    pub lease_secs: u32,
    pub audit_every_secs: u32,
    pub audit_timeout_secs: u64,
}
