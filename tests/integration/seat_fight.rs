//! A crowd fights for a hall over two instances, while one of them is killed and Redis forgets everything: no seat is sold twice,
//! what was answered holds, and in the end every seat is sold or free.
//!
//! `FRONTROW_FIGHTERS` sets how many buyers come.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

use frontrow::accounts::UserId;
use futures::{StreamExt as _, stream};
use rand::Rng as _;
use serde_json::{Value, json};

use crate::support::arena::{Plan, text};
use crate::support::crowd::hall;
use crate::support::inside::passes;
use crate::support::{Api, Buyer, Cluster, Reply, Sale, Victim, eventually};

const FIGHTERS: usize = 2_000;
const SEATS: usize = 1_000;
/// Requests under way at once.
const AT_ONCE: usize = 64;
/// How often a buyer tries to get seats.
const TRIES: usize = 4;
const PRICE: i64 = 10_000;

/// Somebody inside, with money for what they may have.
struct Fighter {
    buyer: Buyer,
    pass: String,
}

/// How a fight ended for one buyer: the reservation that was confirmed, if one was.
type Outcome = Option<Value>;

struct Fight<'a> {
    api: &'a Api,
    sale: &'a Sale,
    labels: &'a [String],
    over: AtomicUsize,
}

impl Fight<'_> {
    /// Repeats a keyed request until it is answered by something else than a fault.
    async fn insist(&self, send: impl AsyncFn() -> Option<Reply>) -> Reply {
        eventually("an answer", || async {
            send().await.filter(|reply| reply.status < 500 && reply.body["code"] != "idempotency_key_in_flight")
        })
        .await
    }

    fn wish(&self, number: usize) -> Value {
        let mut rng = rand::rng();
        if number.is_multiple_of(2) {
            return json!({"best_available": {"quantity": rng.random_range(1..=3)}});
        }
        let first = rng.random_range(0..SEATS / 2) * 2;
        json!({"seat_ids": [self.labels[first], self.labels[first + 1]]})
    }

    async fn hold(&self, fighter: &Fighter, wish: &Value) -> Reply {
        let (path, key) =
            (format!("/v1/performances/{}/holds", self.sale.performances[0]), uuid::Uuid::new_v4().to_string());
        self.insist(async || {
            let call = self.api.post(&path).bearer(&fighter.buyer.token).pass(&fighter.pass).key(&key);
            call.json(wish).try_send().await.ok()
        })
        .await
    }

    async fn fight(&self, number: usize, fighter: &Fighter) -> Outcome {
        let mut outcome = None;
        for _ in 0..TRIES {
            let held = self.hold(fighter, &self.wish(number)).await;
            if held.status != 201 {
                let code = text(&held.body["code"]);
                assert!(["seats_taken", "not_enough_seats"].contains(&code.as_str()), "{held:?}");
                continue;
            }
            let hold = text(&held.body["id"]);
            // Some think better of it.
            if rand::rng().random_bool(0.2) {
                let path = format!("/v1/holds/{hold}");
                let released = self
                    .insist(async || self.api.delete(&path).bearer(&fighter.buyer.token).try_send().await.ok())
                    .await;
                assert_eq!(released.status, 204, "{released:?}");
                continue;
            }
            let path = format!("/v1/holds/{hold}/payment");
            let paid = self.insist(async || {
                let call = self.api.post(&path).bearer(&fighter.buyer.token).key(&hold);
                call.json(&json!({"method": "points"})).try_send().await.ok()
            });
            outcome = Some(paid.await.expect(201));
            break;
        }
        self.over.fetch_add(1, Ordering::Relaxed);
        outcome
    }
}

fn fighters() -> usize {
    std::env::var("FRONTROW_FIGHTERS").ok().map_or(FIGHTERS, |count| count.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_fights_for_a_hall_while_an_instance_dies_and_redis_forgets() {
    let mut cluster = Cluster::start(2).await;
    let api = cluster.api();
    let queue = json!({"admit_per_second": 1, "max_active": 100_000, "claim_secs": 60, "session_secs": 600});
    let (labels, sections) = hall(SEATS);
    let plan = Plan { sections, limit: 4, price: PRICE, queue, ..Plan::default() };
    let sale = Sale::made_with(&api, &cluster.state, &plan).await;
    let buyers = Buyer::many(&cluster.state, u32::try_from(fighters()).expect("a crowd")).await;
    for part in buyers.chunks(500) {
        Buyer::endow(&cluster.state, part, 4 * PRICE).await;
    }
    let users: Vec<UserId> = buyers.iter().map(|buyer| UserId(buyer.id.parse().expect("an id"))).collect();
    let concert = sale.concert.parse().expect("an id");
    let passes = passes(&mut cluster.world.sql().await, &cluster.state, concert, &users).await;
    let crowd: Vec<Fighter> = buyers.into_iter().zip(passes).map(|(buyer, pass)| Fighter { buyer, pass }).collect();
    let fight = Fight { api: &api, sale: &sale, labels: &labels, over: AtomicUsize::new(0) };
    let fights = stream::iter(crowd.iter().enumerate()).map(|(number, fighter)| fight.fight(number, fighter));
    let fighting = fights.buffered(AT_ONCE).collect::<Vec<Outcome>>();
    let disturbing = async {
        let reached = async |share: usize| {
            eventually("the fight to go on", || async {
                (fight.over.load(Ordering::Relaxed) >= crowd.len() * share / 10).then_some(())
            })
            .await;
        };
        reached(1).await;
        cluster.kill(Victim::Instance).await;
        reached(2).await;
        cluster.restart(Victim::Instance).await;
        reached(3).await;
        cluster.world.wipe_redis().await;
        reached(5).await;
        cluster.kill(Victim::RedisAndItsData).await;
        cluster.restart(Victim::RedisAndItsData).await;
    };
    let (outcomes, ()) = tokio::join!(fighting, disturbing);

    // What is held still is given back by those who have it: they were told of none of it.
    stream::iter(&crowd).for_each_concurrent(AT_ONCE, |fighter| give_back(&api, fighter)).await;
    let mut owners: HashMap<String, usize> = HashMap::new();
    for (number, reservation) in outcomes.iter().enumerate().filter_map(|(number, one)| Some((number, one.as_ref()?))) {
        for seat in reservation["seats"].as_array().expect("seats") {
            assert!(owners.insert(text(&seat["id"]), number).is_none(), "{seat} was sold twice");
        }
    }
    println!("{} of {SEATS} seats were sold to {} buyers", owners.len(), outcomes.iter().flatten().count());
    assert!(owners.len() > SEATS * 3 / 4, "only {} were sold", owners.len());
    let mut sql = cluster.world.sql().await;
    let sold = "SELECT label FROM seats WHERE reservation_id IS NOT NULL";
    let sold: Vec<String> = sqlx::query_scalar(sold).fetch_all(&mut sql).await.expect("seats");
    let (sold, told): (BTreeSet<String>, BTreeSet<String>) = (sold.into_iter().collect(), owners.into_keys().collect());
    assert_eq!(sold, told, "what was sold is what somebody was told");
    let held = "SELECT COUNT(*) FROM seats WHERE reservation_id IS NULL AND held_until > UTC_TIMESTAMP(6)";
    let held: i64 = sqlx::query_scalar(held).fetch_one(&mut sql).await.expect("a count");
    assert_eq!(held, 0);
    drop(sql);
    // Both instances see it so, once the filter is there again.
    let path = format!("/v1/performances/{}/availability", sale.performances[0]);
    for _ in 0..2 {
        eventually("the picture of the end", || async {
            let shown = api.get(&path).send().await.expect(200);
            (shown["available"].as_u64() == Some((SEATS - sold.len()) as u64)).then_some(())
        })
        .await;
    }
    cluster.assert_audited().await;
    cluster.end().await;
}

async fn give_back(api: &Api, fighter: &Fighter) {
    let mine = api.get("/v1/me/holds").bearer(&fighter.buyer.token).send().await.expect(200);
    for hold in mine["items"].as_array().expect("holds").iter().filter(|hold| hold["status"] == "held") {
        let path = format!("/v1/holds/{}", text(&hold["id"]));
        assert_eq!(api.delete(&path).bearer(&fighter.buyer.token).send().await.status, 204);
    }
}
