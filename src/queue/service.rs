//! Joining, waiting, claiming, leaving.

use std::sync::Arc;

use rand::Rng as _;

use super::channel::Channels;
use super::domain::{
    BOOKING_CLOSED, INVALID_TICKET, NOT_CALLED, PassId, Phase, QUEUE_NOT_OPEN, Rules, SOLD_OUT, SeatSupply, Settings,
    Standing, TICKET_LAPSED, Ticket,
};
use super::pass::{self, Elsewhere, Pass, Passes};
use super::redis::{Claimed, Join, Joined, Lines, Warm};
use super::sale::Sale;
use super::{metrics, store};
use crate::accounts::UserId;
use crate::catalog::{ConcertId, Reader};
use crate::platform::clock::{Clock, Timestamp};
use crate::platform::db::{Conn, Db};
use crate::platform::error::{Fault, Problem, codes};
use crate::platform::outbox::Wake;
use crate::platform::redis::Redis;
use crate::platform::token::KeyRing;

/// How far ahead of what is issued MySQL allows: about a second of joins at full speed.
pub(super) const CEILING_STEP: u64 = 5_000;
/// How often a cold line is rebuilt and asked again within one request.
const COLD_RETRIES: usize = 4;
/// How often one request raises the ceiling while others use up what it raised.
const CEILING_RETRIES: usize = 4;

/// A place as its holder sees it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where it stands.
    pub standing: Standing,
    /// The arrival index.
    pub arrival: u64,
    /// The rank, unknown in the lobby.
    pub rank: Option<u64>,
    /// How many ranks come first, unknown in the lobby.
    pub ahead: Option<u64>,
    /// Seconds until the call, estimated from the rate.
    pub eta_seconds: Option<u64>,
    /// When to ask again.
    pub poll_after_ms: u64,
    /// When the ticket ends.
    pub expires_at: Timestamp,
    /// Until when a called rank may claim.
    pub claim_by: Option<Timestamp>,
}

/// What the services are built from.
#[derive(Clone)]
pub struct Parts {
    /// The database.
    pub db: Db,
    /// The line's store.
    pub redis: Redis,
    /// The clock.
    pub clock: Clock,
    /// The keys of tickets and passes.
    pub keys: KeyRing,
    /// The catalogue.
    pub catalog: Arc<Reader>,
    /// Tells how many seats are left.
    pub supply: Arc<dyn SeatSupply>,
    /// Wakes the outbox.
    pub wake: Wake,
    /// `[queue]`.
    pub settings: Settings,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// The waiting lines of one instance.
#[derive(Debug)]
pub struct Queue {
    pub(super) parts: Parts,
    pub(super) lines: Lines,
    passes: Passes,
    pub(super) channels: Channels,
    pub(super) sales: moka::future::Cache<ConcertId, Arc<Sale>>,
}

impl Queue {
    /// Lines over these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let lines = Lines::new(parts.redis.clone(), parts.clock.clone());
        let passes = Passes::new(&parts.keys);
        let sales = moka::future::Cache::new(u64::from(parts.settings.sales_max));
        Self { parts, lines, passes, channels: Channels::default(), sales }
    }

    /// The present instant.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    /// The sale's line on this instance.
    ///
    /// # Errors
    /// 404 where there is no such concert.
    pub async fn get_sale(&self, concert: ConcertId) -> Result<Arc<Sale>, Problem> {
        if let Some(sale) = self.sales.get(&concert).await {
            return Ok(sale);
        }
        let loaded = self.sales.try_get_with(concert, self.load_sale(concert)).await;
        loaded.map_err(|problem| problem.again())
    }

    async fn load_sale(&self, concert: ConcertId) -> Result<Arc<Sale>, Problem> {
        let facts = self.parts.catalog.get_concert(concert).await?;
        let row =
            self.parts.db.read("queue.find_sale", concert, |conn, id| Box::pin(store::find_sale(conn, *id))).await?;
        let row = row.ok_or_else(|| Problem::not_found("concert"))?;
        let (keys, settings) = (&self.parts.keys, &self.parts.settings);
        Ok(Arc::new(Sale::new(&facts, &row, keys, settings, self.channels.get(concert))))
    }

    /// Gives `user` a place, or the one that the user has: by the line's own memory, or by a `ticket` presented after the
    /// line lost it. True where it is new.
    ///
    /// # Errors
    /// `queue_not_open`, `sold_out`, `booking_closed`.
    pub async fn join(
        &self,
        concert: ConcertId,
        user: UserId,
        ticket: Option<&str>,
    ) -> Result<(String, Place, bool), Problem> {
        let sale = self.get_sale(concert).await?;
        let now = self.now();
        match sale.view(|state| state.phase(now)) {
            Phase::Closed => return Err(Problem::new(&BOOKING_CLOSED)),
            Phase::Scheduled => {
                let opens = sale.view(|state| state.hours.line_opens_at());
                return Err(Problem::new(&QUEUE_NOT_OPEN).with("lobby_opens_at", opens.to_string()));
            }
            Phase::Lobby | Phase::Open | Phase::Paused | Phase::SoldOut => {}
        }
        let is_refused = sale.view(|state| state.phase(now)) == Phase::SoldOut;
        // A ticket that is not good is no reason to refuse a place.
        let presented = self.open_ticket(&sale, ticket, Some(user)).ok().map(|ticket| ticket.arrival);
        let (arrival, is_new) = self.issue(&sale, Join { user, ceiling: 0, presented, is_refused }).await?;
        metrics::joined(is_new);
        sale.mark_issued(arrival);
        let ticket = Ticket { user, arrival, expires_at: sale.view(|state| state.hours.booking_closes_at) };
        let place = self.place_of(&sale, &ticket).await?;
        Ok((ticket.seal(&sale.tickets), place, is_new))
    }

    async fn issue(&self, sale: &Sale, join: Join) -> Result<(u64, bool), Problem> {
        for _ in 0..CEILING_RETRIES {
            let join = Join { ceiling: sale.view(|state| state.ceiling), ..join };
            match self.on_line(sale, |epoch| self.lines.join(sale.concert, epoch, &join)).await? {
                Joined::Refused => return Err(Problem::new(&SOLD_OUT)),
                Joined::Ceiling(issued) => self.raise_ceiling(sale, issued).await?,
                Joined::New(arrival) => return Ok((arrival, true)),
                Joined::Same(arrival) => return Ok((arrival, false)),
            }
        }
        Err(Problem::new(&codes::OVERLOADED))
    }

    /// Where the holder of `ticket` stands.
    ///
    /// # Errors
    /// `invalid_ticket`.
    pub async fn find_place(&self, concert: ConcertId, ticket: Option<&str>) -> Result<Place, Problem> {
        let sale = self.get_sale(concert).await?;
        let ticket = self.open_ticket(&sale, ticket, None)?;
        self.place_of(&sale, &ticket).await
    }

    fn open_ticket(&self, sale: &Sale, text: Option<&str>, user: Option<UserId>) -> Result<Ticket, Problem> {
        let ticket = text.and_then(|text| Ticket::open(text, &sale.tickets, self.now()));
        ticket.filter(|ticket| user.is_none_or(|user| user == ticket.user)).ok_or_else(|| Problem::new(&INVALID_TICKET))
    }

    /// While the rank waits, this reads memory only.
    async fn place_of(&self, sale: &Sale, ticket: &Ticket) -> Result<Place, Problem> {
        let now = self.now();
        let rank = ticket.arrival;
        let (phase, serving, rules, is_gone) = sale.view(|state| {
            let is_gone = state.snapshot.gone.contains(&rank);
            (state.phase(now), state.snapshot.serving, state.rules, is_gone)
        });
        let (standing, claim_by) = if is_gone {
            (Standing::Left, None)
        } else if rank < serving {
            self.look(sale, rank, &rules).await?
        } else if phase == Phase::Lobby {
            (Standing::Lobby, None)
        } else {
            (Standing::Waiting, None)
        };
        let is_known = standing != Standing::Lobby;
        let ahead = rank.saturating_sub(serving);
        let spread = rand::rng().random_range(0.0..1.0);
        Ok(Place {
            standing,
            arrival: ticket.arrival,
            rank: is_known.then_some(rank),
            ahead: is_known.then_some(ahead),
            eta_seconds: is_known.then(|| ahead.div_ceil(u64::from(rules.admit_per_second.max(1)))),
            poll_after_ms: sale.poll_after_ms(standing, ahead, now, spread),
            expires_at: ticket.expires_at,
            claim_by: claim_by.filter(|_| standing == Standing::Called),
        })
    }

    async fn look(&self, sale: &Sale, rank: u64, rules: &Rules) -> Result<(Standing, Option<Timestamp>), Problem> {
        self.on_line(sale, |epoch| self.lines.look(sale.concert, epoch, rank, rules)).await
    }

    /// Exchanges a called ticket for a pass: a slot in Redis, then a row in MySQL.
    ///
    /// # Errors
    /// `invalid_ticket`, `not_called`, `ticket_lapsed`.
    pub async fn claim(
        self: &Arc<Self>,
        concert: ConcertId,
        user: UserId,
        ticket: Option<&str>,
    ) -> Result<(String, Timestamp), Problem> {
        let sale = self.get_sale(concert).await?;
        let ticket = self.open_ticket(&sale, ticket, Some(user))?;
        // A client that goes away must not leave a slot that is taken by nobody's pass.
        let queue = self.clone();
        tokio::spawn(async move { queue.admit(&sale, &ticket).await }).await.map_err(Problem::internal)?
    }

    async fn admit(&self, sale: &Sale, ticket: &Ticket) -> Result<(String, Timestamp), Problem> {
        let concert = sale.concert;
        let rules = sale.view(|state| state.rules);
        let claim = |epoch| {
            let claim = self.lines.claim(concert, epoch, ticket.arrival, &rules);
            async move { Ok(claim.await?.map(|claimed| (epoch, claimed))) }
        };
        let (epoch, claimed) = self.on_line(sale, claim).await?;
        metrics::claimed(&claimed);
        let until = match claimed {
            Claimed::Admitted(until) => until,
            Claimed::Full => return Err(Self::not_called(sale, 0)),
            Claimed::Refused(Standing::Waiting) => {
                let serving = sale.view(|state| state.snapshot.serving);
                return Err(Self::not_called(sale, ticket.arrival.saturating_sub(serving).max(1)));
            }
            Claimed::Refused(_) => return Err(Problem::new(&TICKET_LAPSED)),
        };
        let pass = Pass { id: PassId::new(), concert, user: ticket.user, arrival: ticket.arrival, expires_at: until };
        let pass = match self.keep_pass(epoch, pass).await {
            Err(problem) if problem.code() == &TICKET_LAPSED => {
                // MySQL says that this stay is over: its slot must not stay taken.
                self.free_slot(concert, ticket.arrival).await?;
                return Err(problem);
            }
            kept => kept?,
        };
        Ok((self.passes.seal(&pass), pass.expires_at))
    }

    fn not_called(sale: &Sale, ahead: u64) -> Problem {
        let after = sale.view(|state| state.pace.after_ms(ahead, rand::rng().random_range(0.0..1.0)));
        Problem::new(&NOT_CALLED).with("ahead", ahead).with("poll_after_ms", after)
    }

    /// Writes the pass's row, or finds the one that an earlier claim of this place wrote. A slot of an earlier making of the
    /// line is worth nothing: its row would be one more than the slots that the new one counts.
    async fn keep_pass(&self, epoch: u32, pass: Pass) -> Result<Pass, Problem> {
        self.parts
            .db
            .in_tx_of(pass.user.0, "queue.claim", (epoch, pass), |conn, (epoch, pass)| {
                Box::pin(async move {
                    if store::lock_epoch(conn, pass.concert).await? != Some(*epoch) {
                        return Err(Problem::new(&codes::UNAVAILABLE).detail("The line is being rebuilt."));
                    }
                    if let Some(kept) = find_kept(conn, pass).await? {
                        return Ok(kept);
                    }
                    match pass::end_elsewhere(conn, pass.concert, pass.user, pass.arrival).await? {
                        Elsewhere::Ended => {}
                        // Another claim of the same place has just been committed.
                        Elsewhere::IsHere => return get_kept(conn, pass).await,
                    }
                    let inserted =
                        store::insert_pass(conn, pass.id, pass.concert, pass.user, pass.arrival, pass.expires_at).await;
                    match inserted {
                        Ok(()) => Ok(*pass),
                        // The same place was claimed at the same time: that row is the pass.
                        Err(problem) if problem.fault() == Some(Fault::Duplicate) => get_kept(conn, pass).await,
                        Err(problem) => Err(problem),
                    }
                })
            })
            .await
    }

    /// Gives a place up. Whoever was inside leaves too.
    ///
    /// # Errors
    /// `invalid_ticket`.
    pub async fn leave(&self, concert: ConcertId, user: UserId, ticket: Option<&str>) -> Result<(), Problem> {
        let sale = self.get_sale(concert).await?;
        let ticket = self.open_ticket(&sale, ticket, Some(user))?;
        let leave = |epoch| self.lines.leave(concert, epoch, ticket.arrival, false);
        match self.on_line(&sale, leave).await? {
            Standing::Admitted => {
                if !self.end_stay(concert, user, ticket.arrival).await? {
                    // The slot was taken, but its pass was never written.
                    self.free_slot(concert, ticket.arrival).await?;
                }
            }
            _ => sale.mark_gone(ticket.arrival),
        }
        Ok(())
    }

    /// Gives the slot back before the pass ends.
    ///
    /// # Errors
    /// `pass_required`, `invalid_pass`, `pass_expired`.
    pub async fn leave_inside(&self, concert: ConcertId, user: UserId, pass: Option<&str>) -> Result<(), Problem> {
        let pass = self.passes.open(pass, user, concert, self.now())?;
        self.parts.db.in_tx_of(user.0, "queue.end_pass", pass, |conn, pass| Box::pin(pass::end(conn, pass))).await?;
        self.parts.wake.now();
        Ok(())
    }

    /// Whether a stay was live.
    async fn end_stay(&self, concert: ConcertId, user: UserId, arrival: u64) -> Result<bool, Problem> {
        let input = (concert, user, arrival);
        let ended = self
            .parts
            .db
            .in_tx_of(user.0, "queue.end_stay", input, |conn, (concert, user, arrival)| {
                Box::pin(pass::end_at(conn, *concert, *user, *arrival))
            })
            .await?;
        self.parts.wake.now();
        Ok(ended)
    }

    /// Frees the slot of a stay that MySQL says has ended. Repeatable.
    ///
    /// # Errors
    /// Where Redis does not answer: the caller tries again.
    pub async fn free_slot(&self, concert: ConcertId, arrival: u64) -> Result<(), Problem> {
        let sale = self.get_sale(concert).await?;
        // A rebuilt line takes its slots from the live rows, and this one is no longer among them.
        self.on_line(&sale, |epoch| self.lines.leave(concert, epoch, arrival, true)).await.map(drop)
    }

    /// Asks the line, making it anew first where Redis has lost it.
    async fn on_line<T, F>(&self, sale: &Sale, ask: impl Fn(u32) -> F) -> Result<T, Problem>
    where
        F: Future<Output = Result<Warm<T>, Problem>>,
    {
        for _ in 0..COLD_RETRIES {
            let epoch = sale.view(|state| state.epoch);
            match ask(epoch).await? {
                Warm::Answer(answer) => return Ok(answer),
                Warm::Cold => self.rebuild(sale, epoch).await?,
            }
        }
        Err(Problem::new(&codes::UNAVAILABLE).detail("The line is being rebuilt."))
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
