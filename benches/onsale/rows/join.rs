//! Joining against a handler that runs one script: what a place costs besides the way to Redis and back.
//!
//! Every join is somebody's first: each round has a sale of its own and goes through the same buyers again. That each
//! answer gave a new place is checked against what Redis has issued.

use std::time::Duration;

use anyhow::ensure;

use crate::figures::{Figures, Objective};
use crate::load::Load;
use crate::rounds::{Side, interleaved};
use crate::stage::Stage;
use crate::table::{Finding, Measured};

/// Buyers per measured second: more than can join in it.
const BUYERS_PER_SECOND: usize = 50_000;
const CONNECTIONS: u32 = 64;
const HEADER: (&str, &str) = ("Authorization", "Bearer ");

/// Measures the row.
///
/// # Errors
/// Where a request fails, or an answer gave no new place.
pub async fn measure(stage: &Stage) -> anyhow::Result<Measured> {
    let count = BUYERS_PER_SECOND * usize::try_from(stage.pace.length.as_secs())?;
    let buyers = stage.buyers(count).await?;
    let values = stage.values("buyers", buyers.iter())?;
    make_alike(stage, &buyers).await?;
    let pairs = interleaved(&stage.pace, async |side| {
        let mut load = Load {
            connections: CONNECTIONS as usize,
            method: "POST",
            url: stage.url("/bare/join"),
            header: HEADER,
            values: values.clone(),
            pause: Duration::ZERO,
        };
        if side == Side::Theirs {
            return stage.run(&load).await;
        }
        let concert = stage.sale().await?;
        load.url = stage.url(&path(&concert));
        let measured = stage.run(&load).await?;
        let (answers, issued) = (measured.0.requests, stage.issued(&concert).await?);
        // Joins that were under way when time was up were given too.
        let under_way = f64::from(CONNECTIONS);
        ensure!((answers..=answers + under_way).contains(&issued), "{answers} answers, but {issued} places");
        Ok(measured)
    });
    let pairs = pairs.await?;
    let rates = pairs.iter().map(|pair| pair.map(|(run, _)| run.rate));
    let costs = pairs.iter().map(|pair| pair.map(|(run, cpu)| cpu * 1e6 / run.requests));
    let (ours, theirs): (Vec<f64>, Vec<f64>) = rates.clone().unzip();
    let (our_cost, their_cost): (Vec<f64>, Vec<f64>) = costs.clone().unzip();
    let median = |values| Figures::new(values).median();
    Ok(Measured::from(vec![
        Finding {
            what: "first joins against a bare handler with one EVALSHA: answers per second".to_owned(),
            figures: Figures::ratios(rates),
            digits: 3,
            objective: Objective::AtLeast(0.5),
            behind: format!("{:.0} against {:.0} a second, {CONNECTIONS} connections", median(ours), median(theirs)),
        },
        Finding {
            what: "the same: the server's processor time per answer, Redis not included".to_owned(),
            figures: Figures::ratios(costs),
            digits: 3,
            objective: Objective::None,
            behind: format!("{:.1} against {:.1} µs", median(our_cost), median(their_cost)),
        },
    ]))
}

fn path(concert: &str) -> String {
    format!("/v1/concerts/{concert}/queue/tickets")
}

async fn make_alike(stage: &Stage, buyers: &[String]) -> anyhow::Result<()> {
    let path = path(&stage.sale().await?);
    let ours = stage.ask("POST", &path, HEADER, &buyers[0]).await?;
    ensure!(ours.status == 201, "not a new place: {ours:?}");
    stage.set_bare_body(ours.body.len()).await?;
    let theirs = stage.ask("POST", "/bare/join", HEADER, &buyers[0]).await?;
    ensure!(ours.status == theirs.status && ours.headers == theirs.headers, "not alike: {ours:?} and {theirs:?}");
    ensure!(ours.body.len() == theirs.body.len(), "not as large: {ours:?} and {theirs:?}");
    Ok(())
}
