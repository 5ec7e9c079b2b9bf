//! The schema, and what the server's own account may do with it.

use crate::platform::config::DatabaseSettings;
use crate::platform::db::{self, Db};
use crate::platform::error::Problem;
use crate::points;

/// Brings the schema up to date, then the rights of the server's account where another one migrates. Returns how many
/// migrations there are.
///
/// # Errors
/// As [`db::migrate`] and [`db::grant`].
pub async fn prepare(settings: &DatabaseSettings) -> anyhow::Result<usize> {
    let count = db::migrate(settings).await?;
    db::grant(settings, points::APPEND_ONLY).await?;
    Ok(count)
}

/// Warns where the server could change what was booked.
///
/// # Errors
/// Where the database does not answer.
pub async fn check_rights(db: &Db) -> Result<(), Problem> {
    for table in points::APPEND_ONLY {
        if db.may_change(table).await? {
            tracing::warn!(
                table,
                "the account of database.url may change the ledger: give it to an owner, database.migration_url"
            );
        }
    }
    Ok(())
}
