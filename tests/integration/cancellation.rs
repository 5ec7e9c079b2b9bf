//! A reservation is given back: seats, money and tickets, all at once or not at all.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::arena::{Plan, text};
use crate::support::{Api, Buyer, Reply, Sale, World};

const DAY: Duration = Duration::from_hours(24);

/// A buyer with a paid reservation of two seats, and its body.
async fn booked(api: &Api, sale: &Sale) -> (Buyer, Value) {
    let buyer = Buyer::new(api).await;
    buyer.charge(api, 50_000).await;
    let pass = buyer.enter(api, sale).await;
    let hold = buyer.hold(api, &sale.performances[0], &pass, &["A-1-1", "A-1-2"]).await;
    let reservation = buyer.try_pay(api, &hold, "pay").await.expect(201);
    (buyer, reservation)
}

async fn cancel(api: &Api, buyer: &Buyer, reservation: &Value, key: &str) -> Reply {
    let path = format!("/v1/reservations/{}/cancellation", text(&reservation["id"]));
    api.post(&path).bearer(&buyer.token).key(key).send().await
}

async fn balance(api: &Api, buyer: &Buyer) -> Value {
    api.get("/v1/me/points").bearer(&buyer.token).send().await.expect(200)["balance"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seats_and_money_go_back_once() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let sale = Sale::new(&api, &one, &Plan { limit: 2, ..Plan::default() }).await;
    let (buyer, reservation) = booked(&api, &sale).await;
    assert_eq!(balance(&api, &buyer).await, 30_000);

    let answer = cancel(&api, &buyer, &reservation, "give back").await;
    let mut expected = reservation.clone();
    expected["status"] = json!("cancelled");
    expected["payment"]["status"] = json!("refunded");
    let bytes = answer.bytes.clone();
    assert_eq!(answer.expect(200), expected);
    let path = format!("/v1/reservations/{}", text(&reservation["id"]));
    assert_eq!(api.get(&path).bearer(&buyer.token).send().await.expect(200), expected);
    assert_eq!(balance(&api, &buyer).await, 50_000);

    let repeat = cancel(&api, &buyer, &reservation, "give back").await;
    assert_eq!((repeat.header("idempotency-replayed"), &repeat.bytes), (Some("true"), &bytes));
    cancel(&api, &buyer, &reservation, "again").await.expect_problem(409, "not_cancellable");
    assert_eq!(balance(&api, &buyer).await, 50_000);

    // The seats are free, and no longer count against the limit of two.
    let pass = buyer.enter(&api, &sale).await;
    let hold = buyer.hold(&api, &sale.performances[0], &pass, &["A-1-2", "A-1-1"]).await;
    buyer.try_pay(&api, &hold, "pay again").await.expect(201);
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_needs_a_key_an_owner_and_time_left() {
    let world = World::with(&[("FRONTROW__ACCOUNTS__SESSION_HOURS", "2000")]).await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    let (buyer, reservation) = booked(&api, &sale).await;
    let path = format!("/v1/reservations/{}/cancellation", text(&reservation["id"]));
    api.post(&path).bearer(&buyer.token).send().await.expect_problem(400, "idempotency_key_missing");
    let other = Buyer::new(&api).await;
    cancel(&api, &other, &reservation, "theirs").await.expect_problem(404, "not_found");
    cancel(&api, &buyer, &json!({"id": uuid::Uuid::now_v7().to_string()}), "none")
        .await
        .expect_problem(404, "not_found");

    // The performance is in forty days; cancelling ends one day before it.
    world.advance(DAY * 39);
    cancel(&api, &buyer, &reservation, "late").await.expect_problem(409, "not_cancellable");
    world.assert_clean(&one).await;
    world.end(vec![one]).await;
}
