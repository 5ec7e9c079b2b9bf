//! Whole journeys (join, claim, hold two seats, pay with points) per second, and what they cost in commits.
//!
//! They run inside the server under test, by the functions that the endpoints call. Each round has a sale of its own.

use crate::figures::{Figures, Objective};
use crate::rush::{Task, Travelled};
use crate::stage::Stage;
use crate::table::{Finding, Measured};

const SEATS: u32 = 14_594;
const AT_ONCE: usize = 256;

/// Measures the row.
///
/// # Errors
/// Where a journey does not come to its end.
pub async fn measure(stage: &Stage) -> anyhow::Result<Measured> {
    let millis = u64::try_from(stage.pace.length.as_millis())?;
    let mut rounds: Vec<(Travelled, f64)> = Vec::with_capacity(stage.pace.rounds);
    // One more for warmth.
    for round in 0..=stage.pace.rounds {
        tokio::time::sleep(stage.pace.settling).await;
        let task = Task::Journeys { seats: SEATS, at_once: AT_ONCE, millis };
        let before = stage.commits().await?;
        let travelled: Travelled = stage.perform(&task).await?;
        let commits = stage.commits().await? - before;
        if round > 0 {
            rounds.push((travelled, commits / travelled.journeys));
        }
    }
    let figures = |number: fn(&(Travelled, f64)) -> f64| Figures::new(rounds.iter().map(number).collect());
    let finding = |what: &str, figures, digits, behind| {
        let what = format!("journeys (join, claim, hold, pay), 256 at once: {what}");
        Finding { what, figures, digits, objective: Objective::None, behind }
    };
    let half = figures(|(it, _)| it.p50_micros).median() / 1e3;
    Ok(Measured::from(vec![
        finding("per second", figures(|(it, _)| it.journeys / it.secs), 0, format!("half of them within {half:.0} ms")),
        finding(
            "commits of the database per journey",
            figures(|(_, commits)| *commits),
            2,
            "with those of making the sale, the relay, the line and the jobs".to_owned(),
        ),
    ]))
}
