//! Scheduled work as rows: due at a time, claimed by one instance with a lease and a fencing number.
//!
//! Table owned: `jobs`. tokio-cron-scheduler only ticks; what is due, who runs it and whether it was run is in
//! MySQL. A job whose instance dies is claimed again when its lease lapses, with a higher fence; the late
//! finisher's result is then refused, because its fence is old. On one instance a job never overlaps with
//! itself.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;
use sqlx::{AssertSqlSafe, Row as _};
use tokio_cron_scheduler::{Job, JobScheduler};

use super::clock::Timestamp;
use super::config::JobSettings;
use super::db::{Conn, Db, in_list};
use super::error::Problem;
use super::shutdown::Shutdown;
use super::telemetry::metrics;

const ENSURE: &str = "INSERT INTO jobs (name, every_secs, due_at, fence) VALUES (?, ?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, 0) \
     ON DUPLICATE KEY UPDATE every_secs = VALUES(every_secs)";
/// Only jobs that this version knows: during an upgrade the other version's wait for its instances. Read in the order of the
/// index, so that no more rows are locked than looked at.
const FIND_DUE_FOR_UPDATE: &str = "SELECT name, fence, last_ok_at, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND AS now_at \
     FROM jobs FORCE INDEX (by_due) WHERE due_at <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND \
     AND (leased_until IS NULL OR leased_until <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) AND name IN (?) \
     ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED";
const LEASE: &str = "UPDATE jobs SET fence = fence + 1, \
     leased_until = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND + INTERVAL ? SECOND WHERE name = ?";
const EXTEND: &str = "UPDATE jobs SET leased_until = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND + INTERVAL ? SECOND WHERE name = ? AND fence = ?";
const FINISH: &str = "UPDATE jobs SET leased_until = NULL, last_result = ?, last_ok_at = IF(?, ?, last_ok_at), \
     last_ended_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, due_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND + INTERVAL every_secs SECOND WHERE name = ? AND fence = ?";

/// The result of a job that succeeded.
pub const OK: &str = "ok";

/// Most jobs that one tick starts.
const PER_TICK_MAX: usize = 16;

/// What a job runs, given the claim. The error's text is kept in its row.
pub type Work = Arc<dyn Fn(Claim) -> BoxFuture<'static, Result<(), Problem>> + Send + Sync>;

struct Task {
    every_secs: u32,
    work: Work,
}

/// A job that this instance has claimed.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The job's name.
    pub name: String,
    /// Its fencing number: greater than that of every claim before.
    pub fence: u64,
    /// When it was claimed.
    pub claimed_at: Timestamp,
    /// When the last run that succeeded was claimed.
    pub last_ok_at: Option<Timestamp>,
}

/// The jobs of an instance.
pub struct Jobs {
    db: Db,
    settings: JobSettings,
    tasks: HashMap<&'static str, Task>,
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").field("names", &self.tasks.keys()).finish_non_exhaustive()
    }
}

impl Jobs {
    /// No jobs yet.
    #[must_use]
    pub fn new(db: Db, settings: JobSettings) -> Self {
        Self { db, settings, tasks: HashMap::new() }
    }

    /// Adds a job that is due again `every_secs` after it ended.
    #[must_use]
    pub fn every(mut self, name: &'static str, every_secs: u32, work: Work) -> Self {
        self.tasks.insert(name, Task { every_secs, work });
        self
    }

    /// Makes sure that every job has its row.
    ///
    /// # Errors
    /// Where a statement fails.
    pub async fn register(&self) -> Result<(), Problem> {
        for (name, task) in &self.tasks {
            let input = (*name, task.every_secs);
            self.db
                .in_tx("jobs.register", input, |conn, (name, every_secs)| {
                    Box::pin(async move {
                        let offset = conn.offset_micros();
                        sqlx::query(ENSURE).bind(*name).bind(*every_secs).bind(offset).execute(conn.sql()).await?;
                        Ok(())
                    })
                })
                .await?;
        }
        Ok(())
    }

    /// Ticks every second until shutdown, and waits for what is running.
    ///
    /// # Errors
    /// Where the ticker does not start.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut ticker = JobScheduler::new().await.context("scheduler")?;
        let jobs = Arc::new(self);
        let busy = Arc::new(AtomicBool::new(false));
        let on_tick = {
            let (jobs, busy, shutdown) = (jobs.clone(), busy.clone(), shutdown.clone());
            move |_, _| -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
                let (jobs, busy, shutdown) = (jobs.clone(), busy.clone(), shutdown.clone());
                Box::pin(async move {
                    if !shutdown.is_requested() && !busy.swap(true, Ordering::AcqRel) {
                        jobs.run_due().await;
                        busy.store(false, Ordering::Release);
                    }
                })
            }
        };
        ticker.add(Job::new_async("*/1 * * * * *", on_tick).context("ticker")?).await.context("ticker")?;
        ticker.start().await.context("scheduler")?;
        shutdown.requested().await;
        ticker.shutdown().await.context("scheduler")?;
        while busy.load(Ordering::Acquire) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Runs what is due now, one after the other.
    pub async fn run_due(&self) {
        for _ in 0..PER_TICK_MAX {
            match self.claim().await {
                Ok(Some(claim)) => self.run_claimed(&claim).await,
                Ok(None) => return,
                Err(problem) => {
                    tracing::warn!(%problem, "jobs cannot be claimed");
                    return;
                }
            }
        }
    }

    /// Claims the job that has been due longest, if any of those known here is due and free.
    ///
    /// # Errors
    /// Where a statement fails.
    pub async fn claim(&self) -> Result<Option<Claim>, Problem> {
        let names: Vec<&'static str> = self.tasks.keys().copied().collect();
        if names.is_empty() {
            return Ok(None);
        }
        let input = (names, self.settings.lease_secs);
        self.db.in_tx("jobs.claim", input, |conn, (names, lease)| Box::pin(claim(conn, names, *lease))).await
    }

    /// Marks a claimed job as ended; it succeeded if the result is [`OK`]. False where the claim was lost to another instance meanwhile.
    ///
    /// # Errors
    /// Where the statement fails.
    pub async fn finish(&self, claim: &Claim, result: &str) -> Result<bool, Problem> {
        let input = (claim.clone(), result.chars().take(500).collect::<String>());
        self.db
            .in_tx("jobs.finish", input, |conn, (claim, result)| {
                Box::pin(async move {
                    let offset = conn.offset_micros();
                    let query = sqlx::query(FINISH).bind(result).bind(result == OK).bind(claim.claimed_at);
                    let query = query.bind(offset).bind(offset).bind(&claim.name);
                    Ok(query.bind(claim.fence).execute(conn.sql()).await?.rows_affected() == 1)
                })
            })
            .await
    }

    async fn run_claimed(&self, claim: &Claim) {
        let Some(task) = self.tasks.get(claim.name.as_str()) else {
            tracing::error!(job = claim.name, "a job was claimed that this instance does not know");
            return;
        };
        let mut work = tokio::spawn((task.work)(claim.clone()));
        let pulse = Duration::from_secs(u64::from(self.settings.lease_secs.max(3))) / 3;
        let outcome = loop {
            tokio::select! {
                outcome = &mut work => break outcome,
                () = tokio::time::sleep(pulse) => self.extend(claim).await,
            }
        };
        let result = match outcome {
            Ok(Ok(())) => OK.to_owned(),
            Ok(Err(problem)) => problem.to_string(),
            Err(panic) => panic.to_string(),
        };
        metrics::job_run(&claim.name, result == OK);
        if result != OK {
            tracing::warn!(job = claim.name, result, "job failed");
        }
        match self.finish(claim, &result).await {
            Ok(true) => {}
            Ok(false) => tracing::warn!(job = claim.name, "the lease was lost before the job ended"),
            Err(problem) => tracing::warn!(job = claim.name, %problem, "the job's end was not recorded"),
        }
    }

    async fn extend(&self, claim: &Claim) {
        let input = (claim.clone(), self.settings.lease_secs);
        let outcome = self
            .db
            .in_tx("jobs.extend", input, |conn, (claim, lease)| {
                Box::pin(async move {
                    let offset = conn.offset_micros();
                    let query = sqlx::query(EXTEND).bind(offset).bind(*lease).bind(&claim.name).bind(claim.fence);
                    query.execute(conn.sql()).await?;
                    Ok(())
                })
            })
            .await;
        if let Err(problem) = outcome {
            tracing::warn!(job = claim.name, %problem, "the lease was not extended");
        }
    }
}

async fn claim(conn: &mut Conn, names: &[&'static str], lease_secs: u32) -> Result<Option<Claim>, Problem> {
    let offset = conn.offset_micros();
    let mut find = sqlx::query(AssertSqlSafe(in_list(FIND_DUE_FOR_UPDATE, names.len())));
    find = find.bind(offset).bind(offset).bind(offset);
    for name in names {
        find = find.bind(*name);
    }
    let Some(row) = find.fetch_optional(conn.sql()).await? else { return Ok(None) };
    let name: String = row.try_get("name")?;
    let fence: u64 = row.try_get("fence")?;
    let (claimed_at, last_ok_at) = (row.try_get("now_at")?, row.try_get("last_ok_at")?);
    sqlx::query(LEASE).bind(offset).bind(lease_secs).bind(&name).execute(conn.sql()).await?;
    Ok(Some(Claim { name, fence: fence + 1, claimed_at, last_ok_at }))
}
