//! Races for slots.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use serde_json::json;
use sqlx::Row as _;

use super::{BURST, CROWD, hall};
use crate::support::arena::{Plan, text};
use crate::support::proxy::sabotage::Sabotage;
use crate::support::track::{Broken, Findings, Track, race};
use crate::support::{Buyer, History, Sale, eventually};

const SLOTS: usize = 20;
const CONTENDERS: u32 = 300;
/// How long everybody stays inside, in requests: long enough for more than twenty to meet, if they could.
const LOOKS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_ticket_is_exchanged_for_one_pass() {
    // The same indexes, but they refuse nothing.
    let drop = &["ALTER TABLE queue_passes DROP INDEX one_per_place, DROP INDEX one_live, \
        ADD INDEX by_place (concert_id, arrival), ADD INDEX by_user (concert_id, user_id, is_live)"];
    race(Broken::Dropped(drop), one_ticket).await;
}

/// One ticket is claimed fifty times at once, and everybody else claims theirs twice.
async fn one_ticket(track: &Track) -> Findings {
    // The line calls no more than there are seats.
    let plan = Plan { sections: hall(12), ..Plan::default() };
    let sale = Sale::new(&track.quiet, &track.steward, &plan).await;
    let crowd = Buyer::many(&track.steward.state, CROWD).await;
    let tickets = join_all(crowd.iter().map(|buyer| buyer.join(&track.quiet, &sale))).await;
    let path = format!("/v1/concerts/{}/queue/passes", sale.concert);
    let last = tickets.last().expect("a crowd");
    eventually("the last one to be called", || async {
        let me = format!("/v1/concerts/{}/queue/tickets/me", sale.concert);
        let place = track.quiet.get(&me).ticket(last).send().await.expect(200);
        (place["status"] == "called").then_some(())
    })
    .await;
    let history = History::default();
    let (crowd, tickets, history_ref, path) = (&crowd, &tickets, &history, &path);
    let claims = (0..crowd.len()).flat_map(|number| {
        let times = if number == 0 { BURST } else { 2 };
        (0..times).map(move |_| {
            let call = track.api.post(path).bearer(&crowd[number].token).ticket(&tickets[number]);
            async move { (number, history_ref.send(&number.to_string(), call).await) }
        })
    });
    let mut ends: Vec<Option<String>> = vec![None; crowd.len()];
    let mut findings = Findings::default();
    for (number, event) in join_all(claims).await {
        let Some(reply) = event.reply.filter(|reply| reply.status == 201) else { continue };
        let end = text(&reply.body["expires_at"]);
        let first = ends[number].get_or_insert_with(|| end.clone()).clone();
        findings.equal("the end of one place's pass", &end, &first);
    }
    findings.outcomes(&history, &["201"]);
    let rows = sqlx::query("SELECT COUNT(*) AS passes, COUNT(DISTINCT arrival) AS places FROM queue_passes")
        .fetch_one(&mut track.world.sql().await)
        .await
        .expect("the passes");
    let count = |column| rows.try_get::<i64, _>(column).expect("a number");
    findings.equal("passes", &count("passes"), &i64::from(CROWD));
    findings.equal("places that have one", &count("places"), &i64::from(CROWD));
    findings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_share_twenty_slots() {
    // Calls and claims both ask how many slots are in use.
    let in_use = "redis.call('ZCOUNT', slots, '(' .. ms(now), '+inf')";
    race(Broken::Rewritten(Sabotage::of_lua("local function active", in_use, "0")), twenty_slots).await;
}

/// Everybody claims until let in, stays for a moment, and leaves.
async fn twenty_slots(track: &Track) -> Findings {
    let queue = json!({"admit_per_second": 10_000, "max_active": SLOTS, "claim_secs": 600, "session_secs": 600});
    let sale = Sale::new(&track.quiet, &track.steward, &Plan { queue, ..Plan::default() }).await;
    let crowd = Buyer::many(&track.steward.state, CONTENDERS).await;
    let base = format!("/v1/concerts/{}/queue", sale.concert);
    let (now, most, through) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let history = History::default();
    let stay = async |buyer: &Buyer| {
        let pass = buyer.enter(&track.api, &sale).await;
        // Counted while the pass is surely live: from its answer until it is given back.
        most.fetch_max(now.fetch_add(1, Ordering::AcqRel) + 1, Ordering::AcqRel);
        for _ in 0..LOOKS {
            history.send("look", track.api.get(&base)).await;
        }
        now.fetch_sub(1, Ordering::AcqRel);
        let leave = track.api.delete(&format!("{base}/passes/me")).bearer(&buyer.token).pass(&pass);
        history.send("leave", leave).await;
        through.fetch_add(1, Ordering::AcqRel);
    };
    join_all(crowd.iter().map(stay)).await;
    let mut findings = Findings::default();
    let most = most.load(Ordering::Acquire);
    findings.check(most <= SLOTS, || format!("{most} were inside at once"));
    for event in history.events().iter().filter(|event| event.about == "look") {
        let active = event.reply.as_ref().and_then(|reply| reply.body["active"].as_u64()).unwrap_or(u64::MAX);
        findings.check(active <= SLOTS as u64, || format!("the line says that {active} are inside"));
    }
    findings.outcomes(&history, &["200", "204"]);
    findings.equal("who came through", &through.load(Ordering::Acquire), &(CONTENDERS as usize));
    findings
}
