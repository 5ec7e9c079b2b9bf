//! Documents: links lead somewhere, and commands exist.

use std::collections::BTreeSet;

use crate::tree::{Complaint, Text, Tree, complaint, joined, obeys, refuses};

fn documents(tree: &Tree) -> impl Iterator<Item = &Text> {
    tree.with_extension("md").filter(|text| !text.path.contains('/') || text.path.starts_with("docs/"))
}

/// Lines with their numbers, and whether they stand in a fenced block.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str, bool)> {
    let mut is_fenced = false;
    text.lines().enumerate().map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        (index + 1, line, is_fenced || is_fence)
    })
}

/// What stands outside `code spans`, and what inside.
fn spans(line: &str, is_code: bool) -> impl Iterator<Item = &str> {
    line.split('`').skip(usize::from(is_code)).step_by(2)
}

/// The targets of `[text](target)`, `![text](target)` and `[text]: target`.
fn targets(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("](") {
        let rest = &line[at + 2..];
        found.extend(rest.find([')', ' ']).map(|end| &rest[..end]));
    }
    if line.starts_with('[')
        && let Some((_, target)) = line.split_once("]: ")
    {
        found.extend(target.split_whitespace().next());
    }
    found
}

fn links(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for document in documents(tree) {
        let folder = document.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (number, line, _) in lines(&document.text).filter(|(_, _, is_code)| !is_code) {
            for target in targets(line) {
                let path = target.split('#').next().unwrap_or_default();
                if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                    continue;
                }
                if !tree.has_below(&joined(folder, path)) {
                    complaints.push(complaint(&document.path, number, format!("{target} leads nowhere")));
                }
            }
        }
    }
    complaints
}

fn commands(tree: &Tree) -> Vec<Complaint> {
    let makefile = tree.texts.iter().find(|text| text.path == "Makefile").map_or("", |text| &text.text);
    let rules = makefile.lines().filter(|line| !line.starts_with(['\t', ' ', '#', '.']));
    let heads = rules.filter_map(|line| line.split_once(':')).filter(|(_, rest)| !rest.starts_with('='));
    let known: BTreeSet<&str> = heads.flat_map(|(names, _)| names.split_whitespace()).collect();
    let mut complaints = Vec::new();
    for document in documents(tree) {
        for (number, line, is_fenced) in lines(&document.text) {
            let code: Vec<&str> = if is_fenced { vec![line] } else { spans(line, true).collect() };
            for name in code.into_iter().flat_map(made).filter(|name| !known.contains(name)) {
                complaints.push(complaint(&document.path, number, format!("the Makefile has no {name}")));
            }
        }
    }
    complaints
}

/// The targets of a `make` command: none of its options, its variables, or what follows as a comment.
fn made(code: &str) -> Vec<&str> {
    let command = code.trim().trim_start_matches("$ ");
    let command = command.split(['#', '&', ';', '|']).next().unwrap_or_default();
    let mut words = command.split_whitespace();
    if words.by_ref().find(|word| !word.contains('=')) != Some("make") {
        return Vec::new();
    }
    words.filter(|word| !word.starts_with('-') && !word.contains('=') && !word.contains('…')).collect()
}

#[test]
fn links_lead_somewhere() {
    obeys(links);
}

#[test]
fn links_that_lead_nowhere_are_refused() {
    let text = "[a](docs/a.md#top) [b](https://b) [c](docs/c.md)\n```\n[d](d.md)\n```\n[e]: e.md\n";
    let files = [
        ("README.md", text),
        ("docs/a.md", "[up](../README.md) [here](#here) [src](../src/) [x](x.md)"),
        ("src/a.rs", ""),
    ];
    let expected = ["README.md:1 docs/c.md", "README.md:5 e.md", "docs/a.md:1 x.md"];
    refuses(links, &files, &expected);
}

#[test]
fn commands_exist() {
    obeys(commands);
}

#[test]
fn commands_that_do_not_exist_are_refused() {
    let makefile = "A := 1\n.PHONY: lost\nup test: build\n\tcargo run\nbuild:\n";
    let text = "Run `make up`, and `make lunch`; make sure.\n```sh\n$ A=1 make test B=2 # make tea\nmake -j build wait && make no\n```\n";
    refuses(
        commands,
        &[("Makefile", makefile), ("README.md", text)],
        &["README.md:1 the Makefile has no lunch", "README.md:4 the Makefile has no wait"],
    );
}
