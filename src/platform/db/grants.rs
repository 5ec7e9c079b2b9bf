//! What the server's own database account may do: everything it needs with every table, and with tables that only grow no
//! more than to read and to add.
//!
//! One account owns the schema and migrates it (`database.migration_url`), another serves (`database.url`). The first gives the
//! second its rights table by table: a right to the whole database would hold for every table in it, and no server takes
//! one table out of it again. What is granted already is left alone, so starting again costs a look.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr as _;

use anyhow::{Context as _, bail, ensure};
use sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection};

use super::super::config::DatabaseSettings;
use super::super::error::Problem;
use super::Db;

const CURRENT_USER: &str = "SELECT CURRENT_USER()";
const CURRENT_DATABASE: &str = "SELECT DATABASE()";
const TABLES: &str = "SELECT CAST(table_name AS CHAR) FROM information_schema.tables WHERE table_schema = DATABASE() \
     AND table_type = 'BASE TABLE' AND table_name <> '_sqlx_migrations'";
/// Whoever asks sees their own rights only.
const RIGHTS: &str = "SELECT CAST(table_schema AS CHAR), CAST(table_name AS CHAR), CAST(privilege_type AS CHAR) \
     FROM information_schema.table_privileges";

/// The server's rights to a table.
const ALL: [&str; 4] = ["SELECT", "INSERT", "UPDATE", "DELETE"];
/// Its rights to a table that only grows.
const APPEND: [&str; 2] = ["SELECT", "INSERT"];

/// `ER_TABLEACCESS_DENIED_ERROR`.
const DENIED: u16 = 1142;

/// Gives the server's account what it lacks, and takes from it what it may not have of the tables that only grow. Nothing
/// happens where one account does both.
///
/// # Errors
/// Where an account cannot connect, both are the same, or the owner may not grant.
pub async fn grant(settings: &DatabaseSettings, append_only: &[&str]) -> anyhow::Result<()> {
    if settings.migration_url.is_empty() {
        return Ok(());
    }
    let owner = MySqlConnectOptions::from_str(settings.migration_url.expose()).context("database.migration_url")?;
    let mut owner = MySqlConnection::connect_with(&owner).await.context("cannot connect as database.migration_url")?;
    let database: Option<String> = sqlx::query_scalar(CURRENT_DATABASE).fetch_one(&mut owner).await?;
    let database = database.context("database.migration_url names no database")?;
    // Without a database, to which it has no right before the first grant.
    let server = MySqlConnectOptions::from_str(&without_database(settings.url.expose())).context("database.url")?;
    let mut server = MySqlConnection::connect_with(&server).await.context("cannot connect as database.url")?;
    let account: String = sqlx::query_scalar(CURRENT_USER).fetch_one(&mut server).await?;
    let itself: String = sqlx::query_scalar(CURRENT_USER).fetch_one(&mut owner).await?;
    ensure!(account != itself, "database.url and database.migration_url are the same account: leave the latter empty");
    let rights: Vec<(String, String, String)> = sqlx::query_as(RIGHTS).fetch_all(&mut server).await?;
    let mut has: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (_, table, right) in rights.into_iter().filter(|(schema, ..)| *schema == database) {
        has.entry(table).or_default().insert(right);
    }
    let tables: Vec<String> = sqlx::query_scalar(TABLES).fetch_all(&mut owner).await?;
    let account = quoted(&account)?;
    for table in tables {
        let only_grows = append_only.contains(&table.as_str());
        let wanted: &[&str] = if only_grows { &APPEND } else { &ALL };
        let has = has.remove(&table).unwrap_or_default();
        let missing: Vec<&str> = wanted.iter().copied().filter(|right| !has.contains(*right)).collect();
        let excess: Vec<&str> = has.iter().map(String::as_str).filter(|right| !wanted.contains(right)).collect();
        if !missing.is_empty() {
            let statement = format!("GRANT {} ON `{database}`.`{table}` TO {account}", missing.join(", "));
            owner.execute(AssertSqlSafe(statement)).await.with_context(|| format!("cannot grant {table}"))?;
        }
        if only_grows && !excess.is_empty() {
            let statement = format!("REVOKE {} ON `{database}`.`{table}` FROM {account}", excess.join(", "));
            owner.execute(AssertSqlSafe(statement)).await.with_context(|| format!("cannot revoke {table}"))?;
        }
    }
    server.close().await?;
    owner.close().await?;
    Ok(())
}

impl Db {
    /// Whether the server's account may change or delete rows of this table. Nothing is changed.
    ///
    /// # Errors
    /// As [`Db::read`].
    pub async fn may_change(&self, table: &'static str) -> Result<bool, Problem> {
        self.read("db.rights", table, |conn, table| {
            Box::pin(async move {
                let statement = format!("DELETE FROM {table} WHERE FALSE");
                match conn.sql().execute(AssertSqlSafe(statement)).await {
                    Ok(_) => Ok(true),
                    Err(error) if is_denied(&error) => Ok(false),
                    Err(error) => Err(error.into()),
                }
            })
        })
        .await
    }
}

fn is_denied(error: &sqlx::Error) -> bool {
    let error = error.as_database_error().and_then(|error| error.try_downcast_ref::<MySqlDatabaseError>());
    error.is_some_and(|error| error.number() == DENIED)
}

/// The URL with nothing between its host and its options.
fn without_database(url: &str) -> String {
    let host = url.find("://").map_or(0, |at| at + 3);
    let Some(path) = url[host..].find('/').map(|at| host + at) else { return url.to_owned() };
    let options = url[path..].find('?').map_or("", |at| &url[path + at..]);
    format!("{}/{options}", &url[..path])
}

/// `user@host`, as the server tells it, for a statement.
fn quoted(account: &str) -> anyhow::Result<String> {
    let Some((user, host)) = account.rsplit_once('@') else { bail!("the server names no account") };
    let is_plain = |part: &str| !part.contains(['\'', '\\', '`']);
    ensure!(is_plain(user) && is_plain(host), "an account with quotes in its name");
    Ok(format!("'{user}'@'{host}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_connects_without_a_database() {
        let cases = [
            ("mysql://a:b@h:3306/frontrow?ssl-mode=disabled", "mysql://a:b@h:3306/?ssl-mode=disabled"),
            ("mysql://a:b@h/frontrow", "mysql://a:b@h/"),
            ("mysql://a:b@h", "mysql://a:b@h"),
        ];
        for (url, expected) in cases {
            assert_eq!(without_database(url), expected);
        }
    }

    #[test]
    fn an_account_is_quoted_and_none_breaks_out() {
        assert_eq!(quoted("frontrow@%").unwrap(), "'frontrow'@'%'");
        assert_eq!(quoted("a@b@127.0.0.1").unwrap(), "'a@b'@'127.0.0.1'");
        assert!(quoted("a'; DROP@%").is_err());
        assert!(quoted("nobody").is_err());
    }
}
