//! The stage: private services, the server under test, and what rows need of both.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use fred::clients::Client;
use fred::interfaces::ClientLike as _;
use fred::types::{Builder, config::Config as RedisConfig};
use frontrow::platform::clock::{Clock, Timestamp};
use frontrow::platform::embedded::{Options, Services};
use serde_json::{Value, json};
use sqlx::{Connection as _, MySqlConnection};

use crate::load::{self, Load, Run};
use crate::process::Process;
use crate::rounds::Pace;

/// Below the package's folder. Each run has one of its own in it.
const FOLDER: &str = ".frontrow/bench";
/// What the server is told besides its addresses: all else is as shipped.
const SETTINGS: &[(&str, &str)] = &[
    ("FRONTROW__HTTP__ADDR", "127.0.0.1:0"),
    ("FRONTROW__LOG__FILTER", "warn"),
    // Rounds begin with rows that are written straight to their tables, which the audit would find fault with.
    ("FRONTROW__JOBS__AUDIT_EVERY_SECS", "86400"),
    // A few buyers ask for seats all the time: refusing them for being too fast would measure nothing else.
    ("FRONTROW__LIMITS__HOLDS_PER_USER_PER_MINUTE", "1000000000"),
];
/// Made by one request to the server, well within its time limit.
const BUYERS_AT_ONCE: usize = 5_000;
const PLACES_AT_ONCE: usize = 10_000;
/// Of a large hall.
const ROW_SEATS: usize = 50;
const SECTION_ROWS: usize = 20;
/// Longest wait for the server and for a new sale.
const PATIENCE: Duration = Duration::from_mins(1);
/// Longest time to make a hall.
const CREATION_MAX: Duration = Duration::from_mins(2);
const PAUSE: Duration = Duration::from_millis(100);
const HOUR: Duration = Duration::from_hours(1);
/// When booking opens, seen from now: it is open already, or long after the warmer's lead time.
const OPEN: fn(Timestamp) -> Timestamp = |now| now.minus(Duration::from_secs(1));
const LATER: fn(Timestamp) -> Timestamp = |now| now.plus(Duration::from_hours(2));

/// Everything that a row needs.
pub struct Stage {
    /// How long and how often everything is measured.
    pub pace: Pace,
    /// The server under test.
    pub server: Process,
    /// Its host and port.
    pub address: String,
    /// Straight to Redis.
    pub redis: Client,
    /// For requests that are not measured.
    pub http: reqwest::Client,
    operator: String,
    venue: Value,
    /// The private servers.
    pub services: Services,
    folder: PathBuf,
}

/// An answer, for comparing what both sides send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers' names, in order.
    pub headers: Vec<String>,
    /// The body.
    pub body: String,
}

impl Stage {
    /// Starts services and server, on a folder of this run's own.
    ///
    /// # Errors
    /// Where a server program is missing or does not start.
    pub async fn open(pace: Pace) -> anyhow::Result<Self> {
        remove_leftovers()?;
        let folder = PathBuf::from(FOLDER).join(std::process::id().to_string());
        let services = Services::start(&Options { dir: folder.clone(), engine: None }).await?;
        match Self::over(&services).await {
            Ok((server, address, redis)) => {
                let http = reqwest::Client::builder().timeout(PATIENCE).build()?;
                let (operator, venue) = (String::new(), Value::Null);
                let mut stage = Self { pace, server, address, redis, http, operator, venue, services, folder };
                stage.set_up().await?;
                Ok(stage)
            }
            Err(error) => {
                services.stop().await;
                Err(error)
            }
        }
    }

    async fn over(services: &Services) -> anyhow::Result<(Process, String, Client)> {
        let mut variables: Vec<(&str, String)> =
            SETTINGS.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        variables.push(("FRONTROW__DATABASE__URL", services.database_url.clone()));
        variables.push(("FRONTROW__REDIS__URL", services.redis_url.clone()));
        let key: [u8; 32] = rand::random();
        variables.push(("FRONTROW__SECRETS__TOKEN_KEYS", format!("1:{}", hex::encode(key))));
        let mut server = Process::start(&["serve"], &variables)?;
        let address = server.line().await?;
        let redis = Builder::from_config(RedisConfig::from_url(&services.redis_url)?).build()?;
        redis.init().await.context("Redis does not answer")?;
        Ok((server, address, redis))
    }

    async fn set_up(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        while self.get("/readyz").await.map_or(0, |answer| answer.status) != 200 {
            if started.elapsed() > PATIENCE {
                bail!("the server does not become ready");
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.operator = self.made("/prepare/operator").await?;
        let rows = json!([{"name": "1", "seats": 20}]);
        let venue =
            json!({"name": "Bench Hall", "city": "Busan", "sections": [{"code": "A", "name": "Hall", "rows": rows}]});
        self.venue = self.operate(reqwest::Method::POST, "/v1/admin/venues", &venue).await?["id"].take();
        Ok(())
    }

    /// Ends everything and removes what it left.
    pub async fn close(self) {
        drop(self.redis.quit().await);
        self.server.stop().await;
        self.services.stop().await;
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("onsale: {} stays: {error}", self.folder.display());
        }
    }

    /// An address of the server.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A file of values for the load generator.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn values<'v>(&self, name: &str, values: impl Iterator<Item = &'v String>) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(format!("{name}.txt"));
        let lines = values.fold(String::new(), |lines, value| lines + value + "\n");
        std::fs::write(&path, lines)?;
        Ok(path)
    }

    /// Sends the load, and tells how many seconds of processor time the server spent on it.
    ///
    /// # Errors
    /// As [`load::run`].
    pub async fn run(&self, load: &Load) -> anyhow::Result<(Run, f64)> {
        let before = self.server.cpu_secs()?;
        let run = load::run(load, self.pace.length).await?;
        Ok((run, self.server.cpu_secs()? - before))
    }

    /// The same with a load of which every request is refused.
    ///
    /// # Errors
    /// As [`load::run_refused`].
    pub async fn run_refused(&self, load: &Load) -> anyhow::Result<(Run, f64)> {
        let before = self.server.cpu_secs()?;
        let run = load::run_refused(load, self.pace.length).await?;
        Ok((run, self.server.cpu_secs()? - before))
    }

    /// A sale that is open to join and calls nobody. Its concert's id.
    ///
    /// # Errors
    /// Where the server refuses it.
    pub async fn sale(&self) -> anyhow::Result<String> {
        let made = self.concert(&self.venue, &json!(["A"]), 1, OPEN).await?;
        let concert = made["id"].as_str().context("a concert without an id")?.to_owned();
        let queue = format!("/v1/admin/concerts/{concert}/queue");
        self.operate(reqwest::Method::PATCH, &queue, &json!({"paused": true})).await?;
        let started = Instant::now();
        while !self.get(&format!("/v1/concerts/{concert}/queue")).await?.body.contains("\"phase\":\"paused\"") {
            if started.elapsed() > PATIENCE {
                bail!("a new sale does not open");
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(concert)
    }

    /// A performance in a hall of so many seats, in sections of a thousand: its id.
    ///
    /// # Errors
    /// Where the server refuses it.
    pub async fn evening(&self, seats: usize) -> anyhow::Result<String> {
        let (venue, codes) = self.stadium(seats).await?;
        let made = self.concert(&venue, &codes, 1, OPEN).await?;
        Ok(made["performances"][0]["id"].as_str().context("a performance without an id")?.to_owned())
    }

    /// A concert of so many performances in a hall of so many seats, of which nothing is in memory: booking opens hours later. Its id.
    ///
    /// # Errors
    /// Where the server refuses it.
    pub async fn tour(&self, performances: u32, seats: usize) -> anyhow::Result<String> {
        let (venue, codes) = self.stadium(seats).await?;
        let made = self.concert(&venue, &codes, performances, LATER).await?;
        Ok(made["id"].as_str().context("a concert without an id")?.to_owned())
    }

    /// A venue of so many seats, and the codes of its sections.
    async fn stadium(&self, seats: usize) -> anyhow::Result<(Value, Value)> {
        let row = |name: usize, seats: usize| json!({"name": name.to_string(), "seats": seats});
        let rows: Vec<Value> = (0..seats)
            .step_by(ROW_SEATS)
            .map(|begun| row(begun / ROW_SEATS % SECTION_ROWS + 1, ROW_SEATS.min(seats - begun)))
            .collect();
        let sections: Vec<Value> = rows
            .chunks(SECTION_ROWS)
            .enumerate()
            .map(|(number, rows)| json!({"code": (101 + number).to_string(), "name": "Stand", "rows": rows}))
            .collect();
        let codes: Vec<Value> = sections.iter().map(|section| section["code"].clone()).collect();
        let venue = json!({"name": "Bench Stadium", "city": "Busan", "sections": sections});
        let mut venue = self.operate(reqwest::Method::POST, "/v1/admin/venues", &venue).await?;
        Ok((venue["id"].take(), json!(codes)))
    }

    async fn concert(
        &self,
        venue: &Value,
        sections: &Value,
        performances: u32,
        opens_at: fn(Timestamp) -> Timestamp,
    ) -> anyhow::Result<Value> {
        let now = Clock::default().now();
        let starts: Vec<Value> =
            (0..performances).map(|day| json!({"starts_at": now.plus(24 * HOUR * (1 + day))})).collect();
        let concert = json!({
            "title": "Bench Live", "artist": "The Stopwatches", "venue_id": venue,
            "booking_opens_at": opens_at(now), "booking_closes_at": now.plus(4 * HOUR),
            "seat_limit_per_buyer": 4, "grades": [{"code": "R", "name": "R", "price": 10_000, "sections": sections}],
            "performances": starts,
            "queue": {"admit_per_second": 1, "max_active": 1, "claim_secs": 60, "session_secs": 600},
        });
        self.operate(reqwest::Method::POST, "/v1/admin/concerts", &concert).await
    }

    /// Loads a concert into the server's memory as the warmer does, and tells how many seconds that took.
    ///
    /// # Errors
    /// Where it fails, or takes too long.
    pub async fn warm(&self, concert: &str) -> anyhow::Result<f64> {
        self.made(&format!("/prepare/warm/{concert}")).await?;
        let started = Instant::now();
        loop {
            let took = self.made("/prepare/warmed").await?;
            if !took.is_empty() {
                return took.parse().with_context(|| format!("not warmed: {took}"));
            }
            ensure!(started.elapsed() < CREATION_MAX, "a concert is not warm in time");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// So many places in a sale by as many people; every `nth` ticket.
    ///
    /// # Errors
    /// Where the server refuses a place.
    pub async fn places(&self, concert: &str, count: usize, nth: usize) -> anyhow::Result<Vec<String>> {
        let mut tickets = Vec::with_capacity(count.div_ceil(nth));
        for begun in (0..count).step_by(PLACES_AT_ONCE) {
            let batch = PLACES_AT_ONCE.min(count - begun);
            let made = self.made(&format!("/prepare/places/{concert}/{batch}")).await?;
            tickets.extend(
                made.lines().enumerate().filter(|(at, _)| (begun + at) % nth == 0).map(|(_, it)| it.to_owned()),
            );
        }
        Ok(tickets)
    }

    /// Access tokens of new buyers.
    ///
    /// # Errors
    /// Where the server cannot make them.
    pub async fn buyers(&self, count: usize) -> anyhow::Result<Vec<String>> {
        let mut tokens = Vec::with_capacity(count);
        for begun in (0..count).step_by(BUYERS_AT_ONCE) {
            let batch = BUYERS_AT_ONCE.min(count - begun);
            tokens.extend(self.made(&format!("/prepare/buyers/{batch}")).await?.lines().map(str::to_owned));
        }
        Ok(tokens)
    }

    /// How many places Redis has given in a sale.
    ///
    /// # Errors
    /// Where it does not tell.
    pub async fn issued(&self, concert: &str) -> anyhow::Result<f64> {
        let head = format!("frontrow:{{sale:{concert}}}:head");
        let issued: Option<String> = self.redis.custom(command("HGET"), vec![head, "issued".to_owned()]).await?;
        Ok(issued.as_deref().unwrap_or("0").parse()?)
    }

    /// A request with one header, and its answer.
    ///
    /// # Errors
    /// Where there is no answer.
    pub async fn ask(&self, method: &str, path: &str, header: (&str, &str), value: &str) -> anyhow::Result<Answer> {
        let request =
            self.http.request(method.parse()?, self.url(path)).header(header.0, format!("{}{value}", header.1));
        answer(request).await
    }

    /// The tag of what the server answers there.
    ///
    /// # Errors
    /// Where it has none.
    pub async fn tag(&self, path: &str) -> anyhow::Result<String> {
        let response = self.http.get(self.url(path)).send().await?;
        let tag = response.headers().get(reqwest::header::ETAG).context("an answer without a tag")?;
        Ok(tag.to_str()?.to_owned())
    }

    /// Tells the bare handlers how large their body is.
    ///
    /// # Errors
    /// Where the server does not take it.
    pub async fn set_bare_body(&self, size: usize) -> anyhow::Result<()> {
        let answer = answer(self.http.put(self.url(&format!("/bare/body/{size}")))).await?;
        ensure!(answer.status == 204, "PUT gave {answer:?}");
        Ok(())
    }

    async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        answer(self.http.get(self.url(path))).await
    }

    async fn made(&self, path: &str) -> anyhow::Result<String> {
        let answer = answer(self.http.post(self.url(path))).await?;
        ensure!(answer.status == 200, "POST {path} gave {answer:?}");
        Ok(answer.body)
    }

    async fn operate(&self, method: reqwest::Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        // A large hall may take longer than a request may: it is asked for again, as the answer says.
        let (key, started) = (format!("\"{}\"", rand::random::<u64>()), Instant::now());
        loop {
            let request = self.http.request(method.clone(), self.url(path)).bearer_auth(&self.operator).json(body);
            let answer = answer(request.header("idempotency-key", &key)).await?;
            if matches!(answer.status, 409 | 503) && started.elapsed() < CREATION_MAX {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            ensure!((200..300).contains(&answer.status), "{path} gave {answer:?}");
            return Ok(serde_json::from_str(&answer.body)?);
        }
    }

    /// What the database calls itself.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn database_version(&self) -> anyhow::Result<String> {
        let mut sql = MySqlConnection::connect(&self.services.database_url).await?;
        let version: String = sqlx::query_scalar("SELECT VERSION()").fetch_one(&mut sql).await?;
        sql.close().await?;
        Ok(format!("{:?} {version}", self.services.engine))
    }

    /// The version of Redis.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn redis_version(&self) -> anyhow::Result<String> {
        self.redis_info("server", "redis_version").await
    }

    /// A field of `INFO`.
    ///
    /// # Errors
    /// Where there is no such field.
    pub async fn redis_info(&self, section: &str, field: &str) -> anyhow::Result<String> {
        let text: String = self.redis.custom(command("INFO"), vec![section]).await?;
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.map(|value| value.trim().to_owned()).with_context(|| format!("Redis tells no {field}"))
    }
}

/// A command by its name, for what the library's selected features leave out.
pub fn command(name: &'static str) -> fred::types::CustomCommand {
    fred::types::CustomCommand::new_static(name, None::<u16>, false)
}

/// Sends a request.
///
/// # Errors
/// Where there is no answer.
pub async fn answer(request: reqwest::RequestBuilder) -> anyhow::Result<Answer> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    let mut headers: Vec<String> = response.headers().keys().map(|name| name.as_str().to_owned()).collect();
    headers.sort();
    Ok(Answer { status, headers, body: response.text().await? })
}

/// Folders of runs that were killed. Their servers ended with them.
fn remove_leftovers() -> anyhow::Result<()> {
    for entry in std::fs::read_dir(FOLDER).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|pid| pid.parse::<u32>().is_ok()) && !PathBuf::from("/proc").join(&name).exists() {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
