//! A concert of ten performances that is in the server's memory, against a handler that returns as many ready bytes.
//!
//! Its status and the seats left may change each second, so each second one answer is put together anew: that is part of what a
//! hit costs.

use super::availability::{WHOLE, compare, make_alike};
use crate::figures::Objective;
use crate::stage::Stage;
use crate::table::Measured;

const PERFORMANCES: u32 = 10;
/// Of each performance.
const SEATS: usize = 1_000;

/// Measures the row.
///
/// # Errors
/// Where a request fails, or the two sides do not answer alike.
pub async fn measure(stage: &Stage) -> anyhow::Result<Measured> {
    let concert = stage.tour(PERFORMANCES, SEATS).await?;
    stage.warm(&concert).await?;
    let path = format!("/v1/concerts/{concert}");
    let size = make_alike(stage, &path, WHOLE, "identity", 200).await?;
    let what = format!("details of a warm concert ({size} bytes)");
    let findings = compare(stage, &path, WHOLE, "identity", &what, Objective::AtLeast(0.85)).await?;
    Ok(Measured::from(Vec::from(findings)))
}
