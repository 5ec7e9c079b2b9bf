//! Durable holds of two seats, 64 at once, by the function that the endpoint calls against one prepared transaction each.
//!
//! Both sides run inside the server under test: HTTP is in neither. Each hold is another buyer's; every fifth request names a
//! seat that is taken, and only holds that are made count. After each round it is checked that the tables have as many holds
//! as were answered, and no seat twice.

use crate::figures::{Figures, Objective};
use crate::rounds::{Pair, Side, interleaved};
use crate::rush::{Maker, Rush, Rushed, Spent};
use crate::stage::Stage;
use crate::table::{Finding, Measured};

const SEATS: u32 = 70_000;
const AT_ONCE: usize = 64;
const REFUSED_EVERY: u32 = 5;
/// One for each request until the hall is sold out.
const BUYERS: usize = 43_750;
const REQUESTS: &str = "frontrow_combiner_batch_requests_sum{name=\"booking.hold\"}";
const BATCHES: &str = "frontrow_combiner_batch_requests_count{name=\"booking.hold\"}";

/// Measures the row.
///
/// # Errors
/// Where a hold fails, or what is stored is not what was answered.
pub async fn measure(stage: &Stage) -> anyhow::Result<Measured> {
    let hall = stage.hall(SEATS, BUYERS).await?;
    let millis = u64::try_from(stage.pace.length.as_millis())?;
    let rush = |side, at_once, refused_every| {
        let maker = if side == Side::Ours { Maker::Service } else { Maker::Bare };
        stage.rush(Rush { hall, maker, at_once, millis, refused_every, gives_back: false })
    };
    let (requests, batches) = (stage.metric(REQUESTS).await?, stage.metric(BATCHES).await?);
    let crowded = interleaved(&stage.pace, async |side| rush(side, AT_ONCE, REFUSED_EVERY).await).await?;
    let batch = (stage.metric(REQUESTS).await? - requests) / (stage.metric(BATCHES).await? - batches);
    let alone = interleaved(&stage.pace, async |side| rush(side, 1, 0).await).await?;
    Ok(Measured::from(vec![
        finding(
            "durable holds of two seats, 64 at once, against one transaction each: holds per second",
            &crowded,
            |(it, _)| it.holds / it.secs,
            Objective::AtLeast(3.0),
            |ours, theirs| format!("{ours:.0} against {theirs:.0} a second, {batch:.1} requests a batch"),
        ),
        finding(
            "the same: median time of a hold",
            &crowded,
            |(it, _)| it.p50_micros,
            Objective::None,
            |ours, theirs| {
                format!(
                    "{:.1} against {:.1} ms, p99 {}",
                    ours / 1e3,
                    theirs / 1e3,
                    millis_of(&crowded, |it| it.p99_micros)
                )
            },
        ),
        finding(
            "the same: processor time of server, database and Redis per hold",
            &crowded,
            per_hold,
            Objective::None,
            |_, _| shares(&crowded),
        ),
        finding(
            "one at a time: median time of a hold",
            &alone,
            |(it, _)| it.p50_micros,
            Objective::AtMost(1.2),
            |ours, theirs| format!("{ours:.0} against {theirs:.0} µs, p99 {}", millis_of(&alone, |it| it.p99_micros)),
        ),
    ]))
}

/// A round of one side.
pub(super) type One = (Rushed, Spent);

pub(super) fn finding(
    what: &str,
    pairs: &[Pair<One>],
    number: impl Fn(&One) -> f64,
    objective: Objective,
    behind: impl Fn(f64, f64) -> String,
) -> Finding {
    let (ours, theirs) = medians(pairs, &number);
    Finding {
        what: what.to_owned(),
        figures: Figures::ratios(pairs.iter().map(|pair| pair.map(&number))),
        digits: 2,
        objective,
        behind: behind(ours, theirs),
    }
}

fn medians(pairs: &[Pair<One>], number: impl Fn(&One) -> f64) -> (f64, f64) {
    let (ours, theirs): (Vec<f64>, Vec<f64>) = pairs.iter().map(|pair| pair.map(&number)).unzip();
    (Figures::new(ours).median(), Figures::new(theirs).median())
}

pub(super) fn millis_of(pairs: &[Pair<One>], micros: impl Fn(&Rushed) -> f64) -> String {
    let (ours, theirs) = medians(pairs, |(it, _)| micros(it) / 1e3);
    format!("{ours:.1} against {theirs:.1} ms")
}

/// In microseconds.
pub(super) fn per_hold((it, spent): &One) -> f64 {
    (spent.server + spent.database + spent.redis) * 1e6 / it.holds
}

pub(super) fn shares(pairs: &[Pair<One>]) -> String {
    let share = |name: &str, secs: fn(&Spent) -> f64| {
        let (ours, theirs) = medians(pairs, |(it, spent)| secs(spent) * 1e6 / it.holds);
        format!("{name} {ours:.0} against {theirs:.0}")
    };
    let shares = [share("server", |it| it.server), share("database", |it| it.database), share("Redis", |it| it.redis)];
    format!("{} µs", shares.join(", "))
}
