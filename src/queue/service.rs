//! The lines of one instance: finding them, asking them, telling who waits where.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};

use super::channel::Channels;
use super::charge::Asked;
use super::domain::{INVALID_TICKET, InCharge, Phase, Place, Rules, SeatSupply, Settings, Standing, Ticket};
use super::draw::Permutation;
use super::line::{Answer, At, Line, Warm};
use super::pass::{Halts, Passes};
use super::places::Copying;
use super::redis::Lines;
use super::sale::{Draw, Sale};
use super::standby::Standby;
use super::store::{self, SaleRow};
use crate::accounts::UserId;
use crate::catalog::{ConcertId, Reader};
use crate::platform::clock::{Clock, Timestamp};
use crate::platform::db::Db;
use crate::platform::error::{Problem, codes};
use crate::platform::latency::Latencies;
use crate::platform::outbox::Wake;
use crate::platform::redis::Redis;
use crate::platform::telemetry::Seldom;
use crate::platform::token::{KeyRing, Sealer};

/// How often a cold line is rebuilt and asked again within one request: to adopt another's epoch, to wait six times for its
/// line, to learn once that others were given places meanwhile, to make it where it does not come, and to ask.
const COLD_RETRIES: usize = 10;

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
    /// How long holds and payments took lately.
    pub latencies: Latencies,
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
    pub(super) standby: Standby,
    pub(super) passes: Passes,
    pub(super) copying: Copying,
    pub(super) channels: Channels,
    pub(super) sales: moka::future::Cache<ConcertId, Arc<Sale>>,
    /// Those that are ticked: they are asked for all the time.
    pub(super) live: RwLock<HashMap<ConcertId, Arc<Sale>>>,
    /// When a line that cannot be served, and lines that are too many, were last logged.
    pub(super) seldom: Seldom,
    pub(super) crowded: Seldom,
    seeds: Sealer,
}

impl Queue {
    /// Lines over these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            lines: Lines::new(parts.redis.clone(), parts.clock.clone()),
            standby: Standby::new(parts.db.clone()),
            passes: Passes::new(&parts.keys),
            copying: Copying::default(),
            sales: moka::future::Cache::new(u64::from(parts.settings.sales_max)),
            live: RwLock::default(),
            channels: Channels::default(),
            seldom: Seldom::default(),
            crowded: Seldom::default(),
            seeds: seed_sealer(&parts.keys),
            parts,
        }
    }

    /// Whether this instance alone cannot move lines that others move: buyers are better off elsewhere.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.values().any(|sale| sale.is_cut_off.load(Ordering::Relaxed))
    }

    /// The present instant.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    fn live_sale(&self, concert: ConcertId) -> Option<Arc<Sale>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).get(&concert).cloned()
    }

    /// The sale's line on this instance.
    ///
    /// # Errors
    /// 404 where there is no such concert.
    pub async fn get_sale(&self, concert: ConcertId) -> Result<Arc<Sale>, Problem> {
        if let Some(sale) = self.live_sale(concert) {
            return Ok(sale);
        }
        if let Some(sale) = self.sales.get(&concert).await {
            return Ok(sale);
        }
        let loaded = self.sales.try_get_with(concert, self.load_sale(concert)).await;
        loaded.map_err(|problem| problem.again())
    }

    async fn load_sale(&self, concert: ConcertId) -> Result<Arc<Sale>, Problem> {
        let facts = self.parts.catalog.get_concert(concert).await?;
        let row = self.find_row(concert).await?;
        let draw = self.draw_of(&row)?;
        let (keys, settings) = (&self.parts.keys, &self.parts.settings);
        Ok(Arc::new(Sale::new(&facts, &row, keys, draw, settings, self.channels.get(concert))))
    }

    async fn find_row(&self, concert: ConcertId) -> Result<SaleRow, Problem> {
        let row =
            self.parts.db.read("queue.find_sale", concert, |conn, id| Box::pin(store::find_sale(conn, *id))).await?;
        row.ok_or_else(|| Problem::not_found("concert"))
    }

    /// The draw that follows from the row, once the lobby's size is committed.
    fn draw_of(&self, row: &SaleRow) -> Result<Option<Arc<Draw>>, Problem> {
        let Some(lobby_size) = row.lobby_size else { return Ok(None) };
        let seed = self.seeds.open(&row.seed_sealed).and_then(|seed| <[u8; 32]>::try_from(seed.as_slice()).ok());
        let seed = seed.ok_or_else(|| {
            Problem::internal(anyhow::anyhow!("the seed of {} does not open: is a key missing?", row.concert))
        })?;
        let ranks = Permutation::new(&seed, row.concert, lobby_size);
        Ok(Some(Arc::new(Draw { lobby_size, seed: hex::encode(seed), ranks })))
    }

    /// Takes over what MySQL says of a sale.
    pub(super) fn adopt(&self, sale: &Sale, row: &SaleRow) -> Result<(), Problem> {
        sale.adopt(row, self.new_draw(sale, row)?);
        Ok(())
    }

    /// The row's draw, where the sale does not know it yet.
    pub(super) fn new_draw(&self, sale: &Sale, row: &SaleRow) -> Result<Option<Arc<Draw>>, Problem> {
        if sale.is_undrawn() { self.draw_of(row) } else { Ok(None) }
    }

    /// Reads anew what MySQL says of a sale.
    pub(super) async fn reread(&self, sale: &Sale) -> Result<(), Problem> {
        self.adopt(sale, &self.find_row(sale.concert).await?)
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

    pub(super) fn open_ticket(&self, sale: &Sale, text: Option<&str>, user: Option<UserId>) -> Result<Ticket, Problem> {
        let ticket = text.and_then(|text| Ticket::open(text, &sale.tickets, self.now()));
        ticket.filter(|ticket| user.is_none_or(|user| user == ticket.user)).ok_or_else(|| Problem::new(&INVALID_TICKET))
    }

    /// Where the holder of `ticket` stands, as far as memory tells: while the rank waits. Nothing where a store must be asked.
    #[must_use]
    pub fn find_waiting_place(&self, concert: ConcertId, ticket: Option<&str>) -> Option<Place> {
        // The list is held meanwhile: that takes a microsecond, and counting the sale's holders up and down is what threads
        // would get in each other's way with.
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let (sale, now) = (live.get(&concert)?, self.now());
        Self::waiting_place(sale, &Ticket::open(ticket?, &sale.tickets, now)?, now)
    }

    fn waiting_place(sale: &Sale, ticket: &Ticket, now: Timestamp) -> Option<Place> {
        sale.view(|state| {
            let spot = sale.spot_in(state, ticket.arrival);
            let is_lobby = spot.rank.is_none() || state.phase(now) == Phase::Lobby;
            let standing = match spot.rank {
                _ if state.is_gone(spot) => Standing::Left,
                Some(rank) if rank < state.snapshot.serving => return None,
                _ if is_lobby => Standing::Lobby,
                _ => Standing::Waiting,
            };
            let rank = spot.rank.filter(|_| !is_lobby);
            Some(sale.place(state, ticket, (standing, None), rank, now))
        })
    }

    pub(super) async fn place_of(&self, sale: &Sale, ticket: &Ticket) -> Result<Place, Problem> {
        if let Some(place) = Self::waiting_place(sale, ticket, self.now()) {
            return Ok(place);
        }
        let Some(rank) = sale.spot(ticket.arrival).rank else { return Err(Problem::new(&codes::UNAVAILABLE)) };
        let rules = sale.view(|state| state.rules);
        let stands = self.look(sale, rank, &rules).await?;
        let now = self.now();
        Ok(sale.view(|state| sale.place(state, ticket, stands, Some(rank), now)))
    }

    async fn look(&self, sale: &Sale, rank: u64, rules: &Rules) -> Result<(Standing, Option<Timestamp>), Problem> {
        self.on_line(sale, |line, at| line.look(at, rank, rules)).await
    }

    /// A store of lines by itself, whoever keeps them now: what is common to all stores is tested on each.
    #[must_use]
    pub fn store(&self, in_charge: InCharge) -> &dyn Line {
        match in_charge {
            InCharge::Usual => &self.lines,
            InCharge::Standby => &self.standby,
        }
    }

    /// The store that keeps the sale's line.
    pub(super) fn line(&self, sale: &Sale) -> (&dyn Line, At) {
        let (epoch, in_charge) = sale.view(|state| (state.epoch, state.in_charge));
        (self.store(in_charge), At { concert: sale.concert, epoch })
    }

    /// Asks the line, making it anew first where its store has lost it.
    pub(super) async fn on_line<'a, T>(
        &'a self,
        sale: &'a Sale,
        ask: impl Fn(&'a dyn Line, At) -> Answer<'a, T>,
    ) -> Result<T, Problem> {
        if Self::is_out_of_reach(sale) {
            return Err(Problem::new(&codes::UNAVAILABLE).detail("The line is out of reach for the moment."));
        }
        for _ in 0..COLD_RETRIES {
            let asked = Asked::now(sale);
            let (line, at) = self.line(sale);
            match ask(line, at).await? {
                Warm::Answer(answer) => return Ok(answer),
                Warm::Cold => self.rebuild(sale, asked).await?,
            }
        }
        Err(Problem::new(&codes::UNAVAILABLE).detail("The line is being rebuilt."))
    }
}

impl Halts for Queue {
    fn may_be_halted(&self, concert: ConcertId) -> bool {
        self.live_sale(concert).is_some_and(|sale| sale.view(|state| state.rules.is_stopped))
    }
}

/// Seals the draws' seeds with the installation's keys.
pub(super) fn seed_sealer(keys: &KeyRing) -> Sealer {
    keys.sealer("queue.seed", b"")
}
