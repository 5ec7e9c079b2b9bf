//! Requests that share transactions: each gets an answer of its own, whatever becomes of the others.

use std::sync::Arc;
use std::time::Duration;

use frontrow::platform::combiner::{Answers, Bounds, Combiner, Work};
use frontrow::platform::db::{Conn, Db};
use frontrow::platform::error::Problem;
use frontrow::platform::telemetry::metrics;
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use sqlx::{AssertSqlSafe, Executor as _};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::support::proxy::sabotage::Sabotage;
use crate::support::world::address_of;
use crate::support::{Proxy, World, eventually};

const BOUNDS: Bounds = Bounds { lanes: 2, batch_max: 8, waiting_max: 100 };

/// What a request does to its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Writes a row.
    Plain,
    /// Is refused, and writes nothing.
    Refused,
    /// Breaks its transaction, by a statement that no server takes.
    Poisoned,
    /// Panics.
    Panicking,
}

#[derive(Debug)]
struct Note {
    id: u64,
    kind: Kind,
}

/// Writes notes. Tells each batch that ended, and waits while it is held up.
#[derive(Debug)]
struct Notes {
    ended: mpsc::UnboundedSender<Vec<u64>>,
}

impl Work for Notes {
    type Request = Note;
    type Answer = u64;
    const NAME: &'static str = "test.notes";

    fn run<'c>(conn: &'c mut Conn, batch: &'c [Arc<Note>]) -> BoxFuture<'c, Result<Answers<u64>, Problem>> {
        Box::pin(async move {
            let mut answers = Vec::new();
            for note in batch {
                match note.kind {
                    Kind::Plain => {
                        let insert = format!("INSERT INTO notes (id) VALUES ({})", note.id);
                        conn.sql().execute(AssertSqlSafe(insert)).await?;
                        answers.push(Ok(note.id));
                    }
                    Kind::Refused => answers.push(Err(Problem::not_found("note"))),
                    Kind::Poisoned => {
                        conn.sql().execute("INSERT INTO notes (id) VALUES ('poison')").await?;
                    }
                    Kind::Panicking => panic!("in the middle of a batch"),
                }
            }
            Ok(answers)
        })
    }

    fn find_out<'c>(
        conn: &'c mut Conn,
        batch: &'c [Arc<Note>],
    ) -> BoxFuture<'c, Result<Option<Answers<u64>>, Problem>> {
        Box::pin(async move {
            let Some(first) = batch.iter().find(|note| note.kind == Kind::Plain) else { return Ok(None) };
            let find = format!("SELECT id FROM notes WHERE id = {} FOR UPDATE", first.id);
            let found = sqlx::raw_sql(AssertSqlSafe(find)).fetch_optional(conn.sql()).await?;
            Ok(found.map(|_| batch.iter().map(|note| Ok(note.id)).collect()))
        })
    }

    fn ended<'a>(&'a self, batch: &'a [Arc<Note>], _: &'a Answers<u64>) -> BoxFuture<'a, ()> {
        let _ = self.ended.send(batch.iter().map(|note| note.id).collect());
        async {}.boxed()
    }
}

struct Scene {
    world: World,
    combiner: Combiner<Notes>,
    ended: mpsc::UnboundedReceiver<Vec<u64>>,
    group: Uuid,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new().await;
        let db = world.state(&[]).db;
        Self::over(world, db, BOUNDS).await
    }

    async fn over(world: World, db: Db, bounds: Bounds) -> Self {
        let table = "CREATE TABLE notes (id BIGINT PRIMARY KEY) ENGINE = InnoDB";
        world.sql().await.execute(table).await.expect("a table");
        let (ended, batches) = mpsc::unbounded_channel();
        Self { world, combiner: Combiner::new(db, Notes { ended }, bounds), ended: batches, group: Uuid::now_v7() }
    }

    async fn note(&self, id: u64, kind: Kind) -> Result<u64, Problem> {
        self.combiner.submit(self.group, Note { id, kind }).await
    }

    async fn notes(&self) -> Vec<i64> {
        let all = "SELECT id FROM notes ORDER BY id";
        sqlx::query_scalar(all).fetch_all(&mut self.world.sql().await).await.expect("notes")
    }

    /// Somebody who keeps the next batch from ending: it wants to write the same note.
    async fn hold_up(&self, id: u64) -> sqlx::MySqlConnection {
        let mut sql = self.world.sql().await;
        sql.execute("START TRANSACTION").await.expect("a transaction");
        sql.execute(AssertSqlSafe(format!("INSERT INTO notes (id) VALUES ({id})"))).await.expect("a note");
        sql
    }

    /// Submits a request that is held up, then the others, which wait together; then lets go.
    async fn together(&self, kinds: &[(u64, Kind)]) -> Vec<Result<u64, Problem>> {
        let mut somebody = self.hold_up(0).await;
        let first = self.note(0, Kind::Plain);
        let others = async {
            self.world.wait_until_running("VALUES (0)").await;
            let others = kinds.iter().map(|(id, kind)| self.note(*id, *kind));
            let (answers, ()) = tokio::join!(join_all(others), async {
                somebody.execute("ROLLBACK").await.expect("an end");
            });
            answers
        };
        let (first, answers) = tokio::join!(first, others);
        assert_eq!(first.expect("an answer"), 0);
        answers
    }

    fn batches(&mut self) -> Vec<Vec<u64>> {
        std::iter::from_fn(|| self.ended.try_recv().ok()).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_meanwhile_shares_the_next_transaction() {
    let mut scene = Scene::new().await;
    assert_eq!(scene.note(1, Kind::Plain).await.expect("an answer"), 1);
    assert_eq!(scene.batches(), [[1]], "an idle lane waits for nobody");
    let kinds: Vec<(u64, Kind)> =
        (10..20).map(|id| (id, if id % 5 == 0 { Kind::Refused } else { Kind::Plain })).collect();
    let answers = scene.together(&kinds).await;
    for ((id, kind), answer) in kinds.iter().zip(&answers) {
        match (kind, answer) {
            (Kind::Refused, Err(problem)) => assert_eq!(problem.code().code, "not_found"),
            (_, answer) => assert_eq!(answer.as_ref().ok(), Some(id)),
        }
    }
    // In the order in which they came, and no more than go into a batch.
    assert_eq!(scene.batches(), [vec![0], (10..18).collect(), vec![18, 19]]);
    assert_eq!(scene.notes().await, [0, 1, 11, 12, 13, 14, 16, 17, 18, 19]);
    scene.world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_breaks_its_transaction_fails_alone() {
    let mut scene = Scene::new().await;
    for (round, kind) in [(100, Kind::Poisoned), (200, Kind::Panicking)] {
        let kinds: Vec<(u64, Kind)> = (1..6).map(|id| (round + id, if id == 3 { kind } else { Kind::Plain })).collect();
        let answers = scene.together(&kinds).await;
        for ((id, kind), answer) in kinds.iter().zip(&answers) {
            match answer {
                Ok(answered) => assert_eq!((answered, *kind), (id, Kind::Plain)),
                Err(problem) => assert_eq!((problem.code().code, *kind == Kind::Plain), ("internal", false)),
            }
        }
        let mut batches = scene.batches();
        batches.sort();
        assert_eq!(batches.len(), 6, "one by one: {batches:?}");
        scene.world.sql().await.execute("DELETE FROM notes WHERE id = 0").await.expect("room for the next");
    }
    assert_eq!(scene.notes().await, [101, 102, 104, 105, 201, 202, 204, 205]);
    scene.world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlocked_batch_runs_again_as_a_whole() {
    let mut scene = Scene::new().await;
    let before = metrics::db_retries("test.notes", "deadlock");
    let ballast = "CREATE TABLE ballast (id INT PRIMARY KEY, n INT) ENGINE = InnoDB";
    let mut heavy = scene.world.sql().await;
    heavy.execute(ballast).await.expect("a table");
    let rows: Vec<String> = (0..300).map(|id| format!("({id}, 0)")).collect();
    heavy.execute(AssertSqlSafe(format!("INSERT INTO ballast VALUES {}", rows.join(",")))).await.expect("rows");
    // The batch writes 1, then waits for 2; whoever has 2 then wants 1, and is too heavy to be the victim.
    heavy.execute("START TRANSACTION").await.expect("a transaction");
    heavy.execute("UPDATE ballast SET n = n + 1").await.expect("weight");
    heavy.execute("INSERT INTO notes (id) VALUES (2)").await.expect("a note");
    let kinds = [(1, Kind::Plain), (2, Kind::Plain), (3, Kind::Plain)];
    let (answers, ()) = tokio::join!(scene.together(&kinds), async {
        scene.world.wait_until_running("VALUES (2)").await;
        heavy.execute("INSERT INTO notes (id) VALUES (1)").await.expect("the heavier one goes on");
        heavy.execute("ROLLBACK").await.expect("an end");
    });
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert!(metrics::db_retries("test.notes", "deadlock") > before);
    assert_eq!(scene.batches(), [vec![0], vec![1, 2, 3]]);
    assert_eq!(scene.notes().await, [0, 1, 2, 3]);
    scene.world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_lane_refuses_at_once() {
    let world = World::new().await;
    let db = world.state(&[]).db;
    let scene = Scene::over(world, db, Bounds { waiting_max: 2, ..BOUNDS }).await;
    let mut somebody = scene.hold_up(0).await;
    let mut first = Box::pin(scene.note(0, Kind::Plain));
    assert!(first.as_mut().now_or_never().is_none());
    scene.world.wait_until_running("VALUES (0)").await;
    let mut waiting: Vec<_> = (1..3).map(|id| Box::pin(scene.note(id, Kind::Plain))).collect();
    for one in &mut waiting {
        assert!(one.as_mut().now_or_never().is_none(), "there is room for it");
    }
    let refused = scene.note(3, Kind::Plain).now_or_never().expect("at once").expect_err("a refusal");
    assert_eq!(refused.code().code, "overloaded");
    somebody.execute("ROLLBACK").await.expect("an end");
    assert_eq!(first.await.expect("an answer"), 0);
    assert!(join_all(waiting).await.iter().all(Result::is_ok));
    scene.world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_away_changes_nothing_for_the_others() {
    let mut scene = Scene::new().await;
    let mut somebody = scene.hold_up(0).await;
    let mut first = Box::pin(scene.note(0, Kind::Plain));
    assert!(first.as_mut().now_or_never().is_none());
    scene.world.wait_until_running("VALUES (0)").await;
    let mut waiting: Vec<_> = (1..6).map(|id| Box::pin(scene.note(id, Kind::Plain))).collect();
    for one in &mut waiting {
        assert!(one.as_mut().now_or_never().is_none());
    }
    // One whose transaction is running, and one that waits.
    drop(first);
    drop(waiting.remove(2));
    somebody.execute("ROLLBACK").await.expect("an end");
    let answers: Vec<u64> = join_all(waiting).await.into_iter().map(|answer| answer.expect("an answer")).collect();
    assert_eq!(answers, [1, 2, 4, 5]);
    assert_eq!(scene.batches(), [vec![0], vec![1, 2, 4, 5]]);
    assert_eq!(scene.notes().await, [0, 1, 2, 4, 5], "what had begun was done, what had not was not");
    scene.world.end(Vec::new()).await;
}

/// The first commit does something else, and then its connection is gone.
async fn unanswered(instead: &str) {
    let world = World::new().await;
    let sabotage = Sabotage::of_first_sql("COMMIT", &format!("{instead}; KILL CONNECTION_ID()"));
    let proxy = Proxy::sabotaging(address_of(world.mysql_url()), sabotage.clone()).await;
    let (name, value) = world.mysql_through(&proxy);
    let db = world.state(&[(name, &value)]).db;
    let mut scene = Scene::over(world, db, BOUNDS).await;
    let id = scene.note(1, Kind::Plain).await.expect("found out, not guessed");
    assert_eq!((id, sabotage.hits()), (1, 1));
    assert_eq!(scene.batches(), [[1]]);
    assert_eq!(scene.notes().await, [1], "it took effect once");
    scene.world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_was_lost_is_found() {
    unanswered("COMMIT").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_never_arrived_is_made_again() {
    unanswered("ROLLBACK").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_lost_before_the_commit_fails_the_batch_and_not_the_lane() {
    let scene = Scene::new().await;
    let mut somebody = scene.hold_up(0).await;
    let (first, ()) = tokio::join!(scene.note(0, Kind::Plain), async {
        scene.world.wait_until_running("VALUES (0)").await;
        let kill = "SELECT CONCAT('KILL ', id) FROM information_schema.processlist WHERE db = DATABASE() AND info LIKE 'INSERT INTO notes%'";
        // The server fails to list what others run while one of them has bound bytes that are no text.
        let kill: String = eventually("the statement to be seen", || async {
            sqlx::query_scalar(kill).fetch_one(&mut scene.world.sql().await).await.ok()
        })
        .await;
        scene.world.sql().await.execute(AssertSqlSafe(kill)).await.expect("killed");
    });
    assert_eq!(first.expect_err("a failure").code().code, "read_only");
    somebody.execute("ROLLBACK").await.expect("an end");
    eventually("the lane goes on", || async { scene.note(1, Kind::Plain).await.ok() }).await;
    assert_eq!(scene.notes().await, [1]);
    tokio::time::timeout(Duration::from_secs(30), scene.world.end(Vec::new())).await.expect("an end");
}
