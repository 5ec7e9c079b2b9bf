//! What is loaded of a concert: all that its visitors will ask for, the way their requests load it.

use super::domain::Kept;
use crate::catalog::domain::ConcertId;
use crate::catalog::left::untold;
use crate::catalog::service::Catalog;
use crate::platform::clock::Timestamp;
use crate::platform::error::Problem;

/// Brings the concert, its performances and seat maps into both tiers, so that none of it is to be renewed before `until` as far
/// as it lives so long, and asks for the seats left.
///
/// # Errors
/// What the catalogue refuses with; `unavailable` where nobody can tell the seats left.
pub(super) async fn load(catalog: &Catalog, id: ConcertId, until: Timestamp) -> Result<Kept, Problem> {
    let since = catalog.clock.now();
    catalog.warm(id, until).await?;
    for performance in &catalog.reader.get_concert(id).await?.performances {
        catalog.ports.availability.available(performance.id).await.ok_or_else(untold)?;
        catalog.get_performance(performance.id).await?;
    }
    Ok(Kept { since, until: catalog.fresh_until(id).unwrap_or(since) })
}

/// What of it is in this instance's memory, where it was loaded as `loaded` says; nothing where a part is missing.
pub(super) fn look(catalog: &Catalog, id: ConcertId, loaded: Option<Kept>) -> Option<Kept> {
    let until = catalog.fresh_until(id)?;
    Some(Kept { until, ..loaded? })
}
