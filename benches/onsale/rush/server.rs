//! The server's side: takes a task, goes about it, and keeps the answer until it is fetched.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use frontrow::accounts::UserId;
use frontrow::app::state::State;
use frontrow::platform::clock::Clock;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use super::bare::Bare;
use super::bare_pay::Due;
use super::halls::{self, Hall};
use super::{Task, buyers, journeys, refusals, sale, till};

/// Longest wait for the connections of another instance.
const REDIS_WAIT: Duration = Duration::from_secs(10);

struct Doing {
    state: State,
    bare: Bare,
    /// A second instance, without the work that one of all does.
    other: OnceCell<State>,
    operator: OnceCell<UserId>,
    halls: Mutex<Vec<Arc<Hall>>>,
    dues: Mutex<Vec<Due>>,
    under_way: Mutex<Option<JoinHandle<anyhow::Result<Value>>>>,
}

/// Its route.
///
/// # Errors
/// Where the database's address makes no sense.
pub fn router(state: &State) -> anyhow::Result<Router> {
    let doing = Doing {
        bare: Bare::new(state.config.database.url.expose())?,
        state: state.clone(),
        other: OnceCell::new(),
        operator: OnceCell::new(),
        halls: Mutex::default(),
        dues: Mutex::default(),
        under_way: Mutex::default(),
    };
    Ok(Router::new().route("/rush", get(fetch).post(begin)).with_state(Arc::new(doing)))
}

/// Begins a task.
async fn begin(Shared(doing): Shared<Arc<Doing>>, Json(task): Json<Task>) -> StatusCode {
    let begun = tokio::spawn(doing.clone().perform(task));
    *lock(&doing.under_way) = Some(begun);
    StatusCode::ACCEPTED
}

/// The answer of the last task: 204 while it is under way.
async fn fetch(Shared(doing): Shared<Arc<Doing>>) -> Response {
    let done = lock(&doing.under_way).take_if(|task| task.is_finished());
    let Some(done) = done else { return StatusCode::NO_CONTENT.into_response() };
    // Not as a 500, whose text is the server's own.
    Json(done.await.context("it panicked").flatten().map_err(|error| format!("{error:#}"))).into_response()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Another instance over the same servers.
async fn another(state: &State) -> anyhow::Result<State> {
    let other = State::new((*state.config).clone(), Clock::default())?;
    other.db.align_clock().await?;
    ensure!(other.redis.wait_for_connect(REDIS_WAIT).await, "Redis does not answer");
    Ok(other)
}

impl Doing {
    async fn perform(self: Arc<Self>, task: Task) -> anyhow::Result<Value> {
        let sql = self.bare.pool();
        match task {
            Task::Hall { seats, buyers } => {
                let operator = *self.operator.get_or_try_init(|| halls::operator(&self.state)).await?;
                let mut hall = Hall::make(&self.state, operator, seats, 1).await?;
                let people = std::iter::repeat_with(UserId::new).take(buyers);
                hall.buyers = hall.admit(&self.state, sql, people).await?;
                hall.make_filter(&self.state, 0).await?;
                let mut halls = lock(&self.halls);
                halls.push(Arc::new(hall));
                Ok(json!(halls.len() - 1))
            }
            Task::Rush(rush) => {
                let hall = self.hall(rush.hall)?;
                Ok(json!(buyers::run(self.state.clone(), self.bare.clone(), hall, rush).await?))
            }
            Task::Sell { hall, quantity, at_once } => {
                let other = self.other.get_or_try_init(|| another(&self.state)).await?.clone();
                let instances = [self.state.clone(), other];
                Ok(json!(sale::run(instances, self.hall(hall)?, quantity, at_once).await?))
            }
            Task::Clear { hall, holds, seats } => {
                let hall = self.hall(hall)?;
                hall.check(sql, holds, seats).await?;
                hall.clear(&self.state, sql).await?;
                Ok(Value::Null)
            }
            Task::Fill { hall } => {
                *lock(&self.dues) = till::fill(sql, &*self.hall(hall)?).await?;
                Ok(Value::Null)
            }
            Task::Pay { maker, at_once, millis } => {
                let dues = std::mem::take(&mut *lock(&self.dues));
                Ok(json!(till::run(self.state.clone(), sql.clone(), dues, (maker, at_once, millis)).await?))
            }
            Task::Audit { paid } => Ok(json!(till::check(sql, paid).await?)),
            Task::Journeys { seats, at_once, millis } => {
                let operator = *self.operator.get_or_try_init(|| halls::operator(&self.state)).await?;
                let hall = Hall::make(&self.state, operator, seats, 10_000).await?;
                hall.make_filter(&self.state, 0).await?;
                Ok(json!(journeys::run(self.state.clone(), sql, hall, (at_once, millis)).await?))
            }
            Task::Refusals { hall, count } => {
                let hall = self.hall(hall)?;
                Ok(json!({
                    "path": format!("/v1/performances/{}/holds", hall.performance),
                    "values": refusals::make(&self.state, sql, &hall, count).await?,
                }))
            }
        }
    }

    fn hall(&self, number: usize) -> anyhow::Result<Arc<Hall>> {
        lock(&self.halls).get(number).cloned().context("no such hall")
    }
}
