//! A crowd fights for a hall over two instances and pays by card, with a provider that misbehaves in a fifth of its calls, while
//! one of the instances is killed. In the end every seat is sold once or free, nobody was charged without a ticket or a
//! refund, and the provider's books and the ledger agree to the won.
//!
//! `FRONTROW_PAYERS` sets how many buyers come, to half as many seats.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use frontrow::accounts::UserId;
use futures::{StreamExt as _, stream};
use rand::Rng as _;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::arena::{Plan, text};
use crate::support::crowd::hall;
use crate::support::inside::passes;
use crate::support::psp::Books;
use crate::support::{Api, Buyer, Cluster, Psp, Reply, Sale, Victim, eventually};

const PAYERS: usize = 300;
/// Requests under way at once.
const AT_ONCE: usize = 48;
/// How often a buyer looks for seats, and pays for those that were found.
const TRIES: usize = 5;
const PRICE: i64 = 10_000;
/// Quick to find out, and holds that end while their payment is in doubt.
const SETTINGS: [(&str, &str); 7] = [
    ("FRONTROW__BOOKING__HOLD_SECS", "12"),
    ("FRONTROW__ATTEMPTS__ANSWER_MS", "1500"),
    ("FRONTROW__ATTEMPTS__GRACE_SECS", "11"),
    ("FRONTROW__ATTEMPTS__RECOVERY_MS", "250"),
    ("FRONTROW__ATTEMPTS__PAUSE_MAX_SECS", "2"),
    ("FRONTROW__PAYMENTS__TIMEOUT_MS", "1000"),
    ("FRONTROW__PAYMENTS__CONNECT_TIMEOUT_MS", "500"),
];

/// Somebody inside.
struct Payer {
    buyer: Buyer,
    pass: String,
}

struct Fight<'a> {
    api: &'a Api,
    sale: &'a Sale,
    labels: &'a [String],
    over: AtomicUsize,
    /// How often each answer was heard.
    heard: std::sync::Mutex<HashMap<String, usize>>,
}

impl Fight<'_> {
    /// Repeats a request until it is answered by something else than a fault, or than that it is running.
    async fn insist(&self, send: impl AsyncFn() -> Option<Reply>) -> Reply {
        let asked = eventually("an answer", || async {
            let reply = send().await?;
            let code = reply.body["code"].as_str().unwrap_or_default().to_owned();
            *self.heard.lock().expect("no panic").entry(format!("{} {code}", reply.status)).or_default() += 1;
            let is_running = ["idempotency_key_in_flight", "payment_in_progress"].contains(&code.as_str());
            (reply.status < 500 && !is_running).then_some(reply)
        });
        asked.await
    }

    async fn hold(&self, payer: &Payer) -> Option<String> {
        let quantity = rand::rng().random_range(1..=2);
        let wish = if rand::rng().random_bool(0.5) {
            let first = rand::rng().random_range(0..self.labels.len() - 1);
            json!({"seat_ids": self.labels[first..first + quantity]})
        } else {
            json!({"best_available": {"quantity": quantity}})
        };
        let (path, key) = (format!("/v1/performances/{}/holds", self.sale.performances[0]), Uuid::new_v4().to_string());
        let held = self.insist(async || {
            let call = self.api.post(&path).bearer(&payer.buyer.token).pass(&payer.pass).key(&key);
            call.json(&wish).try_send().await.ok()
        });
        let held = held.await;
        (held.status == 201).then(|| text(&held.body["id"]))
    }

    async fn pay(&self, payer: &Payer, hold: &str) -> Reply {
        let key = Uuid::new_v4().to_string();
        self.insist(async || {
            let call = self.api.post(&format!("/v1/holds/{hold}/payment")).bearer(&payer.buyer.token).key(&key);
            call.json(&json!({"method": "card", "card_token": "pm_card_visa"})).try_send().await.ok()
        })
        .await
    }

    /// Waits until a reservation that was pending is decided.
    async fn decided(&self, payer: &Payer, id: &Value) -> Value {
        let path = format!("/v1/reservations/{}", text(id));
        eventually("a pending payment to be decided", || async {
            let shown = self.api.get(&path).bearer(&payer.buyer.token).try_send().await.ok()?;
            (shown.status == 200 && shown.body["status"] != "pending").then_some(shown.body)
        })
        .await
    }

    /// Tries to get seats, and gives the reservation that a buyer ends with.
    async fn fight(&self, payer: &Payer) -> Option<Value> {
        let mut outcome = None;
        'seats: for _ in 0..TRIES {
            let Some(hold) = self.hold(payer).await else { continue };
            for _ in 0..TRIES {
                let reply = self.pay(payer, &hold).await;
                let reservation = match reply.status {
                    201 => reply.body,
                    202 => self.decided(payer, &reply.body["id"]).await,
                    // The card is good, so another try may end well.
                    402 => continue,
                    // Too late, or out of the line: paying has ended the stay.
                    403 | 404 | 409 | 410 => continue 'seats,
                    other => panic!("{other}: {:?}", reply.body),
                };
                match reservation["status"].as_str() {
                    Some("confirmed") => {
                        outcome = Some(reservation);
                        break 'seats;
                    }
                    Some("cancelled") => {}
                    Some("refunded") => continue 'seats,
                    other => panic!("{other:?}: {reservation}"),
                }
            }
        }
        self.over.fetch_add(1, Ordering::Relaxed);
        outcome
    }
}

fn payers() -> usize {
    std::env::var("FRONTROW_PAYERS").ok().map_or(PAYERS, |count| count.parse().expect("a number"))
}

/// A fifth of the calls goes wrong, in every way there is; webhooks as well, and one in twenty good cards is refused.
fn misbehaviour(webhooks: &str) -> Value {
    json!({
        "drop_request_rate": 0.05, "drop_reply_rate": 0.05, "error_rate": 0.05, "hang_rate": 0.05, "hang_ms": 2500,
        "decline_rate": 0.05, "seed": 7,
        "webhooks": {"url": webhooks, "delay_ms": 200, "duplicate_rate": 0.2, "shuffle": true, "wrong_signature_rate": 0.2},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_pays_by_card_while_the_provider_misbehaves_and_an_instance_dies() {
    let psp = Psp::start().await;
    let settings: Vec<(&str, &str)> = SETTINGS.into_iter().chain(psp.settings()).collect();
    let mut cluster = Cluster::start_with(2, &settings).await;
    let (api, seats) = (cluster.api(), payers() / 2);
    let (mut labels, sections) = hall(seats);
    labels.truncate(seats);
    let queue = json!({"admit_per_second": 1, "max_active": 100_000, "claim_secs": 60, "session_secs": 600});
    let plan = Plan { sections, limit: 4, price: PRICE, queue, ..Plan::default() };
    let sale = Sale::made_with(&api, &cluster.state, &plan).await;
    let buyers = Buyer::many(&cluster.state, u32::try_from(payers()).expect("a crowd")).await;
    let users: Vec<UserId> = buyers.iter().map(|buyer| UserId(buyer.id.parse().expect("an id"))).collect();
    let concert = sale.concert.parse().expect("an id");
    let passes = passes(&mut cluster.world.sql().await, &cluster.state, concert, &users).await;
    let crowd: Vec<Payer> = buyers.into_iter().zip(passes).map(|(buyer, pass)| Payer { buyer, pass }).collect();
    psp.behave(misbehaviour(&Psp::webhooks_of(&cluster.bases()[1]))).await;
    let fight = Fight {
        api: &api,
        sale: &sale,
        labels: &labels,
        over: AtomicUsize::new(0),
        heard: std::sync::Mutex::default(),
    };
    let fighting = stream::iter(&crowd).map(|payer| fight.fight(payer)).buffered(AT_ONCE).collect::<Vec<_>>();
    let disturbing = async {
        for (share, is_end) in [(2, false), (4, true)] {
            // However slow: every fight ends.
            while fight.over.load(Ordering::Relaxed) < crowd.len() * share / 10 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            if is_end {
                cluster.restart(Victim::Instance).await;
            } else {
                cluster.kill(Victim::Instance).await;
            }
        }
    };
    let (outcomes, ()) = tokio::join!(fighting, disturbing);
    psp.behave_well().await;
    wait_until_nothing_is_open(&cluster).await;
    psp.quiet().await;

    let books = psp.books().await;
    println!("{:?}\nprovider: {} {}", fight.heard.lock().expect("no panic"), books.totals, books.calls);
    assert!(
        books.calls["dropped_replies"].as_u64() > Some(0) && books.calls["hung"].as_u64() > Some(0),
        "{:?}",
        books.calls
    );
    let tickets = tickets_match_charges(&cluster, &books).await;
    for (payer, told) in crowd.iter().zip(&outcomes) {
        let Some(told) = told else { continue };
        let path = format!("/v1/reservations/{}", text(&told["id"]));
        assert_eq!(&api.get(&path).bearer(&payer.buyer.token).send().await.expect(200), told, "what was told holds");
    }
    let told: usize = outcomes.iter().flatten().count();
    println!("{tickets} seats of {} were sold; {told} of {} buyers ended with seats", hall(seats).0.len(), crowd.len());
    assert!(tickets > seats / 2, "only {tickets} were sold");
    cluster.assert_audited().await;
    cluster.end().await;
}

async fn wait_until_nothing_is_open(cluster: &Cluster) {
    eventually("every payment to be decided, and every refund to be given", || async {
        let open = "SELECT COUNT(*) FROM payments WHERE due_at IS NOT NULL";
        let open: i64 = sqlx::query_scalar(open).fetch_one(&mut cluster.world.sql().await).await.ok()?;
        (open == 0).then_some(())
    })
    .await;
}

/// Asserts that the provider charged and kept exactly what became tickets, attempt by attempt. Gives how many seats were sold.
async fn tickets_match_charges(cluster: &Cluster, books: &Books) -> usize {
    let mut sql = cluster.world.sql().await;
    let rows: Vec<(Uuid, u8, i64)> = sqlx::query_as("SELECT id, state, amount FROM payments WHERE method = 1")
        .fetch_all(&mut sql)
        .await
        .expect("payments");
    let (booked, mut kept) = (books.by_attempt(), 0);
    let states: HashMap<String, u8> = rows.iter().map(|(id, state, _)| (id.to_string(), *state)).collect();
    for (attempt, intent) in &booked {
        let state = states.get(attempt).copied();
        let is_right = match (intent.status.as_str(), intent.refunded) {
            ("succeeded", 0) => state == Some(1),
            ("succeeded", refunded) => refunded == intent.amount && state == Some(3),
            _ => state == Some(2),
        };
        assert!(is_right, "the provider has {intent:?}, and we are in state {state:?}");
    }
    for (id, state, amount) in rows {
        let intent = booked.get(&id.to_string());
        assert!(
            state == 2 || intent.is_some_and(|intent| intent.amount == amount),
            "{id} in state {state}: {intent:?}"
        );
        kept += if state == 1 { amount } else { 0 };
    }
    let ledger = "SELECT CAST(COALESCE(-SUM(amount), 0) AS SIGNED) FROM ledger_entries WHERE account = 1";
    let ledger: i64 = sqlx::query_scalar(ledger).fetch_one(&mut sql).await.expect("a sum");
    assert_eq!((ledger, kept), (books.kept(), books.kept()), "the ledger, our payments and the provider's books");
    let sold = "SELECT COUNT(*), COUNT(DISTINCT s.seat_no) FROM seats s \
         JOIN reservations r ON r.id = s.reservation_id AND r.state = 1 JOIN payments p ON p.id = r.payment_id AND p.state = 1";
    let (sold, different): (i64, i64) = sqlx::query_as(sold).fetch_one(&mut sql).await.expect("seats");
    let taken = "SELECT COUNT(*) FROM seats WHERE reservation_id IS NOT NULL";
    let taken: i64 = sqlx::query_scalar(taken).fetch_one(&mut sql).await.expect("seats");
    assert_eq!((sold, different, sold * PRICE), (taken, taken, kept), "every seat that is sold is paid for, once");
    usize::try_from(sold).expect("a count")
}
