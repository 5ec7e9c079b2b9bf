//! Races between the operator who blocks seats and the buyers who want them.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};

use super::{Inside, hall, inside, labels};
use crate::support::arena::{Plan, text};
use crate::support::history::Event;
use crate::support::proxy::sabotage::Sabotage;
use crate::support::track::{Broken, Findings, Track, race};
use crate::support::{History, Sale};

/// So few that what one side takes of them the other side is likely to want.
const CONTESTED: u32 = 20;
const BUYERS: u32 = 60;
/// Orders of the operator in a round.
const ORDERS: usize = 12;
const ROUNDS: usize = 3;
/// Seats that each request names.
const SEATS: usize = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seat_is_blocked_or_held_and_never_both() {
    let of_holders = ["FROM seats WHERE performance_id", " FOR UPDATE SKIP LOCKED", ""];
    let guard = Sabotage::of_sql_and("AS is_blocked FROM seats", " FOR UPDATE", "", of_holders);
    race(Broken::Rewritten(guard), blocking).await;
}

fn some() -> Vec<String> {
    let mut seats = labels(0..CONTESTED);
    seats.shuffle(&mut rand::rng());
    seats.truncate(SEATS);
    seats
}

/// Who got something, and what.
fn won(events: impl IntoIterator<Item = Event>, seats_of: impl Fn(&Value) -> Vec<String>) -> BTreeSet<String> {
    let won = events.into_iter().filter(Event::is_success).filter_map(|event| event.reply);
    won.flat_map(|reply| seats_of(&reply.body)).collect()
}

/// Everybody asks for two of the seats at once, the operator twelve times, and afterwards all is given back.
async fn blocking(track: &Track) -> Findings {
    let sale = Sale::new(&track.quiet, &track.steward, &Plan { sections: hall(1), ..Plan::default() }).await;
    let crowd = inside(track, &sale, BUYERS).await;
    let (holds, blocks) = (
        format!("/v1/performances/{}/holds", sale.performances[0]),
        format!("/v1/admin/performances/{}/blocks", sale.performances[0]),
    );
    let history = History::default();
    let hold = async |one: &Inside| {
        let call = track.api.post(&holds).bearer(&one.buyer.token).pass(&one.pass);
        (one.buyer.token.clone(), history.send("hold", call.json(&json!({"seat_ids": some()}))).await)
    };
    let block = async |_| {
        let call = track.api.post(&blocks).bearer(&sale.operator);
        history.send("block", call.json(&json!({"seat_ids": some()}))).await
    };
    let strings = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<String>>();
    let mut findings = Findings::default();
    let (mut all_held, mut all_blocked) = (0, 0);
    for _ in 0..ROUNDS {
        let (held, blocked) = tokio::join!(join_all(crowd.iter().map(hold)), join_all((0..ORDERS).map(block)));
        let of_hold = |hold: &Value| {
            let seats = hold["seats"].as_array().into_iter().flatten();
            seats.map(|seat| text(&seat["id"])).collect()
        };
        let taken = won(held.iter().map(|(_, event)| event.clone()), of_hold);
        let out_of_sale = won(blocked, |body| strings(&body["seat_ids"]));
        let both: Vec<_> = taken.intersection(&out_of_sale).collect();
        findings.check(both.is_empty(), || format!("held and blocked: {both:?}"));
        // What is told to everybody is what each was told.
        track.world.advance(Duration::from_secs(2));
        let path = format!("/v1/performances/{}/seats?limit=100", sale.performances[0]);
        let seen = track.quiet.get(&path).send().await.expect(200);
        for seat in seen["items"].as_array().expect("seats") {
            let label = text(&seat["id"]);
            let wanted = match (taken.contains(&label), out_of_sale.contains(&label)) {
                (_, true) => "sold",
                (true, false) => "held",
                (false, false) => "available",
            };
            findings.equal(&label, &seat["status"], &json!(wanted));
        }
        (all_held, all_blocked) = (all_held + taken.len(), all_blocked + out_of_sale.len());
        for (token, event) in held.iter().filter(|(_, event)| event.is_success()) {
            let hold = event.reply.as_ref().map(|reply| text(&reply.body["id"])).unwrap_or_default();
            history.send("release", track.quiet.delete(&format!("/v1/holds/{hold}")).bearer(token)).await;
        }
        let back = track.quiet.delete(&blocks).bearer(&sale.operator);
        history.send("give back", back.json(&json!({"seat_ids": labels(0..CONTESTED)}))).await;
    }
    findings.outcomes(&history, &["201", "204", "409 seats_taken"]);
    findings.check(all_held > 0 && all_blocked > 0, || format!("{all_held} were held and {all_blocked} blocked"));
    findings
}
