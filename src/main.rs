//! The `frontrow` program: arguments → configuration → the command.

use std::process::ExitCode;

use clap::Parser as _;
use frontrow::app::cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    cli::run(cli::Arguments::parse()).await
}
