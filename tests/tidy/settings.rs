//! Settings and metrics: what operators see is explained, named by convention and not made up.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::source::Source;
use crate::tree::{Complaint, Tree, at, complaint, obeys, refuses};

const DEFAULTS: &str = "config/default.toml";

/// A key of the defaults: its section, its name, its line, and whether a comment explains it.
struct Setting<'t> {
    section: &'t str,
    name: &'t str,
    line: usize,
    is_explained: bool,
}

/// A key is explained by the comment above it, or shares that of the key right above.
fn settings_of(text: &str) -> Vec<Setting<'_>> {
    let (mut settings, mut section, mut is_explained) = (Vec::new(), "", false);
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').rsplit('.').next().unwrap_or_default();
            is_explained = false;
        } else if line.starts_with('#') {
            is_explained = true;
        } else if let Some((name, _)) = line.split_once('=') {
            settings.push(Setting { section, name: name.trim(), line: index + 1, is_explained });
        } else {
            is_explained = false;
        }
    }
    settings
}

fn defaults(tree: &Tree) -> Vec<Complaint> {
    let files = tree.texts.iter().filter(|text| text.path == DEFAULTS);
    let settings = files.flat_map(|text| settings_of(&text.text));
    let bare = settings.filter(|setting| !setting.is_explained);
    bare.map(|it| complaint(DEFAULTS, it.line, format!("{}.{} has no comment", it.section, it.name))).collect()
}

/// A struct's field.
struct Field<'t> {
    /// The file that declares the struct.
    path: &'t str,
    owner: &'t str,
    name: &'t str,
    /// The words of its type.
    types: Vec<&'t str>,
}

fn fields_of(source: &Source) -> Vec<Field<'_>> {
    let words: Vec<(usize, &str)> = source.words().collect();
    let mut fields = Vec::new();
    for pair in words.windows(2).filter(|pair| pair[0].1 == "struct") {
        let (offset, owner) = pair[1];
        let ends = source.code[offset..].find([';', '{', '(']).map(|length| offset + length);
        let open = ends.filter(|end| source.code[*end..].starts_with('{'));
        for (name, types) in
            open.and_then(|open| source.brackets(open, '{')).into_iter().flat_map(|body| typed(source, body))
        {
            fields.push(Field { path: &source.path, owner, name, types });
        }
    }
    fields
}

/// The names before a colon, each with the words of the line after it.
fn typed(source: &Source, body: Range<usize>) -> Vec<(&str, Vec<&str>)> {
    let named = source.words_in(body.clone()).filter(|(offset, word)| {
        let rest = source.rest(offset + word.len());
        rest.starts_with(':') && !rest.starts_with("::") && !source.before(*offset).ends_with(':')
    });
    let typed = named.map(|(offset, name)| {
        let line_end = source.code[offset..body.end].find('\n').map_or(body.end, |length| offset + length);
        (name, source.words_in(offset + name.len()..line_end).map(|(_, word)| word).collect())
    });
    typed.collect()
}

impl Field<'_> {
    /// Whether this field of app's is of the struct that `other` belongs to: `queue::Settings` is of `src/queue/`.
    fn is_of(&self, other: &Field) -> bool {
        let is_named = self.types.contains(&other.owner);
        is_named
            && self
                .types
                .first()
                .is_none_or(|first| *first == other.owner || other.path.contains(&format!("/{first}/")))
    }
}

/// A setting is read where the struct of its section, which app names, has it as a field that code asks for.
fn readers(tree: &Tree) -> Vec<Complaint> {
    let fields: Vec<Field> = tree.program().flat_map(fields_of).collect();
    let mut asked: BTreeSet<&str> = BTreeSet::new();
    for source in tree.program() {
        asked.extend(source.words().filter(|(offset, _)| source.code[..*offset].ends_with('.')).map(|(_, word)| word));
    }
    let mut complaints = Vec::new();
    let mut unknown = BTreeSet::new();
    for text in tree.texts.iter().filter(|text| text.path == DEFAULTS) {
        for Setting { section, name, line, .. } in settings_of(&text.text) {
            let is_section = |field: &&Field| field.path.starts_with("src/app/") && field.name == section;
            let settings =
                fields.iter().filter(is_section).find(|field| field.types.iter().any(|it| it.ends_with("Settings")));
            let what = match settings {
                None => unknown.insert(section).then(|| format!("no struct of app has a field `{section}: …Settings`")),
                Some(settings) if fields.iter().any(|field| field.name == name && settings.is_of(field)) => {
                    (!asked.contains(name)).then(|| format!("{section}.{name} is never asked for"))
                }
                Some(settings) => Some(format!("{} has no field {name}", settings.types.join("::"))),
            };
            complaints.extend(what.map(|what| complaint(DEFAULTS, line, what)));
        }
    }
    complaints
}

/// `counter("name", "help", …)` and the like.
fn metrics(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut known = BTreeSet::new();
    for source in tree.program() {
        for kind in ["counter", "gauge", "histogram"] {
            let calls = source.calls(kind).filter(|(_, range)| source.rest(range.start + 1).starts_with('"'));
            for (offset, range) in calls {
                let mut literals = source.literals_in(range.clone());
                let name = literals.next().map_or("", |literal| &literal.text);
                let help =
                    literals.next().filter(|help| follows(source, &range, help.at)).map_or("", |help| &help.text);
                let objection = metric_objection(kind, name, help);
                let twice = (!known.insert(name)).then(|| "is declared twice".to_owned());
                complaints.extend(objection.or(twice).map(|what| at(source, offset, format!("{name} {what}"))));
            }
        }
        let is_home = source.path.starts_with("src/platform/telemetry/");
        for (offset, word) in source.words().filter(|(_, word)| !is_home && matches!(*word, "Opts" | "HistogramOpts")) {
            complaints.push(at(source, offset, format!("{word}: metrics are made by counter, gauge and histogram")));
        }
    }
    complaints
}

/// Whether the literal at `offset` is the second argument.
fn follows(source: &Source, arguments: &Range<usize>, offset: usize) -> bool {
    source.code[arguments.start..offset].matches(',').count() == 1
}

fn metric_objection(kind: &str, name: &str, help: &str) -> Option<String> {
    let is_snake = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let scaled = ["_ms", "_millis", "_micros", "_minutes", "_hours", "_kb", "_mb", "_percent"];
    let reserved = ["_total", "_count", "_sum", "_bucket", "_info"];
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    let what = if !name.starts_with("frontrow_") || !is_snake {
        "is not frontrow_… in snake_case"
    } else if help.trim().is_empty() {
        "has no help"
    } else if ends(&scaled) || (kind == "counter" && scaled.iter().any(|unit| name.ends_with(&format!("{unit}_total"))))
    {
        "is not in base units: seconds, bytes, ratios"
    } else {
        match kind {
            "counter" if !name.ends_with("_total") => "is a counter: its name ends in _total",
            "histogram" if !name.ends_with("_seconds") => "is a histogram of seconds: its name ends in _seconds",
            "gauge" if ends(&reserved) => "is a gauge: its name ends in what is counted, or in its unit",
            _ => return None,
        }
    };
    Some(what.into())
}

#[test]
fn settings_are_explained() {
    obeys(defaults);
}

#[test]
fn an_unexplained_setting_is_refused() {
    let text = "# Of the file.\n\n[a]\n# Shared.\none = 1\ntwo = 2\n\nthree = 3\n[b]\nfour = 4\n";
    let expected = ["config/default.toml:8 a.three", "config/default.toml:10 b.four"];
    refuses(defaults, &[(DEFAULTS, text)], &expected);
}

#[test]
fn settings_are_read() {
    obeys(readers);
}

#[test]
fn a_setting_that_nobody_reads_is_refused() {
    let text = "[a]\none = 1\ntwo = 2\nthree = 3\n[b]\nfour = 4\nfive = 5\n[c]\none = 1\n";
    let root = "struct Settings {\n a: ASettings,\n c: c::Settings,\n}\n";
    let code = "struct ASettings {\n    pub one: u8,\n    pub three: std::time::Duration,\n}\nfn f() { s.a.one }";
    let expected = [
        "config/default.toml:3 ASettings has no field two",
        "config/default.toml:4 a.three is never",
        "config/default.toml:6 no struct of app has a field `b:",
        "config/default.toml:9 c::Settings has no field one",
    ];
    refuses(
        readers,
        &[
            (DEFAULTS, text),
            ("src/a.rs", code),
            ("src/d/a.rs", "struct Settings { one: u8 }"),
            ("src/app/state.rs", root),
        ],
        &expected,
    );
}

#[test]
fn metrics_are_explained_and_named_by_convention() {
    obeys(metrics);
}

#[test]
fn other_metrics_are_refused() {
    let text = "fn counter(name: &str) {}\nfn a() {\n counter(\"frontrow_a_total\", \"A.\", &[\"b\"]);\n counter(\"frontrow_b\", \"B.\", &[]);\n \
                gauge(\"c\", \"C.\", &[]);\n histogram(\"frontrow_d_ms\", \"D.\", &[]);\n gauge(\"frontrow_e\", \"\", &[]);\n \
                gauge(\"frontrow_f\", HELP, &[\"x\"]);\n counter(\"frontrow_a_total\", \"A.\", &[]);\n gauge(\"frontrow_g_total\", \"G.\", &[]);\n Opts::new()\n}";
    refuses(
        metrics,
        &[("src/a.rs", text)],
        &[
            "src/a.rs:4 frontrow_b is a counter",
            "src/a.rs:9 frontrow_a_total is declared twice",
            "src/a.rs:5 c is not frontrow_",
            "src/a.rs:7 frontrow_e has no help",
            "src/a.rs:8 frontrow_f has no help",
            "src/a.rs:10 frontrow_g_total is a gauge",
            "src/a.rs:6 frontrow_d_ms is not in base units",
            "src/a.rs:11 Opts",
        ],
    );
}
