//! A tick of a line in MySQL.

use std::collections::HashSet;

use super::admission::{Crowd, EIGHTHS, Limits, allowance};
use super::domain::{Bound, Snapshot};
use super::gaps::Gaps;
use super::line::{Ranking, Tick, Ticked};
use super::standby::window;
use super::standby_step::{Step, millis};
use super::store::ranks::{self, RankRow, State};
use crate::platform::clock::Timestamp;
use crate::platform::db::Conn;
use crate::platform::error::Problem;

/// Lapsed calls and ended slots taken away by one tick.
const SWEPT_MAX: u64 = 200;
/// Ranks passed by one tick, called or not.
const STEPS_MAX: u64 = 2000;
/// Places given up that one tick tells of.
const GONE_MAX: u64 = 1000;

/// Moves the line on. Running it twice is harmless; a clock that goes back refills nothing and reverses nothing.
pub(super) async fn run(conn: &mut Conn, step: &mut Step, tick: &Tick) -> Result<Ticked, Problem> {
    let (key, now) = (step.key(), step.now);
    let window = window(&tick.rules);
    let lapsed = sweep(conn, step).await?;
    let mut bucket = step.bucket();
    let opens = tick.hours.booking_opens_at;
    let pace = bucket.advance(now.millis(), opens.millis(), tick.rules.admit_per_second, tick.latency);
    // A line that was made anew by an instance that was late may know of fewer calls than another one has announced.
    let announced = tick.announced.min(step.line.issued);
    if announced > step.line.serving {
        step.line.serving = announced;
        step.line.amnesty_by = step.line.amnesty_by.max(now.plus(window));
    }
    let mut shows = step.shows();
    shows.note_lost(lapsed);
    shows.fade(now.millis(), millis(window));
    step.keep_shows(&shows);
    let (crowd, called) = count(conn, step, window).await?;
    if tick.ranking != Ranking::Fifo {
        step.close_lobby(opens);
    }
    let is_drawn = tick.ranking == Ranking::Fifo || step.line.is_drawn;
    let is_open = now >= opens && now < tick.hours.booking_closes_at && !tick.rules.is_halted() && is_drawn;
    let limits = Limits { max_active: tick.rules.max_active, seats_left: tick.seats_left, calls_max: tick.calls_max };
    let (mut most, mut bound) = allowance(&bucket, tick.rules.admit_per_second, &shows, &crowd, limits);
    if step.line.serving >= step.line.issued {
        bound = Bound::Nobody;
    }
    if !is_open {
        (most, bound) = (0, Bound::Closed);
    }
    let mut calls = 0;
    if is_open {
        let by = now.plus(window).max(tick.lapses_from);
        calls = call(conn, step, usize::try_from(most).unwrap_or(0), (now.plus(window), by)).await?;
    }
    #[expect(clippy::cast_precision_loss, reason = "a tick calls a few hundred at most")]
    let used = calls as f64;
    bucket.tokens -= used;
    step.keep_bucket(&bucket);
    step.line.calls_made += calls;
    let mut snapshot = Snapshot {
        at: Some(now),
        issued: step.line.issued,
        serving: step.line.serving,
        active: crowd.active,
        called: called + calls,
        present: crowd.present,
        calls_made: step.line.calls_made,
        gone_seq: tick.gone_seq,
        pace,
        no_show: shows.no_show(),
        bound,
        ..Snapshot::default()
    };
    for (place, state, seq) in ranks::list_gone(conn, key, tick.gone_seq, GONE_MAX).await? {
        let list = if state == State::GoneEarly { &mut snapshot.gone_early } else { &mut snapshot.gone };
        list.insert(place);
        snapshot.gone_seq = seq;
    }
    Ok(Ticked { snapshot, lapsed, lobby_size: step.line.lobby_size, is_drawn: step.line.is_drawn })
}

/// Takes lapsed calls and ended slots away, a bounded number at a time. Says how many calls lapsed.
async fn sweep(conn: &mut Conn, step: &Step) -> Result<u64, Problem> {
    let (key, now) = (step.key(), step.now);
    let mut lapsed = 0;
    for state in [State::Called, State::Present] {
        lapsed += ranks::delete_ended(conn, key, state, now, SWEPT_MAX).await?;
    }
    ranks::delete_ended(conn, key, State::Ghost, now, SWEPT_MAX).await?;
    end_slots(conn, step).await?;
    Ok(lapsed)
}

/// Takes slots away whose time is over, a bounded number at a time.
pub(super) async fn end_slots(conn: &mut Conn, step: &Step) -> Result<(), Problem> {
    let ended = ranks::list_ended(conn, step.key(), State::Admitted, step.now, SWEPT_MAX).await?;
    ranks::turn(conn, step.key(), &ended, State::Admitted, (State::Finished, None)).await
}

/// Who is inside or called, and how many calls there are.
async fn count(conn: &mut Conn, step: &Step, window: std::time::Duration) -> Result<(Crowd, u64), Problem> {
    let eighth = window / 8;
    let after: [Timestamp; EIGHTHS] =
        std::array::from_fn(|index| step.now.plus(eighth * u32::try_from(EIGHTHS - 1 - index).unwrap_or(0)));
    let ([active, present, all], later) = ranks::count_crowd(conn, step.key(), step.now, after).await?;
    let called = std::array::from_fn(|index| later[index] - if index == 0 { 0 } else { later[index - 1] });
    Ok((Crowd { active, called, present }, all))
}

/// Calls up to `most` ranks in their order, and passes those that were given up, ghosts and gaps. Says how many it called.
async fn call(
    conn: &mut Conn,
    step: &mut Step,
    most: usize,
    (amnesty_by, by): (Timestamp, Timestamp),
) -> Result<u64, Problem> {
    let (key, issued, from) = (step.key(), step.line.issued, step.line.serving);
    let gaps = Gaps::parse(&step.line.gaps);
    let mut rank = gaps.skip(from);
    let mut is_past_gap = rank > from;
    // Nothing is known of ranks behind: where a gap leads there, the next tick goes on.
    let known_below = rank + STEPS_MAX;
    let is_moving = most > 0 && rank < issued;
    let ahead = if is_moving { ranks::list_ahead(conn, key, (rank, known_below)).await? } else { Vec::new() };
    let all = |wanted| ahead.iter().filter(move |(_, state)| *state == wanted).map(|(place, _)| *place);
    let (gone, ghosts): (HashSet<u64>, HashSet<u64>) = (all(State::Gone).collect(), all(State::Ghost).collect());
    let (mut called, mut passed_gone, mut passed_ghosts) = (Vec::new(), Vec::new(), Vec::new());
    while rank < issued && rank < known_below && called.len() < most {
        if gone.contains(&rank) {
            passed_gone.push(rank);
        } else if ghosts.contains(&rank) {
            // Whoever may be there is called, and as most likely nobody is, counts for nothing.
            passed_ghosts.push(rank);
        } else {
            called.push(RankRow { place: rank, state: State::Called, ends_at: Some(by), seq: None });
        }
        rank += 1;
        // In one step, outside rate and slots: as a rule nobody is there, and whoever is may claim for a whole window.
        let behind = gaps.skip(rank);
        is_past_gap |= behind > rank;
        rank = behind;
    }
    if is_past_gap {
        step.line.amnesty_by = step.line.amnesty_by.max(amnesty_by);
    }
    step.line.serving = rank;
    ranks::insert_all(conn, key, &called).await?;
    ranks::turn(conn, key, &passed_gone, State::Gone, (State::Left, None)).await?;
    ranks::turn(conn, key, &passed_ghosts, State::Ghost, (State::Ghost, Some(by))).await?;
    Ok(called.len() as u64)
}
