//! What a waiting buyer costs in Redis' memory: 100,000 joins, counted in two ways.
//!
//! The keys' own size (`MEMORY USAGE`, every element counted) leaves out what the allocator adds; the growth of the whole
//! data set contains it, and everything else that was written meanwhile.

use anyhow::ensure;

use crate::figures::{Figures, Objective};
use crate::stage::{Stage, command};
use crate::table::{Finding, Measured};

const BUYERS: u32 = 100_000;
const REPEATS: usize = 3;

/// Measures the row.
///
/// # Errors
/// Where a place is refused or Redis does not tell.
pub async fn measure(stage: &Stage) -> anyhow::Result<Measured> {
    let (mut keys, mut growth) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        let concert = stage.sale().await?;
        let before = data_bytes(stage).await?;
        stage.places(&concert, BUYERS as usize, BUYERS as usize).await?;
        growth.push((data_bytes(stage).await? - before) / f64::from(BUYERS));
        keys.push(key_bytes(stage, &concert).await? / f64::from(BUYERS));
    }
    let finding = |what: &str, values| Finding {
        what: format!("Redis memory per waiting buyer in bytes, 100,000 of them: {what}"),
        figures: Figures::new(values),
        digits: 1,
        objective: Objective::AtMost(150.0),
        behind: format!("{REPEATS} sales"),
    };
    Ok(Measured::from(vec![finding("the sale's keys", keys), finding("growth of the data set", growth)]))
}

async fn data_bytes(stage: &Stage) -> anyhow::Result<f64> {
    Ok(stage.redis_info("memory", "used_memory_dataset").await?.parse()?)
}

async fn key_bytes(stage: &Stage, concert: &str) -> anyhow::Result<f64> {
    use fred::interfaces::ClientLike as _;

    // The server is private and nearly empty: looking through all keys disturbs nobody.
    let keys: Vec<String> = stage.redis.custom(command("KEYS"), vec![format!("*{concert}*")]).await?;
    ensure!(!keys.is_empty(), "Redis has no key of the sale {concert}");
    let mut sum = 0.0;
    for key in keys {
        let arguments = vec!["USAGE".to_owned(), key, "SAMPLES".to_owned(), "0".to_owned()];
        let bytes: Option<f64> = stage.redis.custom(command("MEMORY"), arguments).await?;
        sum += bytes.unwrap_or_default();
    }
    Ok(sum)
}
