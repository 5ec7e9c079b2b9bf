//! Builds the services of one instance and wires what lower features ask of higher ones.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::config::Config;
use crate::accounts::Accounts;
use crate::booking::aftermath::Aftermath;
use crate::booking::holds::{self, Holds};
use crate::booking::reservations::{self, Checkout};
use crate::booking::seats::{Blocks, Filter, NewSeats, Seats};
use crate::booking::tickets::{Gate, TicketKeys};
use crate::catalog::{self, Catalog, ConcertId, Reader, Warmer};
use crate::platform::clock::Clock;
use crate::platform::config::ConfigError;
use crate::platform::db::Db;
use crate::platform::idempotency::Idempotency;
use crate::platform::latency::Latencies;
use crate::platform::outbox::Wake;
use crate::platform::redis::Redis;
use crate::platform::token::KeyRing;
use crate::points::Points;
use crate::queue::{self, NewSales, Passes, Queue, SeatSupply, Supply};

/// The services of one instance.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each field is the service of its feature")]
pub struct State {
    pub config: Arc<Config>,
    pub clock: Clock,
    pub db: Db,
    pub redis: Redis,
    pub wake: Wake,
    pub idempotency: Idempotency,
    pub accounts: Arc<Accounts>,
    pub catalog: Arc<Catalog>,
    pub warmer: Warmer,
    pub queue: Arc<Queue>,
    pub filter: Filter,
    pub seats: Arc<Seats>,
    pub blocks: Blocks,
    pub holds: Holds,
    pub checkout: Checkout,
    pub gate: Gate,
    pub aftermath: Aftermath,
    pub points: Points,
}

impl State {
    /// Builds everything. Nothing is connected yet.
    ///
    /// # Errors
    /// Where a setting makes no sense.
    pub fn new(config: Config, clock: Clock) -> Result<Self, ConfigError> {
        let keys = KeyRing::parse(&config.secrets.token_keys)?;
        let ticket_keys = TicketKeys::new(&config.secrets.ticket_keys, &keys)?;
        let db = Db::new(&config.database, clock.clone())?;
        let redis = Redis::new(&config.redis)?;
        let (wake, latencies) = (Wake::default(), Latencies::default());
        let idempotency = Idempotency::new(db.clone());
        let accounts = Arc::new(Accounts::new(db.clone(), clock.clone(), &keys, &config.accounts));
        let reader = Arc::new(Reader::new(db.clone(), &config.cache));
        let filter = Filter::new(db.clone(), redis.clone(), clock.clone(), &config.booking);
        let seats = Arc::new(Seats::new(db.clone(), clock.clone(), reader.clone(), filter.clone(), &config.booking));
        let catalog = Arc::new(catalog_of(&config, &clock, &db, &idempotency, &reader, &keys, &seats));
        let queue = Arc::new(Queue::new(queue::Parts {
            db: db.clone(),
            redis: redis.clone(),
            clock: clock.clone(),
            keys: keys.clone(),
            catalog: reader.clone(),
            supply: Arc::new(SupplyOfSeats(seats.clone())),
            latencies: latencies.clone(),
            wake: wake.clone(),
            settings: config.queue.clone(),
        }));
        let holds = Holds::new(holds::Parts {
            db: db.clone(),
            clock: clock.clone(),
            idempotency: idempotency.clone(),
            catalog: reader.clone(),
            passes: Passes::new(&keys),
            latencies: latencies.clone(),
            filter: filter.clone(),
            seats: seats.clone(),
            settings: config.booking.clone(),
        });
        let blocks = Blocks {
            db: db.clone(),
            idempotency: idempotency.clone(),
            catalog: reader.clone(),
            filter: filter.clone(),
        };
        let paying = reservations::Parts {
            db: db.clone(),
            idempotency: idempotency.clone(),
            catalog: reader,
            filter: filter.clone(),
            keys: ticket_keys.clone(),
            latencies,
            wake: wake.clone(),
        };
        Ok(Self {
            accounts,
            aftermath: Aftermath::new(db.clone(), catalog.clone(), wake.clone(), &config.booking),
            warmer: Warmer::new(catalog.clone(), clock.clone(), config.warmer.clone()),
            catalog,
            queue,
            seats,
            blocks,
            holds,
            checkout: Checkout::new(paying, &config.booking),
            gate: Gate { db: db.clone(), idempotency: idempotency.clone(), keys: ticket_keys },
            filter,
            points: Points::new(db.clone(), idempotency.clone(), config.points),
            idempotency,
            config: Arc::new(config),
            clock,
            db,
            redis,
            wake,
        })
    }
}

fn catalog_of(
    config: &Config,
    clock: &Clock,
    db: &Db,
    idempotency: &Idempotency,
    reader: &Reader,
    keys: &KeyRing,
    seats: &Arc<Seats>,
) -> Catalog {
    let parts = catalog::Parts {
        db: db.clone(),
        clock: clock.clone(),
        idempotency: idempotency.clone(),
        settings: config.catalog.clone(),
        cache: config.cache.clone(),
        reader: reader.clone(),
    };
    let ports =
        catalog::Ports { sale: Arc::new(NewSales::new(keys)), seats: Arc::new(NewSeats), availability: seats.clone() };
    Catalog::new(parts, ports)
}

/// Tells the line how many seats are left.
struct SupplyOfSeats(Arc<Seats>);

impl SeatSupply for SupplyOfSeats {
    fn supply(&self, concert: ConcertId) -> BoxFuture<'_, Option<Supply>> {
        Box::pin(async move {
            let (available, unsold) = self.0.count(concert).await.ok()?;
            Some(Supply { available, unsold })
        })
    }
}
