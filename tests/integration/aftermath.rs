//! What follows when a concert does not take place as it was sold: cancelled, moved, or one reservation given back by the house.

use std::time::Duration;

use frontrow::app::audit;
use serde_json::{Value, json};
use sqlx::MySqlConnection;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::support::arena::{Plan, text};
use crate::support::crowd::{POINTS, PRICE};
use crate::support::history::Event;
use crate::support::{
    Api, Buyer, Cluster, Crowd, History, Instance, Reply, Sale, Victim, World, assert_members, eventually,
};

const DAY: Duration = Duration::from_hours(24);
/// Buyers of a concert that is cancelled while an instance dies, and how many of them have paid by card.
const BUYERS: usize = 300;
const CARDS: usize = 40;
/// As many as must have their money when the instance is killed.
const KILLED_AFTER: u64 = 60;

fn cancellation(sale: &Sale) -> String {
    format!("/v1/admin/concerts/{}/cancellation", sale.concert)
}

fn fresh() -> String {
    Uuid::new_v4().to_string()
}

/// Somebody with a paid reservation of this seat, and its body.
async fn booked(api: &Api, sale: &Sale, seat: &str) -> (Buyer, Value) {
    let buyer = Buyer::new(api).await;
    buyer.charge(api, 50_000).await;
    let pass = buyer.enter(api, sale).await;
    let hold = buyer.hold(api, &sale.performances[0], &pass, &[seat]).await;
    let reservation = buyer.try_pay(api, &hold, "pay").await.expect(201);
    (buyer, reservation)
}

async fn reservation(api: &Api, buyer: &Buyer, reservation: &Value) -> Value {
    let path = format!("/v1/reservations/{}", text(&reservation["id"]));
    api.get(&path).bearer(&buyer.token).send().await.expect(200)
}

async fn balance(api: &Api, buyer: &Buyer) -> Value {
    api.get("/v1/me/points").bearer(&buyer.token).send().await.expect(200)["balance"].clone()
}

async fn cancel(api: &Api, buyer: &Buyer, reservation: &Value) -> Reply {
    let path = format!("/v1/reservations/{}/cancellation", text(&reservation["id"]));
    api.post(&path).bearer(&buyer.token).key(&fresh()).send().await
}

async fn refund(api: &Api, sale: &Sale, reservation: &Value, key: &str) -> Reply {
    let path = format!("/v1/admin/reservations/{}/refund", text(&reservation["id"]));
    api.post(&path).bearer(&sale.operator).key(key).send().await
}

/// Makes a reservation that was paid with points one that was paid by card: the provider's money instead of the buyer's.
async fn pay_by_card(sql: &mut MySqlConnection, reservation: &Value) {
    let payment: Uuid = text(&reservation["payment"]["id"]).parse().expect("an id");
    let entry = "SELECT e.transaction_id, e.user_id, e.amount FROM ledger_entries AS e JOIN ledger_transactions AS t \
         ON t.id = e.transaction_id WHERE t.kind = 1 AND t.reference = ? AND e.account = 0";
    let (entry, user, amount): (Uuid, Uuid, i64) =
        sqlx::query_as(entry).bind(payment).fetch_one(&mut *sql).await.expect("the entry");
    let provider = "UPDATE ledger_entries SET account = 1, user_id = NULL, user_entry = NULL, balance_after = NULL \
         WHERE transaction_id = ? AND account = 0";
    sqlx::query(provider).bind(entry).execute(&mut *sql).await.expect("an entry");
    let back = "UPDATE points_accounts SET balance = balance - ?, entries = entries - 1 WHERE user_id = ?";
    sqlx::query(back).bind(amount).bind(user).execute(&mut *sql).await.expect("an account");
    let card = "UPDATE payments SET method = 1, provider_id = CONCAT('pi_', HEX(id)) WHERE id = ?";
    sqlx::query(card).bind(payment).execute(&mut *sql).await.expect("a payment");
}

/// How many events of this topic there are.
async fn events(world: &World, topic: &str) -> i64 {
    let count = "SELECT COUNT(*) FROM outbox WHERE topic = ?";
    sqlx::query_scalar(count).bind(topic).fetch_one(&mut world.sql().await).await.expect("a number")
}

async fn actions(api: &Api, sale: &Sale) -> Vec<String> {
    let path = format!("/v1/admin/actions?concert={}", sale.concert);
    let page = api.get(&path).bearer(&sale.operator).send().await.expect(200);
    page["items"].as_array().expect("actions").iter().map(|one| text(&one["action"])).collect()
}

/// A sale on which somebody has paid with points, somebody by card, somebody holds a seat, and somebody waits.
struct Evening {
    world: World,
    instances: [Instance; 2],
    apis: [Api; 2],
    sale: Sale,
    payer: (Buyer, Value),
    carder: (Buyer, Value),
    holder: (Buyer, String, String),
}

impl Evening {
    async fn new() -> Self {
        let world = World::new().await;
        let instances = [world.instance().await, world.instance().await];
        let apis = instances.each_ref().map(|instance| Api::over(&[instance]));
        let sale = Sale::new(&apis[0], &instances[0], &Plan::default()).await;
        let payer = booked(&apis[0], &sale, "A-1-1").await;
        let carder = booked(&apis[1], &sale, "A-1-2").await;
        pay_by_card(&mut world.sql().await, &carder.1).await;
        let holder = Buyer::new(&apis[0]).await;
        holder.charge(&apis[0], 50_000).await;
        let pass = holder.enter(&apis[0], &sale).await;
        let hold = holder.hold(&apis[0], &sale.performances[0], &pass, &["A-1-3"]).await;
        Self { world, instances, apis, sale, payer, carder, holder: (holder, pass, hold) }
    }

    async fn end(self) {
        let report = audit::run(&self.instances[0].state.db, &self.instances[0].state.config.jobs, None).await;
        assert!(report.is_clean, "{report:#?}");
        self.world.end(self.instances.into()).await;
    }

    /// Nothing of the concert is sold on either instance, from now on.
    async fn sells_nothing(&self) {
        let (holder, pass, hold) = &self.holder;
        for api in &self.apis {
            let held = holder.try_hold(api, &self.sale.performances[0], pass, &["A-2-1"]).await;
            assert_eq!(held.status, 409, "{}", held.body);
            assert!(
                matches!(held.body["code"].as_str(), Some("concert_cancelled" | "booking_closed")),
                "{}",
                held.body
            );
            let paid = holder.try_pay(api, hold, &fresh()).await;
            // Live holds are ended soon afterwards.
            let code = paid.body["code"].as_str().expect("a code");
            assert!(matches!((paid.status, code), (409, "concert_cancelled") | (410, "hold_expired")), "{}", paid.body);
        }
    }

    /// Cancelling again, resuming, changing hours and dates bring nothing back.
    async fn stays_cancelled(&self, begun: &Value) {
        let (api, sale) = (&self.apis[0], &self.sale);
        let again = api.post(&cancellation(sale)).bearer(&sale.operator).send().await.expect(202);
        assert_eq!(again["requested_at"], begun["requested_at"]);
        let resumed = api.post(&format!("/v1/admin/concerts/{}/resume", sale.concert)).bearer(&sale.operator);
        resumed.send().await.expect_problem(409, "concert_cancelled");
        let reopened = api.patch(&format!("/v1/admin/concerts/{}", sale.concert)).bearer(&sale.operator);
        let reopened = reopened.json(&json!({"booking_closes_at": "2099-01-01T00:00:00Z"})).send().await;
        reopened.expect_problem(409, "sale_already_closed");
        let moved = api.post(&format!("/v1/admin/performances/{}/postponement", sale.performances[0]));
        let moved = moved.bearer(&sale.operator).json(&json!({"starts_at": "2099-01-01T00:00:00Z"})).send().await;
        moved.expect_problem(409, "concert_cancelled");
    }

    /// The card's money is owed until somebody confirms that it went back.
    async fn owes_the_card(&self) {
        let mut sql = self.world.sql().await;
        let owed = async || progress(&self.apis[0], &self.sale).await.expect("progress")["refunds_owed"].clone();
        assert_eq!(owed().await, 1);
        for (is, was, expected) in [(3, 4, 0), (4, 3, 1)] {
            let mark = "UPDATE payments SET state = ? WHERE state = ? AND method = 1";
            let marked = sqlx::query(mark).bind(is).bind(was).execute(&mut sql).await.expect("marked");
            assert_eq!((marked.rows_affected(), owed().await), (1, json!(expected)));
        }
    }

    /// Waits until both instances tell everybody so.
    async fn is_closed(&self) {
        let joins = format!("/v1/concerts/{}/queue/tickets", self.sale.concert);
        for api in &self.apis {
            eventually("the end of the sale to be seen", || async {
                let concert = api.get(&format!("/v1/concerts/{}", self.sale.concert)).send().await.expect(200);
                let line = api.get(&format!("/v1/concerts/{}/queue", self.sale.concert)).send().await.expect(200);
                (concert["status"] == "closed" && line["phase"] == "closed").then_some(())
            })
            .await;
            let late = Buyer::many(&self.instances[0].state, 1).await.remove(0);
            api.post(&joins).bearer(&late.token).send().await.expect_problem(409, "booking_closed");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_concert_sells_nothing_and_gives_everything_back() {
    let evening = Box::pin(Evening::new()).await;
    let (api, sale) = (&evening.apis[0], &evening.sale);
    let path = cancellation(sale);
    api.get(&path).bearer(&sale.operator).send().await.expect_problem(404, "not_found");
    let waiting = Buyer::new(api).await;
    let ticket = waiting.join(api, sale).await;

    let begun = api.post(&path).bearer(&sale.operator).send().await.expect(202);
    let members = [
        "concert_id",
        "state",
        "total",
        "done",
        "pending",
        "refunds_owed",
        "refunded_amount",
        "currency",
        "requested_at",
        "finished_at",
    ];
    assert_members(&begun, &members);
    assert_eq!((&begun["state"], &begun["total"]), (&json!("running"), &json!(2)));
    evening.sells_nothing().await;
    // A place that was called lets nobody in, whatever the instance knows already.
    let claim = api.post(&format!("/v1/concerts/{}/queue/passes", sale.concert)).bearer(&waiting.token).ticket(&ticket);
    let claim = claim.send().await;
    assert!(
        matches!(claim.body["code"].as_str(), Some("concert_cancelled" | "booking_closed" | "not_called")),
        "{}",
        claim.body
    );
    evening.is_closed().await;
    evening.stays_cancelled(&begun).await;
    evening.sells_nothing().await;

    // It is finished once no payment can come any more that had begun before.
    let given_back = eventually("the money to be given back", || async {
        let progress = evening.apis[1].get(&path).bearer(&sale.operator).send().await.expect(200);
        (progress["done"] == 2).then_some(progress)
    })
    .await;
    assert_eq!((&given_back["state"], &given_back["total"]), (&json!("running"), &json!(2)));
    assert_eq!((&given_back["refunded_amount"], &given_back["finished_at"]), (&json!(20_000), &Value::Null));
    evening.world.advance(Duration::from_secs(11));
    let done = eventually("the cancellation to be finished", || async {
        let progress = api.get(&path).bearer(&sale.operator).send().await.expect(200);
        (progress["state"] == "done").then_some(progress)
    })
    .await;
    assert!(done["finished_at"].is_string());
    evening.owes_the_card().await;

    for ((buyer, paid), (status, left)) in
        [(&evening.payer, ("refunded", 50_000)), (&evening.carder, ("refunding", 50_000))]
    {
        let now = reservation(api, buyer, paid).await;
        assert_eq!((&now["status"], &now["payment"]["status"]), (&json!("refunded"), &json!(status)));
        assert_eq!(balance(api, buyer).await, left);
        let code = text(&paid["seats"][0]["ticket_code"]);
        let gate = api.post(&format!("/v1/admin/tickets/{code}/check-in")).bearer(&sale.operator);
        gate.send().await.expect_problem(409, "ticket_void");
        cancel(api, buyer, paid).await.expect_problem(409, "not_cancellable");
    }
    let (holder, _, hold) = &evening.holder;
    let hold = api.get(&format!("/v1/holds/{hold}")).bearer(&holder.token).send().await.expect(200);
    assert_eq!(hold["status"], "released");
    let counts =
        [events(&evening.world, "reservation.refunded").await, events(&evening.world, "concert.cancelled").await];
    assert_eq!(counts, [2, 1]);
    assert_eq!(actions(api, sale).await, ["concert.cancelled"]);
    evening.end().await;
}

/// Cancels a concert that is not there, so long ago or (negative) that far ahead.
async fn cancel_nothing(sql: &mut MySqlConnection, secs_ago: i64) -> Uuid {
    let concert = Uuid::now_v7();
    let insert = "INSERT INTO concert_cancellations (concert_id, operator_id, requested_at) \
         VALUES (?, ?, UTC_TIMESTAMP(6) - INTERVAL ? SECOND)";
    let insert = sqlx::query(insert).bind(concert).bind(Uuid::now_v7()).bind(secs_ago);
    insert.execute(sql).await.expect("a cancellation");
    concert
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concerts_that_are_held_up_hold_up_no_others() {
    let evening = Box::pin(Evening::new()).await;
    let (api, sale) = (&evening.apis[0], &evening.sale);
    let mut sql = evening.world.sql().await;
    // More than a round has place for wait for payments that nobody decides.
    for _ in 0..25 {
        let concert = cancel_nothing(&mut sql, 3600).await;
        let pending = "INSERT INTO reservations (id, hold_id, user_id, concert_id, performance_id, payment_id, state, \
             seat_count, amount, created_at, changed_at) SELECT ?, ?, user_id, ?, performance_id, payment_id, 0, 1, 0, \
             UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) FROM reservations WHERE concert_id = ? LIMIT 1";
        let pending = sqlx::query(pending).bind(Uuid::now_v7()).bind(Uuid::now_v7()).bind(concert);
        let of: Uuid = sale.concert.parse().expect("an id");
        assert_eq!(pending.bind(of).execute(&mut sql).await.expect("a reservation").rows_affected(), 1);
    }
    // And these fail while holds of them may live: the catalogue has no such concerts.
    cancel_nothing(&mut sql, 1).await;
    cancel_nothing(&mut sql, -3600).await;
    api.post(&cancellation(sale)).bearer(&sale.operator).send().await.expect(202);
    eventually("the money to be given back", || async {
        progress(api, sale).await.filter(|progress| progress["done"] == 2)
    })
    .await;
    let (holder, _, hold) = &evening.holder;
    let hold = api.get(&format!("/v1/holds/{hold}")).bearer(&holder.token).send().await.expect(200);
    assert_eq!(hold["status"], "released");
    // Whoever calls is told that something is wrong, once it has its turn.
    eventually("the job to fail", || async {
        evening.instances[0].state.aftermath.give_back().await.is_err().then_some(())
    })
    .await;
    for table in ["reservations WHERE state = 0", "concert_cancellations WHERE operator_id IS NOT NULL"] {
        let clear = format!("DELETE FROM {table}");
        sqlx::query(sqlx::AssertSqlSafe(clear)).execute(&mut sql).await.expect("cleared");
    }
    drop(sql);
    evening.end().await;
}

/// Progress as a surviving instance tells it.
async fn progress(api: &Api, sale: &Sale) -> Option<Value> {
    let reply = api.get(&cancellation(sale)).bearer(&sale.operator).try_send().await.ok()?;
    (reply.status == 200).then_some(reply.body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_has_the_money_once_although_an_instance_dies() {
    // Slowly, so that there is a middle; a busy machine may take its time over the crowd.
    let slowly = ("FRONTROW__BOOKING__REFUNDS_PER_SECOND_MAX", "25");
    let settings = [slowly, ("FRONTROW__DATABASE__ACQUIRE_TIMEOUT_MS", "6000")];
    let mut cluster = Cluster::start_with(2, &settings).await;
    let api = cluster.api();
    let crowd = Crowd::ready(&api, &cluster.state, BUYERS).await;
    let history = History::default();
    crowd.pay(&api, &history, &Semaphore::new(BUYERS)).await;
    let sale = &crowd.sale;
    let replies = history.events().into_iter().filter(Event::is_success).map(|event| event.reply.expect("a reply"));
    let paid: Vec<Value> = replies.map(|reply| reply.body).collect();
    assert_eq!(paid.len(), BUYERS);
    let mut sql = cluster.world.sql().await;
    for one in &paid[..CARDS] {
        pay_by_card(&mut sql, one).await;
    }

    let begun = api.post(&cancellation(sale)).bearer(&sale.operator).send().await.expect(202);
    assert_eq!(begun["total"], BUYERS);
    let before = eventually("some to have their money", || async {
        progress(&api, sale).await.filter(|one| one["done"].as_u64() >= Some(KILLED_AFTER))
    })
    .await;
    cluster.kill(Victim::Instance).await;
    assert!(before["done"].as_u64() < Some(BUYERS as u64), "too late to disturb anything: {before}");
    let done = eventually("the other instance to finish", || async {
        progress(&api, sale).await.filter(|one| one["state"] == "done")
    })
    .await;
    assert_eq!((&done["done"], &done["total"], &done["pending"]), (&json!(BUYERS), &json!(BUYERS), &json!(0)));
    assert_eq!(done["refunds_owed"], CARDS);
    assert_eq!(done["refunded_amount"], PRICE * i64::try_from(BUYERS).expect("a number"));
    cluster.restart(Victim::Instance).await;

    for member in &crowd.members {
        let read = async |path: &str| api.get(path).bearer(&member.buyer.token).send().await.expect(200);
        let items = read("/v1/me/reservations").await["items"].clone();
        let is_card = paid[..CARDS].iter().any(|one| one["id"] == items[0]["id"]);
        let (status, amounts) =
            if is_card { ("refunding", vec![POINTS]) } else { ("refunded", vec![PRICE, -PRICE, POINTS]) };
        assert_eq!((&items[0]["status"], &items[0]["payment"]["status"]), (&json!("refunded"), &json!(status)));
        assert_eq!(read("/v1/me/points").await["balance"], POINTS);
        let entries = read("/v1/me/points/entries").await["items"].clone();
        let entries: Vec<i64> =
            entries.as_array().expect("entries").iter().filter_map(|one| one["amount"].as_i64()).collect();
        assert_eq!(entries, amounts, "{}", member.hold);
    }
    assert_eq!(events(&cluster.world, "reservation.refunded").await, i64::try_from(BUYERS).expect("a number"));
    cluster.assert_audited().await;
    drop(sql);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_gives_a_reservation_back() {
    let evening = Box::pin(Evening::new()).await;
    let (api, sale) = (&evening.apis[0], &evening.sale);
    let (payer, paid) = &evening.payer;
    // Whenever it is, and although it was used.
    evening.world.advance(Duration::from_mins(1));
    let code = text(&paid["seats"][0]["ticket_code"]);
    api.post(&format!("/v1/admin/tickets/{code}/check-in")).bearer(&sale.operator).send().await.expect(200);
    cancel(api, payer, paid).await.expect_problem(409, "not_cancellable");
    let bare = format!("/v1/admin/reservations/{}/refund", text(&paid["id"]));
    api.post(&bare).bearer(&sale.operator).send().await.expect_problem(400, "idempotency_key_missing");
    let answer = refund(api, sale, paid, "a refund").await;
    let bytes = answer.bytes.clone();
    let mut expected = paid.clone();
    expected["status"] = json!("refunded");
    expected["payment"]["status"] = json!("refunded");
    assert_eq!(answer.expect(200), expected);
    assert_eq!(reservation(&evening.apis[1], payer, paid).await, expected);
    assert_eq!(balance(api, payer).await, 50_000);
    let repeat = refund(&evening.apis[1], sale, paid, "a refund").await;
    assert_eq!((repeat.header("idempotency-replayed"), &repeat.bytes), (Some("true"), &bytes));
    refund(api, sale, paid, "another").await.expect_problem(409, "not_refundable");
    refund(api, sale, &json!({"id": fresh()}), "nothing").await.expect_problem(404, "not_found");
    assert_eq!(balance(api, payer).await, 50_000);

    // What was paid by card is owed to the card, whoever gives it back.
    let (carder, paid) = &evening.carder;
    let given_back = cancel(api, carder, paid).await.expect(200);
    assert_eq!((&given_back["status"], &given_back["payment"]["status"]), (&json!("cancelled"), &json!("refunding")));
    assert_eq!(balance(api, carder).await, 50_000);
    assert_eq!(actions(api, sale).await, ["reservation.refunded"]);
    let counts =
        [events(&evening.world, "reservation.refunded").await, events(&evening.world, "reservation.cancelled").await];
    assert_eq!(counts, [1, 1]);
    evening.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_performance_is_moved_and_its_buyers_may_go() {
    let world = World::with(&[("FRONTROW__ACCOUNTS__SESSION_HOURS", "2000")]).await;
    let (one, two) = (world.instance().await, world.instance().await);
    let (api, other) = (Api::over(&[&one]), Api::over(&[&two]));
    let sale = Sale::new(&api, &one, &Plan { performances: 2, ..Plan::default() }).await;
    let (before, paid_before) = booked(&api, &sale, "A-1-1").await;
    // Chooses now, and pays after the move.
    let late = Buyer::new(&api).await;
    late.charge(&api, 50_000).await;
    let pass = late.enter(&api, &sale).await;
    let late_hold = late.hold(&api, &sale.performances[0], &pass, &["A-1-3"]).await;
    let performance = format!("/v1/performances/{}", sale.performances[0]);
    let seen = other.get(&performance).send().await;
    let tag = seen.header("etag").expect("a tag").to_owned();
    let was = text(&seen.expect(200)["starts_at"]);

    let move_to = async |starts_at: &Value, token: &str| {
        let path = format!("/v1/admin/performances/{}/postponement", sale.performances[0]);
        api.post(&path).bearer(token).json(&json!({"starts_at": starts_at})).send().await
    };
    let later = json!(one.state.clock.now().plus(DAY * 45));
    move_to(&later, &before.token).await.expect_problem(403, "forbidden");
    move_to(&json!("2001-01-01T00:00:00Z"), &sale.operator).await.expect_problem(422, "invalid_body");
    move_to(&json!("soon"), &sale.operator).await.expect_problem(422, "invalid_body");
    let moved = move_to(&later, &sale.operator).await.expect(200);
    assert_eq!((&moved["id"], &moved["starts_at"]), (&json!(sale.performances[0]), &later));
    assert_ne!(later, was.as_str());
    // Again: it is where it was to be.
    assert_eq!(move_to(&later, &sale.operator).await.expect(200)["starts_at"], later);
    // The second one is the first of the concert now, and everybody is told, with other tags.
    for api in [&api, &other] {
        eventually("the new date", || async {
            world.advance(Duration::from_secs(1));
            let seen = api.get(&performance).header("if-none-match", &tag).send().await;
            let concert = api.get(&format!("/v1/concerts/{}", sale.concert)).send().await.expect(200);
            let starts: Vec<&Value> = concert["performances"].as_array()?.iter().map(|one| &one["starts_at"]).collect();
            let is_told = seen.status == 200 && seen.body["starts_at"] == later && starts[1] == &later;
            (is_told && concert["first_performance_at"] == *starts[0]).then_some(())
        })
        .await;
    }
    assert_eq!(events(&world, "performance.postponed").await, 1);
    assert_eq!(actions(&api, &sale).await, ["performance.postponed"]);

    let paid_late = late.try_pay(&api, &late_hold, "pay late").await.expect(201);
    // Whoever chooses now knows the date.
    world.advance(Duration::from_secs(31));
    let (after, paid_after) = booked(&api, &sale, "A-1-2").await;
    world.advance(DAY * 44 + Duration::from_mins(24 * 60 - 30));
    cancel(&other, &after, &paid_after).await.expect_problem(409, "not_cancellable");
    cancel(&other, &before, &paid_before).await.expect(200);
    cancel(&other, &late, &paid_late).await.expect(200);
    assert_eq!((balance(&api, &before).await, balance(&api, &late).await), (json!(50_000), json!(50_000)));
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}

/// Moves the first performance by so much.
async fn postpone(api: &Api, sale: &Sale, one: &Instance, by: Duration) {
    let path = format!("/v1/admin/performances/{}/postponement", sale.performances[0]);
    let body = json!({"starts_at": one.state.clock.now().plus(by)});
    api.post(&path).bearer(&sale.operator).json(&body).send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_let_in_before_a_move_may_go_or_come_again_once() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let (api, other) = (Api::over(&[&one]), Api::over(&[&two]));
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    let (goes, given_back) = booked(&api, &sale, "A-1-1").await;
    let (comes, kept) = booked(&api, &sale, "A-1-2").await;
    let gate = async |api: &Api, reservation: &Value| {
        let path = format!("/v1/admin/tickets/{}/check-in", text(&reservation["seats"][0]["ticket_code"]));
        api.post(&path).bearer(&sale.operator).send().await
    };
    for reservation in [&given_back, &kept] {
        gate(&api, reservation).await.expect(200);
        gate(&other, reservation).await.expect_problem(409, "already_checked_in");
    }
    cancel(&api, &goes, &given_back).await.expect_problem(409, "not_cancellable");

    // Once, and once more: what counts is the last date.
    for days in [45, 60] {
        postpone(&api, &sale, &one, DAY * days).await;
        let entered = gate(&other, &kept).await.expect(200);
        let again = gate(&api, &kept).await.expect_problem(409, "already_checked_in");
        assert_eq!(again["checked_in_at"], entered["checked_in_at"]);
        cancel(&other, &comes, &kept).await.expect_problem(409, "not_cancellable");
    }
    cancel(&other, &goes, &given_back).await.expect(200);
    assert_eq!((balance(&api, &goes).await, balance(&api, &comes).await), (json!(50_000), json!(40_000)));
    gate(&api, &given_back).await.expect_problem(409, "ticket_void");
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}
