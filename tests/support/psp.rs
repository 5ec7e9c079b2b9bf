//! The sandbox of a card provider (`frontrow psp`) as a real process, and its controls.
//!
//! ```ignore
//! let psp = Psp::start().await;
//! let world = World::with(&psp.settings()).await;              // every instance of the world charges cards there
//! let instance = world.instance().await;
//! psp.behave(json!({"drop_reply_rate": 0.2, "operations": ["confirm"], "webhooks": {"url": Psp::webhooks_of(&instance.base)}})).await;
//! // … pm_card_visa pays, pm_card_chargeDeclined and others do not, pm_sandbox_processing waits for `decide` …
//! psp.quiet().await;                                           // no webhook waits or is being sent any more
//! let books = psp.books().await;                               // totals, and every intent by attempt
//! assert_eq!(books.totals["charged"], json!(1200));
//! ```
//!
//! [`Psp::behave`] replaces the whole behaviour; what is left out goes well (but for `webhooks.url`, which stays). Webhooks are
//! signed by the wall clock: where a world has been advanced, say by how much in `webhooks.clock_ahead_ms`. The members are
//! documented in `src/payments/sandbox/behaviour.rs`.

use std::collections::HashMap;

use frontrow::payments::WEBHOOK_PATH;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::{Process, eventually};

/// The shop's key at the sandbox.
pub const KEY: &str = "sk_test_4kGq9ZpXv2LmN8sTbW3cRdYe";
/// What its webhooks are signed with.
pub const WEBHOOK_SECRET: &str = "whsec_7HnQ5xJt1VbK6fUoPz0sMwCa";
/// Intents asked for at once.
const PAGE: usize = 1000;

/// The process. Dropping it kills it, and its books with it.
pub struct Psp {
    /// Where it listens, as `http://…`.
    pub base: String,
    process: Process,
    client: Client,
}

/// What the sandbox has done with everybody's money.
#[derive(Debug)]
pub struct Books {
    /// `intents`, `unconfirmed`, `processing`, `succeeded`, `declined`, `cancelled`, `charged`, `refunded`, `refunds`,
    /// `refunds_failed`, `forgotten`.
    pub totals: Value,
    /// `received`, `replayed`, `dropped_requests`, `dropped_replies`, `errors`, `hung`.
    pub calls: Value,
    /// `events`, `waiting`, `delivered`, `given_up`, `lost`, `forged`, `forged_accepted`.
    pub webhooks: Value,
    /// Every intent, in the order in which they were made.
    pub intents: Vec<Booked>,
}

/// One intent in the books.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct Booked {
    /// Its number, from 1.
    pub number: u64,
    /// `pi_…`.
    pub id: String,
    /// The payment that it is an attempt of.
    pub attempt: Option<String>,
    /// In won.
    pub amount: i64,
    /// `unconfirmed`, `processing`, `succeeded`, `declined` or `cancelled`.
    pub status: String,
    /// In won.
    pub refunded: i64,
}

impl Books {
    /// The intents by attempt. Panics where an attempt has two: then a buyer may be charged twice.
    pub fn by_attempt(&self) -> HashMap<String, Booked> {
        let mut found = HashMap::new();
        for intent in &self.intents {
            let attempt = intent.attempt.clone().expect("an attempt's intent");
            let other = found.insert(attempt, intent.clone());
            assert!(other.is_none(), "two intents of one attempt: {intent:?} and {other:?}");
        }
        found
    }

    /// What was charged and not given back, in won.
    pub fn kept(&self) -> i64 {
        let total = |name: &str| self.totals[name].as_i64().expect("a total");
        total("charged") - total("refunded")
    }
}

impl Psp {
    /// Starts one on a free port. Nothing goes wrong yet, and webhooks go nowhere.
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    /// The same on this address.
    pub async fn start_at(addr: &str) -> Self {
        let secrets = [("FRONTROW_PSP_KEY", KEY), ("FRONTROW_PSP_WEBHOOK_SECRET", WEBHOOK_SECRET)];
        let mut process = Process::alone(&["psp", "--addr", addr], &secrets);
        let base = eventually("the sandbox to say its address", || {
            assert!(process.status().is_none(), "the sandbox ended while starting: {}", process.output());
            let output = process.output();
            let said =
                output.rfind('\n').and_then(|end| output[..end].lines().find_map(|line| line.strip_prefix("ready ")));
            let address = said.map(str::to_owned);
            async move { address }
        })
        .await;
        let client = Client::builder().no_proxy().build().expect("a client");
        Self { base, process, client }
    }

    /// The settings by which an instance charges cards here.
    pub fn settings(&self) -> [(&'static str, &str); 3] {
        [
            ("FRONTROW__PAYMENTS__BASE_URL", &self.base),
            ("FRONTROW__PAYMENTS__SECRET_KEY", KEY),
            ("FRONTROW__PAYMENTS__WEBHOOK_SECRET", WEBHOOK_SECRET),
        ]
    }

    /// Where webhooks for the instance at this address go.
    pub fn webhooks_of(base: &str) -> String {
        format!("{base}{WEBHOOK_PATH}")
    }

    /// Behaves so from now on. What is left out goes well.
    pub async fn behave(&self, behaviour: Value) {
        let (status, answer) = self.ask(Method::POST, "/sandbox/behaviour", Some(behaviour)).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// Behaves well from now on.
    pub async fn behave_well(&self) {
        self.behave(json!({})).await;
    }

    /// Decides on an intent of `pm_sandbox_processing`.
    pub async fn decide(&self, intent: &str, succeeds: bool) {
        let path = format!("/sandbox/intents/{intent}/decision");
        let (status, answer) = self.ask(Method::POST, &path, Some(json!({"succeeds": succeeds}))).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// The books. While nothing changes them, all of them at one moment.
    pub async fn books(&self) -> Books {
        let (mut intents, mut after) = (Vec::new(), 0);
        loop {
            let path = format!("/sandbox/books?after={after}&limit={PAGE}");
            let (status, mut page) = self.ask(Method::GET, &path, None).await;
            assert_eq!(status, 200, "{page}");
            intents.extend(serde_json::from_value::<Vec<Booked>>(page["intents"].take()).expect("intents"));
            if let Some(next) = page["next_after"].as_u64() {
                after = next;
                continue;
            }
            let mut take = |name: &str| page[name].take();
            return Books { totals: take("totals"), calls: take("calls"), webhooks: take("webhooks"), intents };
        }
    }

    /// Waits until no webhook waits or is being sent.
    pub async fn quiet(&self) {
        eventually("the webhooks to be delivered", || async {
            let (_, page) = self.ask(Method::GET, "/sandbox/books?limit=1", None).await;
            (page["webhooks"]["waiting"] == 0).then_some(())
        })
        .await;
    }

    /// Asks anything of it, with the shop's key: for what no adapter would ask.
    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).bearer_auth(KEY);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.expect("the sandbox answers");
        let status = response.status().as_u16();
        let text = response.text().await.expect("its answer");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Ends it with SIGTERM and gives its exit code.
    pub async fn end(mut self) -> Option<i32> {
        self.process.terminate();
        self.process.end().await
    }

    /// `kill -9`. Its books are gone.
    pub async fn kill(mut self) {
        self.process.kill();
        self.process.end().await;
    }
}
