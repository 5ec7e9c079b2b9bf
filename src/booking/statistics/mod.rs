//! How a sale goes, for whoever runs it: the line, what is held, what is sold, and the money.
//!
//! Owns no table and no key: each figure comes from the room that owns it. They are read one after the other, while the sale goes
//! on: figures of different parts may differ by what happened in between.

use std::sync::Arc;

use serde::Serialize;

use crate::booking::holds::store::counts::{HoldCounts, count_live};
use crate::booking::reservations::store::counts::{StateCounts, count_by_state};
use crate::booking::seats::Seats;
use crate::catalog::{ConcertId, PerformanceId};
use crate::platform::clock::Timestamp;
use crate::platform::db::Db;
use crate::platform::error::Problem;
use crate::platform::money::{CURRENCY, Money};
use crate::queue::Queue;
use crate::queue::admin::LineView;

pub mod admin;

/// Everything about one sale.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SaleStats {
    /// The concert.
    pub concert_id: ConcertId,
    /// When this was read.
    pub as_of: Timestamp,
    /// How the line stands on the instance that answers.
    pub line: LineView,
    /// Holds that can still be paid.
    pub holds: HoldCounts,
    /// Seats and reservations.
    pub sales: SalesStats,
    /// What was paid, and what was given back.
    pub money: MoneyStats,
}

/// Seats by performance, and reservations by state.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SalesStats {
    /// Seats of confirmed reservations.
    pub seats_sold: u64,
    /// Reservations whose payment is not decided.
    pub pending: u64,
    /// Reservations that are paid.
    pub confirmed: u64,
    /// Reservations that came to nothing, or that their buyers gave back.
    pub cancelled: u64,
    /// Reservations that the organiser gave back.
    pub refunded: u64,
    /// Each performance.
    pub performances: Vec<PerformanceStats>,
}

/// The seats of one performance.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct PerformanceStats {
    /// The performance.
    pub id: PerformanceId,
    /// When it begins.
    pub starts_at: Timestamp,
    /// Seats in its map.
    pub seats_total: u32,
    /// Seats that can be held now.
    pub available: u32,
    /// Seats that somebody is deciding on.
    pub held: u32,
    /// Seats sold or out of sale.
    pub taken: u32,
}

/// Won.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct MoneyStats {
    /// The currency.
    pub currency: &'static str,
    /// Price of all confirmed reservations.
    pub sold: Money,
    /// Price of all reservations that were paid and given back; what cards are still owed included.
    pub given_back: Money,
    /// Price of all reservations whose payment is not decided.
    pub pending: Money,
}

/// Puts the figures together.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// The database.
    pub db: Db,
    /// The lines.
    pub queue: Arc<Queue>,
    /// The seats.
    pub seats: Arc<Seats>,
}

impl Statistics {
    /// The figures of a sale.
    ///
    /// # Errors
    /// 404 where there is no such concert, or what the database refuses with.
    pub async fn get(&self, concert: ConcertId) -> Result<SaleStats, Problem> {
        let sale = self.queue.get_sale(concert).await?;
        let as_of = self.queue.now();
        let performances = self.list_performances(concert).await?;
        let counts = self.db.read("statistics.count", concert, |conn, concert| {
            Box::pin(async move { Ok((count_live(conn, *concert).await?, count_by_state(conn, *concert).await?)) })
        });
        let (holds, states) = counts.await?;
        let StateCounts { pending, confirmed, cancelled, refunded } = states;
        Ok(SaleStats {
            concert_id: concert,
            as_of,
            line: sale.view(|state| LineView::of(concert, state, as_of)),
            holds,
            sales: SalesStats {
                seats_sold: confirmed.seats,
                pending: pending.reservations,
                confirmed: confirmed.reservations,
                cancelled: cancelled.reservations,
                refunded: refunded.reservations,
                performances,
            },
            money: MoneyStats {
                currency: CURRENCY,
                sold: confirmed.amount,
                given_back: Money(cancelled.paid.0.saturating_add(refunded.paid.0)),
                pending: pending.amount,
            },
        })
    }

    async fn list_performances(&self, concert: ConcertId) -> Result<Vec<PerformanceStats>, Problem> {
        let concert = self.seats.catalog().get_concert(concert).await?;
        let mut performances = Vec::with_capacity(concert.performances.len());
        for performance in &concert.performances {
            let shown = self.seats.get_board(performance.id).await?;
            let (available, unsold) = (shown.board.available(), shown.board.unsold());
            performances.push(PerformanceStats {
                id: performance.id,
                starts_at: performance.starts_at,
                seats_total: shown.board.total,
                available,
                held: unsold.saturating_sub(available),
                taken: shown.board.total.saturating_sub(unsold),
            });
        }
        Ok(performances)
    }
}
