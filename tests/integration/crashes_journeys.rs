//! Whole journeys, from joining to paying, while an instance, Redis and the database are killed one after the other and
//! Redis comes back with nothing: every 2xx of every step is honoured, and the line stays a line.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use frontrow::app::state::State;
use frontrow::catalog::ConcertId;
use futures::future::join_all;
use rand::Rng as _;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::api::Call;
use crate::support::arena::{Plan, text};
use crate::support::crowd::hall;
use crate::support::{Api, Buyer, Cluster, History, Instance, Reply, Sale, Victim, World, eventually, rounds};

/// Who sets out before each death.
const WAVE: usize = 20;
/// Fewer than a wave: there is always a line.
const ACTIVE: i64 = 6;
const PRICE: i64 = 10_000;
/// What a journey is told of success, if nothing is told twice.
const STEPS: usize = 8;
/// One relay's death keeps slots taken for a while that it was about to free, so what makes the line anew comes last.
const VICTIMS: [Victim; 4] = [Victim::Instance, Victim::Database, Victim::RedisAndItsData, Victim::Redis];
const LIVE_PASSES: &str = "SELECT COUNT(*) FROM queue_passes WHERE is_live = 1 AND expires_at > UTC_TIMESTAMP(6)";

/// A buyer on the way, with two seats that nobody else wants.
struct Traveller<'a> {
    api: &'a Api,
    sale: &'a Sale,
    /// What succeeds once.
    steps: &'a History,
    /// What is asked again and again.
    looks: &'a History,
    buyer: &'a Buyer,
    seats: [String; 2],
}

/// What a traveller was told.
struct Told {
    arrival: u64,
    ticket: String,
    charges: [Reply; 2],
    released: Reply,
    paid: Reply,
    payment: Reply,
}

impl Traveller<'_> {
    fn about(&self, step: &str) -> String {
        format!("{step} {}", self.buyer.id)
    }

    fn join(&self, ticket: &str) -> Call<'_> {
        let call = self.api.post(&format!("/v1/concerts/{}/queue/tickets", self.sale.concert));
        call.bearer(&self.buyer.token).ticket(ticket)
    }

    fn claim(&self, ticket: &str) -> Call<'_> {
        let call = self.api.post(&format!("/v1/concerts/{}/queue/passes", self.sale.concert));
        call.bearer(&self.buyer.token).ticket(ticket)
    }

    fn charge(&self, key: &str, amount: i64) -> Call<'_> {
        let call = self.api.post("/v1/me/points/charges").bearer(&self.buyer.token).key(key);
        call.json(&json!({"amount": amount}))
    }

    fn hold(&self, key: &str, pass: &str, seats: &[String]) -> Call<'_> {
        let call = self.api.post(&format!("/v1/performances/{}/holds", self.sale.performances[0]));
        call.bearer(&self.buyer.token).key(key).pass(pass).json(&json!({"seat_ids": seats}))
    }

    fn pay(&self, hold: &Reply) -> Call<'_> {
        let hold = text(&hold.body["id"]);
        let call = self.api.post(&format!("/v1/holds/{hold}/payment")).bearer(&self.buyer.token).key("pay");
        call.json(&json!({"method": "points"}))
    }

    /// Sends a step until it is answered, with success.
    async fn step<'a>(&'a self, name: &str, status: u16, call: impl Fn() -> Call<'a>) -> Reply {
        // News of a seat that was given back dies with whoever was to tell it; the filter is put right within a period.
        let reply = eventually("the filter to be right", || async {
            let reply = self.steps.insist(&self.about(name), &call).await;
            (reply.body["code"] != "seats_taken").then_some(reply)
        })
        .await;
        assert_eq!(reply.status, status, "{name}: {}", String::from_utf8_lossy(&reply.bytes));
        reply
    }

    /// Claims until it is this buyer's turn; whoever waits presents the ticket now and then, and keeps the place.
    async fn enter(&self, arrival: u64, ticket: &str) -> String {
        loop {
            let claim = self.steps.insist(&self.about("claim"), || self.claim(ticket)).await;
            if claim.status == 201 {
                return text(&claim.body["pass"]);
            }
            claim.expect_problem(409, "not_called");
            let again = self.looks.insist(&self.about("join again"), || self.join(ticket)).await.expect(200);
            assert_eq!(again["arrival"], arrival, "a place was lost");
            tokio::time::sleep(Duration::from_millis(rand::rng().random_range(20..80))).await;
        }
    }

    async fn travel(&self) -> Told {
        let place = self.steps.insist(&self.about("join"), || self.join("")).await;
        // A join whose answer was lost has given a place already.
        assert!(matches!(place.status, 200 | 201), "{place:?}");
        let (arrival, ticket) = (place.body["arrival"].as_u64().expect("a number"), text(&place.body["ticket"]));
        let first = self.step("charge", 201, || self.charge("first", PRICE)).await;
        let pass = self.enter(arrival, &ticket).await;
        let released = self.step("hold", 201, || self.hold("one", &pass, &self.seats[..1])).await;
        let path = format!("/v1/holds/{}", text(&released.body["id"]));
        self.step("release", 204, || self.api.delete(&path).bearer(&self.buyer.token)).await;
        let paid = self.step("hold", 201, || self.hold("both", &pass, &self.seats)).await;
        let second = self.step("charge", 201, || self.charge("second", PRICE + 1)).await;
        let payment = self.step("pay", 201, || self.pay(&paid)).await;
        Told { arrival, ticket, charges: [first, second], released, paid, payment }
    }

    async fn read(&self, path: &str) -> Value {
        self.api.get(path).bearer(&self.buyer.token).send().await.expect(200)
    }

    /// Asserts that all of it is there, and nothing else.
    async fn assert_kept(&self, told: &Told) {
        let repeats = [
            (self.charge("first", PRICE), &told.charges[0]),
            (self.charge("second", PRICE + 1), &told.charges[1]),
            (self.hold("one", "any", &self.seats[..1]), &told.released),
            (self.hold("both", "any", &self.seats), &told.paid),
            (self.pay(&told.paid), &told.payment),
        ];
        for (call, told) in repeats {
            let repeat = call.send().await;
            assert_eq!(repeat.header("idempotency-replayed"), Some("true"), "{repeat:?}");
            assert_eq!((repeat.status, repeat.bytes), (told.status, told.bytes.clone()));
        }
        for (hold, status) in [(&told.released, "released"), (&told.paid, "paid")] {
            let mut expected = hold.body.clone();
            expected["status"] = status.into();
            // Said only when it is made.
            expected.as_object_mut().expect("a hold").remove("leaves_orphan");
            assert_eq!(self.read(&format!("/v1/holds/{}", text(&hold.body["id"]))).await, expected);
        }
        assert_eq!(self.read("/v1/me/reservations").await["items"], json!([told.payment.body]));
        assert_eq!(self.read("/v1/me/points").await["balance"], 1);
        let entries = self.read("/v1/me/points/entries").await;
        let amounts: Vec<_> =
            entries["items"].as_array().expect("a list").iter().map(|entry| &entry["amount"]).collect();
        assert_eq!(amounts, [-2 * PRICE, PRICE + 1, PRICE]);
        // The stay is over, whatever the line still remembers of it.
        let again = self.looks.insist(&self.about("claim again"), || self.claim(&told.ticket)).await;
        assert!(matches!(again.status, 409 | 410), "{again:?}");
    }
}

/// Those who were told to wait after somebody behind them was let in.
fn overtaken(steps: &History, arrivals: &HashMap<&str, u64>) -> Vec<String> {
    let events = steps.events();
    let claims: Vec<_> =
        events.iter().filter_map(|event| Some((arrivals[event.about.strip_prefix("claim ")?], event))).collect();
    let entered: Vec<_> = claims.iter().filter(|(_, event)| event.is_success()).collect();
    let waits = |event: &&crate::support::history::Event| {
        event.reply.as_ref().is_some_and(|reply| reply.status == 409 && reply.body["ahead"].as_u64() > Some(0))
    };
    let mut found = Vec::new();
    for (arrival, event) in claims.iter().filter(|(_, event)| waits(event)) {
        let first = entered.iter().find(|(other, entry)| other > arrival && entry.at + entry.took < event.at);
        found.extend(
            first.map(|(other, entry)| format!("{other} entered at {:?}, {arrival} waits at {:?}", entry.at, event.at)),
        );
    }
    found
}

/// Counts who is inside, by the database and by the line, for as long as it is polled.
async fn watch_slots(state: &State, api: &Api, sale: &Sale) {
    let path = format!("/v1/concerts/{}/queue", sale.concert);
    loop {
        let live = state.db.read("test.live_passes", (), |conn, ()| {
            Box::pin(async move { Ok(sqlx::query_scalar::<_, i64>(LIVE_PASSES).fetch_one(conn.sql()).await?) })
        });
        if let Ok(live) = live.await {
            assert!(live <= ACTIVE, "{live} passes");
        }
        if let Some(line) = api.try_get(&path).await.filter(|reply| reply.status == 200) {
            assert!(line.body["active"].as_i64() <= Some(ACTIVE), "{}", line.body);
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}

async fn one_round(cluster: &mut Cluster, victims: &[Victim]) {
    let (api, count) = (cluster.api(), WAVE * victims.len());
    let (labels, sections) = hall(2 * count);
    let queue = json!({"admit_per_second": 1000, "max_active": ACTIVE, "claim_secs": 600, "session_secs": 3600});
    let sale = Sale::made_with(&api, &cluster.state, &Plan { sections, queue, price: PRICE, ..Plan::default() }).await;
    let buyers = Buyer::many(&cluster.state, u32::try_from(count).expect("a few")).await;
    let (steps, looks, permits) = (History::default(), History::default(), Semaphore::new(0));
    let traveller = |(buyer, seats): (_, &[String])| {
        let seats = [seats[0].clone(), seats[1].clone()];
        Traveller { api: &api, sale: &sale, steps: &steps, looks: &looks, buyer, seats }
    };
    let travellers: Vec<Traveller<'_>> = buyers.iter().zip(labels.chunks(2)).map(traveller).collect();
    let travel = async |traveller: &Traveller<'_>| {
        permits.acquire().await.expect("never closed").forget();
        traveller.travel().await
    };
    let state = cluster.state.clone();
    let deaths = async {
        for (wave, victim) in victims.iter().enumerate() {
            permits.add_permits(WAVE);
            let later = rand::rng().random_range(0..2 * WAVE);
            steps.reaches(wave * WAVE * STEPS + WAVE * STEPS / 2 + later).await;
            cluster.kill(*victim).await;
            cluster.restart(*victim).await;
        }
    };
    let journeys = async { tokio::join!(join_all(travellers.iter().map(travel)), deaths).0 };
    let told = tokio::select! {
        told = journeys => told,
        () = watch_slots(&state, &api, &sale) => unreachable!("it watches for ever"),
    };

    join_all(travellers.iter().zip(&told).map(|(traveller, told)| traveller.assert_kept(told))).await;
    steps.assert_no_server_error();
    looks.assert_no_server_error();
    let disturbed = steps.others(&["200", "201", "204", "409 not_called"]);
    assert!(!disturbed.is_empty(), "nobody was disturbed: {:?}", steps.outcomes());
    let different: HashSet<u64> = told.iter().map(|told| told.arrival).collect();
    assert_eq!(different.len(), told.len(), "a number was given to two");
    let arrivals = travellers.iter().zip(&told).map(|(one, told)| (one.buyer.id.as_str(), told.arrival)).collect();
    let overtaken = overtaken(&steps, &arrivals);
    assert!(overtaken.is_empty(), "{overtaken:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn journeys_outlive_everything_that_is_killed() {
    let mut cluster = Cluster::start(2).await;
    for round in 0..rounds() {
        let mut victims = VICTIMS;
        victims.rotate_left(round % VICTIMS.len());
        one_round(&mut cluster, &victims).await;
        cluster.assert_audited().await;
    }
    cluster.end().await;
}

/// Two instances that tick when they are told to; three buyers who were called through the first one, which the second
/// has not heard of yet when Redis loses everything.
async fn called_and_forgotten(world: &World) -> ([Instance; 2], Sale, Vec<(Buyer, String)>) {
    const NEVER: &[(&str, &str)] = &[("FRONTROW__QUEUE__TICK_MS", "3600000")];
    let (one, late) = (world.instance_with(NEVER).await, world.instance_with(NEVER).await);
    let (api, api_late) = (Api::over(&[&one]), Api::over(&[&late]));
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    let line = api_late.get(&format!("/v1/concerts/{}/queue", sale.concert)).send().await.expect(200);
    assert_eq!(line["serving"], 0);
    let mut called = Vec::new();
    for buyer in Buyer::many(&one.state, 3).await {
        let ticket = buyer.join(&api, &sale).await;
        called.push((buyer, ticket));
    }
    tick(&one, &sale).await;
    ([one, late], sale, called)
}

async fn tick(instance: &Instance, sale: &Sale) {
    let line = instance.state.queue.get_sale(sale.concert.parse().map(ConcertId).expect("an id")).await;
    instance.state.queue.tick(&line.expect("the sale")).await.expect("a tick");
}

async fn try_claim(instance: &Instance, sale: &Sale, (buyer, ticket): &(Buyer, String)) -> Reply {
    let path = format!("/v1/concerts/{}/queue/passes", sale.concert);
    Api::over(&[instance]).post(&path).bearer(&buyer.token).ticket(ticket).send().await
}

/// The instance that makes the line anew may have slept through the calls: who is inside tells how far they went.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_overtaken_where_an_instance_that_was_late_makes_the_line_anew() {
    let world = World::new().await;
    let ([one, late], sale, called) = Box::pin(called_and_forgotten(&world)).await;
    try_claim(&one, &sale, &called[2]).await.expect(201);
    one.stop().await;
    world.wipe_redis().await;
    for buyer in &called {
        try_claim(&late, &sale, buyer).await.expect(201);
    }
    world.assert_clean(&late).await;
    world.end(vec![late]).await;
}

/// What an instance has announced is not taken back, though another one that had not heard of it made the line anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_was_announced_stays_a_call() {
    let world = World::new().await;
    let ([one, late], sale, called) = Box::pin(called_and_forgotten(&world)).await;
    world.wipe_redis().await;
    try_claim(&late, &sale, &called[2]).await.expect_problem(409, "not_called");
    // Paused, so that nobody is called for the first time.
    let rules = format!("/v1/admin/concerts/{}/queue", sale.concert);
    let pause = Api::over(&[&one]).patch(&rules).bearer(&sale.operator).json(&json!({"paused": true})).send().await;
    pause.expect(200);
    // The first tick finds another line than the instance knew.
    tick(&one, &sale).await;
    tick(&one, &sale).await;
    for buyer in &called {
        try_claim(&late, &sale, buyer).await.expect(201);
    }
    world.assert_clean(&one).await;
    world.end(vec![one, late]).await;
}
