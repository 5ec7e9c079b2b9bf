//! Fills this instance's memory before a crowd asks: concerts that open soon, or are open already.

use std::sync::Arc;
use std::time::Duration;

use super::domain::{ConcertId, WarmerSettings};
use super::service::Catalog;
use crate::platform::clock::Clock;
use crate::platform::error::Problem;

/// Most concerts kept warm at once.
const CONCERTS_MAX: u32 = 100;

/// Loads what will be asked for.
#[derive(Clone, Debug)]
pub struct Warmer {
    catalog: Arc<Catalog>,
    clock: Clock,
    settings: WarmerSettings,
}

impl Warmer {
    /// A warmer of this catalogue's memory.
    #[must_use]
    pub fn new(catalog: Arc<Catalog>, clock: Clock, settings: WarmerSettings) -> Self {
        Self { catalog, clock, settings }
    }

    /// Loads every concert that is open or opens within the lead time, and returns how many they are. What is in
    /// memory already is not loaded again, so it may be called every few seconds.
    ///
    /// # Errors
    /// What the database refuses with. Concerts before the failing one are warm.
    pub async fn warm_due(&self) -> Result<usize, Problem> {
        if !self.settings.enabled {
            return Ok(0);
        }
        let lead = Duration::from_secs(self.settings.lead_secs);
        let sales = self.catalog.reader().list_live_sales(self.clock.now(), lead, CONCERTS_MAX).await?;
        for sale in &sales {
            self.warm(sale.concert_id).await?;
        }
        tracing::debug!(concerts = sales.len(), "catalogue warmed");
        Ok(sales.len())
    }

    /// Loads the answers that a visitor of this concert will ask for.
    ///
    /// # Errors
    /// What the catalogue refuses with.
    pub async fn warm(&self, id: ConcertId) -> Result<(), Problem> {
        self.catalog.warm(id, None).await
    }
}
