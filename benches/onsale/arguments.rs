//! The command line. Cargo adds `--bench`.

use std::time::Duration;

use anyhow::bail;
use clap::{Parser, Subcommand};

use crate::rounds::Pace;

/// Fewer rounds say nothing about the spread.
const ROUNDS_MIN: usize = 5;
/// A pause before each measurement.
const SETTLING: Duration = Duration::from_millis(500);

/// Measures frontrow against bare handlers.
#[derive(Debug, Parser)]
#[command(name = "onsale")]
pub struct Arguments {
    /// The rows to measure, separated by commas; all of them if left out.
    #[arg(long, value_delimiter = ',')]
    pub rows: Vec<String>,
    /// Rounds of each row: at least five.
    #[arg(long, default_value_t = ROUNDS_MIN, value_parser = rounds)]
    rounds: usize,
    /// Seconds of each measurement of a round.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    secs: u64,
    /// Cargo's sign that something is to be measured.
    #[arg(long, hide = true)]
    pub bench: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the benchmark starts itself.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The server under test: prints its address, ends with its standard input.
    #[command(hide = true)]
    Serve,
    /// Listeners of a stream: counts what they receive, ends with its standard input.
    #[command(hide = true)]
    Listen {
        /// Host and port.
        address: String,
        /// Of the stream.
        path: String,
        /// How many.
        count: usize,
    },
}

impl Arguments {
    /// How long and how often everything is measured.
    pub fn pace(&self) -> Pace {
        Pace { rounds: self.rounds, length: Duration::from_secs(self.secs), settling: SETTLING }
    }
}

fn rounds(text: &str) -> anyhow::Result<usize> {
    let rounds: usize = text.parse()?;
    if !(ROUNDS_MIN..=100).contains(&rounds) {
        bail!("from {ROUNDS_MIN} to 100");
    }
    Ok(rounds)
}
