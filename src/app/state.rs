//! Builds the services of one instance and wires what lower features ask of higher ones.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::config::Config;
use super::letters::{OperatorLog, Postbox};
use crate::accounts::{self, Accounts};
use crate::booking::aftermath::Aftermath;
use crate::booking::holds::{self, Holds};
use crate::booking::reservations::{self, Checkout, HoldsByCard};
use crate::booking::seats::{Blocks, Filter, NewSeats, Seats};
use crate::booking::tickets::{Gate, TicketKeys};
use crate::catalog::{self, Catalog, ConcertId, Reader, Warmer};
use crate::notices::mail::Mails;
use crate::notices::webhooks::Webhooks;
use crate::payments::gateway::Gateway;
use crate::payments::payable::Payables;
use crate::payments::signature::Verifier;
use crate::payments::stripe::Stripe;
use crate::payments::webhooks::Verify;
use crate::payments::{self, Attempts, attempts};
use crate::platform::clock::Clock;
use crate::platform::config::ConfigError;
use crate::platform::db::Db;
use crate::platform::idempotency::Idempotency;
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
        let keys = KeyRing::parse(&config.secrets.token_keys)?;
        let ticket_keys = TicketKeys::new(&config.secrets.ticket_keys, &keys)?;
        let db = Db::new(&config.database, clock.clone())?;
        let redis = Redis::new(&config.redis)?;
        let idempotency = Idempotency::new(db.clone());
        let (webhooks, mails) = notices_of(&config, &db, &keys)?;
        let accounts = Arc::new(accounts_of(&config, &clock, &db, &keys, &mails));
        let reader = Arc::new(Reader::new(db.clone(), &config.cache));
        let filter = Filter::new(db.clone(), redis.clone(), clock.clone(), &config.booking);
        let seats = Arc::new(Seats::new(db.clone(), clock.clone(), reader.clone(), filter.clone(), &config.booking));
        let catalog = Arc::new(catalog_of(&config, &clock, &db, &idempotency, &reader, &keys, &seats));
        let (wake, latencies) = (Wake::default(), Latencies::default());
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
        let cards = HoldsByCard::new(reader.clone(), filter.clone(), ticket_keys.clone());
        let attempts = attempts_of(&config, &db, &idempotency, &wake, gateway, cards);
        let paying = reservations::Parts {
            db: db.clone(),
            idempotency: idempotency.clone(),
            catalog: reader.clone(),
            filter: filter.clone(),
            keys: ticket_keys.clone(),
            latencies,
            wake: wake.clone(),
            attempts: attempts.clone(),
        };
        Ok(Self {
            webhooks,
            mails,
            accounts,
            aftermath: Aftermath::new(db.clone(), catalog.clone(), wake.clone(), &config.booking),
            warmer: Warmer::new(catalog.clone(), clock.clone(), config.warmer.clone()),
            catalog,
            queue,
            seats,
            blocks: blocks_of(&db, &idempotency, &reader, &filter),
            holds,
            checkout: Checkout::new(paying, &config.booking),
            gate: Gate { db: db.clone(), idempotency: idempotency.clone(), keys: ticket_keys },
            filter,
            points: Points::new(db.clone(), idempotency.clone(), attempts.clone(), config.points),
            attempts,
            provider_events: payments::Webhooks::new(db.clone(), clock.clone(), verify),
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

fn attempts_of(
    config: &Config,
    db: &Db,
    idempotency: &Idempotency,
    wake: &Wake,
    gateway: Option<Arc<dyn Gateway>>,
    holds: HoldsByCard,
) -> Attempts {
    Attempts::new(attempts::Parts {
        db: db.clone(),
        idempotency: idempotency.clone(),
        gateway,
        payables: Payables::new(Arc::new(holds), Arc::new(ChargesByCard)),
        wake: wake.clone(),
        settings: config.attempts,
    })
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
