//! The server under test: one instance as `frontrow serve` runs it, with the bare handlers beside its routes.

use frontrow::app::config::Config;
use frontrow::app::serve;
use frontrow::app::state::State;
use frontrow::platform::clock::Clock;
use frontrow::platform::shutdown::Shutdown;
use frontrow::platform::telemetry;
use tokio::io::AsyncReadExt as _;

use crate::{bare, far, prepare, rush};

/// Serves until standard input ends.
///
/// # Errors
/// As [`serve::run`].
pub async fn run() -> anyhow::Result<()> {
    let config = Config::load(None, &[])?;
    telemetry::init_logs(&config.log)?;
    let state = State::new(config, Clock::default())?;
    let shutdown = Shutdown::default();
    let listener = serve::bind(&state.config.http.addr).await?;
    println!("{}", listener.local_addr()?);
    let others = bare::router(&state).merge(prepare::router(&state)).merge(rush::server::router(&state)?);
    let others = others.merge(far::router(&state, &shutdown).await?);
    tokio::spawn(end_with_input(shutdown.clone()));
    Box::pin(serve::run_with(state, listener, shutdown, others)).await
}

async fn end_with_input(shutdown: Shutdown) {
    let mut input = tokio::io::stdin();
    while input.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
    shutdown.request();
}
