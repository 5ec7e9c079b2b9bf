//! Migrations: one statement a file, because a server commits each by itself, and a comment that says why. Those that
//! were released stay as they are, byte for byte: databases that have them would refuse to start, or differ from new ones.

use std::collections::BTreeMap;

use ring::digest::{SHA256, digest};

use crate::tree::{Complaint, Tree, complaint, obeys, refuses};

fn migrations(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut numbers: BTreeMap<&str, &str> = BTreeMap::new();
    for file in &tree.texts {
        let Some(name) = file.path.strip_prefix("migrations/") else { continue };
        let Some(number) = number_of(name) else {
            complaints.push(complaint(&file.path, 1, "the name is not NNNN_name.sql"));
            continue;
        };
        if let Some(other) = numbers.insert(number, name) {
            complaints.push(complaint(&file.path, 1, format!("{other} has the same number")));
        }
        if !file.text.starts_with("--") {
            complaints.push(complaint(&file.path, 1, "a migration begins with a comment that says why"));
        }
        let count = statements(&file.text);
        if count != 1 {
            complaints.push(complaint(&file.path, 1, format!("{count} statements: a migration has one")));
        }
    }
    complaints
}

fn number_of(name: &str) -> Option<&str> {
    let (number, rest) = name.strip_suffix(".sql")?.split_once('_')?;
    let is_number = number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit());
    let is_name =
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    (is_number && is_name).then_some(number)
}

/// Counts what stands between semicolons, those in comments and quotes not taken for ends.
fn statements(text: &str) -> usize {
    let mut code = String::new();
    for line in text.lines() {
        let mut quote = None;
        for (at, char) in line.char_indices() {
            match quote {
                Some(open) if open == char => quote = None,
                Some(_) => {}
                None if line[at..].starts_with("--") => break,
                None if matches!(char, '\'' | '"' | '`') => quote = Some(char),
                None => code.push(char),
            }
        }
    }
    code.split(';').filter(|part| !part.trim().is_empty()).count()
}

/// Where the checksums of released migrations stand, as `sha256sum` writes them. A release adds what it ships:
/// `cd migrations && sha256sum *.sql >../tests/released-migrations`.
const RELEASED: &str = "tests/released-migrations";

fn checksum(text: &str) -> String {
    hex::encode(digest(&SHA256, text.as_bytes()))
}

fn released(tree: &Tree) -> Vec<Complaint> {
    let text_of = |path: &str| tree.texts.iter().find(|file| file.path == path).map(|file| file.text.as_str());
    let Some(list) = text_of(RELEASED) else {
        return vec![complaint(RELEASED, 1, "the list of released migrations is missing")];
    };
    let mut complaints = Vec::new();
    let mut known: BTreeMap<&str, &str> = BTreeMap::new();
    for (index, line) in list.lines().enumerate() {
        let Some((sum, name)) = line.split_once("  ") else {
            complaints.push(complaint(RELEASED, index + 1, "not a checksum and a name"));
            continue;
        };
        known.insert(name, sum);
        match text_of(&format!("migrations/{name}")) {
            None => complaints.push(complaint(RELEASED, index + 1, format!("{name} was released and is gone"))),
            Some(text) if checksum(text) != sum => {
                let what = "was released and has changed: write another one instead";
                complaints.push(complaint(&format!("migrations/{name}"), 1, what));
            }
            Some(_) => {}
        }
    }
    let newest = known.keys().next_back().copied().unwrap_or_default();
    let names = tree.texts.iter().filter_map(|file| file.path.strip_prefix("migrations/"));
    for name in names.filter(|name| number_of(name).is_some() && !known.contains_key(name) && *name < newest) {
        let what = format!(
            "comes before {newest}, which was released: databases that have it would run them in another order"
        );
        complaints.push(complaint(&format!("migrations/{name}"), 1, what));
    }
    complaints
}

#[test]
fn released_migrations_stay_as_they_are() {
    obeys(released);
}

#[test]
fn changing_what_was_released_is_refused() {
    let list =
        format!("{}  0001_a.sql\n{}  0003_c.sql\n{0}  0004_d.sql\nfour\n", checksum("-- A.\n"), checksum("-- C.\n"));
    refuses(
        released,
        &[
            (RELEASED, &list),
            ("migrations/0001_a.sql", "-- A.\n"),
            ("migrations/0002_b.sql", "-- B.\n"),
            ("migrations/0003_c.sql", "-- C!\n"),
            ("migrations/0005_e.sql", "-- E.\n"),
        ],
        &[
            "migrations/0003_c.sql:1 was released and has changed",
            "tests/released-migrations:3 0004_d.sql was released and is gone",
            "tests/released-migrations:4 not a checksum",
            "migrations/0002_b.sql:1 comes before 0004_d.sql",
        ],
    );
    refuses(released, &[("migrations/0001_a.sql", "-- A.\n")], &["tests/released-migrations:1 the list"]);
}

#[test]
fn migrations_are_single_numbered_and_explained() {
    obeys(migrations);
}

#[test]
fn other_migrations_are_refused() {
    refuses(
        migrations,
        &[
            ("migrations/0001_a.sql", "-- Why; and how.\nCREATE TABLE a (b INT DEFAULT ';'); -- Done.\n"),
            ("migrations/0002_b.sql", "CREATE TABLE b (c INT);\n"),
            ("migrations/0002_c.sql", "-- Why.\nDROP TABLE b;\nDROP TABLE c;\n"),
            ("migrations/3_d.sql", "-- Why.\nSELECT 1;\n"),
        ],
        &[
            "migrations/0002_b.sql:1 a migration begins",
            "migrations/0002_c.sql:1 0002_b.sql has the same",
            "migrations/0002_c.sql:1 2 statements",
            "migrations/3_d.sql:1 the name is not",
        ],
    );
}
