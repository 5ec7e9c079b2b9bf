//! Races at the gate.

use futures::future::join_all;

use super::{BURST, hall, inside, labels};
use crate::support::arena::{Plan, text};
use crate::support::proxy::sabotage::Sabotage;
use crate::support::track::{Broken, Findings, Track, race};
use crate::support::{Buyer, History, Sale};

/// What lets a ticket be used, or given back, once.
const UNUSED: &str = "checked_in_at IS NULL";
/// Tickets that are shown while they are given back.
const SEATS: u32 = 10;

/// Somebody with a paid seat: whose, the reservation, and the ticket's code.
async fn ticket(track: &Track, sale: &Sale, seat: &str) -> (Buyer, String, String) {
    let one = inside(track, sale, 1).await.remove(0);
    Buyer::endow(&track.steward.state, std::slice::from_ref(&one.buyer), 10_000).await;
    let hold = one.buyer.hold(&track.quiet, &sale.performances[0], &one.pass, &[seat]).await;
    let paid = one.buyer.try_pay(&track.quiet, &hold, "paid").await.expect(201);
    (one.buyer, text(&paid["id"]), text(&paid["seats"][0]["ticket_code"]))
}

async fn sale(track: &Track) -> Sale {
    let plan = Plan { sections: hall(2), price: 10_000, ..Plan::default() };
    Sale::new(&track.quiet, &track.steward, &plan).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_lets_one_in() {
    let mark = "UPDATE reservation_seats SET checked_in_at";
    race(Broken::Rewritten(Sabotage::of_sql(mark, UNUSED, "TRUE")), one_ticket).await;
}

/// One ticket is shown to fifty gates at once.
async fn one_ticket(track: &Track) -> Findings {
    let sale = sale(track).await;
    let (_, _, code) = ticket(track, &sale, &labels(0..1)[0]).await;
    let path = format!("/v1/admin/tickets/{code}/check-in");
    let history = History::default();
    let gates = (0..BURST).map(|_| history.send("gate", track.api.post(&path).bearer(&sale.operator)));
    join_all(gates).await;
    let mut findings = Findings::default();
    findings.outcomes(&history, &["200", "409 already_checked_in"]);
    findings.equal("let in", &history.count("200"), &1);
    findings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_is_used_or_given_back() {
    let end = "UPDATE reservation_seats SET is_live";
    race(Broken::Rewritten(Sabotage::of_sql(end, UNUSED, "TRUE")), used_or_given_back).await;
}

/// Tickets are shown to gates while their buyers give them back.
async fn used_or_given_back(track: &Track) -> Findings {
    let sale = sale(track).await;
    let history = History::default();
    let mut findings = Findings::default();
    for seat in labels(0..SEATS) {
        let (buyer, reservation, code) = ticket(track, &sale, &seat).await;
        let gate = track.api.post(&format!("/v1/admin/tickets/{code}/check-in")).bearer(&sale.operator);
        let back = track.api.post(&format!("/v1/reservations/{reservation}/cancellation")).bearer(&buyer.token);
        let (used, given_back) = tokio::join!(history.send("gate", gate), history.send("back", back.key("give back")));
        let both = used.is_success() && given_back.is_success();
        findings.check(!both && (used.is_success() || given_back.is_success()), || {
            format!(
                "{seat}: gate {} {}, back {} {}",
                used.status(),
                used.code(),
                given_back.status(),
                given_back.code()
            )
        });
    }
    findings.outcomes(&history, &["200", "409 ticket_void", "409 not_cancellable"]);
    findings
}
