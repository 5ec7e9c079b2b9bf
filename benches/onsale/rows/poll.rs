//! A waiting buyer's poll against a handler that returns as many ready bytes.
//!
//! Both sides get the same requests but for the path: 100,000 different tickets, one after the other.

use std::time::Duration;

use anyhow::ensure;

use crate::figures::{Figures, Objective};
use crate::load::Load;
use crate::rounds::{Side, interleaved};
use crate::stage::Stage;
use crate::table::{Finding, Measured};

const TICKETS: usize = 100_000;
/// Answers that are looked at for their size.
const SAMPLES: usize = 100;
const HEADER: (&str, &str) = ("Queue-Ticket", "");

/// Measures the row.
///
/// # Errors
/// Where a request fails, or the two sides do not answer alike.
pub async fn measure(stage: &Stage) -> anyhow::Result<Measured> {
    let concert = stage.sale().await?;
    let tickets = stage.places(&concert, TICKETS, 1).await?;
    let values = stage.values("tickets", tickets.iter())?;
    let path = format!("/v1/concerts/{concert}/queue/tickets/me");
    make_alike(stage, &path, &tickets).await?;
    let load = |side| Load {
        connections: 64,
        method: "GET",
        url: stage.url(if side == Side::Ours { &path } else { "/bare/poll" }),
        header: HEADER,
        values: values.clone(),
        pause: Duration::ZERO,
    };
    let pairs = interleaved(&stage.pace, async |side| stage.run(&load(side)).await).await?;
    let rates = pairs.iter().map(|pair| pair.map(|(run, _)| run.rate));
    let costs = pairs.iter().map(|pair| pair.map(|(run, cpu)| cpu * 1e6 / run.requests));
    let (ours, theirs): (Vec<f64>, Vec<f64>) = rates.clone().unzip();
    let (our_cost, their_cost): (Vec<f64>, Vec<f64>) = costs.clone().unzip();
    let median = |values| Figures::new(values).median();
    Ok(Measured::from(vec![
        Finding {
            what: "waiting polls, 100,000 tickets, against a bare handler: answers per second".to_owned(),
            figures: Figures::ratios(rates),
            digits: 3,
            objective: Objective::AtLeast(0.9),
            behind: format!("{:.0} against {:.0} a second, 64 connections", median(ours), median(theirs)),
        },
        Finding {
            what: "the same: the server's processor time per answer".to_owned(),
            figures: Figures::ratios(costs),
            digits: 3,
            objective: Objective::None,
            behind: format!("{:.1} against {:.1} µs", median(our_cost), median(their_cost)),
        },
    ]))
}

/// Gives the bare handler the size of frontrow's answers, and looks whether both send the same headers.
async fn make_alike(stage: &Stage, path: &str, tickets: &[String]) -> anyhow::Result<()> {
    let mut sizes = Vec::with_capacity(SAMPLES);
    for ticket in tickets.iter().step_by(tickets.len() / SAMPLES) {
        let answer = stage.ask("GET", path, HEADER, ticket).await?;
        ensure!(answer.status == 200 && answer.body.contains("\"waiting\""), "not a waiting place: {answer:?}");
        sizes.push(answer.body.len());
    }
    sizes.sort_unstable();
    let size = sizes[sizes.len() / 2];
    stage.set_bare_body(size).await?;
    let ours = stage.ask("GET", path, HEADER, &tickets[0]).await?;
    let theirs = stage.ask("GET", "/bare/poll", HEADER, &tickets[0]).await?;
    ensure!(theirs.body.len() == size, "the bare body has {} bytes, not {size}", theirs.body.len());
    ensure!(ours.status == theirs.status && ours.headers == theirs.headers, "not alike: {ours:?} and {theirs:?}");
    Ok(())
}
