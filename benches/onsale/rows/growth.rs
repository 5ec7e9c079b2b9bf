//! What a hold costs in halls of 50, 14,594 and 70,000 seats.
//!
//! In each hall as many buyers at once hold two seats and give them back, so that the small one is not sold out at once; the
//! seats are spread over the whole hall.

use crate::figures::{Figures, Objective};
use crate::rounds::{Pair, Side, interleaved};
use crate::rush::{Maker, Rush, Rushed, Spent};
use crate::stage::Stage;
use crate::table::{Finding, Measured};

const SMALL: u32 = 50;
const LARGER: [(u32, &str); 2] = [(14_594, "14,594"), (70_000, "70,000")];
/// Half of the pairs that there are in the small hall: nobody needs the seats that they have just given back.
const AT_ONCE: usize = 12;
/// They come again and again.
const BUYERS: usize = 4_096;

/// Measures the row.
///
/// # Errors
/// Where a hold fails.
pub async fn measure(stage: &Stage) -> anyhow::Result<Measured> {
    let small = stage.hall(SMALL, BUYERS).await?;
    let millis = u64::try_from(stage.pace.length.as_millis())?;
    let mut findings = Vec::new();
    for (seats, name) in LARGER {
        let large = stage.hall(seats, BUYERS).await?;
        let rush = |side| {
            let hall = if side == Side::Ours { large } else { small };
            stage.rush(Rush {
                hall,
                maker: Maker::Service,
                at_once: AT_ONCE,
                millis,
                refused_every: 0,
                gives_back: true,
            })
        };
        let pairs = interleaved(&stage.pace, async |side| rush(side).await).await?;
        let what = format!("holding and giving back in a hall of {name} seats against one of 50");
        findings.push(finding(format!("{what}: time"), &pairs, |(it, _)| it.secs * 1e6 / it.holds));
        findings.push(finding(format!("{what}: the server's processor time"), &pairs, |(it, spent)| {
            spent.server * 1e6 / it.holds
        }));
        findings.push(Finding {
            objective: Objective::None,
            ..finding(format!("{what}: the database's and Redis' processor time"), &pairs, |(it, spent)| {
                (spent.database + spent.redis) * 1e6 / it.holds
            })
        });
    }
    Ok(Measured::from(findings))
}

fn finding(what: String, pairs: &[Pair<(Rushed, Spent)>], micros: impl Fn(&(Rushed, Spent)) -> f64) -> Finding {
    let costs = || pairs.iter().map(|pair| pair.map(&micros));
    let (ours, theirs): (Vec<f64>, Vec<f64>) = costs().unzip();
    let median = |values| Figures::new(values).median();
    Finding {
        what,
        figures: Figures::ratios(costs()),
        digits: 3,
        objective: Objective::NoGrowth,
        behind: format!("{:.0} against {:.0} µs", median(ours), median(theirs)),
    }
}
