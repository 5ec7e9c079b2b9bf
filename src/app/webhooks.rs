//! `frontrow webhooks`: dead letters, listed and sent again.

use std::io::Write as _;

use anyhow::Context as _;
use uuid::Uuid;

use super::state::State;
use crate::notices::webhooks::EndpointId;
use crate::platform::clock::Timestamp;

/// Dead letters read by one statement.
const PER_READ: u32 = 500;

/// What to send again.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Resend {
    /// The dead letters of this webhook.
    #[arg(long)]
    endpoint: Option<EndpointId>,
    /// Those of every webhook.
    #[arg(long)]
    all: bool,
}

/// Prints a JSON line for each dead letter, oldest first.
///
/// # Errors
/// Where the database fails, or the output cannot be written.
pub(super) async fn dead(state: &State) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let start = Timestamp::from_millis(0).context("the beginning of time")?;
    let mut after = (start, Uuid::nil());
    loop {
        let letters = state.webhooks.list_dead(after, PER_READ).await?;
        for letter in &letters {
            writeln!(out, "{}", serde_json::to_string(letter)?)?;
        }
        match letters.last() {
            Some(last) if letters.len() >= PER_READ as usize => after = (last.dead_since, last.event_id),
            _ => break,
        }
    }
    out.flush().context("cannot write")
}

/// Makes dead letters due again; running instances send them.
///
/// # Errors
/// Where there is no such webhook that is active, or the database fails.
pub(super) async fn resend(state: &State, given: &Resend) -> anyhow::Result<()> {
    let endpoint = given.endpoint.filter(|_| !given.all);
    let count = state.webhooks.resend(endpoint).await?;
    println!("{count} deliveries are due again");
    Ok(())
}
