//! The list of concerts. Pages of all concerts are kept in both tiers; which of them are in a state changes with time, so pages of
//! one state are read from the database, once a second and instance at most.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{FutureExt as _, StreamExt as _, stream};

use super::domain::{ConcertId, Headline, PerformanceId, Status};
use super::kept::{Listed, PageKey};
use super::service::{ASKED_AT_ONCE, Catalog, Filter, Key, settled};
use super::store::{self, Listing};
use super::views::ConcertItem;
use crate::platform::cache::{Found, Loader, Need};
use crate::platform::clock::Timestamp;
use crate::platform::db::{Conn, Db};
use crate::platform::error::Problem;
use crate::platform::http::{Page, PageParams, Shown};

/// Rows read at once, and how often, when only some of them are shown.
const SCAN_ROWS: u32 = 101;
const SCANS_MAX: u32 = 10;

/// A page of all concerts, from the database.
pub(super) fn pages_of(db: &Db) -> Loader<PageKey, Arc<Vec<Listed>>> {
    let db = db.clone();
    Arc::new(move |key| {
        let db = db.clone();
        Box::pin(async move {
            // Whatever their state is, at any time.
            let PageKey { q, after, limit } = key;
            let listing = Listing { status: None, q, after, limit, now: Timestamp::EPOCH };
            let rows = db.read("catalog.list_concerts", listing, |conn, listing| Box::pin(list(conn, listing)));
            rows.await.map(|rows| Some(Arc::new(rows)))
        })
    })
}

async fn list(conn: &mut Conn, listing: &Listing) -> Result<Vec<Listed>, Problem> {
    let headlines = store::list_headlines(conn, listing).await?;
    let ids: Vec<ConcertId> = headlines.iter().map(|headline| headline.id).collect();
    let mut performances: HashMap<ConcertId, Vec<PerformanceId>> = HashMap::new();
    for (concert, performance) in store::list_performance_ids(conn, &ids).await? {
        performances.entry(concert).or_default().push(performance);
    }
    let listed = headlines.into_iter().map(|headline| {
        let performances = performances.remove(&headline.id).unwrap_or_default();
        Listed { headline, performances }
    });
    Ok(listed.collect())
}

impl Catalog {
    /// A page of concerts, the newest first.
    ///
    /// # Errors
    /// What the database refuses with.
    pub async fn list_concerts(&self, filter: Filter, page: PageParams<ConcertId>) -> Result<Shown, Problem> {
        let key = Key::Concerts { filter: filter.clone(), limit: page.limit, after: page.after };
        if let Some(status) = filter.status {
            let facts = Found { value: None, stale_secs: None, stamp: 0 };
            let load = |catalog: Self| async move { catalog.concerts_in(status, filter.q, &page).boxed().await };
            return self.moment(&facts, key, load).await;
        }
        let page_key = PageKey { q: filter.q, after: page.after, limit: page.fetch() };
        let Found { value, stale_secs, stamp } = self.lists.find(&page_key, Need::Browsing).await?;
        let facts = Found { value: None, stale_secs, stamp };
        let load = |catalog: Self| async move {
            let rows = value.unwrap_or_default();
            let items = catalog.with_status(&rows, catalog.clock.now()).boxed().await;
            Ok(Page::of(items, &page, |item| item.id))
        };
        self.moment(&facts, key, load).await
    }

    /// Time alone tells every status but `sold_out`, which is told apart from `open` by asking for the seats left:
    /// for these two, rows are read until the page is full, within a bound.
    async fn concerts_in(
        &self,
        status: Status,
        q: Option<String>,
        page: &PageParams<ConcertId>,
    ) -> Result<Page<ConcertItem>, Problem> {
        let is_exact = !matches!(status, Status::Open | Status::SoldOut);
        let limit = if is_exact { page.fetch() } else { SCAN_ROWS };
        let now = self.clock.now();
        let mut listing = Listing { status: Some(status), q, after: page.after, limit, now };
        let mut items = Vec::new();
        for _ in 0..SCANS_MAX {
            let rows = self
                .db
                .read("catalog.list_concerts_in", listing.clone(), |conn, listing| Box::pin(list(conn, listing)))
                .await?;
            let is_last = rows.len() < limit as usize;
            listing.after = rows.last().map(|row| row.headline.id).or(listing.after);
            let told = self.with_status(&rows, now).await;
            items.extend(told.into_iter().filter(|item| item.status == status));
            if is_last || items.len() > page.limit as usize {
                return Ok(Page::of(items, page, |item| item.id));
            }
        }
        Ok(Page::broken_off(items, &listing.after))
    }

    async fn with_status(&self, rows: &[Listed], now: Timestamp) -> Vec<ConcertItem> {
        let by_time = |headline: &Headline| Status::at(now, &headline.hours);
        let open = rows.iter().filter(|row| by_time(&row.headline) == Status::Open);
        let open: Vec<(ConcertId, Vec<PerformanceId>)> =
            open.map(|row| (row.headline.id, row.performances.clone())).collect();
        let sold_out: HashMap<ConcertId, bool> = stream::iter(open)
            .map(|(concert, ids)| self.sold_out(concert, ids))
            .buffered(ASKED_AT_ONCE)
            .collect()
            .boxed()
            .await;
        let items = rows.iter().map(|Listed { headline, .. }| {
            let status = settled(by_time(headline), sold_out.get(&headline.id) == Some(&true));
            ConcertItem::of(headline.clone(), status)
        });
        items.collect()
    }

    /// Whether every seat is known to be sold. The first performance with an unsold seat decides.
    async fn sold_out(&self, concert: ConcertId, performances: Vec<PerformanceId>) -> (ConcertId, bool) {
        for id in performances {
            if self.left.find(id).await.is_none_or(|left| left.unsold > 0) {
                return (concert, false);
            }
        }
        (concert, true)
    }
}
