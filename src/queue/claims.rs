//! Claiming: a called place is exchanged for a pass.

use std::sync::Arc;

use super::domain::{BOOKING_CLOSED, NOT_CALLED, PassId, Phase, Standing, TICKET_LAPSED, Ticket};
use super::line::Claimed;
use super::pass::{self, Elsewhere, Pass};
use super::sale::Sale;
use super::service::Queue;
use super::{metrics, store};
use crate::accounts::UserId;
use crate::catalog::ConcertId;
use crate::platform::clock::Timestamp;
use crate::platform::db::Conn;
use crate::platform::error::{Fault, Problem, codes};

impl Queue {
    /// Exchanges a called ticket for a pass: a slot in Redis, then a row in MySQL.
    ///
    /// # Errors
    /// `invalid_ticket`, `not_called`, `ticket_lapsed`, `booking_closed`, `sale_stopped`, `concert_cancelled`.
    pub async fn claim(
        self: &Arc<Self>,
        concert: ConcertId,
        user: UserId,
        ticket: Option<&str>,
    ) -> Result<(String, Timestamp), Problem> {
        let sale = self.get_sale(concert).await?;
        let ticket = self.open_ticket(&sale, ticket, Some(user))?;
        // Tickets end with the booking, unless it ended sooner than was said when they were given.
        if sale.view(|state| state.phase(self.now())) == Phase::Closed {
            return Err(Problem::new(&BOOKING_CLOSED));
        }
        // A client that goes away must not leave a slot that is taken by nobody's pass.
        let queue = self.clone();
        tokio::spawn(async move { queue.admit(&sale, &ticket).await }).await.map_err(Problem::internal)?
    }

    async fn admit(&self, sale: &Sale, ticket: &Ticket) -> Result<(String, Timestamp), Problem> {
        let concert = sale.concert;
        let rules = sale.view(|state| state.rules).of_claims();
        let Some(rank) = sale.spot(ticket.arrival).rank else { return Err(self.not_called(sale, None)) };
        let (epoch, claimed) = self
            .on_line(sale, |line, at| {
                let claim = line.claim(at, rank, &rules);
                Box::pin(async move { Ok(claim.await?.map(|claimed| (at.epoch, claimed))) })
            })
            .await?;
        metrics::claimed(&claimed);
        let until = match claimed {
            Claimed::Admitted(_) | Claimed::Full if rules.is_stopped => return Err(pass::stopped()),
            Claimed::Admitted(until) => until,
            Claimed::Full => return Err(self.not_called(sale, Some(0))),
            Claimed::Refused(Standing::Waiting) => {
                let serving = sale.view(|state| state.snapshot.serving);
                return Err(self.not_called(sale, Some(rank.saturating_sub(serving).max(1))));
            }
            Claimed::Refused(_) => return Err(Problem::new(&TICKET_LAPSED)),
        };
        // Nobody books after the sale.
        let expires_at = until.min(sale.view(|state| state.hours.booking_closes_at));
        let pass = Pass { id: PassId::new(), concert, user: ticket.user, arrival: ticket.arrival, expires_at };
        let pass = match self.keep_pass(epoch, rank, pass).await {
            Err(problem) if problem.code() == &TICKET_LAPSED => {
                // MySQL says that this stay is over: its slot must not stay taken.
                self.free_slot(concert, ticket.arrival).await?;
                return Err(problem);
            }
            kept => kept?,
        };
        Ok((self.passes.seal(&pass), pass.expires_at))
    }

    /// `ahead` is unknown before the draw.
    fn not_called(&self, sale: &Sale, ahead: Option<u64>) -> Problem {
        let standing = match ahead {
            None => Standing::Lobby,
            Some(0) => Standing::Called,
            Some(_) => Standing::Waiting,
        };
        let after = sale.poll_after_ms(standing, ahead.unwrap_or(0), self.now());
        Problem::new(&NOT_CALLED).with("ahead", ahead).with("poll_after_ms", after)
    }

    /// Writes the pass's row, or finds the one that an earlier claim of this place wrote. A slot of an earlier making of the
    /// line is worth nothing: its row would be one more than the slots that the new one counts.
    async fn keep_pass(&self, epoch: u32, rank: u64, pass: Pass) -> Result<Pass, Problem> {
        self.parts
            .db
            .in_tx_of(pass.user.0, "queue.claim", (epoch, rank, pass), |conn, (epoch, rank, pass)| {
                Box::pin(async move {
                    let locked = store::lock_epoch(conn, pass.concert).await?;
                    // The slot stays taken: claiming again gives it back once the sale goes on.
                    if let Some(refusal) = locked.and_then(|(_, halt)| halt.refusal()) {
                        return Err(refusal);
                    }
                    match locked {
                        Some((valid, _)) if valid == *epoch => {}
                        _ => return Err(Problem::new(&codes::UNAVAILABLE).detail("The line is being rebuilt.")),
                    }
                    if let Some(kept) = find_kept(conn, pass).await? {
                        return Ok(kept);
                    }
                    match pass::end_elsewhere(conn, pass.concert, pass.user, pass.arrival).await? {
                        Elsewhere::Ended => {}
                        // Another claim of the same place has just been committed.
                        Elsewhere::IsHere => return get_kept(conn, pass).await,
                    }
                    match store::insert_pass(conn, pass, *rank).await {
                        Ok(()) => Ok(*pass),
                        // The same place was claimed at the same time: that row is the pass.
                        Err(problem) if problem.fault() == Some(Fault::Duplicate) => get_kept(conn, pass).await,
                        Err(problem) => Err(problem),
                    }
                })
            })
            .await
    }
}

async fn get_kept(conn: &mut Conn, pass: &Pass) -> Result<Pass, Problem> {
    find_kept(conn, pass).await?.ok_or_else(|| Problem::new(&TICKET_LAPSED))
}

async fn find_kept(conn: &mut Conn, pass: &Pass) -> Result<Option<Pass>, Problem> {
    match store::find_by_place_for_update(conn, pass.concert, pass.arrival).await? {
        None => Ok(None),
        Some(row) if row.live && row.user_id == pass.user => {
            Ok(Some(Pass { id: row.id, expires_at: row.expires_at, ..*pass }))
        }
        Some(_) => Err(Problem::new(&TICKET_LAPSED)),
    }
}
