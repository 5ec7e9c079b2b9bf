//! The line in Redis: one function per script.

use std::borrow::Cow;
use std::sync::LazyLock;

use bytes::Bytes;
use fred::types::{Key, Value};
use futures::future::BoxFuture;

use super::domain::{Bound, Rules, Snapshot, Standing};
use super::line::{
    Answer, At, Claimed, Drawing, End, Join, Joined, Latency, Left, Line, Ranking, Remembered, Spot, Tick, Ticked, Warm,
};
use crate::catalog::ConcertId;
use crate::platform::clock::{Clock, Timestamp};
use crate::platform::error::Problem;
use crate::platform::redis::{Redis, Script};

static JOIN: LazyLock<Script> = LazyLock::new(|| script("queue.join", include_str!("lua/join.lua")));
static LOOK: LazyLock<Script> = LazyLock::new(|| script("queue.look", include_str!("lua/look.lua")));
static CLAIM: LazyLock<Script> = LazyLock::new(|| script("queue.claim", include_str!("lua/claim.lua")));
static LEAVE: LazyLock<Script> = LazyLock::new(|| script("queue.leave", include_str!("lua/leave.lua")));
static TICK: LazyLock<Script> = LazyLock::new(|| script("queue.tick", include_str!("lua/tick.lua")));
static DRAW: LazyLock<Script> = LazyLock::new(|| script("queue.draw", include_str!("lua/draw.lua")));
static REBUILD: LazyLock<Script> = LazyLock::new(|| script("queue.rebuild", include_str!("lua/rebuild.lua")));
static RESTORE: LazyLock<Script> = LazyLock::new(|| script("queue.restore", include_str!("lua/restore.lua")));
static RUN_ID: LazyLock<Script> = LazyLock::new(|| Script::new("queue.run_id", include_str!("lua/run_id.lua")));

/// A sale's keys, in the order in which scripts get them.
const NAMES: [&str; 8] = ["head", "users", "calls", "slots", "present", "ends", "gone", "ghosts"];
/// Of the longest one.
const NAME_LEN_MAX: usize = 7;

/// A script with the shared head in front.
fn script(name: &'static str, lua: &str) -> Script {
    Script::new(name, format!("{}{lua}", include_str!("lua/line.lua")))
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

    /// Which Redis keeps this sale's keys: another one after each start.
    pub async fn run_id(&self, concert: ConcertId) -> Result<String, Problem> {
        let key = self.redis.key(&format!("{{sale:{concert}}}:probe"));
        let reply = Reply(self.redis.run(&RUN_ID, vec![key], Vec::new()).await?);
        Ok(reply.word(0))
    }

    async fn run(&self, script: &Script, at: At, rest: Vec<Value>) -> Result<Warm<Reply>, Problem> {
        let mut args = Vec::with_capacity(2 + rest.len());
        args.extend([Value::Integer(at.epoch.into()), Value::Integer(self.clock.offset_millis())]);
        args.extend(rest);
        let reply = Reply(self.redis.run_on(script, self.keys(at.concert), args).await?);
        Ok(if reply.text(0) == "cold" { Warm::Cold } else { Warm::Answer(reply) })
    }

    /// The sale's keys: parts of one text.
    fn keys(&self, concert: ConcertId) -> Vec<Key> {
        let sale = self.redis.key(&format!("{{sale:{concert}}}:"));
        let mut text = String::with_capacity(NAMES.len() * (sale.len() + NAME_LEN_MAX));
        let mut ends = [0; NAMES.len()];
        for (name, end) in NAMES.iter().zip(&mut ends) {
            text.push_str(&sale);
            text.push_str(name);
            *end = text.len();
        }
        let text = Bytes::from(text);
        let mut start = 0;
        ends.iter().map(|end| Key::from(text.slice(std::mem::replace(&mut start, *end)..*end))).collect()
    }
}

impl Line for Lines {
    fn join<'a>(&'a self, at: At, join: &'a Join) -> Answer<'a, Joined> {
        let (is_draw, opens, size) = match join.ranking {
            Ranking::Fifo => (false, number(0), number(0)),
            Ranking::Undrawn { opens_at } => (true, time(opens_at), nothing()),
            Ranking::Drawn { lobby_size, opens_at } => (true, time(opens_at), number(lobby_size)),
        };
        let [arrival, rank] = spot(join.presented);
        let [asked, asked_rank] = spot(join.asked);
        let looked = match (join.has_looked, join.over) {
            (false, _) => nothing(),
            (true, None) => Value::Integer(-1),
            (true, Some(over)) => number(over),
        };
        let args = vec![
            Value::Bytes(Bytes::copy_from_slice(join.user.0.as_bytes())),
            number(join.ceiling),
            arrival,
            rank,
            looked,
            flag(join.is_refused),
            flag(is_draw),
            opens,
            size,
            asked,
            asked_rank,
        ];
        Box::pin(async move {
            self.run(&JOIN, at, args).await?.read(|reply| match &*reply.text(0) {
                "new" => Some(Joined::New(reply.number(1)?)),
                "same" => Some(Joined::Same(reply.number(1)?)),
                "ceiling" => Some(Joined::Ceiling(reply.number(1)?)),
                "refused" => Some(Joined::Refused),
                "rank" => Some(Joined::NeedsRank(reply.number(1)?)),
                "unknown" => Some(Joined::Unknown),
                "drawn" => Some(Joined::Drawn),
                _ => None,
            })
        })
    }

    fn look<'a>(&'a self, at: At, rank: u64, rules: &'a Rules) -> Answer<'a, (Standing, Option<Timestamp>)> {
        let args = vec![number(rank), number(u64::from(rules.claim_secs) * 1000)];
        Box::pin(
            async move { self.run(&LOOK, at, args).await?.read(|reply| Some((reply.standing(0)?, reply.time(1)))) },
        )
    }

    fn claim<'a>(&'a self, at: At, rank: u64, rules: &'a Rules) -> Answer<'a, Claimed> {
        let args = vec![
            number(rank),
            number(rules.max_active.into()),
            number(u64::from(rules.claim_secs) * 1000),
            number(u64::from(rules.session_secs) * 1000),
        ];
        Box::pin(async move {
            self.run(&CLAIM, at, args).await?.read(|reply| match &*reply.text(0) {
                "admitted" => Some(Claimed::Admitted(reply.time(1)?)),
                "full" => Some(Claimed::Full),
                _ => Some(Claimed::Refused(reply.standing(0)?)),
            })
        })
    }

    fn leave(&self, at: At, spot: Spot, end: End) -> Answer<'_, Left> {
        let end = match end {
            End::Left => "l",
            End::Finished => "f",
        };
        let args = vec![number(spot.arrival), optional(spot.rank), end.into()];
        Box::pin(async move {
            self.run(&LEAVE, at, args).await?.read(|reply| match &*reply.text(0) {
                "drawn" => Some(Left::Drawn),
                _ => Some(Left::From(reply.standing(0)?)),
            })
        })
    }

    fn tick<'a>(&'a self, at: At, tick: &'a Tick) -> Answer<'a, Ticked> {
        let latency = match tick.latency {
            Latency::Unknown => "",
            Latency::Within => "within",
            Latency::Over => "over",
        };
        let args = vec![
            number(tick.rules.admit_per_second.into()),
            number(tick.rules.max_active.into()),
            number(u64::from(tick.rules.claim_secs) * 1000),
            time(tick.hours.booking_opens_at),
            time(tick.hours.booking_closes_at),
            flag(tick.rules.is_halted()),
            number(tick.seats_left),
            number(tick.calls_max.into()),
            number(tick.gone_seq),
            number(tick.announced),
            flag(tick.ranking != Ranking::Fifo),
            latency.into(),
            time(tick.lapses_from),
        ];
        Box::pin(async move { self.run(&TICK, at, args).await?.read(ticked) })
    }

    fn draw<'a>(&'a self, at: At, draw: &'a Drawing) -> Answer<'a, Vec<u64>> {
        let mut args = vec![number(draw.lobby_size), draw.gaps.clone().into(), number(draw.ghosts.len() as u64)];
        args.extend(draw.ghosts.iter().map(|rank| number(*rank)));
        args.extend(draw.left.iter().flat_map(|(arrival, rank)| [number(*arrival), number(*rank)]));
        Box::pin(async move {
            self.run(&DRAW, at, args)
                .await?
                .read(|reply| Some(reply.list(1).iter().filter_map(|text| text.parse().ok()).collect()))
        })
    }

    fn rebuild<'a>(&'a self, at: At, line: &'a Remembered) -> BoxFuture<'a, Result<(), Problem>> {
        let mut args = vec![
            number(line.ceiling),
            number(line.serving),
            line.gaps.clone().into(),
            number(u64::from(line.claim_secs) * 1000),
            time(line.closes_at),
            optional(line.lobby_size),
            number(line.ghosts.len() as u64),
        ];
        args.extend(line.ghosts.iter().map(|rank| number(*rank)));
        args.extend(line.slots.iter().flat_map(|(rank, until)| [number(*rank), time(*until)]));
        Box::pin(async move { self.run(&REBUILD, at, args).await.map(drop) })
    }

    fn restore<'a>(&'a self, at: At, left: &'a [Spot]) -> Answer<'a, bool> {
        let args = left.iter().flat_map(|spot| [number(spot.arrival), optional(spot.rank)]).collect();
        Box::pin(async move { self.run(&RESTORE, at, args).await?.read(|reply| Some(reply.text(0) == "ok")) })
    }
}

fn ticked(reply: &Reply) -> Option<Ticked> {
    let gone = reply.list(8);
    let early = gone.iter().filter_map(|member| member.strip_prefix('q')).filter_map(|text| text.parse().ok());
    let snapshot = Snapshot {
        at: reply.time(1),
        issued: reply.number(2)?,
        serving: reply.number(3)?,
        active: reply.number(4)?,
        called: reply.number(5)?,
        gone_seq: reply.number(7)?,
        gone_early: early.collect(),
        gone: gone.iter().filter_map(|member| member.parse().ok()).collect(),
        present: reply.number(9)?,
        calls_made: reply.number(10)?,
        pace: reply.text(13).parse().ok()?,
        no_show: reply.text(14).parse().ok()?,
        bound: Bound::ALL.into_iter().find(|bound| bound.word() == &*reply.text(15))?,
        ..Snapshot::default()
    };
    let is_drawn = !reply.text(12).is_empty();
    Some(Ticked { snapshot, lapsed: reply.number(6)?, lobby_size: reply.number(11), is_drawn })
}

fn flag(value: bool) -> Value {
    Value::Integer(value.into())
}

/// Scripts get every argument as text: that is written once, with the command.
fn number(value: u64) -> Value {
    i64::try_from(value).map_or_else(|_| value.to_string().into(), Value::Integer)
}

fn nothing() -> Value {
    Value::from_static_str("")
}

fn optional(value: Option<u64>) -> Value {
    value.map_or_else(nothing, number)
}

fn time(value: Timestamp) -> Value {
    Value::Integer(value.millis())
}

fn spot(spot: Option<Spot>) -> [Value; 2] {
    [optional(spot.map(|spot| spot.arrival)), optional(spot.and_then(|spot| spot.rank))]
}

/// A script's array reply.
struct Reply(Vec<Value>);

impl Reply {
    fn word(&self, index: usize) -> String {
        self.text(index).into_owned()
    }

    fn text(&self, index: usize) -> Cow<'_, str> {
        match self.0.get(index) {
            Some(Value::String(text)) => Cow::Borrowed(text),
            other => Cow::Owned(other.and_then(Value::as_string).unwrap_or_default()),
        }
    }

    fn number(&self, index: usize) -> Option<u64> {
        self.text(index).parse().ok()
    }

    fn time(&self, index: usize) -> Option<Timestamp> {
        self.text(index).parse().ok().and_then(Timestamp::from_millis)
    }

    fn list(&self, index: usize) -> Vec<String> {
        let list = match self.0.get(index) {
            Some(Value::Array(list)) => list.as_slice(),
            _ => &[],
        };
        list.iter().filter_map(Value::as_string).collect()
    }

    fn standing(&self, index: usize) -> Option<Standing> {
        match &*self.text(index) {
            "lobby" => Some(Standing::Lobby),
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
