//! Words: what is not said in the project, and how things are not called.
//!
//! Forbidden words are put together from pieces here, so that this file does not break its own rules.

use crate::source::{Source, is_word};
use crate::tree::{Complaint, Tree, at, complaint, has_extension, obeys, refuses};

/// Words that promise to do something later.
fn promises() -> [String; 4] {
    [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["HA", "CK"]].map(|pieces| pieces.concat())
}

/// Places and numbers that mean something on one machine or to one team only.
fn private() -> [String; 4] {
    [["/wo", "rk/"], ["/ro", "ot/"], ["/ho", "me/"], [&promises()[0], "(issue"]].map(|pieces| pieces.concat())
}

/// Where `word` stands in `line` as a word of its own.
fn says(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].bytes().last().is_some_and(is_word);
        let after = line[at + word.len()..].bytes().next().is_some_and(is_word);
        !before && !after
    })
}

/// Where `path` begins in `line`: not in the middle of a longer one.
fn points_to(line: &str, path: &str) -> bool {
    let is_inside = |byte: u8| is_word(byte) || matches!(byte, b'-' | b'.' | b'~' | b'}' | b'*');
    line.match_indices(path).any(|(at, _)| !line[..at].bytes().last().is_some_and(is_inside))
}

fn unfinished(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let promises = promises();
    for text in tree.texts.iter().filter(|text| !has_extension(&text.path, "lock")) {
        for (index, line) in text.text.lines().enumerate() {
            if let Some(word) = promises.iter().find(|word| says(line, word)) {
                complaints.push(complaint(&text.path, index + 1, format!("{word}: do it, or say why not")));
            }
        }
    }
    for source in &tree.sources {
        for (offset, word) in source.words() {
            if let Some(what) = shortcut(source, offset, word) {
                complaints.push(at(source, offset, what));
            }
        }
    }
    complaints
}

fn shortcut(source: &Source, offset: usize, word: &str) -> Option<String> {
    let rest = source.rest(offset + word.len());
    match word {
        "todo" | "unimplemented" | "dbg" if rest.starts_with('!') => Some(format!("{word}! is not for keeps")),
        "ignore" if source.before(offset).ends_with("#[") && !rest.starts_with('=') => {
            Some("an ignored test says why: ignore = \"…\"".into())
        }
        "allow" | "expect" if rest.starts_with('(') && is_in_attribute(source, offset) => {
            let arguments = source.brackets(offset, '(')?;
            let is_explained = word == "expect" && source.words_in(arguments).any(|(_, word)| word == "reason");
            (!is_explained).then(|| "a lint is silenced by expect(…, reason = \"…\")".into())
        }
        _ => None,
    }
}

fn is_in_attribute(source: &Source, offset: usize) -> bool {
    let before = source.before(offset);
    before.ends_with('[') || before.rfind("cfg_attr(").is_some_and(|start| !before[start..].contains(']'))
}

fn headers(tree: &Tree) -> Vec<Complaint> {
    let bare = tree.program().chain(tree.benches()).filter(|source| !source.text.starts_with("//!"));
    bare.map(|source| at(source, 0, "a file begins with //! and says what it is for")).collect()
}

fn file_names(tree: &Tree) -> Vec<Complaint> {
    let vague = ["util", "utils", "common", "helper", "helpers", "manager", "managers", "misc"];
    let mut complaints = Vec::new();
    for text in &tree.texts {
        let words = text.path.split(['/', '.', '_', '-']);
        if let Some(word) = words.into_iter().find(|word| vague.contains(&word.to_lowercase().as_str())) {
            complaints.push(complaint(&text.path, 1, format!("{word} says nothing: name what it holds")));
        }
    }
    complaints
}

fn predicates(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for source in &tree.sources {
        for function in source.functions() {
            if function.name.starts_with("check_is") || function.name.starts_with("is_not_") {
                let what = format!("{}: a predicate says what is, such as is_live", function.name);
                complaints.push(at(source, function.whole.start, what));
            }
        }
    }
    complaints
}

fn privacy(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let private = private();
    for text in &tree.texts {
        for (index, line) in text.text.lines().enumerate() {
            if let Some(word) = private.iter().find(|word| points_to(line, word)) {
                complaints.push(complaint(&text.path, index + 1, format!("{word} means nothing elsewhere")));
            }
        }
    }
    complaints
}

#[test]
fn nothing_is_left_unfinished() {
    obeys(unfinished);
}

#[test]
fn what_is_left_unfinished_is_refused() {
    let (promise, undone) = (&promises()[0], "todo");
    let code = format!(
        "// {promise}: later\nfn a() {{ {undone}!() }}\n#[ignore]\n#[ignore = \"slow\"]\n#![allow(dead_code)]\n#[cfg_attr(x, allow(a))]\n#[expect(b)]\n#[expect(b, reason = \"c\")]\nfn allow(a: u8) {{}}\n"
    );
    let shell = format!("# {}: later\nmktemp a.{}\n", promises()[1], "X".repeat(6));
    refuses(
        unfinished,
        &[("src/a.rs", &code), ("scripts/a.sh", &shell)],
        &[
            &format!("src/a.rs:1 {promise}"),
            &format!("scripts/a.sh:1 {}", promises()[1]),
            "src/a.rs:2 todo!",
            "src/a.rs:3 an ignored",
            "src/a.rs:5 a lint",
            "src/a.rs:6 a lint",
            "src/a.rs:7 a lint",
        ],
    );
}

#[test]
fn files_say_what_they_are_for() {
    obeys(headers);
}

#[test]
fn a_file_without_header_is_refused() {
    let bare = "/// B.\nfn b() {}\n";
    let files = [("src/a.rs", "//! A.\n"), ("src/b.rs", bare), ("benches/c.rs", bare)];
    refuses(headers, &files, &["src/b.rs:1", "benches/c.rs:1"]);
}

#[test]
fn files_are_named_for_what_they_hold() {
    obeys(file_names);
}

#[test]
fn vague_file_names_are_refused() {
    let files = [("src/utils/a.rs", ""), ("src/a/hold_manager.rs", ""), ("k6/common.js", ""), ("src/commons.rs", "")];
    refuses(
        file_names,
        &files,
        &["src/utils/a.rs:1 utils", "src/a/hold_manager.rs:1 manager", "k6/common.js:1 common"],
    );
}

#[test]
fn predicates_say_what_is() {
    obeys(predicates);
}

#[test]
fn predicates_that_say_what_is_not_are_refused() {
    let text =
        "fn check_is_expired(&self) -> bool { a }\nfn is_not_live() -> bool { a }\nfn not_found() -> Problem { a }";
    refuses(predicates, &[("src/a.rs", text)], &["src/a.rs:1 check_is", "src/a.rs:2 is_not_live"]);
}

#[test]
fn the_project_speaks_of_itself_alone() {
    obeys(privacy);
}

#[test]
fn the_names_of_other_places_are_refused() {
    let [work, root, ..] = private();
    let text = format!("see {work}notes\nCOPY a {root}\nsrc{work}a is a folder, and so is net{}\n", &work[1..]);
    refuses(privacy, &[("docs/a.md", &text)], &[&format!("docs/a.md:1 {work}"), &format!("docs/a.md:2 {root}")]);
}
