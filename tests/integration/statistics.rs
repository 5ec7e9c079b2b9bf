//! The operator's figures of a sale agree with what its buyers did.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::arena::{Plan, text};
use crate::support::{Api, Buyer, Sale, World, assert_members};

/// A buyer with points inside the sale, and the pass.
async fn inside(api: &Api, sale: &Sale) -> (Buyer, String) {
    let buyer = Buyer::new(api).await;
    buyer.charge(api, 50_000).await;
    let pass = buyer.enter(api, sale).await;
    (buyer, pass)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_of_a_sale_are_what_buyers_did() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let sale = Sale::new(&api, &one, &Plan { performances: 2, ..Plan::default() }).await;
    let other = Sale::new(&api, &one, &Plan::default()).await;
    let (first, second) = (&sale.performances[0], &sale.performances[1]);

    let (buyer, pass) = inside(&api, &sale).await;
    let hold = buyer.hold(&api, first, &pass, &["A-1-1", "A-1-2"]).await;
    let kept = buyer.try_pay(&api, &hold, "kept").await.expect(201);
    let (buyer, pass) = inside(&api, &sale).await;
    let hold = buyer.hold(&api, second, &pass, &["A-2-1"]).await;
    let given_back = buyer.try_pay(&api, &hold, "given back").await.expect(201);
    let path = format!("/v1/reservations/{}/cancellation", text(&given_back["id"]));
    api.post(&path).bearer(&buyer.token).key("back").send().await.expect(200);
    let (buyer, pass) = inside(&api, &sale).await;
    let hold = buyer.hold(&api, first, &pass, &["A-1-5"]).await;
    let refunded = buyer.try_pay(&api, &hold, "refunded").await.expect(201);
    let path = format!("/v1/admin/reservations/{}/refund", text(&refunded["id"]));
    api.post(&path).bearer(&sale.operator).key("refund").send().await.expect(200);
    let (holder, pass) = inside(&api, &sale).await;
    let hold = holder.hold(&api, first, &pass, &["A-2-3", "A-2-4", "A-2-5"]).await;
    // Of another sale: not counted here.
    let (elsewhere, pass) = inside(&api, &other).await;
    elsewhere.hold(&api, &other.performances[0], &pass, &["A-1-1"]).await;

    let stats = async || {
        // No picture of seats is answered that is older than this.
        world.advance(Duration::from_secs(2));
        let path = format!("/v1/admin/concerts/{}/stats", sale.concert);
        api.get(&path).bearer(&sale.operator).send().await.expect(200)
    };
    let found = stats().await;
    assert_members(&found, &["concert_id", "as_of", "line", "holds", "sales", "money"]);
    assert_eq!(found["concert_id"], json!(sale.concert));
    assert_eq!((&found["line"]["issued"], &found["line"]["phase"]), (&json!(4), &json!("open")));
    assert_eq!(found["holds"], json!({"live": 1, "seats": 3, "amount": 30_000}));
    assert_eq!(
        found["money"],
        json!({"currency": "KRW", "sold": kept["amount"], "given_back": 20_000, "pending": 0})
    );
    let sales = &found["sales"];
    let counts = ["seats_sold", "pending", "confirmed", "cancelled", "refunded"].map(|name| &sales[name]);
    assert_eq!(counts, [2, 0, 1, 1, 1].map(|count: u32| Value::from(count)).each_ref());
    let seats = |index: usize| {
        let one = &sales["performances"][index];
        ["seats_total", "available", "held", "taken"].map(|name| one[name].as_u64().expect("a count"))
    };
    assert_eq!((seats(0), seats(1)), ([20, 15, 3, 2], [20, 20, 0, 0]));

    api.delete(&format!("/v1/holds/{hold}")).bearer(&holder.token).send().await.expect(204);
    let found = stats().await;
    assert_eq!(found["holds"], json!({"live": 0, "seats": 0, "amount": 0}));
    assert_eq!(found["sales"]["performances"][0]["available"], json!(18));
    let absent = format!("/v1/admin/concerts/{}/stats", uuid::Uuid::now_v7());
    api.get(&absent).bearer(&sale.operator).send().await.expect_problem(404, "not_found");
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}
