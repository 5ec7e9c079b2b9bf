//! What is loaded of a concert: all that its visitors will ask for, the way their requests load it.

use super::domain::Kept;
use crate::catalog::domain::ConcertId;
use crate::catalog::service::Catalog;
use crate::platform::error::{Problem, codes};
use crate::platform::http::PageParams;

/// Loads the concert anew: itself, its performances, their seat maps and the seats left.
///
/// # Errors
/// What the catalogue refuses with; `unavailable` where nobody can tell the seats left.
pub(super) async fn load(catalog: &Catalog, id: ConcertId) -> Result<Kept, Problem> {
    let since = catalog.clock.now();
    let concert = catalog.reader.renew_concert(id).await?;
    for performance in &concert.performances {
        catalog.get_seat_map(performance.id).await?;
        let left = catalog.ports.availability.available(performance.id).await;
        left.ok_or_else(|| Problem::new(&codes::UNAVAILABLE).detail("Seats left cannot be told now."))?;
        catalog.get_performance(performance.id).await?;
    }
    catalog.get_concert(id).await?;
    catalog.list_performances(id, PageParams::first()).await?;
    Ok(Kept { since, until: since.plus(catalog.reader.keeps_for()) })
}

/// What of it is in this instance's memory, where it was loaded as `loaded` says; nothing where a part is missing.
pub(super) async fn look(catalog: &Catalog, id: ConcertId, loaded: Option<Kept>) -> Option<Kept> {
    let kept = loaded?;
    let concert = catalog.reader.peek_concert(id).await?;
    for performance in &concert.performances {
        if !catalog.keeps_seat_map(performance.id).await {
            return None;
        }
    }
    Some(kept)
}
