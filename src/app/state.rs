//! Builds the services of one instance and wires what lower features ask of higher ones.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::config::Config;
use super::letters::{OperatorLog, Postbox};
use crate::accounts::{self, Accounts};
use crate::booking::aftermath::Aftermath;
use crate::booking::holds::{self, HoldLimits, Holds};
use crate::booking::reservations::{self, Checkout, HoldsByCard};
use crate::booking::seats::{Blocks, Filter, NewSeats, Seats};
use crate::booking::tickets::{Gate, TicketKeys};
use crate::catalog::warming::{self, Warmer};
use crate::catalog::{self, Catalog, ConcertId, Reader};
use crate::notices::mail::Mails;
use crate::notices::webhooks::Webhooks;
use crate::payments::gateway::Gateway;
use crate::payments::payable::Payables;
use crate::payments::signature::Verifier;
use crate::payments::stripe::Stripe;
use crate::payments::webhooks::Verify;
use crate::payments::{self, Attempts, CardLimits, attempts};
use crate::platform::cache::{self, Caches};
use crate::platform::clock::Clock;
use crate::platform::config::{ConfigError, DatabaseSettings};
use crate::platform::db::Db;
use crate::platform::idempotency::Idempotency;
use crate::platform::instances::Instances;
use crate::platform::latency::Latencies;
use crate::platform::outbox::Wake;
use crate::platform::redis::Redis;
use crate::platform::token::KeyRing;
use crate::points::{ChargesByCard, Points};
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
    pub caches: Arc<Caches>,
    pub catalog: Arc<Catalog>,
    pub warmer: Warmer,
    pub instances: Instances,
    pub queue: Arc<Queue>,
    pub filter: Filter,
    pub seats: Arc<Seats>,
    pub blocks: Blocks,
    pub holds: Holds,
    pub checkout: Checkout,
    pub gate: Gate,
    pub aftermath: Aftermath,
    pub points: Points,
    pub attempts: Attempts,
    pub provider_events: payments::Webhooks,
}

impl State {
    /// Builds everything. Nothing is connected yet.
    ///
    /// # Errors
    /// Where a setting makes no sense.
    pub fn new(config: Config, clock: Clock) -> Result<Self, ConfigError> {
        let provider = Stripe::configured(&config.payments)?.map(|provider| Arc::new(provider) as Arc<dyn Gateway>);
        let verifier = Verifier::configured(&config.payments)?;
        let verify = verifier.map(|verifier| {
            let verify: Verify = Arc::new(move |header, body, now| verifier.verify(header, body, now).is_ok());
            verify
        });
        Self::paid_through(provider, verify, config, clock)
    }

    /// The same with this card provider, and with what tells its webhooks from others.
    ///
    /// # Errors
    /// Where a setting makes no sense.
    pub fn paid_through(
        gateway: Option<Arc<dyn Gateway>>,
        verify: Option<Verify>,
        config: Config,
        clock: Clock,
    ) -> Result<Self, ConfigError> {
        let ground = Ground::new(config, clock)?;
        let (webhooks, mails) = ground.notices()?;
        let accounts = Arc::new(ground.accounts(&mails));
        let seats = Arc::new(ground.seats());
        let catalog = Arc::new(ground.catalog(&seats));
        let queue = Arc::new(ground.queue(&seats));
        let holds = ground.holds(&seats, &queue);
        let attempts = ground.attempts(gateway);
        let checkout = ground.checkout(&attempts);
        let (instances, warmer) = ground.warmer(&catalog);
        let Ground { config, clock, db, redis, idempotency, caches, reader, filter, wake, ticket_keys, .. } = ground;
        Ok(Self {
            webhooks,
            mails,
            accounts,
            aftermath: Aftermath::new(db.clone(), catalog.clone(), wake.clone(), &config.booking),
            caches,
            warmer,
            instances,
            catalog,
            queue,
            seats,
            blocks: Blocks {
                db: db.clone(),
                idempotency: idempotency.clone(),
                catalog: reader,
                filter: filter.clone(),
            },
            holds,
            checkout,
            gate: Gate { db: db.clone(), idempotency: idempotency.clone(), keys: ticket_keys },
            filter,
            points: Points::new(db.clone(), idempotency.clone(), attempts.clone(), config.points),
            attempts,
            provider_events: payments::Webhooks::new(db.clone(), clock.clone(), verify),
            idempotency,
            config,
            clock,
            db,
            redis,
            wake,
        })
    }
}

/// What all services stand on, and how each is built on it.
struct Ground {
    config: Arc<Config>,
    clock: Clock,
    keys: KeyRing,
    ticket_keys: TicketKeys,
    db: Db,
    redis: Redis,
    idempotency: Idempotency,
    caches: Arc<Caches>,
    reader: Arc<Reader>,
    filter: Filter,
    wake: Wake,
    latencies: Latencies,
}

impl Ground {
    fn new(config: Config, clock: Clock) -> Result<Self, ConfigError> {
        let keys = KeyRing::parse(&config.secrets.token_keys)?;
        let ticket_keys = TicketKeys::new(&config.secrets.ticket_keys, &keys)?;
        let db = Db::new(&config.database, clock.clone())?;
        let redis = Redis::new(&config.redis)?;
        let idempotency = Idempotency::new(db.clone());
        let caches = Caches::new(cache::Ground {
            news: Db::new(&for_news(&config.database), clock.clone())?,
            redis: redis.clone(),
            clock: clock.clone(),
            settings: config.cache.clone(),
        })?;
        let reader = Arc::new(Reader::new(db.clone(), &config.cache, &caches));
        let filter = Filter::new(db.clone(), redis.clone(), clock.clone(), &config.booking);
        let (wake, latencies) = (Wake::default(), Latencies::default());
        let config = Arc::new(config);
        Ok(Self { config, clock, keys, ticket_keys, db, redis, idempotency, caches, reader, filter, wake, latencies })
    }

    fn notices(&self) -> Result<(Webhooks, Mails), ConfigError> {
        let config = &self.config;
        let stores = (self.db.clone(), self.idempotency.clone());
        let webhooks = Webhooks::new(stores, &self.keys, Arc::new(OperatorLog), &config.notices);
        let mails = Mails::new(self.db.clone(), &config.notices, &config.mail);
        if config.accounts.require_verified && !mails.is_on() {
            let reason = "needs mail.transport: nobody could verify their address".to_owned();
            return Err(ConfigError::Rejected { name: "accounts.require_verified", reason });
        }
        Ok((webhooks, mails))
    }

    fn accounts(&self, mails: &Mails) -> Accounts {
        let (db, clock, letterbox) = (self.db.clone(), self.clock.clone(), Arc::new(Postbox(mails.clone())));
        Accounts::new(accounts::Parts { db, clock, keys: &self.keys, letterbox, settings: &self.config.accounts })
    }

    fn seats(&self) -> Seats {
        let (reader, filter) = (self.reader.clone(), self.filter.clone());
        Seats::new(self.db.clone(), self.clock.clone(), reader, filter, &self.config.booking)
    }

    fn catalog(&self, seats: &Arc<Seats>) -> Catalog {
        let parts = catalog::Parts {
            db: self.db.clone(),
            clock: self.clock.clone(),
            idempotency: self.idempotency.clone(),
            settings: self.config.catalog.clone(),
            cache: self.config.cache.clone(),
            caches: self.caches.clone(),
            reader: Reader::clone(&self.reader),
        };
        let sale = Arc::new(NewSales::new(&self.keys));
        Catalog::new(parts, catalog::Ports { sale, seats: Arc::new(NewSeats), availability: seats.clone() })
    }

    fn warmer(&self, catalog: &Arc<Catalog>) -> (Instances, Warmer) {
        let instances = Instances::new(self.db.clone(), &self.config.http.addr);
        let warmer = Warmer::new(warming::Parts {
            catalog: catalog.clone(),
            db: self.db.clone(),
            redis: self.redis.clone(),
            caches: self.caches.clone(),
            clock: self.clock.clone(),
            idempotency: self.idempotency.clone(),
            instances: instances.clone(),
            log: Arc::new(OperatorLog),
            settings: self.config.warmer.clone(),
            is_cache_on: self.config.cache.enabled,
        });
        (instances, warmer)
    }

    fn queue(&self, seats: &Arc<Seats>) -> Queue {
        Queue::new(queue::Parts {
            db: self.db.clone(),
            redis: self.redis.clone(),
            clock: self.clock.clone(),
            keys: self.keys.clone(),
            catalog: self.reader.clone(),
            supply: Arc::new(SupplyOfSeats(seats.clone())),
            latencies: self.latencies.clone(),
            wake: self.wake.clone(),
            settings: self.config.queue.clone(),
        })
    }

    fn holds(&self, seats: &Arc<Seats>, queue: &Arc<Queue>) -> Holds {
        Holds::new(holds::Parts {
            db: self.db.clone(),
            clock: self.clock.clone(),
            idempotency: self.idempotency.clone(),
            catalog: self.reader.clone(),
            passes: Passes::new(&self.keys),
            latencies: self.latencies.clone(),
            filter: self.filter.clone(),
            seats: seats.clone(),
            halts: queue.clone(),
            limits: HoldLimits::new(&self.config.limits, &self.clock),
            settings: self.config.booking.clone(),
        })
    }

    fn attempts(&self, gateway: Option<Arc<dyn Gateway>>) -> Attempts {
        let holds = HoldsByCard::new(self.reader.clone(), self.filter.clone(), self.ticket_keys.clone());
        Attempts::new(attempts::Parts {
            db: self.db.clone(),
            idempotency: self.idempotency.clone(),
            gateway,
            payables: Payables::new(Arc::new(holds), Arc::new(ChargesByCard)),
            wake: self.wake.clone(),
            limits: CardLimits::new(&self.config.limits, &self.clock),
            settings: self.config.attempts,
        })
    }

    fn checkout(&self, attempts: &Attempts) -> Checkout {
        let parts = reservations::Parts {
            db: self.db.clone(),
            idempotency: self.idempotency.clone(),
            catalog: self.reader.clone(),
            filter: self.filter.clone(),
            keys: self.ticket_keys.clone(),
            latencies: self.latencies.clone(),
            wake: self.wake.clone(),
            attempts: attempts.clone(),
        };
        Checkout::new(parts, &self.config.booking)
    }
}

/// One connection for news of changes, of which nobody waits long: they must come also while everybody waits for the pool.
fn for_news(settings: &DatabaseSettings) -> DatabaseSettings {
    let limit = settings.unit_timeout_ms.min(1000);
    let (pool_size, waiting_max) = (1, 16);
    DatabaseSettings { pool_size, waiting_max, acquire_timeout_ms: limit, unit_timeout_ms: limit, ..settings.clone() }
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
