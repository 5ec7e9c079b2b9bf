//! Statements with a variable number of values, kept as constants that a server can prepare as they are.

/// Widens the one `(?)` of `statement` to `count` placeholders: `IN (?)` becomes `IN (?, ?, ?)`.
///
/// The statement itself stays a constant, so tests can prepare it on every server.
#[must_use]
pub fn in_list(statement: &'static str, count: usize) -> String {
    debug_assert_eq!(statement.matches("(?)").count(), 1, "exactly one list in {statement}");
    let mut list = String::with_capacity(3 * count + 2);
    list.push('(');
    for index in 0..count {
        list.push_str(if index == 0 { "?" } else { ", ?" });
    }
    list.push(')');
    statement.replacen("(?)", &list, 1)
}

/// Repeats the row after `VALUES` of an INSERT `count` times.
#[must_use]
pub fn rows(statement: &'static str, count: usize) -> String {
    let Some((head, row)) = statement.split_once("VALUES ") else {
        debug_assert!(false, "no VALUES in {statement}");
        return statement.to_owned();
    };
    let mut text = String::with_capacity(head.len() + 7 + count * (row.len() + 2));
    text.push_str(head);
    text.push_str("VALUES ");
    for index in 0..count {
        if index > 0 {
            text.push_str(", ");
        }
        text.push_str(row);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_rows_grow_to_what_is_needed() {
        assert_eq!(in_list("a = ? AND b IN (?)", 3), "a = ? AND b IN (?, ?, ?)");
        assert_eq!(rows("INSERT INTO t (a, b) VALUES (?, ?)", 2), "INSERT INTO t (a, b) VALUES (?, ?), (?, ?)");
    }
}
