//! The line in Redis: one function per script.

use std::sync::LazyLock;

use fred::types::Value;

use super::domain::{Rules, Snapshot, Standing};
use crate::accounts::UserId;
use crate::catalog::ConcertId;
use crate::catalog::domain::Hours;
use crate::platform::clock::{Clock, Timestamp};
use crate::platform::error::Problem;
use crate::platform::redis::{Redis, Script};

static JOIN: LazyLock<Script> =
    LazyLock::new(|| Script::new("queue.join", concat!(include_str!("lua/line.lua"), include_str!("lua/join.lua"))));
static LOOK: LazyLock<Script> =
    LazyLock::new(|| Script::new("queue.look", concat!(include_str!("lua/line.lua"), include_str!("lua/look.lua"))));
static CLAIM: LazyLock<Script> =
    LazyLock::new(|| Script::new("queue.claim", concat!(include_str!("lua/line.lua"), include_str!("lua/claim.lua"))));
static LEAVE: LazyLock<Script> =
    LazyLock::new(|| Script::new("queue.leave", concat!(include_str!("lua/line.lua"), include_str!("lua/leave.lua"))));
static TICK: LazyLock<Script> =
    LazyLock::new(|| Script::new("queue.tick", concat!(include_str!("lua/line.lua"), include_str!("lua/tick.lua"))));
static REBUILD: LazyLock<Script> = LazyLock::new(|| {
    Script::new("queue.rebuild", concat!(include_str!("lua/line.lua"), include_str!("lua/rebuild.lua")))
});

/// What a script said, or that the line must be rebuilt first.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Warm<T> {
    /// The line is missing or of another epoch; nothing was changed.
    Cold,
    /// The answer.
    Answer(T),
}

/// A place given by `join`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// A new place.
    New(u64),
    /// The place that the user has.
    Same(u64),
    /// The ceiling must be raised past this many first.
    Ceiling(u64),
    /// The user has no place, and new ones are refused.
    Refused,
}

/// Who joins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Join {
    pub user: UserId,
    /// What MySQL is known to allow.
    pub ceiling: u64,
    /// The arrival of a ticket that the user has already.
    pub presented: Option<u64>,
    /// Whether only those are served who have a place.
    pub is_refused: bool,
}

/// What `claim` did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    /// A slot until then.
    Admitted(Timestamp),
    /// Called, but all slots are taken.
    Full,
    /// Neither.
    Refused(Standing),
}

/// What `tick` returned.
#[derive(Debug)]
pub(super) struct Ticked {
    /// The line now, with the places given up since the last tick.
    pub snapshot: Snapshot,
    /// Calls that lapsed in this tick.
    pub lapsed: u64,
}

/// The lines of one Redis.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    redis: Redis,
    clock: Clock,
}

impl Lines {
    pub fn new(redis: Redis, clock: Clock) -> Self {
        Self { redis, clock }
    }

    async fn run(
        &self,
        script: &Script,
        concert: ConcertId,
        epoch: u32,
        rest: Vec<Value>,
    ) -> Result<Warm<Reply>, Problem> {
        let names = ["head", "users", "calls", "slots", "present", "ends", "gone"];
        let keys = names.iter().map(|name| self.redis.key(&format!("{{sale:{concert}}}:{name}"))).collect();
        let mut args: Vec<Value> = vec![epoch.to_string().into(), self.clock.offset_millis().to_string().into()];
        args.extend(rest);
        let reply = Reply(self.redis.run(script, keys, args).await?);
        Ok(if reply.word(0) == "cold" { Warm::Cold } else { Warm::Answer(reply) })
    }

    pub async fn join(&self, concert: ConcertId, epoch: u32, join: &Join) -> Result<Warm<Joined>, Problem> {
        let user = Value::Bytes(bytes::Bytes::copy_from_slice(join.user.0.as_bytes()));
        let presented = join.presented.map_or_else(|| "".into(), number);
        self.run(&JOIN, concert, epoch, vec![user, number(join.ceiling), presented, flag(join.is_refused)]).await?.read(
            |reply| match reply.word(0).as_str() {
                "new" => Some(Joined::New(reply.number(1)?)),
                "same" => Some(Joined::Same(reply.number(1)?)),
                "ceiling" => Some(Joined::Ceiling(reply.number(1)?)),
                "refused" => Some(Joined::Refused),
                _ => None,
            },
        )
    }

    pub async fn look(
        &self,
        concert: ConcertId,
        epoch: u32,
        rank: u64,
        rules: &Rules,
    ) -> Result<Warm<(Standing, Option<Timestamp>)>, Problem> {
        let args = vec![number(rank), number(u64::from(rules.claim_secs) * 1000)];
        self.run(&LOOK, concert, epoch, args).await?.read(|reply| Some((reply.standing(0)?, reply.time(1))))
    }

    pub async fn claim(
        &self,
        concert: ConcertId,
        epoch: u32,
        rank: u64,
        rules: &Rules,
    ) -> Result<Warm<Claimed>, Problem> {
        let args = vec![
            number(rank),
            number(rules.max_active.into()),
            number(u64::from(rules.claim_secs) * 1000),
            number(u64::from(rules.session_secs) * 1000),
        ];
        self.run(&CLAIM, concert, epoch, args).await?.read(|reply| match reply.word(0).as_str() {
            "admitted" => Some(Claimed::Admitted(reply.time(1)?)),
            "full" => Some(Claimed::Full),
            _ => Some(Claimed::Refused(reply.standing(0)?)),
        })
    }

    /// Gives a place up (`has_finished` false) or ends a stay (true). Tells where it stood.
    pub async fn leave(
        &self,
        concert: ConcertId,
        epoch: u32,
        rank: u64,
        has_finished: bool,
    ) -> Result<Warm<Standing>, Problem> {
        let end = if has_finished { "f" } else { "l" };
        self.run(&LEAVE, concert, epoch, vec![number(rank), end.into()]).await?.read(|reply| reply.standing(0))
    }

    pub async fn tick(&self, concert: ConcertId, epoch: u32, tick: &Tick<'_>) -> Result<Warm<Ticked>, Problem> {
        let args = vec![
            number(tick.rules.admit_per_second.into()),
            number(tick.rules.max_active.into()),
            number(u64::from(tick.rules.claim_secs) * 1000),
            tick.hours.booking_opens_at.millis().to_string().into(),
            tick.hours.booking_closes_at.millis().to_string().into(),
            flag(tick.rules.is_halted()),
            number(tick.seats_left),
            number(tick.calls_max.into()),
            number(tick.gone_seq),
            number(tick.announced),
        ];
        self.run(&TICK, concert, epoch, args).await?.read(|reply| {
            let snapshot = Snapshot {
                issued: reply.number(2)?,
                serving: reply.number(3)?,
                active: reply.number(4)?,
                called: reply.number(5)?,
                gone_seq: reply.number(7)?,
                gone: reply.numbers(8),
            };
            Some(Ticked { snapshot, lapsed: reply.number(6)? })
        })
    }

    /// Makes the line anew at `epoch`. Harmless where another instance has done so.
    pub async fn rebuild(&self, concert: ConcertId, epoch: u32, line: &Remembered) -> Result<(), Problem> {
        let mut args = vec![
            number(line.ceiling),
            number(line.serving),
            line.gaps.clone().into(),
            number(u64::from(line.claim_secs) * 1000),
            line.closes_at.millis().to_string().into(),
        ];
        for (rank, until) in &line.slots {
            args.push(number(*rank));
            args.push(until.millis().to_string().into());
        }
        self.run(&REBUILD, concert, epoch, args).await.map(drop)
    }
}

/// What is still known of a line that Redis lost.
#[derive(Debug)]
pub(super) struct Remembered {
    /// Nothing at or above it was issued.
    pub ceiling: u64,
    /// Ranks called.
    pub serving: u64,
    /// Ranks that nobody is known to have.
    pub gaps: String,
    /// How long those who were called may claim again.
    pub claim_secs: u32,
    /// When the sale ends.
    pub closes_at: Timestamp,
    /// Those inside, with the end of their stay.
    pub slots: Vec<(u64, Timestamp)>,
}

/// What a tick needs to know.
#[derive(Debug)]
pub(super) struct Tick<'a> {
    pub rules: &'a Rules,
    pub hours: &'a Hours,
    pub seats_left: u64,
    pub calls_max: u32,
    pub gone_seq: u64,
    /// Calls that this instance has told of: they are not taken back.
    pub announced: u64,
}

fn flag(value: bool) -> Value {
    if value { "1" } else { "0" }.into()
}

fn number(value: u64) -> Value {
    value.to_string().into()
}

/// A script's array reply.
struct Reply(Vec<Value>);

impl Reply {
    fn word(&self, index: usize) -> String {
        self.0.get(index).and_then(Value::as_string).unwrap_or_default()
    }

    fn number(&self, index: usize) -> Option<u64> {
        self.word(index).parse().ok()
    }

    fn time(&self, index: usize) -> Option<Timestamp> {
        self.word(index).parse().ok().and_then(Timestamp::from_millis)
    }

    fn numbers(&self, index: usize) -> std::collections::HashSet<u64> {
        let list = match self.0.get(index) {
            Some(Value::Array(list)) => list.as_slice(),
            _ => &[],
        };
        list.iter().filter_map(Value::as_string).filter_map(|text| text.parse().ok()).collect()
    }

    fn standing(&self, index: usize) -> Option<Standing> {
        match self.word(index).as_str() {
            "waiting" => Some(Standing::Waiting),
            "called" => Some(Standing::Called),
            "admitted" => Some(Standing::Admitted),
            "lapsed" => Some(Standing::Lapsed),
            "left" => Some(Standing::Left),
            "finished" => Some(Standing::Finished),
            _ => None,
        }
    }
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

impl Warm<Reply> {
    fn read<T>(self, parse: impl FnOnce(&Reply) -> Option<T>) -> Result<Warm<T>, Problem> {
        match self {
            Self::Cold => Ok(Warm::Cold),
            Self::Answer(reply) => match parse(&reply) {
                Some(answer) => Ok(Warm::Answer(answer)),
                None => Err(Problem::internal(anyhow::anyhow!("script answered {:?}", reply.0))),
            },
        }
    }
}
