//! A combiner: requests of one kind that arrive while a transaction is running go together into the next one, and each
//! gets an answer of its own. What a commit costs, it costs once for all of them.
//!
//! - Requests belong to a group, and a batch has requests of one group, in the order in which they came; where it does not
//!   matter what they are about, all of a lane are one group. Groups are spread over a few lanes; a lane runs one batch at a
//!   time. An idle lane begins at once: nobody waits for company.
//! - Bounded: how many wait in a lane and how many go into a batch. Who finds a lane full is refused at once.
//! - A batch that fails as a whole, though its database is there, is split: each of its requests runs alone, in a
//!   transaction of its own, so that only the one that is to blame fails.
//! - A batch waits for nobody's lock if its work can pass by what is locked: who would get nothing for it waits alone, beside the
//!   lane. Of these a few wait at once; the others are told what they would have got.
//! - A batch whose commit was not answered has taken effect or has not: that is found out before anybody is answered. Where
//!   it has not, it runs once more.
//! - Who goes away while waiting is left out; who goes away later changes nothing for anybody.
//!
//! (The pattern is known as group commit in databases, and as flat combining in shared memory: Hendler, Incze, Shavit and
//! Tzafrir, "Flat combining and the synchronization-parallelism tradeoff", 2010.)

use std::collections::VecDeque;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::{BoxFuture, join_all};
use prometheus::{HistogramVec, IntCounterVec};
use tokio::sync::{Semaphore, oneshot};
use uuid::Uuid;

use super::db::{Conn, Db};
use super::error::{Fault, Problem, codes};
use super::telemetry::metrics;

/// Requests of a split batch that run at once.
const SPLIT_WIDTH: usize = 4;
/// Requests of an instance that wait for somebody's lock, each alone, at once.
const BESIDE_MAX: usize = 4;
/// How often it is tried to find out what became of a batch, and the pause before each further time.
const FIND_OUT_TRIES: u32 = 4;
const FIND_OUT_PAUSE: Duration = Duration::from_millis(250);

static SIZE: LazyLock<HistogramVec> = LazyLock::new(|| {
    let sizes = vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
    metrics::histogram_of("frontrow_combiner_batch_requests", "Requests of a batch.", &["name"], sizes)
});
static WAIT: LazyLock<HistogramVec> = LazyLock::new(|| {
    metrics::histogram("frontrow_combiner_wait_seconds", "Time that a request waited for its batch.", &["name"])
});
static SPLITS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter("frontrow_combiner_splits_total", "Batches that failed and were run one by one.", &["name"])
});
static FOUND_OUT: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter(
        "frontrow_combiner_unanswered_total",
        "Batches whose commit was not answered, by what had become of them.",
        &["name", "result"],
    )
});

/// The answers to a batch, in the order of its requests.
pub type Answers<T> = Vec<Result<T, Problem>>;

/// What is combined.
pub trait Work: fmt::Debug + Send + Sync + 'static {
    /// What one caller asks for.
    type Request: Send + Sync + 'static;
    /// What it is told.
    type Answer: Send + 'static;
    /// The name of the transaction, in metrics and logs.
    const NAME: &'static str;

    /// Does what all of them ask for, in the transaction that `conn` is in. May run several times: nothing but SQL. What passes
    /// by a lock answers those who may get something yet with a problem whose fault is [`Fault::LockWait`].
    fn run<'c>(
        conn: &'c mut Conn,
        batch: &'c [Arc<Self::Request>],
    ) -> BoxFuture<'c, Result<Answers<Self::Answer>, Problem>>;

    /// The same for one of those, which waits.
    fn run_waiting<'c>(
        conn: &'c mut Conn,
        batch: &'c [Arc<Self::Request>],
    ) -> BoxFuture<'c, Result<Answers<Self::Answer>, Problem>> {
        Self::run(conn, batch)
    }

    /// The answers of a batch whose commit was not answered: none where it did not take effect. It must wait for a
    /// transaction that may still be at it: by a read that locks what a commit would have left.
    fn find_out<'c>(
        conn: &'c mut Conn,
        batch: &'c [Arc<Self::Request>],
    ) -> BoxFuture<'c, Result<Option<Answers<Self::Answer>>, Problem>>;

    /// What is done once it is known what has become of a batch, before its callers are told.
    fn ended<'a>(&'a self, batch: &'a [Arc<Self::Request>], answers: &'a Answers<Self::Answer>) -> BoxFuture<'a, ()>;
}

/// How a combiner is bounded.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Transactions at once.
    pub lanes: usize,
    /// Requests of a batch at most.
    pub batch_max: usize,
    /// Requests that may wait in a lane.
    pub waiting_max: usize,
}

/// Combines the requests of one instance. Clones share its lanes.
pub struct Combiner<W: Work>(Arc<Inner<W>>);

struct Inner<W: Work> {
    db: Db,
    work: W,
    bounds: Bounds,
    lanes: Vec<Mutex<Lane<W>>>,
    /// One batch at a time is run one by one beside its lane.
    splitting: Arc<Semaphore>,
    beside: Arc<Semaphore>,
}

struct Lane<W: Work> {
    waiting: VecDeque<Waiting<W>>,
    is_running: bool,
}

struct Waiting<W: Work> {
    group: Uuid,
    request: Arc<W::Request>,
    since: Instant,
    caller: oneshot::Sender<Result<W::Answer, Problem>>,
}

/// What runs together.
struct Batch<W: Work> {
    requests: Vec<Arc<W::Request>>,
    callers: Vec<oneshot::Sender<Result<W::Answer, Problem>>>,
}

impl<W: Work> Clone for Combiner<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<W: Work> fmt::Debug for Combiner<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Combiner").field("work", &self.0.work).finish_non_exhaustive()
    }
}

impl<W: Work> Combiner<W> {
    /// With idle lanes.
    #[must_use]
    pub fn new(db: Db, work: W, bounds: Bounds) -> Self {
        let lane = || Mutex::new(Lane { waiting: VecDeque::new(), is_running: false });
        let lanes = std::iter::repeat_with(lane).take(bounds.lanes.max(1)).collect();
        let (splitting, beside) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(BESIDE_MAX)));
        Self(Arc::new(Inner { db, work, bounds, lanes, splitting, beside }))
    }

    /// Has the request done with the next batch of its group, and waits for its answer.
    ///
    /// # Errors
    /// `overloaded` where too many wait already, and whatever the request itself is refused with.
    pub async fn submit(&self, group: Uuid, request: W::Request) -> Result<W::Answer, Problem> {
        self.submit_to(self.0.lane_of(group), group, request).await
    }

    /// As [`Combiner::submit`], for requests that may share a transaction whatever they are about. `by` chooses the lane:
    /// requests that need each other's rows, and so have it in common, do not wait for them in two transactions at once.
    ///
    /// # Errors
    /// As [`Combiner::submit`].
    pub async fn submit_by(&self, by: Uuid, request: W::Request) -> Result<W::Answer, Problem> {
        self.submit_to(self.0.lane_of(by), Uuid::nil(), request).await
    }

    async fn submit_to(&self, number: usize, group: Uuid, request: W::Request) -> Result<W::Answer, Problem> {
        let (caller, answer) = oneshot::channel();
        {
            let mut lane = self.0.lane(number);
            if lane.waiting.len() >= self.0.bounds.waiting_max {
                return Err(Problem::new(&codes::OVERLOADED).fault_of(Fault::Exhausted));
            }
            lane.waiting.push_back(Waiting { group, request: Arc::new(request), since: Instant::now(), caller });
            if !lane.is_running {
                lane.is_running = true;
                tokio::spawn(self.0.clone().run_lane(number));
            }
        }
        answer.await.unwrap_or_else(|error| Err(Problem::internal(error)))
    }
}

/// Clears a lane's mark if its task ends in any other way than by finding nothing to do.
struct Running<W: Work> {
    inner: Arc<Inner<W>>,
    number: usize,
}

impl<W: Work> Drop for Running<W> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut lane = self.inner.lane(self.number);
            lane.is_running = false;
            // Their callers hear that something unexpected happened.
            lane.waiting.clear();
        }
    }
}

impl<W: Work> Inner<W> {
    fn lane_of(&self, group: Uuid) -> usize {
        let mut hasher = DefaultHasher::new();
        group.hash(&mut hasher);
        usize::try_from(hasher.finish() % self.lanes.len() as u64).unwrap_or(0)
    }

    fn lane(&self, number: usize) -> MutexGuard<'_, Lane<W>> {
        self.lanes[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run_lane(self: Arc<Self>, number: usize) {
        let _running = Running { inner: self.clone(), number };
        while let Some(batch) = self.next_batch(number) {
            self.clone().answer(batch).await;
        }
    }

    /// The next batch; where there is none, the lane is idle from then on.
    fn next_batch(&self, number: usize) -> Option<Batch<W>> {
        let mut lane = self.lane(number);
        lane.waiting.retain(|one| !one.caller.is_closed());
        let Some(group) = lane.waiting.front().map(|first| first.group) else {
            lane.is_running = false;
            return None;
        };
        let mut batch = Batch { requests: Vec::new(), callers: Vec::new() };
        let mut later = VecDeque::new();
        for one in std::mem::take(&mut lane.waiting) {
            if one.group == group && batch.requests.len() < self.bounds.batch_max.max(1) {
                WAIT.with_label_values(&[W::NAME]).observe(one.since.elapsed().as_secs_f64());
                batch.requests.push(one.request);
                batch.callers.push(one.caller);
            } else {
                later.push_back(one);
            }
        }
        lane.waiting = later;
        Some(batch)
    }

    async fn answer(self: Arc<Self>, batch: Batch<W>) {
        SIZE.with_label_values(&[W::NAME]).observe(f64::from(u32::try_from(batch.requests.len()).unwrap_or(u32::MAX)));
        let result = self.run(batch.requests.clone(), false).await;
        match result {
            Err(problem) if batch.requests.len() > 1 && is_of_one(&problem) => {
                SPLITS.with_label_values(&[W::NAME]).inc();
                tracing::warn!(work = W::NAME, requests = batch.requests.len(), %problem, "a batch is run one by one");
                match self.splitting.clone().try_acquire_owned() {
                    // The lane goes on meanwhile.
                    Ok(permit) => drop(tokio::spawn(async move {
                        self.split(batch).await;
                        drop(permit);
                    })),
                    Err(_) => self.split(batch).await,
                }
            }
            // Beside the lane, which goes on meanwhile.
            Ok(answers) if answers.len() == batch.requests.len() && answers.iter().any(may_wait) => {
                drop(tokio::spawn(async move { self.tell_or_wait(batch, answers).await }));
            }
            result => drop(tokio::spawn(async move { self.tell(batch, result).await })),
        }
    }

    /// Tells the answers, but for those of whom somebody's lock was in the way: as many of them as there is room for run again
    /// alone, and wait.
    async fn tell_or_wait(&self, batch: Batch<W>, answers: Answers<W::Answer>) {
        let (mut told, mut known) = (Batch { requests: Vec::new(), callers: Vec::new() }, Vec::new());
        let mut waiting = Vec::new();
        for ((request, caller), answer) in batch.requests.into_iter().zip(batch.callers).zip(answers) {
            if let Some(Ok(place)) = may_wait(&answer).then(|| self.beside.try_acquire()) {
                let alone = Batch { requests: vec![request], callers: vec![caller] };
                waiting.push(async move {
                    let result = self.run(alone.requests.clone(), true).await;
                    self.tell(alone, result).await;
                    drop(place);
                });
            } else {
                told.requests.push(request);
                told.callers.push(caller);
                known.push(answer);
            }
        }
        tokio::join!(self.tell(told, Ok(known)), join_all(waiting));
    }

    /// Each request of a batch in a transaction of its own.
    async fn split(&self, batch: Batch<W>) {
        let waiting = batch.requests.into_iter().zip(batch.callers).filter(|(_, caller)| !caller.is_closed());
        let alone = waiting.map(|(request, caller)| async {
            let batch = Batch { requests: vec![request], callers: vec![caller] };
            let result = self.run(batch.requests.clone(), false).await;
            self.tell(batch, result).await;
        });
        futures::stream::iter(alone).buffer_unordered(SPLIT_WIDTH).collect::<()>().await;
    }

    async fn tell(&self, batch: Batch<W>, result: Result<Answers<W::Answer>, Problem>) {
        let count = batch.requests.len();
        let answers = match result {
            Ok(answers) if answers.len() == count => answers,
            Ok(answers) => {
                let problem = Problem::internal(anyhow::anyhow!("{} answers to {count} requests", answers.len()));
                batch.requests.iter().map(|_| Err(problem.again())).collect()
            }
            Err(problem) => batch.requests.iter().map(|_| Err(problem.again())).collect(),
        };
        self.work.ended(&batch.requests, &answers).await;
        for (caller, answer) in batch.callers.into_iter().zip(answers) {
            // Who has gone away does not hear it.
            let _ = caller.send(answer);
        }
    }

    /// Runs a batch in one transaction; once more where it turns out that a commit was lost, or that somebody has just written
    /// a row which a request that is alone can find now.
    async fn run(&self, requests: Vec<Arc<W::Request>>, waits: bool) -> Result<Answers<W::Answer>, Problem> {
        let requests = Arc::new(requests);
        let (result, is_lost) = self.run_known(&requests, waits).await;
        match result {
            Err(problem) if is_lost || requests.len() == 1 && problem.fault() == Some(Fault::Duplicate) => {
                tracing::debug!(work = W::NAME, %problem, "a batch runs once more");
                self.run_known(&requests, waits).await.0
            }
            known => known,
        }
    }

    /// Runs a batch once. A failure that is not marked as unanswered had no effect. Tells, too, whether it failed because its
    /// commit never arrived.
    async fn run_known(
        &self,
        requests: &Arc<Vec<Arc<W::Request>>>,
        waits: bool,
    ) -> (Result<Answers<W::Answer>, Problem>, bool) {
        let problem = match self.run_once(requests, waits).await {
            Err(problem) if problem.is_unanswered() => problem,
            known => return (known, false),
        };
        let found = self.find_out(requests).await;
        let result = match &found {
            Ok(Some(_)) => "committed",
            Ok(None) => "not_committed",
            Err(_) => "unknown",
        };
        FOUND_OUT.with_label_values(&[W::NAME, result]).inc();
        // What took too long would do so again.
        let is_lost = matches!(found, Ok(None)) && problem.code() != &codes::TIMED_OUT;
        let result = match found {
            Ok(Some(answers)) => Ok(answers),
            Ok(None) => Err(problem.without_effect()),
            Err(_) => Err(problem),
        };
        (result, is_lost)
    }

    async fn run_once(&self, requests: &Arc<Vec<Arc<W::Request>>>, waits: bool) -> Result<Answers<W::Answer>, Problem> {
        // A batch that must wait for somebody's lock is split rather than run again and again.
        let limit = if requests.len() > 1 { self.db.lock_limit() } else { self.db.unit_limit() };
        let input = (requests.clone(), waits);
        self.db
            .in_tx_within(W::NAME, limit, input, |conn, (requests, waits)| {
                if *waits { W::run_waiting(conn, requests) } else { W::run(conn, requests) }
            })
            .await
    }

    async fn find_out(&self, requests: &Arc<Vec<Arc<W::Request>>>) -> Result<Option<Answers<W::Answer>>, Problem> {
        let mut tries = 0;
        loop {
            let asked = self.db.in_tx(W::NAME, requests.clone(), |conn, requests| W::find_out(conn, requests)).await;
            tries += 1;
            match asked {
                Err(problem) if tries < FIND_OUT_TRIES => {
                    tracing::debug!(work = W::NAME, %problem, "what became of a batch is not known yet");
                    tokio::time::sleep(FIND_OUT_PAUSE).await;
                }
                known => return known,
            }
        }
    }
}

/// Whether somebody's lock was in the way of what this is the answer to.
fn may_wait<T>(answer: &Result<T, Problem>) -> bool {
    answer.as_ref().is_err_and(|problem| problem.fault() == Some(Fault::LockWait))
}

/// Whether what failed may be the doing of a single request. Where the database is away or full, nobody is to blame.
fn is_of_one(problem: &Problem) -> bool {
    let is_away = matches!(problem.fault(), Some(Fault::Disconnected | Fault::ReadOnly | Fault::Exhausted));
    // What may have taken effect must not be tried again request by request.
    !is_away && !problem.is_unanswered()
}
