//! How often mails may be asked for: each goes to an address, which need not be the caller's.

use std::net::IpAddr;
use std::sync::Arc;

use crate::platform::clock::Clock;
use crate::platform::config::LimitSettings;
use crate::platform::error::Problem;
use crate::platform::http::{ClientAddress, Networks};
use crate::platform::limits::Limiter;

/// The limits on mails that are asked for. Clones share them.
#[derive(Clone, Debug)]
pub struct LetterLimits {
    recipients: Limiter<String>,
    addresses: Limiter<IpAddr>,
    exempt: Arc<Networks>,
}

impl LetterLimits {
    /// As set, on this clock.
    #[must_use]
    pub fn new(settings: &LimitSettings, clock: &Clock) -> Self {
        let (recipient, address) = (settings.mails_per_recipient_per_minute, settings.mails_per_address_per_minute);
        Self {
            recipients: Limiter::new("mails-per-recipient", recipient, settings.keys_max, clock.clone()),
            addresses: Limiter::new("mails-per-address", address, settings.keys_max, clock.clone()),
            exempt: Arc::new(settings.exempt_networks.clone()),
        }
    }

    /// Counts one request from `address` for a mail to `recipient`, whether or not anybody has that name.
    ///
    /// # Errors
    /// `rate_limited`.
    pub fn check(&self, recipient: String, address: ClientAddress) -> Result<(), Problem> {
        // Whoever is too fast must not use up what the recipient may ask for.
        if !self.exempt.contain(address.0) {
            self.addresses.check(address.site())?;
        }
        self.recipients.check(recipient)
    }
}
