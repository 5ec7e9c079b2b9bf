//! The rows. To add one: a file with a `measure` like the others', and its line here.

mod availability;
mod concert;
mod events;
mod far;
mod growth;
mod holds;
mod join;
mod journeys;
mod latency;
mod memory;
mod pay;
mod poll;
mod refused;
mod sold_out;
mod warm;

use anyhow::bail;
use futures::future::LocalBoxFuture;

use crate::stage::Stage;
use crate::table::Measured;

/// A row: what it is called on the command line, and how it is measured.
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Measures it, rounds and all.
    pub measure: for<'s> fn(&'s Stage) -> LocalBoxFuture<'s, anyhow::Result<Measured>>,
}

const ROWS: &[Row] = &[
    Row { name: "poll", measure: |stage| Box::pin(poll::measure(stage)) },
    Row { name: "join", measure: |stage| Box::pin(join::measure(stage)) },
    Row { name: "availability", measure: |stage| Box::pin(availability::measure(stage)) },
    Row { name: "concert", measure: |stage| Box::pin(concert::measure(stage)) },
    Row { name: "far", measure: |stage| Box::pin(far::measure(stage)) },
    Row { name: "warm", measure: |stage| Box::pin(warm::measure(stage)) },
    Row { name: "latency", measure: |stage| Box::pin(latency::measure(stage)) },
    Row { name: "memory", measure: |stage| Box::pin(memory::measure(stage)) },
    Row { name: "events", measure: |stage| Box::pin(events::measure(stage)) },
    Row { name: "holds", measure: |stage| Box::pin(holds::measure(stage)) },
    Row { name: "pay", measure: |stage| Box::pin(pay::measure(stage)) },
    Row { name: "journeys", measure: |stage| Box::pin(journeys::measure(stage)) },
    Row { name: "refused", measure: |stage| Box::pin(refused::measure(stage)) },
    Row { name: "sold_out", measure: |stage| Box::pin(sold_out::measure(stage)) },
    Row { name: "growth", measure: |stage| Box::pin(growth::measure(stage)) },
];

/// The rows of these names, in the table's order; all of them where none is named.
///
/// # Errors
/// Where a name is unknown.
pub fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Row>> {
    if let Some(unknown) = names.iter().find(|name| ROWS.iter().all(|row| row.name != **name)) {
        let known: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        bail!("there is no row {unknown}, but {}", known.join(", "));
    }
    Ok(ROWS.iter().filter(|row| names.is_empty() || names.iter().any(|name| name == row.name)).collect())
}
