//! Migrations: one statement a file, because a server commits each by itself, and a comment that says why.

use std::collections::BTreeMap;

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
