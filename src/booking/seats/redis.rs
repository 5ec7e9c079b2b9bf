//! The seat filter in Redis: one function per script. Each answers nothing where the filter is cold.

use std::sync::LazyLock;
use std::time::Duration;

use fred::types::Value;

use super::bits::Bits;
use super::board::Picture;
use super::filter::{Change, Claim, Claimed, Difference, Fate, Hall, Look, MARK};
use crate::accounts::UserId;
use crate::platform::clock::{Clock, Timestamp};
use crate::platform::error::Problem;
use crate::platform::redis::{Redis, Script};

static CLAIM: LazyLock<Script> = LazyLock::new(|| script("seats.claim", include_str!("lua/claim.lua")));
static GIVE_BACK: LazyLock<Script> = LazyLock::new(|| script("seats.give_back", include_str!("lua/give_back.lua")));
static SETTLE: LazyLock<Script> = LazyLock::new(|| script("seats.settle", include_str!("lua/settle.lua")));
static LOOK: LazyLock<Script> = LazyLock::new(|| script("seats.look", include_str!("lua/look.lua")));
static TURN: LazyLock<Script> = LazyLock::new(|| script("seats.turn", include_str!("lua/turn.lua")));
static ENDS: LazyLock<Script> = LazyLock::new(|| script("seats.ends", include_str!("lua/ends.lua")));
static HEAL: LazyLock<Script> = LazyLock::new(|| script("seats.heal", include_str!("lua/heal.lua")));
static REBUILD: LazyLock<Script> = LazyLock::new(|| script("seats.rebuild", include_str!("lua/rebuild.lua")));
static CLEAR: LazyLock<Script> = LazyLock::new(|| script("seats.clear", include_str!("lua/clear.lua")));

/// What Redis says where a key is of another kind than a command is for.
const WRONG_KIND: &str = "WRONGTYPE";

/// A script with the shared head in front.
fn script(name: &'static str, lua: &str) -> Script {
    Script::new(name, format!("{}{lua}", include_str!("lua/filter.lua")))
}

/// The answer of a filter, or nothing where there is none for the performance.
pub(super) type Warm<T> = Option<T>;

/// The filters of one Redis.
#[derive(Clone, Debug)]
pub(super) struct Filters {
    redis: Redis,
    clock: Clock,
}

impl Filters {
    pub fn new(redis: Redis, clock: Clock) -> Self {
        Self { redis, clock }
    }

    /// Sets seats aside, or names those that cannot be had, with all that is taken if that is wanted.
    pub async fn claim(
        &self,
        hall: Hall,
        seats: &[u32],
        owner: Option<UserId>,
        wants_all: bool,
    ) -> Result<Warm<Claimed>, Problem> {
        let owner = owner.map_or_else(|| "".into(), |user| Value::Bytes(user.0.as_bytes().to_vec().into()));
        let head = [time(MARK), number(u32::from(wants_all)), owner];
        let args = head.into_iter().chain(seats.iter().map(|seat| number(*seat))).collect();
        let Some(reply) = self.run(&CLAIM, hall, args).await? else { return Ok(None) };
        let claimed = match reply.word(0).as_str() {
            "granted" => reply.word(1).parse().ok().map(|mark| {
                let seats = seats.to_vec();
                Claimed::Granted(Claim { hall, seats, mark })
            }),
            "refused" => {
                let taken = wants_all.then(|| reply.bits(1, hall));
                Some(Claimed::Refused { seats: reply.numbers(2), taken })
            }
            _ => None,
        };
        claimed.map(Some).ok_or_else(|| reply.strange())
    }

    /// Puts what the seats are in the place of a request's marks.
    pub async fn give_back(&self, claim: &Claim, fates: &[(u32, Fate)]) -> Result<Warm<()>, Problem> {
        let triples = fates.iter().flat_map(|(seat, fate)| {
            let [word, end] = of(*fate);
            [word, number(*seat), end]
        });
        let args = std::iter::once(claim.mark.to_string().into()).chain(triples).collect();
        Ok(self.run(&GIVE_BACK, claim.hall, args).await?.map(drop))
    }

    /// Tells what was committed.
    pub async fn settle(&self, hall: Hall, changes: &[Change]) -> Result<Warm<()>, Problem> {
        let triples = changes.iter().flat_map(|change| {
            let (seats, [word, end]) = match change {
                Change::Held { seats, until } => (seats, of(Fate::Held(*until))),
                Change::Kept { seats, until } => (seats, ["m".into(), until.millis().to_string().into()]),
                Change::Sold(seats) => (seats, of(Fate::Sold)),
                Change::Freed(seats) => (seats, of(Fate::Free)),
            };
            seats.iter().flat_map(move |seat| [word.clone(), number(*seat), end.clone()])
        });
        Ok(self.run(&SETTLE, hall, triples.collect()).await?.map(drop))
    }

    /// What is taken, if it is not the version that the caller knows.
    pub async fn look(&self, hall: Hall, known: Option<u64>) -> Result<Warm<Look>, Problem> {
        let known = known.map_or_else(|| "".into(), |known| known.to_string().into());
        let Some(reply) = self.run(&LOOK, hall, vec![known]).await? else { return Ok(None) };
        if reply.word(0) == "same" {
            return Ok(Some(Look::Same));
        }
        let version = reply.word(1).parse().map_err(|_| reply.strange())?;
        Ok(Some(Look::New { version, picture: reply.picture(2, hall) }))
    }

    /// What is taken, for the one caller in a period who compares it to MySQL.
    pub async fn take_turn(&self, hall: Hall, period: Duration) -> Result<Warm<Option<Picture>>, Problem> {
        let reply = self.run(&TURN, hall, vec![time(period)]).await?;
        Ok(reply.map(|reply| (reply.word(0) == "yours").then(|| reply.picture(1, hall))))
    }

    /// When these seats are free by themselves, in milliseconds; nothing for those that are not.
    pub async fn ends(&self, hall: Hall, seats: &[u32]) -> Result<Warm<Vec<Option<i64>>>, Problem> {
        let reply = self.run(&ENDS, hall, seats.iter().map(|seat| number(*seat)).collect()).await?;
        Ok(reply.map(|reply| (1..=seats.len()).map(|at| reply.word(at).parse().ok()).collect()))
    }

    /// Puts seats right. Tells how many were falsely taken, and falsely free.
    pub async fn heal(&self, hall: Hall, differences: &[Difference]) -> Result<Warm<(u64, u64)>, Problem> {
        let quintuples = differences.iter().flat_map(|difference| {
            let before = u32::from(difference.was_taken) + 2 * u32::from(difference.was_sold);
            let ends = difference.ends.map_or_else(|| "".into(), |ends| ends.to_string().into());
            let [word, end] = of(difference.is);
            [number(difference.seat), number(before), ends, word, end]
        });
        let args = std::iter::once(time(MARK)).chain(quintuples).collect();
        let Some(reply) = self.run(&HEAL, hall, args).await? else { return Ok(None) };
        let healed = reply.word(1).parse().ok().zip(reply.word(2).parse().ok());
        healed.map(Some).ok_or_else(|| reply.strange())
    }

    /// Makes the filter, with the ends of what is held for a time. False where it is there already.
    pub async fn rebuild(&self, hall: Hall, picture: &Picture, held: &[(u32, Timestamp)]) -> Result<bool, Problem> {
        let bitmap = |bits: &Bits| Value::Bytes(bits.most_significant_first().into());
        let head = [number(hall.seats_total), bitmap(&picture.taken), bitmap(&picture.sold)];
        let pairs = held.iter().flat_map(|(seat, until)| [number(*seat), until.millis().to_string().into()]);
        let reply = self.run(&REBUILD, hall, head.into_iter().chain(pairs).collect()).await?;
        Ok(reply.is_some_and(|reply| reply.word(0) == "ok"))
    }

    async fn run(&self, script: &Script, hall: Hall, rest: Vec<Value>) -> Result<Warm<Reply>, Problem> {
        let args = std::iter::once(self.clock.offset_millis().to_string().into()).chain(rest).collect();
        // The client's future is large, and callers keep it in theirs.
        let reply = match Box::pin(self.redis.run(script, self.keys(hall), args)).await {
            Ok(reply) => Reply(reply),
            Err(problem) if problem.to_string().contains(WRONG_KIND) => {
                tracing::warn!(performance = %hall.performance, %problem, "a seat filter cannot be read: it is made anew");
                Box::pin(self.redis.run::<Value>(&CLEAR, self.keys(hall), Vec::new())).await?;
                return Ok(None);
            }
            Err(problem) => return Err(problem),
        };
        Ok((reply.word(0) != "cold").then_some(reply))
    }

    fn keys(&self, hall: Hall) -> Vec<String> {
        let Hall { concert, performance, .. } = hall;
        let key = |name| self.redis.key(&format!("seats:{{sale:{concert}}}:{performance}:{name}"));
        ["head", "taken", "sold", "ends", "marks"].map(key).to_vec()
    }
}

fn number(value: u32) -> Value {
    value.to_string().into()
}

fn time(value: Duration) -> Value {
    value.as_millis().to_string().into()
}

/// A fate as scripts know it: a letter, and when it ends.
fn of(fate: Fate) -> [Value; 2] {
    match fate {
        Fate::Held(until) => ["h".into(), until.millis().to_string().into()],
        Fate::Sold => ["s".into(), "0".into()],
        Fate::Free => ["f".into(), "0".into()],
    }
}

/// A script's array reply.
struct Reply(Vec<Value>);

impl Reply {
    fn word(&self, index: usize) -> String {
        self.0.get(index).and_then(Value::as_string).unwrap_or_default()
    }

    /// All numbers from there on.
    fn numbers(&self, from: usize) -> Vec<u32> {
        let texts = self.0.iter().skip(from).filter_map(Value::as_string);
        texts.filter_map(|text| text.parse().ok()).collect()
    }

    fn bits(&self, index: usize, hall: Hall) -> Bits {
        let bytes = self.0.get(index).and_then(Value::as_bytes).unwrap_or_default();
        Bits::from_most_significant_first(bytes, hall.seats_total as usize)
    }

    fn picture(&self, from: usize, hall: Hall) -> Picture {
        Picture { taken: self.bits(from, hall), sold: self.bits(from + 1, hall) }
    }

    fn strange(&self) -> Problem {
        Problem::internal(anyhow::anyhow!("script answered {:?}", self.0))
    }
}
