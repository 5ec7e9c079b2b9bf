//! Lock waits, deadlocks and changed snapshots, provoked in the transactions that matter: they run again within their
//! budget and are counted under their names; a client sees success, or 503 with `Retry-After`, and never a 500.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use frontrow::app::state::State;
use frontrow::platform::telemetry::metrics;
use futures::future::join_all;
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor as _, MySqlConnection};

use crate::support::arena::Plan;
use crate::support::history::Event;
use crate::support::{Api, Buyer, History, Process, Sale, World, eventually};

/// A unit has about five seconds, and waits for a lock for one of them at a time, or two: the server looks once a second.
const SETTINGS: [(&str, &str); 3] = [
    ("FRONTROW__DATABASE__UNIT_TIMEOUT_MS", "4000"),
    ("FRONTROW__DATABASE__ACQUIRE_TIMEOUT_MS", "1000"),
    ("FRONTROW__DATABASE__LOCK_WAIT_SECS", "1"),
];
/// Rows that make an adversary's transaction the heavier one, so that a deadlock's victim is the other.
const BALLAST: u32 = 300;

/// A transaction, a buyer who causes it, and two locks that it takes one after the other.
struct Case {
    name: &'static str,
    lane: usize,
    path: String,
    body: Option<serde_json::Value>,
    headers: Vec<(&'static str, String)>,
    key: String,
    /// What takes the lock that the transaction takes first, and the one that it wants then.
    locks: [String; 2],
    /// A part of the statement that waits for the second lock.
    waits_in: &'static str,
}

impl Case {
    async fn send(&self, api: &Api, history: &History) -> Event {
        let mut call = api.post(&self.path).key(&self.key);
        for (name, value) in &self.headers {
            call = call.header(name, value);
        }
        if let Some(body) = &self.body {
            call = call.json(body);
        }
        history.send(self.name, call).await
    }

    fn retries(&self, fault: &str) -> String {
        format!("frontrow_db_retries_total{{fault=\"{fault}\",name=\"{}\"}}", self.name)
    }

    /// Somebody in a heavy transaction who has the second lock.
    async fn adversary(&self, world: &World) -> MySqlConnection {
        let mut sql = world.sql().await;
        sql.execute("START TRANSACTION").await.expect("a transaction");
        let heavy = format!("UPDATE ballast SET n = n + 1 WHERE lane = {}", self.lane);
        sql.execute(AssertSqlSafe(heavy)).await.expect("rows of its own");
        sql.execute(AssertSqlSafe(self.locks[1].clone())).await.expect("the lock");
        sql
    }
}

fn hex(id: &str) -> String {
    format!("x'{}'", id.parse::<uuid::Uuid>().expect("an id").simple())
}

fn points_of(buyer: &Buyer) -> String {
    format!("SELECT 1 FROM points_accounts WHERE user_id = {} FOR UPDATE", hex(&buyer.id))
}

/// What cases are made of.
struct Making<'a> {
    api: &'a Api,
    sale: &'a Sale,
    sql: MySqlConnection,
}

/// A case for this transaction, without its locks.
fn case(name: &'static str, lane: usize, buyer: &Buyer, path: String) -> Case {
    let headers = vec![("authorization", format!("Bearer {}", buyer.token))];
    let key = format!("{name} {lane}");
    Case { name, lane, path, body: None, headers, key, locks: Default::default(), waits_in: "" }
}

/// One case for each transaction, at the point where it comes next.
impl Making<'_> {
    async fn charge(&self, buyer: &Buyer) -> Case {
        buyer.charge(self.api, 5).await;
        let key = format!("SELECT 1 FROM idempotency_keys WHERE user_id = {} FOR UPDATE", hex(&buyer.id));
        let case = case("points.charge", 0, buyer, "/v1/me/points/charges".to_owned());
        let body = Some(json!({"amount": 5}));
        Case { body, locks: [key, points_of(buyer)], waits_in: "FROM points_accounts", ..case }
    }

    async fn hold(&mut self, buyer: &Buyer) -> Case {
        let (performance, pass) = (&self.sale.performances[0], buyer.enter(self.api, self.sale).await);
        let number = "SELECT seat_no FROM seats WHERE label = 'A-2-1'";
        let number: u32 = sqlx::query_scalar(number).fetch_one(&mut self.sql).await.expect("the seat");
        let pass_row = format!("SELECT 1 FROM queue_passes WHERE user_id = {} FOR UPDATE", hex(&buyer.id));
        let performance_id = hex(performance);
        let seat =
            format!("SELECT 1 FROM seats WHERE performance_id = {performance_id} AND seat_no = {number} FOR UPDATE");
        let mut case = case("booking.hold", 1, buyer, format!("/v1/performances/{performance}/holds"));
        case.headers.push(("queue-pass", pass));
        let body = Some(json!({"seat_ids": ["A-2-1"]}));
        Case { body, locks: [pass_row, seat], waits_in: "ORDER BY seat_no FOR UPDATE", ..case }
    }

    async fn pay(&self, buyer: &Buyer) -> Case {
        buyer.charge(self.api, 100_000).await;
        let pass = buyer.enter(self.api, self.sale).await;
        let hold = buyer.hold(self.api, &self.sale.performances[0], &pass, &["A-1-1"]).await;
        let hold_row = format!("SELECT 1 FROM holds WHERE id = {} FOR UPDATE", hex(&hold));
        let case = case("checkout.pay", 2, buyer, format!("/v1/holds/{hold}/payment"));
        let body = Some(json!({"method": "points"}));
        Case { body, locks: [hold_row, points_of(buyer)], waits_in: "FROM points_accounts WHERE user_id IN", ..case }
    }

    async fn claim(&self, buyer: &Buyer, other: &Buyer) -> Case {
        let (line, ticket) =
            (format!("/v1/concerts/{}/queue", self.sale.concert), buyer.join(self.api, self.sale).await);
        let place = eventually("the call", || async {
            let place = self.api.get(&format!("{line}/tickets/me")).ticket(&ticket).send().await;
            (place.body["status"] == "called").then_some(place.body)
        })
        .await;
        let concert = hex(&self.sale.concert);
        let row = format!("SELECT 1 FROM queue_sales WHERE concert_id = {concert} FOR UPDATE");
        // Somebody else's pass at the same place, never committed.
        let pass = format!(
            "INSERT INTO queue_passes (id, concert_id, user_id, arrival, is_live, expires_at, created_at) \
             VALUES ({}, {concert}, {}, {}, 1, UTC_TIMESTAMP(6) + INTERVAL 1 HOUR, UTC_TIMESTAMP(6))",
            hex(&uuid::Uuid::new_v4().to_string()),
            hex(&other.id),
            place["rank"]
        );
        let mut case = case("queue.claim", 3, buyer, format!("{line}/passes"));
        case.headers.push(("queue-ticket", ticket));
        Case { locks: [row, pass], waits_in: "FROM queue_passes", ..case }
    }
}

/// Two instances of which the second never runs anything again, and a sale with its cases.
struct Scene {
    world: World,
    state: Arc<State>,
    patient: (Process, Api),
    hasty: (Process, Api),
    cases: [Case; 4],
}

impl Scene {
    async fn new() -> Self {
        let world = World::with(&SETTINGS).await;
        let state = Arc::new(world.services(&[]).await);
        let (one, first) = Process::serve(&world, &[]).await;
        let (two, second) = Process::serve(&world, &[("FRONTROW__DATABASE__RETRIES_MAX", "0")]).await;
        let (patient, hasty) = (Api::at(vec![first]), Api::at(vec![second]));
        let sale = Sale::made_with(&patient, &state, &Plan::default()).await;
        let buyers = Buyer::many(&state, 5).await;
        let mut making = Making { api: &patient, sale: &sale, sql: world.sql().await };
        let cases = [
            making.charge(&buyers[0]).await,
            making.hold(&buyers[1]).await,
            making.pay(&buyers[2]).await,
            making.claim(&buyers[3], &buyers[4]).await,
        ];
        let mut sql = world.sql().await;
        let ballast = "CREATE TABLE ballast (lane INT, id INT, n INT, PRIMARY KEY (lane, id)) ENGINE = InnoDB";
        sql.execute(ballast).await.expect("a table");
        let rows: Vec<String> =
            (0..4).flat_map(|lane| (0..BALLAST).map(move |id| format!("({lane}, {id}, 0)"))).collect();
        let fill = format!("INSERT INTO ballast VALUES {}", rows.join(", "));
        sql.execute(AssertSqlSafe(fill)).await.expect("rows");
        Self { world, state, patient: (one, patient), hasty: (two, hasty), cases }
    }

    async fn end(self) {
        let report = frontrow::app::audit::run(&self.state.db, &self.state.config.jobs, None).await;
        assert!(report.is_clean, "{report:#?}");
        for (mut process, _) in [self.patient, self.hasty] {
            process.terminate();
            assert_eq!(process.end().await, Some(0));
        }
        self.state.db.close().await;
        self.state.redis.close().await;
        self.world.end(Vec::new()).await;
    }
}

/// The last wait for a lock may be cut off by the end of the budget.
fn assert_told_to_come_again(event: &Event) {
    assert!(event.status() == 503 && ["overloaded", "timed_out"].contains(&event.code()), "{event:?}");
    assert!(event.reply.as_ref().is_some_and(|reply| reply.header("retry-after").is_some()), "{event:?}");
}

/// Sends a request and takes its locks away from it. Whether its own transaction was the victim is for the caller to say.
async fn deadlock(scene: &Scene, case: &Case, api: &Api) -> Event {
    let history = History::default();
    let mut adversary = case.adversary(&scene.world).await;
    let (event, ()) = tokio::join!(case.send(api, &history), async {
        scene.world.wait_until_waiting(case.waits_in).await;
        let crossing = adversary.execute(AssertSqlSafe(case.locks[0].clone())).await;
        crossing.expect("the heavier transaction goes on");
        adversary.execute("ROLLBACK").await.expect("an end");
    });
    event
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlocks_are_run_again_and_counted_by_name() {
    let scene = Scene::new().await;
    for case in &scene.cases {
        // Without retries the same deadlock is seen.
        assert_told_to_come_again(&deadlock(&scene, case, &scene.hasty.1).await);
        let counted = scene.patient.1.metric(&case.retries("deadlock")).await;
        let event = deadlock(&scene, case, &scene.patient.1).await;
        assert_eq!(event.status(), 201, "{event:?}");
        assert!(scene.patient.1.metric(&case.retries("deadlock")).await > counted, "{}", case.name);
        assert_eq!(scene.hasty.1.metric(&case.retries("deadlock")).await, 0);
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_held_for_a_while_is_waited_for_and_one_held_for_long_is_told() {
    let scene = Scene::new().await;
    let Scene { world, patient: (_, patient), hasty: (_, hasty), .. } = &scene;
    let one = async |case: &Case| {
        let history = History::default();
        let adversary = case.adversary(world).await;
        assert_told_to_come_again(&case.send(hasty, &history).await);
        // Longer than the whole budget. On a busy machine one wait may be as long.
        let counted = eventually("another try", || async {
            let late = case.send(patient, &history).await;
            assert_told_to_come_again(&late);
            println!("{}: gave up after {:?}", case.name, late.took);
            Some(patient.metric(&case.retries("lock_wait")).await).filter(|counted| *counted > 0)
        })
        .await;
        // Longer than one wait.
        let served = eventually("success", || async {
            let event = case.send(patient, &history).await;
            if event.status() == 201 {
                return Some(());
            }
            assert_told_to_come_again(&event);
            None
        });
        tokio::join!(served, async {
            eventually("yet another try", || async {
                (patient.metric(&case.retries("lock_wait")).await > counted).then_some(())
            })
            .await;
            drop(adversary);
        });
    };
    join_all(scene.cases.iter().map(one)).await;
    scene.end().await;
}

/// MariaDB's error 1020 comes under another isolation level than ours; here the server is asked to say it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_snapshot_is_run_again() {
    let world = World::new().await;
    let db = world.state(&[]).db;
    let runs = Arc::new(AtomicU32::new(0));
    let unit = db.in_tx("conflicts.snapshot", runs.clone(), |conn, runs| {
        Box::pin(async move {
            if runs.fetch_add(1, Ordering::SeqCst) == 0 {
                let changed = "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1020, MESSAGE_TEXT = 'Record has changed'";
                conn.sql().execute(changed).await?;
            }
            Ok(())
        })
    });
    unit.await.expect("the second run");
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    assert_eq!(metrics::db_retries("conflicts.snapshot", "snapshot_changed"), 1);
    world.end(Vec::new()).await;
}
