//! A line as a plain list of places: slow, obvious, and written without looking at how the stores do it.
//!
//! Time is counted in half steps, so that an end never falls on an instant at which anything is asked.

use std::collections::{HashMap, HashSet};

use frontrow::queue::domain::Standing;
use frontrow::queue::draw::Permutation;

/// Half steps that a call and a stay last: odd, as everything happens at even ones.
pub const WINDOW: i64 = 3;
pub const SESSION: i64 = 9;

/// What a place was when it was last touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// Nothing is written of it: it waits, or was called before the line was lost.
    None,
    Called {
        by: i64,
    },
    Present {
        by: i64,
    },
    Admitted {
        until: i64,
    },
    Finished,
    Left,
}

/// How the stores differ where they may.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Claims take lapsed calls away, and not only ticks.
    pub claims_sweep: bool,
    /// A line that was not wiped still knows who was called, finished and left.
    pub remembers: bool,
}

#[derive(Debug)]
pub struct Model {
    habits: Habits,
    pub now: i64,
    pub opens: i64,
    /// By arrival: whose it is, if anybody's, and the mark of its rank.
    users: Vec<Option<usize>>,
    marks: HashMap<u64, Mark>,
    /// Ranks of the lobby that nobody is known to have, with the end of their call.
    ghosts: HashMap<u64, Option<i64>>,
    gaps: Vec<(u64, u64)>,
    newest: HashMap<usize, u64>,
    pub serving: u64,
    pub calls_made: u64,
    amnesty: i64,
    is_draw: bool,
    pub lobby_size: Option<u64>,
    pub ranks: Option<Permutation>,
    /// Whether the line calls by these ranks.
    pub is_drawn: bool,
}

/// What a claim comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    Admitted,
    Full,
    Refused(Standing),
}

impl Model {
    pub fn new(habits: Habits, is_draw: bool, opens: i64) -> Self {
        Self {
            habits,
            now: 0,
            opens,
            users: Vec::new(),
            marks: HashMap::new(),
            ghosts: HashMap::new(),
            gaps: Vec::new(),
            newest: HashMap::new(),
            serving: 0,
            calls_made: 0,
            // A line's first making is one after a loss too.
            amnesty: WINDOW,
            is_draw,
            lobby_size: None,
            ranks: None,
            is_drawn: false,
        }
    }

    pub fn issued(&self) -> u64 {
        self.users.len() as u64
    }

    /// The rank by which a place is known; nothing before the draw.
    pub fn rank(&self, arrival: u64) -> Option<u64> {
        if !self.is_draw {
            return Some(arrival);
        }
        self.ranks.as_ref().map(|ranks| ranks.rank_of(arrival).unwrap_or(arrival))
    }

    /// Marks are kept by arrival: those of the lobby must survive the draw.
    fn mark(&self, arrival: u64) -> Mark {
        self.marks.get(&arrival).copied().unwrap_or(Mark::None)
    }

    fn arrival(&self, rank: u64) -> u64 {
        if !self.is_draw {
            return rank;
        }
        self.ranks.as_ref().and_then(|ranks| ranks.arrival_at(rank)).unwrap_or(rank)
    }

    pub fn newest(&self, user: usize) -> Option<u64> {
        self.newest.get(&user).copied()
    }

    /// The place that MySQL's copy tells of.
    pub fn copied(&self, user: usize) -> Option<u64> {
        self.newest(user).filter(|arrival| self.mark(*arrival) != Mark::Left)
    }

    pub fn standing(&self, arrival: u64) -> Standing {
        let mark = self.mark(arrival);
        let Some(rank) = self.rank(arrival) else {
            return if mark == Mark::Left { Standing::Left } else { Standing::Lobby };
        };
        match mark {
            Mark::Admitted { until } if until > self.now => Standing::Admitted,
            Mark::Admitted { .. } | Mark::Finished => Standing::Finished,
            Mark::Left => Standing::Left,
            _ if rank >= self.serving => Standing::Waiting,
            Mark::Called { by } | Mark::Present { by } if by > self.now => Standing::Called,
            _ if self.forgiven_until(arrival) > self.now => Standing::Called,
            _ => Standing::Lapsed,
        }
    }

    fn forgiven_until(&self, arrival: u64) -> i64 {
        self.ghosts.get(&arrival).copied().flatten().unwrap_or(i64::MIN).max(self.amnesty)
    }

    /// Until when a called place may claim.
    fn by(&self, arrival: u64) -> i64 {
        match self.mark(arrival) {
            Mark::Called { by } | Mark::Present { by } if by > self.now => by,
            _ => self.forgiven_until(arrival),
        }
    }

    pub fn is_live(&self, arrival: u64) -> bool {
        use Standing::{Admitted, Called, Lobby, Waiting};
        matches!(self.standing(arrival), Lobby | Waiting | Called | Admitted)
    }

    fn close_lobby(&mut self) {
        if self.is_draw && self.now >= self.opens && self.lobby_size.is_none() {
            self.lobby_size = Some(self.issued());
        }
    }

    /// The arrival, and whether it is new.
    pub fn join(&mut self, user: usize) -> (u64, bool) {
        self.close_lobby();
        if let Some(arrival) = self.newest(user).filter(|arrival| self.is_live(*arrival)) {
            return (arrival, false);
        }
        let arrival = self.issued();
        self.users.push(Some(user));
        self.newest.insert(user, arrival);
        (arrival, true)
    }

    pub fn look(&mut self, arrival: u64) -> Standing {
        let standing = self.standing(arrival);
        if standing == Standing::Called && matches!(self.mark(arrival), Mark::Present { .. }) {
            let by = self.by(arrival).max(self.now + WINDOW);
            self.marks.insert(arrival, Mark::Present { by });
        }
        standing
    }

    pub fn claim(&mut self, arrival: u64, max_active: u64) -> Claim {
        self.end_slots();
        if self.habits.claims_sweep {
            self.end_calls();
        }
        match self.standing(arrival) {
            Standing::Admitted => return Claim::Admitted,
            Standing::Called => {}
            standing => return Claim::Refused(standing),
        }
        let rank = self.rank(arrival);
        let is_first = |other: &u64| matches!(self.mark(*other), Mark::Present { by } if by > self.now);
        let first = (0..self.issued()).filter(|other| self.rank(*other) < rank).filter(is_first).count() as u64;
        if self.active() + first < max_active {
            self.marks.insert(arrival, Mark::Admitted { until: self.now + SESSION });
            self.ghosts.remove(&arrival);
            return Claim::Admitted;
        }
        let by = self.by(arrival).max(self.now + WINDOW);
        self.marks.insert(arrival, Mark::Present { by });
        Claim::Full
    }

    /// Where the place stood.
    pub fn leave(&mut self, arrival: u64, is_finished: bool) -> Standing {
        let standing = self.standing(arrival);
        match standing {
            Standing::Called | Standing::Admitted if is_finished => {
                self.marks.insert(arrival, Mark::Finished);
            }
            Standing::Lobby | Standing::Waiting | Standing::Called => {
                self.marks.insert(arrival, Mark::Left);
            }
            _ => {}
        }
        // Before the draw the answer is the same however often a place is given up.
        if self.rank(arrival).is_none() { Standing::Lobby } else { standing }
    }

    fn all(&self, is_meant: impl Fn(&Mark) -> bool) -> Vec<u64> {
        let all = self.marks.iter().filter(|(_, mark)| is_meant(mark)).map(|(arrival, _)| *arrival);
        all.collect()
    }

    pub fn active(&self) -> u64 {
        self.all(|mark| matches!(mark, Mark::Admitted { until } if *until > self.now)).len() as u64
    }

    pub fn present(&self) -> u64 {
        self.all(|mark| matches!(mark, Mark::Present { .. })).len() as u64
    }

    pub fn called(&self) -> u64 {
        self.all(|mark| matches!(mark, Mark::Called { .. } | Mark::Present { .. })).len() as u64
    }

    /// Places given up that the line has still to pass: ranks, or arrivals before the draw.
    pub fn gone(&self) -> HashSet<u64> {
        let left = self.all(|mark| *mark == Mark::Left).into_iter();
        match self.rank(0) {
            None => left.collect(),
            Some(_) => left.filter_map(|arrival| self.rank(arrival)).filter(|rank| *rank >= self.serving).collect(),
        }
    }

    fn end_calls(&mut self) {
        let now = self.now;
        let lapsed = |mark: &Mark| matches!(mark, Mark::Called { by } | Mark::Present { by } if *by <= now);
        for arrival in self.all(lapsed) {
            self.marks.insert(arrival, Mark::None);
        }
        self.ghosts.retain(|_, by| by.is_none_or(|by| by > now));
    }

    fn end_slots(&mut self) {
        for arrival in self.all(|mark| matches!(mark, Mark::Admitted { until } if *until <= self.now)) {
            self.marks.insert(arrival, Mark::Finished);
        }
    }

    /// Calls up to `most` ranks.
    pub fn tick(&mut self, most: u64, is_paused: bool) {
        self.end_calls();
        self.end_slots();
        self.close_lobby();
        if self.now < self.opens || is_paused || (self.is_draw && !self.is_drawn) {
            return;
        }
        let mut called = 0;
        self.skip_gaps();
        while self.serving < self.issued() && called < most {
            let arrival = self.arrival(self.serving);
            if self.mark(arrival) == Mark::Left {
            } else if let Some(by) = self.ghosts.get_mut(&arrival) {
                *by = Some(self.now + WINDOW);
            } else {
                self.marks.insert(arrival, Mark::Called { by: self.now + WINDOW });
                called += 1;
            }
            self.serving += 1;
            self.skip_gaps();
        }
        self.calls_made += called;
    }

    fn skip_gaps(&mut self) {
        while let Some((_, below)) = self.gaps.iter().find(|(from, below)| (*from..*below).contains(&self.serving)) {
            self.serving = *below;
            self.amnesty = self.amnesty.max(self.now + WINDOW);
        }
    }

    /// The draw counts: `lost` are arrivals that nobody is known to have.
    pub fn drawn(&mut self, ranks: Permutation, lost: &[(u64, u64)]) {
        self.ranks = Some(ranks);
        self.forget(lost);
        self.is_drawn = true;
    }

    fn forget(&mut self, lost: &[(u64, u64)]) {
        let size = if self.is_draw { self.lobby_size.unwrap_or(u64::MAX) } else { 0 };
        self.gaps = lost.iter().map(|(from, below)| ((*from).max(size), *below)).filter(|gap| gap.0 < gap.1).collect();
        if self.rank(0).is_some() {
            let inside = lost.iter().flat_map(|(from, below)| *from..(*below).min(size));
            for arrival in inside {
                if self.rank(arrival).is_some_and(|rank| rank >= self.serving) {
                    self.ghosts.entry(arrival).or_insert(None);
                }
            }
        }
    }

    /// Those inside, with the end of their stay.
    pub fn inside(&self) -> Vec<(u64, i64)> {
        let inside = self.marks.iter().filter_map(|(arrival, mark)| match mark {
            Mark::Admitted { until } if *until > self.now => Some((*arrival, *until)),
            _ => None,
        });
        inside.collect()
    }

    /// Places given up, as MySQL knows them.
    pub fn left(&self) -> Vec<u64> {
        let mut left = self.all(|mark| *mark == Mark::Left);
        left.sort_unstable();
        left
    }

    /// The line is made anew; `lost` are arrivals below the ceiling that nobody is known to have.
    pub fn rebuilt(&mut self, is_wiped: bool, ceiling: u64, lost: &[(u64, u64)]) {
        let is_known = self.ranks.is_some();
        if is_wiped || !self.habits.remembers {
            self.ghosts.clear();
            self.marks.retain(|_, mark| matches!(mark, Mark::Left | Mark::Admitted { .. }));
        }
        let now = self.now;
        let is_over = |mark: &Mark| matches!(mark, Mark::Admitted { until } if *until <= now);
        self.marks.retain(|_, mark| !is_over(mark));
        self.users.resize(usize::try_from(ceiling).expect("few"), None);
        self.amnesty = self.now + WINDOW;
        self.calls_made = 0;
        if !is_known {
            self.lobby_size = None;
        }
        self.is_drawn = is_known;
        self.gaps.clear();
        if is_known || !self.is_draw {
            self.forget(lost);
        }
    }

    pub fn user_places(&self) -> Vec<(u64, usize)> {
        let users = self.users.iter().enumerate();
        users.filter_map(|(arrival, user)| Some((arrival as u64, (*user)?))).collect()
    }
}
