//! What it takes to warm a concert of ten performances of 14,594 seats each: time, and the server's memory.
//!
//! Each concert is a new one, so nothing of it is in memory. The system counts memory by pages that the allocator keeps, so a
//! single concert says little: the median of several says more. Seat maps are packed a second time in the background
//! afterwards, which is not waited for.

use crate::figures::{Figures, Objective};
use crate::stage::Stage;
use crate::table::{Finding, Measured};

const PERFORMANCES: u32 = 10;
const SEATS: usize = 14_594;
const MIB: f64 = 1024.0 * 1024.0;

/// Measures the row.
///
/// # Errors
/// Where a concert cannot be made or loaded.
pub async fn measure(stage: &Stage) -> anyhow::Result<Measured> {
    let (mut seconds, mut bytes) = (Vec::new(), Vec::new());
    for _ in 0..stage.pace.rounds {
        let concert = stage.tour(PERFORMANCES, SEATS).await?;
        let before = stage.server.resident_bytes()?;
        seconds.push(stage.warm(&concert).await?);
        bytes.push((stage.server.resident_bytes()? - before) / MIB);
    }
    let behind = format!("{} concerts", seconds.len());
    let finding = |what: &str, values| Finding {
        what: format!("a concert of {PERFORMANCES} performances of {SEATS} seats: {what}"),
        figures: Figures::new(values),
        digits: 2,
        objective: Objective::None,
        behind: behind.clone(),
    };
    Ok(Measured::from(vec![
        finding("seconds to warm it", seconds),
        finding("MiB by which the server's memory grew", bytes),
    ]))
}
