//! What has changed: numbered rows in MySQL, written in the transactions of the changes and read by every instance all the time.
//!
//! Tables owned: `cache_state` (one row: the number of the last change, the generation of the far tier), `cache_changes`.
//!
//! A change takes its number from the one row of `cache_state` and keeps that row locked until it commits, so numbers become
//! visible in their order and without gaps: whoever knows number n knows of every change up to n, and a load that begins then
//! has all of them in it. That row makes changes wait for each other. They are what operators do, a few a second at most;
//! nothing that a buyer does may be announced here. It is the last row that a transaction locks.
//!
//! Invariants:
//! - A *floor* is the last change that a value must have in it: of one key, of a cache, of all. Values below it are misses in
//!   either tier, so no order of arrivals brings an older value back.
//! - Rows that were lost, numbers that went back and more news than can be remembered raise the floor of all: everything is
//!   forgotten rather than something kept too long.
//! - News are read over a connection of their own: a pool in which everybody waits does not hold them up.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;

use crate::platform::db::{Conn, Db, rows};
use crate::platform::error::Problem;

const TAKE_NUMBERS: &str = "UPDATE cache_state SET change_no = LAST_INSERT_ID(change_no + ?) WHERE id = 1";
const INSERT_CHANGES: &str = "INSERT INTO cache_changes (change_no, cache, subject, created_at) \
     VALUES (?, ?, ?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
const FIND_STATE: &str = "SELECT change_no, generation FROM cache_state WHERE id = 1";
const LIST_CHANGES: &str =
    "SELECT change_no AS number, cache, subject FROM cache_changes WHERE change_no > ? ORDER BY change_no LIMIT ?";
const RAISE_GENERATION: &str = "UPDATE cache_state SET generation = generation + 1 WHERE id = 1 AND generation = ?";
const DELETE_OLD: &str = "DELETE FROM cache_changes \
     WHERE created_at < UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND - INTERVAL ? HOUR ORDER BY created_at LIMIT ?";

/// How long changes are kept: longer than anything stays in Redis, as an instance that starts learns the floors from them.
pub(super) const KEPT_HOURS: u32 = 48;
/// Changes read at once; who has missed more forgets everything.
const CHANGES_MAX: u64 = 1000;
/// Floors of single keys that are remembered; older ones become the floor of their cache.
const FLOORS_MAX: usize = 20_000;

/// What a change is about: a cache, and a key in it as text; without one, all of it.
pub type Subject = (&'static str, Option<String>);

/// Announces changes in their own transaction, of which this is the last statement. Afterwards the caller lets its instance
/// hear of it at once ([`super::Caches::catch_up`]); others hear of it within `cache.news_ms`.
///
/// # Errors
/// Where a statement fails.
pub async fn announce(conn: &mut Conn, subjects: &[Subject]) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    let count = subjects.len() as u64;
    if count == 0 {
        return Ok(());
    }
    let last = sqlx::query(TAKE_NUMBERS).bind(count).execute(conn.sql()).await?.last_insert_id();
    let mut insert = sqlx::query(AssertSqlSafe(rows(INSERT_CHANGES, subjects.len())));
    for (number, (cache, subject)) in (last + 1 - count..).zip(subjects) {
        insert = insert.bind(number).bind(*cache).bind(subject.as_deref().unwrap_or_default()).bind(offset);
    }
    insert.execute(conn.sql()).await?;
    Ok(())
}

/// Deletes changes that nobody needs any more, at most `limit`.
///
/// # Errors
/// Where the statement fails.
pub async fn delete_old(db: &Db, limit: u32) -> Result<u64, Problem> {
    db.in_tx("cache.tidy", limit, |conn, limit| {
        Box::pin(async move {
            let offset = conn.offset_micros();
            let old = sqlx::query(DELETE_OLD).bind(offset).bind(KEPT_HOURS).bind(*limit);
            Ok(old.execute(conn.sql()).await?.rows_affected())
        })
    })
    .await
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct Change {
    pub number: u64,
    pub cache: String,
    /// Empty: the whole cache.
    pub subject: String,
}

/// What a look at the tables showed.
#[derive(Debug)]
struct Look {
    number: u64,
    generation: u64,
    changes: Vec<Change>,
}

/// What follows from a look.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub changes: Vec<Change>,
    /// News were lost: whatever is kept may be wrong.
    pub is_all: bool,
}

#[derive(Debug, Default)]
struct Known {
    /// The last change heard of; nothing before the first look.
    number: Option<u64>,
    generation: u64,
    floors: Floors,
}

/// What this instance knows of changes.
#[derive(Debug)]
pub(super) struct News {
    db: Db,
    known: Mutex<Known>,
    /// When the last look that succeeded began.
    looked_at: Mutex<Option<Instant>>,
    /// When the last look ended, whatever came of it; looks come one after the other.
    looking: tokio::sync::Mutex<Option<(Instant, bool)>>,
}

impl News {
    /// Over a database handle that nothing else uses.
    pub fn new(db: Db) -> Self {
        Self { db, known: Mutex::default(), looked_at: Mutex::default(), looking: tokio::sync::Mutex::default() }
    }

    /// Whether every change that was committed so long ago has been heard of.
    pub fn is_current(&self, within: Duration) -> bool {
        lock(&self.looked_at).is_some_and(|at| at.elapsed() <= within)
    }

    /// The last change heard of: a load that begins now has it in it.
    pub fn number(&self) -> u64 {
        lock(&self.known).number.unwrap_or_default()
    }

    /// The generation; nothing before the first look.
    pub fn generation(&self) -> Option<u64> {
        let known = lock(&self.known);
        known.number.map(|_| known.generation)
    }

    /// The last change that a value of this key must have in it.
    pub fn floor(&self, cache: &str, key: &str) -> u64 {
        lock(&self.known).floors.of(cache, key)
    }

    /// A value with this change in it was seen: older ones will not do any more.
    pub fn saw(&self, cache: &str, key: &str, version: u64) {
        let mut known = lock(&self.known);
        if known.number.is_some_and(|number| version > number) {
            known.floors.raise(cache, key, version);
        }
    }

    /// Looks, unless somebody else began to look after the caller asked. `apply` makes the caches forget before the look counts.
    /// Whether it succeeded.
    pub async fn look(&self, apply: impl Fn(&Heard)) -> bool {
        let asked = Instant::now();
        let mut looking = self.looking.lock().await;
        if let Some((began, succeeded)) = *looking
            && began >= asked
        {
            return succeeded;
        }
        let began = Instant::now();
        let outcome = self.look_once().await;
        *looking = Some((began, outcome.is_ok()));
        match outcome {
            Ok(look) => {
                apply(&self.learn(look));
                *lock(&self.looked_at) = Some(began);
                true
            }
            Err(problem) => {
                tracing::debug!(%problem, "no news of changes");
                false
            }
        }
    }

    async fn look_once(&self) -> Result<Look, Problem> {
        let from = lock(&self.known).number;
        self.db
            .read("cache.look", from, |conn, from| {
                Box::pin(async move {
                    let state: Option<(u64, u64)> = sqlx::query_as(FIND_STATE).fetch_optional(conn.sql()).await?;
                    let (number, generation) = state.unwrap_or_default();
                    // At the start as many as are read at once: what is older counts as changed.
                    let from = from.unwrap_or_else(|| number.saturating_sub(CHANGES_MAX));
                    let mut changes: Vec<Change> = Vec::new();
                    if from < number {
                        let list = sqlx::query_as(LIST_CHANGES).bind(from).bind(CHANGES_MAX);
                        changes = list.fetch_all(conn.sql()).await?;
                        changes.retain(|change| change.number <= number);
                    }
                    Ok(Look { number, generation, changes })
                })
            })
            .await
    }

    fn learn(&self, look: Look) -> Heard {
        let Look { number, generation, changes } = look;
        let mut known = lock(&self.known);
        let before = known.number.replace(number);
        known.generation = generation;
        let Some(before) = before else {
            known.floors.raise_all(number.saturating_sub(CHANGES_MAX));
            for change in &changes {
                known.floors.hear(change);
            }
            return Heard { changes: Vec::new(), is_all: false };
        };
        if number < before {
            // Another database, or one from a backup: its numbers mean something else.
            known.floors = Floors::default();
            known.floors.raise_all(number);
            return Heard { changes: Vec::new(), is_all: true };
        }
        if changes.len() as u64 != number - before {
            known.floors.raise_all(number);
            return Heard { changes: Vec::new(), is_all: true };
        }
        for change in &changes {
            known.floors.hear(change);
        }
        Heard { changes, is_all: false }
    }

    /// Raises the generation, unless another instance has raised it since this one was in use.
    ///
    /// # Errors
    /// Where the statement fails.
    pub async fn raise_generation(&self, used: u64) -> Result<(), Problem> {
        self.db
            .in_tx("cache.raise_generation", used, |conn, used| {
                Box::pin(async move {
                    sqlx::query(RAISE_GENERATION).bind(*used).execute(conn.sql()).await?;
                    Ok(())
                })
            })
            .await
    }

    /// Ends the connection.
    pub async fn close(&self) {
        self.db.close().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Least versions, remembered within a bound.
#[derive(Debug, Default)]
struct Floors {
    all: u64,
    caches: HashMap<String, CacheFloors>,
    /// The keys' floors in the order in which they were raised.
    order: VecDeque<(u64, String, String)>,
}

#[derive(Debug, Default)]
struct CacheFloors {
    all: u64,
    keys: HashMap<String, u64>,
}

impl Floors {
    fn of(&self, cache: &str, key: &str) -> u64 {
        let Some(cache) = self.caches.get(cache) else { return self.all };
        self.all.max(cache.all).max(cache.keys.get(key).copied().unwrap_or_default())
    }

    fn raise_all(&mut self, version: u64) {
        self.all = self.all.max(version);
    }

    fn hear(&mut self, change: &Change) {
        if change.subject.is_empty() {
            let cache = self.caches.entry(change.cache.clone()).or_default();
            cache.all = cache.all.max(change.number);
        } else {
            self.raise(&change.cache, &change.subject, change.number);
        }
    }

    fn raise(&mut self, cache: &str, key: &str, version: u64) {
        let floor = self.caches.entry(cache.to_owned()).or_default().keys.entry(key.to_owned()).or_default();
        if *floor < version {
            *floor = version;
            self.order.push_back((version, cache.to_owned(), key.to_owned()));
        }
        while self.order.len() > FLOORS_MAX
            && let Some((version, cache, key)) = self.order.pop_front()
        {
            let cache = self.caches.entry(cache).or_default();
            if cache.keys.get(&key) == Some(&version) {
                cache.keys.remove(&key);
                cache.all = cache.all.max(version);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(number: u64, cache: &str, subject: &str) -> Change {
        Change { number, cache: cache.into(), subject: subject.into() }
    }

    #[test]
    fn the_highest_floor_counts() {
        let mut floors = Floors::default();
        floors.hear(&change(3, "a", "k"));
        assert_eq!((floors.of("a", "k"), floors.of("a", "other"), floors.of("b", "k")), (3, 0, 0));
        floors.hear(&change(4, "a", ""));
        assert_eq!((floors.of("a", "k"), floors.of("a", "other"), floors.of("b", "k")), (4, 4, 0));
        floors.raise_all(9);
        assert_eq!((floors.of("a", "k"), floors.of("b", "k")), (9, 9));
        floors.hear(&change(2, "a", "k"));
        assert_eq!(floors.of("a", "k"), 9, "a floor never falls");
    }

    #[test]
    fn what_is_not_remembered_counts_for_its_whole_cache() {
        let mut floors = Floors::default();
        let count = FLOORS_MAX as u64 + 2;
        for number in 1..=count {
            floors.hear(&change(number, "a", &number.to_string()));
        }
        assert_eq!((floors.of("a", "1"), floors.of("a", "never")), (2, 2));
        assert_eq!(floors.of("a", &count.to_string()), count);
        assert!(floors.order.len() <= FLOORS_MAX && floors.caches["a"].keys.len() <= FLOORS_MAX);
    }
}
