//! Holds that are refused because a seat is taken, against a handler that runs one script and returns ready bytes; and how
//! many statements they cost the database.
//!
//! Half of the hall is taken, and each request names a seat that is and one that is not. That every answer was a refusal is
//! checked, and told how many of them the seat filter gave: while it does not answer, MySQL is asked.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::figures::{Figures, Objective};
use crate::load::Load;
use crate::rounds::{Side, interleaved};
use crate::rush::{Refusals, Task};
use crate::stage::{Answer, Stage};
use crate::table::{Finding, Measured};

const SEATS: u32 = 14_594;
const BUYERS: u32 = 5_000;
const CONNECTIONS: u32 = 64;
const BARE: &str = "/bare/refused";
const HEADER: (&str, &str) = ("Authorization", "Bearer ");
const REFUSED: &str = "frontrow_seat_filter_claims_total{result=\"refused\"}";

/// Measures the row.
///
/// # Errors
/// Where an answer is no refusal for the seat, or the two sides do not answer alike.
pub async fn measure(stage: &Stage) -> anyhow::Result<Measured> {
    let hall = stage.hall(SEATS, 0).await?;
    let Refusals { path, values } = stage.perform(&Task::Refusals { hall, count: BUYERS }).await?;
    make_alike(stage, &path, &values[0]).await?;
    let values = stage.values("refusals", values.iter())?;
    let (mut statements, mut by_filter) = (Vec::new(), Vec::new());
    let pairs = interleaved(&stage.pace, async |side| {
        let load = Load {
            connections: CONNECTIONS as usize,
            method: "POST",
            url: stage.url(if side == Side::Ours { &path } else { BARE }),
            header: HEADER,
            values: values.clone(),
            pause: Duration::ZERO,
        };
        if side == Side::Theirs {
            return stage.run_refused(&load).await;
        }
        let idle = idle_statements(stage).await?;
        let (refused, before, started) = (stage.metric(REFUSED).await?, stage.statements().await?, Instant::now());
        let measured = stage.run_refused(&load).await?;
        let (secs, after) = (started.elapsed().as_secs_f64(), stage.statements().await?);
        let answers = measured.0.requests;
        by_filter.push((stage.metric(REFUSED).await? - refused) / answers);
        statements.push((after - before - idle * secs) / answers);
        Ok(measured)
    });
    let pairs = pairs.await?;
    // What was measured for warmth does not count.
    statements.remove(0);
    by_filter.remove(0);
    let rates = || pairs.iter().map(|pair| pair.map(|(run, _)| run.rate));
    let costs = || pairs.iter().map(|pair| pair.map(|(run, cpu)| cpu * 1e6 / run.requests));
    let (ours, theirs): (Vec<f64>, Vec<f64>) = rates().unzip();
    let (our_cost, their_cost): (Vec<f64>, Vec<f64>) = costs().unzip();
    let median = |values| Figures::new(values).median();
    Ok(Measured::from(vec![
        Finding {
            what: "refused holds against a bare handler with one EVALSHA: answers per second".to_owned(),
            figures: Figures::ratios(rates()),
            digits: 3,
            objective: Objective::AtLeast(0.7),
            behind: format!("{:.0} against {:.0} a second, {CONNECTIONS} connections", median(ours), median(theirs)),
        },
        Finding {
            what: "the same: the server's processor time per answer, Redis not included".to_owned(),
            figures: Figures::ratios(costs()),
            digits: 3,
            objective: Objective::None,
            behind: format!("{:.1} against {:.1} µs", median(our_cost), median(their_cost)),
        },
        Finding {
            what: "refused holds: statements that the database was sent per refusal, less those of an idle server"
                .to_owned(),
            figures: Figures::new(statements),
            digits: 4,
            // Of what the server does besides now and then, more may fall into one half than into the other.
            objective: Objective::AtMost(0.001),
            behind: format!("{:.2} % of the answers were the seat filter's", 100.0 * median(by_filter).min(1.0)),
        },
    ]))
}

/// Statements a second that the database is sent while nobody asks for anything.
async fn idle_statements(stage: &Stage) -> anyhow::Result<f64> {
    let (before, started) = (stage.statements().await?, Instant::now());
    tokio::time::sleep(stage.pace.length).await;
    let secs = started.elapsed().as_secs_f64();
    Ok((stage.statements().await? - before) / secs)
}

async fn make_alike(stage: &Stage, path: &str, line: &str) -> anyhow::Result<()> {
    let ours = ask(stage, path, line).await?;
    ensure!(ours.status == 409 && ours.body.contains("\"seats_taken\""), "not a refusal: {ours:?}");
    stage.set_bare_body(ours.body.len()).await?;
    let theirs = ask(stage, BARE, line).await?;
    ensure!(ours.status == theirs.status && ours.headers == theirs.headers, "not alike: {ours:?} and {theirs:?}");
    ensure!(ours.body.len() == theirs.body.len(), "not as large: {ours:?} and {theirs:?}");
    Ok(())
}

/// As the load generator puts it together.
async fn ask(stage: &Stage, path: &str, line: &str) -> anyhow::Result<Answer> {
    let mut request = stage.http.post(stage.url(path));
    for (number, part) in line.split('\t').enumerate() {
        request = match part.split_once(": ") {
            _ if number == 0 => request.header(HEADER.0, format!("{}{part}", HEADER.1)),
            _ if part.starts_with('{') => request.body(part.to_owned()),
            Some((name, value)) => request.header(name, value),
            None => anyhow::bail!("{part} is no header"),
        };
    }
    crate::stage::answer(request).await
}
