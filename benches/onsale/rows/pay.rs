//! Payments by points of two held seats, 64 at once, by the function that the endpoint calls against one prepared transaction
//! each.
//!
//! Both sides run inside the server under test, as those of the row `holds` do. Each payment is another buyer's. After each round
//! it is checked that the tables have as many payments as were answered, each with its reservation, its seats, its ledger entries,
//! its events and the answer under its key.

use super::holds::{One, finding, millis_of, per_hold, shares};
use crate::figures::Objective;
use crate::rounds::{Side, interleaved};
use crate::rush::Maker;
use crate::stage::Stage;
use crate::table::Measured;

const SEATS: u32 = 70_000;
const BUYERS: usize = 35_000;
const AT_ONCE: usize = 64;
const REQUESTS: &str = "frontrow_combiner_batch_requests_sum{name=\"checkout.pay\"}";
const BATCHES: &str = "frontrow_combiner_batch_requests_count{name=\"checkout.pay\"}";

/// Measures the row.
///
/// # Errors
/// Where a payment fails, or what is stored is not what was answered.
pub async fn measure(stage: &Stage) -> anyhow::Result<Measured> {
    let hall = stage.hall(SEATS, BUYERS).await?;
    let pay = async |side, at_once| -> anyhow::Result<One> {
        let maker = if side == Side::Ours { Maker::Service } else { Maker::Bare };
        stage.pay(hall, maker, at_once).await
    };
    let (requests, batches) = (stage.metric(REQUESTS).await?, stage.metric(BATCHES).await?);
    let crowded = interleaved(&stage.pace, async |side| pay(side, AT_ONCE).await).await?;
    let batch = (stage.metric(REQUESTS).await? - requests) / (stage.metric(BATCHES).await? - batches);
    let alone = interleaved(&stage.pace, async |side| pay(side, 1).await).await?;
    Ok(Measured::from(vec![
        finding(
            "payments by points of two seats, 64 at once, against one transaction each: payments per second",
            &crowded,
            |(it, _)| it.holds / it.secs,
            Objective::AtLeast(3.0),
            |ours, theirs| format!("{ours:.0} against {theirs:.0} a second, {batch:.1} requests a batch"),
        ),
        finding(
            "the same: median time of a payment",
            &crowded,
            |(it, _)| it.p50_micros,
            Objective::None,
            |ours, theirs| {
                let p99 = millis_of(&crowded, |it| it.p99_micros);
                format!("{:.1} against {:.1} ms, p99 {p99}", ours / 1e3, theirs / 1e3)
            },
        ),
        finding(
            "the same: processor time of server, database and Redis per payment",
            &crowded,
            per_hold,
            Objective::None,
            |_, _| shares(&crowded),
        ),
        finding(
            "one at a time: median time of a payment",
            &alone,
            |(it, _)| it.p50_micros,
            Objective::None,
            |ours, theirs| format!("{ours:.0} against {theirs:.0} µs, p99 {}", millis_of(&alone, |it| it.p99_micros)),
        ),
    ]))
}
