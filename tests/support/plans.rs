//! How the server would run a statement: its placeholders are filled with values of rows that exist, and EXPLAIN's steps
//! are judged by what they cost once the tables have grown.

use std::collections::BTreeMap;
use std::fmt;

use sqlx::{AssertSqlSafe, MySqlConnection, Row as _};

use super::statements::Statement;

/// Tables whose size does not depend on how much was sold: one row a job, an instance, or a webhook, of which there are few, or one for
/// all caches.
const BOUNDED: &[&str] = &["cache_state", "instances", "jobs", "webhook_endpoints", "_sqlx_migrations"];
/// An index range that covers more of a table than this is taken for a scan of it.
const WIDE_PERCENT: u64 = 10;
/// Which row of a table stands for all: one that the statements are made for.
const TYPICAL: &[(&str, &str)] = &[
    ("cache_changes", "change_no >= 3990"),
    ("mails", "state = 0"),
    ("user_tokens", "expires_at > UTC_TIMESTAMP(6)"),
    ("warmings", "state = 0"),
    ("webhook_deliveries", "state = 0"),
    ("holds", "state = 0 AND expires_at > UTC_TIMESTAMP(6)"),
    ("hold_seats", "hold_id IN (SELECT id FROM holds WHERE state = 0)"),
    ("outbox", "state = 0"),
    ("payments", "due_at IS NOT NULL"),
    ("queue_passes", "is_live = 1"),
    ("queue_ranks", "state = 6"),
    ("seats", "hold_id IS NOT NULL AND held_until > UTC_TIMESTAMP(6)"),
];
/// When most was long over.
const RECENT: &str = "UTC_TIMESTAMP(6) - INTERVAL 2 MINUTE";
/// What stands before a value that is not compared with a column.
const PLAIN: &[(&str, &str)] = &[
    ("INTERVAL", "0"),
    ("LIMIT", "10"),
    ("LIKE", "'%night%'"),
    ("BETWEEN", "TIMESTAMP'1970-01-01 00:00:00'"),
    ("BETWEEN ? AND", "TIMESTAMP'9999-12-31 23:59:59'"),
    // An audit of what changed lately.
    ("WHERE", RECENT),
    ("-", "1"),
    ("+", "1"),
    (",", "1"),
    ("IF(", "1"),
    ("COALESCE(", "1"),
    ("SELECT", "1"),
    ("GREATEST(serving,", "1"),
    // Of the one row that all caches have.
    ("generation =", "1"),
];

/// What is wrong with a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// The server sees without looking that no row can be found, so the plan says nothing.
    Empty,
    /// Every row of a table that grows, or every entry of an index.
    Scan,
    /// A range of an index that is much of the table.
    Wide,
    /// Rows are sorted.
    Sort,
    /// Rows are put into a temporary table.
    Temporary,
}

/// A step of a plan: one table.
#[derive(Clone, Debug)]
pub struct Step {
    table: String,
    kind: String,
    key: String,
    rows: u64,
    extra: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, kind, key, rows, extra } = self;
        write!(f, "{table}: {kind} by [{key}], {rows} rows, {extra}")
    }
}

/// The tables of a database, with rows that stand for the others.
pub struct Tables {
    /// Up to three rows of each table, as literals by column.
    samples: BTreeMap<String, Vec<BTreeMap<String, String>>>,
    sizes: BTreeMap<String, u64>,
    is_mariadb: bool,
}

impl Tables {
    /// Reads what a filled database holds.
    pub async fn of(sql: &mut MySqlConnection) -> Self {
        let columns: Vec<(String, String, String)> = sqlx::query_as(
            "SELECT CAST(table_name AS CHAR), CAST(column_name AS CHAR), CAST(data_type AS CHAR) \
             FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY 1, 2",
        )
        .fetch_all(&mut *sql)
        .await
        .expect("columns");
        let version: String = sqlx::query_scalar("SELECT VERSION()").fetch_one(&mut *sql).await.expect("a version");
        let mut by_table: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        for (table, column, kind) in columns {
            by_table.entry(table).or_default().push((column, kind));
        }
        let mut tables =
            Self { samples: BTreeMap::new(), sizes: BTreeMap::new(), is_mariadb: version.contains("Maria") };
        for (table, columns) in by_table {
            let count = format!("SELECT COUNT(*) FROM {table}");
            let size: i64 = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut *sql).await.expect("a size");
            tables.sizes.insert(table.clone(), u64::try_from(size).expect("a size"));
            tables.samples.insert(table.clone(), sample(sql, &table, &columns).await);
        }
        tables
    }

    /// Tables that grow, by size.
    pub fn growing(&self) -> impl Iterator<Item = (&String, u64)> {
        let grows = |(name, _): &(&String, &u64)| !BOUNDED.contains(&name.as_str());
        self.sizes.iter().filter(grows).map(|(name, size)| (name, *size))
    }

    /// The statement with a value at each placeholder, or the text before one for which no rule is known.
    pub fn filled(&self, sql: &str) -> Result<String, String> {
        let aliases = self.aliases(sql);
        let (mut text, mut is_quoted) = (String::new(), false);
        for (at, char) in sql.char_indices() {
            is_quoted ^= char == '\'';
            match char {
                '?' if !is_quoted => {
                    let is_age = sql[..at].ends_with("INTERVAL ") && sql[at..].starts_with("? HOUR");
                    let value = match sql[at..].strip_prefix("? AS ") {
                        _ if is_age => Some("24".to_owned()),
                        // A derived table's column has the name of the one that it is compared with.
                        Some(rest) => self.of_column(rest.split([',', ')', ' ']).next().unwrap_or_default(), &aliases),
                        None => self.value(&sql[..at], &aliases),
                    };
                    let value = value.ok_or_else(|| sql[..at].to_owned())?;
                    text.push_str(&value);
                }
                char => text.push(char),
            }
        }
        Ok(text)
    }

    /// What a `?` after this text stands for.
    fn value(&self, before: &str, aliases: &BTreeMap<String, String>) -> Option<String> {
        let before = before.trim_end();
        if let Some((_, value)) = PLAIN.iter().find(|(end, _)| before.ends_with(end)) {
            return Some((*value).to_owned());
        }
        let (compared, is_list) = match before.strip_suffix("IN (") {
            Some(compared) => (compared, true),
            None => (before, false),
        };
        let column_part = compared.trim_end().trim_end_matches(['=', '<', '>']).trim_end().trim_end_matches(')');
        let is_below = compared.trim_end().ends_with('<');
        let start = column_part.rfind(|char: char| !char.is_ascii_alphanumeric() && !"_.".contains(char));
        let operand = &column_part[start.map_or(0, |at| at + 1)..];
        let (alias, column) = operand.rsplit_once('.').unwrap_or(("", operand));
        if column.ends_with("_at") {
            return Some(RECENT.to_owned());
        }
        if is_below && matches!(column, "id" | "user_entry" | "place") {
            let greatest = if column == "id" { "X'ffffffffffffffffffffffffffffffff'" } else { "4294967295" };
            return Some(greatest.to_owned());
        }
        let owner = || aliases.values().find(|table| self.has(table, column));
        let table = aliases.get(alias).filter(|table| self.has(table, column)).or_else(owner)?;
        let values: Vec<String> = self.samples[table].iter().map(|row| row[column].clone()).collect();
        if is_list { Some(values.join(", ")) } else { values.first().cloned() }
    }

    fn of_column(&self, column: &str, aliases: &BTreeMap<String, String>) -> Option<String> {
        let table = aliases.values().find(|table| self.has(table, column))?;
        self.samples[table].first().map(|row| row[column].clone())
    }

    fn has(&self, table: &str, column: &str) -> bool {
        self.samples[table].first().is_some_and(|row| row.contains_key(column))
    }

    /// The tables that a statement names, by alias; one without an alias by its own name, the first also by none.
    fn aliases(&self, sql: &str) -> BTreeMap<String, String> {
        let words: Vec<&str> = sql.split(|char: char| char.is_whitespace() || "(),".contains(char)).collect();
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let mut found = BTreeMap::new();
        for pair in words.windows(2) {
            let is_named = matches!(pair[0], "FROM" | "JOIN" | "STRAIGHT_JOIN" | "UPDATE" | "INTO");
            if is_named && self.sizes.contains_key(pair[1]) {
                found.entry(String::new()).or_insert_with(|| pair[1].to_owned());
                found.insert(pair[1].to_owned(), pair[1].to_owned());
            }
        }
        for trio in words.windows(4) {
            let alias = if trio[2] == "AS" { trio[3] } else { trio[2] };
            if matches!(trio[0], "FROM" | "JOIN" | "STRAIGHT_JOIN" | "UPDATE") && self.sizes.contains_key(trio[1]) {
                found.insert(alias.to_owned(), trio[1].to_owned());
            }
        }
        found
    }

    /// What is wrong with the plan of a statement: each flaw with the step that has it.
    pub async fn flaws(&self, sql: &mut MySqlConnection, statement: &Statement) -> Vec<(Flaw, String)> {
        let filled = self.filled(&statement.sql);
        let filled = filled.unwrap_or_else(|before| panic!("{}: no value is known after\n{before}", statement.name));
        let steps = self.explain(sql, &filled).await;
        assert!(!steps.is_empty(), "{}: no plan", statement.name);
        let aliases = self.aliases(&statement.sql);
        let mut flaws: Vec<(Flaw, String)> = Vec::new();
        for step in &steps {
            flaws.extend(self.judged(step, &aliases).into_iter().map(|flaw| (flaw, format!("{step}\n    {filled}"))));
        }
        flaws.sort_by_key(|(flaw, _)| *flaw);
        flaws.dedup_by_key(|(flaw, _)| *flaw);
        flaws
    }

    async fn explain(&self, sql: &mut MySqlConnection, filled: &str) -> Vec<Step> {
        let format = if self.is_mariadb { "" } else { "FORMAT=TRADITIONAL " };
        let text = format!("EXPLAIN {format}{filled}");
        let rows = sqlx::raw_sql(AssertSqlSafe(text.clone())).fetch_all(sql).await;
        let rows = rows.unwrap_or_else(|error| panic!("{error}\n{text}"));
        let steps = rows.iter().filter_map(|row| {
            let bytes =
                |column| row.try_get_unchecked::<Option<Vec<u8>>, _>(column).expect("a column").unwrap_or_default();
            let text = |column| String::from_utf8(bytes(column)).expect("text");
            let rows = text("rows").parse().unwrap_or(0);
            // MySQL tells the table that an INSERT … SELECT writes like one that it reads.
            (text("select_type") != "INSERT").then(|| Step {
                table: text("table"),
                kind: text("type"),
                key: text("key"),
                rows,
                extra: text("Extra"),
            })
        });
        steps.collect()
    }

    fn judged(&self, step: &Step, aliases: &BTreeMap<String, String>) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        let extra = step.extra.to_lowercase();
        if extra.contains("impossible") || extra.contains("no matching") {
            flaws.push(Flaw::Empty);
        }
        if extra.contains("filesort") {
            flaws.push(Flaw::Sort);
        }
        if extra.contains("temporary") {
            flaws.push(Flaw::Temporary);
        }
        let grown = aliases.get(&step.table).and_then(|name| self.growing().find(|(table, _)| *table == name));
        if let Some((_, size)) = grown {
            if matches!(step.kind.as_str(), "ALL" | "index") {
                flaws.push(Flaw::Scan);
            } else if step.rows > size * WIDE_PERCENT / 100 {
                flaws.push(Flaw::Wide);
            }
        }
        flaws
    }
}

/// Up to three typical rows, one after the other in the middle of the table.
async fn sample(sql: &mut MySqlConnection, table: &str, columns: &[(String, String)]) -> Vec<BTreeMap<String, String>> {
    let typical = TYPICAL.iter().find(|(name, _)| *name == table).map_or("TRUE", |(_, condition)| condition);
    let literals: Vec<String> = columns.iter().map(|(column, kind)| literal(column, kind)).collect();
    let text = format!("SELECT {} FROM {table} WHERE {typical} ORDER BY 1 LIMIT 3 OFFSET 3", literals.join(", "));
    let rows = sqlx::raw_sql(AssertSqlSafe(text.clone())).fetch_all(sql).await;
    let rows = rows.unwrap_or_else(|error| panic!("{error}\n{text}"));
    let of_row = |row: &sqlx::mysql::MySqlRow| {
        let values = columns.iter().enumerate().map(|(index, (column, _))| {
            let value = row.try_get_unchecked::<Option<Vec<u8>>, _>(index).expect("a value").unwrap_or_default();
            (column.clone(), String::from_utf8(value).expect("text"))
        });
        values.collect()
    };
    rows.iter().map(of_row).collect()
}

/// An expression that writes a column's value as SQL would.
fn literal(column: &str, kind: &str) -> String {
    let is_bytes = kind.ends_with("binary") || kind.ends_with("blob");
    let is_text = ["char", "varchar", "text", "datetime"].contains(&kind);
    let written = match (is_bytes, is_text) {
        (true, _) => format!("CONCAT('X''', HEX({column}), '''')"),
        (_, true) => format!("QUOTE({column})"),
        _ => format!("CAST({column} AS CHAR)"),
    };
    format!("CAST(COALESCE({written}, 'NULL') AS CHAR)")
}
