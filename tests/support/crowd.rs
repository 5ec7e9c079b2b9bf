//! A crowd at the till: buyers who are inside, each with points and a live hold, and what must be true once they paid.

use frontrow::app::state::State;
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::arena::Plan;
use super::{Api, Buyer, History, Reply, Sale};

/// Requests at the same time, by all of a crowd.
const AT_ONCE: usize = 32;
const SEATS_PER_ROW: usize = 50;
pub const PRICE: i64 = 10_000;
/// Not a multiple of the price: who pays twice is not noticed by going below zero alone.
pub const POINTS: i64 = 25_000;

/// Who is ready to pay.
pub struct Member {
    pub buyer: Buyer,
    pub hold: String,
    /// The key of the payment.
    pub key: String,
}

/// The crowd, on a sale of its own.
pub struct Crowd {
    pub sale: Sale,
    pub members: Vec<Member>,
}

/// The labels of so many seats in section `A`, and the section.
pub fn hall(seats: usize) -> (Vec<String>, Value) {
    let rows = seats.div_ceil(SEATS_PER_ROW);
    let names: Vec<Value> = (1..=rows).map(|row| json!({"name": row.to_string(), "seats": SEATS_PER_ROW})).collect();
    let labels = (0..seats).map(|n| format!("A-{}-{}", n / SEATS_PER_ROW + 1, n % SEATS_PER_ROW + 1)).collect();
    (labels, json!([{"code": "A", "name": "Hall", "rows": names}]))
}

impl Crowd {
    /// So many, each with a seat of their own.
    pub async fn ready(api: &Api, state: &State, count: usize) -> Self {
        let (labels, sections) = hall(count);
        let queue = json!({"admit_per_second": 10_000, "max_active": count, "claim_secs": 600, "session_secs": 3600});
        let plan = Plan { sections, queue, price: PRICE, ..Plan::default() };
        let sale = Sale::made_with(api, state, &plan).await;
        let buyers = Buyer::many(state, u32::try_from(count).expect("a crowd")).await;
        Buyer::endow(state, &buyers, POINTS).await;
        let sit = async |(buyer, label): (Buyer, String)| {
            let pass = buyer.enter(api, &sale).await;
            let hold = buyer.hold(api, &sale.performances[0], &pass, &[&label]).await;
            Member { key: format!("pay {hold}"), buyer, hold }
        };
        let members = stream::iter(buyers.into_iter().zip(labels)).map(sit).buffer_unordered(AT_ONCE).collect().await;
        Self { sale, members }
    }

    /// Everybody pays, as soon as there is a permit, and insists on an answer.
    pub async fn pay(&self, api: &Api, history: &History, permits: &Semaphore) {
        let pay = async |member: &Member| {
            permits.acquire().await.expect("never closed").forget();
            history.insist(&member.key, || member.payment(api)).await
        };
        stream::iter(&self.members).map(pay).buffer_unordered(AT_ONCE).for_each(|_| async {}).await;
    }

    /// What is not as the clients were told: each payment that was answered with 201 happened, and once. Empty is good.
    pub async fn broken_promises(&self, api: &Api, history: &History) -> Vec<String> {
        let events = history.events();
        let check = async |member: &Member| {
            let told: Vec<&Reply> = events
                .iter()
                .filter(|event| event.about == member.key && event.is_success())
                .filter_map(|event| event.reply.as_ref())
                .collect();
            let broken = member.broken_promises(api, &told).await;
            broken.into_iter().map(|what| format!("{}: {what}", member.key)).collect::<Vec<_>>()
        };
        let broken = stream::iter(&self.members).map(check).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
        broken.concat()
    }
}

impl Member {
    fn payment<'a>(&self, api: &'a Api) -> super::api::Call<'a> {
        let call = api.post(&format!("/v1/holds/{}/payment", self.hold)).bearer(&self.buyer.token).key(&self.key);
        call.json(&json!({"method": "points"}))
    }

    async fn read(&self, api: &Api, path: &str) -> Value {
        api.get(path).bearer(&self.buyer.token).send().await.body
    }

    async fn broken_promises(&self, api: &Api, told: &[&Reply]) -> Vec<String> {
        let Some(first) = told.first() else { return vec!["never told of success".to_owned()] };
        let id = first.body["id"].as_str().unwrap_or_default();
        let (points, reservations) =
            (self.read(api, "/v1/me/points").await, self.read(api, "/v1/me/reservations").await);
        let entries = self.read(api, "/v1/me/points/entries").await;
        let amounts: Vec<i64> =
            entries["items"].as_array().into_iter().flatten().filter_map(|one| one["amount"].as_i64()).collect();
        let repeat = self.payment(api).send().await;
        let facts = [
            ("told different things", told.iter().all(|reply| reply.bytes == first.bytes)),
            ("the repeat is another answer", (repeat.status, &repeat.bytes) == (first.status, &first.bytes)),
            ("the repeat was not from memory", repeat.header("idempotency-replayed") == Some("true")),
            ("no such reservation", self.read(api, &format!("/v1/reservations/{id}")).await == first.body),
            ("not one reservation", reservations["items"] == json!([first.body])),
            ("the hold is not paid", self.read(api, &format!("/v1/holds/{}", self.hold)).await["status"] == "paid"),
            ("the balance is wrong", points["balance"] == POINTS - PRICE),
            ("the entries are wrong", amounts == [-PRICE, POINTS]),
        ];
        facts.into_iter().filter(|(_, holds)| !holds).map(|(what, _)| what.to_owned()).collect()
    }
}
