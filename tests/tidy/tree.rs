//! The package as text, and how a rule complains about it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::source::Source;

/// Past this size a file is data, whatever it holds.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// A text file that is part of the project.
#[derive(Debug)]
pub struct Text {
    pub path: String,
    pub text: String,
}

/// The files of the project; of Rust, those below `src/`, `tests/` and `benches/` are read as code too.
#[derive(Debug, Default)]
pub struct Tree {
    /// Every file, whether it holds text or not.
    pub paths: BTreeSet<String>,
    pub texts: Vec<Text>,
    pub sources: Vec<Source>,
}

/// What breaks a rule, and where.
#[derive(Debug)]
pub struct Complaint(String);

/// A rule: everything in the tree that breaks it.
pub type Rule = fn(&Tree) -> Vec<Complaint>;

/// A complaint about a line, counted from 1.
pub fn complaint(path: &str, line: usize, what: impl AsRef<str>) -> Complaint {
    Complaint(format!("{path}:{line} {}", what.as_ref()))
}

/// A complaint about a place in a source.
pub fn at(source: &Source, offset: usize, what: impl AsRef<str>) -> Complaint {
    complaint(&source.path, source.line(offset), what)
}

impl Tree {
    /// A tree made up for showing that a rule complains.
    pub fn of(files: &[(&str, &str)]) -> Self {
        let mut tree = Self::default();
        for (path, text) in files {
            tree.paths.insert((*path).to_owned());
            tree.add(path, (*text).to_owned());
        }
        tree
    }

    fn add(&mut self, path: &str, text: String) {
        if has_extension(path, "rs") && ["src/", "tests/", "benches/"].iter().any(|root| path.starts_with(root)) {
            self.sources.push(Source::new(path, &text));
        }
        self.texts.push(Text { path: path.to_owned(), text });
    }

    /// The sources of the program itself.
    pub fn program(&self) -> impl Iterator<Item = &Source> {
        self.sources.iter().filter(|source| source.path.starts_with("src/"))
    }

    /// The sources of what measures the program.
    pub fn benches(&self) -> impl Iterator<Item = &Source> {
        self.sources.iter().filter(|source| source.path.starts_with("benches/"))
    }

    pub fn with_extension<'t>(&'t self, extension: &'t str) -> impl Iterator<Item = &'t Text> {
        self.texts.iter().filter(move |text| has_extension(&text.path, extension))
    }

    /// Whether `path` is a file, or a folder that holds one.
    pub fn has_below(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        path.is_empty() || self.paths.iter().any(|known| known == path || known.starts_with(&folder))
    }

    fn read(root: &Path) -> Self {
        let ignored = fs::read_to_string(root.join(".gitignore")).unwrap_or_default();
        let mut tree = Self::default();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(root.join(&folder)) else { continue };
            for entry in entries.flatten() {
                let relative = folder.join(entry.file_name());
                let path = relative.to_string_lossy().replace('\\', "/");
                let Ok(kind) = entry.file_type() else { continue };
                if is_ignored(&ignored, &path) {
                    continue;
                }
                if kind.is_dir() {
                    folders.push(relative);
                    continue;
                }
                tree.paths.insert(path.clone());
                if entry.metadata().is_ok_and(|it| it.len() <= TEXT_BYTES_MAX)
                    && let Ok(text) = fs::read_to_string(entry.path())
                {
                    tree.add(&path, text);
                }
            }
        }
        tree.texts.sort_by(|one, other| one.path.cmp(&other.path));
        tree.sources.sort_by(|one, other| one.path.cmp(&other.path));
        tree
    }
}

pub fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

/// A relative path, as seen from a folder.
pub fn joined(folder: &str, relative: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in relative.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Whether `.gitignore` names `path`: names with or without a leading slash, and `*` at either end, are understood.
fn is_ignored(patterns: &str, path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let lines = patterns.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    path == ".git"
        || lines.map(|line| line.trim_end_matches('/')).any(|pattern| match pattern.strip_prefix('/') {
            Some(anchored) => path == anchored,
            None if pattern.contains('/') => path == pattern,
            None => match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
                (Some(end), _) => name.ends_with(end),
                (None, Some(start)) => name.starts_with(start),
                (None, None) => name == pattern,
            },
        })
}

static TREE: LazyLock<Tree> = LazyLock::new(|| Tree::read(Path::new(env!("CARGO_MANIFEST_DIR"))));

/// Fails where the project breaks the rule, and says every place.
pub fn obeys(rule: Rule) {
    assert!(!TREE.sources.is_empty(), "the tree was not found");
    let found = rule(&TREE);
    let lines: Vec<&str> = found.iter().map(|Complaint(text)| text.as_str()).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

/// Fails unless the rule's complaints about these files are exactly those that begin as `expected`.
pub fn refuses(rule: Rule, files: &[(&str, &str)], expected: &[&str]) {
    let found = rule(&Tree::of(files));
    let texts: Vec<&str> = found.iter().map(|Complaint(text)| text.as_str()).collect();
    let fits = texts.len() == expected.len() && texts.iter().zip(expected).all(|(text, start)| text.starts_with(start));
    assert!(fits, "\nfound    {texts:#?}\nexpected {expected:#?}");
}

#[test]
fn ignored_files_are_no_part_of_the_project() {
    let patterns = "/target\n*.log\n__pycache__\n/k6/out/\n";
    for path in [".git", "target", "a/b.log", "k6/__pycache__", "k6/out"] {
        assert!(is_ignored(patterns, path), "{path}");
    }
    for path in [".gitignore", "src/target", "log", "out"] {
        assert!(!is_ignored(patterns, path), "{path}");
    }
}
