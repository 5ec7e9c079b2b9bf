//! Many buyers at the same moment, over two instances. Each race also runs with its guard broken, and must then fail.

mod blocks;
mod line;
mod money;
mod seats;
mod stop;
mod tickets;

use futures::StreamExt as _;
use futures::stream;

use crate::support::track::Track;
use crate::support::{Api, Buyer, Sale};

/// Concurrent buyers of each race.
const CROWD: u32 = 200;
/// Requests of the one buyer who sends many at once.
const BURST: usize = 50;
/// Requests under way at once while a race is being prepared.
const PREPARING: usize = 32;

/// Somebody who was let in.
struct Inside {
    buyer: Buyer,
    pass: String,
}

/// Buyers who were let in.
async fn inside(track: &Track, sale: &Sale, count: u32) -> Vec<Inside> {
    let buyers = Buyer::many(&track.steward.state, count).await;
    let enter = |buyer: Buyer| async move {
        let pass = buyer.enter(&track.quiet, sale).await;
        Inside { buyer, pass }
    };
    stream::iter(buyers).map(enter).buffered(PREPARING).collect().await
}

/// Charges each of them.
async fn charge(api: &Api, inside: &[Inside], amount: i64) {
    stream::iter(inside).for_each_concurrent(PREPARING, async |one| drop(one.buyer.charge(api, amount).await)).await;
}

/// Labels of seats in the hall of [`hall`], from the first on.
fn labels(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| format!("A-{}-{}", number / 20 + 1, number % 20 + 1)).collect()
}

/// A hall with rows of twenty seats.
fn hall(rows: u32) -> serde_json::Value {
    let rows: Vec<_> = (1..=rows).map(|row| serde_json::json!({"name": row.to_string(), "seats": 20})).collect();
    serde_json::json!([{"code": "A", "name": "Hall", "rows": rows}])
}
