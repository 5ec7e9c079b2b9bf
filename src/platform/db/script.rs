//! Several statements in one round trip. A server answers them in order, and stops at the first that fails: whoever locks
//! first and reads afterwards may send both together, as each statement sees what was committed before it began.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use futures::TryStreamExt as _;
use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, Either, FromRow};

use super::Conn;
use super::text::{LEN_MAX, Text};
use crate::platform::error::Problem;

/// Statements to be sent together, in as few parcels as their length allows.
#[derive(Debug, Default)]
pub struct Script(Vec<Text>);

/// Where the answer to some of a script's statements is, as rows of `T`.
#[derive(Debug)]
pub struct Slot<T>(Range<usize>, PhantomData<fn() -> T>);

/// What one statement gave.
#[derive(Default)]
struct Outcome {
    rows: Vec<MySqlRow>,
    affected: u64,
}

/// What a script's statements gave.
pub struct Outcomes(Vec<Outcome>);

impl fmt::Debug for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outcomes").field(&self.0.len()).finish()
    }
}

impl Script {
    /// A statement to be run after those before it.
    pub fn add<T>(&mut self, text: Text) -> Slot<T> {
        self.add_all([text])
    }

    /// Statements whose answers belong together.
    pub fn add_all<T>(&mut self, texts: impl IntoIterator<Item = Text>) -> Slot<T> {
        let from = self.0.len();
        self.0.extend(texts);
        Slot(from..self.0.len(), PhantomData)
    }

    /// Runs them in order.
    ///
    /// # Errors
    /// Where one of them fails: those behind it were not run.
    pub async fn run(self, conn: &mut Conn) -> Result<Outcomes, Problem> {
        let mut outcomes = Vec::with_capacity(self.0.len());
        let mut parcel = String::new();
        let mut count = 0;
        for text in self.0 {
            let sql = text.done()?;
            if count > 0 && parcel.len() + sql.len() > LEN_MAX {
                send(conn, std::mem::take(&mut parcel), count, &mut outcomes).await?;
                count = 0;
            }
            if count > 0 {
                parcel.push_str("; ");
            }
            parcel.push_str(&sql);
            count += 1;
        }
        if count > 0 {
            send(conn, parcel, count, &mut outcomes).await?;
        }
        Ok(Outcomes(outcomes))
    }
}

async fn send(conn: &mut Conn, sql: String, count: usize, outcomes: &mut Vec<Outcome>) -> Result<(), Problem> {
    let before = outcomes.len();
    let mut outcome = Outcome::default();
    let mut answers = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_many(conn.sql());
    while let Some(answer) = answers.try_next().await? {
        match answer {
            Either::Right(row) => outcome.rows.push(row),
            Either::Left(done) => {
                outcome.affected = done.rows_affected();
                outcomes.push(std::mem::take(&mut outcome));
            }
        }
    }
    if outcomes.len() != before + count {
        let cause = anyhow::anyhow!("{} answers to {count} statements", outcomes.len() - before);
        return Err(Problem::internal(cause));
    }
    Ok(())
}

impl Outcomes {
    /// The rows of these statements.
    ///
    /// # Errors
    /// Where a row is not what it should be.
    pub fn list<T: for<'r> FromRow<'r, MySqlRow>>(&self, slot: &Slot<T>) -> Result<Vec<T>, Problem> {
        let rows = self.0.get(slot.0.clone()).unwrap_or_default().iter().flat_map(|outcome| &outcome.rows);
        rows.map(|row| T::from_row(row).map_err(Problem::from)).collect()
    }

    /// How many rows these statements found or made.
    #[must_use]
    pub fn affected<T>(&self, slot: &Slot<T>) -> u64 {
        self.0.get(slot.0.clone()).unwrap_or_default().iter().map(|outcome| outcome.affected).sum()
    }
}
