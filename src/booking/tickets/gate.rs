//! The gate: a ticket is looked at, and used up by whoever is first to say so.
//!
//! One statement marks a ticket's row, and only where it is live and was not marked before: of any number of gates that are
//! shown the same code, the row's lock lets one be first. Giving the reservation back changes the same row, so that either the
//! ticket was used or it is void, never both.
//!
//! A mark from before the performance was last moved is of another date, and does not count. The moment of the move is read in
//! the same transaction, before the mark: one that is committed in between only makes this gate refuse what the next asks again.

use serde::Serialize;

use super::keys::{Shown, TicketKeys};
use super::qr;
use super::{ALREADY_CHECKED_IN, OTHER_PERFORMANCE, TICKET_GONE, TICKET_VOID};
use crate::accounts::UserId;
use crate::booking::reservations::ReservationId;
use crate::booking::reservations::store::tickets as store;
use crate::catalog::{PerformanceId, changes};
use crate::platform::clock::Timestamp;
use crate::platform::db::{Conn, Db};
use crate::platform::error::Problem;
use crate::platform::http::keyed::{Answer, OK, RequestKey};
use crate::platform::idempotency::Idempotency;

/// Looks at tickets.
#[derive(Clone, Debug)]
pub struct Gate {
    /// The database.
    pub db: Db,
    /// Keys of requests.
    pub idempotency: Idempotency,
    /// Who signs.
    pub keys: TicketKeys,
}

/// A seat whose ticket was used.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct CheckedInSeat {
    /// Its label.
    pub id: String,
    /// Its grade.
    pub grade: String,
}

/// A ticket that has just opened a gate.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct CheckedIn {
    /// Its reservation.
    pub reservation_id: ReservationId,
    /// The performance that it is good for.
    pub performance_id: PerformanceId,
    /// Where its holder sits.
    pub seat: CheckedInSeat,
    /// When.
    pub checked_in_at: Timestamp,
}

struct CheckIn {
    operator: UserId,
    shown: Shown,
    performance: Option<PerformanceId>,
}

impl Gate {
    /// Uses a ticket up: 200 for the first who asks. With a `performance`, only a ticket that is good for it.
    ///
    /// # Errors
    /// 404 for a code that was not signed here or has no ticket, `other_performance`, `ticket_void`, `already_checked_in` with
    /// `checked_in_at`.
    pub async fn check_in(
        &self,
        operator: UserId,
        code: &str,
        performance: Option<PerformanceId>,
        key: RequestKey,
    ) -> Result<Answer, Problem> {
        let shown = self.keys.read(code).ok_or_else(unknown)?;
        let input = CheckIn { operator, shown, performance };
        self.idempotency.once("tickets.check_in", operator.0, key, input, |conn, input| Box::pin(input.run(conn))).await
    }

    /// The code of one of the user's tickets as a picture (SVG).
    ///
    /// # Errors
    /// 404 where the reservation is not the user's or has no such ticket, `ticket_gone`.
    pub async fn picture(&self, user: UserId, reservation: ReservationId, code: &str) -> Result<String, Problem> {
        let Shown { serial, .. } = self.keys.read(code).ok_or_else(unknown)?;
        let find = self.db.read("tickets.find", (user, reservation, serial), |conn, (user, reservation, serial)| {
            Box::pin(store::find_of(conn, *user, *reservation, serial))
        });
        let ticket = find.await?.ok_or_else(unknown)?;
        if !ticket.is_live {
            return Err(Problem::new(&TICKET_GONE));
        }
        qr::svg(&self.keys.code(ticket.performance_id, ticket.seat_no, &ticket.serial))
    }
}

fn unknown() -> Problem {
    Problem::not_found("ticket")
}

impl CheckIn {
    async fn run(&self, conn: &mut Conn) -> Result<Answer, Problem> {
        let ticket = store::find(conn, &self.shown.serial).await?.ok_or_else(unknown)?;
        if self.shown.seat.is_some_and(|seat| seat != (ticket.performance_id, ticket.seat_no)) {
            return Err(unknown());
        }
        if self.performance.is_some_and(|performance| performance != ticket.performance_id) {
            let id = ticket.performance_id.to_string();
            return Err(Problem::new(&OTHER_PERFORMANCE).with("performance_id", id));
        }
        let date = changes::find_date(conn, ticket.performance_id).await?;
        let date = date.ok_or_else(|| Problem::internal(anyhow::anyhow!("no such performance")))?;
        let is_first = store::check_in(conn, &self.shown.serial, self.operator, date.postponed_at).await?;
        // As it is now: another gate, or its buyer, may have been faster since it was found.
        let ticket = store::find(conn, &self.shown.serial).await?.ok_or_else(unknown)?;
        match (is_first, ticket.is_live, ticket.checked_in_at) {
            (true, _, Some(checked_in_at)) => {
                let seat = CheckedInSeat { id: ticket.label, grade: ticket.grade };
                let (reservation_id, performance_id) = (ticket.reservation_id, ticket.performance_id);
                Answer::json(OK, &CheckedIn { reservation_id, performance_id, seat, checked_in_at })
            }
            (false, false, _) => Err(Problem::new(&TICKET_VOID)),
            (false, true, Some(at)) => Err(Problem::new(&ALREADY_CHECKED_IN).with("checked_in_at", at.to_string())),
            (_, _, None) => Err(Problem::internal(anyhow::anyhow!("a live ticket was not checked in"))),
        }
    }
}
