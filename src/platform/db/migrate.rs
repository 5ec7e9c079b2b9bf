//! Brings the schema up to date: one instance at a time, under a named lock of the server.
//!
//! sqlx's own lock waits without a limit, which MariaDB refuses silently, so it is off and the lock is
//! taken here with one.

use std::str::FromStr as _;

use anyhow::{Context as _, bail};
use sqlx::mysql::MySqlConnectOptions;
use sqlx::{Connection as _, MySqlConnection};

use super::super::config::DatabaseSettings;

const TAKE_LOCK: &str = "SELECT GET_LOCK(CONCAT('frontrow.migrate.', DATABASE()), 60)";
const GIVE_LOCK: &str = "SELECT RELEASE_LOCK(CONCAT('frontrow.migrate.', DATABASE()))";

/// Applies every migration that is missing and returns how many the binary knows. What a newer version has applied besides
/// is left as it is.
///
/// # Errors
/// Where the server cannot be reached, another instance holds the lock for a minute, or a migration
/// fails or was changed after it was applied.
pub async fn migrate(settings: &DatabaseSettings) -> anyhow::Result<usize> {
    // The migrator's future is not Send for every lifetime, as the compiler sees it; a thread of its own asks no such thing.
    let settings = settings.clone();
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || runtime.block_on(apply(&settings))).await.context("migration ended early")?
}

async fn apply(settings: &DatabaseSettings) -> anyhow::Result<usize> {
    let mut migrator = sqlx::migrate!();
    migrator.set_locking(false);
    // While a newer version is rolled out, or taken back, instances of this one start over its schema: released migrations
    // only add, so this one's statements go on working.
    migrator.set_ignore_missing(true);
    let options = MySqlConnectOptions::from_str(settings.owner_url().expose()).context("database.migration_url")?;
    let mut conn = MySqlConnection::connect_with(&options).await.context("cannot connect to the database")?;
    let taken: Option<i64> = sqlx::query_scalar(TAKE_LOCK).fetch_one(&mut conn).await?;
    if taken != Some(1) {
        bail!("another instance has been migrating for a minute");
    }
    let outcome = migrator.run(&mut conn).await.context("migration failed");
    let _released: Option<i64> = sqlx::query_scalar(GIVE_LOCK).fetch_one(&mut conn).await?;
    outcome?;
    conn.close().await?;
    Ok(migrator.iter().count())
}
