//! What everybody may know of a line, from memory: the public state as ready bytes, and the events for those who listen.
//!
//! Both are made by [`Sale::publish`] after each tick, once per change. Between ticks, and for sales that are not ticked,
//! the state is made anew where its phase has changed by time or it is older than a second.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::Serialize;

use super::channel::{Channel, Line};
use super::domain::Phase;
use super::sale::Sale;
use super::service::Queue;
use crate::catalog::ConcertId;
use crate::catalog::domain::Order;
use crate::platform::clock::Timestamp;
use crate::platform::error::Problem;
use crate::platform::http::Cached;

/// How old the ready state may be where no tick renews it.
const AGE_MAX: Duration = Duration::from_secs(1);

/// The public state of a line.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct QueueView {
    /// The concert.
    concert_id: ConcertId,
    /// Where the sale is.
    phase: Phase,
    /// Who comes first.
    order: Order,
    /// When the lobby opens, where there is one.
    lobby_opens_at: Option<Timestamp>,
    /// When calling begins.
    opens_at: Timestamp,
    /// Places issued.
    issued: u64,
    /// Ranks called.
    serving: u64,
    /// Places still waiting.
    waiting: u64,
    /// Buyers inside.
    active: u64,
    /// How many may be inside at once.
    max_active: u32,
    /// Ranks called per second at most.
    admit_per_second: u32,
    /// Seats neither sold nor held; null while unknown.
    seats_left: Option<u64>,
    /// What lets anyone verify the draw.
    draw: DrawView,
}

/// What lets anyone verify the draw.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
struct DrawView {
    /// Hex SHA-256 of the seed.
    commitment: String,
    /// How many came before opening; null before the draw.
    lobby_size: Option<u64>,
    /// The seed in hex; null before the draw.
    seed: Option<String>,
}

impl QueueView {
    fn of(sale: &Sale, now: Timestamp) -> Self {
        sale.view(|state| Self {
            concert_id: sale.concert,
            phase: state.phase(now),
            order: sale.order,
            lobby_opens_at: state.hours.lobby_opens_at,
            opens_at: state.hours.booking_opens_at,
            issued: state.snapshot.issued,
            serving: state.snapshot.serving,
            waiting: state.snapshot.waiting(),
            active: state.snapshot.active,
            max_active: state.rules.max_active,
            admit_per_second: state.rules.admit_per_second,
            seats_left: state.supply.map(|supply| supply.available),
            draw: DrawView {
                commitment: sale.commitment.clone(),
                lobby_size: state.draw.as_ref().map(|draw| draw.lobby_size),
                seed: state.draw.as_ref().map(|draw| draw.seed.clone()),
            },
        })
    }

    fn line(&self) -> Line {
        Line {
            issued: self.issued,
            serving: self.serving,
            admit_per_second: self.admit_per_second,
            phase: self.phase,
            seats_left: self.seats_left,
        }
    }
}

/// The public state, encoded.
#[derive(Clone, Debug)]
struct Ready {
    view: QueueView,
    body: Cached,
    /// When it was last known to be the state.
    at: Timestamp,
}

/// What one sale shows.
#[derive(Debug)]
pub struct Board {
    ready: RwLock<Option<Ready>>,
    events_pause: Duration,
    /// For those who listen.
    pub channel: Arc<Channel>,
}

impl Board {
    /// An empty one, that announces on this channel.
    #[must_use]
    pub fn new(channel: Arc<Channel>, events_pause: Duration) -> Self {
        Self { ready: RwLock::default(), events_pause, channel }
    }
}

impl Sale {
    /// Shows, and tells those who listen, what has changed.
    pub fn publish(&self, now: Timestamp) {
        match self.renew(now) {
            Ok(ready) => {
                let closes_at = self.view(|state| state.hours.booking_closes_at);
                self.board.channel.announce(ready.view.line(), now, closes_at, self.board.events_pause);
            }
            Err(problem) => tracing::error!(concert = %self.concert, %problem, "the line cannot be shown"),
        }
    }

    /// The public state as ready bytes.
    ///
    /// # Errors
    /// Where it cannot be written as JSON.
    pub fn shown(&self, now: Timestamp) -> Result<Cached, Problem> {
        let phase = self.view(|state| state.phase(now));
        if let Some(ready) = &*self.board.ready.read().unwrap_or_else(PoisonError::into_inner)
            && ready.view.phase == phase
            && now.since(ready.at) < AGE_MAX
        {
            return Ok(ready.body.clone());
        }
        Ok(self.renew(now)?.body)
    }

    fn renew(&self, now: Timestamp) -> Result<Ready, Problem> {
        // The state is read under this lock, so that a newer one is never replaced by an older one.
        let mut ready = self.board.ready.write().unwrap_or_else(PoisonError::into_inner);
        let view = QueueView::of(self, now);
        match &mut *ready {
            Some(ready) if ready.view == view => {
                ready.at = now;
                Ok(ready.clone())
            }
            _ => {
                let body = Cached::json(&view, "public, max-age=1")?;
                Ok(ready.insert(Ready { view, body, at: now }).clone())
            }
        }
    }
}

impl Queue {
    /// Tells those who listen to a line that no tick moves what time and operators have changed.
    ///
    /// # Errors
    /// Where a sale cannot be read: the others are told, and the next time tries again.
    pub async fn publish_unticked(&self) -> Result<(), Problem> {
        let mut outcome = Ok(());
        for concert in self.channels.list_listened() {
            match self.get_sale(concert).await {
                Ok(sale) => sale.publish(self.now()),
                Err(problem) => outcome = Err(problem),
            }
        }
        outcome
    }
}
