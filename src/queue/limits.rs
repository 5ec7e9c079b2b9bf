//! How fast places are taken: joining is what costs a number, so one user and one address may join so often in a
//! minute, on each instance, and are told to wait otherwise. Whether a place comes of it does not matter.

use std::net::IpAddr;
use std::sync::Arc;

use crate::accounts::UserId;
use crate::platform::clock::Clock;
use crate::platform::config::LimitSettings;
use crate::platform::error::Problem;
use crate::platform::http::{ClientAddress, Networks};
use crate::platform::limits::Limiter;

/// The limits on joins. Clones share them.
#[derive(Clone, Debug)]
pub struct JoinLimits {
    users: Limiter<UserId>,
    addresses: Limiter<IpAddr>,
    exempt: Arc<Networks>,
}

impl JoinLimits {
    /// As set, on this clock.
    #[must_use]
    pub fn new(settings: &LimitSettings, clock: &Clock) -> Self {
        let (user, address) = (settings.joins_per_user_per_minute, settings.joins_per_address_per_minute);
        Self {
            users: Limiter::new("joins-per-user", user, settings.keys_max, clock.clone()),
            addresses: Limiter::new("joins-per-address", address, settings.keys_max, clock.clone()),
            exempt: Arc::new(settings.exempt_networks.clone()),
        }
    }

    /// Counts one join.
    ///
    /// # Errors
    /// `rate_limited`.
    pub fn check(&self, user: UserId, address: ClientAddress) -> Result<(), Problem> {
        // A user who is too fast does not use up what others at the same address may do.
        self.users.check(user)?;
        if self.exempt.contain(address.0) { Ok(()) } else { self.addresses.check(address.site()) }
    }
}
