//! Statements whose values stand in their text: one round trip, and nothing is prepared. For statements whose length changes
//! from one use to the next, of which a server would have to prepare, and keep, one for every length.
//!
//! Values are typed and written as literals that need no escaping: ids, bytes and words in hexadecimal, the others in
//! digits. So no value can be read as anything but a value.

use std::fmt::Write as _;

use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use super::Conn;
use crate::platform::clock::Timestamp;
use crate::platform::error::Problem;
use crate::platform::money::Money;

/// The longest text that [`Text`] is meant for: statements over 16 KiB stall under TLS, where they take two records.
pub const LEN_MAX: usize = 15 * 1024;

/// A value that can stand in a statement.
pub trait Literal {
    /// Appends the value as SQL has it.
    fn write(&self, sql: &mut String);
}

macro_rules! digits {
    ($($number:ty),+) => {$(
        impl Literal for $number {
            fn write(&self, sql: &mut String) {
                // Writing to a String cannot fail.
                let _ = write!(sql, "{self}");
            }
        }
    )+};
}
digits!(u16, u32, u64, i64);

impl Literal for Money {
    fn write(&self, sql: &mut String) {
        self.0.write(sql);
    }
}

impl Literal for [u8] {
    fn write(&self, sql: &mut String) {
        const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
        sql.reserve(2 * self.len() + 3);
        sql.push_str("x'");
        for byte in self {
            sql.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        sql.push('\'');
    }
}

impl Literal for Uuid {
    fn write(&self, sql: &mut String) {
        self.as_bytes()[..].write(sql);
    }
}

impl Literal for str {
    fn write(&self, sql: &mut String) {
        sql.push_str("_utf8mb4 ");
        self.as_bytes().write(sql);
    }
}

impl Literal for Timestamp {
    fn write(&self, sql: &mut String) {
        let _ = write!(sql, "TIMESTAMP'{}'", self.sql());
    }
}

/// A statement that is given its values one after the other, in the order of its `?`.
#[derive(Debug)]
pub struct Text {
    template: String,
    /// How much of the template has been written.
    at: usize,
    sql: String,
    surplus: u32,
}

impl Text {
    /// Over a statement with placeholders.
    #[must_use]
    pub fn new(template: impl Into<String>) -> Self {
        let template = template.into();
        let sql = String::with_capacity(template.len() * 4);
        Self { template, at: 0, sql, surplus: 0 }
    }

    /// The next value.
    #[must_use]
    pub fn bind<L: Literal + ?Sized>(mut self, value: &L) -> Self {
        let rest = &self.template[self.at..];
        match rest.find('?') {
            Some(length) => {
                self.sql.push_str(&rest[..length]);
                value.write(&mut self.sql);
                self.at += length + 1;
            }
            None => self.surplus += 1,
        }
        self
    }

    /// The statement with its values.
    pub(super) fn done(mut self) -> Result<String, Problem> {
        let rest = &self.template[self.at..];
        if self.surplus > 0 || rest.contains('?') {
            let cause = anyhow::anyhow!("{} values too many, or some too few: {}", self.surplus, self.template);
            return Err(Problem::internal(cause));
        }
        self.sql.push_str(rest);
        Ok(self.sql)
    }

    /// Runs it for its rows.
    ///
    /// # Errors
    /// Where the statement fails, or a row is not what it should be.
    pub async fn list<T: for<'r> FromRow<'r, MySqlRow>>(self, conn: &mut Conn) -> Result<Vec<T>, Problem> {
        let rows = sqlx::raw_sql(AssertSqlSafe(self.done()?)).fetch_all(conn.sql()).await?;
        rows.iter().map(|row| T::from_row(row).map_err(Problem::from)).collect()
    }

    /// Runs it for its effect. Returns how many rows it found or made.
    ///
    /// # Errors
    /// Where the statement fails.
    pub async fn execute(self, conn: &mut Conn) -> Result<u64, Problem> {
        Ok(sqlx::raw_sql(AssertSqlSafe(self.done()?)).execute(conn.sql()).await?.rows_affected())
    }
}

/// Cuts `items` into parts that make texts of at most [`LEN_MAX`], where each item makes `len` bytes of it.
pub fn parts<T>(items: &[T], len: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut rest = items;
    std::iter::from_fn(move || {
        let mut total = 0;
        let fits = rest.iter().take_while(|item| {
            total += len(item);
            total <= LEN_MAX
        });
        let (part, later) = rest.split_at_checked(fits.count().max(1))?;
        rest = later;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_literals() {
        let at = Timestamp::from_millis(1_000).unwrap();
        let text =
            Text::new("SELECT ?, ?, ?, ?, ?").bind(&7_u32).bind(&-1_i64).bind("a'?").bind(&Uuid::nil()).bind(&at);
        let sql = text.done().unwrap();
        let nil = "0".repeat(32);
        assert_eq!(sql, format!("SELECT 7, -1, _utf8mb4 x'61273f', x'{nil}', TIMESTAMP'1970-01-01 00:00:01.000000'"));
    }

    #[test]
    fn parts_are_as_long_as_a_text_may_be() {
        let lens = [LEN_MAX - 1, 1, 1, LEN_MAX + 5, 3];
        let cut: Vec<&[usize]> = parts(&lens, |len| *len).collect();
        assert_eq!(cut, [&lens[..2], &lens[2..3], &lens[3..4], &lens[4..]]);
        assert_eq!(parts(&[] as &[usize], |len| *len).count(), 0);
    }

    #[test]
    fn values_and_places_must_be_as_many() {
        assert!(Text::new("SELECT ?").done().is_err());
        assert!(Text::new("SELECT 1").bind(&1_u32).done().is_err());
    }
}
