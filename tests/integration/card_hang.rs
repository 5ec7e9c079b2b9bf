//! The card provider takes every call and answers none, for `FRONTROW_HANG_SECS` at least: who does not pay by card does not
//! notice, the provider is left alone after a while, and asked again once it answers.
//!
//! What it costs the others is printed, as the ratio to the same work before; no test depends on it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;
use uuid::Uuid;

use crate::support::arena::Plan;
use crate::support::crowd::hall;
use crate::support::inside::passes;
use crate::support::{Api, Buyer, Cluster, Psp, Reply, Sale, eventually};

/// Whether the provider is left alone.
const BREAKER: &str = "frontrow_breaker_open{dependency=\"card_provider\"}";
/// Who pays by card, more than calls may be under way.
const CARDS: usize = 100;
/// Who buys with points: before, and while the provider hangs.
const BEFORE: usize = 60;
const MEANWHILE: usize = 800;

struct Inside {
    buyer: Buyer,
    pass: String,
}

/// The times of one buyer after the other.
#[derive(Default)]
struct Times {
    hold: Vec<Duration>,
    pay: Vec<Duration>,
    read: Vec<Duration>,
}

fn hang() -> Duration {
    let secs = std::env::var("FRONTROW_HANG_SECS").map_or(8, |text| text.parse().expect("seconds"));
    Duration::from_secs(secs)
}

async fn timed(times: &mut Vec<Duration>, call: impl Future<Output = Reply>, expected: u16) -> Reply {
    let started = Instant::now();
    let reply = call.await;
    times.push(started.elapsed());
    assert_eq!(reply.status, expected, "{:?}", reply.body);
    reply
}

/// One after the other holds a seat, pays with points and reads, until they have all done so or it is over.
async fn buy(api: &Api, sale: &Sale, crowd: &[(Inside, String)], is_over: &AtomicBool) -> Times {
    let mut times = Times::default();
    for (one, seat) in crowd {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let (token, performance) = (&one.buyer.token, &sale.performances[0]);
        let seats = [seat.as_str()];
        let held = one.buyer.try_hold(api, performance, &one.pass, &seats);
        let hold = timed(&mut times.hold, held, 201).await.body["id"].as_str().expect("an id").to_owned();
        timed(&mut times.pay, one.buyer.try_pay(api, &hold, "points"), 201).await;
        timed(&mut times.read, api.get("/v1/me/reservations").bearer(token).send(), 200).await;
    }
    times
}

async fn by_card(api: &Api, payer: &Buyer, hold: &str) -> Reply {
    let call = api.post(&format!("/v1/holds/{hold}/payment")).bearer(&payer.token).key(&Uuid::new_v4().to_string());
    call.json(&json!({"method": "card", "card_token": "pm_card_visa"})).send().await
}

fn middle(times: &[Duration]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2].as_secs_f64() * 1000.0
}

fn tell(what: &str, before: &[Duration], meanwhile: &[Duration]) {
    let (before, during) = (middle(before), middle(meanwhile));
    println!("{what}: {before:.1} ms before, {during:.1} ms while the provider hangs, ratio {:.2}", during / before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_hangs_slows_nobody_else_and_is_left_alone_until_it_answers() {
    let psp = Psp::start().await;
    let cluster = Cluster::start_with(1, &psp.settings()).await;
    let (api, total) = (cluster.api(), CARDS + BEFORE + MEANWHILE);
    let (labels, sections) = hall(total);
    let sale = Sale::made_with(&api, &cluster.state, &Plan { sections, ..Plan::default() }).await;
    let buyers = Buyer::many(&cluster.state, u32::try_from(total).expect("a crowd")).await;
    Buyer::endow(&cluster.state, &buyers, 1_000_000).await;
    let users: Vec<_> =
        buyers.iter().map(|buyer| frontrow::accounts::UserId(buyer.id.parse().expect("an id"))).collect();
    let concert = sale.concert.parse().expect("an id");
    let passes = passes(&mut cluster.world.sql().await, &cluster.state, concert, &users).await;
    let inside = buyers.into_iter().zip(passes).map(|(buyer, pass)| Inside { buyer, pass });
    let mut crowd: Vec<(Inside, String)> = inside.zip(labels).collect();
    let (cards, mut points) = (crowd.split_off(BEFORE + MEANWHILE), crowd);
    let meanwhile = points.split_off(BEFORE);
    let performance = &sale.performances[0];
    let hold = |(one, seat): &(Inside, String)| {
        let (buyer, pass, seat, api) = (one.buyer.clone(), one.pass.clone(), seat.clone(), &api);
        async move { buyer.hold(api, performance, &pass, &[&seat]).await }
    };
    let holds: Vec<String> = join_all(cards.iter().map(hold)).await;
    let before = buy(&api, &sale, &points, &AtomicBool::new(false)).await;

    psp.behave(json!({"hang_rate": 1.0, "hang_ms": 60_000})).await;
    let (is_over, began) = (AtomicBool::new(false), Instant::now());
    let paying = async {
        let due = cards.iter().zip(&holds);
        let replies = join_all(due.map(|((one, _), hold)| by_card(&api, &one.buyer, hold))).await;
        for reply in replies {
            reply.expect_problem(503, "payment_unavailable");
        }
        eventually("the provider to be left alone", || async { (api.metric(BREAKER).await == 1).then_some(()) }).await;
        // They go on trying, and hear at once that there is no use in it.
        while began.elapsed() < hang() {
            by_card(&api, &cards[0].0.buyer, &holds[0]).await.expect_problem(503, "payment_unavailable");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let ((), during) = tokio::join!(paying, buy(&api, &sale, &meanwhile, &is_over));
    assert!(!during.pay.is_empty(), "somebody bought meanwhile");
    tell("holds", &before.hold, &during.hold);
    tell("payments by points", &before.pay, &during.pay);
    tell("reads", &before.read, &during.read);

    psp.behave_well().await;
    let paid = eventually("a payment by card", || async {
        let reply = by_card(&api, &cards[1].0.buyer, &holds[1]).await;
        (reply.status == 201).then_some(reply.body)
    })
    .await;
    assert_eq!(paid["status"], "confirmed");
    assert_eq!(api.metric(BREAKER).await, 0, "it is asked again");
    eventually("every payment to be decided", || async {
        let open: Result<i64, _> = sqlx::query_scalar("SELECT COUNT(*) FROM payments WHERE due_at IS NOT NULL")
            .fetch_one(&mut cluster.world.sql().await)
            .await;
        (open.ok()? == 0).then_some(())
    })
    .await;
    assert_eq!(psp.books().await.kept(), paid["amount"].as_i64().expect("an amount"), "nobody else was charged");
    cluster.assert_audited().await;
    cluster.end().await;
}
