//! Lua scripts and Redis keys: each has one owner, and a script says what it promises.
//!
//! Lua below `benches/` runs in a load generator, not in Redis: it says what it sends, and has no command for Redis.

use std::collections::BTreeMap;

use crate::source::Source;
use crate::tree::{Complaint, Tree, at, complaint, joined, obeys, refuses};

const HEADER: &[&str] = &["KEYS", "ARGV", "RETURNS", "ATOMIC"];

/// `src/queue` for `src/queue/redis.rs`.
fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn may_own(path: &str) -> bool {
    path.ends_with("/redis.rs") || path.ends_with("/redis/mod.rs") || path.starts_with("src/platform/")
}

fn included(source: &Source) -> impl Iterator<Item = (usize, String)> {
    let calls =
        source.words().filter(|(at, word)| *word == "include_str" && source.rest(at + word.len()).starts_with('!'));
    calls.filter_map(|(at, _)| {
        let range = source.brackets(at, '(')?;
        let literal = source.literals_in(range).next()?;
        Some((at, joined(folder(&source.path), &literal.text)))
    })
}

fn owners(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut inclusions: BTreeMap<String, Vec<(&Source, usize)>> = BTreeMap::new();
    for source in tree.program() {
        for (offset, path) in included(source) {
            // A script may be a part of several that the same file puts together.
            let includers = inclusions.entry(path).or_default();
            if includers.iter().all(|(other, _)| other.path != source.path) {
                includers.push((source, offset));
            }
        }
    }
    for script in tree.with_extension("lua").filter(|script| script.path.starts_with("src/")) {
        match inclusions.get(&script.path).map_or(&[][..], Vec::as_slice) {
            [] => complaints.push(complaint(&script.path, 1, "no redis.rs includes it")),
            [(source, offset)] => {
                if !may_own(&source.path) || !script.path.starts_with(folder(&source.path)) {
                    let what = format!("{} belongs to the redis.rs of its own folder", script.path);
                    complaints.push(at(source, *offset, what));
                }
            }
            [_, others @ ..] => {
                let what = format!("{} is included by another file already", script.path);
                complaints.extend(others.iter().map(|(source, offset)| at(source, *offset, &what)));
            }
        }
    }
    complaints
}

const GENERATORS: &str = "benches/";

fn headers(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for script in tree.with_extension("lua").filter(|script| !script.path.starts_with(GENERATORS)) {
        let header: Vec<&str> = script.text.lines().take_while(|line| line.starts_with("--")).collect();
        let header = header.join("\n").to_uppercase();
        let missing: Vec<&str> = HEADER.iter().copied().filter(|word| !header.contains(word)).collect();
        if !missing.is_empty() {
            complaints.push(complaint(&script.path, 1, format!("the header says nothing of {}", missing.join(", "))));
        }
        for (index, line) in script.text.lines().enumerate() {
            if names_key(line) {
                complaints.push(complaint(
                    &script.path,
                    index + 1,
                    "a key of its own: keys come in KEYS, from redis.rs",
                ));
            }
        }
    }
    complaints
}

fn generators(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for script in tree.with_extension("lua").filter(|script| script.path.starts_with(GENERATORS)) {
        if !script.text.starts_with("-- ") {
            complaints.push(complaint(&script.path, 1, "a file begins with -- and says what it sends"));
        }
        for (index, line) in script.text.lines().enumerate() {
            if line.contains("redis.") || line.contains("KEYS[") {
                complaints.push(complaint(&script.path, index + 1, "a script for Redis belongs to a redis.rs"));
            }
        }
    }
    complaints
}

/// Whether a command's first argument is written out.
fn names_key(line: &str) -> bool {
    let code = line.split("--").next().unwrap_or_default();
    ["redis.call(", "redis.pcall("].iter().any(|call| {
        let mut calls = code.split(call).skip(1);
        // What INFO takes is the name of a section, not a key.
        let takes_key = |command: &str| !command.trim().trim_matches(['"', '\'']).eq_ignore_ascii_case("info");
        calls.any(|rest| {
            let call = rest.split_once(',');
            call.is_some_and(|(command, key)| takes_key(command) && key.trim_start().starts_with(['"', '\'']))
        })
    })
}

/// The literals given to `Redis::key`, each as the part before the first `:` or variable. A hash tag's brace may come before.
fn keys(source: &Source) -> Vec<(usize, String)> {
    let calls = source.calls("key").filter(|(at, _)| source.before(*at).ends_with('.'));
    let literals = calls.filter_map(|(at, range)| Some((at, source.literals_in(range).next()?)));
    literals.map(|(at, literal)| (at, prefix_of(&literal.text).to_owned())).collect()
}

/// `sale` of `sale:{id}`, and of `{{sale:{id}}}:head` as `format!` wants it.
fn prefix_of(key: &str) -> &str {
    key.strip_prefix("{{").unwrap_or(key).split([':', '{', '}']).next().unwrap_or_default()
}

fn prefixes(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    let mentions_redis = |source: &&Source| source.words().any(|(_, word)| matches!(word, "redis" | "Redis"));
    for source in tree.program().filter(mentions_redis) {
        for (offset, prefix) in keys(source) {
            let owner = owners.entry(prefix.clone()).or_insert_with(|| folder(&source.path).to_owned());
            if !may_own(&source.path) {
                complaints.push(at(source, offset, "keys are named in redis.rs"));
            } else if prefix.is_empty() {
                complaints.push(at(source, offset, "a key begins with its owner's prefix"));
            } else if owner.as_str() != folder(&source.path) {
                complaints.push(at(source, offset, format!("the keys {prefix}:… belong to {owner}")));
            }
        }
    }
    complaints
}

#[test]
fn every_script_has_one_owner() {
    obeys(owners);
}

#[test]
fn a_script_without_its_owner_is_refused() {
    refuses(
        owners,
        &[
            ("src/queue/join.lua", ""),
            ("src/queue/lost.lua", ""),
            ("src/queue/tick.lua", ""),
            ("src/queue/claim.lua", ""),
            (
                "src/queue/redis.rs",
                "const J: &str = include_str!(\"join.lua\");\nconst C: &str = include_str!(\"claim.lua\");",
            ),
            ("src/queue/service.rs", "const T: &str = include_str!(\"tick.lua\");"),
            ("src/shop/redis.rs", "const C: &str = include_str!(\"../queue/claim.lua\");"),
        ],
        &[
            "src/queue/lost.lua:1 no redis.rs",
            "src/queue/service.rs:1 src/queue/tick.lua belongs",
            "src/shop/redis.rs:1 src/queue/claim.lua is included by another",
        ],
    );
}

#[test]
fn every_script_is_headed() {
    obeys(headers);
}

#[test]
fn a_script_without_header_is_refused() {
    let good = "-- KEYS[1] the sale. ARGV[1] now.\n-- Returns the index.\n-- Atomic: reads and raises it.\nredis.call('INCR', KEYS[1])\n";
    let bad = "-- KEYS[1] the sale.\n-- Returns nothing.\n\nredis.call('DEL', 'sale')\n";
    let expected = ["src/a/b.lua:1 the header says nothing of ARGV, ATOMIC", "src/a/b.lua:4 a key of its own"];
    refuses(headers, &[("src/a/a.lua", good), ("src/a/b.lua", bad)], &expected);
}

#[test]
fn generators_say_what_they_send() {
    obeys(generators);
}

#[test]
fn a_generator_that_is_a_script_for_redis_is_refused() {
    let files = [("benches/a.lua", "-- What is sent.\n"), ("benches/b.lua", "return redis.call('DEL', KEYS[1])\n")];
    refuses(generators, &files, &["benches/b.lua:1 a file begins", "benches/b.lua:1 a script for Redis"]);
}

#[test]
fn every_key_has_one_owner() {
    obeys(prefixes);
}

#[test]
fn a_key_with_two_owners_is_refused() {
    refuses(
        prefixes,
        &[
            (
                "src/booking/redis.rs",
                "fn a(redis: &Redis) { redis.key(&format!(\"seats:{id}\")); redis.key(\"{id}\") }",
            ),
            (
                "src/queue/redis.rs",
                "fn a(redis: &Redis) {\n redis.key(&format!(\"{{sale:{id}}}:a\")); redis.key(\"seats:b\") }",
            ),
            ("src/queue/service.rs", "fn a() { self.redis.key(\"sale\") }"),
        ],
        &[
            "src/booking/redis.rs:1 a key begins",
            "src/queue/redis.rs:2 the keys seats:… belong to src/booking",
            "src/queue/service.rs:1 keys are named",
        ],
    );
}
