//! Every SQL statement of the program is one that this server understands, against the real schema.
//!
//! Statements are found as text: constants that hold SQL in a `store.rs` or in the platform, and what an
//! `Invariant` runs. A column that was renamed, or a word that only one of the two servers knows, shows here.

use std::fs;
use std::path::Path;

use frontrow::app::audit;
use sqlx::{AssertSqlSafe, Executor as _, SqlSafeStr as _};

use crate::support::World;

/// Fewer means that they were not found, not that they are gone.
const CONSTANTS_MIN: usize = 80;
const INVARIANTS_MIN: usize = 10;
/// Each of these owns tables, so each must have been read.
const OWNERS: &[&str] = &[
    "accounts/store.rs",
    "booking/holds/store.rs",
    "booking/reservations/store.rs",
    "booking/seats/store.rs",
    "catalog/store.rs",
    "payments/store.rs",
    "platform/db/mod.rs",
    "platform/db/migrate.rs",
    "platform/idempotency.rs",
    "platform/jobs.rs",
    "platform/outbox.rs",
    "points/store.rs",
    "queue/store.rs",
];

#[derive(Debug)]
struct Statement {
    /// The file and the constant, or the invariant.
    name: String,
    sql: String,
}

/// The constants of the source that hold statements.
fn constants() -> Vec<Statement> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry")) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let file = path.strip_prefix(&root).expect("below src").to_string_lossy().into_owned();
            // The private servers are set up over the text protocol, before there is a schema.
            let may_hold_sql = file.ends_with("store.rs") || file.contains("/store/") || file.starts_with("platform/");
            if may_hold_sql && !file.starts_with("platform/embedded/") {
                found.extend(constants_of(&file, &fs::read_to_string(&path).expect("a source")));
            }
        }
    }
    found
}

fn constants_of(file: &str, source: &str) -> Vec<Statement> {
    let declared = source.match_indices("const ").map(|(at, word)| &source[at + word.len()..]);
    let texts = declared.filter_map(|rest| {
        let (name, rest) = rest.split_once(": &str =")?;
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let sql = literal(rest.trim_start().strip_prefix('"')?);
        (is_name && is_statement(&sql)).then(|| Statement { name: format!("{file} {name}"), sql })
    });
    texts.collect()
}

fn is_statement(text: &str) -> bool {
    let verbs = ["SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "WITH"];
    text.split_whitespace().next().is_some_and(|first| verbs.contains(&first))
}

/// The text of a literal whose opening quote was read, as Rust reads it.
fn literal(source: &str) -> String {
    let mut text = String::new();
    let mut chars = source.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' => return text,
            '\\' => match chars.next() {
                Some('\n') => while chars.next_if(|next| next.is_whitespace()).is_some() {},
                Some('n') => text.push('\n'),
                other => text.extend(other),
            },
            char => text.push(char),
        }
    }
    panic!("a literal has no end: {source}")
}

fn invariants() -> Vec<Statement> {
    let all = audit::INVARIANTS.iter().flat_map(|list| list.iter());
    all.map(|one| Statement { name: format!("invariant {}", one.name), sql: one.statement.to_owned() }).collect()
}

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
