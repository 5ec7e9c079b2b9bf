//! The benchmark's side: hands tasks to the server under test, and looks at what it and the servers behind it do.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sqlx::{Connection as _, MySqlConnection};

use super::{Maker, Rush, Rushed, Task};
use crate::process::cpu_secs;
use crate::stage::Stage;

/// How often the answer is asked for: seldom enough to cost nothing.
const PAUSE: Duration = Duration::from_millis(50);
/// The counter of all statements that clients send.
const STATEMENTS: &str = "SHOW GLOBAL STATUS LIKE 'Questions'";
/// The counter of all commits that clients ask for.
const COMMITS: &str = "SHOW GLOBAL STATUS LIKE 'Com_commit'";

/// Seconds of processor time.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// Of the server under test.
    pub server: f64,
    /// Of the database.
    pub database: f64,
    /// Of Redis.
    pub redis: f64,
}

impl Spent {
    fn since(self, before: Self) -> Self {
        Self {
            server: self.server - before.server,
            database: self.database - before.database,
            redis: self.redis - before.redis,
        }
    }
}

/// Requests that are refused.
#[derive(Clone, Debug, Deserialize)]
pub struct Refusals {
    /// Where they go.
    pub path: String,
    /// What they carry, as lines of values.
    pub values: Vec<String>,
}

impl Stage {
    /// Has the server do something, however long it takes.
    ///
    /// # Errors
    /// What it fails with.
    pub async fn perform<T: DeserializeOwned>(&self, task: &Task) -> anyhow::Result<T> {
        let url = self.url("/rush");
        self.http.post(&url).json(task).send().await?.error_for_status()?;
        loop {
            tokio::time::sleep(PAUSE).await;
            let answer = self.http.get(&url).send().await?.error_for_status()?;
            if answer.status() == 204 {
                continue;
            }
            return match answer.json::<Result<T, String>>().await? {
                Ok(done) => Ok(done),
                Err(error) => bail!("{task:?} failed: {error}"),
            };
        }
    }

    /// A new hall with buyers. Its number.
    ///
    /// # Errors
    /// As [`Stage::perform`].
    pub async fn hall(&self, seats: u32, buyers: usize) -> anyhow::Result<usize> {
        self.perform(&Task::Hall { seats, buyers }).await
    }

    /// A rush, and what it took. What it left is checked and then cleared away.
    ///
    /// # Errors
    /// Where a hold fails, or what is stored is not what was answered.
    pub async fn rush(&self, rush: Rush) -> anyhow::Result<(Rushed, Spent)> {
        let before = self.spent()?;
        let rushed: Rushed = self.perform(&Task::Rush(rush)).await?;
        let after = self.spent()?;
        let holds = if rush.gives_back { 0.0 } else { rushed.holds };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let () = self.perform(&Task::Clear { hall: rush.hall, holds: holds as u64, seats: 2 }).await?;
        Ok((rushed, after.since(before)))
    }

    /// A round of payments, and what it took. What it left is checked.
    ///
    /// # Errors
    /// Where a payment fails, or what is stored is not what was answered.
    pub async fn pay(&self, hall: usize, maker: Maker, at_once: usize) -> anyhow::Result<(Rushed, Spent)> {
        let () = self.perform(&Task::Fill { hall }).await?;
        let millis = u64::try_from(self.pace.length.as_millis())?;
        let before = self.spent()?;
        let rushed: Rushed = self.perform(&Task::Pay { maker, at_once, millis }).await?;
        let spent = self.spent()?.since(before);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let () = self.perform(&Task::Audit { paid: rushed.holds as u64 }).await?;
        Ok((rushed, spent))
    }

    fn spent(&self) -> anyhow::Result<Spent> {
        let Self { server, services, .. } = self;
        let database = cpu_secs(services.database_pid)?;
        Ok(Spent { server: server.cpu_secs()?, database, redis: cpu_secs(services.redis_pid)? })
    }

    /// How many statements the database was sent since it started, this one included.
    ///
    /// # Errors
    /// Where it does not tell.
    pub async fn statements(&self) -> anyhow::Result<f64> {
        self.status(STATEMENTS).await
    }

    /// How many transactions the database has committed since it started.
    ///
    /// # Errors
    /// Where it does not tell.
    pub async fn commits(&self) -> anyhow::Result<f64> {
        self.status(COMMITS).await
    }

    async fn status(&self, statement: &'static str) -> anyhow::Result<f64> {
        let mut sql = MySqlConnection::connect(&self.services.database_url).await?;
        let (_, count): (String, String) = sqlx::query_as(statement).fetch_one(&mut sql).await?;
        sql.close().await?;
        Ok(count.parse()?)
    }

    /// One of the server's metrics, by its full name with labels; 0 where it has none yet.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = self.http.get(self.url("/metrics")).send().await?.error_for_status()?.text().await?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(Ok(0.0), |value| value.parse().context("a metric that is no number"))
    }
}
