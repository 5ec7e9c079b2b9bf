//! What operators ask of the warmer: to warm a concert now, and what is warm.

use std::sync::Arc;

use serde::Serialize;
use serde_json::json;

use super::domain::{CacheView, Occasion, WARMER_OFF};
use super::service::{Parts, Warmer};
use super::store;
use crate::accounts::UserId;
use crate::catalog::domain::ConcertId;
use crate::platform::clock::Timestamp;
use crate::platform::db::{self, Conn};
use crate::platform::error::Problem;
use crate::platform::http::keyed::{ACCEPTED, Answer, RequestKey};

/// A concert that will be warmed.
#[derive(Clone, Copy, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = WarmingOrder)]
pub struct Ordered {
    /// The concert.
    pub concert_id: ConcertId,
    /// When the order was given; it is carried out about a second later.
    pub ordered_at: Timestamp,
}

struct Ordering {
    parts: Arc<Parts>,
    operator: Option<UserId>,
    concert: ConcertId,
}

impl Ordering {
    async fn run(&self, conn: &mut Conn) -> Result<Ordered, Problem> {
        let concert = self.parts.catalog.reader.get_concert_within(conn, self.concert).await?.id;
        let ordered_at = db::now(conn).await?;
        store::order(conn, concert, ordered_at).await?;
        if let Some(operator) = self.operator {
            let details = json!({"ordered_at": ordered_at});
            self.parts.log.record(conn, operator, "cache.warming_ordered", concert, &details).await?;
        }
        Ok(Ordered { concert_id: concert, ordered_at })
    }
}

impl Warmer {
    /// Has the concert loaded anew into every cache, once for a key: 202.
    ///
    /// # Errors
    /// 404 where there is no such concert, 409 `warmer_off`, and those of the key.
    pub async fn order(&self, operator: UserId, concert: ConcertId, key: RequestKey) -> Result<Answer, Problem> {
        self.require_on()?;
        let ordering = Ordering { parts: self.parts.clone(), operator: Some(operator), concert };
        let order = self.parts.idempotency.once("warming.order", operator.0, key, ordering, |conn, ordering| {
            Box::pin(async move { Answer::json(ACCEPTED, &ordering.run(conn).await?) })
        });
        order.await
    }

    /// The same for whoever has the installation's settings.
    ///
    /// # Errors
    /// 404 where there is no such concert, 409 `warmer_off`.
    pub async fn order_by_command(&self, concert: ConcertId) -> Result<Ordered, Problem> {
        self.require_on()?;
        let ordering = Ordering { parts: self.parts.clone(), operator: None, concert };
        self.parts.db.in_tx("warming.order", ordering, |conn, ordering| Box::pin(ordering.run(conn))).await
    }

    /// What of the concert is warm, on every instance that runs.
    ///
    /// # Errors
    /// 404 where there is no such concert, or what the database refuses with.
    pub async fn get_cache(&self, concert: ConcertId) -> Result<CacheView, Problem> {
        let parts = &self.parts;
        let concert = parts.catalog.reader.get_concert(concert).await?.id;
        let found = parts.db.read("warming.get_cache", concert, |conn, concert| {
            Box::pin(async move {
                let rows = store::list_of(conn, &[*concert]).await?;
                Ok((rows, store::list_memories(conn, *concert).await?))
            })
        });
        let ((mut rows, kept), live) = (found.await?, parts.instances.list_live().await?);
        rows.sort_by_key(|row| (row.opens_at, row.occasion));
        Ok(CacheView::of(concert, rows, live, &kept, parts.clock.now()))
    }

    /// Concerts whose doors are open, or open within the lead time.
    ///
    /// # Errors
    /// What the database refuses with.
    pub async fn list_near(&self) -> Result<Vec<ConcertId>, Problem> {
        let scene = self.scene().await?;
        let near = scene.targets.iter().filter(|target| target.is_within(self.lead(), scene.now));
        Ok(near.map(|target| target.concert).collect())
    }

    fn require_on(&self) -> Result<(), Problem> {
        if self.is_on() { Ok(()) } else { Err(Problem::new(&WARMER_OFF)) }
    }
}

/// Whether the order was carried out: the shared tier was filled since, and every instance that runs has it in memory as of then.
#[must_use]
pub fn is_carried_out(cache: &CacheView, ordered_at: Timestamp) -> bool {
    let order = cache.warmings.iter().find(|warming| warming.occasion == Occasion::Order);
    let is_filled = order.is_some_and(|order| order.filled_at.is_some_and(|filled_at| filled_at >= ordered_at));
    let is_newer = |since: Option<Timestamp>| since.is_some_and(|since| since >= ordered_at);
    is_filled && cache.is_warm && cache.instances.iter().all(|instance| is_newer(instance.warm_since))
}
