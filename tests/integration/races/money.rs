//! Races for money.

use std::collections::BTreeMap;

use futures::future::join_all;
use futures::{StreamExt as _, stream};
use rand::Rng as _;
use serde_json::json;

use super::{BURST, CROWD, Inside, PREPARING, charge, hall, inside, labels};
use crate::support::arena::{Plan, text};
use crate::support::history::Event;
use crate::support::proxy::sabotage::Sabotage;
use crate::support::track::{Broken, Findings, Track, race};
use crate::support::{Buyer, History, Sale};

const PRICE: i64 = 10_000;

async fn balance(track: &Track, buyer: &Buyer) -> i64 {
    let body = track.quiet.get("/v1/me/points").bearer(&buyer.token).send().await.expect(200);
    body["balance"].as_i64().expect("a number")
}

async fn send_charge(track: &Track, history: &History, about: &str, buyer: &Buyer, key: &str, amount: i64) {
    let call = track.api.post("/v1/me/points/charges").bearer(&buyer.token).key(key);
    history.send(about, call.json(&json!({"amount": amount}))).await;
}

async fn send_payment(track: &Track, history: &History, about: &str, buyer: &Buyer, hold: &str, key: &str) {
    let call = track.api.post(&format!("/v1/holds/{hold}/payment")).bearer(&buyer.token).key(key);
    history.send(about, call.json(&json!({"method": "points"}))).await;
}

/// A sale with so many seats, and buyers inside it who have so much each.
async fn sale_with(track: &Track, rows: u32, limit: u32, points: i64) -> (Sale, Vec<Inside>) {
    let plan = Plan { sections: hall(rows), price: PRICE, limit, ..Plan::default() };
    let sale = Sale::new(&track.quiet, &track.steward, &plan).await;
    let crowd = inside(track, &sale, CROWD).await;
    charge(&track.quiet, &crowd, points).await;
    (sale, crowd)
}

/// One hold for each of them, of the seat at the same position.
async fn holds(track: &Track, sale: &Sale, crowd: &[Inside], seats: &[String]) -> Vec<String> {
    let hold = |(one, seat): (&Inside, &String)| {
        let (buyer, pass, seat) = (one.buyer.clone(), one.pass.clone(), seat.clone());
        async move { buyer.hold(&track.quiet, &sale.performances[0], &pass, &[&seat]).await }
    };
    let pairs: Vec<_> = crowd.iter().zip(seats).map(hold).collect();
    stream::iter(pairs).buffered(PREPARING).collect().await
}

/// A hold of each of these seats for one of them.
async fn more_holds(track: &Track, sale: &Sale, one: &Inside, seats: &[String]) -> Vec<String> {
    let mut held = Vec::with_capacity(seats.len());
    for seat in seats {
        held.push(one.buyer.hold(&track.quiet, &sale.performances[0], &one.pass, &[seat]).await);
    }
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_has_one_effect() {
    let insert = "INSERT INTO idempotency_keys";
    race(Broken::Rewritten(Sabotage::of_sql(insert, "INSERT", "REPLACE")), one_key).await;
}

/// One key comes a hundred times at once with either of two bodies; everybody else sends theirs twice.
async fn one_key(track: &Track) -> Findings {
    let crowd = Buyer::many(&track.steward.state, CROWD).await;
    let (one, others) = crowd.split_first().expect("a crowd");
    let history = History::default();
    let burst = (0..BURST * 2).map(|number| {
        let amount = if number % 2 == 0 { 700 } else { 900 };
        send_charge(track, &history, "one", one, "the key", amount)
    });
    let rest = others
        .iter()
        .flat_map(|buyer| [buyer, buyer])
        .map(|buyer| send_charge(track, &history, "other", buyer, "key", 5));
    tokio::join!(join_all(burst), join_all(rest));
    let mut findings = Findings::default();
    findings.outcomes(&history, &["201", "409 idempotency_key_in_flight", "422 idempotency_key_reused"]);
    let events = history.events();
    let bodies: Vec<_> = events
        .iter()
        .filter(|event| event.about == "one" && event.is_success())
        .filter_map(|event| event.reply.as_ref().map(|reply| &reply.bytes))
        .collect();
    findings.check(!bodies.is_empty(), || "nobody was served".to_owned());
    findings.check(bodies.windows(2).all(|two| two[0] == two[1]), || "one key, two answers".to_owned());
    let found = balance(track, one).await;
    findings.check([700, 900].contains(&found), || format!("a balance of {found}"));
    let charged = join_all(others.iter().map(|buyer| balance(track, buyer))).await;
    findings.check(charged.iter().all(|found| *found == 5), || format!("charged {charged:?}"));
    findings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_hold_is_paid_once() {
    // Behind the lock stand the keys of reservations and of their seats: who meets one looks again, and finds the hold paid.
    let guard = Sabotage::of_sql("FROM holds WHERE id IN (", " FOR UPDATE", "");
    let drop = &[
        "ALTER TABLE reservations DROP INDEX one_per_hold, ADD INDEX not_unique (hold_id)",
        "ALTER TABLE reservation_seats DROP INDEX one_sale",
    ];
    race(Broken::Both(guard, drop), one_hold).await;
}

/// One hold is paid with fifty keys at once, everybody else's with two.
async fn one_hold(track: &Track) -> Findings {
    let (sale, crowd) = sale_with(track, 12, 4, 4 * PRICE).await;
    let held = holds(track, &sale, &crowd, &labels(0..CROWD)).await;
    let history = History::default();
    let (history_ref, held_ref) = (&history, &held);
    let payments = crowd.iter().enumerate().flat_map(|(number, one)| {
        let keys = if number == 0 { BURST } else { 2 };
        let hold = &held_ref[number];
        (0..keys).map(move |key| async move {
            send_payment(track, history_ref, hold, &one.buyer, hold, &key.to_string()).await;
        })
    });
    join_all(payments).await;
    let mut findings = Findings::default();
    findings.outcomes(&history, &["201", "409 already_paid"]);
    let mut paid: BTreeMap<String, usize> = BTreeMap::new();
    for event in history.events().into_iter().filter(Event::is_success) {
        *paid.entry(event.about).or_default() += 1;
    }
    findings.equal("holds paid", &paid.len(), &crowd.len());
    findings.check(paid.values().all(|times| *times == 1), || format!("paid {paid:?}"));
    let left = join_all(crowd.iter().map(|one| balance(track, &one.buyer))).await;
    findings.check(left.iter().all(|left| *left == 3 * PRICE), || format!("left {left:?}"));
    findings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_reservation_is_given_back_once() {
    let guard = Sabotage::of_sql("FROM reservations WHERE id = ?", " FOR UPDATE", "");
    let drop = &["ALTER TABLE ledger_transactions DROP INDEX once, ADD INDEX not_unique (kind, reference)"];
    race(Broken::Both(guard, drop), one_reservation).await;
}

/// One reservation is cancelled with fifty keys at once, everybody else's with two.
async fn one_reservation(track: &Track) -> Findings {
    let (sale, crowd) = sale_with(track, 12, 4, PRICE).await;
    let held = holds(track, &sale, &crowd, &labels(0..CROWD)).await;
    let pay = |(one, hold): (&Inside, &String)| {
        let (buyer, hold) = (one.buyer.clone(), hold.clone());
        async move { text(&buyer.try_pay(&track.quiet, &hold, "pay").await.expect(201)["id"]) }
    };
    let paying: Vec<_> = crowd.iter().zip(&held).map(pay).collect();
    let paid: Vec<String> = stream::iter(paying).buffered(PREPARING).collect().await;
    let history = History::default();
    let (history_ref, paid_ref) = (&history, &paid);
    let cancellations = crowd.iter().enumerate().flat_map(|(number, one)| {
        let keys = if number == 0 { BURST } else { 2 };
        (0..keys).map(move |key| async move {
            let path = format!("/v1/reservations/{}/cancellation", paid_ref[number]);
            let call = track.api.post(&path).bearer(&one.buyer.token).key(&format!("cancel {key}"));
            history_ref.send(&one.buyer.id, call).await;
        })
    });
    join_all(cancellations).await;
    let mut findings = Findings::default();
    findings.outcomes(&history, &["200", "409 not_cancellable"]);
    findings.equal("reservations given back", &history.count("200"), &crowd.len());
    let left = join_all(crowd.iter().map(|one| balance(track, &one.buyer))).await;
    findings.check(left.iter().all(|left| *left == PRICE), || format!("left {left:?}"));
    findings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balance_for_one_buys_one() {
    // Behind the lock stand the condition of the statement that takes, a balance's sign, and the numbering of entries: who meets
    // them looks again, and finds too few points.
    let condition = ["STRAIGHT_JOIN points_accounts", " WHERE a.balance >= w.balance", ""];
    let guard = Sabotage::of_sql_and("FROM points_accounts WHERE user_id IN (", " FOR UPDATE", "", condition);
    let drop = &[
        "ALTER TABLE ledger_entries DROP INDEX by_user, ADD INDEX not_unique (user_id, user_entry)",
        "ALTER TABLE points_accounts DROP CONSTRAINT points_accounts_balance",
    ];
    race(Broken::Both(guard, drop), a_balance_for_one).await;
}

/// Somebody who can pay for one seat holds fifty and pays for all of them at once, while the others buy.
async fn a_balance_for_one(track: &Track) -> Findings {
    let (sale, crowd) = sale_with(track, 15, 60, PRICE).await;
    let seats = labels(0..CROWD + u32::try_from(BURST).expect("few"));
    let held = holds(track, &sale, &crowd, &seats).await;
    let poor = &crowd[0];
    let mut of_poor = more_holds(track, &sale, poor, &seats[crowd.len()..]).await;
    of_poor.push(held[0].clone());
    // Who is inside has a pass, which payments lock as well: nothing but the balance is to keep these apart.
    let leave = format!("/v1/concerts/{}/queue/passes/me", sale.concert);
    let left = track.quiet.delete(&leave).bearer(&poor.buyer.token).pass(&poor.pass).send().await;
    assert_eq!(left.status, 204);
    let history = History::default();
    let burst = of_poor.iter().map(|hold| send_payment(track, &history, "poor", &poor.buyer, hold, hold));
    let rest = crowd.iter().zip(&held).skip(1);
    let rest = rest.map(|(one, hold)| send_payment(track, &history, "other", &one.buyer, hold, "pay"));
    tokio::join!(join_all(burst), join_all(rest));
    let mut findings = Findings::default();
    findings.outcomes(&history, &["201", "402 insufficient_points"]);
    let events = history.events();
    let bought = |about: &str| events.iter().filter(|event| event.about == about && event.is_success()).count();
    findings.equal("seats bought by the poor one", &bought("poor"), &1);
    findings.equal("seats bought by the others", &bought("other"), &(crowd.len() - 1));
    findings.equal("the balance that is left", &balance(track, &poor.buyer).await, &0);
    findings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn charges_payments_and_cancellations_at_random_add_up() {
    // Behind the lock stands the numbering of entries.
    let guard = Sabotage::of_sql("FROM points_accounts WHERE user_id = ?", " FOR UPDATE", "");
    let drop = &["ALTER TABLE ledger_entries DROP INDEX by_user, ADD INDEX not_unique (user_id, user_entry)"];
    race(Broken::Both(guard, drop), at_random).await;
}

/// Everybody charges, pays and cancels at the same time, in any order; one buyer does it many times over.
async fn at_random(track: &Track) -> Findings {
    let (sale, crowd) = sale_with(track, 15, 60, PRICE).await;
    let seats = labels(0..CROWD + u32::try_from(BURST).expect("few"));
    let held = holds(track, &sale, &crowd, &seats).await;
    let history = History::default();
    let restless = &crowd[0];
    let more = more_holds(track, &sale, restless, &seats[crowd.len()..]).await;
    let ways = crowd.iter().zip(&held).chain(more.iter().map(|hold| (restless, hold)));
    join_all(ways.map(|(one, hold)| pay_and_cancel(track, &history, &one.buyer, hold))).await;
    let mut findings = Findings::default();
    findings.outcomes(&history, &["201", "200", "402 insufficient_points"]);
    let mut expected: BTreeMap<&str, i64> = crowd.iter().map(|one| (one.buyer.id.as_str(), PRICE)).collect();
    let events = history.events();
    for event in events.iter().filter(|event| event.is_success()) {
        let (what, buyer) = event.about.split_once(' ').expect("what and whose");
        let amount = event.reply.as_ref().and_then(|reply| reply.body["amount"].as_i64()).expect("an amount");
        let change = if what == "pay" { -amount } else { amount };
        *expected.get_mut(buyer).expect("one of the crowd") += change;
    }
    for one in &crowd {
        let wanted = expected[one.buyer.id.as_str()];
        findings.equal("a balance", &balance(track, &one.buyer).await, &wanted);
    }
    findings.check(history.count("200") > 0, || "nothing was cancelled".to_owned());
    findings
}

/// Charges and pays at once, then cancels what was paid, and charges beside it.
async fn pay_and_cancel(track: &Track, history: &History, buyer: &Buyer, hold: &str) {
    let [pays, charges, cancels] = ["pay", "charge", "cancel"].map(|what| format!("{what} {}", buyer.id));
    let [first, second] = ["first", "second"].map(|turn| format!("{turn} {hold}"));
    let amount = rand::rng().random_range(1..PRICE);
    let pay = track.api.post(&format!("/v1/holds/{hold}/payment")).bearer(&buyer.token).key(hold);
    let paying = history.send(&pays, pay.json(&json!({"method": "points"})));
    let (paid, ()) = tokio::join!(paying, send_charge(track, history, &charges, buyer, &first, amount));
    let Some(reservation) = paid.reply.filter(|reply| reply.status == 201).map(|reply| text(&reply.body["id"])) else {
        return;
    };
    let path = format!("/v1/reservations/{reservation}/cancellation");
    let cancel = track.api.post(&path).bearer(&buyer.token).key(&format!("cancel {hold}"));
    let cancelling = history.send(&cancels, cancel);
    tokio::join!(cancelling, send_charge(track, history, &charges, buyer, &second, 7));
}
