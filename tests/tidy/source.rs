//! One Rust file, read well enough to judge it: strings and comments told from code, functions, braces.
//!
//! `code` has the file's length and lines, so offsets and line numbers mean the same in both. Comments
//! are spaces there and the insides of strings are `~`, so that searching it finds code and nothing else.

use std::ops::Range;

/// A string literal: where its opening quote stands, and what it says.
#[derive(Debug)]
pub struct Literal {
    pub at: usize,
    pub text: String,
}

/// A function with a body.
#[derive(Debug)]
pub struct Function<'s> {
    pub name: &'s str,
    pub is_async: bool,
    /// From `fn` to the closing brace.
    pub whole: Range<usize>,
    /// From `fn` to the opening brace.
    pub signature: Range<usize>,
}

/// A Rust file. Its path is relative to the package and has `/` between its parts.
#[derive(Debug)]
pub struct Source {
    pub path: String,
    pub text: String,
    pub code: String,
    pub literals: Vec<Literal>,
    /// Identifiers and numbers, as ranges of `code`.
    words: Vec<Range<usize>>,
    /// Items under `#[cfg(test)]`.
    tests: Vec<Range<usize>>,
    line_starts: Vec<usize>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let (code, literals) = mask(text);
        let words = words_of(&code);
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut source =
            Self { path: path.into(), text: text.into(), code, literals, words, tests: Vec::new(), line_starts };
        source.tests = source.find_tests();
        source
    }

    /// Whether the file, or a folder that it lies in, has one of these names: `store.rs`, `store/seats.rs`.
    pub fn is_named(&self, names: &[&str]) -> bool {
        self.path.trim_end_matches(".rs").split('/').any(|part| names.contains(&part))
    }

    pub fn line(&self, at: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= at)
    }

    /// Every word of the code with its offset.
    pub fn words(&self) -> impl Iterator<Item = (usize, &str)> {
        self.words.iter().map(|range| (range.start, &self.code[range.clone()]))
    }

    /// The words within `range`.
    pub fn words_in(&self, range: Range<usize>) -> impl Iterator<Item = (usize, &str)> {
        let first = self.words.partition_point(|word| word.start < range.start);
        let inside = self.words[first..].iter().take_while(move |word| word.start < range.end);
        inside.map(|word| (word.start, &self.code[word.clone()]))
    }

    /// The literals within `range`.
    pub fn literals_in(&self, range: Range<usize>) -> impl Iterator<Item = &Literal> {
        self.literals.iter().filter(move |literal| range.contains(&literal.at))
    }

    /// What follows `at` after blanks.
    pub fn rest(&self, at: usize) -> &str {
        self.code[at..].trim_start()
    }

    /// What precedes `at`, blanks at its end cut off.
    pub fn before(&self, at: usize) -> &str {
        self.code[..at].trim_end()
    }

    /// The range of the brackets that open at the first of `brackets` at or after `at`, both included.
    pub fn brackets(&self, at: usize, bracket: char) -> Option<Range<usize>> {
        let open = at + self.code[at..].find(bracket)?;
        Some(open..close_of(&self.code, open)?)
    }

    /// Calls of `name`: its offset and the range of its parentheses. Its declaration is not one.
    pub fn calls<'s>(&'s self, name: &'s str) -> impl Iterator<Item = (usize, Range<usize>)> + 's {
        let called = self.words().filter(move |(at, word)| {
            *word == name && self.rest(at + name.len()).starts_with('(') && !self.before(*at).ends_with("fn")
        });
        called.filter_map(|(at, _)| Some((at, self.brackets(at, '(')?)))
    }

    pub fn functions(&self) -> Vec<Function<'_>> {
        let mut functions = Vec::new();
        for (index, word) in self.words.iter().enumerate().filter(|(_, word)| &self.code[(*word).clone()] == "fn") {
            let Some(name) = self.words.get(index + 1) else { continue };
            // `fn(` is a type, and `fn $name` belongs to a macro.
            if !self.code[word.end..name.start].bytes().all(|byte| byte.is_ascii_whitespace()) {
                continue;
            }
            let Some(open) = body_of(&self.code, name.end) else { continue };
            let Some(end) = close_of(&self.code, open) else { continue };
            functions.push(Function {
                name: &self.code[name.clone()],
                is_async: self.before(word.start).ends_with("async"),
                whole: word.start..end,
                signature: word.start..open,
            });
        }
        functions
    }

    /// Lines within `range` that hold code.
    pub fn code_lines(&self, range: Range<usize>) -> usize {
        self.code[range].lines().filter(|line| !line.trim().is_empty()).count()
    }

    /// Lines of the file that hold code, its tests not counted.
    pub fn code_lines_without_tests(&self) -> usize {
        let all = self.code_lines(0..self.code.len());
        let tests: usize = self.tests.iter().map(|range| self.code_lines(range.clone())).sum();
        all.saturating_sub(tests)
    }

    fn find_tests(&self) -> Vec<Range<usize>> {
        let mut found: Vec<Range<usize>> = Vec::new();
        if self.path.ends_with("/tests.rs") {
            found.push(0..self.code.len());
        }
        for (at, mark) in self.code.match_indices("#[cfg(test)]") {
            let is_nested = found.last().is_some_and(|range| range.contains(&at));
            let after = at + mark.len();
            if !is_nested && let Some(length) = self.code[after..].find(['{', ';']) {
                let end = close_of(&self.code, after + length).unwrap_or(after + length + 1);
                found.push(at..end);
            }
        }
        found
    }
}

/// The end of the brackets that open at `open`, the closing one included.
pub fn close_of(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, byte) in code.as_bytes().iter().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return (index > open).then_some(index + 1);
        }
    }
    None
}

/// The brace that opens a function's body; none where only a signature is declared.
fn body_of(code: &str, from: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (index, byte) in code.as_bytes().iter().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b';' if depth == 0 => return None,
            b'{' if depth == 0 => return Some(index),
            _ => {}
        }
    }
    None
}

pub const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn words_of(code: &str) -> Vec<Range<usize>> {
    let bytes = code.as_bytes();
    let mut words = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let length = bytes[at..].iter().take_while(|byte| is_word(**byte)).count();
        if length > 0 {
            words.push(at..at + length);
        }
        at += length.max(1);
    }
    words
}

fn mask(text: &str) -> (String, Vec<Literal>) {
    let bytes = text.as_bytes();
    let mut code = String::with_capacity(bytes.len());
    let mut literals = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let (end, filler) = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => (at + line_length(&bytes[at..]), b' '),
            b'/' if bytes[at..].starts_with(b"/*") => (at + comment_length(&bytes[at..]), b' '),
            b'"' => {
                let hashes = hashes_before(bytes, at);
                let end = at + string_length(&bytes[at..], hashes);
                let inside = &text[at + 1..end.saturating_sub(1 + hashes.unwrap_or(0)).max(at + 1)];
                let said = if hashes.is_some() { inside.to_owned() } else { unescape(inside) };
                literals.push(Literal { at, text: said });
                code.push('"');
                at += 1;
                (end, b'~')
            }
            b'\'' => (at + quoted_length(&text[at..]), b'~'),
            other => {
                code.push(if other.is_ascii() { other as char } else { '~' });
                at += 1;
                continue;
            }
        };
        code.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { '\n' } else { filler as char }));
        at = end;
    }
    (code, literals)
}

fn line_length(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len())
}

fn comment_length(bytes: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
        } else {
            at += 1;
        }
        if depth == 0 {
            break;
        }
    }
    at.min(bytes.len())
}

/// How many `#` stand before the quote of a raw string; `None` where the string is not raw.
fn hashes_before(bytes: &[u8], quote: usize) -> Option<usize> {
    let hashes = bytes[..quote].iter().rev().take_while(|byte| **byte == b'#').count();
    let before = &bytes[..quote - hashes];
    let prefix = before.iter().rev().take_while(|byte| is_word(**byte)).count();
    matches!(&before[before.len() - prefix..], b"r" | b"br" | b"cr").then_some(hashes)
}

fn string_length(bytes: &[u8], hashes: Option<usize>) -> usize {
    let mut at = 1;
    while at < bytes.len() {
        match (bytes[at], hashes) {
            (b'\\', None) => at += 1,
            (b'"', None) => return at + 1,
            (b'"', Some(hashes)) if bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count() >= hashes => {
                return at + 1 + hashes;
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// A character literal's length, or 1 where the quote begins a lifetime.
fn quoted_length(text: &str) -> usize {
    let mut rest = text.char_indices().skip(1);
    match rest.next() {
        Some((_, '\\')) => text[2..].char_indices().skip(1).find(|(_, it)| *it == '\'').map_or(1, |(at, _)| at + 3),
        Some(_) => rest.next().filter(|(_, it)| *it == '\'').map_or(1, |(at, _)| at + 1),
        None => 1,
    }
}

fn unescape(text: &str) -> String {
    let mut said = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(char) = rest.next() {
        match (char, if char == '\\' { rest.next() } else { None }) {
            ('\\', Some('\n')) => while rest.next_if(|next| next.is_whitespace()).is_some() {},
            ('\\', Some('n')) => said.push('\n'),
            ('\\', Some(other)) => said.push(other),
            _ => said.push(char),
        }
    }
    said
}

#[test]
fn code_is_told_from_strings_and_comments() {
    let text = "fn a<'x>() { // fn b() {\n let c = ('\"', '\\'', \"}\\\"\", r#\"fn \"d\"#); /* { /* } */ */ }\n";
    let source = Source::new("src/a.rs", text);
    assert_eq!(source.code.len(), text.len());
    let said: Vec<&str> = source.literals.iter().map(|literal| literal.text.as_str()).collect();
    assert_eq!(said, ["}\"", "fn \"d"]);
    let functions = source.functions();
    assert_eq!(functions.len(), 1);
    assert_eq!((functions[0].name, source.code_lines(functions[0].whole.clone())), ("a", 2));
}

#[test]
fn tests_are_not_counted() {
    let source = Source::new("src/a.rs", "fn a() {}\n\n// Why.\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n");
    assert_eq!(source.code_lines_without_tests(), 1);
}
