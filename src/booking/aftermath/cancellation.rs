//! Cancelling a concert: at once for everybody who would still buy, and step by step for those who have bought.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::domain::{Cancellation, CancellationState};
use super::refunding::Turns;
use super::store;
use crate::accounts::{UserId, actions};
use crate::booking::reservations::ReservationId;
use crate::booking::reservations::domain::ReservationStatus;
use crate::booking::reservations::store::refunds::{count_open, list_given_back};
use crate::booking::seats::Settings;
use crate::catalog::{Catalog, ConcertId, changes};
use crate::payments::{self, PaymentId};
use crate::platform::db::{Conn, Db};
use crate::platform::error::Problem;
use crate::platform::money::CURRENCY;
use crate::platform::outbox::{self, Wake};
use crate::platform::telemetry::Seldom;
use crate::queue::pass;

/// The event that a concert is cancelled: the first and only one of it.
const CANCELLED: &str = "concert.cancelled";
/// Reservations looked at by one statement that counts what is owed.
const COUNTED_ROWS: u32 = 1000;

/// Cancels and moves what was sold. Clones share how far they have looked.
#[derive(Clone, Debug)]
pub struct Aftermath {
    pub(super) db: Db,
    pub(super) catalog: Arc<Catalog>,
    pub(super) wake: Wake,
    pub(super) refunds_per_second_max: u32,
    /// How long a hold lives.
    pub(super) hold_for: Duration,
    /// Of reservations that cannot be given back, and of concerts that are held up.
    pub(super) seldom: Arc<Seldom>,
    pub(super) stuck: Arc<Seldom>,
    pub(super) turns: Arc<Mutex<Turns>>,
}

impl Aftermath {
    /// Over this database and catalogue; `wake` wakes the relay.
    #[must_use]
    pub fn new(db: Db, catalog: Arc<Catalog>, wake: Wake, settings: &Settings) -> Self {
        let refunds_per_second_max = settings.refunds_per_second_max;
        let hold_for = Duration::from_secs(settings.hold_secs);
        let (seldom, stuck, turns) = (Arc::default(), Arc::default(), Arc::default());
        Self { db, catalog, wake, refunds_per_second_max, hold_for, seldom, stuck, turns }
    }

    /// Cancels a concert: from the answer on nothing of it is sold any more, and the money is given back by all instances
    /// together. Cancelling it again changes nothing.
    ///
    /// # Errors
    /// 404 where there is no such concert.
    pub async fn cancel(&self, operator: UserId, concert: ConcertId) -> Result<Cancellation, Problem> {
        let input = (operator, concert);
        let cancelled =
            self.db.in_tx("aftermath.cancel", input, |conn, input| Box::pin(cancel(conn, input.0, input.1))).await?;
        self.catalog.show_changes().await;
        self.wake.now();
        self.with_owed(cancelled).await
    }

    /// How far it has got.
    ///
    /// # Errors
    /// 404 where the concert is not cancelled.
    pub async fn get_cancellation(&self, concert: ConcertId) -> Result<Cancellation, Problem> {
        let find = self.db.read("aftermath.find", concert, |conn, concert| Box::pin(find(conn, *concert)));
        let found = find.await?.ok_or_else(|| Problem::not_found("cancellation"))?;
        self.with_owed(found).await
    }

    /// Counts what is owed to cards, in bounded steps: a large concert has many reservations.
    async fn with_owed(&self, mut cancellation: Cancellation) -> Result<Cancellation, Problem> {
        for state in [ReservationStatus::CANCELLED, ReservationStatus::REFUNDED] {
            let mut after = Some(ReservationId(Uuid::nil()));
            while let Some(reservation) = after {
                let input = (cancellation.concert_id, state, reservation);
                let count = self.db.read("aftermath.count_owed", input, |conn, (concert, state, after)| {
                    Box::pin(count_owed(conn, *concert, *state, *after))
                });
                let (owed, last) = count.await?;
                cancellation.refunds_owed += owed;
                after = last;
            }
        }
        Ok(cancellation)
    }
}

async fn cancel(conn: &mut Conn, operator: UserId, id: ConcertId) -> Result<Cancellation, Problem> {
    let concert = changes::find_concert_for_update(conn, id).await?;
    let concert = concert.ok_or_else(|| Problem::not_found("concert"))?;
    if let Some(before) = find(conn, id).await? {
        return Ok(before);
    }
    changes::close_booking(conn, id).await?;
    pass::cancel_sale(conn, id).await?;
    store::insert(conn, id, operator).await?;
    let cancellation = find(conn, id).await?;
    let cancellation =
        cancellation.ok_or_else(|| Problem::internal(anyhow::anyhow!("a row that was just inserted")))?;
    let details = json!({"before": {"booking_closes_at": concert.booking_closes_at},
        "after": {"cancelled": true, "to_give_back": cancellation.total}});
    actions::record(conn, operator, CANCELLED, Some(id), &details).await?;
    let performances: Vec<_> = concert.performances.iter().map(|performance| performance.id).collect();
    let facts = json!({"concert_id": id, "title": concert.title, "performance_ids": performances});
    outbox::record(conn, CANCELLED, id.0, 1, &facts).await?;
    changes::announce(conn, id).await?;
    Ok(cancellation)
}

/// How many of the next reservations in this state are owed to a card, and the last of them where there may be more.
async fn count_owed(
    conn: &mut Conn,
    concert: ConcertId,
    state: u8,
    after: ReservationId,
) -> Result<(u64, Option<ReservationId>), Problem> {
    let found = list_given_back(conn, concert, state, after, COUNTED_ROWS).await?;
    let is_full = found.len() as u64 == u64::from(COUNTED_ROWS);
    let last = found.last().filter(|_| is_full).map(|(reservation, _)| *reservation);
    let payments: Vec<PaymentId> = found.into_iter().map(|(_, payment)| payment).collect();
    Ok((payments::count_owed(conn, &payments).await?, last))
}

/// All but what is owed to cards.
async fn find(conn: &mut Conn, concert: ConcertId) -> Result<Option<Cancellation>, Problem> {
    let Some(row) = store::find(conn, concert).await? else { return Ok(None) };
    let open = count_open(conn, concert).await?;
    let done = u64::from(row.done);
    Ok(Some(Cancellation {
        concert_id: row.concert_id,
        state: CancellationState::of(row.state),
        total: done + open.all - open.pending,
        done,
        pending: open.pending,
        refunds_owed: 0,
        refunded_amount: row.refunded_amount,
        currency: CURRENCY,
        requested_at: row.requested_at,
        finished_at: row.finished_at,
    }))
}
