//! What a store of the line answers: Redis as a rule, MySQL while Redis is away.
//!
//! Invariants that every store keeps, each in one atomic step: no index is issued twice nor past the ceiling; one place per
//! user; ranks are called in order and `serving` never goes back; claims never exceed `max_active`. Whoever comes with an
//! epoch that is not the store's changes nothing and hears [`Warm::Cold`].

use futures::future::BoxFuture;

use super::domain::{Rules, Snapshot, Standing};
use crate::accounts::UserId;
use crate::catalog::ConcertId;
use crate::catalog::domain::Hours;
use crate::platform::clock::Timestamp;
use crate::platform::error::Problem;

/// What a store says.
pub type Answer<'a, T> = BoxFuture<'a, Result<Warm<T>, Problem>>;

/// One store of lines. Every call may be repeated by whoever lost its answer.
pub trait Line: Send + Sync {
    /// Gives a user a place, or the one that the user has.
    fn join<'a>(&'a self, at: At, join: &'a Join) -> Answer<'a, Joined>;

    /// Where a rank stands, and when that ends. A present rank that looks keeps its place.
    fn look<'a>(&'a self, at: At, rank: u64, rules: &'a Rules) -> Answer<'a, (Standing, Option<Timestamp>)>;

    /// Exchanges a call for a slot; again and again the same one.
    fn claim<'a>(&'a self, at: At, rank: u64, rules: &'a Rules) -> Answer<'a, Claimed>;

    /// Gives a place up, or frees the slot of a stay that MySQL has ended.
    fn leave(&self, at: At, spot: Spot, end: End) -> Answer<'_, Left>;

    /// Moves the line on.
    fn tick<'a>(&'a self, at: At, tick: &'a Tick) -> Answer<'a, Ticked>;

    /// Makes ranks count. Answers the places given up in the lobby whose ranks it still needs: the draw is done when none is
    /// left.
    fn draw<'a>(&'a self, at: At, draw: &'a Drawing) -> Answer<'a, Vec<u64>>;

    /// Makes the line anew at an epoch that MySQL has raised. Harmless where another instance has done so.
    fn rebuild<'a>(&'a self, at: At, line: &'a Remembered) -> BoxFuture<'a, Result<(), Problem>>;

    /// Tells a line made anew which places were given up, at most [`RESTORED_MAX`] at once. False where a rank is missing that
    /// is known by now.
    fn restore<'a>(&'a self, at: At, left: &'a [Spot]) -> Answer<'a, bool>;
}

/// Places given up that one call of [`Line::restore`] takes.
pub const RESTORED_MAX: usize = 1000;
/// Places whose ranks [`Line::draw`] asks for at once.
pub const ASKED_MAX: usize = 500;

/// Which making of which line is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The sale.
    pub concert: ConcertId,
    /// The epoch that the caller knows.
    pub epoch: u32,
}

/// What a store said, or that the line must be rebuilt first.
#[derive(Debug, PartialEq, Eq)]
pub enum Warm<T> {
    /// The line is missing or of another epoch; nothing was changed.
    Cold,
    /// The answer.
    Answer(T),
}

impl<T> Warm<T> {
    /// The same with the answer turned into another.
    pub fn map<U>(self, turn: impl FnOnce(T) -> U) -> Warm<U> {
        match self {
            Self::Cold => Warm::Cold,
            Self::Answer(answer) => Warm::Answer(turn(answer)),
        }
    }
}

/// A place by its arrival index, with its rank once that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The arrival index.
    pub arrival: u64,
    /// The rank; nothing before the draw.
    pub rank: Option<u64>,
}

/// How ranks follow from arrivals, as far as the caller knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranking {
    /// In order of arrival.
    Fifo,
    /// By a draw that is still to come: the lobby closes when booking opens.
    Undrawn {
        /// When booking opens.
        opens_at: Timestamp,
    },
    /// By a draw among so many; who came later ranks behind them, by arrival.
    Drawn {
        /// The lobby's size.
        lobby_size: u64,
        /// When booking opens.
        opens_at: Timestamp,
    },
}

/// Who joins.
#[derive(Clone, Copy, Debug)]
pub struct Join {
    /// The user.
    pub user: UserId,
    /// What MySQL is known to allow.
    pub ceiling: u64,
    /// A place that the user proves: by a ticket, or by its copy in MySQL.
    pub presented: Option<Spot>,
    /// Whether MySQL's copy was looked at.
    pub has_looked: bool,
    /// The user's newest place, where that copy knows it to be over: so are all before.
    pub over: Option<u64>,
    /// Whether only those are served who have a place.
    pub is_refused: bool,
    /// How ranks follow from arrivals.
    pub ranking: Ranking,
    /// The place that the store asked for by [`Joined::NeedsRank`].
    pub asked: Option<Spot>,
}

/// What `join` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// A new place.
    New(u64),
    /// The place that the user has.
    Same(u64),
    /// The ceiling must be raised past this many first.
    Ceiling(u64),
    /// The user has no place, and new ones are refused.
    Refused,
    /// Whether the user's place of this arrival is still good can be told by its rank only: ask again with it.
    NeedsRank(u64),
    /// The line was made anew without its users: ask again after looking at MySQL's copy.
    Unknown,
    /// Ranks are known by now: ask again with the lobby's size.
    Drawn,
}

/// What `claim` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// A slot until then.
    Admitted(Timestamp),
    /// Called, but all slots are taken, or a lower present rank comes first.
    Full,
    /// Neither.
    Refused(Standing),
}

/// Why a place ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By the buyer's wish. Frees no slot: the pass must end in MySQL first.
    Left,
    /// MySQL has ended the pass.
    Finished,
}

/// What `leave` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Where the place stood.
    From(Standing),
    /// Ranks are known by now: leave by rank.
    Drawn,
}

/// What the latency of holds and payments was lately, held against its objective.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Latency {
    /// Too few to tell.
    #[default]
    Unknown,
    /// Within the objective.
    Within,
    /// Over it.
    Over,
}

/// What a tick needs to know.
#[derive(Clone, Debug)]
pub struct Tick {
    /// What operators set.
    pub rules: Rules,
    /// When doors open and close.
    pub hours: Hours,
    /// How ranks follow from arrivals.
    pub ranking: Ranking,
    /// Seats that could be sold now.
    pub seats_left: u64,
    /// Ranks called by one tick at most.
    pub calls_max: u32,
    /// The newest place given up that the caller has seen.
    pub gone_seq: u64,
    /// Calls that the caller has told of: they are not taken back.
    pub announced: u64,
    /// What the caller's latency was lately.
    pub latency: Latency,
    /// No call made now lapses before: a lobby learns its ranks over some time.
    pub lapses_from: Timestamp,
}

/// What a tick returned.
#[derive(Clone, Debug, Default)]
pub struct Ticked {
    /// The line now, with the places given up since the last tick.
    pub snapshot: Snapshot,
    /// Calls that lapsed in this tick.
    pub lapsed: u64,
    /// The lobby's size, once it closed.
    pub lobby_size: Option<u64>,
    /// Whether the draw counts.
    pub is_drawn: bool,
}

/// What makes ranks count.
#[derive(Clone, Debug, Default)]
pub struct Drawing {
    /// The lobby's size as MySQL has committed it.
    pub lobby_size: u64,
    /// Ranks behind the lobby that nobody is known to have: `from-below,` pairs in ascending order.
    pub gaps: String,
    /// Ranks of the lobby that nobody is known to have.
    pub ghosts: Vec<u64>,
    /// Places given up in the lobby that the store asked for, with their ranks.
    pub left: Vec<(u64, u64)>,
}

/// What is still known of a line that its store lost.
#[derive(Clone, Debug)]
pub struct Remembered {
    /// Nothing at or above it was issued.
    pub ceiling: u64,
    /// Ranks called.
    pub serving: u64,
    /// Ranks that nobody is known to have: `from-below,` pairs in ascending order.
    pub gaps: String,
    /// Ranks of the lobby that nobody is known to have.
    pub ghosts: Vec<u64>,
    /// The size of the lobby that was drawn.
    pub lobby_size: Option<u64>,
    /// How long those who were called may claim again.
    pub claim_secs: u32,
    /// When the sale ends.
    pub closes_at: Timestamp,
    /// Ranks of those inside, with the end of their stay.
    pub slots: Vec<(u64, Timestamp)>,
}
