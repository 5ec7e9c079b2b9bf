//! Marks in the tier that all instances share: where one is gone, what was loaded beside it is taken for gone too.
//!
//! A Redis that was wiped, came back older or evicts has lost the marks or has older ones. A mark speaks of one generation of the
//! shared tier ([`crate::platform::cache`]): what was loaded before an outage is void after it, and so is the mark.

use std::sync::LazyLock;
use std::time::Duration;

use fred::types::Value;

use super::domain::Occasion;
use crate::catalog::domain::ConcertId;
use crate::platform::error::Problem;
use crate::platform::redis::{Redis, Script};

static MARK: LazyLock<Script> = LazyLock::new(|| Script::new("warming.mark", include_str!("lua/mark.lua")));
static LOOK: LazyLock<Script> = LazyLock::new(|| Script::new("warming.look", include_str!("lua/look.lua")));

/// How long marks live after the last one.
const MARKS_TTL: Duration = Duration::from_hours(24 * 7);
/// Most marks.
const MARKS_MAX: i64 = 5000;

/// The marks of one Redis.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    redis: Redis,
}

impl Marks {
    pub fn new(redis: Redis) -> Self {
        Self { redis }
    }

    /// The shared tier holds, in this generation of it, what this round loaded.
    pub async fn put(
        &self,
        generation: u64,
        (concert, occasion): (ConcertId, Occasion),
        round: u32,
    ) -> Result<(), Problem> {
        let (field, ttl) = (field(generation, concert, occasion), i64::try_from(MARKS_TTL.as_millis()));
        let args = [field.into(), Value::Integer(round.into()), ttl.unwrap_or(i64::MAX).into(), MARKS_MAX.into()];
        let _: Vec<String> = self.redis.run(&MARK, vec![self.key()], args.into()).await?;
        Ok(())
    }

    /// The rounds that are marked in this generation; nothing for one that is not.
    pub async fn look(&self, generation: u64, warmings: &[(ConcertId, Occasion)]) -> Result<Vec<Option<u32>>, Problem> {
        let fields = warmings.iter().map(|(concert, occasion)| field(generation, *concert, *occasion).into()).collect();
        let marks: Vec<String> = self.redis.run(&LOOK, vec![self.key()], fields).await?;
        Ok(marks.iter().map(|mark| mark.parse().ok()).collect())
    }

    fn key(&self) -> String {
        self.redis.key("warm:marks")
    }
}

fn field(generation: u64, concert: ConcertId, occasion: Occasion) -> String {
    format!("{generation}:{concert}:{}", occasion.stored())
}
