//! The line in MySQL.

use futures::future::BoxFuture;

use super::domain::{Rules, Standing};
use super::line::{Answer, At, Claimed, Drawing, End, Join, Joined, Left, Line, Remembered, Spot, Tick, Ticked};
use crate::platform::clock::Timestamp;
use crate::platform::db::Db;
use crate::platform::error::{Problem, codes};

/// Lines kept in MySQL.
#[derive(Clone, Debug)]
pub(super) struct Standby {
    db: Db,
}

impl Standby {
    pub fn new(db: Db) -> Self {
        Self { db }
    }
}

fn no<T>() -> Result<T, Problem> {
    Err(Problem::new(&codes::UNAVAILABLE))
}

impl Line for Standby {
    fn join<'a>(&'a self, _at: At, _join: &'a Join) -> Answer<'a, Joined> {
        Box::pin(async { no() })
    }
    fn look<'a>(&'a self, _at: At, _rank: u64, _rules: &'a Rules) -> Answer<'a, (Standing, Option<Timestamp>)> {
        Box::pin(async { no() })
    }
    fn claim<'a>(&'a self, _at: At, _rank: u64, _rules: &'a Rules) -> Answer<'a, Claimed> {
        Box::pin(async { no() })
    }
    fn leave(&self, _at: At, _spot: Spot, _end: End) -> Answer<'_, Left> {
        Box::pin(async { no() })
    }
    fn tick<'a>(&'a self, _at: At, _tick: &'a Tick) -> Answer<'a, Ticked> {
        Box::pin(async { no() })
    }
    fn draw<'a>(&'a self, _at: At, _draw: &'a Drawing) -> Answer<'a, Vec<u64>> {
        Box::pin(async { no() })
    }
    fn rebuild<'a>(&'a self, _at: At, _line: &'a Remembered) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(async { no() })
    }
    fn restore<'a>(&'a self, _at: At, _left: &'a [Spot]) -> Answer<'a, bool> {
        Box::pin(async { no() })
    }
}
