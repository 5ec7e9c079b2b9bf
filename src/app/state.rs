//! Builds the services of one instance and wires what lower features ask of higher ones.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::config::Config;
use super::letters::{OperatorLog, Postbox};
use crate::accounts::{self, Accounts};
use crate::booking::holds::{self, Holds};
use crate::booking::reservations::{self, Checkout};
use crate::booking::seats::{Blocks, Filter, NewSeats, Seats};
use crate::catalog::{self, Catalog, ConcertId, Reader, Warmer};
use crate::notices::mail::Mails;
use crate::notices::webhooks::Webhooks;
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
    pub webhooks: Webhooks,
    pub mails: Mails,
    pub accounts: Arc<Accounts>,
    pub catalog: Arc<Catalog>,
    pub warmer: Warmer,
    pub queue: Arc<Queue>,
    pub filter: Filter,
    pub seats: Arc<Seats>,
    pub blocks: Blocks,
    pub holds: Holds,
    pub checkout: Checkout,
    pub points: Points,
}

impl State {
    /// Builds everything. Nothing is connected yet.
    ///
    /// # Errors
    /// Where a setting makes no sense.
    pub fn new(config: Config, clock: Clock) -> Result<Self, ConfigError> {
        let keys = KeyRing::parse(&config.secrets.token_keys)?;
        let db = Db::new(&config.database, clock.clone())?;
        let redis = Redis::new(&config.redis)?;
        let wake = Wake::default();
        let idempotency = Idempotency::new(db.clone());
        let (webhooks, mails) = notices_of(&config, &db, &keys)?;
        let accounts = Arc::new(accounts_of(&config, &clock, &db, &keys, &mails));
        let reader = Reader::new(db.clone(), &config.cache);
        let filter = Filter::new(db.clone(), redis.clone(), clock.clone(), &config.booking);
        let shared = Arc::new(reader.clone());
        let seats = Arc::new(Seats::new(db.clone(), clock.clone(), shared.clone(), filter.clone(), &config.booking));
        let catalog = Arc::new(catalog_of(&config, &clock, &db, &idempotency, &reader, &keys, &seats));
        let reader = shared;
        let latencies = Latencies::default();
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
        let blocks = blocks_of(&db, &idempotency, &reader, &filter);
        let paying = reservations::Parts {
            db: db.clone(),
            idempotency: idempotency.clone(),
            catalog: reader,
            filter: filter.clone(),
            latencies,
            wake: wake.clone(),
        };
        Ok(Self {
            webhooks,
            mails,
            accounts,
            warmer: Warmer::new(catalog.clone(), clock.clone(), config.warmer.clone()),
            catalog,
            queue,
            seats,
            blocks,
            holds,
            checkout: Checkout::new(paying, &config.booking),
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

fn blocks_of(db: &Db, idempotency: &Idempotency, catalog: &Arc<Reader>, filter: &Filter) -> Blocks {
    let (db, idempotency) = (db.clone(), idempotency.clone());
    Blocks { db, idempotency, catalog: catalog.clone(), filter: filter.clone() }
}

fn notices_of(config: &Config, db: &Db, keys: &KeyRing) -> Result<(Webhooks, Mails), ConfigError> {
    let webhooks = Webhooks::new(db.clone(), keys, Arc::new(OperatorLog), &config.notices);
    let mails = Mails::new(db.clone(), &config.notices, &config.mail);
    if config.accounts.require_verified && !mails.is_on() {
        let reason = "needs mail.transport: nobody could verify their address".to_owned();
        return Err(ConfigError::Rejected { name: "accounts.require_verified", reason });
    }
    Ok((webhooks, mails))
}

fn accounts_of(config: &Config, clock: &Clock, db: &Db, keys: &KeyRing, mails: &Mails) -> Accounts {
    let (db, clock, letterbox) = (db.clone(), clock.clone(), Arc::new(Postbox(mails.clone())));
    Accounts::new(accounts::Parts { db, clock, keys, letterbox, settings: &config.accounts })
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
