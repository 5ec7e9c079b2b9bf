//! A database, a Redis prefix, a clock, and instances over them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::{ClientLike as _, LuaInterface as _};
use fred::types::Builder;
use frontrow::app::config::Config;
use frontrow::app::state::State;
use frontrow::app::{audit, serve};
use frontrow::platform::clock::Clock;
use frontrow::platform::db;
use frontrow::platform::shutdown::Shutdown;
use sqlx::mysql::MySqlRow;
use sqlx::{Connection as _, Executor as _, MySqlConnection, Row as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::proxy::sabotage::Sabotage;
use super::till::{self, Till};
use super::{Api, Buyer, Proxy};

const KEYS: &str = "1:8f1d3c5b7a9e0d2f4c6b8a0e1f3d5c7b9a8e0f2d4c6b1a3e5d7f9c0b2a4e6d8f";

/// Limits that no test reaches by repeating itself: the tests of a limit set their own.
pub const FREE: [(&str, &str); 4] = [
    ("FRONTROW__LIMITS__JOINS_PER_USER_PER_MINUTE", "1000000"),
    ("FRONTROW__LIMITS__HOLDS_PER_USER_PER_MINUTE", "1000000"),
    ("FRONTROW__LIMITS__CARD_PAYMENTS_PER_USER_PER_MINUTE", "1000000"),
    ("FRONTROW__ATTEMPTS__PER_SUBJECT_MAX", "1000000"),
];

/// What the instances of one test share.
pub struct World {
    settings: Vec<(String, String)>,
    /// Of the database, and the prefix in Redis.
    name: String,
    database: String,
    redis: String,
    offset: Arc<AtomicI64>,
}

/// A running server inside the test's process.
pub struct Instance {
    /// Where it listens, as `http://…`.
    pub base: String,
    /// Its services; boxed, as futures that own an instance would be large.
    pub state: Box<State>,
    /// Its end.
    pub shutdown: Shutdown,
    running: JoinHandle<anyhow::Result<()>>,
}

/// A setting of the servers that `scripts/test.sh` started, or of the caller's own.
pub fn server(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests by `make test`"))
}

/// Host and port of a server's URL.
pub fn address_of(url: &str) -> SocketAddr {
    let (_, rest) = url.split_once('@').expect("a password in the URL");
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    rest[..end].parse().expect("host and port in the URL")
}

/// The URL with a proxy's host and port in place of its own.
pub fn through(url: &str, proxy: &Proxy) -> String {
    url.replacen(&address_of(url).to_string(), &proxy.addr().to_string(), 1)
}

impl World {
    /// A new, empty database and an empty Redis prefix. The first instance, or [`World::services`], makes the tables.
    pub async fn new() -> Self {
        Self::with(&[]).await
    }

    /// The same, with these settings for every instance.
    pub async fn with(extra: &[(&str, &str)]) -> Self {
        Self::on(&server("FRONTROW__DATABASE__URL"), &server("FRONTROW__REDIS__URL"), extra).await
    }

    /// The same, on these servers.
    pub async fn on(mysql: &str, redis: &str, extra: &[(&str, &str)]) -> Self {
        let name = format!("frontrow_t_{}", uuid::Uuid::new_v4().simple());
        let mut admin = Box::pin(MySqlConnection::connect(mysql)).await.expect("the test database server");
        let create = format!("CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin");
        sqlx::query(sqlx::AssertSqlSafe(create)).execute(&mut admin).await.expect("a database of its own");
        admin.close().await.expect("closing");
        let (server_part, rest) = mysql.rsplit_once('/').expect("a database in the URL");
        let options = rest.split_once('?').map_or(String::new(), |(_, options)| format!("?{options}"));
        let database = format!("{server_part}/{name}{options}");
        let mut settings = vec![
            ("FRONTROW__DATABASE__URL".to_owned(), database.clone()),
            ("FRONTROW__DATABASE__POOL_SIZE".to_owned(), "24".to_owned()),
            ("FRONTROW__REDIS__URL".to_owned(), redis.to_owned()),
            ("FRONTROW__REDIS__PREFIX".to_owned(), name.clone()),
            ("FRONTROW__SECRETS__TOKEN_KEYS".to_owned(), KEYS.to_owned()),
            ("FRONTROW__POINTS__CHARGE_WITHOUT_CARD".to_owned(), "true".to_owned()),
            ("FRONTROW__QUEUE__TICK_MS".to_owned(), "50".to_owned()),
        ];
        settings.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Self { settings, name, database, redis: redis.to_owned(), offset: Arc::default() }
    }

    /// The world's configuration, with these settings over it.
    pub fn config(&self, extra: &[(&str, &str)]) -> Config {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let all = FREE.iter().map(owned).chain(self.settings.iter().cloned()).chain(extra.iter().map(owned));
        Config::from_variables(None, all).expect("settings")
    }

    /// The settings as a process' environment.
    pub fn environment(&self) -> &[(String, String)] {
        &self.settings
    }

    /// The URL of the world's database.
    pub fn mysql_url(&self) -> &str {
        &self.database
    }

    /// A proxy in front of MySQL.
    pub async fn mysql_proxy(&self) -> Proxy {
        Proxy::to(address_of(&self.database)).await
    }

    /// A proxy in front of MySQL that breaks a guard.
    pub async fn mysql_sabotaged(&self, sabotage: &Arc<Sabotage>) -> Proxy {
        Proxy::sabotaging(address_of(&self.database), sabotage.clone()).await
    }

    /// A proxy in front of Redis.
    pub async fn redis_proxy(&self) -> Proxy {
        Proxy::to(address_of(&self.redis)).await
    }

    /// A proxy in front of Redis that breaks a guard.
    pub async fn redis_sabotaged(&self, sabotage: &Arc<Sabotage>) -> Proxy {
        Proxy::sabotaging(address_of(&self.redis), sabotage.clone()).await
    }

    /// The setting by which an instance reaches MySQL through this proxy.
    pub fn mysql_through(&self, proxy: &Proxy) -> (&'static str, String) {
        ("FRONTROW__DATABASE__URL", through(&self.database, proxy))
    }

    /// The setting by which an instance reaches Redis through this proxy.
    pub fn redis_through(&self, proxy: &Proxy) -> (&'static str, String) {
        ("FRONTROW__REDIS__URL", through(&self.redis, proxy))
    }

    /// The services over a migrated database, without a server: nothing happens in the background.
    pub async fn services(&self, extra: &[(&str, &str)]) -> State {
        db::migrate(&self.config(extra).database).await.expect("the migrations");
        self.state(extra)
    }

    /// The services as they are built, over whatever the database holds.
    pub fn state(&self, extra: &[(&str, &str)]) -> State {
        State::new(self.config(extra), Clock::with_offset(self.offset.clone())).expect("services")
    }

    /// Starts an instance.
    pub async fn instance(&self) -> Instance {
        self.instance_with(&[]).await
    }

    /// Starts an instance with settings of its own.
    pub async fn instance_with(&self, extra: &[(&str, &str)]) -> Instance {
        self.instance_of(self.state(extra)).await
    }

    /// Starts an instance whose card provider is this one.
    pub async fn instance_paid_through(&self, till: &Arc<Till>, extra: &[(&str, &str)]) -> Instance {
        self.instance_of(self.state_paid_through(till, extra)).await
    }

    /// The services with this card provider.
    pub fn state_paid_through(&self, till: &Arc<Till>, extra: &[(&str, &str)]) -> State {
        let (gateway, clock) = (till.clone(), Clock::with_offset(self.offset.clone()));
        State::paid_through(Some(gateway), Some(till::verify()), self.config(extra), clock).expect("services")
    }

    /// Starts an instance over these services.
    async fn instance_of(&self, state: State) -> Instance {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let shutdown = Shutdown::default();
        let running = tokio::spawn(serve::run(state.clone(), listener, shutdown.clone()));
        let instance = Instance { base, state: Box::new(state), shutdown, running };
        let api = Api::over(&[&instance]);
        super::eventually("the instance to be ready", || async {
            assert!(!instance.running.is_finished(), "the instance ended while starting");
            (api.try_get("/readyz").await?.status == 200).then_some(())
        })
        .await;
        instance
    }

    /// Moves every clock of the world.
    pub fn advance(&self, by: Duration) {
        self.offset.fetch_add(i64::try_from(by.as_micros()).expect("a sane step"), Ordering::SeqCst);
    }

    /// Moves every clock of the world back.
    pub fn rewind(&self, by: Duration) {
        self.offset.fetch_sub(i64::try_from(by.as_micros()).expect("a sane step"), Ordering::SeqCst);
    }

    /// Takes away everything that this world has in Redis.
    pub async fn wipe_redis(&self) {
        let client = self.redis().await;
        let wipe = "local keys = redis.call('KEYS', ARGV[1]) for _, key in ipairs(keys) do redis.call('DEL', key) end";
        let none: Vec<String> = Vec::new();
        let () = client.eval(wipe, none, vec![format!("{}:*", self.name)]).await.expect("a wipe");
        client.quit().await.expect("closing");
    }

    /// How far its clocks are ahead.
    pub fn offset_micros(&self) -> i64 {
        self.offset.load(Ordering::SeqCst)
    }

    /// A connection to the world's database, for looking behind the API.
    pub async fn sql(&self) -> MySqlConnection {
        Box::pin(MySqlConnection::connect(&self.database)).await.expect("the world's database")
    }

    /// Ends the instances' own runs of a job, for tests that run its work by hand after moving the clock past its time.
    pub async fn without_job(&self, name: &str) {
        let rest = "DELETE FROM jobs WHERE name = ? AND leased_until IS NULL";
        super::eventually("the job to rest", || async {
            let ended = sqlx::query(rest).bind(name).execute(&mut self.sql().await).await.expect("the jobs");
            (ended.rows_affected() == 1).then_some(())
        })
        .await;
    }

    /// Locks a buyer's points until the connection is dropped: their charges and payments wait.
    pub async fn lock_points(&self, buyer: &Buyer) -> MySqlConnection {
        let mut sql = self.sql().await;
        sql.execute("START TRANSACTION").await.expect("a transaction");
        let lock =
            "INSERT INTO points_accounts (user_id, balance, entries, changed_at) VALUES (?, 0, 0, UTC_TIMESTAMP(6))";
        let user: uuid::Uuid = buyer.id.parse().expect("an id");
        sqlx::query(lock).bind(user).execute(&mut sql).await.expect("a buyer without points yet");
        sql
    }

    /// Waits until somebody waits for that lock.
    pub async fn wait_for_waiter(&self) {
        self.wait_until_running("points_accounts").await;
    }

    /// Waits until the server is running a statement with this text in it.
    pub async fn wait_until_running(&self, text: &str) {
        super::eventually("a statement to run", || async {
            self.running().await.iter().any(|running| running.contains(text)).then_some(())
        })
        .await;
    }

    /// The same, of a statement that waits: one that is seen again and again on its connection. Others are over in a moment, and may
    /// be seen before they have come to their lock.
    pub async fn wait_until_waiting(&self, text: &str) {
        super::eventually("a statement to wait", || async {
            let mut first = None;
            for _ in 0..5 {
                let found = self.connections().await.into_iter().find(|(_, running)| running.contains(text))?;
                if found.0 != *first.get_or_insert(found.0) {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// The statements that the server is running in the world's database.
    pub async fn running(&self) -> Vec<String> {
        let texts = self.connections().await.into_iter().map(|(_, text)| text);
        texts.filter(|text| !text.is_empty() && !text.contains("PROCESSLIST")).collect()
    }

    /// The connections to the world's database, by number, with what each is running.
    async fn connections(&self) -> Vec<(u64, String)> {
        let rows = self.sql().await.fetch_all("SHOW FULL PROCESSLIST").await.expect("the connections");
        // A statement is shown with the bytes that were bound, which need not be text.
        let bytes = |row: &MySqlRow, column| row.try_get_unchecked::<Option<Vec<u8>>, _>(column).ok().flatten();
        let text = |row, column| String::from_utf8_lossy(&bytes(row, column).unwrap_or_default()).into_owned();
        let own = rows.iter().filter(|row| text(row, "db") == self.name);
        own.map(|row| (row.try_get_unchecked("Id").expect("a number"), text(row, "Info"))).collect()
    }

    /// How many transactions in the world's database have been open for longer than this. Nothing while the server cannot
    /// show them: it fails to where a statement binds bytes that are no text.
    pub async fn transactions_over(&self, age: Duration) -> Option<usize> {
        let own: Vec<u64> = self.connections().await.into_iter().map(|(id, _)| id).collect();
        let old = "SELECT CAST(trx_mysql_thread_id AS UNSIGNED) FROM information_schema.innodb_trx \
             WHERE trx_started < NOW() - INTERVAL ? SECOND";
        let old: Vec<u64> = sqlx::query_scalar(old).bind(age.as_secs()).fetch_all(&mut self.sql().await).await.ok()?;
        Some(old.iter().filter(|id| own.contains(id)).count())
    }

    /// A connection to Redis, for the same.
    pub async fn redis(&self) -> Client {
        let config = fred::types::config::Config::from_url(&self.redis).expect("the Redis URL");
        let client = Builder::from_config(config).build().expect("a client");
        client.init().await.expect("the test Redis server");
        client
    }

    /// Everything that this world has in Redis, as hex.
    pub async fn dump_redis(&self) -> String {
        let client = self.redis().await;
        let dump = "local all = {} for _, key in ipairs(redis.call('KEYS', ARGV[1])) do \
             local kind = redis.call('TYPE', key).ok \
             local value = kind == 'hash' and redis.call('HGETALL', key) or kind == 'zset' and redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') \
                 or kind == 'string' and {redis.call('GET', key)} or kind == 'set' and redis.call('SMEMBERS', key) or {} \
             all[#all + 1] = key for _, item in ipairs(value) do all[#all + 1] = item end end return all";
        let none: Vec<String> = Vec::new();
        let all: Vec<bytes::Bytes> = client.eval(dump, none, vec![format!("{}:*", self.name)]).await.expect("a dump");
        client.quit().await.expect("closing");
        all.iter().map(hex::encode).collect::<Vec<_>>().join("\n")
    }

    /// Asserts that every invariant holds in the whole database.
    pub async fn assert_clean(&self, instance: &Instance) {
        let report = audit::run(&instance.state.db, &instance.state.config.jobs, None).await;
        assert!(report.is_clean, "{report:#?}");
    }

    /// Ends the instances and drops the database. What a failed test leaves can be looked at.
    pub async fn end(self, instances: Vec<Instance>) {
        for instance in &instances {
            instance.shutdown.request();
        }
        for instance in instances {
            instance.stop().await;
        }
        let drop = format!("DROP DATABASE {}", self.name);
        sqlx::query(sqlx::AssertSqlSafe(drop)).execute(&mut self.sql().await).await.expect("dropping");
    }
}

impl Instance {
    /// Drains and waits for the end.
    pub async fn stop(self) {
        self.shutdown.request();
        self.running.await.expect("the instance did not panic").expect("the instance ended well");
    }
}
