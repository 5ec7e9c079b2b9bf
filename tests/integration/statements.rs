//! Every SQL statement of the program is one that this server understands, against the real schema.
//!
//! A column that was renamed, or a word that only one of the two servers knows, shows here. How the servers find the rows is
//! checked in `plans`.

use sqlx::{AssertSqlSafe, Executor as _, SqlSafeStr as _};

use crate::support::World;
use crate::support::statements::{constants, constants_of, invariants};

/// Fewer means that they were not found, not that they are gone.
const CONSTANTS_MIN: usize = 80;
const INVARIANTS_MIN: usize = 10;
/// Each of these owns tables, so each must have been read.
const OWNERS: &[&str] = &[
    "accounts/store.rs",
    "booking/holds/store.rs",
    "booking/reservations/store.rs",
    "booking/seats/store.rs",
    "accounts/store/proofs.rs",
    "catalog/store.rs",
    "catalog/warming/store.rs",
    "notices/mail/store.rs",
    "notices/webhooks/store.rs",
    "payments/store.rs",
    "platform/cache/news.rs",
    "platform/db/mod.rs",
    "platform/db/migrate.rs",
    "platform/idempotency.rs",
    "platform/instances.rs",
    "platform/jobs.rs",
    "platform/outbox.rs",
    "points/store.rs",
    "queue/store.rs",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_understands_every_statement() {
    let (constants, invariants) = (constants(), invariants());
    assert!(constants.len() >= CONSTANTS_MIN, "only {} constants were found", constants.len());
    assert!(invariants.len() >= INVARIANTS_MIN, "only {} invariants were found", invariants.len());
    for owner in OWNERS {
        assert!(constants.iter().any(|one| one.name.starts_with(owner)), "no statement was found in {owner}");
    }
    let world = World::new().await;
    let state = world.services(&[]).await;
    let mut sql = world.sql().await;
    let mut refused = Vec::new();
    for statement in constants.iter().chain(&invariants) {
        if let Err(error) = (&mut sql).prepare(AssertSqlSafe(statement.sql.clone()).into_sql_str()).await {
            refused.push(format!("{}: {error}\n    {}", statement.name, statement.sql));
        }
    }
    assert!(refused.is_empty(), "\n{}\n", refused.join("\n"));
    state.db.close().await;
    world.end(Vec::new()).await;
}

#[test]
fn literals_are_read_as_rust_reads_them() {
    let source = "const A: &str = \"SELECT 1 \\\n     FROM \\\"t\\\"\";\nconst B: &str =\n    \"UPDATE t\";\nconst C: &str = \"x\";";
    let found: Vec<String> =
        constants_of("f", source).into_iter().map(|one| format!("{}: {}", one.name, one.sql)).collect();
    assert_eq!(found, ["f A: SELECT 1 FROM \"t\"", "f B: UPDATE t"]);
}
