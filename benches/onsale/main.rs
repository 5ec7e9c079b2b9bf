//! `make bench`: what frontrow adds to the least that could be done, measured side by side.
//!
//! One run starts private services and one server, and measures both sides of a row in turn, round by round: absolute
//! figures depend on the machine and on what else it does, ratios from the same minute much less. The server under test
//! is a process of its own (`serve.rs`), made of the program's own parts and release build; bare handlers (`bare.rs`) stand
//! behind the same accept loop and layers. The load comes from another process: wrk, or the listeners of `listen.rs`.
//!
//! A row is one file of `rows/` and its line in `rows/mod.rs`. docs/BENCHMARKS.md tells how to read the table.

mod arguments;
mod bare;
mod events;
mod far;
mod figures;
mod listen;
mod load;
mod machine;
mod prepare;
mod process;
mod rounds;
mod rows;
mod rush;
mod serve;
mod stage;
mod table;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use arguments::{Arguments, Command};
use stage::Stage;

// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.command.is_none() && !arguments.bench {
        // `cargo test --all-targets` runs benchmarks too, to see that they start.
        println!("onsale: measures only where `cargo bench` starts it: see `make bench`");
        return ExitCode::SUCCESS;
    }
    match execute(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("onsale: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(arguments: &Arguments) -> anyhow::Result<()> {
    let mut runtime = match &arguments.command {
        // As many threads as the program has.
        Some(Command::Serve) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = runtime.enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        match &arguments.command {
            Some(Command::Serve) => Box::pin(serve::run()).await,
            Some(Command::Listen { address, path, count }) => listen::run(address, path, *count).await,
            None => Box::pin(measure(arguments)).await,
        }
    })
}

async fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let rows = rows::chosen(&arguments.rows)?;
    let wrk = load::version()?;
    let stage = Stage::open(arguments.pace()).await?;
    let measured = measure_rows(&rows, &stage, &wrk).await;
    stage.close().await;
    measured
}

async fn measure_rows(rows: &[&rows::Row], stage: &Stage, wrk: &str) -> anyhow::Result<()> {
    println!("{}", machine::facts(stage, wrk).await?);
    let (mut table, mut failed) = (table::Table::default(), Vec::new());
    for row in rows {
        eprintln!("onsale: {} …", row.name);
        match (row.measure)(stage).await {
            Ok(findings) => table.add(row, &findings),
            Err(error) => {
                eprintln!("onsale: the row {} could not be measured: {error:#}", row.name);
                failed.push(row.name);
            }
        }
    }
    println!("{table}");
    println!("{}", machine::closing()?);
    anyhow::ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}
