//! Events: what the program records, what can be subscribed, and what `docs/events.md` describes are the same.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::Source;
use crate::tree::{Complaint, Tree, at, complaint, obeys, refuses};

const DOCUMENT: &str = "docs/events.md";
/// Where [`TOPICS`] is.
const DOMAIN: &str = "src/notices/webhooks/domain.rs";
const TOPICS: &str = "TOPICS";
/// The functions of the outbox that record events, and which of their arguments is the topic.
const RECORDERS: [(&str, usize); 2] = [("record", 1), ("record_first", 2)];
/// An envelope's fields, in order.
const FIELDS: [&str; 7] = ["id", "type", "version", "aggregate_id", "sequence", "occurred_at", "data"];

/// Topics that are recorded, each with where.
fn recorded(tree: &Tree, complaints: &mut Vec<Complaint>) -> BTreeMap<String, (String, usize)> {
    let mut found = BTreeMap::new();
    for source in tree.program().filter(|source| source.path != "src/platform/outbox.rs") {
        for (name, place) in RECORDERS {
            for (offset, arguments) in source.calls(name) {
                if !source.before(offset).ends_with("outbox::") {
                    continue;
                }
                let inside = &source.code[arguments.start + 1..arguments.end - 1];
                let topic = inside.split(',').nth(place).unwrap_or_default().trim();
                let values = topics_of(tree, source, topic);
                if values.is_empty() {
                    complaints.push(at(source, offset, format!("{topic} is no constant with a topic")));
                }
                let whence = || (source.path.clone(), source.line(offset));
                found.extend(values.into_iter().map(|value| (value, whence())));
            }
        }
    }
    found
}

/// The topics that an argument may stand for: that of a constant, or those of all constants that a method of the same file names.
fn topics_of(tree: &Tree, source: &Source, argument: &str) -> Vec<String> {
    let Some(method) = argument.strip_suffix("()").and_then(|called| called.rsplit('.').next()) else {
        let found = constant(source, argument).or_else(|| tree.program().find_map(|other| constant(other, argument)));
        return found.into_iter().collect();
    };
    let functions = source.functions();
    let bodies = functions.iter().filter(|function| function.name == method);
    let words = bodies.flat_map(|function| source.words_in(function.signature.end..function.whole.end));
    words.filter_map(|(_, word)| constant(source, word)).collect()
}

/// The text of `const NAME: &str = "…";`, which may be named by a path.
fn constant(source: &Source, path: &str) -> Option<String> {
    let name = path.rsplit("::").next().filter(|name| !name.is_empty())?;
    let declared = source.words().find(|(offset, word)| {
        *word == name && source.before(*offset).ends_with("const") && source.rest(offset + name.len()).starts_with(':')
    })?;
    let end = declared.0 + source.code[declared.0..].find(';')?;
    let value = source.literals_in(declared.0..end).next()?;
    value.text.contains('.').then(|| value.text.clone())
}

/// What can be subscribed, with the versions.
fn subscribable(tree: &Tree) -> BTreeMap<String, u64> {
    let Some(source) = tree.program().find(|source| source.path == DOMAIN) else { return BTreeMap::new() };
    let Some((offset, _)) =
        source.words().find(|(offset, word)| *word == TOPICS && source.before(*offset).ends_with("const"))
    else {
        return BTreeMap::new();
    };
    let end = source.code[offset..].find(';').map_or(source.code.len(), |length| offset + length);
    let versions = |from: usize| source.code[from..end].split([',', ')']).nth(1)?.trim().parse().ok();
    let literals = source.literals_in(offset..end);
    literals.filter_map(|literal| Some((literal.text.clone(), versions(literal.at)?))).collect()
}

/// A section of the document: its topic, its line, and the example in it.
struct Described<'t> {
    topic: &'t str,
    line: usize,
    text: String,
    example: String,
}

fn described(text: &str) -> Vec<Described<'_>> {
    let mut sections: Vec<Described> = Vec::new();
    let mut is_code = false;
    for (index, line) in text.lines().enumerate() {
        if let Some(topic) = line.strip_prefix("### ") {
            sections.push(Described { topic, line: index + 1, text: String::new(), example: String::new() });
        } else if line.starts_with("```") {
            is_code = line == "```json";
        } else if let Some(section) = sections.last_mut() {
            let part = if is_code { &mut section.example } else { &mut section.text };
            part.push_str(line);
            part.push('\n');
        }
    }
    sections
}

/// What is wrong with a section, given the version that is sent.
fn objection(section: &Described, version: u64) -> Option<String> {
    if !section.text.contains(&format!("Version {version}. ")) {
        return Some(format!("does not say: Version {version}."));
    }
    let Ok(example) = serde_json::from_str::<serde_json::Value>(&section.example) else {
        return Some("has no example that is JSON".to_owned());
    };
    if example["type"] != section.topic || example["version"] != version || !example["data"].is_object() {
        return Some("has an example of something else".to_owned());
    }
    // The example is written a field a line: those of the envelope are indented least.
    let fields = section.example.lines().filter_map(|line| line.strip_prefix("  \"")?.split('"').next());
    let is_envelope = fields.eq(FIELDS);
    (!is_envelope).then(|| format!("has an example whose fields are not {}", FIELDS.join(", ")))
}

fn events(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let recorded = recorded(tree, &mut complaints);
    let subscribable = subscribable(tree);
    let document = tree.texts.iter().find(|text| text.path == DOCUMENT).map_or("", |text| &text.text);
    let described = described(document);
    let known: BTreeSet<&str> = described.iter().map(|section| section.topic).collect();
    for (topic, (path, line)) in &recorded {
        if !subscribable.contains_key(topic) {
            complaints.push(complaint(path, *line, format!("{topic} cannot be subscribed: add it to {TOPICS}")));
        }
        if !known.contains(topic.as_str()) {
            complaints.push(complaint(path, *line, format!("{topic} is not described in {DOCUMENT}")));
        }
    }
    for topic in subscribable.keys().filter(|topic| !recorded.contains_key(*topic)) {
        complaints.push(complaint(DOMAIN, 1, format!("{topic} can be subscribed and never happens")));
    }
    for section in described {
        let what = match subscribable.get(section.topic) {
            Some(version) => objection(&section, *version),
            None => Some("never happens".to_owned()),
        };
        complaints.extend(what.map(|what| complaint(DOCUMENT, section.line, format!("{} {what}", section.topic))));
    }
    complaints
}

#[test]
fn every_event_is_described_as_it_is_sent() {
    obeys(events);
}

#[test]
fn an_event_that_is_described_otherwise_is_refused() {
    let booking = "const SOLD: &str = \"seat.sold\";\nconst LOST: &str = \"seat.lost\";\n\
                   fn a() {\n outbox::record(conn, SOLD, id, 1, &facts);\n outbox::record_first(script, offset, seats::LOST, &all);\n \
                   outbox::record(conn, topic, id, 1, &facts);\n other::record(conn, x);\n outbox::record(conn, by.topic(), id, 1, &facts);\n}\n\
                   const KEPT: &str = \"seat.kept\";\nfn topic() -> &str {\n if a { SOLD } else { KEPT }\n}\n";
    let domain = "pub const TOPICS: &[(&str, u32)] = &[(\"seat.sold\", 2), (\"seat.gone\", 1)];";
    let example = |topic: &str, version: u32| {
        format!(
            "```json\n{{\n  \"id\": \"a\",\n  \"type\": \"{topic}\",\n  \"version\": {version},\n  \"aggregate_id\": \"b\",\n  \
             \"sequence\": 1,\n  \"occurred_at\": \"c\",\n  \"data\": {{\n    \"d\": 1\n  }}\n}}\n```\n"
        )
    };
    let (right, other) = (example("seat.sold", 2), example("seat.sold", 1));
    let document =
        |text: &str, example: &str| format!("### seat.sold\n\n{text}\n\n{example}### seat.made\n\nVersion 1. B.\n");
    let common = [
        "src/a.rs:6 topic is no constant",
        "src/a.rs:8 seat.kept cannot be subscribed",
        "src/a.rs:8 seat.kept is not described",
        "src/a.rs:5 seat.lost cannot be subscribed",
        "src/a.rs:5 seat.lost is not described",
        "src/notices/webhooks/domain.rs:1 seat.gone can be subscribed and never",
    ];
    let cases = [
        (document("Version 2. A.", &right), None),
        (document("Version 1. A.", &right), Some("docs/events.md:1 seat.sold does not say: Version 2.")),
        (document("Version 2. A.", &other), Some("docs/events.md:1 seat.sold has an example of something else")),
        (document("Version 2. A.", "```json\n{,}\n```\n"), Some("docs/events.md:1 seat.sold has no example")),
        (
            document("Version 2. A.", &right.replacen("  \"id\": \"a\",\n", "", 1)),
            Some("docs/events.md:1 seat.sold has an example whose fields"),
        ),
    ];
    for (document, what) in cases {
        let made = document.lines().position(|line| line == "### seat.made").map_or(0, |index| index + 1);
        let made = format!("docs/events.md:{made} seat.made never happens");
        let expected: Vec<&str> = common.iter().copied().chain(what).chain([made.as_str()]).collect();
        refuses(events, &[("src/a.rs", booking), (DOMAIN, domain), (DOCUMENT, &document)], &expected);
    }
}
