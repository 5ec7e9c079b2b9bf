//! No statement reads a table that grows from end to end, or sorts where people wait: EXPLAIN, on tables of thousands of rows.

use std::collections::BTreeSet;

use frontrow::app::schedule;
use sqlx::{AssertSqlSafe, MySqlConnection, Row as _};

use crate::support::World;
use crate::support::filled;
use crate::support::plans::{Flaw, Tables};
use crate::support::statements::{Statement, constants, invariants};

/// Fewer rows than this prove nothing about a table.
const ROWS_MIN: u64 = 250;
/// Fewer means that plans were not looked at.
const EXPLAINED_MIN: usize = 60;

/// What is meant as it is: statement, flaw, reason.
type Exception = (&'static str, Flaw, &'static str);

const EXCEPTIONS: &[Exception] = &[
    (
        "accounts/store.rs LIST_ACTIONS",
        Flaw::Wide,
        "walks back from the newest entry and stops at the page's end; the range is what it could read at most",
    ),
    (
        "catalog/store.rs LIST_HEADLINES",
        Flaw::Wide,
        "walks back from the newest concert and stops at the page's end; the range is what it could read at most",
    ),
    (
        "catalog/store.rs LIST_LIVE_SALES",
        Flaw::Sort,
        "sorts the sales that have not closed, for the warmer and not for anybody who waits",
    ),
    (
        "queue/store/standby.rs LIST_STALE",
        Flaw::Scan,
        "looks at one small row for each sale that MySQL ever kept, every ten minutes in the background",
    ),
    (
        "invariant held_seat_has_hold",
        Flaw::Empty,
        "checks the whole database only: an audit of what changed must not even begin",
    ),
    (
        "invariant sold_seat_has_reservation",
        Flaw::Empty,
        "checks the whole database only: an audit of what changed must not even begin",
    ),
];
/// Nobody waits for these, and what they sort or group is what changed since the last time: not a scan, nor a wide range.
const MAY_SORT: &str = "invariant ";

/// Statements that only write the values they are given have no plan.
fn has_plan(statement: &Statement) -> bool {
    !statement.sql.starts_with("INSERT") || statement.sql.contains("SELECT")
}

async fn filled_world() -> (World, MySqlConnection, Tables) {
    let world = World::new().await;
    let state = world.services(&[]).await;
    schedule::jobs(&state).register().await.expect("the jobs' rows");
    let mut sql = world.sql().await;
    filled::fill(&mut sql).await;
    filled::fill_later(&mut sql).await;
    let tables = Tables::of(&mut sql).await;
    let names: Vec<String> = tables.growing().map(|(name, _)| name.clone()).collect();
    filled::analyze(&mut sql, &names).await;
    for (name, size) in tables.growing() {
        assert!(size >= ROWS_MIN, "{name} has only {size} rows: fill it, or say that it does not grow");
    }
    state.db.close().await;
    (world, sql, tables)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_scans_or_sorts_what_grows() {
    let (world, mut sql, tables) = filled_world().await;
    let mut unused: BTreeSet<(&str, Flaw)> = EXCEPTIONS.iter().map(|(name, flaw, _)| (*name, *flaw)).collect();
    let all: Vec<Statement> = constants().into_iter().chain(invariants()).collect();
    let (mut explained, mut complaints) = (0, Vec::new());
    for statement in all.iter().filter(|statement| has_plan(statement)) {
        explained += 1;
        for (flaw, step) in tables.flaws(&mut sql, statement).await {
            let is_meant = |(name, known, _): &&Exception| *name == statement.name && *known == flaw;
            let may_sort = statement.name.starts_with(MAY_SORT) && matches!(flaw, Flaw::Sort | Flaw::Temporary);
            match EXCEPTIONS.iter().find(is_meant) {
                Some((name, flaw, _)) => drop(unused.remove(&(*name, *flaw))),
                None if may_sort => {}
                None => complaints.push(format!("{}: {flaw:?}\n    {step}", statement.name)),
            }
        }
    }
    assert!(explained >= EXPLAINED_MIN, "only {explained} plans were looked at");
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
    assert!(unused.is_empty(), "exceptions that are not needed: {unused:?}");
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_plan_is_noticed() {
    let (world, mut sql, tables) = filled_world().await;
    let bad: &[(&str, &[Flaw])] = &[
        ("SELECT id FROM holds WHERE id = ?", &[]),
        ("SELECT id FROM holds WHERE id = X'00'", &[Flaw::Empty]),
        ("SELECT id FROM holds WHERE amount = ?", &[Flaw::Scan]),
        ("UPDATE seats SET label = ? WHERE grade = ?", &[Flaw::Scan]),
        ("SELECT COUNT(*) FROM users", &[Flaw::Scan]),
        ("SELECT amount FROM holds WHERE id < ? LIMIT ?", &[Flaw::Wide]),
        ("SELECT label FROM seats WHERE performance_id = ? ORDER BY label LIMIT ?", &[Flaw::Sort]),
    ];
    for (text, expected) in bad {
        let statement = Statement { name: "made up".into(), sql: (*text).into() };
        let found: Vec<Flaw> = tables.flaws(&mut sql, &statement).await.into_iter().map(|(flaw, _)| flaw).collect();
        assert_eq!(found, *expected, "{text}");
    }
    assert!(tables.filled("SELECT id FROM holds WHERE colour = ?").is_err(), "a value was made up");
    world.end(Vec::new()).await;
}

/// Rows that this connection has asked the storage for so far.
async fn rows_read(sql: &mut MySqlConnection) -> u64 {
    let rows = sqlx::raw_sql("SHOW SESSION STATUS LIKE 'Handler_read_%'").fetch_all(sql).await.expect("the counters");
    let count = |row: &sqlx::mysql::MySqlRow| row.try_get_unchecked::<String, _>(1).expect("text").parse::<u64>();
    rows.iter().map(|row| count(row).expect("a number")).sum()
}

/// What an audit costs each minute depends on what changed, not on how much was ever sold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_of_little_change_reads_little() {
    let (world, mut sql, tables) = filled_world().await;
    let mut much = Vec::new();
    for statement in invariants() {
        let text = tables.filled(&statement.sql).expect("values");
        let before = rows_read(&mut sql).await;
        let found = sqlx::raw_sql(AssertSqlSafe(text.clone())).fetch_all(&mut sql).await.expect("an answer");
        // Reading the counters counts too: a row a counter.
        let read = rows_read(&mut sql).await - before;
        assert!(found.is_empty(), "{} is broken by the rows made here", statement.name);
        if read > 500 {
            much.push(format!("{} reads {read} rows\n    {text}", statement.name));
        }
    }
    assert!(much.is_empty(), "\n{}\n", much.join("\n"));
    world.end(Vec::new()).await;
}

/// Nor on how much is live at once: each buyer's holds and reservations are found by their buyer, although the statistics are
/// from before the sale.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_of_a_sale_reads_each_row_a_few_times() {
    const BUYERS: u64 = 1_000;
    let (world, mut sql, _) = filled_world().await;
    let one = "(SELECT p.concert_id, p.id AS performance_id FROM performances AS p ORDER BY p.id LIMIT 1) AS one";
    let buyers = format!("(SELECT id FROM users ORDER BY id DESC LIMIT {BUYERS}) AS u");
    let later = "UTC_TIMESTAMP(6) + INTERVAL 5 MINUTE";
    for table in ["reservation_seats", "reservations", "hold_seats", "holds"] {
        let before = format!(
            "DELETE FROM {table}; ALTER TABLE {table} STATS_PERSISTENT = 1, STATS_AUTO_RECALC = 0; ANALYZE TABLE {table}"
        );
        sqlx::raw_sql(AssertSqlSafe(before)).fetch_all(&mut sql).await.expect("no sale yet");
    }
    let sale = [
        format!(
            "INSERT INTO holds (id, user_id, concert_id, performance_id, state, seat_count, amount, expires_at, created_at, changed_at) \
             SELECT u.id, u.id, one.concert_id, one.performance_id, 0, 0, 0, {later}, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) \
             FROM {buyers} JOIN {one}"
        ),
        format!(
            "INSERT INTO reservations (id, hold_id, user_id, concert_id, performance_id, payment_id, state, seat_count, amount, created_at, paid_at, changed_at) \
             SELECT u.id, u.id, u.id, one.concert_id, one.performance_id, u.id, 1, 0, 0, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) \
             FROM {buyers} JOIN {one}"
        ),
    ];
    for statement in sale {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut sql).await.expect("a sale");
    }
    let mut much = Vec::new();
    for statement in invariants() {
        // The instant since which rows count, the clock's offset wherever it is asked for, and how many breaches are shown.
        let (rest, shown) = statement.sql.rsplit_once('?').expect("a limit");
        let text = rest.replacen('?', "UTC_TIMESTAMP(6) - INTERVAL 1 MINUTE", 1).replace('?', "0");
        let before = rows_read(&mut sql).await;
        let found = format!("{text} {BUYERS} {shown}");
        sqlx::raw_sql(AssertSqlSafe(found)).fetch_all(&mut sql).await.expect("an answer");
        let read = rows_read(&mut sql).await - before;
        if read > 25 * BUYERS {
            much.push(format!("{} reads {read} rows", statement.name));
        }
    }
    assert!(much.is_empty(), "\n{}\n", much.join("\n"));
    world.end(Vec::new()).await;
}
