//! What only some files may touch: libraries, the wall clock, the beginning and end of a transaction.

use crate::source::Source;
use crate::tree::{Complaint, Tree, at, obeys, refuses};

/// A library, the file names that may use it in a feature, and the folders or files that may besides.
struct Library {
    name: &'static str,
    files: &'static [&'static str],
    places: &'static [&'static str],
}

const HTTP_PLACES: &[&str] =
    &["src/pages/", "src/app/", "src/platform/http/", "src/platform/error.rs", "src/platform/telemetry/"];

const LIBRARIES: &[Library] = &[
    Library { name: "axum", files: &["http", "admin"], places: HTTP_PLACES },
    Library { name: "utoipa_axum", files: &["http", "admin"], places: HTTP_PLACES },
    Library { name: "sqlx", files: &["store"], places: &["src/platform/"] },
    Library { name: "fred", files: &["redis"], places: &["src/platform/"] },
];

const CLOCK: &str = "src/platform/clock.rs";
const DATABASE: &str = "src/platform/db/";

/// A derive such as `sqlx::Type` counts as well; ids get theirs from platform's `id_types!`.
fn libraries(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for source in tree.program() {
        for library in LIBRARIES {
            let is_platform = source.path.starts_with("src/platform/");
            let is_allowed = library.places.iter().any(|place| source.path.starts_with(place))
                || (!is_platform && source.is_named(library.files));
            let used = source.words().find(|(at, word)| *word == library.name && is_path(source, *at, word));
            if !is_allowed && let Some((offset, name)) = used {
                let owners = [library.files, library.places].concat().join(", ");
                complaints.push(at(source, offset, format!("{name} is used in {owners} only")));
            }
        }
    }
    complaints
}

/// Not a field or variable of that name: `name::…`, `use name;`, `#[name(…)]`.
fn is_path(source: &Source, offset: usize, name: &str) -> bool {
    let rest = source.rest(offset + name.len());
    rest.starts_with("::") || source.before(offset).ends_with("#[") || source.before(offset).ends_with("use")
}

fn clocks(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for source in tree.program().filter(|source| source.path != CLOCK) {
        for (offset, word) in source.words().filter(|(_, word)| matches!(*word, "SystemTime" | "Utc" | "Local")) {
            let rest = source.rest(offset + word.len()).trim_start_matches(':').trim_start();
            if rest.starts_with("now(") || rest.starts_with("now)") {
                complaints.push(at(source, offset, format!("{word}::now is read in {CLOCK} only: take a Clock")));
            }
        }
    }
    complaints
}

fn transactions(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for source in tree.program().filter(|source| !source.path.starts_with(DATABASE)) {
        let methods = ["begin", "try_begin", "begin_with", "commit", "rollback"];
        for (offset, word) in source.words().filter(|(_, word)| methods.contains(word)) {
            if source.before(offset).ends_with('.') && source.rest(offset + word.len()).starts_with('(') {
                complaints.push(at(source, offset, format!(".{word}() is for {DATABASE} only: use db.in_tx")));
            }
        }
        for literal in source.literals.iter().filter(|literal| delimits_transaction(&literal.text)) {
            let what = format!("{:?} is for {DATABASE} only: use db.in_tx", literal.text);
            complaints.push(at(source, literal.at, what));
        }
    }
    complaints
}

fn delimits_transaction(text: &str) -> bool {
    let first = text.split([' ', ';', '\n']).find(|word| !word.is_empty());
    matches!(first, Some("BEGIN" | "COMMIT" | "ROLLBACK" | "SAVEPOINT")) || text.contains("START TRANSACTION")
}

#[test]
fn libraries_stay_in_their_files() {
    obeys(libraries);
}

#[test]
fn libraries_elsewhere_are_refused() {
    refuses(
        libraries,
        &[
            ("src/queue/service.rs", "use axum::Json;\nfn a(redis: u8) -> fred::Error {}"),
            ("src/queue/domain.rs", "#[derive(Debug, sqlx::Type)]\nstruct A;"),
            ("src/queue/http.rs", "use axum::Json;"),
            ("src/queue/store/passes.rs", "use sqlx::Row;"),
            ("src/platform/jobs.rs", "use axum::Json;\nuse sqlx::Row;"),
        ],
        &[
            "src/queue/service.rs:1 axum is used in http, admin,",
            "src/queue/service.rs:2 fred is used in redis,",
            "src/queue/domain.rs:1 sqlx is used in store,",
            "src/platform/jobs.rs:1 axum",
        ],
    );
}

#[test]
fn the_wall_clock_is_read_in_one_place() {
    obeys(clocks);
}

#[test]
fn the_wall_clock_elsewhere_is_refused() {
    let text = "// Utc::now() is fine here.\nfn a() { Utc::now(); }\nfn b() { std::time::SystemTime::now(); }\nfn c() { x.map(Utc::now) }";
    let expected = ["src/a.rs:2 Utc::now", "src/a.rs:3 SystemTime::now", "src/a.rs:4 Utc::now"];
    refuses(clocks, &[("src/a.rs", text), (CLOCK, text)], &expected);
}

#[test]
fn transactions_are_begun_in_one_place() {
    obeys(transactions);
}

#[test]
fn transactions_begun_elsewhere_are_refused() {
    let text =
        "fn a() {\n pool.begin();\n run(\"COMMIT\");\n run(\"START TRANSACTION READ ONLY\");\n Mark::begin(1);\n}";
    let expected = ["src/a.rs:2 .begin()", "src/a.rs:3 \"COMMIT\"", "src/a.rs:4 \"START TRANSACTION"];
    refuses(transactions, &[("src/a.rs", text), ("src/platform/db/mod.rs", text)], &expected);
}
