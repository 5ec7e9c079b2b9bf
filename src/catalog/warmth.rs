//! Whether a concert's pages can be answered from memory: bringing it about, and telling it.

use std::time::Duration;

use super::domain::ConcertId;
use super::service::Catalog;
use crate::platform::clock::Timestamp;
use crate::platform::error::Problem;
use crate::platform::http::PageParams;

/// What never changes does not get better by being loaded anew: for so long it must last, and no longer.
const FIXED_FOR: Duration = Duration::from_hours(3);

impl Catalog {
    /// Brings everything that a visitor of this concert will ask for into both tiers, so that none of it needs to be renewed before
    /// `until`, as far as values live so long. Where they do not, they are loaded now.
    ///
    /// # Errors
    /// 404, or what the database refuses with. What was brought before stays.
    pub async fn warm(&self, id: ConcertId, until: Timestamp) -> Result<(), Problem> {
        let concert = self.reader.concerts.ensure(&id, until).await?.or_absent("concert")?;
        let fixed_until = until.min(self.clock.now().plus(FIXED_FOR));
        self.reader.seatings.ensure(&id, fixed_until).await?;
        for performance in &concert.performances {
            self.reader.evenings.ensure(&performance.id, fixed_until).await?;
            self.seat_maps.ensure(&performance.id, fixed_until).await?;
            self.reader.get_seat_map(performance.id).await?;
        }
        // Seats left are asked for as well.
        self.get_concert(id).await?;
        self.list_performances(id, PageParams::first()).await?;
        Ok(())
    }

    /// Until when none of what this instance has of the concert is to be renewed; nothing where a part is missing. Loads nothing.
    #[must_use]
    pub fn fresh_until(&self, id: ConcertId) -> Option<Timestamp> {
        let mut ends = vec![self.reader.concerts.soft_at(&id), self.reader.seatings.soft_at(&id)];
        for performance in self.reader.concerts.peek(&id).iter().flat_map(|concert| &concert.performances) {
            ends.push(self.reader.evenings.soft_at(&performance.id));
            ends.push(self.seat_maps.soft_at(&performance.id));
        }
        let ends: Option<Vec<Timestamp>> = ends.into_iter().collect();
        ends?.into_iter().min()
    }
}
