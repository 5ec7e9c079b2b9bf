//! Which seats are taken, of a large hall, against a handler that returns as many ready bytes; and the same for those who have
//! them already.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::figures::{Figures, Objective};
use crate::load::{Load, Run};
use crate::rounds::{Pair, Side, interleaved};
use crate::stage::Stage;
use crate::table::{Finding, Measured};

/// Seats, and whether anything is asked of the figures.
const HALLS: [(usize, Objective); 2] = [(20_000, Objective::AtLeast(0.8)), (70_000, Objective::None)];
const CONNECTIONS: usize = 64;
/// What every request carries: the bytes as they are, or the tag that the client has.
pub(super) const WHOLE: (&str, &str) = ("Accept-Encoding", "");
const KNOWN: (&str, &str) = ("If-None-Match", "");
const BARE: &str = "/bare/ready";

/// Measures the row.
///
/// # Errors
/// Where a request fails, or the two sides do not answer alike.
pub async fn measure(stage: &Stage) -> anyhow::Result<Measured> {
    let mut findings = Vec::new();
    for (seats, objective) in HALLS {
        let performance = stage.evening(seats).await?;
        let path = format!("/v1/performances/{performance}/availability");
        let size = make_alike(stage, &path, WHOLE, "identity", 200).await?;
        let what = format!("availability of {seats} seats ({size} bytes)");
        findings.extend(compare(stage, &path, WHOLE, "identity", &what, objective).await?);
        if matches!(objective, Objective::None) {
            continue;
        }
        let tag = stage.tag(&path).await?;
        make_alike(stage, &path, KNOWN, &tag, 304).await?;
        let what = format!("availability of {seats} seats, known already (304)");
        findings.extend(compare(stage, &path, KNOWN, &tag, &what, objective).await?);
    }
    Ok(Measured::from(findings))
}

pub(super) async fn compare(
    stage: &Stage,
    path: &str,
    header: (&'static str, &'static str),
    value: &str,
    what: &str,
    objective: Objective,
) -> anyhow::Result<[Finding; 2]> {
    let values = stage.values("ready", [value.to_owned()].iter())?;
    let what = format!("{what}, against a bare handler");
    side_by_side(stage, [path, BARE], header, &values, &what, objective).await
}

/// Reads of one address against those of another, each with the next of these values in its header.
pub(super) async fn side_by_side(
    stage: &Stage,
    [ours, theirs]: [&str; 2],
    header: (&'static str, &'static str),
    values: &Path,
    what: &str,
    objective: Objective,
) -> anyhow::Result<[Finding; 2]> {
    let load = |side| Load {
        connections: CONNECTIONS,
        method: "GET",
        url: stage.url(if side == Side::Ours { ours } else { theirs }),
        header,
        values: values.to_owned(),
        pause: Duration::ZERO,
    };
    let pairs = interleaved(&stage.pace, async |side| stage.run(&load(side)).await).await?;
    let of = |number: fn(&(Run, f64)) -> f64| pairs.iter().map(move |pair: &Pair<(Run, f64)>| pair.map(number));
    let (rate, cost) = (|run: &(Run, f64)| run.0.rate, |run: &(Run, f64)| run.1 * 1e6 / run.0.requests);
    let medians = |number| {
        let (ours, theirs): (Vec<f64>, Vec<f64>) = of(number).unzip();
        (Figures::new(ours).median(), Figures::new(theirs).median())
    };
    let ((our_rate, their_rate), (our_cost, their_cost)) = (medians(rate), medians(cost));
    Ok([
        Finding {
            what: format!("{what}: answers per second"),
            figures: Figures::ratios(of(rate)),
            digits: 3,
            objective,
            behind: format!("{our_rate:.0} against {their_rate:.0} a second, {CONNECTIONS} connections"),
        },
        Finding {
            what: "the same: the server's processor time per answer".to_owned(),
            figures: Figures::ratios(of(cost)),
            digits: 3,
            objective: Objective::None,
            behind: format!("{our_cost:.1} against {their_cost:.1} µs"),
        },
    ])
}

/// Gives the bare handler the size of frontrow's answer, and looks whether both answer alike. The size.
pub(super) async fn make_alike(
    stage: &Stage,
    path: &str,
    header: (&str, &str),
    value: &str,
    status: u16,
) -> anyhow::Result<usize> {
    let ours = stage.ask("GET", path, header, value).await.context("a public read")?;
    ensure!(ours.status == status, "not {status}: {ours:?}");
    if status == 200 {
        stage.set_bare_body(ours.body.len()).await?;
    }
    let theirs = stage.ask("GET", BARE, header, value).await?;
    let is_alike = ours.status == theirs.status && ours.headers == theirs.headers;
    ensure!(is_alike && ours.body.len() == theirs.body.len(), "not alike: {ours:?} and {theirs:?}");
    Ok(ours.body.len())
}
