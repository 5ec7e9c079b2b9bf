//! Routes of the server under test that make many buyers and places at once, and warm concerts, by the library's own functions.
//!
//! Places are real joins through [`Queue::join`]: the scripts, the ceiling and whatever is written behind them run as for
//! anybody. Only the requests are spared.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::extract::{Path, State as Shared};
use axum::routing::post;
use frontrow::accounts::{Accounts, UserId};
use frontrow::app::state::State;
use frontrow::catalog::{ConcertId, Warmer};
use frontrow::platform::config::Secret;
use frontrow::platform::error::Problem;
use frontrow::queue::Queue;
use futures::{StreamExt as _, TryStreamExt as _};

/// Of everybody here.
const PASSWORD: &str = "bench: nobody signs in with it";
/// Joins under way at once.
const JOINS_AT_ONCE: usize = 256;

#[derive(Clone)]
struct Prepare {
    accounts: Arc<Accounts>,
    queue: Arc<Queue>,
    warmer: Warmer,
    /// How the warming that ended last went.
    warmed: Arc<Mutex<String>>,
}

/// The routes.
pub fn router(state: &State) -> Router {
    let (accounts, queue, warmer) = (state.accounts.clone(), state.queue.clone(), state.warmer.clone());
    let prepare = Prepare { accounts, queue, warmer, warmed: Arc::default() };
    Router::new()
        .route("/prepare/operator", post(operator))
        .route("/prepare/buyers/{count}", post(buyers))
        .route("/prepare/places/{concert}/{count}", post(places))
        .route("/prepare/warm/{concert}", post(warm))
        .route("/prepare/warmed", post(warmed))
        .with_state(prepare)
}

/// Makes an operator; the answer is their access token.
async fn operator(Shared(prepare): Shared<Prepare>) -> Result<String, Problem> {
    let made = prepare.accounts.create_operator("bench@example.com", Secret::new(PASSWORD)).await?;
    Ok(made.1)
}

/// Makes buyers; the answer is an access token a line.
async fn buyers(Shared(prepare): Shared<Prepare>, Path(count): Path<u32>) -> Result<String, Problem> {
    let made = prepare.accounts.create_many(count, PASSWORD).await?;
    Ok(lines(made.into_iter().map(|(_, token)| token)))
}

/// Gives places to people whom nobody has seen before; the answer is a ticket a line.
async fn places(
    Shared(prepare): Shared<Prepare>,
    Path((concert, count)): Path<(uuid::Uuid, usize)>,
) -> Result<String, Problem> {
    let joins = futures::stream::iter(0..count).map(|_| prepare.queue.join(ConcertId(concert), UserId::new(), None));
    let joined: Vec<String> = joins.buffered(JOINS_AT_ONCE).map_ok(|(ticket, ..)| ticket).try_collect().await?;
    Ok(lines(joined.into_iter()))
}

/// Begins to warm a concert: it may take longer than a request may.
async fn warm(Shared(prepare): Shared<Prepare>, Path(concert): Path<uuid::Uuid>) {
    prepare.tell(String::new());
    tokio::spawn(async move {
        let started = Instant::now();
        prepare.tell(match prepare.warmer.warm(ConcertId(concert)).await {
            Ok(()) => started.elapsed().as_secs_f64().to_string(),
            Err(problem) => problem.to_string(),
        });
    });
}

/// The seconds that it took, or what went wrong; nothing while it goes on.
async fn warmed(Shared(prepare): Shared<Prepare>) -> String {
    prepare.warmed.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Prepare {
    fn tell(&self, text: String) {
        *self.warmed.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}

fn lines(texts: impl Iterator<Item = String>) -> String {
    texts.fold(String::new(), |page, text| page + &text + "\n")
}
