//! `frontrow payments`: payments by card that stay open, listed and ended by hand.

use std::io::Write as _;

use anyhow::{Context as _, bail};
use clap::ValueEnum;

use super::state::State;
use crate::payments::{ByHand, ClosedAs, PaymentId};

/// How a payment ends that nobody else can end.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum As {
    /// The provider never charged it: the hold, or the charge of points, comes to nothing.
    NotCharged,
    /// The money that is owed was given back in another way.
    Refunded,
}

/// What to end, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Close {
    /// The payment.
    #[arg(long)]
    id: PaymentId,
    /// What became of the money, as the provider's own pages say.
    #[arg(long = "as", value_enum)]
    as_what: As,
}

/// Prints a JSON line for each open payment, those that are due first.
///
/// # Errors
/// Where the database fails, or the output cannot be written.
pub(super) async fn open(state: &State) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for payment in state.attempts.list_open().await? {
        writeln!(out, "{}", serde_json::to_string(&payment)?)?;
    }
    out.flush().context("cannot write")
}

/// Ends a payment, with everything that its end brings along.
///
/// # Errors
/// Where there is no such payment that is open in this way, or the database fails.
pub(super) async fn close(state: &State, given: &Close) -> anyhow::Result<()> {
    let closed = match given.as_what {
        As::NotCharged => ClosedAs::NotCharged,
        As::Refunded => ClosedAs::Refunded,
    };
    match state.attempts.close_by_hand(given.id, closed).await? {
        ByHand::Closed => println!("payment {} is closed", given.id),
        ByHand::NotOpen => bail!("payment {} is not open in this way: see frontrow payments open", given.id),
        ByHand::Contradicted => bail!(
            "the provider says otherwise of payment {}: it was charged or may be, or its refund is on the way",
            given.id
        ),
        ByHand::Unanswered => bail!(
            "the provider does not say what became of payment {}, or payments.base_url is not set: nothing is changed",
            given.id
        ),
    }
    Ok(())
}
