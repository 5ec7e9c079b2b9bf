//! Tables and their owners, statements, and what must not happen inside a transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::source::{Source, is_word};
use crate::tree::{Complaint, Tree, at, complaint, obeys, refuses};

/// Reads of another feature's table that are meant: who reads, which table, why it cannot be otherwise.
/// Audits need no entry: the statements of an `Invariant` may read any table. Writing is never meant.
const FOREIGN_READS: &[(&str, &str, &str)] = &[];

/// Tables by name, with the file that creates each.
fn tables_of(tree: &Tree) -> BTreeMap<&str, &str> {
    let mut tables = BTreeMap::new();
    for migration in tree.with_extension("sql").filter(|text| text.path.starts_with("migrations/")) {
        let code: Vec<&str> = migration.text.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
        let words: Vec<&str> = code.iter().flat_map(|line| sql_words(line)).filter(|word| !is_noise(word)).collect();
        for pair in words.windows(3) {
            match pair {
                ["CREATE", "TABLE", name] => drop(tables.insert(*name, migration.path.as_str())),
                ["DROP", "TABLE", name] => drop(tables.remove(*name)),
                _ => {}
            }
        }
    }
    tables
}

fn is_noise(word: &str) -> bool {
    matches!(word, "IF" | "NOT" | "EXISTS")
}

/// Words and single signs of a statement.
fn sql_words(statement: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = statement;
    while let Some(first) = rest.chars().next() {
        let length = rest.bytes().take_while(|byte| is_word(*byte)).count().max(first.len_utf8());
        if !first.is_whitespace() && first != '`' {
            words.push(&rest[..length]);
        }
        rest = &rest[length..];
    }
    words
}

/// The tables that a statement names, and whether it writes them.
fn named_tables<'t>(statement: &str, tables: &BTreeMap<&'t str, &str>) -> BTreeSet<(&'t str, bool)> {
    let words = sql_words(statement);
    let mut found = BTreeSet::new();
    let mut writes = None;
    for (index, word) in words.iter().enumerate() {
        let before = index.checked_sub(1).map_or("", |index| words[index]);
        match *word {
            "FROM" | "JOIN" | "STRAIGHT_JOIN" => writes = Some(before == "DELETE"),
            "INTO" | "TABLE" => writes = Some(true),
            "UPDATE" if before != "KEY" && before != "FOR" => writes = Some(true),
            "WHERE" | "SET" | "ON" | "VALUES" | "SELECT" | "GROUP" | "ORDER" | "LIMIT" | "FOR" | "HAVING" | "(" => {
                writes = None;
            }
            name => {
                if let (Some(writes), Some((table, _))) = (writes, tables.get_key_value(name)) {
                    found.insert((*table, writes));
                }
            }
        }
    }
    found
}

/// The store that a file belongs to: `src/queue/store`, `src/platform/outbox`; none where SQL has no place.
fn store_of(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
    if path.starts_with("src/platform/") {
        return Some(parts[..3.min(parts.len())].join("/"));
    }
    let end = parts.iter().position(|part| *part == "store")?;
    Some(parts[..=end].join("/"))
}

/// The literals of `Invariant { … }`, and of the constants that it names.
fn audits_of(source: &Source) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    for (offset, _) in source.words().filter(|(_, word)| *word == "Invariant") {
        let is_value =
            source.rest(offset + "Invariant".len()).starts_with('{') && !source.before(offset).ends_with("struct");
        let Some(range) = source.brackets(offset, '{').filter(|_| is_value) else { continue };
        for (_, name) in source.words_in(range.clone()) {
            ranges.extend(constants(source).into_iter().filter(|(known, _)| *known == name).map(|(_, range)| range));
        }
        ranges.push(range);
    }
    ranges
}

/// Constants and statics, from their names to their semicolons.
fn constants(source: &Source) -> Vec<(&str, Range<usize>)> {
    let words: Vec<(usize, &str)> = source.words().collect();
    let declared = words.windows(2).filter(|pair| matches!(pair[0].1, "const" | "static"));
    let named = declared.filter(|pair| source.rest(pair[1].0 + pair[1].1.len()).starts_with(':'));
    let ranges = named.map(|pair| {
        let end = source.code[pair[1].0..].find(';').map_or(source.code.len(), |length| pair[1].0 + length);
        (pair[1].1, pair[1].0..end)
    });
    ranges.collect()
}

fn owners(tree: &Tree) -> Vec<Complaint> {
    let tables = tables_of(tree);
    let mut complaints = Vec::new();
    // By table: whether it is written, by which store, where.
    let mut uses: BTreeMap<&str, Vec<(bool, String, &Source, usize)>> = BTreeMap::new();
    for source in tree.program() {
        let audits = audits_of(source);
        for literal in &source.literals {
            let is_audit = audits.iter().any(|range| range.contains(&literal.at));
            for (table, writes) in named_tables(&literal.text, &tables) {
                match store_of(&source.path) {
                    Some(_) if is_audit && !writes => {}
                    Some(store) => uses.entry(table).or_default().push((writes, store, source, literal.at)),
                    None => {
                        complaints.push(at(source, literal.at, format!("SQL on {table}: it belongs into store.rs")));
                    }
                }
            }
        }
    }
    for (table, path) in &tables {
        complaints.extend(owner_objections(table, path, uses.get(table).map_or(&[], Vec::as_slice)));
    }
    complaints
}

fn owner_objections(table: &str, migration: &str, uses: &[(bool, String, &Source, usize)]) -> Vec<Complaint> {
    let writers: BTreeSet<&str> =
        uses.iter().filter(|(writes, ..)| *writes).map(|(_, store, ..)| store.as_str()).collect();
    let readers: BTreeSet<&str> = uses.iter().map(|(_, store, ..)| store.as_str()).collect();
    let claimants = if writers.is_empty() { &readers } else { &writers };
    let Some(owner) = claimants.first().filter(|_| claimants.len() == 1) else {
        let several: Vec<&str> = claimants.iter().copied().collect();
        let what = match several.as_slice() {
            [] => format!("no store uses the table {table}"),
            several => format!("the table {table} has several owners: {}", several.join(", ")),
        };
        return vec![complaint(migration, 1, what)];
    };
    let foreign = uses.iter().filter(|(writes, store, ..)| store != owner && !is_meant(store, table, *writes));
    foreign
        .map(|(_, store, source, offset)| at(source, *offset, format!("{store} reads {table}, which {owner} owns")))
        .collect()
}

fn is_meant(store: &str, table: &str, writes: bool) -> bool {
    !writes && FOREIGN_READS.iter().any(|(reader, read, _)| *reader == store && *read == table)
}

/// Statements that lock say so in their names, and have one.
fn locks(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for source in tree.program() {
        let constants = constants(source);
        for literal in source.literals.iter().filter(|literal| literal.text.contains("FOR UPDATE")) {
            match constants.iter().find(|(_, range)| range.contains(&literal.at)) {
                Some((name, _)) if name.ends_with("FOR_UPDATE") => {}
                Some((name, _)) => {
                    complaints.push(at(source, literal.at, format!("{name} locks: end its name in FOR_UPDATE")));
                }
                None => complaints.push(at(source, literal.at, "a statement that locks is a constant …FOR_UPDATE")),
            }
        }
    }
    complaints
}

/// No Redis command and no call to a provider inside a transaction. A word stands for a call: neither the
/// arguments of `in_tx` and `once` nor any function that takes a `Conn` may say redis or gateway.
fn effects(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for source in tree.program() {
        let calls =
            ["in_tx", "once"].into_iter().flat_map(|name| source.calls(name).map(move |(_, range)| (name, range)));
        let mut inside: Vec<(&str, Range<usize>)> = calls.collect();
        for function in source.functions() {
            if source.words_in(function.signature.clone()).any(|(_, word)| word == "Conn") {
                inside.push((function.name, function.whole));
            }
        }
        if source.is_named(&["store"]) {
            inside.push(("a store", 0..source.code.len()));
        }
        let mut found = BTreeMap::new();
        for (name, range) in inside {
            let effect =
                source.words_in(range).find(|(_, word)| matches!(*word, "redis" | "Redis" | "gateway" | "Gateway"));
            found.extend(effect.map(|(offset, word)| (offset, format!("{word} in {name}: effects go to the outbox"))));
        }
        complaints.extend(found.into_iter().map(|(offset, what)| at(source, offset, what)));
    }
    complaints
}

#[test]
fn every_table_has_one_owner() {
    obeys(owners);
    for (store, table, reason) in FOREIGN_READS {
        assert!(!reason.is_empty(), "{store} reads {table} for no reason");
    }
}

#[test]
fn a_table_with_two_owners_is_refused() {
    let create = |name: &str| format!("-- Why.\nCREATE TABLE {name} (\n    id INT\n);");
    let (a, b, c, d) = (create("seats"), create("users"), create("holds"), create("lost"));
    let audits = "const SOLD: &str = \"SELECT 1 FROM users JOIN holds ON x\";\nconst I: Invariant = Invariant { statement: SOLD };\n\
                  const BAD: Invariant = Invariant { statement: \"DELETE FROM users\" };";
    refuses(
        owners,
        &[
            ("migrations/0001_a.sql", &a),
            ("migrations/0002_b.sql", &b),
            ("migrations/0003_c.sql", &c),
            ("migrations/0004_d.sql", &d),
            (
                "src/booking/store.rs",
                "const A: &str = \"UPDATE seats SET a = 1\";\nconst B: &str = \"SELECT users FROM holds FOR UPDATE\";",
            ),
            ("src/catalog/store.rs", "const A: &str = \"INSERT INTO seats (a) VALUES (?)\";"),
            ("src/accounts/store.rs", "const A: &str = \"INSERT INTO users (a) SELECT a \\\n    FROM holds\";"),
            ("src/points/store.rs", audits),
            ("src/points/service.rs", "fn a() { run(\"SELECT 1 FROM holds\") }"),
        ],
        &[
            "src/points/service.rs:1 SQL on holds",
            "migrations/0003_c.sql:1 the table holds has several owners: src/accounts/store, src/booking/store",
            "migrations/0004_d.sql:1 no store uses the table lost",
            "migrations/0001_a.sql:1 the table seats has several owners: src/booking/store, src/catalog/store",
            "migrations/0002_b.sql:1 the table users has several owners: src/accounts/store, src/points/store",
        ],
    );
}

#[test]
fn statements_that_lock_are_named_so() {
    obeys(locks);
}

#[test]
fn statements_that_lock_silently_are_refused() {
    let text = "const FIND: &str = \"SELECT a FOR UPDATE\";\nconst FIND_FOR_UPDATE: &str = \"SELECT a \\\n FOR UPDATE\";\n\
                fn a() { run(\"SELECT b FOR UPDATE\") }";
    refuses(locks, &[("src/a/store.rs", text)], &["src/a/store.rs:1 FIND locks", "src/a/store.rs:4 a statement"]);
}

#[test]
fn transactions_have_no_effects_outside() {
    obeys(effects);
}

#[test]
fn transactions_with_effects_outside_are_refused() {
    let service = "fn pay() {\n db.in_tx(\"pay\", a, |conn, a| Box::pin(async {\n self.gateway.charge()\n }));\n redis.run();\n}\n\
                   async fn b(conn: &mut Conn, redis: &str) {}\n";
    refuses(
        effects,
        &[("src/a/service.rs", service), ("src/a/store.rs", "use super::redis::Keys;")],
        &["src/a/service.rs:3 gateway in in_tx", "src/a/service.rs:7 redis in b", "src/a/store.rs:1 redis in a store"],
    );
}
