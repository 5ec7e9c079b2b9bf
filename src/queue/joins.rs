//! Places taken and given up.

use super::domain::{BOOKING_CLOSED, PassId, Phase, Place, QUEUE_NOT_OPEN, SOLD_OUT, Standing, Ticket};
use super::line::{End, Join, Joined, Left};
use super::metrics;
use super::pass::{self, Pass};
use super::sale::Sale;
use super::service::Queue;
use super::store;
use super::store::places::{self, PlaceRow};
use super::store::stays;
use crate::accounts::UserId;
use crate::catalog::ConcertId;
use crate::platform::clock::Timestamp;
use crate::platform::error::{Problem, codes};

/// How often one join asks the line: for a rank, for MySQL's copy, after the draw, and after raising the ceiling while others
/// use up what it raised.
const STEPS_MAX: usize = 8;

impl Queue {
    /// Gives `user` a place, or the one that the user has: by the line's own memory, by its copy in MySQL or by a `ticket`
    /// presented after the line lost it. True where it is new.
    ///
    /// # Errors
    /// `queue_not_open`, `sold_out`, `joins_closed`, `booking_closed`.
    pub async fn join(
        &self,
        concert: ConcertId,
        user: UserId,
        ticket: Option<&str>,
    ) -> Result<(String, Place, bool), Problem> {
        let sale = self.get_sale(concert).await?;
        let now = self.now();
        let (phase, closes_at) = sale.view(|state| (state.phase(now), state.hours.booking_closes_at));
        match phase {
            Phase::Closed => return Err(Problem::new(&BOOKING_CLOSED)),
            Phase::Scheduled => {
                let opens = sale.view(|state| state.hours.line_opens_at());
                return Err(Problem::new(&QUEUE_NOT_OPEN).with("lobby_opens_at", opens.to_string()));
            }
            Phase::Lobby | Phase::Open | Phase::Paused | Phase::SoldOut => {}
        }
        // A ticket that is not good is no reason to refuse a place.
        let presented = self.open_ticket(&sale, ticket, Some(user)).ok().map(|ticket| ticket.arrival);
        let (mut place, mut is_new) = self.take(&sale, user, presented, closes_at).await?;
        // The line hears of the end of a stay behind the commit that ended it: perhaps not yet, perhaps since it found the place.
        let is_over = match place.standing {
            Standing::Admitted => self.has_ended(concert, place.arrival).await,
            Standing::Finished | Standing::Left | Standing::Lapsed => !is_new,
            Standing::Lobby | Standing::Waiting | Standing::Called => false,
        };
        if is_over {
            if place.standing == Standing::Admitted {
                self.free_slot(concert, place.arrival).await?;
            }
            (place, is_new) = self.take(&sale, user, presented, closes_at).await?;
        }
        metrics::joined(is_new);
        let ticket = Ticket { user, arrival: place.arrival, expires_at: closes_at };
        Ok((ticket.seal(&sale.tickets), place, is_new))
    }

    async fn take(
        &self,
        sale: &Sale,
        user: UserId,
        presented: Option<u64>,
        expires_at: Timestamp,
    ) -> Result<(Place, bool), Problem> {
        let (arrival, is_new) = self.issue(sale, user, presented).await?;
        // One that is not new too: the answer that gave it may have been lost before it was copied.
        self.copying.add(PlaceRow { concert: sale.concert, arrival, user });
        sale.mark_issued(arrival);
        let place = self.place_of(sale, &Ticket { user, arrival, expires_at }).await?;
        Ok((place, is_new))
    }

    /// Whether MySQL knows that the stay of this place has ended. A stay whose pass is just being written has not; where MySQL does
    /// not answer, the line's word stands.
    async fn has_ended(&self, concert: ConcertId, arrival: u64) -> bool {
        let ask = self.parts.db.read("queue.has_stay_ended", (concert, arrival), |conn, (concert, arrival)| {
            Box::pin(stays::has_ended(conn, *concert, *arrival))
        });
        ask.await.unwrap_or(false)
    }

    async fn issue(&self, sale: &Sale, user: UserId, mut presented: Option<u64>) -> Result<(u64, bool), Problem> {
        let (mut has_looked, mut over, mut asked) = (false, None, None);
        for _ in 0..STEPS_MAX {
            let (refusal, ceiling, ranking) =
                sale.view(|state| (state.refusal(self.now()), state.ceiling, sale.ranking_of(state)));
            let join = Join {
                user,
                ceiling,
                presented: presented.map(|arrival| sale.spot(arrival)),
                has_looked,
                over,
                is_refused: refusal.is_some(),
                ranking,
                asked: asked.map(|arrival| sale.spot(arrival)),
            };
            match self.on_line(sale, |line, at| line.join(at, &join)).await? {
                Joined::Refused => return Err(Problem::new(refusal.unwrap_or(&SOLD_OUT))),
                Joined::Ceiling(issued) => self.raise_ceiling(sale, issued).await?,
                Joined::NeedsRank(arrival) => asked = Some(arrival),
                Joined::Unknown => {
                    has_looked = true;
                    match self.copied_place(sale, user, presented.is_some()).await? {
                        Some((arrival, true)) => over = Some(arrival),
                        Some((arrival, false)) => presented = presented.max(Some(arrival)),
                        None => {}
                    }
                }
                Joined::Drawn => self.reread(sale).await?,
                Joined::New(arrival) => return Ok((arrival, true)),
                Joined::Same(arrival) => return Ok((arrival, false)),
            }
        }
        Err(Problem::new(&codes::OVERLOADED))
    }

    /// The user's newest place in MySQL's copy, and whether it is over.
    async fn copied_place(&self, sale: &Sale, user: UserId, has_ticket: bool) -> Result<Option<(u64, bool)>, Problem> {
        let input = (sale.concert, user);
        let find = self.parts.db.read("queue.find_place", input, |conn, (concert, user)| {
            Box::pin(places::find_newest_of(conn, *concert, *user))
        });
        match find.await {
            // The ticket is proof enough.
            Err(_) if has_ticket => Ok(None),
            found => found,
        }
    }

    /// Gives a place up. Whoever was inside leaves too.
    ///
    /// # Errors
    /// `invalid_ticket`.
    pub async fn leave(&self, concert: ConcertId, user: UserId, ticket: Option<&str>) -> Result<(), Problem> {
        let sale = self.get_sale(concert).await?;
        let ticket = self.open_ticket(&sale, ticket, Some(user))?;
        for _ in 0..STEPS_MAX {
            let (standing, epoch) = self.end_place(&sale, ticket.arrival, End::Left).await?;
            match standing {
                Standing::Admitted => {
                    self.end_stay(&sale, &ticket).await?;
                    return self.free_slot(concert, ticket.arrival).await;
                }
                // Left already: perhaps by an earlier request that MySQL did not hear of.
                Standing::Lobby | Standing::Waiting | Standing::Called | Standing::Left => {
                    if self.note_left(PlaceRow { concert, arrival: ticket.arrival, user }, epoch).await? {
                        sale.mark_gone(sale.spot(ticket.arrival));
                        return Ok(());
                    }
                    // The line was made anew meanwhile, perhaps without hearing of it.
                    self.reread(&sale).await?;
                }
                Standing::Lapsed | Standing::Finished => return Ok(()),
            }
        }
        Err(Problem::new(&codes::OVERLOADED))
    }

    /// Writes down that a place was given up: only what MySQL knows survives the loss of the line, and a 204 must. Whether the
    /// line is still the one that was told.
    async fn note_left(&self, place: PlaceRow, epoch: u32) -> Result<bool, Problem> {
        self.parts
            .db
            .in_tx("queue.leave", (place, epoch), |conn, (place, epoch)| {
                Box::pin(async move {
                    let valid = store::lock_epoch(conn, place.concert).await?;
                    places::mark_left(conn, place).await?;
                    Ok(valid.is_some_and(|(valid, _)| valid == *epoch))
                })
            })
            .await
    }

    /// Where the place stood, and in which making of the line.
    async fn end_place(&self, sale: &Sale, arrival: u64, end: End) -> Result<(Standing, u32), Problem> {
        for _ in 0..STEPS_MAX {
            let spot = sale.spot(arrival);
            let left = self.on_line(sale, |line, at| {
                let left = line.leave(at, spot, end);
                Box::pin(async move { Ok(left.await?.map(|left| (left, at.epoch))) })
            });
            match left.await? {
                (Left::From(standing), epoch) => return Ok((standing, epoch)),
                (Left::Drawn, _) => self.reread(sale).await?,
            }
        }
        Err(Problem::new(&codes::OVERLOADED))
    }

    /// Gives the slot back before the pass ends.
    ///
    /// # Errors
    /// `pass_required`, `invalid_pass`, `pass_expired`.
    pub async fn leave_inside(&self, concert: ConcertId, user: UserId, pass: Option<&str>) -> Result<(), Problem> {
        let pass = self.passes.open(pass, user, concert, self.now())?;
        let arrival = pass.arrival;
        self.parts.db.in_tx_of(user.0, "queue.end_pass", pass, |conn, pass| Box::pin(pass::end(conn, pass))).await?;
        self.parts.wake.now();
        // At once, as somebody who joins again now is not inside any more. Where the line does not answer, it hears of it later.
        if let Err(problem) = self.free_slot(concert, arrival).await {
            tracing::debug!(%problem, "a slot is freed later");
        }
        Ok(())
    }

    /// Ends the stay of a place, also one whose pass is just being written.
    async fn end_stay(&self, sale: &Sale, ticket: &Ticket) -> Result<(), Problem> {
        let Some(rank) = sale.spot(ticket.arrival).rank else { return Ok(()) };
        let (concert, user, arrival) = (sale.concert, ticket.user, ticket.arrival);
        let stay = Pass { id: PassId::new(), concert, user, arrival, expires_at: ticket.expires_at };
        let end = self.parts.db.in_tx_of(user.0, "queue.end_stay", (stay, rank), |conn, (stay, rank)| {
            Box::pin(pass::end_at(conn, stay, *rank))
        });
        end.await?;
        self.parts.wake.now();
        Ok(())
    }

    /// Frees the slot of a stay that MySQL says has ended. Repeatable.
    ///
    /// # Errors
    /// Where the line does not answer: the caller tries again.
    pub async fn free_slot(&self, concert: ConcertId, arrival: u64) -> Result<(), Problem> {
        let sale = self.get_sale(concert).await?;
        // A rebuilt line takes its slots from the live rows, and this one is no longer among them.
        self.end_place(&sale, arrival, End::Finished).await.map(drop)
    }
}
