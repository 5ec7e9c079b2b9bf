//! What the features above change of concerts and performances, each in a transaction of its own.
//!
//! The last thing that such a transaction does is to [`announce`] it. Afterwards they call [`super::Catalog::show_changes`]: this instance
//! shows the change at once, others with the next news, within `cache.news_ms`.

use super::domain::{Concert, ConcertId, PerformanceId};
use super::{kept, store};
use crate::platform::clock::Timestamp;
use crate::platform::db::Conn;
use crate::platform::error::Problem;

/// When a performance begins, and whether that was always so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// Its concert.
    pub concert_id: ConcertId,
    /// When it begins.
    pub starts_at: Timestamp,
    /// When it was last moved.
    pub postponed_at: Option<Timestamp>,
    /// How often it was moved.
    pub postponements: u32,
}

/// The performance's date as it is now.
///
/// # Errors
/// Where the statement fails.
pub async fn find_date(conn: &mut Conn, performance: PerformanceId) -> Result<Option<Date>, Problem> {
    store::find_date(conn, performance).await
}

/// The performance's date, locked.
///
/// # Errors
/// Where the statement fails.
pub async fn find_date_for_update(conn: &mut Conn, performance: PerformanceId) -> Result<Option<Date>, Problem> {
    store::find_date_for_update(conn, performance).await
}

/// Moves a performance whose date is locked, and with it the first date that lists show of its concert.
///
/// # Errors
/// Where a statement fails.
pub async fn postpone(
    conn: &mut Conn,
    concert: ConcertId,
    performance: PerformanceId,
    starts_at: Timestamp,
) -> Result<(), Problem> {
    store::postpone(conn, performance, starts_at).await?;
    store::set_first_performance(conn, concert).await
}

/// The concert, locked.
///
/// # Errors
/// Where a statement fails.
pub async fn find_concert_for_update(conn: &mut Conn, concert: ConcertId) -> Result<Option<Concert>, Problem> {
    store::find_concert_for_update(conn, concert).await
}

/// Ends a locked concert's booking now, unless it has ended. It does not open again.
///
/// # Errors
/// Where the statement fails.
pub async fn close_booking(conn: &mut Conn, concert: ConcertId) -> Result<(), Problem> {
    store::close_booking(conn, concert).await
}

/// Announces that the concert, or one of its performances, is another one now. It locks what other changes need: the last
/// statement of the transaction.
///
/// # Errors
/// Where a statement fails.
pub async fn announce(conn: &mut Conn, concert: ConcertId) -> Result<(), Problem> {
    kept::announce(conn, concert).await
}
