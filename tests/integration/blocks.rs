//! House seats: what the operator takes out of sale nobody can hold, until it is given back. And standing areas, whose
//! entries are seats like all others.

use std::time::Duration;

use frontrow::app::audit;
use serde_json::{Value, json};

use crate::support::arena::{Plan, text};
use crate::support::{Api, Buyer, Instance, Reply, Sale, World, assert_members, eventually};

/// Entries of the standing area: as many as one order may name.
const STANDING: usize = 2_000;
/// Longer than any hold or pass lives.
const LONG: Duration = Duration::from_hours(12);

/// Two instances, the second of which asks MySQL each time, and a sale.
struct House {
    world: World,
    instances: [Instance; 2],
    apis: [Api; 2],
    sale: Sale,
}

impl House {
    async fn open(plan: &Plan) -> Self {
        let world = World::new().await;
        let unfiltered = world.instance_with(&[("FRONTROW__BOOKING__SEAT_FILTER", "false")]).await;
        let instances = [world.instance().await, unfiltered];
        let apis = instances.each_ref().map(|instance| Api::over(&[instance]));
        let sale = Sale::new(&apis[0], &instances[0], plan).await;
        Self { world, instances, apis, sale }
    }

    async fn close(self) {
        self.world.assert_clean(&self.instances[0]).await;
        self.world.end(self.instances.into()).await;
    }

    fn performance(&self) -> String {
        format!("/v1/performances/{}", self.sale.performances[0])
    }

    fn blocks(&self) -> String {
        format!("/v1/admin/performances/{}/blocks", self.sale.performances[0])
    }

    async fn block<S: serde::Serialize>(&self, seats: &[S]) -> Reply {
        let call = self.apis[0].post(&self.blocks()).bearer(&self.sale.operator);
        call.json(&json!({"seat_ids": seats})).send().await
    }

    async fn give_back<S: serde::Serialize>(&self, seats: &[S]) -> Reply {
        let call = self.apis[0].delete(&self.blocks()).bearer(&self.sale.operator);
        call.json(&json!({"seat_ids": seats})).send().await
    }

    /// Somebody inside, with the pass.
    async fn inside(&self) -> (Buyer, String) {
        let buyer = Buyer::new(&self.apis[0]).await;
        let pass = buyer.enter(&self.apis[0], &self.sale).await;
        (buyer, pass)
    }

    /// Waits until pages tell on both instances that just these seats have this status.
    async fn has(&self, status: &str, seats: &[&str]) {
        let path = &format!("{}/seats?limit=100&status={status}", self.performance());
        for api in &self.apis {
            eventually(&format!("{seats:?} to be {status}"), || async {
                let page = api.get(path).send().await.expect(200);
                let found = page["items"].as_array().expect("seats").iter();
                (found.map(|seat| text(&seat["id"])).collect::<Vec<String>>() == seats).then_some(())
            })
            .await;
        }
    }

    /// Waits until the picture of both instances shows that just these seats, by their indices, are taken.
    async fn shows(&self, total: usize, taken: &[usize]) {
        use base64::Engine as _;
        let path = &format!("{}/availability", self.performance());
        for api in &self.apis {
            eventually(&format!("{} to be taken", taken.len()), || async {
                let body = api.get(path).send().await.expect(200);
                let bits = base64::engine::general_purpose::STANDARD.decode(text(&body["taken"])).expect("base64");
                let found: Vec<usize> =
                    (0..bits.len() * 8).filter(|index| bits[index / 8] & (1 << (index % 8)) != 0).collect();
                let grades = body["by_grade"].as_array().expect("grades").iter();
                let by_grade: Option<u64> = grades.map(|grade| grade["available"].as_u64()).sum();
                assert_eq!(body["available"].as_u64(), by_grade);
                assert_eq!(by_grade, u64::try_from(total - found.len()).ok());
                (found == taken).then_some(())
            })
            .await;
        }
    }

    async fn actions(&self) -> Vec<Value> {
        let path = format!("/v1/admin/actions?limit=100&concert={}", self.sale.concert);
        let page = self.apis[0].get(&path).bearer(&self.sale.operator).send().await.expect(200);
        page["items"].as_array().expect("actions").clone()
    }

    /// Waits until the line and the concert say so on both instances.
    async fn says(&self, phase: &str) {
        let (line, concert) =
            (format!("/v1/concerts/{}/queue", self.sale.concert), format!("/v1/concerts/{}", self.sale.concert));
        for api in &self.apis {
            eventually(phase, || async {
                let line = api.get(&line).send().await.expect(200);
                let concert = api.get(&concert).send().await.expect(200);
                (line["phase"] == phase && concert["status"] == phase).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_seats_are_out_of_sale_until_they_are_given_back() {
    let house = House::open(&Plan::default()).await;
    let (one, pass) = house.inside().await;
    let (two, pass_two) = house.inside().await;
    let performance = &house.sale.performances[0];
    let blocked = house.block(&["A-2-1", "A-1-2", "A-1-1"]).await.expect(201);
    assert_members(&blocked, &["performance_id", "seat_ids"]);
    assert_eq!(blocked, json!({"performance_id": performance, "seat_ids": ["A-1-1", "A-1-2", "A-2-1"]}));

    for (api, buyer, pass) in [(&house.apis[0], &one, &pass), (&house.apis[1], &two, &pass_two)] {
        let refused = buyer.try_hold(api, performance, pass, &["A-1-3", "A-1-2"]).await;
        assert_eq!(refused.expect_problem(409, "seats_taken")["seat_ids"], json!(["A-1-2"]));
    }
    house.has("sold", &["A-1-1", "A-1-2", "A-2-1"]).await;
    house.has("held", &[]).await;
    house.shows(20, &[0, 1, 10]).await;
    // What a wiped filter is made from says the same, and no time frees what is blocked.
    house.world.wipe_redis().await;
    house.world.advance(LONG);
    house.shows(20, &[0, 1, 10]).await;
    // Again, with one more: nothing stands in its way.
    house.block(&["A-1-1", "A-1-10"]).await.expect(201);
    house.shows(20, &[0, 1, 9, 10]).await;

    for _ in 0..2 {
        assert_eq!(house.give_back(&["A-1-1", "A-1-2", "A-2-5"]).await.status, 204);
        house.shows(20, &[9, 10]).await;
    }
    let (buyer, pass) = house.inside().await;
    let hold = buyer.hold(&house.apis[1], performance, &pass, &["A-1-1", "A-1-2"]).await;
    house.has("held", &["A-1-1", "A-1-2"]).await;
    buyer.charge(&house.apis[0], 20_000).await;
    buyer.try_pay(&house.apis[0], &hold, "paid").await.expect(201);
    house.has("sold", &["A-1-1", "A-1-2", "A-1-10", "A-2-1"]).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seats_are_blocked_whole_or_not_at_all() {
    let house = House::open(&Plan::default()).await;
    let (api, performance) = (&house.apis[0], &house.sale.performances[0]);
    let (buyer, pass) = house.inside().await;
    buyer.charge(api, 10_000).await;
    let hold = buyer.hold(api, performance, &pass, &["A-1-2"]).await;
    buyer.try_pay(api, &hold, "paid").await.expect(201);
    let (holder, pass) = house.inside().await;
    let hold = holder.hold(api, performance, &pass, &["A-1-4", "A-1-5"]).await;

    let refused = house.block(&["A-1-5", "A-1-3", "A-1-2"]).await.expect_problem(409, "seats_taken");
    assert_eq!(refused["seat_ids"], json!(["A-1-2", "A-1-5"]));
    let refused = house.block(&["A-1-3", "A-1-11", "B-1-1"]).await.expect_problem(404, "unknown_seat");
    assert_eq!(refused["seat_ids"], json!(["A-1-11", "B-1-1"]));
    let many: Vec<String> = (0..=STANDING).map(|number| format!("A-1-{number}")).collect();
    house.block(&many).await.expect_problem(422, "invalid_body");
    house.block(&[""; 0]).await.expect_problem(422, "invalid_body");
    house.block(&["A-1-3", "A-1-3"]).await.expect_problem(422, "invalid_body");
    house.give_back(&["A-1-3", "A-1-3"]).await.expect_problem(422, "invalid_body");
    house.give_back(&["A-1-11"]).await.expect_problem(404, "unknown_seat");
    let nowhere = format!("/v1/admin/performances/{}/blocks", uuid::Uuid::now_v7());
    let nowhere = api.post(&nowhere).bearer(&house.sale.operator).json(&json!({"seat_ids": ["A-1-1"]}));
    nowhere.send().await.expect_problem(404, "not_found");
    for call in [api.post(&house.blocks()), api.delete(&house.blocks())] {
        let reply = call.bearer(&buyer.token).json(&json!({"seat_ids": ["A-1-3"]})).send().await;
        reply.expect_problem(403, "forbidden");
    }
    // Nor does giving back take anything from those who have it.
    assert_eq!(house.give_back(&["A-1-2", "A-1-4"]).await.status, 204);
    house.shows(20, &[1, 3, 4]).await;
    house.has("sold", &["A-1-2"]).await;
    // A hold that has ended is in nobody's way.
    house.world.advance(Duration::from_secs(301));
    house.block(&["A-1-5"]).await.expect(201);
    house.has("sold", &["A-1-2", "A-1-5"]).await;
    holder.try_pay(api, &hold, "late").await.expect_problem(410, "hold_expired");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_key_blocks_once_and_the_log_has_every_order() {
    let house = House::open(&Plan::default()).await;
    let order = async |seats: &[&str]| {
        let call = house.apis[0].post(&house.blocks()).bearer(&house.sale.operator).key("a block");
        call.json(&json!({"seat_ids": seats})).send().await
    };
    let first = order(&["A-1-1", "A-1-2", "A-1-3", "A-2-9"]).await;
    assert_eq!(house.give_back(&["A-1-1"]).await.status, 204);
    // The answer of then, and nothing is blocked by it again.
    let repeated = order(&["A-1-1", "A-1-2", "A-1-3", "A-2-9"]).await;
    assert_eq!((first.status, &first.bytes), (201, &repeated.bytes));
    assert_eq!(repeated.header("idempotency-replayed"), Some("true"));
    order(&["A-1-1"]).await.expect_problem(422, "idempotency_key_reused");
    house.shows(20, &[1, 2, 18]).await;
    house.block(&["A-1-2", "A-1-4"]).await.expect(201);
    house.block(&["A-1-2"]).await.expect(201);

    let actions = house.actions().await;
    let log: Vec<(&Value, &Value)> = actions.iter().map(|one| (&one["action"], &one["details"])).collect();
    let details = |runs: Value, seats: u32| json!({"performance_id": house.sale.performances[0], "seats": seats, "first_and_last": runs});
    let expected = [
        ("seats.blocked", details(json!([]), 0)),
        ("seats.blocked", details(json!([["A-1-4", "A-1-4"]]), 1)),
        ("seats.given_back", details(json!([["A-1-1", "A-1-1"]]), 1)),
        ("seats.blocked", details(json!([["A-1-1", "A-1-3"], ["A-2-9", "A-2-9"]]), 4)),
    ];
    let expected: Vec<(Value, Value)> =
        expected.into_iter().map(|(action, details)| (json!(action), details)).collect();
    assert_eq!(log, expected.iter().map(|(action, details)| (action, details)).collect::<Vec<_>>());
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_is_sold_out_without_its_house_seats_and_open_again_with_them() {
    let sections = json!([{"code": "A", "name": "Hall", "rows": [{"name": "1", "seats": 3}]}]);
    let house = House::open(&Plan { sections, ..Plan::default() }).await;
    let (api, performance) = (&house.apis[0], &house.sale.performances[0]);
    let (buyer, pass) = house.inside().await;
    buyer.charge(api, 20_000).await;
    house.block(&["A-1-3"]).await.expect(201);
    let hold = buyer.hold(api, performance, &pass, &["A-1-1", "A-1-2"]).await;
    buyer.try_pay(api, &hold, "paid").await.expect(201);
    house.says("sold_out").await;
    let newcomer = Buyer::new(api).await;
    let join = format!("/v1/concerts/{}/queue/tickets", house.sale.concert);
    api.post(&join).bearer(&newcomer.token).send().await.expect_problem(409, "sold_out");

    assert_eq!(house.give_back(&["A-1-3"]).await.status, 204);
    house.says("open").await;
    let pass = newcomer.enter(api, &house.sale).await;
    newcomer.hold(&house.apis[1], performance, &pass, &["A-1-3"]).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standing_area_is_sold_by_numbered_entries() {
    let sections = json!([{"code": "101", "name": "Floor", "capacity": STANDING},
        {"code": "A", "name": "Hall", "rows": [{"name": "1", "seats": 4}]}]);
    let house = House::open(&Plan { sections, ..Plan::default() }).await;
    let (api, performance, total) = (&house.apis[0], &house.sale.performances[0], STANDING + 4);
    let map = api.get(&format!("{}/seat-map", house.performance())).send().await.expect(200);
    let rows = map["sections"][0]["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 1);
    let entries: Vec<String> =
        rows[0]["seats"].as_array().expect("entries").iter().map(|one| text(&one["id"])).collect();
    assert_eq!(entries.len(), STANDING);
    assert_eq!((&*entries[0], &*entries[1999]), ("101-S-0001", "101-S-2000"));

    let (buyer, pass) = house.inside().await;
    let unknown = buyer.try_hold(api, performance, &pass, &["101-S-1"]).await.expect_problem(404, "unknown_seat");
    assert_eq!(unknown["seat_ids"], json!(["101-S-1"]));
    let hold = buyer.hold(api, performance, &pass, &["101-S-0003", "101-S-0001", "A-1-4"]).await;
    house.has("held", &["101-S-0001", "101-S-0003", "A-1-4"]).await;
    house.shows(total, &[0, 2, 2003]).await;
    buyer.charge(api, 30_000).await;
    let reservation = buyer.try_pay(api, &hold, "paid").await.expect(201);
    let sold: Vec<String> =
        reservation["seats"].as_array().expect("seats").iter().map(|seat| text(&seat["id"])).collect();
    assert_eq!(sold, ["101-S-0001", "101-S-0003", "A-1-4"]);
    house.has("sold", &["101-S-0001", "101-S-0003", "A-1-4"]).await;
    let floor = api.get(&format!("{}/seats?section=101&status=sold", house.performance())).send().await.expect(200);
    assert_eq!(floor["items"][1]["id"], "101-S-0003");
    assert_eq!((&floor["items"][1]["row"], &floor["items"][1]["number"]), (&json!("S"), &json!(3)));
    let (other, pass) = house.inside().await;
    let taken = other.try_hold(&house.apis[1], performance, &pass, &["101-S-0002", "101-S-0003"]).await;
    assert_eq!(taken.expect_problem(409, "seats_taken")["seat_ids"], json!(["101-S-0003"]));

    // The whole area at once is refused for what is sold, and blocked without it.
    let refused = house.block(&entries).await.expect_problem(409, "seats_taken");
    assert_eq!(refused["seat_ids"], json!(["101-S-0001", "101-S-0003"]));
    let cancel = api.post(&format!("/v1/reservations/{}/cancellation", text(&reservation["id"]))).bearer(&buyer.token);
    cancel.key("cancelled").send().await.expect(200);
    let blocked = house.block(&entries).await.expect(201);
    assert_eq!(blocked["seat_ids"], json!(entries));
    house.shows(total, &(0..2000).collect::<Vec<_>>()).await;
    // Every other one comes back, which is more than one entry of the log can tell.
    let odd: Vec<&String> = entries.iter().step_by(2).collect();
    assert_eq!(house.give_back(&odd).await.status, 204);
    house.shows(total, &(1..2000).step_by(2).collect::<Vec<_>>()).await;
    let actions = house.actions().await;
    let noted = actions.iter().rev().flat_map(|one| one["details"]["first_and_last"].as_array().expect("runs"));
    let noted: Vec<&Value> = noted.collect();
    assert_eq!(*noted[0], json!(["101-S-0001", "101-S-2000"]));
    assert_eq!(
        noted[1..].iter().map(|run| text(&run[0])).collect::<Vec<_>>(),
        odd.into_iter().cloned().collect::<Vec<_>>()
    );
    other.hold(&house.apis[1], performance, &pass, &["101-S-0001", "101-S-1999"]).await;
    house.close().await;
}

/// What the audit says of held seats.
async fn breaches(house: &House) -> Vec<String> {
    let state = &house.instances[0].state;
    let report = audit::run(&state.db, &state.config.jobs, None).await;
    let found = report.findings.into_iter().find(|one| one.invariant == "held_seat_has_hold").expect("the invariant");
    assert_eq!(found.error, None);
    found.breaches
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_knows_a_block_from_a_seat_that_is_lost() {
    let house = House::open(&Plan::default()).await;
    let (api, performance) = (&house.apis[0], &house.sale.performances[0]);
    let (buyer, pass) = house.inside().await;
    buyer.hold(api, performance, &pass, &["A-1-1"]).await;
    house.block(&["A-1-2", "A-1-3"]).await.expect(201);
    assert_eq!(breaches(&house).await, [""; 0]);
    let mut sql = house.world.sql().await;
    let mut change = async |set: &'static str| {
        let rows = sqlx::query(set).execute(&mut sql).await.expect("a change").rows_affected();
        assert_eq!(rows, 1, "{set}");
    };
    let seat = |label: &str| [format!("performance {} seat {label}", performance.replace('-', ""))];
    // Held by nobody until some day; blocked until some day; blocked by somebody's hold.
    let lost = [
        (
            "A-1-1",
            "UPDATE seats SET held_until = held_until + INTERVAL 1 SECOND WHERE label = 'A-1-1'",
            "UPDATE seats SET held_until = held_until - INTERVAL 1 SECOND WHERE label = 'A-1-1'",
        ),
        (
            "A-1-2",
            "UPDATE seats SET held_until = '9999-12-30' WHERE label = 'A-1-2'",
            "UPDATE seats SET held_until = '9999-12-31 23:59:59' WHERE label = 'A-1-2'",
        ),
        (
            "A-1-3",
            "UPDATE seats SET hold_id = (SELECT id FROM holds) WHERE label = 'A-1-3'",
            "UPDATE seats SET hold_id = UNHEX(REPEAT('01', 16)) WHERE label = 'A-1-3'",
        ),
        (
            "A-1-4",
            "UPDATE seats SET hold_id = UNHEX(REPEAT('02', 16)), held_until = UTC_TIMESTAMP(6) + INTERVAL 1 YEAR WHERE label = 'A-1-4'",
            "UPDATE seats SET hold_id = NULL, held_until = NULL WHERE label = 'A-1-4'",
        ),
    ];
    for (label, lose, find) in lost {
        change(lose).await;
        assert_eq!(breaches(&house).await, seat(label), "{lose}");
        change(find).await;
        assert_eq!(breaches(&house).await, [""; 0]);
    }
    house.close().await;
}
