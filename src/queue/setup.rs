//! The sale that comes with a new concert.

use futures::future::BoxFuture;
use rand::RngCore as _;

use super::domain::Rules;
use super::service::seed_sealer;
use super::{draw, store};
use crate::catalog::domain::QueueSettings;
use crate::catalog::{ConcertId, SaleSetup};
use crate::platform::db::Conn;
use crate::platform::error::Problem;
use crate::platform::token::{KeyRing, Sealer};

/// Creates sales for the catalogue.
#[derive(Debug)]
pub struct NewSales {
    seeds: Sealer,
}

impl NewSales {
    /// With the installation's keys, which seal the draw's seed.
    #[must_use]
    pub fn new(keys: &KeyRing) -> Self {
        Self { seeds: seed_sealer(keys) }
    }
}

impl SaleSetup for NewSales {
    fn create<'c>(
        &'c self,
        conn: &'c mut Conn,
        concert: ConcertId,
        queue: &'c QueueSettings,
    ) -> BoxFuture<'c, Result<String, Problem>> {
        Box::pin(async move {
            let mut seed = [0_u8; 32];
            rand::rng().fill_bytes(&mut seed);
            let commitment = draw::commitment(&seed);
            let rules = Rules {
                admit_per_second: queue.admit_per_second,
                max_active: queue.max_active,
                claim_secs: queue.claim_secs,
                session_secs: queue.session_secs,
                is_paused: false,
                joins_closed: false,
                is_stopped: false,
            };
            store::insert_sale(conn, concert, &rules, &self.seeds.seal(&seed)).await?;
            Ok(commitment)
        })
    }
}
