//! Races against operators who stop a sale or end all stays.

use futures::future::join_all;
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};

use super::{Inside, PREPARING, hall, inside, labels};
use crate::support::arena::Plan;
use crate::support::history::Event;
use crate::support::proxy::sabotage::Sabotage;
use crate::support::track::{Broken, Findings, Track, race};
use crate::support::{Buyer, History, Sale, eventually};

const PRICE: i64 = 10_000;
/// Who holds one seat after the other.
const HOLDERS: usize = 40;
/// Seats that each of them asks for before the stop, and after it.
const TRIES: usize = 6;
/// Who pays: half of them before the stop or during it, half of them after it.
const PAYERS: usize = 60;
/// Who claims: the same.
const CLAIMANTS: u32 = 120;
/// Whose stays are ended.
const GUESTS: u32 = 150;

async fn sale_for(track: &Track) -> Sale {
    Sale::new(&track.quiet, &track.steward, &Plan { sections: hall(30), limit: 20, price: PRICE, ..Plan::default() })
        .await
}

async fn order(track: &Track, history: &History, sale: &Sale, what: &str) -> Event {
    let path = format!("/v1/admin/concerts/{}/{what}", sale.concert);
    history.send(what, track.quiet.post(&path).bearer(&sale.operator)).await
}

/// Notes whatever succeeded though it was sent after the stop was answered.
fn check_after(findings: &mut Findings, history: &History, stop: &Event) {
    let answered = stop.at + stop.took;
    let (events, mut late) = (history.events(), 0);
    for event in events.iter().filter(|event| event.about != "stop" && event.at > answered) {
        late += 1;
        findings.check(!event.is_success(), || format!("{} succeeded after the stop", event.about));
    }
    findings.check(late > 0, || "nobody came after the stop".to_owned());
    let early = events.iter().filter(|event| event.about != "stop" && event.is_success()).count();
    findings.check(early > 0, || "nobody came before the stop".to_owned());
    findings.outcomes(history, &["200", "201", "503 sale_stopped"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_booked_once_a_sale_is_stopped() {
    let guard = Sabotage::of_sql("SELECT is_stopped, is_cancelled", "is_stopped,", "0,");
    race(Broken::Rewritten(guard), booking).await;
}

async fn booking(track: &Track) -> Findings {
    let sale = sale_for(track).await;
    let crowd = inside(track, &sale, u32::try_from(HOLDERS + PAYERS).expect("a crowd")).await;
    let (holders, payers) = crowd.split_at(HOLDERS);
    let buyers: Vec<Buyer> = payers.iter().map(|one| one.buyer.clone()).collect();
    Buyer::endow(&track.steward.state, &buyers, PRICE).await;
    let seats = labels(0..u32::try_from(2 * TRIES * HOLDERS + PAYERS).expect("a hall"));
    let (performance, of_payers) = (&sale.performances[0], &seats[2 * TRIES * HOLDERS..]);
    let prepare =
        async |(one, seat): (&Inside, &String)| one.buyer.hold(&track.quiet, performance, &one.pass, &[seat]).await;
    let due: Vec<String> = stream::iter(payers.iter().zip(of_payers)).map(prepare).buffered(PREPARING).collect().await;
    let history = History::default();
    let hold = async |one: &Inside, seat: &String| {
        let call = track.api.post(&format!("/v1/performances/{performance}/holds")).bearer(&one.buyer.token);
        history.send("a hold", call.pass(&one.pass).json(&json!({"seat_ids": [seat]}))).await;
    };
    let hold_all = async |(number, one): (usize, &Inside), round: usize| {
        for seat in &seats[(2 * number + round) * TRIES..][..TRIES] {
            hold(one, seat).await;
        }
    };
    let pay = async |(one, hold): (&Inside, &String)| {
        let call = track.api.post(&format!("/v1/holds/{hold}/payment")).bearer(&one.buyer.token).key(hold);
        history.send("a payment", call.json(&json!({"method": "points"}))).await;
    };
    let payments = || payers.iter().zip(&due);
    let (holding, paying) = (
        join_all(holders.iter().enumerate().map(|one| hold_all(one, 0))),
        join_all(payments().take(PAYERS / 2).map(pay)),
    );
    let stopping = async {
        history.reaches(HOLDERS).await;
        order(track, &history, &sale, "stop").await
    };
    let (_, _, stop) = tokio::join!(holding, paying, stopping);
    let late = join_all(holders.iter().enumerate().map(|one| hold_all(one, 1)));
    tokio::join!(late, join_all(payments().skip(PAYERS / 2).map(pay)));
    let mut findings = Findings::default();
    check_after(&mut findings, &history, &stop);
    findings.check(history.count("503 sale_stopped") >= HOLDERS * TRIES, || format!("{:?}", history.outcomes()));
    // Nothing was taken from anybody: the same payments take effect afterwards.
    let after = History::default();
    order(track, &after, &sale, "resume").await;
    let again = payments().map(async |(one, hold)| one.buyer.try_pay(&track.api, hold, hold).await.status);
    findings.check(join_all(again).await.iter().all(|status| *status == 201), || "a hold was not paid".to_owned());
    findings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_let_in_once_a_sale_is_stopped() {
    let guard = Sabotage::of_sql("SELECT epoch, is_stopped, is_cancelled FROM queue_sales", "is_stopped,", "0,");
    race(Broken::Rewritten(guard), claims).await;
}

async fn claims(track: &Track) -> Findings {
    let sale = sale_for(track).await;
    let buyers = Buyer::many(&track.steward.state, CLAIMANTS).await;
    let join = async |buyer: Buyer| {
        let ticket = buyer.join(&track.quiet, &sale).await;
        (buyer, ticket)
    };
    let called: Vec<(Buyer, String)> = stream::iter(buyers).map(join).buffered(PREPARING).collect().await;
    let line = format!("/v1/concerts/{}/queue", sale.concert);
    eventually("everybody to be called", || async {
        let serving = track.quiet.get(&line).send().await.expect(200)["serving"].as_u64();
        (serving == Some(CLAIMANTS.into())).then_some(())
    })
    .await;
    let (history, passes) = (History::default(), format!("{line}/passes"));
    let claim = async |(buyer, ticket): &(Buyer, String)| {
        history.send("a claim", track.api.post(&passes).bearer(&buyer.token).ticket(ticket)).await;
    };
    let (early, late) = called.split_at(called.len() / 2);
    let stopping = async {
        history.reaches(early.len() / 4).await;
        order(track, &history, &sale, "stop").await
    };
    let (_, stop) = tokio::join!(join_all(early.iter().map(claim)), stopping);
    join_all(late.iter().map(claim)).await;
    let mut findings = Findings::default();
    check_after(&mut findings, &history, &stop);
    // Whoever was refused has the call still.
    let after = History::default();
    order(track, &after, &sale, "resume").await;
    let enter = called.iter().map(async |(buyer, ticket)| {
        eventually("the sale to go on", || async {
            let reply = track.api.post(&passes).bearer(&buyer.token).ticket(ticket).send().await;
            (reply.status != 503).then_some(reply.status)
        })
        .await
    });
    let entered = join_all(enter).await;
    findings.check(entered.iter().all(|status| *status == 201), || format!("a call was lost: {entered:?}"));
    findings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_stay_is_ended_once() {
    race(Broken::Rewritten(Sabotage::of_sql("AND created_at <= ?", " FOR UPDATE", "")), ends).await;
}

/// All stays are ended four times at once, while everybody pays, which ends a stay as well.
async fn ends(track: &Track) -> Findings {
    let sale = sale_for(track).await;
    let crowd = inside(track, &sale, GUESTS).await;
    let buyers: Vec<Buyer> = crowd.iter().map(|one| one.buyer.clone()).collect();
    Buyer::endow(&track.steward.state, &buyers, PRICE).await;
    let (performance, seats) = (&sale.performances[0], labels(0..GUESTS));
    let prepare =
        async |(one, seat): (&Inside, &String)| one.buyer.hold(&track.quiet, performance, &one.pass, &[seat]).await;
    let due: Vec<String> = stream::iter(crowd.iter().zip(&seats)).map(prepare).buffered(PREPARING).collect().await;
    let history = History::default();
    let pay = async |(one, hold): (&Inside, &String)| {
        let call = track.api.post(&format!("/v1/holds/{hold}/payment")).bearer(&one.buyer.token).key(hold);
        history.send("a payment", call.json(&json!({"method": "points"}))).await;
    };
    let path = format!("/v1/admin/concerts/{}/queue/passes", sale.concert);
    let end = async |_| history.send("an end", track.api.delete(&path).bearer(&sale.operator)).await;
    // Some have paid by then, some are about to, and some come later.
    let soon = crowd.len() * 2 / 3;
    let ending = async {
        history.reaches(crowd.len() / 6).await;
        join_all((0..4).map(end)).await
    };
    let payments = || crowd.iter().zip(&due);
    let (_, ends) = tokio::join!(join_all(payments().take(soon).map(pay)), ending);
    join_all(payments().skip(soon).map(pay)).await;
    let mut findings = Findings::default();
    findings.outcomes(&history, &["200", "201"]);
    findings.equal("payments", &history.count("201"), &crowd.len());
    let told = ends.iter().filter_map(|event| event.reply.as_ref()?.body["ended"].as_u64()).sum::<u64>();
    let late = (crowd.len() - soon) as u64;
    findings.check((late..=GUESTS.into()).contains(&told), || format!("{told} stays are said to be ended"));
    let mut sql = track.world.sql().await;
    let events = "SELECT COUNT(*), COUNT(DISTINCT aggregate_id) FROM outbox WHERE topic = 'queue.pass_ended'";
    let events: (i64, i64) = sqlx::query_as(events).fetch_one(&mut sql).await.expect("the events");
    findings.equal("ends of stays, and stays that ended", &events, &(i64::from(GUESTS), i64::from(GUESTS)));
    let path = format!("/v1/admin/actions?concert={}", sale.concert);
    let log = track.quiet.get(&path).bearer(&sale.operator).send().await.expect(200);
    let ended = |action: &Value| action["details"]["after"]["ended"].as_u64();
    let noted = log["items"].as_array().into_iter().flatten().filter_map(ended).sum::<u64>();
    findings.equal("stays that the log says were ended", &noted, &told);
    findings
}
