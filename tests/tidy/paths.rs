//! The paths that a source names, from the crate's root.
//!
//! Understood: `use` trees with groups, aliases, `self` and globs; `crate::`, `self::`, `super::` (also inside
//! inline modules) and `$crate::` anywhere in code; paths that begin with something imported or with
//! a child module; re-exports, so `queue::Pass` is known to be `queue::pass::Pass`.

use std::collections::HashMap;
use std::ops::Range;

use crate::source::Source;
use crate::tree::Tree;

/// A path from the crate's root and where it stands.
#[derive(Debug)]
pub struct Named {
    pub at: usize,
    /// As written.
    pub path: Vec<String>,
    /// Where the thing is declared.
    pub origin: Vec<String>,
}

/// A name that a `use` brings, with where it stands and the path behind it.
type Use = (String, (usize, Vec<String>));
type Imports = HashMap<String, Vec<String>>;

/// Every module of the crate with what it imports and re-exports by name.
#[derive(Debug)]
pub struct Modules {
    imports: HashMap<Vec<String>, Imports>,
}

/// `src/queue/store.rs` is `[queue, store]`; `src/queue/mod.rs` is `[queue]`.
pub fn module_of(path: &str) -> Vec<String> {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: Vec<String> = inside.split('/').map(str::to_owned).collect();
    let is_root = parts.len() == 1 && (inside == "lib" || inside == "main");
    if is_root || parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

impl Modules {
    pub fn of(tree: &Tree) -> Self {
        let mut modules = Self { imports: HashMap::new() };
        for source in tree.program() {
            modules.imports.entry(module_of(&source.path)).or_default();
        }
        for source in tree.program() {
            let imports = modules.uses(source).0.into_iter().map(|(name, (_, path))| (name, path)).collect();
            modules.imports.insert(module_of(&source.path), imports);
        }
        modules
    }

    /// Every path into the crate that `source` names.
    pub fn named_in(&self, source: &Source) -> Vec<Named> {
        let (uses, ranges) = self.uses(source);
        let base = module_of(&source.path);
        let imports = self.imports.get(&base);
        let inline = inline_modules(source);
        let mut found: Vec<(usize, Vec<String>)> = uses.into_iter().map(|(_, named)| named).collect();
        for (at, chain) in chains(source, &ranges) {
            let imported = imports.and_then(|imports| imports.get(&chain[0]));
            let path = match imported {
                Some(path) => Some([path.as_slice(), &chain[1..]].concat()),
                None => self.absolute(&base_at(&base, &inline, at), &chain),
            };
            found.extend(path.map(|path| (at, path)));
        }
        found.into_iter().map(|(at, path)| Named { at, origin: self.origin(path.clone()), path }).collect()
    }

    fn uses(&self, source: &Source) -> (Vec<Use>, Vec<Range<usize>>) {
        let base = module_of(&source.path);
        let inline = inline_modules(source);
        let (mut found, mut ranges) = (Vec::new(), Vec::new());
        for (at, _) in source.words().filter(|(at, word)| *word == "use" && begins_item(source, *at)) {
            let Some(length) = source.code[at..].find(';') else { continue };
            ranges.push(at..at + length);
            let mut leaves = Vec::new();
            expand(&source.code[at + 3..at + length], &[], &mut leaves);
            let here = base_at(&base, &inline, at);
            for (name, path) in leaves {
                if let Some(path) = self.absolute(&here, &path) {
                    found.push((name, (at, path)));
                }
            }
        }
        (found, ranges)
    }

    /// `path` as seen from the module `base`; `None` where it leads out of the crate.
    fn absolute(&self, base: &[String], path: &[String]) -> Option<Vec<String>> {
        let first = path.first()?;
        let mut start = match first.as_str() {
            "crate" => Vec::new(),
            "frontrow" if base.is_empty() => Vec::new(),
            "self" | "super" => base.to_vec(),
            child => {
                let module = [base, &[child.to_owned()]].concat();
                return self.imports.contains_key(&module).then(|| [base, path].concat());
            }
        };
        let ups = path.iter().take_while(|part| *part == "super").count();
        start.truncate(start.len().saturating_sub(ups));
        start.extend(path.iter().skip(ups.max(1)).cloned());
        Some(start)
    }

    /// Follows re-exports, a few times at most: a circle is the compiler's to refuse.
    fn origin(&self, mut path: Vec<String>) -> Vec<String> {
        for _ in 0..4 {
            let step = (0..path.len()).rev().find_map(|length| {
                let origin = self.imports.get(&path[..length])?.get(&path[length])?;
                let is_module = self.imports.contains_key(&path[..=length]);
                (!is_module).then(|| [origin.as_slice(), &path[length + 1..]].concat())
            });
            match step {
                Some(next) if next != path => path = next,
                _ => break,
            }
        }
        path
    }
}

/// Not the `use<'a>` of a bound.
fn begins_item(source: &Source, at: usize) -> bool {
    let before = source.before(at);
    let starts = before.is_empty() || before.ends_with([';', '{', '}', ']', ')']) || before.ends_with("pub");
    starts && !source.rest(at + 3).starts_with('<')
}

/// The inline modules of a file, outer ones first.
fn inline_modules(source: &Source) -> Vec<(Range<usize>, String)> {
    let words = source.words().filter(|(_, word)| *word == "mod");
    let modules = words.filter_map(|(start, _)| {
        let rest = source.rest(start + 3);
        let name: String = rest.chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect();
        let is_inline = rest[name.len()..].trim_start().starts_with('{');
        is_inline.then(|| source.brackets(start, '{')).flatten().map(|range| (range, name))
    });
    modules.collect()
}

/// The module at `at`: the file's, and the inline ones around it.
fn base_at(base: &[String], inline: &[(Range<usize>, String)], at: usize) -> Vec<String> {
    let around = inline.iter().filter(|(range, _)| range.contains(&at)).map(|(_, name)| name);
    base.iter().chain(around).cloned().collect()
}

/// Chains `a::b::c` outside the `use` items, from their first word.
fn chains(source: &Source, skipped: &[Range<usize>]) -> Vec<(usize, Vec<String>)> {
    let mut found: Vec<(usize, Vec<String>)> = Vec::new();
    let mut end_of_last = None;
    for (at, word) in source.words() {
        let continues = end_of_last.is_some_and(|end| source.code.get(end..at) == Some("::"));
        if continues {
            if let Some((_, chain)) = found.last_mut() {
                chain.push(word.to_owned());
            }
        } else if source.code[at + word.len()..].starts_with("::") && !source.code[..at].ends_with("::") {
            if skipped.iter().any(|range| range.contains(&at)) {
                continue;
            }
            found.push((at, vec![word.to_owned()]));
        } else {
            end_of_last = None;
            continue;
        }
        end_of_last = Some(at + word.len());
    }
    found
}

/// The leaves of a `use` tree, each with the name that it gets here.
fn expand(tree: &str, prefix: &[String], leaves: &mut Vec<(String, Vec<String>)>) {
    let tree = tree.trim().trim_start_matches("::");
    if let Some((head, group)) = tree.split_once('{') {
        let prefix = [prefix, &parts(head)].concat();
        let group = group.trim_end();
        let group = group.strip_suffix('}').unwrap_or(group);
        let (mut depth, mut start) = (0, 0);
        for (at, char) in group.char_indices().chain([(group.len(), ',')]) {
            match char {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    expand(&group[start..at], &prefix, leaves);
                    start = at + 1;
                }
                _ => {}
            }
        }
        return;
    }
    let (path, alias) = tree.split_once(" as ").map_or((tree, None), |(path, alias)| (path, Some(alias.trim())));
    let mut path = [prefix, &parts(path)].concat();
    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    if !tree.is_empty()
        && let Some(last) = path.last()
    {
        leaves.push((alias.map_or_else(|| last.clone(), str::to_owned), path));
    }
}

fn parts(path: &str) -> Vec<String> {
    path.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

#[test]
fn paths_are_found_whatever_their_form() {
    let tree = Tree::of(&[
        ("src/queue/mod.rs", "pub use pass::Pass;"),
        ("src/queue/pass.rs", ""),
        (
            "src/booking/store.rs",
            "use crate::{queue::{self, Pass as P}, platform::{db::Conn}};\nuse std::fmt;\n\
          fn a() { queue::pass::open(); super::service::run(); std::mem::drop(1); P::new() }\nmod t { use super::super::http::*; }",
        ),
    ]);
    let modules = Modules::of(&tree);
    let source = &tree.sources[2];
    let found: Vec<String> = modules.named_in(source).into_iter().map(|named| named.origin.join("::")).collect();
    let expected = [
        "queue",
        "queue::pass::Pass",
        "platform::db::Conn",
        "booking::http::*",
        "queue::pass::open",
        "booking::service::run",
        "queue::pass::Pass::new",
    ];
    assert_eq!(found, expected);
}
