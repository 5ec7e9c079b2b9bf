//! One step on a line in MySQL: its row, locked, and what every step does with it.

use std::time::Duration;

use super::admission::{Bucket, Shows};
use super::domain::{InCharge, Standing};
use super::line::{At, Warm};
use super::store::ranks::{self, Key, RankRow, State};
use super::store::standby::{self as lines, ChargeRow, LineRow};
use crate::platform::clock::Timestamp;
use crate::platform::db::Conn;
use crate::platform::error::Problem;

/// A line, locked until the transaction ends.
pub(super) struct Step {
    pub at: At,
    /// The database's clock, to the millisecond.
    pub now: Timestamp,
    pub line: LineRow,
    before: LineRow,
}

/// Where a rank stands.
#[derive(Debug)]
pub(super) struct Found {
    pub standing: Standing,
    /// When that ends, where something ends it.
    pub by: Option<Timestamp>,
    /// Whether it was called by its turn, and not by an amnesty.
    pub is_by_turn: bool,
    /// Its rows.
    pub known: Vec<(State, Option<Timestamp>)>,
}

impl Found {
    pub fn is_in(&self, state: State) -> bool {
        self.known.iter().any(|(known, _)| *known == state)
    }
}

impl ChargeRow {
    pub(super) fn in_charge(&self) -> InCharge {
        if self.in_charge == 0 { InCharge::Redis } else { InCharge::MySql }
    }
}

impl Step {
    /// Locks the line. Nothing where MySQL does not keep it at this epoch.
    pub async fn begin(conn: &mut Conn, at: At) -> Result<Option<Self>, Problem> {
        let line = lines::find_line_for_update(conn, at.concert).await?;
        let Some(line) = line.filter(|line| line.epoch == at.epoch) else { return Ok(None) };
        let charge = lines::lock_charge(conn, at.concert).await?;
        let is_here = |charge: &ChargeRow| charge.epoch == at.epoch && charge.in_charge() == InCharge::MySql;
        Ok(charge.filter(is_here).map(|charge| Self::over(at, Self::now(&charge), line)))
    }

    pub fn over(at: At, now: Timestamp, line: LineRow) -> Self {
        Self { at, now, before: line.clone(), line }
    }

    pub fn now(charge: &ChargeRow) -> Timestamp {
        Timestamp::from_millis(charge.now_at.millis()).unwrap_or(charge.now_at)
    }

    /// Writes down what changed.
    pub async fn end<T>(self, conn: &mut Conn, answer: T) -> Result<Warm<T>, Problem> {
        if self.line != self.before {
            lines::update_line(conn, self.at.concert, &self.line).await?;
        }
        Ok(Warm::Answer(answer))
    }

    pub fn key(&self) -> Key {
        Key { concert: self.at.concert, epoch: self.at.epoch }
    }

    /// Closes the lobby of a draw, once: whoever comes later ranks behind it.
    pub fn close_lobby(&mut self, opens_at: Timestamp) {
        if self.now >= opens_at && self.line.lobby_size.is_none() {
            self.line.lobby_size = Some(self.line.issued);
        }
    }

    /// Where a rank stands.
    pub async fn find(&self, conn: &mut Conn, rank: u64) -> Result<Found, Problem> {
        let known = ranks::list_at(conn, self.key(), rank).await?;
        Ok(self.standing(rank, known))
    }

    /// After a rebuild nobody knows who was called: until the amnesty ends every rank that was passed and left no record counts
    /// as called, so nobody lapses by the loss.
    fn standing(&self, rank: u64, known: Vec<(State, Option<Timestamp>)>) -> Found {
        let row = |state| known.iter().find(|(known, _)| *known == state);
        let end = |state| row(state).and_then(|(_, ends_at)| *ends_at);
        let (standing, by, is_by_turn) = if let Some(until) = end(State::Admitted) {
            if until > self.now { (Standing::Admitted, Some(until), false) } else { (Standing::Finished, None, false) }
        } else if row(State::Finished).is_some() {
            (Standing::Finished, None, false)
        } else if row(State::Left).is_some() || row(State::Gone).is_some() {
            (Standing::Left, None, false)
        } else if rank >= self.line.serving {
            (Standing::Waiting, None, false)
        } else if let Some(by) = end(State::Called).max(end(State::Present)).filter(|by| *by > self.now) {
            (Standing::Called, Some(by), true)
        } else {
            match end(State::Ghost).max(Some(self.line.amnesty_by)).filter(|by| *by > self.now) {
                Some(by) => (Standing::Called, Some(by), false),
                None => (Standing::Lapsed, None, false),
            }
        };
        Found { standing, by, is_by_turn, known }
    }

    /// Notes places given up, each with the next sequence number; one that is noted already keeps its own.
    pub async fn note_gone(&mut self, conn: &mut Conn, places: &[(u64, State)]) -> Result<(), Problem> {
        let among: Vec<u64> = places.iter().map(|(place, _)| *place).collect();
        let known = ranks::list_among(conn, self.key(), &among).await?;
        let mut rows = Vec::with_capacity(places.len());
        for (place, state) in places {
            if !known.iter().any(|row| row.place == *place && row.state == *state) {
                self.line.gone_seq += 1;
                rows.push(RankRow { place: *place, state: *state, ends_at: None, seq: Some(self.line.gone_seq) });
            }
        }
        ranks::insert_all(conn, self.key(), &rows).await
    }

    /// Adds ghosts that are not known yet.
    pub async fn add_ghosts(&mut self, conn: &mut Conn, places: &[u64]) -> Result<(), Problem> {
        let mut known: std::collections::HashSet<u64> =
            ranks::list_in_state(conn, self.key(), State::Ghost, u64::from(u32::MAX)).await?.into_iter().collect();
        let new = places.iter().filter(|place| known.insert(**place));
        let row = |place: &u64| RankRow { place: *place, state: State::Ghost, ends_at: None, seq: None };
        let rows: Vec<RankRow> = new.map(row).collect();
        ranks::insert_all(conn, self.key(), &rows).await
    }

    /// Somebody came by turn.
    pub fn note_came(&mut self, by: Timestamp, window: Duration) {
        let mut shows = self.shows();
        shows.note_came(self.now.millis(), by.millis(), millis(window));
        self.keep_shows(&shows);
    }

    pub fn shows(&self) -> Shows {
        Shows::parse(&self.line.came, self.line.faded_at.map_or(0, Timestamp::millis))
    }

    pub fn keep_shows(&mut self, shows: &Shows) {
        self.line.came = shows.text();
        self.line.faded_at = Timestamp::from_millis(shows.faded_at);
    }

    pub fn bucket(&self) -> Bucket {
        Bucket {
            tokens: self.line.tokens,
            at: self.line.ticked_at.map_or(0, Timestamp::millis),
            pace: self.line.pace,
            cut_at: self.line.cut_at.map_or(0, Timestamp::millis),
        }
    }

    pub fn keep_bucket(&mut self, bucket: &Bucket) {
        self.line.tokens = bucket.tokens;
        self.line.ticked_at = Timestamp::from_millis(bucket.at);
        self.line.pace = bucket.pace;
        self.line.cut_at = Timestamp::from_millis(bucket.cut_at);
    }
}

/// As arithmetic wants it.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
