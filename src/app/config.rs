//! Every section of the configuration in one type.

use std::path::Path;

use serde::Deserialize;

use crate::platform::config::{
    CacheSettings, ConfigError, DatabaseSettings, HttpSettings, JobSettings, LimitSettings, LogSettings,
    OutboxSettings, RedisSettings, SecretSettings, load,
};
use crate::{accounts, booking, catalog, notices, payments, points, queue};

/// The defaults, with their comments, as shipped in the binary.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// The configuration of one instance.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "each section is documented in config/default.toml")]
pub struct Config {
    pub http: HttpSettings,
    pub limits: LimitSettings,
    pub database: DatabaseSettings,
    pub redis: RedisSettings,
    pub secrets: SecretSettings,
    pub log: LogSettings,
    pub accounts: accounts::Settings,
    pub catalog: catalog::Settings,
    pub cache: CacheSettings,
    pub warmer: catalog::WarmerSettings,
    pub queue: queue::Settings,
    pub booking: booking::seats::Settings,
    pub points: points::Settings,
    pub attempts: payments::attempts::Settings,
    pub payments: payments::Settings,
    pub outbox: OutboxSettings,
    pub notices: notices::Settings,
    pub mail: notices::MailSettings,
    pub jobs: JobSettings,
}

impl Config {
    /// The defaults, then `file`, then `extra`, then the environment.
    ///
    /// # Errors
    /// Where a setting is unknown or does not fit.
    pub fn load(file: Option<&Path>, extra: &[(&str, String)]) -> Result<Self, ConfigError> {
        let extra = extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        // The names of variables are text; one that is not cannot be ours.
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::from_variables(file, extra.chain(variables))
    }

    /// As [`Config::load`], with these variables in place of the environment; later ones win.
    ///
    /// # Errors
    /// Where a setting is unknown or does not fit.
    pub fn from_variables(
        file: Option<&Path>,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        load(DEFAULTS, file, variables)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_defaults_fit() {
        let config = Config::from_variables(None, std::iter::empty()).unwrap();
        assert_eq!(config.http.addr, "127.0.0.1:8080");
        assert_eq!(config.booking.hold_secs, 300);
        assert!(config.cache.enabled && config.warmer.enabled && !config.points.charge_without_card);
    }

    /// Whoever waits for the database is told by the database's own limits, not cut off by the request's.
    #[test]
    fn the_shipped_limits_fit_into_each_other() {
        let config = Config::from_variables(None, std::iter::empty()).unwrap();
        let (database, redis) = (&config.database, &config.redis);
        assert!(database.acquire_timeout_ms + database.unit_timeout_ms < config.http.request_timeout_ms);
        assert!(u64::from(database.lock_wait_secs + 1) * 1000 < database.unit_timeout_ms);
        assert!(redis.command_timeout_ms < redis.connect_timeout_ms);
        assert!(redis.connect_timeout_ms + redis.command_timeout_ms < config.http.request_timeout_ms);
        assert!(config.http.request_timeout_ms < config.http.drain_timeout_secs * 1000);
        let attempts = &config.attempts;
        assert!(attempts.answer_ms + 2 * database.acquire_timeout_ms < config.http.request_timeout_ms);
        assert!(
            config.http.request_timeout_ms < attempts.grace_secs * 1000,
            "nobody confirms what recovery has cancelled"
        );
        let payments = &config.payments;
        assert!(payments.base_url.is_empty() && payments.connect_timeout_ms + payments.wait_ms < payments.timeout_ms);
        assert!(
            payments.wait_ms + payments.timeout_ms < attempts.answer_ms,
            "the breaker hears of a provider that hangs"
        );
        assert!(attempts.under_way_max * 2 <= config.http.requests_max, "who pays by card leaves room for the others");
        // What is under way to a webhook, or to a mail server, is not cut off by the end of the instance.
        let longest = config.notices.timeout_ms.max(config.mail.timeout_ms);
        assert!(longest < config.http.drain_timeout_secs * 1000);
        assert!(config.queue.listeners_max + 6000 <= config.http.connections_max, "buyers need places too");
    }

    #[test]
    fn networks_can_be_set() {
        let set = |value: &str| {
            let setting = ("FRONTROW__LIMITS__EXEMPT_NETWORKS".to_owned(), value.to_owned());
            let config = Config::from_variables(None, std::iter::once(setting))?;
            let has = |address: &str| config.limits.exempt_networks.contain(address.parse().unwrap());
            Ok::<_, ConfigError>([has("127.0.0.1"), has("::1"), has("10.0.0.1")])
        };
        let shipped = Config::from_variables(None, std::iter::empty()).unwrap().limits;
        assert!(shipped.exempt_networks.contain("127.0.0.1".parse().unwrap()));
        assert!(shipped.exempt_networks.contain("::1".parse().unwrap()));
        assert!(!shipped.trusted_proxies.contain("127.0.0.1".parse().unwrap()));
        assert_eq!(set("10.0.0.0/8").unwrap(), [false, false, true]);
        assert_eq!(set("::1, 127.0.0.0/8").unwrap(), [true, true, false]);
        assert_eq!(set("").unwrap(), [false; 3]);
        assert!(set("everybody").unwrap_err().to_string().contains("everybody"));
    }

    #[test]
    fn a_setting_can_be_overridden() {
        let hold = ("FRONTROW__BOOKING__HOLD_SECS".to_owned(), "7".to_owned());
        let config = Config::from_variables(None, std::iter::once(hold)).unwrap();
        assert_eq!(config.booking.hold_secs, 7);
    }
}
