//! The program's SQL, found as text: constants that hold statements in a `store.rs` or in the platform, and what an
//! `Invariant` runs.

use std::fs;
use std::path::Path;

use frontrow::app::audit;

/// A statement of the program.
#[derive(Clone, Debug)]
pub struct Statement {
    /// The file and the constant, or the invariant.
    pub name: String,
    pub sql: String,
}

/// The constants of the source that hold statements.
pub fn constants() -> Vec<Statement> {
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

/// The constants of one source that hold statements.
pub fn constants_of(file: &str, source: &str) -> Vec<Statement> {
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

/// The statements of all invariants.
pub fn invariants() -> Vec<Statement> {
    let all = audit::INVARIANTS.iter().flat_map(|list| list.iter());
    all.map(|one| Statement { name: format!("invariant {}", one.name), sql: one.statement.to_owned() }).collect()
}
