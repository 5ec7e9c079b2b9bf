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

/// Widens the one derived table `(SELECT ? AS a, ? AS b)` of `statement` to `count` rows.
#[must_use]
pub fn derived(statement: &'static str, count: usize) -> String {
    let Some((head, rest)) = statement.split_once("(SELECT ?") else {
        debug_assert!(false, "no derived table in {statement}");
        return statement.to_owned();
    };
    let Some((row, tail)) = rest.split_once(')') else { return statement.to_owned() };
    let places = vec!["?"; row.matches('?').count() + 1].join(", ");
    let more = format!(" UNION ALL SELECT {places}").repeat(count.saturating_sub(1));
    format!("{head}(SELECT ?{row}{more}){tail}")
}

/// The SELECT `count` times over, as one statement.
#[must_use]
pub fn union_all(statement: &'static str, count: usize) -> String {
    vec![format!("({statement})"); count].join(" UNION ALL ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_rows_grow_to_what_is_needed() {
        assert_eq!(in_list("a = ? AND b IN (?)", 3), "a = ? AND b IN (?, ?, ?)");
        assert_eq!(rows("INSERT INTO t (a, b) VALUES (?, ?)", 2), "INSERT INTO t (a, b) VALUES (?, ?), (?, ?)");
        let join = "UPDATE t JOIN (SELECT ? AS a, ? AS b) AS u ON t.a = u.a";
        assert_eq!(derived(join, 1), join);
        assert_eq!(derived(join, 2), "UPDATE t JOIN (SELECT ? AS a, ? AS b UNION ALL SELECT ?, ?) AS u ON t.a = u.a");
        assert_eq!(union_all("SELECT ?", 2), "(SELECT ?) UNION ALL (SELECT ?)");
    }
}
