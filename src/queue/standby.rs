//! The line in MySQL: one transaction per call, all on the lock of the line's row. It does what the scripts in `lua/` do.
//!
//! Lock order: the line, then the sale's row in share mode, then ranks and places. Nobody locks the line while holding the sale,
//! so moving the line to another store waits for steps under way, and steps that come later find another epoch and change
//! nothing. Times are those of the database, to the millisecond like those of Redis.

use std::time::Duration;

use futures::future::BoxFuture;

use super::domain::{InCharge, Rules, Standing};
use super::line::{
    ASKED_MAX, Answer, At, Claimed, Drawing, End, Join, Joined, Left, Line, Ranking, Remembered, Spot, Tick, Ticked,
    Warm,
};
use super::standby_step::Step;
use super::standby_tick;
use super::store::places::{self, PlaceRow};
use super::store::ranks::{self, Key, RankRow, State};
use super::store::standby::{self as lines, LineRow};
use crate::accounts::UserId;
use crate::platform::clock::Timestamp;
use crate::platform::db::{Conn, Db};
use crate::platform::error::Problem;

/// Making a line anew writes a row for everybody inside and for every ghost.
const REBUILD_MAX: Duration = Duration::from_secs(30);
/// Lines that one run of the background job tidies.
const STALE_LINES_MAX: u32 = 200;

/// Lines kept in MySQL.
#[derive(Clone, Debug)]
pub(super) struct Standby {
    db: Db,
}

impl Standby {
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    /// Deletes up to `limit` ranks of earlier epochs, and says how many.
    pub async fn tidy(&self, limit: u32) -> Result<u64, Problem> {
        let run = self.db.in_tx("standby.tidy", limit, |conn, limit| {
            Box::pin(async move {
                let mut left = u64::from(*limit);
                for (concert, epoch) in lines::list_stale(conn, STALE_LINES_MAX).await? {
                    let deleted = ranks::delete_stale(conn, Key { concert, epoch }, left).await?;
                    left = left.saturating_sub(deleted);
                    if left == 0 {
                        break;
                    }
                    lines::update_tidied(conn, concert, epoch).await?;
                }
                Ok(u64::from(*limit) - left)
            })
        });
        run.await
    }
}

impl Line for Standby {
    fn join<'a>(&'a self, at: At, join: &'a Join) -> Answer<'a, Joined> {
        Box::pin(self.db.in_tx("standby.join", (at, *join), |conn, (at, join)| {
            Box::pin(async move {
                let Some(mut step) = Step::begin(conn, *at).await? else { return Ok(Warm::Cold) };
                let joined = join_line(conn, &mut step, join).await?;
                step.end(conn, joined).await
            })
        }))
    }

    fn look<'a>(&'a self, at: At, rank: u64, rules: &'a Rules) -> Answer<'a, (Standing, Option<Timestamp>)> {
        Box::pin(self.db.in_tx("standby.look", (at, rank, *rules), |conn, (at, rank, rules)| {
            Box::pin(async move {
                let Some(step) = Step::begin(conn, *at).await? else { return Ok(Warm::Cold) };
                let found = step.find(conn, *rank).await?;
                if found.standing == Standing::Called && found.is_in(State::Present) {
                    // Whoever is present and asks keeps the place.
                    let by = found.by.max(Some(step.now.plus(window(rules)))).unwrap_or(step.now);
                    ranks::update_end(conn, step.key(), *rank, State::Present, by).await?;
                    return step.end(conn, (found.standing, Some(by))).await;
                }
                step.end(conn, (found.standing, found.by)).await
            })
        }))
    }

    fn claim<'a>(&'a self, at: At, rank: u64, rules: &'a Rules) -> Answer<'a, Claimed> {
        Box::pin(self.db.in_tx("standby.claim", (at, rank, *rules), |conn, (at, rank, rules)| {
            Box::pin(async move {
                let Some(mut step) = Step::begin(conn, *at).await? else { return Ok(Warm::Cold) };
                let claimed = claim_slot(conn, &mut step, *rank, rules).await?;
                step.end(conn, claimed).await
            })
        }))
    }

    fn leave(&self, at: At, spot: Spot, end: End) -> Answer<'_, Left> {
        Box::pin(self.db.in_tx("standby.leave", (at, spot, end), |conn, (at, spot, end)| {
            Box::pin(async move {
                let Some(mut step) = Step::begin(conn, *at).await? else { return Ok(Warm::Cold) };
                let left = leave_line(conn, &mut step, *spot, *end).await?;
                step.end(conn, left).await
            })
        }))
    }

    fn tick<'a>(&'a self, at: At, tick: &'a Tick) -> Answer<'a, Ticked> {
        Box::pin(self.db.in_tx("standby.tick", (at, tick.clone()), |conn, (at, tick)| {
            Box::pin(async move {
                let Some(mut step) = Step::begin(conn, *at).await? else { return Ok(Warm::Cold) };
                let ticked = standby_tick::run(conn, &mut step, tick).await?;
                step.end(conn, ticked).await
            })
        }))
    }

    fn draw<'a>(&'a self, at: At, draw: &'a Drawing) -> Answer<'a, Vec<u64>> {
        Box::pin(self.db.in_tx("standby.draw", (at, draw.clone()), |conn, (at, draw)| {
            Box::pin(async move {
                let Some(mut step) = Step::begin(conn, *at).await? else { return Ok(Warm::Cold) };
                let asked = draw_ranks(conn, &mut step, draw).await?;
                step.end(conn, asked).await
            })
        }))
    }

    fn rebuild<'a>(&'a self, at: At, line: &'a Remembered) -> BoxFuture<'a, Result<(), Problem>> {
        let input = (at, line.clone());
        Box::pin(self.db.in_tx_within("standby.rebuild", REBUILD_MAX, input, |conn, (at, line)| {
            Box::pin(rebuild_line(conn, *at, line))
        }))
    }

    fn restore<'a>(&'a self, at: At, left: &'a [Spot]) -> Answer<'a, bool> {
        Box::pin(self.db.in_tx("standby.restore", (at, left.to_vec()), |conn, (at, left)| {
            Box::pin(async move {
                let Some(mut step) = Step::begin(conn, *at).await? else { return Ok(Warm::Cold) };
                let is_told = restore_left(conn, &mut step, left).await?;
                step.end(conn, is_told).await
            })
        }))
    }
}

/// How long whoever is called may take to claim.
pub(super) fn window(rules: &Rules) -> Duration {
    Duration::from_secs(rules.claim_secs.into())
}

async fn join_line(conn: &mut Conn, step: &mut Step, join: &Join) -> Result<Joined, Problem> {
    if let Ranking::Undrawn { opens_at } | Ranking::Drawn { opens_at, .. } = join.ranking {
        step.close_lobby(opens_at);
    }
    if step.line.is_drawn && matches!(join.ranking, Ranking::Undrawn { .. }) {
        return Ok(Joined::Drawn);
    }
    let newest = places::find_newest_of(conn, step.at.concert, join.user).await?;
    let is_past = |arrival| newest.is_some_and(|(newest, is_over)| is_over && arrival <= newest);
    let is_good = |spot: &Spot| spot.arrival < step.line.issued && !is_past(spot.arrival);
    let presented = join.presented.filter(is_good);
    // The newest place is the user's: the copy may lack the last ones that Redis gave.
    let newer = presented.filter(|spot| newest.is_none_or(|(arrival, _)| spot.arrival > arrival));
    if let Some(arrival) = keep_proven(conn, step, join, newer).await? {
        return Ok(Joined::Same(arrival));
    }
    if let Some((arrival, false)) = newest {
        let rank = join.asked.filter(|asked| asked.arrival == arrival).and_then(|asked| asked.rank);
        match is_live(conn, step, join.ranking, Spot { arrival, rank }).await? {
            None => return Ok(Joined::NeedsRank(arrival)),
            Some(true) => return Ok(Joined::Same(arrival)),
            Some(false) => {}
        }
    }
    if let Some(arrival) = keep_proven(conn, step, join, presented).await? {
        return Ok(Joined::Same(arrival));
    }
    if join.is_refused {
        return Ok(Joined::Refused);
    }
    let arrival = step.line.issued;
    if arrival >= join.ceiling {
        return Ok(Joined::Ceiling(arrival));
    }
    step.line.issued += 1;
    keep_place(conn, step, join.user, arrival).await?;
    Ok(Joined::New(arrival))
}

/// A place that the user proves, if it is still good.
async fn keep_proven(conn: &mut Conn, step: &Step, join: &Join, proven: Option<Spot>) -> Result<Option<u64>, Problem> {
    let Some(spot) = proven else { return Ok(None) };
    if is_live(conn, step, join.ranking, spot).await? != Some(true) {
        return Ok(None);
    }
    keep_place(conn, step, join.user, spot.arrival).await?;
    Ok(Some(spot.arrival))
}

async fn keep_place(conn: &mut Conn, step: &Step, user: UserId, arrival: u64) -> Result<(), Problem> {
    places::insert_all(conn, &[PlaceRow { concert: step.at.concert, arrival, user }]).await
}

/// Whether a place is still good; nothing where its rank is needed to tell.
async fn is_live(conn: &mut Conn, step: &Step, ranking: Ranking, spot: Spot) -> Result<Option<bool>, Problem> {
    let rank = match ranking {
        Ranking::Fifo => Some(spot.arrival),
        Ranking::Drawn { lobby_size, .. } if spot.arrival >= lobby_size => Some(spot.arrival),
        Ranking::Drawn { .. } => spot.rank,
        Ranking::Undrawn { .. } => None,
    };
    if ranking != Ranking::Fifo && !step.line.is_drawn {
        let known = ranks::list_at(conn, step.key(), spot.arrival).await?;
        if known.iter().any(|(state, _)| *state == State::GoneEarly) {
            return Ok(Some(false));
        }
        if matches!(ranking, Ranking::Undrawn { .. }) {
            return Ok(Some(true));
        }
    }
    let Some(rank) = rank else { return Ok(None) };
    let standing = step.find(conn, rank).await?.standing;
    Ok(Some(matches!(standing, Standing::Waiting | Standing::Called | Standing::Admitted)))
}

async fn claim_slot(conn: &mut Conn, step: &mut Step, rank: u64, rules: &Rules) -> Result<Claimed, Problem> {
    // A slot whose time was over stays so, even if the clock goes back.
    standby_tick::end_slots(conn, step).await?;
    let found = step.find(conn, rank).await?;
    let by = match (found.standing, found.by) {
        (Standing::Admitted, Some(until)) => return Ok(Claimed::Admitted(until)),
        (Standing::Called, Some(by)) => by,
        (standing, _) => return Ok(Claimed::Refused(standing)),
    };
    let (key, now) = (step.key(), step.now);
    if found.is_by_turn && !found.is_in(State::Present) {
        step.note_came(by, window(rules));
    }
    let (active, first) = ranks::count_inside(conn, key, now, rank).await?;
    let is_free = active + first < i64::from(rules.max_active);
    let (state, ends_at) = if is_free {
        (State::Admitted, now.plus(Duration::from_secs(rules.session_secs.into())))
    } else {
        (State::Present, by.max(now.plus(window(rules))))
    };
    for was in [State::Called, State::Present, State::Ghost] {
        if found.is_in(was) {
            ranks::delete(conn, key, rank, was).await?;
        }
    }
    ranks::insert_all(conn, key, &[RankRow { place: rank, state, ends_at: Some(ends_at), seq: None }]).await?;
    Ok(if is_free { Claimed::Admitted(ends_at) } else { Claimed::Full })
}

async fn leave_line(conn: &mut Conn, step: &mut Step, spot: Spot, end: End) -> Result<Left, Problem> {
    let Some(rank) = spot.rank else {
        if step.line.is_drawn {
            return Ok(Left::Drawn);
        }
        step.note_gone(conn, &[(spot.arrival, State::GoneEarly)]).await?;
        return Ok(Left::From(Standing::Lobby));
    };
    let found = step.find(conn, rank).await?;
    match (found.standing, end) {
        (Standing::Waiting, _) => step.note_gone(conn, &[(rank, State::Gone)]).await?,
        (Standing::Called, _) | (Standing::Admitted, End::Finished) => {
            for (was, _) in found.known.iter().filter(|(was, _)| *was != State::GoneEarly) {
                ranks::delete(conn, step.key(), rank, *was).await?;
            }
            let state = if end == End::Left { State::Left } else { State::Finished };
            let row = RankRow { place: rank, state, ends_at: None, seq: None };
            ranks::insert_all(conn, step.key(), &[row]).await?;
        }
        _ => {}
    }
    Ok(Left::From(found.standing))
}

async fn draw_ranks(conn: &mut Conn, step: &mut Step, draw: &Drawing) -> Result<Vec<u64>, Problem> {
    if step.line.is_drawn {
        return Ok(Vec::new());
    }
    let key = step.key();
    step.line.lobby_size = Some(draw.lobby_size);
    step.add_ghosts(conn, &draw.ghosts).await?;
    let arrivals: Vec<u64> = draw.left.iter().map(|(arrival, _)| *arrival).collect();
    let known = ranks::list_among(conn, key, &arrivals).await?;
    let asked = |arrival: &u64| known.iter().any(|row| row.state == State::GoneEarly && row.place == *arrival);
    let told: Vec<(u64, u64)> = draw.left.iter().copied().filter(|(arrival, _)| asked(arrival)).collect();
    let arrivals: Vec<u64> = told.iter().map(|(arrival, _)| *arrival).collect();
    ranks::delete_among(conn, key, State::GoneEarly, &arrivals).await?;
    let gone: Vec<(u64, State)> = told.iter().map(|(_, rank)| (*rank, State::Gone)).collect();
    step.note_gone(conn, &gone).await?;
    let left = ranks::list_in_state(conn, key, State::GoneEarly, ASKED_MAX as u64).await?;
    if left.is_empty() {
        step.line.is_drawn = true;
        step.line.gaps.clone_from(&draw.gaps);
    }
    Ok(left)
}

async fn rebuild_line(conn: &mut Conn, at: At, line: &Remembered) -> Result<(), Problem> {
    let before = lines::find_line_for_update(conn, at.concert).await?;
    let Some(charge) = lines::lock_keeper(conn, at.concert).await? else { return Ok(()) };
    let is_newer = before.as_ref().is_some_and(|before| before.epoch >= at.epoch);
    if is_newer || charge.epoch != at.epoch || charge.in_charge() != InCharge::Standby {
        return Ok(());
    }
    let now = Step::now(&charge);
    let row = LineRow {
        epoch: at.epoch,
        issued: line.ceiling,
        serving: line.serving.max(before.as_ref().map_or(0, |before| before.serving)),
        calls_made: 0,
        gone_seq: before.as_ref().map_or(0, |before| before.gone_seq),
        gaps: line.gaps.clone(),
        amnesty_by: now.plus(Duration::from_secs(line.claim_secs.into())),
        lobby_size: line.lobby_size,
        is_drawn: line.lobby_size.is_some(),
        tokens: 0.0,
        ticked_at: None,
        pace: None,
        cut_at: None,
        came: String::new(),
        faded_at: None,
    };
    match before {
        Some(_) => lines::update_line(conn, at.concert, &row).await?,
        None => lines::insert_line(conn, at.concert, &row).await?,
    }
    let mut step = Step::over(at, now, row);
    step.add_ghosts(conn, &line.ghosts).await?;
    let slot = |(rank, until): &(u64, Timestamp)| RankRow {
        place: *rank,
        state: State::Admitted,
        ends_at: Some(*until),
        seq: None,
    };
    let slots: Vec<RankRow> = line.slots.iter().map(slot).collect();
    ranks::insert_all(conn, step.key(), &slots).await
}

async fn restore_left(conn: &mut Conn, step: &mut Step, left: &[Spot]) -> Result<bool, Problem> {
    let key = step.key();
    if step.line.is_drawn && left.iter().any(|spot| spot.rank.is_none()) {
        return Ok(false);
    }
    let places: Vec<u64> = left.iter().map(|spot| spot.rank.unwrap_or(spot.arrival)).collect();
    let known = ranks::list_among(conn, key, &places).await?;
    let is_in =
        |place: u64, states: &[State]| known.iter().any(|row| row.place == place && states.contains(&row.state));
    let (mut gone, mut called, mut over) = (Vec::new(), Vec::new(), Vec::new());
    for spot in left {
        match spot.rank {
            Some(rank) if rank < step.line.serving => {
                called.push(rank);
                if !is_in(rank, &[State::Admitted, State::Finished, State::Left]) {
                    over.push(RankRow { place: rank, state: State::Left, ends_at: None, seq: None });
                }
            }
            Some(rank) if !is_in(rank, &[State::Gone]) => gone.push((rank, State::Gone)),
            None if !is_in(spot.arrival, &[State::GoneEarly]) => gone.push((spot.arrival, State::GoneEarly)),
            _ => {}
        }
    }
    for was in [State::Called, State::Present, State::Ghost] {
        ranks::delete_among(conn, key, was, &called).await?;
    }
    ranks::insert_all(conn, key, &over).await?;
    step.note_gone(conn, &gone).await?;
    Ok(true)
}
