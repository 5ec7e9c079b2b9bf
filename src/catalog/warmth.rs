//! Whether a concert's pages can be answered from memory: bringing it about, and telling it.

use super::domain::ConcertId;
use super::service::Catalog;
use crate::platform::clock::Timestamp;
use crate::platform::error::Problem;
use crate::platform::http::PageParams;

/// What this instance has of a concert's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warmth {
    /// Whether nothing of them would have to be loaded.
    pub is_warm: bool,
    /// When the oldest part was loaded, where there is any.
    pub since: Option<Timestamp>,
    /// Until when none of it is to be renewed, where all is there.
    pub fresh_until: Option<Timestamp>,
}

impl Catalog {
    /// Brings everything that a visitor of this concert will ask for into both tiers, so that none of it needs to be renewed before
    /// `until`, as far as values live so long.
    ///
    /// # Errors
    /// 404, or what the database refuses with. What was brought before stays.
    pub async fn warm(&self, id: ConcertId, until: Option<Timestamp>) -> Result<(), Problem> {
        let until = until.unwrap_or_else(|| self.clock.now());
        let concert = self.reader.concerts.ensure(&id, until).await?.or_absent("concert")?;
        self.reader.seatings.ensure(&id, until).await?;
        for performance in &concert.performances {
            self.reader.evenings.ensure(&performance.id, until).await?;
            self.seat_maps.ensure(&performance.id, until).await?;
            self.reader.get_seat_map(performance.id).await?;
        }
        // Seats left are asked for as well.
        self.get_concert(id).await?;
        self.list_performances(id, PageParams::first()).await?;
        Ok(())
    }

    /// What this instance has of it, without loading anything.
    #[must_use]
    pub fn warmth(&self, id: ConcertId) -> Warmth {
        let mut states = vec![self.reader.concerts.state(&id), self.reader.seatings.state(&id)];
        for performance in self.reader.concerts.peek(&id).iter().flat_map(|concert| &concert.performances) {
            states.push(self.reader.evenings.state(&performance.id));
            states.push(self.seat_maps.state(&performance.id));
        }
        let is_warm = states.iter().all(Option::is_some);
        let known = || states.iter().flatten();
        Warmth {
            is_warm,
            since: known().map(|state| state.made_at).min(),
            fresh_until: known().map(|state| state.soft_at).min().filter(|_| is_warm),
        }
    }
}
