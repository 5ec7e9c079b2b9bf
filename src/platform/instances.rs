//! Which instances of the installation run, as each says itself every few seconds.
//!
//! Table owned: `instances`. For people and for what is counted by instance; nothing that must be right depends on it: an
//! instance may be listed for a moment after its end, and one that is cut off from MySQL is not listed.

use std::sync::Arc;

use sqlx::Row as _;

use super::clock::Timestamp;
use super::db::Db;
use super::error::Problem;

crate::id_types! {
    /// An instance, from its start to its end.
    InstanceId;
}

/// How long an instance is taken for alive without a sign of life: three of them may be missed.
pub const LIVE_SECS: u32 = 16;
/// How long the rows of those stay that ended without a word.
const KEEP_SECS: u32 = 3600;

const BEAT: &str = "INSERT INTO instances (id, name, started_at, seen_at) \
     VALUES (?, ?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) \
     ON DUPLICATE KEY UPDATE seen_at = VALUES(seen_at)";
const LIST_LIVE: &str = "SELECT id, name, started_at, seen_at FROM instances \
     WHERE seen_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND - INTERVAL ? SECOND";
const DELETE_GONE: &str =
    "DELETE FROM instances WHERE seen_at < UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND - INTERVAL ? SECOND";
const DELETE: &str = "DELETE FROM instances WHERE id = ?";

/// An instance that runs.
#[derive(Clone, Debug)]
pub struct Live {
    /// The instance.
    pub id: InstanceId,
    /// Its machine and the address that it listens on.
    pub name: String,
    /// When it first said that it is there.
    pub started_at: Timestamp,
    /// When it last did.
    pub seen_at: Timestamp,
}

/// The instances, as seen from one of them. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Instances(Arc<Own>);

#[derive(Debug)]
struct Own {
    db: Db,
    id: InstanceId,
    name: String,
}

impl Instances {
    /// This instance, which listens on this address. It is listed from its first beat on.
    #[must_use]
    pub fn new(db: Db, addr: &str) -> Self {
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name: String = format!("{} {addr}", machine.trim()).trim().chars().take(255).collect();
        Self(Arc::new(Own { db, id: InstanceId::new(), name }))
    }

    /// Which one this is.
    #[must_use]
    pub fn own(&self) -> InstanceId {
        self.0.id
    }

    /// Says that this instance is there, and forgets those that have not said so for long.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn beat(&self) -> Result<(), Problem> {
        let beat = self.0.db.in_tx("instances.beat", self.0.clone(), |conn, own| {
            Box::pin(async move {
                let offset = conn.offset_micros();
                let beat = sqlx::query(BEAT).bind(own.id).bind(&own.name).bind(offset).bind(offset);
                beat.execute(conn.sql()).await?;
                sqlx::query(DELETE_GONE).bind(offset).bind(KEEP_SECS).execute(conn.sql()).await?;
                Ok(())
            })
        });
        beat.await
    }

    /// Takes this instance off the list.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn leave(&self) -> Result<(), Problem> {
        let leave = self.0.db.in_tx("instances.leave", self.0.id, |conn, id| {
            Box::pin(async move {
                sqlx::query(DELETE).bind(*id).execute(conn.sql()).await?;
                Ok(())
            })
        });
        leave.await
    }

    /// Those that run, the one that started first in front.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn list_live(&self) -> Result<Vec<Live>, Problem> {
        let list = self.0.db.read("instances.list_live", (), |conn, ()| {
            Box::pin(async move {
                let offset = conn.offset_micros();
                let found = sqlx::query(LIST_LIVE).bind(offset).bind(LIVE_SECS).fetch_all(conn.sql()).await?;
                let live = found.iter().map(|row| {
                    let (id, name) = (row.try_get("id")?, row.try_get("name")?);
                    Ok(Live { id, name, started_at: row.try_get("started_at")?, seen_at: row.try_get("seen_at")? })
                });
                live.collect::<Result<Vec<_>, Problem>>()
            })
        });
        let mut live = list.await?;
        live.sort_by_key(|instance| (instance.started_at, instance.id));
        Ok(live)
    }
}
