//! Sizes that keep the house readable, counted in lines that hold code: comments and blanks are free.

use crate::tree::{Complaint, Tree, at, obeys, refuses};

const FILE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 70;
const HANDLER_LINES_MAX: usize = 30;

fn files(tree: &Tree) -> Vec<Complaint> {
    let sized = tree.program().chain(tree.benches()).map(|source| (source, source.code_lines_without_tests()));
    let large = sized.filter(|(_, lines)| *lines > FILE_LINES_MAX);
    large.map(|(source, lines)| at(source, 0, format!("{lines} lines of code: at most {FILE_LINES_MAX}"))).collect()
}

/// From `fn` to the closing brace. A handler is an asynchronous function of http.rs or admin.rs.
fn functions(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for source in &tree.sources {
        let has_handlers = !source.path.starts_with("src/platform/") && source.is_named(&["http", "admin"]);
        for function in source.functions() {
            let lines = source.code_lines(function.whole.clone());
            let is_handler = has_handlers && function.is_async;
            let (what, max) =
                if is_handler { ("the handler", HANDLER_LINES_MAX) } else { ("the function", FUNCTION_LINES_MAX) };
            if lines > max {
                let what = format!("{what} {} has {lines} lines of code: at most {max}", function.name);
                complaints.push(at(source, function.whole.start, what));
            }
        }
    }
    complaints
}

#[test]
fn files_are_small() {
    obeys(files);
}

#[test]
fn a_large_file_is_refused() {
    let (least, most) = ("a();\n\n// Why.\n".repeat(FILE_LINES_MAX), "a();\n".repeat(FILE_LINES_MAX + 1));
    let tested = format!("{least}#[cfg(test)]\nmod tests {{\n{least}}}\n");
    let expected = ["src/b.rs:1 401 lines of code", "benches/c.rs:1 401 lines of code"];
    refuses(files, &[("src/a.rs", &tested), ("src/b.rs", &most), ("benches/c.rs", &most)], &expected);
}

#[test]
fn functions_are_small() {
    obeys(functions);
}

#[test]
fn a_large_function_is_refused() {
    let function = |lines: usize| format!("async fn a() {{\n{}}}\n", "    // Why.\n    b();\n".repeat(lines - 2));
    refuses(
        functions,
        &[
            ("src/a/service.rs", &function(FUNCTION_LINES_MAX)),
            ("src/b/service.rs", &function(FUNCTION_LINES_MAX + 1)),
            ("src/b/http.rs", &function(HANDLER_LINES_MAX)),
            ("src/b/admin.rs", &function(HANDLER_LINES_MAX + 1)),
        ],
        &["src/b/service.rs:1 the function a has 71", "src/b/admin.rs:1 the handler a has 31"],
    );
}
