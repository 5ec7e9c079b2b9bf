//! What operators do to a running sale is obeyed on every instance, and the log tells who did it.

use std::time::{Duration, Instant};

use frontrow::accounts::{UserId, actions};
use frontrow::platform::http::PageParams;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::arena::{Plan, text};
use crate::support::crowd::hall;
use crate::support::proxy::sabotage::Sabotage;
use crate::support::{Api, Buyer, Instance, Reply, Sale, World, assert_members, eventually};

/// Everybody inside whose stay is ended at once: more than two transactions' worth.
const INSIDE: u32 = 1_200;

/// Two instances and a sale.
struct Theatre {
    world: World,
    instances: [Instance; 2],
    /// Of each instance.
    apis: [Api; 2],
    /// Of both in turn.
    api: Api,
    sale: Sale,
}

impl Theatre {
    async fn open(plan: &Plan) -> Self {
        let world = World::new().await;
        let instances = [world.instance().await, world.instance().await];
        let api = Api::over(&instances.each_ref());
        let apis = instances.each_ref().map(|instance| Api::over(&[instance]));
        let sale = Sale::new(&api, &instances[0], plan).await;
        Self { world, instances, apis, api, sale }
    }

    async fn close(self) {
        self.world.assert_clean(&self.instances[0]).await;
        self.world.end(self.instances.into()).await;
    }

    fn line(&self) -> String {
        format!("/v1/concerts/{}/queue", self.sale.concert)
    }

    fn orders(&self) -> String {
        format!("/v1/admin/concerts/{}", self.sale.concert)
    }

    async fn change(&self, api: &Api, body: &Value) -> Reply {
        api.patch(&format!("{}/queue", self.orders())).bearer(&self.sale.operator).json(body).send().await
    }

    async fn order(&self, api: &Api, what: &str) -> Reply {
        api.post(&format!("{}/{what}", self.orders())).bearer(&self.sale.operator).send().await
    }

    async fn end_stays(&self, api: &Api) -> Reply {
        api.delete(&format!("{}/queue/passes", self.orders())).bearer(&self.sale.operator).send().await
    }

    /// The line as the operator sees it on this instance.
    async fn look(&self, api: &Api) -> Value {
        api.get(&format!("{}/queue", self.orders())).bearer(&self.sale.operator).send().await.expect(200)
    }

    /// Waits until both instances see it so, and tells how long each took.
    async fn obeyed(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> [Duration; 2] {
        let ordered = Instant::now();
        let until = async |number: usize| {
            eventually(&format!("{what} on instance {number}"), || async {
                is_so(&self.look(&self.apis[number]).await).then(|| ordered.elapsed())
            })
            .await
        };
        let (one, two) = tokio::join!(until(0), until(1));
        [one, two]
    }

    async fn try_claim(&self, api: &Api, buyer: &Buyer, ticket: &str) -> Reply {
        api.post(&format!("{}/passes", self.line())).bearer(&buyer.token).ticket(ticket).send().await
    }

    async fn try_join(&self, api: &Api, buyer: &Buyer) -> Reply {
        api.post(&format!("{}/tickets", self.line())).bearer(&buyer.token).send().await
    }

    /// Joins and waits for the call.
    async fn called(&self, buyer: &Buyer) -> String {
        let ticket = buyer.join(&self.api, &self.sale).await;
        let me = format!("{}/tickets/me", self.line());
        eventually("the call", || async {
            (self.api.get(&me).ticket(&ticket).send().await.expect(200)["status"] == "called").then_some(())
        })
        .await;
        ticket
    }

    async fn list_actions(&self, query: &str) -> Reply {
        self.api.get(&format!("/v1/admin/actions?{query}")).bearer(&self.sale.operator).send().await
    }
}

#[track_caller]
fn assert_stopped(reply: Reply) {
    assert_eq!(reply.header("retry-after"), Some("3"), "{reply:?}");
    reply.expect_problem(503, "sale_stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_order_is_obeyed_on_both_instances_within_two_seconds() {
    let theatre = Theatre::open(&Plan::default()).await;
    let orders = [
        json!({"paused": true}),
        json!({"paused": false, "admit_per_second": 7}),
        json!({"max_active": 3}),
        json!({"claim_secs": 50, "session_secs": 500}),
        json!({"joins_closed": true}),
        json!({"joins_closed": false, "max_active": 4}),
    ];
    let mut took = Vec::new();
    for (turn, order) in orders.iter().enumerate() {
        let answer = theatre.change(&theatre.apis[turn % 2], order).await.expect(200);
        let is_so = |rules: &Value| order.as_object().expect("rules").iter().all(|(name, value)| rules[name] == *value);
        assert!(is_so(&answer), "{answer}");
        took.push(theatre.obeyed(&order.to_string(), |line| is_so(&line["rules"])).await);
    }
    for (turn, (what, phase)) in [("stop", "paused"), ("resume", "open")].into_iter().enumerate() {
        let answer = theatre.order(&theatre.apis[turn], what).await.expect(200);
        assert_eq!(answer["stopped"], what == "stop");
        took.push(theatre.obeyed(what, |line| line["phase"] == phase).await);
    }
    // By the one that was not asked; of all, the middle one: a busy machine may hold up one or the other.
    let mut took: Vec<Duration> = took.into_iter().map(|[one, two]| one.max(two)).collect();
    took.sort_unstable();
    println!("obeyed after {took:?}");
    assert!(took[took.len() / 2] < Duration::from_secs(2), "{took:?}");
    theatre.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_line_keeps_its_places_and_takes_no_newcomers() {
    let queue = json!({"admit_per_second": 1000, "max_active": 1, "claim_secs": 60, "session_secs": 600});
    let theatre = Theatre::open(&Plan { queue, ..Plan::default() }).await;
    let (api, sale) = (&theatre.api, &theatre.sale);
    let buyers = Buyer::many(&theatre.instances[0].state, 4).await;
    let [inside, waiting, leaver, newcomer] = [0, 1, 2, 3].map(|number| &buyers[number]);
    inside.enter(api, sale).await;
    let ticket = waiting.join(api, sale).await;
    let left = leaver.join(api, sale).await;
    let arrival = theatre.try_join(api, waiting).await.expect(200)["arrival"].clone();

    theatre.change(&theatre.apis[0], &json!({"joins_closed": true})).await.expect(200);
    theatre.obeyed("closing", |line| line["rules"]["joins_closed"] == true).await;
    for api in &theatre.apis {
        theatre.try_join(api, newcomer).await.expect_problem(409, "joins_closed");
        assert_eq!(theatre.try_join(api, waiting).await.expect(200)["arrival"], arrival);
        let line = api.get(&theatre.line()).send().await.expect(200);
        assert_eq!(line["phase"], "open", "the others go on");
    }
    let leave = api.delete(&format!("{}/tickets/me", theatre.line())).bearer(&leaver.token).ticket(&left).send().await;
    assert_eq!(leave.status, 204);
    theatre.try_join(api, leaver).await.expect_problem(409, "joins_closed");

    // Nor does the loss of Redis take the place away from whoever has its ticket.
    theatre.world.wipe_redis().await;
    let tickets = format!("{}/tickets", theatre.line());
    let place = eventually("the line to be rebuilt", || async {
        let reply = api.post(&tickets).bearer(&waiting.token).ticket(&ticket).send().await;
        (reply.status != 503).then_some(reply)
    })
    .await;
    assert_eq!(place.expect(200)["arrival"], arrival);
    theatre.try_join(api, newcomer).await.expect_problem(409, "joins_closed");

    theatre.change(&theatre.apis[1], &json!({"joins_closed": false})).await.expect(200);
    theatre.obeyed("opening", |line| line["rules"]["joins_closed"] == false).await;
    theatre.try_join(&theatre.apis[0], newcomer).await.expect(201);
    theatre.close().await;
}

/// A sale of which something is held, paid and called.
struct Busy {
    payer: Buyer,
    /// Of the payment that has taken effect, by the key `early`.
    paid: (String, Reply),
    /// Not paid yet.
    due: String,
    holder: Buyer,
    pass: String,
    held: String,
    called: Buyer,
    ticket: String,
}

impl Busy {
    async fn at(theatre: &Theatre) -> Self {
        let (api, sale) = (&theatre.api, &theatre.sale);
        let performance = &sale.performances[0];
        let mut buyers = Buyer::many(&theatre.instances[0].state, 3).await;
        let (payer, holder, called) = (buyers.remove(0), buyers.remove(0), buyers.remove(0));
        payer.charge(api, 50_000).await;
        let pass = payer.enter(api, sale).await;
        let first = payer.hold(api, performance, &pass, &["A-1-1"]).await;
        let due = payer.hold(api, performance, &pass, &["A-1-2"]).await;
        let paid = payer.try_pay(api, &first, "early").await;
        assert_eq!(paid.status, 201, "{paid:?}");
        let pass = holder.enter(api, sale).await;
        let held = holder.hold(api, performance, &pass, &["A-2-1"]).await;
        let ticket = theatre.called(&called).await;
        Self { payer, paid: (first, paid), due, holder, pass, held, called, ticket }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_is_obeyed_at_once_and_takes_nothing_away() {
    let theatre = Theatre::open(&Plan::default()).await;
    let busy = Busy::at(&theatre).await;
    let performance = &theatre.sale.performances[0];
    let newcomer = Buyer::new(&theatre.api).await;
    let me = format!("{}/tickets/me", theatre.line());
    assert_eq!(theatre.order(&theatre.apis[0], "stop").await.expect(200)["stopped"], true);
    // The other instance has heard of nothing yet.
    for api in [&theatre.apis[1], &theatre.apis[0]] {
        assert_stopped(busy.holder.try_hold(api, performance, &busy.pass, &["A-2-2"]).await);
        assert_stopped(busy.payer.try_pay(api, &busy.due, "late").await);
        assert_stopped(theatre.try_claim(api, &busy.called, &busy.ticket).await);
        let again = busy.payer.try_pay(api, &busy.paid.0, "early").await;
        assert_eq!((again.status, &again.bytes), (201, &busy.paid.1.bytes), "what took effect is told again");
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert!(matches!(theatre.try_join(api, &newcomer).await.status, 200 | 201), "joining goes on");
        api.get(&me).ticket(&busy.ticket).send().await.expect(200);
        let held = api.get(&format!("/v1/holds/{}", busy.held)).bearer(&busy.holder.token).send().await.expect(200);
        assert_eq!(held["status"], "held");
    }
    let api = &theatre.api;
    let release = api.delete(&format!("/v1/holds/{}", busy.held)).bearer(&busy.holder.token).send().await;
    assert_eq!(release.status, 204, "seats can be given back");
    let reservation = text(&busy.paid.1.body["id"]);
    let cancel = api.post(&format!("/v1/reservations/{reservation}/cancellation")).bearer(&busy.payer.token);
    assert_eq!(cancel.key("cancel").send().await.expect(200)["status"], "cancelled", "and so can tickets");
    theatre.obeyed("the stop", |line| line["phase"] == "paused").await;
    assert_eq!(theatre.order(api, "stop").await.expect(200)["stopped"], true, "twice is harmless");
    assert_stopped(theatre.try_claim(api, &busy.called, &busy.ticket).await);

    assert_eq!(theatre.order(&theatre.apis[1], "resume").await.expect(200)["stopped"], false);
    busy.holder.hold(&theatre.apis[0], performance, &busy.pass, &["A-2-2"]).await;
    // A refusal is not remembered, so the same key takes effect now.
    busy.payer.try_pay(&theatre.apis[0], &busy.due, "late").await.expect(201);
    theatre.obeyed("going on", |line| line["phase"] == "open").await;
    busy.called.claim(api, &theatre.sale, &busy.ticket).await;
    theatre.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_keeps_asking_while_a_sale_is_stopped_keeps_the_call() {
    let theatre = Theatre::open(&Plan::default()).await;
    let buyers = Buyer::many(&theatre.instances[0].state, 2).await;
    let (patient, absent) = (&buyers[0], &buyers[1]);
    let (ticket, lost) = (theatre.called(patient).await, theatre.called(absent).await);
    theatre.order(&theatre.api, "stop").await.expect(200);
    theatre.obeyed("the stop", |line| line["rules"]["stopped"] == true).await;
    for _ in 0..3 {
        // Each time most of the sixty seconds in which they must come.
        assert_stopped(theatre.try_claim(&theatre.api, patient, &ticket).await);
        theatre.world.advance(Duration::from_secs(50));
    }
    theatre.order(&theatre.api, "resume").await.expect(200);
    theatre.obeyed("going on", |line| line["rules"]["stopped"] == false).await;
    theatre.try_claim(&theatre.api, patient, &ticket).await.expect(201);
    theatre.try_claim(&theatre.api, absent, &lost).await.expect_problem(410, "ticket_lapsed");
    theatre.close().await;
}

/// Everybody of them, inside.
async fn all_inside(theatre: &Theatre, buyers: &[Buyer]) -> Vec<String> {
    use futures::StreamExt as _;
    let enter = async |buyer: &Buyer| buyer.enter(&theatre.api, &theatre.sale).await;
    futures::stream::iter(buyers).map(enter).buffered(32).collect().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ending_all_stays_frees_every_slot_and_leaves_the_holds() {
    let (labels, sections) = hall(INSIDE as usize + 50);
    let queue = json!({"admit_per_second": 10_000, "max_active": INSIDE, "claim_secs": 600, "session_secs": 3600});
    let theatre = Theatre::open(&Plan { sections, queue, ..Plan::default() }).await;
    let performance = &theatre.sale.performances[0];
    let buyers = Buyer::many(&theatre.instances[0].state, INSIDE).await;
    let passes = all_inside(&theatre, &buyers).await;
    Buyer::endow(&theatre.instances[0].state, &buyers[..3], 10_000).await;
    let mut held = Vec::new();
    for number in 0..3 {
        held.push(buyers[number].hold(&theatre.api, performance, &passes[number], &[&labels[number]]).await);
    }

    let began = Instant::now();
    let ended = theatre.end_stays(&theatre.apis[0]).await.expect(200);
    let answered = began.elapsed();
    assert_eq!(ended, json!({"ended": INSIDE}));
    for number in (0..buyers.len()).step_by(60) {
        let api = &theatre.apis[number / 60 % 2];
        let refused = buyers[number].try_hold(api, performance, &passes[number], &[&labels[number + 50]]).await;
        refused.expect_problem(403, "pass_expired");
    }
    for (buyer, hold) in buyers.iter().zip(&held) {
        buyer.try_pay(&theatre.api, hold, "pay").await.expect(201);
    }
    theatre.obeyed("an empty house", |line| line["active"] == 0).await;
    println!("{INSIDE} stays: answered after {answered:?}, all slots free after {:?}", began.elapsed());
    assert_eq!(theatre.end_stays(&theatre.apis[1]).await.expect(200), json!({"ended": 0}));

    let events = "SELECT COUNT(*), COUNT(DISTINCT aggregate_id) FROM outbox WHERE topic = 'queue.pass_ended'";
    let events: (i64, i64) =
        sqlx::query_as(events).fetch_one(&mut theatre.world.sql().await).await.expect("the events");
    assert_eq!(events, (i64::from(INSIDE), i64::from(INSIDE)), "each slot is freed once");
    let told = theatre.list_actions(&format!("concert={}", theatre.sale.concert)).await.expect(200);
    let told = told["items"].as_array().expect("items").iter();
    let told: Vec<Value> = told.map(|action| json!([action["action"], action["details"]])).collect();
    let wanted = [
        json!(["queue.stays_ended", {"after": {"ended": 0}}]),
        json!(["queue.stays_ending", {"before": {"live": 0}}]),
        json!(["queue.stays_ended", {"after": {"ended": INSIDE}}]),
        json!(["queue.stays_ending", {"before": {"live": INSIDE}}]),
    ];
    assert_eq!(told, wanted);

    // They come back like anybody else.
    let pass = buyers[10].enter(&theatre.api, &theatre.sale).await;
    buyers[10].hold(&theatre.api, performance, &pass, &[&labels[10]]).await;
    theatre.close().await;
}

/// The log of a concert, page by page.
async fn whole_log(theatre: &Theatre, limit: usize) -> Vec<Value> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let query = format!("concert={}&limit={limit}{cursor}", theatre.sale.concert);
        let page = theatre.list_actions(&query).await.expect(200);
        found.extend(page["items"].as_array().expect("items").iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_tells_who_changed_what() {
    let theatre = Theatre::open(&Plan::default()).await;
    let me = theatre.api.get("/v1/me").bearer(&theatre.sale.operator).send().await.expect(200);
    theatre.change(&theatre.api, &json!({"max_active": 5, "paused": true})).await.expect(200);
    theatre.order(&theatre.api, "stop").await.expect(200);
    theatre.order(&theatre.api, "stop").await.expect(200);
    let resumed = theatre.order(&theatre.api, "resume").await.expect(200);
    assert_eq!((&resumed["paused"], &resumed["stopped"]), (&json!(true), &json!(false)), "a pause is left as it was");
    theatre.end_stays(&theatre.api).await.expect(200);
    theatre.change(&theatre.api, &json!({"joins_closed": true})).await.expect(200);
    // Nothing is ordered.
    theatre.change(&theatre.api, &json!({})).await.expect(200);
    // Another operator, another concert.
    let other = Sale::new(&theatre.api, &theatre.instances[0], &Plan::default()).await;
    let path = format!("/v1/admin/concerts/{}/stop", other.concert);
    theatre.api.post(&path).bearer(&other.operator).send().await.expect(200);

    let log = whole_log(&theatre, 100).await;
    assert_eq!(whole_log(&theatre, 2).await, log, "pages show the same");
    for action in &log {
        assert_members(action, &["id", "operator_id", "action", "concert_id", "details", "at"]);
        assert_eq!((&action["operator_id"], &action["concert_id"]), (&me["id"], &json!(theatre.sale.concert)));
    }
    let changed = |number: usize, name: &str| {
        let details = &log[number]["details"];
        (text(&log[number]["action"]), details["before"][name].clone(), details["after"][name].clone())
    };
    let told = |action: &str, before: Value, after: Value| (action.to_owned(), before, after);
    assert_eq!(changed(0, "joins_closed"), told("queue.rules_changed", json!(false), json!(true)));
    assert_eq!(changed(1, "ended"), told("queue.stays_ended", Value::Null, json!(0)));
    assert_eq!(changed(2, "live"), told("queue.stays_ending", json!(0), Value::Null));
    assert_eq!(changed(3, "stopped"), told("sale.resumed", json!(true), json!(false)));
    assert_eq!(changed(4, "stopped"), told("sale.stopped", json!(true), json!(true)));
    assert_eq!(changed(5, "stopped"), told("sale.stopped", json!(false), json!(true)));
    assert_eq!(changed(6, "max_active"), told("queue.rules_changed", json!(1000), json!(5)));
    assert_eq!(log.len(), 7);
    let all = theatre.list_actions("limit=100").await.expect(200);
    let all = all["items"].as_array().expect("items");
    assert_eq!(all.len(), 8, "of all concerts");
    assert!(all[0]["concert_id"] == json!(other.concert) && all[0]["operator_id"] != me["id"], "{}", all[0]);
    theatre.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_changed_that_the_log_cannot_tell() {
    let theatre = Theatre::open(&Plan::default()).await;
    let buyer = Buyer::new(&theatre.api).await;
    let pass = buyer.enter(&theatre.api, &theatre.sale).await;
    let before = theatre.look(&theatre.api).await["rules"].clone();
    let broken = Sabotage::of_sql("INSERT INTO operator_actions", "operator_actions", "nowhere");
    let mysql = theatre.world.mysql_sabotaged(&broken).await;
    let (name, url) = theatre.world.mysql_through(&mysql);
    let third = theatre.world.instance_with(&[(name, &url)]).await;
    let api = Api::over(&[&third]);
    theatre.change(&api, &json!({"joins_closed": true, "max_active": 1})).await.expect_problem(500, "internal");
    theatre.order(&api, "stop").await.expect_problem(500, "internal");
    theatre.end_stays(&api).await.expect_problem(500, "internal");
    assert!(broken.hits() > 0, "the entry was not tried");
    // Whoever rereads the rules finds them as they were, and whoever is inside still is.
    let fresh = theatre.world.instance().await;
    assert_eq!(theatre.look(&Api::over(&[&fresh])).await["rules"], before);
    buyer.hold(&theatre.api, &theatre.sale.performances[0], &pass, &["A-1-1"]).await;
    assert_eq!(theatre.list_actions("").await.expect(200)["items"], json!([]));
    fresh.stop().await;
    third.stop().await;
    theatre.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_has_a_bounded_size() {
    let world = World::new().await;
    let state = world.services(&[]).await;
    let record = |chars: usize| {
        state.db.in_tx("test.record", chars, |conn, chars| {
            let details = json!("가".repeat(*chars));
            Box::pin(async move { actions::record(conn, UserId::new(), "test.done", None, &details).await })
        })
    };
    // Quotes take two more.
    record(1998).await.expect("as much as there is room for");
    assert_eq!(record(1999).await.expect_err("one more").code().code, "internal");
    let listed = state.accounts.list_actions(None, PageParams::first()).await.expect("the log");
    assert_eq!(listed.items.len(), 1);
    state.db.close().await;
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_not_in_the_log() {
    let theatre = Theatre::open(&Plan::default()).await;
    let buyer = Buyer::new(&theatre.api).await;
    let (operator, absent) = (&theatre.sale.operator, format!("/v1/admin/concerts/{}", Uuid::now_v7()));
    for (token, base, status, code) in
        [(operator, &absent, 404, "not_found"), (&buyer.token, &theatre.orders(), 403, "forbidden")]
    {
        let api = &theatre.api;
        let calls = [
            api.get(&format!("{base}/queue")),
            api.patch(&format!("{base}/queue")).json(&json!({"joins_closed": true})),
            api.post(&format!("{base}/stop")),
            api.post(&format!("{base}/resume")),
            api.delete(&format!("{base}/queue/passes")),
        ];
        for call in calls {
            call.bearer(token).send().await.expect_problem(status, code);
        }
    }
    for body in [json!({"joins_closed": "yes"}), json!({"joins_closed": 1}), json!({"stopped": true}), json!([true])] {
        theatre.change(&theatre.api, &body).await.expect_problem(422, "invalid_body");
    }
    for query in ["concert=", "concert=x", "concert=1&concert=2"] {
        let problem = theatre.list_actions(query).await.expect_problem(422, "invalid_parameter");
        assert_eq!(problem["errors"][0]["field"], "concert", "{query}");
    }
    theatre.api.get("/v1/admin/actions").bearer(&buyer.token).send().await.expect_problem(403, "forbidden");
    assert_eq!(theatre.list_actions("").await.expect(200), json!({"items": [], "next_cursor": null}));
    let line = theatre.look(&theatre.api).await;
    let members =
        ["concert_id", "phase", "rules", "epoch", "issued", "ceiling", "serving", "waiting", "called", "active"];
    let pace = ["present", "seats_left", "store", "bound_by", "pace_per_second", "no_show_share"];
    assert_members(&line, &[&members[..], &pace].concat());
    assert_eq!((&line["rules"]["joins_closed"], &line["rules"]["stopped"]), (&json!(false), &json!(false)));
    theatre.close().await;
}
