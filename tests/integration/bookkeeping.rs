//! What the books say of a month, and what is forgotten after a while.

use std::time::Duration;

use frontrow::booking::holds::retention::Pace;
use rand::Rng as _;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor as _};
use uuid::Uuid;

use crate::support::arena::{Plan, text};
use crate::support::{Api, Buyer, Sale, World};

const LONG_SESSIONS: (&str, &str) = ("FRONTROW__ACCOUNTS__SESSION_HOURS", "100000");
const DAY: Duration = Duration::from_hours(24);

async fn statement(api: &Api, buyer: &Buyer, month: &str) -> Value {
    let path = format!("/v1/me/points/statement{month}");
    api.get(&path).bearer(&buyer.token).send().await.expect(200)
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("a number, not {value}"))
}

/// All of the buyer's entries, oldest first.
async fn entries(api: &Api, buyer: &Buyer) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("/v1/me/points/entries?limit=7{cursor}")).bearer(&buyer.token).send().await;
        let page = page.expect(200);
        all.extend(page["items"].as_array().expect("items").clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    all.reverse();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_months_statement_is_what_its_entries_add_up_to() {
    let world = World::with(&[LONG_SESSIONS]).await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &Plan { price: 1_234, ..Plan::default() }).await;
    let buyer = Buyer::new(&api).await;
    let empty = statement(&api, &buyer, "").await;
    assert_eq!((number(&empty["opening_balance"]), number(&empty["closing_balance"])), (0, 0));
    Buyer::endow(&one.state, std::slice::from_ref(&buyer), 20_000).await;
    let (performance, pass) = (&sale.performances[0], buyer.enter(&api, &sale).await);
    let kept = buyer.hold(&api, performance, &pass, &["A-1-1"]).await;
    let given_back = buyer.hold(&api, performance, &pass, &["A-1-2"]).await;
    buyer.try_pay(&api, &kept, "kept").await.expect(201);
    let paid = buyer.try_pay(&api, &given_back, "given back").await.expect(201);
    let cancel = api.post(&format!("/v1/reservations/{}/cancellation", text(&paid["id"]))).key("cancel");
    cancel.bearer(&buyer.token).send().await.expect(200);
    for _ in 0..25 {
        world.advance(DAY * rand::rng().random_range(1..9) + Duration::from_secs(rand::rng().random_range(0..80_000)));
        buyer.charge(&api, rand::rng().random_range(1..5_000)).await;
    }

    let entries = entries(&api, &buyer).await;
    assert_eq!(entries.len(), 1 + 3 + 25);
    let mut months: Vec<String> = entries.iter().map(|entry| text(&entry["created_at"])[..7].to_owned()).collect();
    months.dedup();
    assert!(months.len() > 2, "{months:?}");
    let mut balance = 0;
    for month in &months {
        let told = statement(&api, &buyer, &format!("?month={month}")).await;
        assert_eq!(told["month"], month.as_str());
        let of = |kind: &str| -> i64 {
            let own = entries.iter().filter(|entry| text(&entry["created_at"]).starts_with(month));
            own.filter(|entry| entry["kind"] == kind).map(|entry| number(&entry["amount"])).sum()
        };
        assert_eq!(number(&told["opening_balance"]), balance, "{told}");
        let sums = [of("charge"), -of("payment"), of("refund"), of("grant")];
        assert_eq!(["charged", "paid", "refunded", "granted"].map(|name| number(&told[name])), sums, "{told}");
        balance += sums[0] - sums[1] + sums[2] + sums[3];
        assert_eq!(number(&told["closing_balance"]), balance, "{told}");
    }
    let points = api.get("/v1/me/points").bearer(&buyer.token).send().await.expect(200);
    assert_eq!(number(&points["balance"]), balance);
    assert_eq!(
        statement(&api, &buyer, "").await,
        statement(&api, &buyer, &format!("?month={}", months[months.len() - 1])).await
    );
    for bad in ["2026-13", "2026", "11-2026", "2026-11-01"] {
        let refused = api.get(&format!("/v1/me/points/statement?month={bad}")).bearer(&buyer.token).send().await;
        assert_eq!(refused.expect_problem(422, "invalid_parameter")["errors"][0]["field"], "month", "{bad}");
    }
    world.assert_clean(&one).await;
    world.end(vec![one]).await;
}

/// Somebody tried to pay a hold by card, which failed.
async fn try_by_card(world: &World, buyer: &Buyer, hold: &str) {
    let hex = |id: &str| format!("x'{}'", id.parse::<Uuid>().expect("an id").simple());
    let attempt = format!(
        "INSERT INTO payments (id, user_id, method, state, subject_kind, subject_id, amount, created_at, changed_at) \
         VALUES ({}, {}, 1, 2, 0, {}, 10000, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))",
        hex(&Uuid::now_v7().to_string()),
        hex(&buyer.id),
        hex(hold)
    );
    world.sql().await.execute(AssertSqlSafe(attempt)).await.expect("an attempt");
}

/// What is kept for ever is walked over, however much of it stands before the rest, even where all ended in the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holds_that_are_kept_do_not_stand_before_the_others() {
    let world = World::with(&[LONG_SESSIONS, ("FRONTROW__BOOKING__KEEP_HOLDS_DAYS", "3")]).await;
    let one = world.instance().await;
    world.without_job("booking.tidy_holds").await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &Plan { limit: 10, ..Plan::default() }).await;
    let buyer = Buyer::new(&api).await;
    let pass = buyer.enter(&api, &sale).await;
    let mut holds = Vec::new();
    for seat in ["A-1-1", "A-1-2", "A-1-3", "A-1-4", "A-1-5", "A-2-1", "A-2-2", "A-2-3"] {
        holds.push(buyer.hold(&api, &sale.performances[0], &pass, &[seat]).await);
    }
    holds.sort();
    let (kept, others) = holds.split_at(5);
    for hold in kept {
        try_by_card(&world, &buyer, hold).await;
    }
    world.advance(3 * DAY + Duration::from_mins(6));
    let at_once = "UPDATE holds AS h JOIN (SELECT MIN(expires_at) AS first FROM holds) AS f SET h.expires_at = f.first";
    world.sql().await.execute(at_once).await.expect("the same end");
    let status = async |hold: &String| api.get(&format!("/v1/holds/{hold}")).bearer(&buyer.token).send().await.status;

    // Two holds a run: two runs see what is kept only, the next ones what stands behind it, the last one the end.
    let pace = Pace { rows: 2, batches_max: 1 };
    let mut forgotten = Vec::new();
    for _ in 0..5 {
        forgotten.push(one.state.holds.tidy(pace).await.expect("tidied"));
    }
    assert_eq!(forgotten, [0, 0, 1, 2, 0]);
    for (holds, expected) in [(kept, 200), (others, 404)] {
        for hold in holds {
            assert_eq!(status(hold).await, expected);
        }
    }
    // And from the beginning again.
    let settled = "DELETE FROM payments";
    world.sql().await.execute(settled).await.expect("no attempts");
    assert_eq!(one.state.holds.tidy(pace).await.expect("tidied"), 2);
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holds_that_came_to_nothing_are_forgotten_and_no_others() {
    let world = World::with(&[LONG_SESSIONS, ("FRONTROW__BOOKING__KEEP_HOLDS_DAYS", "3")]).await;
    let one = world.instance().await;
    world.without_job("booking.tidy_holds").await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &Plan { limit: 10, ..Plan::default() }).await;
    let buyer = Buyer::new(&api).await;
    buyer.charge(&api, 10_000).await;
    let pass = buyer.enter(&api, &sale).await;
    let mut holds = Vec::new();
    for seat in ["A-1-1", "A-1-2", "A-1-3", "A-1-4"] {
        holds.push(buyer.hold(&api, &sale.performances[0], &pass, &[seat]).await);
    }
    let [paid, released, expired, tried] = &holds[..] else { panic!("four holds") };
    try_by_card(&world, &buyer, tried).await;
    assert_eq!(buyer.try_pay(&api, paid, "pay").await.status, 201);
    let release = api.delete(&format!("/v1/holds/{released}")).bearer(&buyer.token);
    assert_eq!(release.send().await.status, 204);

    let status = async |hold: &String| api.get(&format!("/v1/holds/{hold}")).bearer(&buyer.token).send().await.status;
    world.advance(3 * DAY);
    assert_eq!(one.state.holds.tidy(Pace::default()).await.expect("tidied"), 0, "not yet");
    for hold in &holds {
        assert_eq!(status(hold).await, 200);
    }
    world.advance(Duration::from_mins(6));
    assert_eq!(one.state.holds.tidy(Pace::default()).await.expect("tidied"), 2);
    assert_eq!(one.state.holds.tidy(Pace::default()).await.expect("tidied"), 0);
    for (hold, expected) in [(paid, 200), (released, 404), (expired, 404), (tried, 200)] {
        assert_eq!(status(hold).await, expected);
    }
    let seats = "SELECT COUNT(*) FROM hold_seats";
    let seats: i64 = sqlx::query_scalar(seats).fetch_one(&mut world.sql().await).await.expect("a count");
    assert_eq!(seats, 2, "the seats of the others are gone");
    world.assert_clean(&one).await;
    world.end(vec![one]).await;
}
