//! Holds where something stands in their way: the pass, the limit, the rate, a lock, the end of the sale, a database that is
//! away. Each is told what is true, and nobody else notices.

use std::time::Duration;

use frontrow::booking::holds::{Asked, Request};
use frontrow::booking::seats::blocks::Order;
use frontrow::platform::http::keyed::RequestKey;
use futures::future::join_all;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor as _, MySqlConnection};

use crate::join_limits::refused_by;
use crate::support::arena::{Plan, text};
use crate::support::{Api, Buyer, Fault, Instance, Reply, Sale, World, eventually};

/// Whoever waits for a lock waits for as long as a test may take.
const PATIENT: [(&str, &str); 3] = [
    ("FRONTROW__DATABASE__LOCK_WAIT_SECS", "60"),
    ("FRONTROW__DATABASE__UNIT_TIMEOUT_MS", "90000"),
    ("FRONTROW__HTTP__REQUEST_TIMEOUT_MS", "120000"),
];
/// Requests that wait for a lock at once on an instance.
const BESIDE: usize = 4;
/// Requests of one user for seats within a minute.
const PER_USER: usize = 6;

/// Two instances and a sale.
struct Scene {
    world: World,
    instances: [Instance; 2],
    /// Of each of them, and of both.
    apis: [Api; 2],
    api: Api,
    sale: Sale,
}

/// Somebody inside.
struct Guest {
    buyer: Buyer,
    pass: String,
}

impl Scene {
    async fn new(plan: &Plan, settings: &[(&str, &str)]) -> Self {
        let world = World::with(settings).await;
        let instances = [world.instance().await, world.instance().await];
        let apis = instances.each_ref().map(|instance| Api::over(&[instance]));
        let api = Api::over(&[&instances[0], &instances[1]]);
        let sale = Sale::new(&api, &instances[0], plan).await;
        Self { world, instances, apis, api, sale }
    }

    async fn inside(&self) -> Guest {
        let buyer = Buyer::new(&self.api).await;
        let pass = buyer.enter(&self.api, &self.sale).await;
        Guest { buyer, pass }
    }

    async fn ask(&self, at: usize, guest: &Guest, seat: &str) -> Reply {
        guest.buyer.try_hold(&self.apis[at], &self.sale.performances[0], &guest.pass, &[seat]).await
    }

    async fn best(&self, at: usize, guest: &Guest, quantity: u32) -> Reply {
        let path = format!("/v1/performances/{}/holds", self.sale.performances[0]);
        let call = self.apis[at].post(&path).bearer(&guest.buyer.token).pass(&guest.pass);
        call.json(&json!({"best_available": {"quantity": quantity}})).send().await
    }

    async fn release(&self, at: usize, guest: &Guest, hold: &Value) {
        let path = format!("/v1/holds/{}", text(&hold["id"]));
        let released = self.apis[at].delete(&path).bearer(&guest.buyer.token).send().await;
        assert_eq!(released.status, 204);
    }

    async fn operate(&self, what: &str) {
        let path = format!("/v1/admin/concerts/{}/{what}", self.sale.concert);
        self.api.post(&path).bearer(&self.sale.operator).send().await.expect(200);
    }

    /// Somebody who has locked these rows, until the connection is dropped or rolls back.
    async fn lock(&self, rows: &str) -> MySqlConnection {
        let mut sql = self.world.sql().await;
        sql.execute("START TRANSACTION").await.expect("a transaction");
        sql.execute(AssertSqlSafe(format!("SELECT 1 FROM {rows} FOR UPDATE"))).await.expect("the lock");
        sql
    }

    /// The row of somebody's stay, locked.
    async fn lock_stay(&self, guest: &Guest) -> MySqlConnection {
        let user: uuid::Uuid = guest.buyer.id.parse().expect("an id");
        let found = "SELECT id FROM queue_passes WHERE user_id = ?";
        let found: uuid::Uuid =
            sqlx::query_scalar(found).bind(user).fetch_one(&mut self.world.sql().await).await.expect("one stay");
        self.lock(&format!("queue_passes WHERE id = x'{}'", found.simple())).await
    }

    /// The row of the first seat, locked.
    async fn lock_first_seat(&self) -> MySqlConnection {
        let performance: uuid::Uuid = self.sale.performances[0].parse().expect("an id");
        self.lock(&format!("seats WHERE performance_id = x'{}' AND seat_no = 0", performance.simple())).await
    }

    async fn end(self) {
        self.world.assert_clean(&self.instances[0]).await;
        self.world.end(self.instances.into()).await;
    }
}

/// A row of four seats.
fn one_row() -> Plan {
    Plan { sections: json!([{"code": "A", "name": "Hall", "rows": [{"name": "1", "seats": 4}]}]), ..Plan::default() }
}

/// However old a picture may be, nobody is sent away while there are seats.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seats_that_were_given_back_are_among_the_best_at_once() {
    let scene = Scene::new(&one_row(), &[("FRONTROW__BOOKING__AVAILABILITY_MAX_AGE_MS", "3600000")]).await;
    let (ada, ben) = (scene.inside().await, scene.inside().await);
    for (here, there) in [(0, 1), (1, 0)] {
        let all = scene.best(here, &ada, 4).await.expect(201);
        for at in [here, there] {
            scene.best(at, &ben, 1).await.expect_problem(409, "not_enough_seats");
        }
        scene.release(here, &ada, &all).await;
        for at in [there, here] {
            let held = scene.best(at, &ben, 4).await.expect(201);
            scene.release(at, &ben, &held).await;
        }
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_seats_in_a_loop_is_told_to_wait() {
    let per_user = PER_USER.to_string();
    let scene = Scene::new(&Plan::default(), &[("FRONTROW__LIMITS__HOLDS_PER_USER_PER_MINUTE", &per_user)]).await;
    let (hasty, other) = (scene.inside().await, scene.inside().await);
    let keyed = async || {
        let path = format!("/v1/performances/{}/holds", scene.sale.performances[0]);
        let call = scene.apis[0].post(&path).bearer(&hasty.buyer.token).pass(&hasty.pass).key("first");
        call.json(&json!({"seat_ids": ["A-1-1"]})).send().await
    };
    let first = keyed().await.expect(201);
    let mut asked = 1;
    let wait = loop {
        let reply = scene.ask(0, &hasty, "A-1-1").await;
        if reply.status == 429 {
            break refused_by(reply, "holds-per-user", PER_USER);
        }
        reply.expect_problem(409, "seats_taken");
        asked += 1;
        assert!(asked < 50 * PER_USER, "nobody is told to wait");
    };
    assert!(asked >= PER_USER, "refused after {asked}");
    // What took effect is answered as it was, and others are as fast as they like.
    for _ in 0..2 * PER_USER {
        let again = keyed().await;
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert_eq!(again.expect(201), first);
    }
    scene.ask(0, &other, "A-1-2").await.expect(201);
    scene.world.advance(wait.max(Duration::from_mins(1)));
    scene.ask(0, &hasty, "A-1-3").await.expect(201);
    scene.end().await;
}

/// A request that waits in MySQL has no marks in the filter, if its buyer was refused before.
async fn asks_in_vain(scene: &Scene, ada: &Guest, seat: &str) -> Reply {
    let ben = scene.inside().await;
    let mut somebody = scene.lock_stay(ada).await;
    let (refused, ()) = tokio::join!(scene.ask(0, ada, seat), async {
        scene.world.wait_until_running("FROM queue_passes FORCE INDEX (PRIMARY) WHERE id IN").await;
        for at in [1, 0] {
            let held = scene.ask(at, &ben, seat).await.expect(201);
            scene.release(at, &ben, &held).await;
        }
        somebody.execute("ROLLBACK").await.expect("an end");
    });
    refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_have_no_seat_keeps_none_from_anybody() {
    let scene = Scene::new(&Plan { limit: 1, ..Plan::default() }, &PATIENT).await;
    // As many seats as one buyer may have.
    let ada = scene.inside().await;
    let held = scene.ask(0, &ada, "A-1-1").await.expect(201);
    scene.ask(0, &ada, "A-1-2").await.expect_problem(409, "seat_limit_exceeded");
    let refused = asks_in_vain(&scene, &ada, "A-1-2").await;
    assert_eq!(refused.expect_problem(409, "seat_limit_exceeded")["limit"], 1);
    scene.best(0, &ada, 1).await.expect_problem(409, "seat_limit_exceeded");
    // Whatever is remembered of a buyer, what another instance gave back counts at once.
    scene.release(1, &ada, &held).await;
    let held = scene.ask(0, &ada, "A-1-2").await.expect(201);
    scene.release(1, &ada, &held).await;
    scene.best(0, &ada, 1).await.expect(201);
    // A stay that is over.
    let eve = scene.inside().await;
    let leave = format!("/v1/concerts/{}/queue/passes/me", scene.sale.concert);
    assert_eq!(scene.api.delete(&leave).bearer(&eve.buyer.token).pass(&eve.pass).send().await.status, 204);
    scene.ask(0, &eve, "A-2-1").await.expect_problem(403, "pass_expired");
    asks_in_vain(&scene, &eve, "A-2-1").await.expect_problem(403, "pass_expired");
    scene.best(0, &eve, 1).await.expect_problem(403, "pass_expired");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seat_that_somebody_has_locked_holds_up_nobody_else() {
    let unfiltered = ("FRONTROW__BOOKING__SEAT_FILTER", "false");
    let scene = Scene::new(&Plan::default(), &[PATIENT[0], PATIENT[1], PATIENT[2], unfiltered]).await;
    let mut guests = Vec::new();
    for _ in 0..BESIDE + 2 {
        guests.push(scene.inside().await);
    }
    let other = scene.inside().await;
    let mut somebody = scene.lock_first_seat().await;
    let path = format!("/v1/performances/{}/holds", scene.sale.performances[0]);
    let asking: Vec<_> = guests
        .iter()
        .map(|guest| {
            let (api, path, token, pass) =
                (scene.apis[0].clone(), path.clone(), guest.buyer.token.clone(), guest.pass.clone());
            let ask = async move {
                api.post(&path).bearer(&token).pass(&pass).json(&json!({"seat_ids": ["A-1-1"]})).send().await
            };
            tokio::spawn(ask)
        })
        .collect();
    scene.world.wait_until_waiting("ORDER BY seat_no FOR UPDATE").await;
    // Who cannot wait for it is told that others are at it; whoever wants other seats does not notice.
    eventually("the rest to be told", || async {
        (asking.iter().filter(|one| one.is_finished()).count() == guests.len() - BESIDE).then_some(())
    })
    .await;
    scene.ask(0, &other, "A-1-2").await.expect(201);
    let pending = asking.iter().filter(|one| !one.is_finished()).count();
    assert_eq!(pending, BESIDE, "whoever waits for the seat waits still");
    somebody.execute("ROLLBACK").await.expect("an end");
    let replies: Vec<Reply> = join_all(asking).await.into_iter().map(|reply| reply.expect("no panic")).collect();
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 1, "it goes to one of them");
    for reply in replies.into_iter().filter(|reply| reply.status != 201) {
        assert_eq!(reply.expect_problem(409, "seats_taken")["seat_ids"], json!(["A-1-1"]));
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_for_everybody_is_said_before_anything_else() {
    let scene = Scene::new(&Plan::default(), &[("FRONTROW__ACCOUNTS__SESSION_HOURS", "100000")]).await;
    let (ada, ben) = (scene.inside().await, scene.inside().await);
    scene.ask(0, &ben, "A-1-1").await.expect(201);
    scene.operate("stop").await;
    for at in [0, 1] {
        // Of a seat that is taken an instance knows from its own memory, which is a moment late.
        eventually("the stop to be told", || async {
            let reply = scene.ask(at, &ada, "A-1-1").await;
            if reply.status == 409 {
                reply.expect_problem(409, "seats_taken");
                return None;
            }
            assert!(reply.header("retry-after").is_some());
            reply.expect_problem(503, "sale_stopped");
            Some(())
        })
        .await;
    }
    scene.operate("resume").await;
    for at in [0, 1] {
        scene.ask(at, &ada, "A-1-1").await.expect_problem(409, "seats_taken");
    }
    scene.world.advance(Duration::from_hours(31 * 24));
    for at in [0, 1] {
        scene.ask(at, &ada, "A-1-2").await.expect_problem(409, "booking_closed");
        scene.best(at, &ada, 1).await.expect_problem(409, "booking_closed");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_database_nothing_can_be_changed() {
    let scene = Scene::new(&Plan::default(), &[]).await;
    let ada = scene.inside().await;
    let proxy = scene.world.mysql_proxy().await;
    let (name, url) = scene.world.mysql_through(&proxy);
    // Every read asks MySQL.
    let state = scene.world.state(&[(name, &url), ("FRONTROW__CACHE__ENABLED", "false")]);
    let user = frontrow::accounts::UserId(ada.buyer.id.parse().expect("an id"));
    let performance = scene.sale.performances[0].parse().expect("an id");
    proxy.set(Fault::Refuse);
    for key in [None, Some("k".to_owned())] {
        let (pass, seats) = (Some(ada.pass.clone()), Asked::Named(vec!["A-1-1".to_owned()]));
        let key = RequestKey { key, fingerprint: [0; 32] };
        let refused = state.holds.hold(Request { user, performance, pass, seats }, key.clone()).await;
        assert_eq!(refused.expect_err("a refusal").code().code, "read_only");
        let order = Order { operator: user, performance, seat_ids: vec!["A-1-1".to_owned()] };
        let refused = state.blocks.block(order, key).await;
        assert_eq!(refused.expect_err("a refusal").code().code, "read_only");
    }
    state.redis.close().await;
    state.db.close().await;
    scene.end().await;
}
