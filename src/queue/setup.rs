//! The sale that comes with a new concert.

use futures::future::BoxFuture;
use rand::RngCore as _;
use ring::digest;

use super::domain::Rules;
use super::store;
use crate::catalog::domain::{Order, QueueSettings};
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
        Self { seeds: keys.sealer("queue.seed", b"") }
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
            if queue.order == Order::Draw {
                return Err(Problem::invalid_body("queue.order", "this version sells in order of arrival only: fifo"));
            }
            let mut seed = [0_u8; 32];
            rand::rng().fill_bytes(&mut seed);
            let commitment = hex::encode(digest::digest(&digest::SHA256, &seed));
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
