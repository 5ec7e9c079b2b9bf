//! Buyers inside a sale who do anything a buyer can, over and over, while a test makes things go wrong around them.
//!
//! A request is data ([`Request`]): it can be sent over any instance, cut off, and sent again with its key. They
//! learn from the answers they see (tickets, passes, holds), as clients do, and remember every key they used.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use frontrow::app::state::State;
use futures::StreamExt as _;
use futures::future::join_all;
use rand::Rng as _;
use reqwest::Method;
use serde_json::{Value, json};

use super::api::Call;
use super::arena::{Plan, text};
use super::history::Event;
use super::{Api, Buyer, History, Reply, Sale, eventually};

const ROWS: usize = 40;
const SEATS: usize = 25;
/// Repeats sent at once when every key is asked for again.
const REPEATS_AT_ONCE: usize = 16;
/// Buyers kept aside for journeys.
const SPARE: u32 = 40;

/// The traffic.
pub struct Traffic {
    pub sale: Sale,
    guests: Vec<Guest>,
    spare: Vec<Buyer>,
    turn: AtomicUsize,
    journeys: AtomicUsize,
    keyed: Mutex<Vec<Keyed>>,
}

struct Guest {
    buyer: Buyer,
    papers: Mutex<Papers>,
}

/// What a buyer has learned so far.
#[derive(Clone, Default)]
struct Papers {
    ticket: String,
    pass: String,
    hold: Option<String>,
}

/// A keyed request and the success that was seen, if one was.
struct Keyed {
    request: Request,
    success: Option<Bytes>,
}

/// One request, to be sent as often as one likes.
#[derive(Clone, Debug)]
pub struct Request {
    /// What it does, such as `charge`.
    pub name: &'static str,
    guest: usize,
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Option<Value>,
    key: Option<String>,
}

impl Request {
    /// The request, to the next instance in turn.
    pub fn call<'a>(&self, api: &'a Api) -> Call<'a> {
        let mut call = api.call(self.method.clone(), &self.path);
        for (name, value) in &self.headers {
            call = call.header(name, value);
        }
        if let Some(key) = &self.key {
            call = call.key(key);
        }
        match &self.body {
            Some(body) => call.json(body),
            None => call,
        }
    }
}

/// What changes something in MySQL, as [`Request::name`] has it.
pub const WRITES: [&str; 5] = ["charge", "claim", "hold", "pay", "release"];

impl Traffic {
    /// A sale in a hall of a thousand seats, and so many buyers inside it with some points.
    pub async fn enter(api: &Api, state: &State, count: u32) -> Self {
        let rows: Vec<Value> = (1..=ROWS).map(|row| json!({"name": row.to_string(), "seats": SEATS})).collect();
        let sections = json!([{"code": "A", "name": "Hall", "rows": rows}]);
        let sale = Sale::made_with(api, state, &Plan { sections, price: 10, limit: 1000, ..Plan::default() }).await;
        let mut spare = Buyer::many(state, count + SPARE).await;
        let enter = async |buyer: &Buyer| {
            buyer.charge(api, 500).await;
            let ticket = buyer.join(api, &sale).await;
            let pass = buyer.claim(api, &sale, &ticket).await;
            Papers { ticket, pass, hold: None }
        };
        let inside: Vec<Buyer> = spare.drain(..count as usize).collect();
        let papers = join_all(inside.iter().map(enter)).await;
        let guests = inside.into_iter().zip(papers);
        let guests = guests.map(|(buyer, papers)| Guest { buyer, papers: Mutex::new(papers) }).collect();
        let (turn, journeys) = (AtomicUsize::default(), AtomicUsize::default());
        Self { sale, guests, spare, turn, journeys, keyed: Mutex::default() }
    }

    /// The next request of the next buyer: every kind in turn.
    pub fn next(&self) -> Request {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let guest = turn % self.guests.len();
        let papers = self.guests[guest].papers().clone();
        let line = format!("/v1/concerts/{}/queue", self.sale.concert);
        let ticket = ("queue-ticket", papers.ticket.clone());
        let pass = ("queue-pass", papers.pass);
        let performance = format!("/v1/performances/{}", self.sale.performances[0]);
        let ask = |name, method, path: &str| self.request(guest, name, method, path);
        // Not a multiple of the number of buyers, so that everybody does everything.
        match (turn / self.guests.len() + guest) % 13 {
            0 => ask("charge", Method::POST, "/v1/me/points/charges").body(json!({"amount": 50})).keyed(),
            1 => ask("join", Method::POST, &format!("{line}/tickets")),
            2 => ask("poll", Method::GET, &format!("{line}/tickets/me")).with(ticket),
            3 => ask("claim", Method::POST, &format!("{line}/passes")).with(ticket),
            4 => {
                let seats = json!({"seat_ids": neighbours()});
                ask("hold", Method::POST, &format!("{performance}/holds")).with(pass).body(seats).keyed()
            }
            5 => match papers.hold {
                Some(hold) => {
                    let pay = ask("pay", Method::POST, &format!("/v1/holds/{hold}/payment"));
                    pay.body(json!({"method": "points"})).keyed()
                }
                None => ask("holds", Method::GET, "/v1/me/holds?limit=5"),
            },
            6 => match papers.hold {
                Some(hold) => ask("release", Method::DELETE, &format!("/v1/holds/{hold}")),
                None => ask("holds", Method::GET, "/v1/me/holds?limit=5"),
            },
            7 => ask("points", Method::GET, "/v1/me/points"),
            8 => ask("holds", Method::GET, "/v1/me/holds?limit=5"),
            9 => ask("concert", Method::GET, &format!("/v1/concerts/{}", self.sale.concert)),
            10 => ask("availability", Method::GET, &format!("{performance}/availability")),
            11 => ask("line", Method::GET, &line),
            _ => ask("reservations", Method::GET, "/v1/me/reservations?limit=5"),
        }
    }

    fn request(&self, guest: usize, name: &'static str, method: Method, path: &str) -> Request {
        let bearer = ("authorization", format!("Bearer {}", self.guests[guest].buyer.token));
        Request { name, guest, method, path: path.to_owned(), headers: vec![bearer], body: None, key: None }
    }

    /// Takes note of a request and of its answer, if there was one.
    pub fn learn(&self, request: &Request, reply: Option<&Reply>) {
        let success = reply.filter(|reply| (200..300).contains(&reply.status));
        if request.key.is_some() {
            let keyed = Keyed { request: request.clone(), success: success.map(|reply| reply.bytes.clone()) };
            self.keyed().push(keyed);
        }
        let Some(reply) = reply else { return };
        let mut papers = self.guests[request.guest].papers();
        let told = |member: &str| reply.body[member].as_str().map(str::to_owned);
        match (request.name, success.is_some()) {
            ("join", true) => papers.ticket = told("ticket").unwrap_or_default(),
            ("claim", true) => papers.pass = told("pass").unwrap_or_default(),
            ("hold", true) => papers.hold = told("id"),
            ("pay" | "release", _) if reply.status < 500 => papers.hold = None,
            ("holds", true) => {
                let held = reply.body["items"].as_array().into_iter().flatten().find(|hold| hold["status"] == "held");
                papers.hold = held.map(|hold| text(&hold["id"]));
            }
            _ => {}
        }
    }

    /// Sends the next request and takes note of what comes.
    pub async fn ask(&self, api: &Api, history: &History) -> Event {
        let request = self.next();
        let event = history.send(request.name, request.call(api)).await;
        self.learn(&request, event.reply.as_ref());
        event
    }

    /// Keeps so many requests going at any time until `end` resolves, and gives its outcome. What has been asked by then
    /// is answered.
    pub async fn keep_busy<T>(&self, api: &Api, history: &History, at_once: usize, end: impl Future<Output = T>) -> T {
        let is_over = AtomicUsize::default();
        let worker = async || {
            while is_over.load(Ordering::Acquire) == 0 {
                self.ask(api, history).await;
            }
        };
        let end = async {
            let outcome = end.await;
            is_over.store(1, Ordering::Release);
            outcome
        };
        let (outcome, _) = tokio::join!(end, join_all((0..at_once).map(|_| worker())));
        outcome
    }

    /// How many keys were used so far.
    pub fn keys_used(&self) -> usize {
        self.keyed().len()
    }

    /// Sends requests again with their keys: each gets an answer, and those whose success was seen the same one. Of those
    /// whose success was not seen at most so many.
    pub async fn assert_kept(&self, api: &Api, most: usize) {
        let keyed = std::mem::take(&mut *self.keyed());
        let (mut sampled, others): (Vec<Keyed>, Vec<Keyed>) = keyed.into_iter().partition(|one| one.success.is_some());
        let step = others.len().div_ceil(most.max(1)).max(1);
        sampled.extend(others.into_iter().step_by(step));
        let repeat = async |keyed: Keyed| {
            let reply = eventually("an answer to a repeat", || async {
                let reply = keyed.request.call(api).send().await;
                (reply.status < 500 && reply.body["code"] != "idempotency_key_in_flight").then_some(reply)
            })
            .await;
            if let Some(success) = keyed.success {
                assert_eq!(reply.header("idempotency-replayed"), Some("true"), "{:?}: {reply:?}", keyed.request);
                assert_eq!(reply.bytes, success, "{:?}", keyed.request);
            }
        };
        futures::stream::iter(sampled).map(repeat).buffer_unordered(REPEATS_AT_ONCE).collect::<Vec<()>>().await;
    }

    /// The whole way of a new buyer, from points to tickets. What did not go well, if anything.
    pub async fn try_journey(&self, api: &Api) -> Result<(), String> {
        let number = self.journeys.fetch_add(1, Ordering::Relaxed);
        let buyer = &self.spare[number % self.spare.len()];
        let bearer = ("authorization", format!("Bearer {}", buyer.token));
        let step = async |name, method, path: String, header: Option<(&'static str, String)>, body: Option<Value>| {
            let key = body.is_some().then(|| uuid::Uuid::new_v4().to_string());
            let headers = [Some(bearer.clone()), header].into_iter().flatten().collect();
            let reply = Request { name, guest: 0, method, path, headers, body, key }.call(api).try_send().await;
            let reply = reply.map_err(|error| format!("{name}: {error}"))?;
            if (200..300).contains(&reply.status) { Ok(reply.body) } else { Err(format!("{name}: {}", reply.body)) }
        };
        let charge = Some(json!({"amount": 100}));
        step("charge", Method::POST, "/v1/me/points/charges".into(), None, charge).await?;
        let line = format!("/v1/concerts/{}/queue", self.sale.concert);
        let joined = step("join", Method::POST, format!("{line}/tickets"), None, None).await?;
        let ticket = ("queue-ticket", text(&joined["ticket"]));
        let mut claimed = Err(String::new());
        // Called by the next tick.
        for _ in 0..40 {
            claimed = step("claim", Method::POST, format!("{line}/passes"), Some(ticket.clone()), None).await;
            match &claimed {
                Err(refusal) if refusal.contains("not_called") => tokio::time::sleep(Duration::from_millis(25)).await,
                _ => break,
            }
        }
        let pass = ("queue-pass", text(&claimed?["pass"]));
        let seat = Some(json!({"seat_ids": [format!("A-{}-{}", ROWS, number % SEATS + 1)]}));
        let holds = format!("/v1/performances/{}/holds", self.sale.performances[0]);
        let held = step("hold", Method::POST, holds, Some(pass), seat).await?;
        let pay = format!("/v1/holds/{}/payment", text(&held["id"]));
        let paid = step("pay", Method::POST, pay, None, Some(json!({"method": "points"}))).await?;
        let path = format!("/v1/reservations/{}", text(&paid["id"]));
        step("reservation", Method::GET, path, None, None).await.map(drop)
    }

    fn keyed(&self) -> MutexGuard<'_, Vec<Keyed>> {
        self.keyed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Request {
    fn with(mut self, header: (&'static str, String)) -> Self {
        self.headers.push(header);
        self
    }

    fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    fn keyed(mut self) -> Self {
        self.key = Some(uuid::Uuid::new_v4().to_string());
        self
    }
}

impl Guest {
    fn papers(&self) -> MutexGuard<'_, Papers> {
        self.papers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Two seats side by side, in the rows that no journey uses.
fn neighbours() -> [String; 2] {
    let mut rng = rand::rng();
    let (row, seat) = (rng.random_range(1..ROWS), rng.random_range(1..SEATS));
    [format!("A-{row}-{seat}"), format!("A-{row}-{}", seat + 1)]
}
