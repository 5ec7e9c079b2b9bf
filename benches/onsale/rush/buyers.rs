//! Buyers who hold two seats each, so many at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use frontrow::app::state::State;
use frontrow::booking::holds::{Asked, HoldId, Request};
use frontrow::booking::seats::SEATS_TAKEN;
use frontrow::catalog::Seat;
use frontrow::platform::http::keyed::RequestKey;
use rand::Rng as _;
use rand::seq::SliceRandom as _;
use serde_json::Value;

use super::bare::{Bare, Wanted};
use super::halls::{Buyer, Hall};
use super::{Maker, Rush, Rushed};

/// What all of them share.
struct Crowd {
    rush: Rush,
    state: State,
    bare: Bare,
    hall: Arc<Hall>,
    /// Pairs of seats in random order, each pair by number.
    pairs: Vec<[u32; 2]>,
    until: Instant,
    /// Whether one of them found no seat left.
    is_sold_out: AtomicBool,
}

/// What one of them has seen.
#[derive(Default)]
struct Seen {
    /// How long each hold took, in microseconds.
    micros: Vec<u64>,
    refused: u32,
}

/// Runs it, and counts.
pub(super) async fn run(state: State, bare: Bare, hall: Arc<Hall>, rush: Rush) -> anyhow::Result<Rushed> {
    let mut seats: Vec<u32> = (0..hall.map.seats_total()).collect();
    seats.shuffle(&mut rand::rng());
    let (pairs, _) = seats.as_chunks();
    let pairs = pairs.iter().map(|[one, other]| [*one.min(other), *one.max(other)]).collect();
    ensure!(hall.buyers.len() >= rush.at_once, "too few buyers");
    let started = Instant::now();
    let until = started + Duration::from_millis(rush.millis);
    let crowd = Arc::new(Crowd { rush, state, bare, hall, pairs, until, is_sold_out: AtomicBool::new(false) });
    let tasks: Vec<_> = (0..rush.at_once).map(|number| tokio::spawn(crowd.clone().take_part(number))).collect();
    let mut all = Seen::default();
    for task in tasks {
        let seen = task.await??;
        all.micros.extend(seen.micros);
        all.refused += seen.refused;
    }
    let secs = started.elapsed().as_secs_f64();
    all.micros.sort_unstable();
    let count = all.micros.len();
    ensure!(count > 0, "no hold was made");
    let at = |share: usize| number(all.micros[(count * share / 100).min(count - 1)]);
    Ok(Rushed {
        holds: number(count as u64),
        refused: f64::from(all.refused),
        secs,
        p50_micros: at(50),
        p99_micros: at(99),
    })
}

pub(super) fn number(count: u64) -> f64 {
    // Far below what a u32 holds.
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

impl Crowd {
    /// One request after the other, each by another buyer.
    async fn take_part(self: Arc<Self>, number: usize) -> anyhow::Result<Seen> {
        let Rush { at_once, refused_every, gives_back, .. } = self.rush;
        let rounds = if gives_back { usize::MAX } else { 1 };
        let mut pairs = (0..rounds).flat_map(|_| self.pairs.iter().skip(number).step_by(at_once));
        let mut buyers = (0..rounds).flat_map(|_| self.hall.buyers.iter().skip(number).step_by(at_once));
        let (mut seen, mut requests, mut own) = (Seen::default(), 0_u32, None);
        while Instant::now() < self.until && !self.is_sold_out.load(Ordering::Relaxed) {
            requests += 1;
            let taken = own.filter(|_| refused_every > 0 && requests.is_multiple_of(refused_every));
            let pair = taken.map_or_else(|| pairs.next().copied(), |taken| Some(self.beside(taken)));
            let (Some(pair), Some(buyer)) = (pair, buyers.next()) else {
                self.is_sold_out.store(true, Ordering::Relaxed);
                break;
            };
            let started = Instant::now();
            let held = self.hold(buyer, pair).await?;
            let micros = started.elapsed().as_micros();
            // What was given back a moment ago is not free yet where the news of it is late.
            let is_known = gives_back || held.is_some() == taken.is_none();
            ensure!(is_known, "of {pair:?} {taken:?} is taken, but the hold is {held:?}");
            let Some(hold) = held else {
                seen.refused += 1;
                continue;
            };
            seen.micros.push(u64::try_from(micros)?);
            own = Some(pair[0]);
            if let (true, Some(hold)) = (gives_back, hold) {
                self.state.holds.release(buyer.user, hold).await?;
            }
        }
        Ok(seen)
    }

    /// A seat that is taken and any other one.
    fn beside(&self, taken: u32) -> [u32; 2] {
        let total = self.hall.map.seats_total();
        let other = (taken + rand::rng().random_range(1..total)) % total;
        [taken.min(other), taken.max(other)]
    }

    /// Holds both seats, if they are free. The hold's id is told where it is known and wanted.
    async fn hold(&self, buyer: &Buyer, pair: [u32; 2]) -> anyhow::Result<Option<Option<HoldId>>> {
        let Hall { concert, performance, .. } = *self.hall;
        let [first, second] = pair.map(|number| self.hall.map.seat(number));
        let seats: [&Seat; 2] = [first.context("no such seat")?, second.context("no such seat")?];
        if self.rush.maker == Maker::Bare {
            let wanted = Wanted { user: buyer.user, pass: buyer.pass, concert, performance, seats };
            return Ok(self.bare.hold(wanted).await?.then_some(None));
        }
        let seats = Asked::Named(seats.map(|seat| seat.label.clone()).to_vec());
        let request = Request { user: buyer.user, performance, pass: Some(buyer.sealed.clone()), seats };
        let key = RequestKey { key: None, fingerprint: [0; 32] };
        match Box::pin(self.state.holds.hold(request, key)).await {
            Ok(answer) if self.rush.gives_back => {
                let made: Value = serde_json::from_slice(&answer.body)?;
                let id = made["id"].as_str().context("a hold without an id")?;
                Ok(Some(Some(id.parse().map_err(anyhow::Error::msg)?)))
            }
            Ok(_) => Ok(Some(None)),
            Err(problem) if problem.code() == &SEATS_TAKEN => Ok(None),
            Err(problem) => Err(problem.into()),
        }
    }
}
