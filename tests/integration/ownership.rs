//! Who may do what: every operation of the API document for everybody who might call it, as a table.
//!
//! An operation without a row fails, and so does a row without an operation. What is another's answers exactly as
//! what does not exist.

use std::collections::BTreeSet;
use std::time::Duration;

use frontrow::platform::config::Secret;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::arena::{Plan, text};
use crate::support::contract::{Operation, Site, operations};
use crate::support::{Api, Buyer, Call, Reply, Sale, World};

/// Who calls, in the order of a row.
const CALLERS: [&str; 7] = ["anonymous", "expired", "forged", "revoked", "another buyer", "operator", "owner"];

/// What the four who are nobody are answered.
const NOBODY: &str = "401 unauthenticated";

/// One row: the operation and what each caller is answered, `status` or `status code`.
type Row = (&'static str, [&'static str; 7]);

const fn public(name: &'static str, answer: &'static str) -> Row {
    (name, [answer; 7])
}

/// Each has their own.
const fn personal(name: &'static str, answer: &'static str) -> Row {
    (name, [NOBODY, NOBODY, NOBODY, NOBODY, answer, answer, answer])
}

/// Only the owner has it; for anybody else it is absent.
const fn owned(name: &'static str, answer: &'static str) -> Row {
    theirs(name, "404 not_found", answer)
}

/// Only its holder may use it.
const fn theirs(name: &'static str, others: &'static str, answer: &'static str) -> Row {
    (name, [NOBODY, NOBODY, NOBODY, NOBODY, others, others, answer])
}

/// Operators only; the owner of everything else is a buyer like any other.
const fn operators(name: &'static str, answer: &'static str) -> Row {
    (name, [NOBODY, NOBODY, NOBODY, NOBODY, "403 forbidden", answer, "403 forbidden"])
}

/// In this order, since the later ones end what the earlier ones need. Ticket and pass are the owner's, whoever calls.
const ROWS: [Row; 66] = [
    public("GET /livez", "200"),
    public("GET /readyz", "200"),
    public("GET /metrics", "200"),
    public("GET /problems/{code}", "200"),
    public("GET /.well-known/frontrow-tickets.json", "200"),
    public("GET /v1/concerts", "200"),
    public("GET /v1/concerts/{id}", "200"),
    public("GET /v1/concerts/{id}/performances", "200"),
    public("GET /v1/concerts/{id}/queue", "200"),
    public("GET /v1/concerts/{id}/queue/events", "200"),
    public("GET /v1/performances/{id}", "200"),
    public("GET /v1/performances/{id}/seat-map", "200"),
    public("GET /v1/performances/{id}/availability", "200"),
    public("GET /v1/performances/{id}/seats", "200"),
    public("POST /v1/users", "201"),
    public("POST /v1/sessions", "401 bad_credentials"),
    // Believed where the provider has signed it, whoever brings it.
    public("POST /v1/payments/webhooks", "400 invalid_signature"),
    // A token of nobody's.
    public("POST /v1/users/verifications", "410 link_expired"),
    public("PUT /v1/password-resets/{token}", "410 link_expired"),
    public("POST /v1/password-resets", "202"),
    // Polling must cost nothing: whoever has the ticket may ask where it stands.
    public("GET /v1/concerts/{id}/queue/tickets/me", "200"),
    operators("POST /v1/admin/venues", "201"),
    operators("POST /v1/admin/concerts", "201"),
    operators("PATCH /v1/admin/concerts/{id}", "200"),
    operators("PATCH /v1/admin/concerts/{id}/queue", "200"),
    operators("GET /v1/admin/concerts/{id}/queue", "200"),
    operators("GET /v1/admin/concerts/{id}/stats", "200"),
    operators("DELETE /v1/admin/concerts/{id}/queue/passes", "200"),
    operators("POST /v1/admin/concerts/{id}/stop", "200"),
    operators("POST /v1/admin/concerts/{id}/resume", "200"),
    operators("POST /v1/admin/performances/{id}/blocks", "201"),
    operators("DELETE /v1/admin/performances/{id}/blocks", "204"),
    operators("POST /v1/admin/performances/{id}/postponement", "200"),
    operators("POST /v1/admin/tickets/{code}/check-in", "200"),
    operators("POST /v1/admin/reservations/{id}/refund", "200"),
    operators("POST /v1/admin/concerts/{id}/cancellation", "202"),
    operators("GET /v1/admin/concerts/{id}/cancellation", "200"),
    operators("GET /v1/admin/concerts/{id}/cache", "200"),
    operators("POST /v1/admin/concerts/{id}/cache/warm", "202"),
    operators("POST /v1/admin/webhooks", "201"),
    operators("GET /v1/admin/webhooks", "200"),
    operators("DELETE /v1/admin/webhooks/{id}", "204"),
    operators("GET /v1/admin/actions", "200"),
    operators("GET /v1/admin/invariants", "200"),
    personal("GET /v1/me", "200"),
    personal("POST /v1/me/verifications", "202"),
    personal("GET /v1/me/points", "200"),
    personal("GET /v1/me/points/entries", "200"),
    personal("GET /v1/me/points/statement", "200"),
    personal("GET /v1/me/holds", "200"),
    personal("GET /v1/me/reservations", "200"),
    personal("POST /v1/me/points/charges", "201"),
    owned("GET /v1/me/points/charges/{id}", "200"),
    // A ticket of somebody else's is no ticket: who brings one gets a place of their own, and the owner has one already.
    ("POST /v1/concerts/{id}/queue/tickets", [NOBODY, NOBODY, NOBODY, NOBODY, "201", "201", "200"]),
    theirs("POST /v1/concerts/{id}/queue/passes", "401 invalid_ticket", "201"),
    theirs("POST /v1/performances/{id}/holds", "401 invalid_pass", "201"),
    owned("GET /v1/holds/{id}", "200"),
    owned("GET /v1/reservations/{id}", "200"),
    owned("GET /v1/reservations/{id}/tickets/{picture}", "200"),
    owned("POST /v1/reservations/{id}/cancellation", "200"),
    owned("POST /v1/holds/{id}/payment", "201"),
    owned("DELETE /v1/holds/{id}", "409 already_paid"),
    theirs("DELETE /v1/concerts/{id}/queue/passes/me", "401 invalid_pass", "204"),
    theirs("DELETE /v1/concerts/{id}/queue/tickets/me", "401 invalid_ticket", "204"),
    personal("DELETE /v1/sessions/current", "204"),
    personal("DELETE /v1/me", "204"),
];

/// What ends the session that it is called with.
const ENDING: [&str; 2] = ["DELETE /v1/sessions/current", "DELETE /v1/me"];

/// The tokens of [`CALLERS`].
#[derive(Clone)]
struct Tokens([Option<String>; 7]);

impl Tokens {
    async fn new(site: &Site, expired: String) -> Self {
        let revoked = Buyer::new(&site.api).await.token;
        site.api.delete("/v1/sessions/current").bearer(&revoked).send().await.expect(204);
        let tokens = [expired, forged(&site.owner.token), revoked, site.other.token.clone()];
        let [expired, forged, revoked, other] = tokens.map(Some);
        Self([None, expired, forged, revoked, other, Some(site.sale.operator.clone()), Some(site.owner.token.clone())])
    }
}

impl Tokens {
    /// The same, but with other people for those whose session will have ended.
    async fn of_others(&self, site: &Site) -> Self {
        let mut tokens = self.0.clone();
        let email = format!("operator-{}@example.com", Uuid::now_v7());
        let made = site.instance.state.accounts.create_operator(&email, Secret::new("a long enough one")).await;
        tokens[4] = Some(Buyer::new(&site.api).await.token);
        tokens[5] = Some(made.expect("an operator").1);
        tokens[6] = Some(Buyer::new(&site.api).await.token);
        Self(tokens)
    }
}

/// The token with one character changed.
fn forged(token: &str) -> String {
    let (middle, letter) = (token.len() / 2, if token.as_bytes()[token.len() / 2] == b'A' { "B" } else { "A" });
    format!("{}{letter}{}", &token[..middle], &token[middle + 1..])
}

/// A site in a world where a session has expired, with its token.
async fn site_with_expired_session() -> (Site, String) {
    let world = World::new().await;
    let early = world.services(&[]).await;
    let expired = Buyer::many(&early, 1).await.remove(0).token;
    world.advance(Duration::from_hours(25));
    (Site::in_world(world).await, expired)
}

fn said(reply: &Reply) -> String {
    match reply.body["code"].as_str() {
        Some(code) if reply.status >= 400 => format!("{} {code}", reply.status),
        _ => reply.status.to_string(),
    }
}

fn with_body<'a>(site: &Site, operation: &Operation, call: Call<'a>) -> Call<'a> {
    match site.body(operation) {
        Some(body) => call.json(&body),
        None => call,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_gets_what_the_table_says() {
    let (site, expired) = Box::pin(site_with_expired_session()).await;
    let tokens = Tokens::new(&site, expired).await;
    let found = operations(&site.api).await;
    let (described, rows): (BTreeSet<String>, BTreeSet<String>) =
        (found.iter().map(Operation::name).collect(), ROWS.iter().map(|row| row.0.to_owned()).collect());
    assert_eq!(described, rows, "a row for each operation, and no other");
    for (name, answers) in ROWS {
        let operation = found.iter().find(|operation| operation.name() == name).expect("compared above");
        let tokens = if ENDING.contains(&name) { tokens.of_others(&site).await } else { tokens.clone() };
        for ((caller, token), wanted) in CALLERS.iter().zip(&tokens.0).zip(answers) {
            let mut call = site.call_at(operation, &site.path(operation), &["Authorization"]);
            if let Some(token) = token {
                call = call.bearer(token);
            }
            let reply = with_body(&site, operation, call).send().await;
            operation.assert_documented(&reply, caller);
            assert_eq!(said(&reply), wanted, "{name} for {caller}: {}", reply.body);
            assert_eq!(reply.status == 401, reply.header("www-authenticate").is_some(), "{name} for {caller}");
        }
    }
    site.end().await;
}

/// The body without what tells one answer from another.
fn anonymous(reply: &Reply) -> Value {
    let mut body = reply.body.clone();
    body.as_object_mut().expect("a problem").remove("request_id");
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_anothers_answers_as_what_does_not_exist() {
    let site = Site::new().await;
    let mut compared = 0;
    for operation in operations(&site.api).await.iter().filter(|operation| operation.takes_id()) {
        let absent = site.path_with(operation, &Uuid::now_v7().to_string());
        let token = if operation.is_operators() { &site.sale.operator } else { &site.other.token };
        let send = async |path: &str| {
            let call = site.call_at(operation, path, &["Authorization"]).bearer(token);
            with_body(&site, operation, call).send().await
        };
        let nothing = send(&absent).await;
        // The pass says of which concert it is, so that one is asked before the path is.
        if operation.takes("Queue-Pass") && operation.method == reqwest::Method::DELETE {
            operation.assert_refused(&nothing, 401, "invalid_pass", "an absent concert");
            continue;
        }
        operation.assert_refused(&nothing, 404, "not_found", "an absent id");
        if ["/v1/holds", "/v1/reservations", "/v1/me/"].iter().any(|start| operation.path.starts_with(start)) {
            let foreign = send(&site.path(operation)).await;
            assert_eq!((foreign.status, anonymous(&foreign)), (404, anonymous(&nothing)), "{}", operation.name());
            for name in ["cache-control", "content-type", "content-length"] {
                assert_eq!(foreign.header(name), nothing.header(name), "{name} of {}", operation.name());
            }
            compared += 1;
        }
    }
    assert!(compared >= 5, "only {compared} kinds of things have owners");
    // Nor do lists show it.
    for list in ["/v1/me/holds", "/v1/me/reservations", "/v1/me/points/entries"] {
        let mine = site.api.get(list).bearer(&site.owner.token).send().await.expect(200);
        let theirs = site.api.get(list).bearer(&site.other.token).send().await.expect(200);
        assert!(mine["items"].as_array().is_some_and(|items| !items.is_empty()), "{list}");
        assert_eq!(theirs["items"], json!([]), "{list}");
    }
    site.end().await;
}

/// Tickets and passes that are good for nothing, each with what is wrong with it.
struct Bad {
    tickets: Vec<(&'static str, String)>,
    passes: Vec<(&'static str, String)>,
    expired_pass: String,
}

/// A ticket of a sale that is over, and one of the same sale from before, so that its end lies behind.
async fn site_with_bad_tickets() -> (Site, Bad) {
    let world = World::new().await;
    let first = world.instance().await;
    let api = Api::over(&[&first]);
    let over = Sale::new(&api, &first, &Plan::default()).await;
    let old = Buyer::new(&api).await.join(&api, &over).await;
    world.advance(Duration::from_hours(24 * 31));
    first.stop().await;
    let site = Site::in_world(world).await;
    let (api, sale) = (&site.api, &site.sale);
    let elsewhere = Sale::new(api, &site.instance, &Plan::default()).await;
    let there = site.owner.join(api, &elsewhere).await;
    let pass_there = site.owner.claim(api, &elsewhere, &there).await;
    let others = site.other.join(api, sale).await;
    let others_pass = site.other.claim(api, sale, &others).await;
    let bad = Bad {
        tickets: vec![
            ("forged", forged(&site.ticket)),
            ("cut off", site.ticket[..site.ticket.len() - 1].to_owned()),
            ("of another sale", there),
            ("of a sale that is over", old),
            ("another buyer's", others),
            ("a pass", site.pass.clone()),
            ("an access token", site.owner.token.clone()),
        ],
        passes: vec![
            ("forged", forged(&site.pass)),
            ("cut off", site.pass[..site.pass.len() - 1].to_owned()),
            ("of another sale", pass_there),
            ("another buyer's", others_pass),
            ("a ticket", site.ticket.clone()),
            ("an access token", site.owner.token.clone()),
        ],
        expired_pass: site.pass.clone(),
    };
    (site, bad)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_tickets_and_passes_open_nothing() {
    let (site, bad) = Box::pin(site_with_bad_tickets()).await;
    let operations = operations(&site.api).await;
    let mut checked = 0;
    for operation in &operations {
        // Joining takes a ticket as a favour: a bad one is as good as none.
        let joins = operation.name() == "POST /v1/concerts/{id}/queue/tickets";
        for (name, bad, code) in
            [("Queue-Ticket", &bad.tickets, "invalid_ticket"), ("Queue-Pass", &bad.passes, "invalid_pass")]
        {
            for (what, value) in bad.iter().filter(|_| operation.takes(name) && !joins) {
                // Polling asks for no token, so that whose the ticket is does not matter.
                if *what == "another buyer's" && !operation.is_signed_in() {
                    continue;
                }
                let call = site.call_at(operation, &site.path(operation), &[name]).header(name, value);
                let reply = with_body(&site, operation, call).send().await;
                operation.assert_refused(&reply, 401, code, &format!("a {name} that is {what}"));
                checked += 1;
            }
        }
        if operation.takes("Queue-Pass") {
            let without = site.call_at(operation, &site.path(operation), &["Queue-Pass"]);
            let reply = with_body(&site, operation, without).send().await;
            operation.assert_refused(&reply, 403, "pass_required", "no pass");
        }
    }
    assert!(checked >= 30, "only {checked} combinations");
    site.world.advance(Duration::from_secs(601));
    for operation in operations.iter().filter(|operation| operation.takes("Queue-Pass")) {
        let call = site.call_at(operation, &site.path(operation), &["Queue-Pass"]).pass(&bad.expired_pass);
        let reply = with_body(&site, operation, call).send().await;
        operation.assert_refused(&reply, 403, "pass_expired", "an expired pass");
    }
    let reservation = site.api.get(&format!("/v1/reservations/{}", site.reservation));
    assert_eq!(text(&reservation.bearer(&site.owner.token).send().await.expect(200)["status"]), "confirmed");
    site.end().await;
}
