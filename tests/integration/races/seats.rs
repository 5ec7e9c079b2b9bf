//! Races for seats.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};

use super::{BURST, CROWD, hall, inside, labels};
use crate::support::arena::{Plan, text};
use crate::support::proxy::sabotage::Sabotage;
use crate::support::track::{Broken, Findings, Track, race};
use crate::support::{History, Sale};

/// So few that every two sets of four are likely to overlap.
const CONTESTED: u32 = 14;
const ROUNDS: usize = 3;
/// Buyers who want more than they may have. Odd, so that each one's requests go to both instances in turn.
const GREEDY: usize = 7;

fn the_seats_lock() -> Broken {
    Broken::Rewritten(Sabotage::of_sql("FROM seats WHERE performance_id", " FOR UPDATE SKIP LOCKED", ""))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_seat_goes_to_one_of_two_hundred() {
    race(the_seats_lock(), one_seat).await;
}

async fn one_seat(track: &Track) -> Findings {
    let sale = Sale::new(&track.quiet, &track.steward, &Plan::default()).await;
    let crowd = inside(track, &sale, CROWD).await;
    let mut findings = Findings::default();
    let tries = crowd.iter().map(|one| one.buyer.try_hold(&track.api, &sale.performances[0], &one.pass, &["A-1-1"]));
    let replies = join_all(tries).await;
    findings.equal("holders of one seat", &replies.iter().filter(|reply| reply.status == 201).count(), &1);
    for reply in replies.iter().filter(|reply| reply.status != 201) {
        findings.equal("a refusal", &reply.body["code"], &json!("seats_taken"));
        findings.equal("the seats that it names", &reply.body["seat_ids"], &json!(["A-1-1"]));
    }
    findings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_sets_in_all_orders_are_held_whole_or_not_at_all() {
    race(the_seats_lock(), overlapping_sets).await;
}

/// Everybody asks for four of a few seats, in an order of their own; half of those who get them give them back.
async fn overlapping_sets(track: &Track) -> Findings {
    let plan = Plan { sections: hall(1), ..Plan::default() };
    let sale = Sale::new(&track.quiet, &track.steward, &plan).await;
    let crowd = inside(track, &sale, CROWD).await;
    let contested = labels(0..CONTESTED);
    let history = History::default();
    let mut findings = Findings::default();
    for round in 0..ROUNDS {
        let tries = crowd.iter().enumerate().map(|(number, one)| {
            let (history, sale) = (&history, &sale);
            let mut set = contested.clone();
            set.shuffle(&mut rand::rng());
            set.truncate(4);
            async move {
                let path = format!("/v1/performances/{}/holds", sale.performances[0]);
                let call = track.api.post(&path).bearer(&one.buyer.token).pass(&one.pass);
                let held = history.send("hold", call.json(&json!({"seat_ids": set}))).await;
                if !held.is_success() {
                    return None;
                }
                let hold = held.reply.expect("a success").body;
                if (number + round) % 2 == 0 {
                    let path = format!("/v1/holds/{}", text(&hold["id"]));
                    history.send("release", track.api.delete(&path).bearer(&one.buyer.token)).await;
                    return None;
                }
                Some((hold, one))
            }
        });
        let held: Vec<_> = join_all(tries).await.into_iter().flatten().collect();
        findings.check(held.iter().all(|(hold, _)| seats_of(hold).len() == 4), || "somebody got a part".to_owned());
        let all: Vec<String> = held.iter().flat_map(|(hold, _)| seats_of(hold)).collect();
        findings.equal("seats held once", &all.iter().collect::<BTreeSet<_>>().len(), &all.len());
        // The next round begins with free seats.
        for (hold, one) in held {
            let path = format!("/v1/holds/{}", text(&hold["id"]));
            history.send("release", track.api.delete(&path).bearer(&one.buyer.token)).await;
        }
    }
    findings.outcomes(&history, &["201", "204", "409 seats_taken"]);
    findings.check(history.count("201") > 0, || "nobody got anything".to_owned());
    findings
}

fn seats_of(hold: &Value) -> Vec<String> {
    hold["seats"].as_array().expect("seats").iter().map(|seat| text(&seat["id"])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_requests_do_not_pass_one_buyers_limit() {
    let of = "FROM queue_passes FORCE INDEX (PRIMARY) WHERE id IN";
    race(Broken::Rewritten(Sabotage::of_sql(of, " FOR UPDATE", "")), one_buyers_limit).await;
}

/// Some buyers ask fifty times at once each, over two evenings of a concert with a limit of four, while others buy.
async fn one_buyers_limit(track: &Track) -> Findings {
    let plan = Plan { sections: hall(20), limit: 4, performances: 2, ..Plan::default() };
    let sale = Sale::new(&track.quiet, &track.steward, &plan).await;
    let crowd = inside(track, &sale, CROWD).await;
    let (greedy, others) = crowd.split_at(GREEDY);
    let history = History::default();
    let seats = labels(0..400);
    let ask = async |about: &str, who: &super::Inside, evening: usize, seat: &str| {
        let path = format!("/v1/performances/{}/holds", sale.performances[evening % 2]);
        let call = track.api.post(&path).bearer(&who.buyer.token).pass(&who.pass);
        history.send(about, call.json(&json!({"seat_ids": [seat]}))).await;
    };
    let burst = (0..GREEDY * BURST).map(|number| {
        let (turn, who) = (number / GREEDY, &greedy[number % GREEDY]);
        // A seat of its own for each request: nobody is refused for any other reason than the limit.
        ask(&who.buyer.id, who, turn, &seats[turn / 2 * GREEDY + number % GREEDY])
    });
    let rest = others.iter().zip(&seats[BURST / 2 * GREEDY..]).map(|(one, seat)| ask("other", one, 0, seat));
    tokio::join!(join_all(burst), join_all(rest));
    let mut findings = Findings::default();
    let mut held: BTreeMap<String, usize> = BTreeMap::new();
    for event in history.events().iter().filter(|event| event.is_success()) {
        *held.entry(event.about.clone()).or_default() += 1;
    }
    for one in greedy {
        findings.equal("seats of a greedy one", &held.get(&one.buyer.id).copied(), &Some(4));
    }
    findings.equal("seats of the others", &held.get("other").copied(), &Some(others.len()));
    findings.outcomes(&history, &["201", "409 seat_limit_exceeded"]);
    findings
}
