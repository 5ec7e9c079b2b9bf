//! The order of a sale when everything is wanted at once: 20,000 buyers ask two instances for the best seats of 14,594.
//!
//! Both instances run in the server under test and share nothing but the database and Redis. That no seat was given twice is
//! checked after each sale.

use anyhow::ensure;

use crate::figures::{Figures, Objective};
use crate::rush::{SoldOut, Task};
use crate::stage::Stage;
use crate::table::{Finding, Measured};

const SEATS: u32 = 14_594;
const BUYERS: usize = 20_000;
/// On each instance.
const AT_ONCE: usize = 64;
const REFUSED: &str = "frontrow_seat_filter_claims_total{result=\"refused\"}";

/// A sale, and what it took.
struct Sale {
    sold: SoldOut,
    /// How often chosen seats turned out to be another's.
    conflicts: f64,
}

/// Measures the row.
///
/// # Errors
/// Where a request fails otherwise than for want of seats, or a seat is given twice.
pub async fn measure(stage: &Stage) -> anyhow::Result<Measured> {
    let hall = stage.hall(SEATS, BUYERS).await?;
    let mut findings = Vec::new();
    for (quantity, each) in [(1, "one seat"), (2, "two seats")] {
        // One for warmth.
        sell(stage, hall, quantity).await?;
        let mut sales = Vec::with_capacity(stage.pace.rounds);
        for _ in 0..stage.pace.rounds {
            tokio::time::sleep(stage.pace.settling).await;
            sales.push(sell(stage, hall, quantity).await?);
        }
        findings.extend(findings_of(&sales, quantity, each));
    }
    Ok(Measured::from(findings))
}

async fn sell(stage: &Stage, hall: usize, quantity: u32) -> anyhow::Result<Sale> {
    let before = stage.metric(REFUSED).await?;
    let sold: SoldOut = stage.perform(&Task::Sell { hall, quantity, at_once: AT_ONCE }).await?;
    let conflicts = stage.metric(REFUSED).await? - before;
    let holds = sold.holds.iter().sum::<f64>();
    ensure!(holds * f64::from(quantity) <= f64::from(SEATS), "{holds} holds of {quantity}");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let () = stage.perform(&Task::Clear { hall, holds: holds as u64, seats: quantity }).await?;
    Ok(Sale { sold, conflicts })
}

fn findings_of(sales: &[Sale], quantity: u32, each: &str) -> Vec<Finding> {
    let figures = |number: fn(&Sale) -> f64| Figures::new(sales.iter().map(number).collect());
    let what = format!("20,000 buyers want {each} each, the best of 14,594, from two instances");
    let finding = |name: &str, figures, digits, behind| {
        let what = format!("{what}: {name}");
        Finding { what, figures, digits, objective: Objective::None, behind }
    };
    let left = figures(|sale| sale.sold.holds.iter().sum()).median() * f64::from(quantity);
    let left = f64::from(SEATS) - left;
    let answered = figures(|sale| sale.sold.answered_secs).median();
    let rate = figures(|sale| sale.sold.holds.iter().sum::<f64>() / sale.sold.secs).median();
    let beaten = figures(|sale| sale.sold.beaten).median();
    vec![
        finding(
            "seconds until the last hold",
            figures(|sale| sale.sold.secs),
            2,
            format!("{rate:.0} holds a second; {left:.0} seats left; everybody answered in {answered:.2} s"),
        ),
        finding(
            "choices that another's seats were among, per seat",
            figures(|sale| sale.conflicts / f64::from(SEATS)),
            3,
            format!("{beaten:.0} buyers were told that others were faster"),
        ),
        finding(
            "share of the holds that the instance with fewer made",
            figures(|sale| sale.sold.holds[0].min(sale.sold.holds[1]) / sale.sold.holds.iter().sum::<f64>()),
            3,
            String::new(),
        ),
    ]
}
