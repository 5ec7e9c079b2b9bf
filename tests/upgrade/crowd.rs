//! Buyers who come one after the other, go all the way to a ticket, and remember what they were answered.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{Api, Buyer, Reply, Sale, eventually};

pub const PERFORMANCES: u32 = 12;
pub const ROWS: usize = 20;
pub const SEATS_PER_ROW: usize = 50;
pub const PRICE: i64 = 10_000;
/// Each buyer takes two seats side by side.
const PAIRS: usize = ROWS * SEATS_PER_ROW / 2;
const CHARGE: i64 = 2 * PRICE;
/// Buyers at once.
const WORKERS: usize = 6;
/// How often a buyer asks for the pass before giving up, and the pause between.
const CLAIMS_MAX: usize = 400;
const PAUSE: Duration = Duration::from_millis(25);

/// A request with a key, and what was answered.
#[derive(Clone, Debug)]
pub struct Keyed {
    path: String,
    token: String,
    pass: String,
    key: String,
    body: Value,
    reply: Reply,
}

/// What a buyer has at the end.
#[derive(Clone, Debug)]
struct Bought {
    token: String,
    hold: String,
    reservation: Reply,
}

/// The buyers, and the instances that they ask now.
pub struct Crowd {
    fleet: RwLock<Arc<Api>>,
    sale: Sale,
    buyers: Vec<Buyer>,
    next: AtomicUsize,
    is_over: AtomicBool,
    keyed: Mutex<Vec<Keyed>>,
    bought: Mutex<Vec<Bought>>,
    faults: Mutex<Vec<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Crowd {
    pub fn new(fleet: Api, sale: Sale, buyers: Vec<Buyer>) -> Self {
        let (keyed, bought, faults) = Default::default();
        let (next, is_over) = Default::default();
        Self { fleet: RwLock::new(Arc::new(fleet)), sale, buyers, next, is_over, keyed, bought, faults }
    }

    /// Starts the stream of buyers, which ends by [`Crowd::stop`].
    pub fn start(self: &Arc<Self>) -> Vec<JoinHandle<()>> {
        let worker = |_| {
            let crowd = self.clone();
            tokio::spawn(async move {
                while !crowd.is_over.load(Ordering::Acquire) {
                    let fleet = crowd.fleet.read().unwrap_or_else(PoisonError::into_inner).clone();
                    crowd.try_journey(&fleet).await;
                    tokio::time::sleep(PAUSE).await;
                }
            })
        };
        (0..WORKERS).map(worker).collect()
    }

    pub fn stop(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    /// From now on journeys go over these instances. Waits until the last of those that began before has ended.
    pub async fn turn_to(&self, fleet: Api) {
        let before = self.replaced(fleet);
        eventually("the last journeys to end", || async { (Arc::strong_count(&before) == 1).then_some(()) }).await;
    }

    fn replaced(&self, fleet: Api) -> Arc<Api> {
        std::mem::replace(&mut *self.fleet.write().unwrap_or_else(PoisonError::into_inner), Arc::new(fleet))
    }

    /// Waits until so many more journeys have begun and ended.
    pub async fn wait_for(&self, more: usize) {
        // Those under way now may have begun before whatever just happened.
        let goal = self.journeys() + WORKERS + more;
        eventually("journeys", || async {
            assert_eq!(self.faults(), Vec::<String>::new());
            (self.journeys() >= goal).then_some(())
        })
        .await;
    }

    pub fn journeys(&self) -> usize {
        locked(&self.bought).len()
    }

    pub fn answers(&self) -> Vec<Keyed> {
        locked(&self.keyed).clone()
    }

    pub fn faults(&self) -> Vec<String> {
        locked(&self.faults).clone()
    }

    /// One buyer's way over these instances, which must succeed.
    pub async fn journey_over(&self, fleet: &Api) -> Vec<Keyed> {
        let made = self.try_journey(fleet).await;
        made.unwrap_or_else(|| panic!("{:?}", self.faults()))
    }

    /// One buyer's way to a ticket: the answers that had a key, or nothing where something was not as it must be.
    pub async fn try_journey(&self, fleet: &Api) -> Option<Vec<Keyed>> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(buyer) = self.buyers.get(index) else {
            locked(&self.faults).push("there are too few buyers for so long an upgrade".into());
            self.stop();
            return None;
        };
        let pass = self.enter(fleet, buyer).await?;
        let performance = &self.sale.performances[index / PAIRS % self.sale.performances.len()];
        let (row, seat) = (index % PAIRS * 2 / SEATS_PER_ROW + 1, index % PAIRS * 2 % SEATS_PER_ROW + 1);
        let seats = json!({"seat_ids": [format!("A-{row}-{seat}"), format!("A-{row}-{}", seat + 1)]});
        let held = self.keyed(fleet, buyer, &pass, &format!("/v1/performances/{performance}/holds"), seats).await?;
        let charge = json!({"amount": CHARGE});
        let charged = self.keyed(fleet, buyer, &pass, "/v1/me/points/charges", charge).await?;
        let hold = text_of(&held.reply.body["id"]).to_owned();
        let pay = json!({"method": "points"});
        let paid = self.keyed(fleet, buyer, &pass, &format!("/v1/holds/{hold}/payment"), pay).await?;
        let id = text_of(&paid.reply.body["id"]);
        let reservation = self.read(fleet, buyer, &format!("/v1/reservations/{id}")).await?;
        for path in ["/v1/me/holds".to_owned(), format!("/v1/performances/{performance}/availability")] {
            self.read(fleet, buyer, &path).await?;
        }
        let made = vec![held, charged, paid];
        locked(&self.keyed).extend(made.iter().cloned());
        locked(&self.bought).push(Bought { token: buyer.token.clone(), hold, reservation });
        Some(made)
    }

    /// Joins the line and claims the pass once called.
    async fn enter(&self, fleet: &Api, buyer: &Buyer) -> Option<String> {
        let line = format!("/v1/concerts/{}/queue", self.sale.concert);
        let join = fleet.post(&format!("{line}/tickets")).bearer(&buyer.token);
        let ticket = self.noted("join", join.try_send().await, &[200, 201])?;
        let ticket = text_of(&ticket.body["ticket"]);
        self.read(fleet, buyer, &line).await?;
        for _ in 0..CLAIMS_MAX {
            let claim = fleet.post(&format!("{line}/passes")).bearer(&buyer.token).ticket(ticket);
            let reply = self.noted("claim", claim.try_send().await, &[201, 409])?;
            if reply.status == 201 {
                return Some(text_of(&reply.body["pass"]).to_owned());
            }
            tokio::time::sleep(PAUSE).await;
        }
        locked(&self.faults).push("a buyer was never called".into());
        None
    }

    async fn read(&self, fleet: &Api, buyer: &Buyer, path: &str) -> Option<Reply> {
        self.noted(path, fleet.get(path).bearer(&buyer.token).try_send().await, &[200])
    }

    async fn keyed(&self, fleet: &Api, buyer: &Buyer, pass: &str, path: &str, body: Value) -> Option<Keyed> {
        let (key, token) = (uuid::Uuid::new_v4().to_string(), buyer.token.clone());
        let sent = send(fleet, path, &token, pass, &key, &body).await;
        let reply = self.noted(path, sent, &[201])?;
        Some(Keyed { path: path.into(), token, pass: pass.into(), key, body, reply })
    }

    /// The answer if it is one of those that may come; everything else is a fault.
    fn noted(&self, what: &str, answer: reqwest::Result<Reply>, expected: &[u16]) -> Option<Reply> {
        let fault = match answer {
            Ok(reply) if expected.contains(&reply.status) => return Some(reply),
            Ok(reply) => format!("{what}: {} {}", reply.status, String::from_utf8_lossy(&reply.bytes)),
            Err(error) => format!("{what}: no answer: {error:?}"),
        };
        locked(&self.faults).push(fault);
        None
    }

    /// Asserts that these instances answer the same requests with the same bytes.
    pub async fn assert_replayed(&self, fleet: &Api, answers: &[Keyed]) {
        for known in answers {
            let again = send(fleet, &known.path, &known.token, &known.pass, &known.key, &known.body).await;
            let again = again.expect("an answer");
            assert_eq!(again.status, known.reply.status, "{}: {}", known.path, again.body);
            assert_eq!(again.bytes, known.reply.bytes, "{} is answered otherwise", known.path);
            assert_eq!(again.header("idempotency-replayed"), Some("true"), "{} took effect again", known.path);
        }
    }

    /// Asserts that everything that was bought is there, as it was answered, and that nothing was paid twice.
    pub async fn assert_kept(&self, fleet: &Api) {
        let bought = locked(&self.bought).clone();
        assert!(!bought.is_empty());
        for one in bought {
            let get = async |path: String| fleet.get(&path).bearer(&one.token).send().await.expect(200);
            let reservation = get(format!("/v1/reservations/{}", text_of(&one.reservation.body["id"]))).await;
            assert_contains(&reservation, &one.reservation.body);
            assert_eq!(get(format!("/v1/holds/{}", one.hold)).await["status"], "paid");
            assert_eq!(get("/v1/me/points".to_owned()).await["balance"], 0);
        }
        self.assert_replayed(fleet, &self.answers()).await;
    }
}

async fn send(fleet: &Api, path: &str, token: &str, pass: &str, key: &str, body: &Value) -> reqwest::Result<Reply> {
    fleet.call(Method::POST, path).bearer(token).pass(pass).key(key).json(body).try_send().await
}

fn text_of(value: &Value) -> &str {
    value.as_str().expect("text")
}

/// A newer version may say more, but nothing else.
#[track_caller]
fn assert_contains(found: &Value, known: &Value) {
    match (found, known) {
        (Value::Object(found), Value::Object(known)) => {
            for (name, value) in known {
                let found = found.get(name).unwrap_or(&Value::Null);
                if name == "ticket_code" {
                    assert_eq!(serial(found), serial(value));
                } else {
                    assert_contains(found, value);
                }
            }
        }
        (Value::Array(found), Value::Array(known)) => {
            assert_eq!(found.len(), known.len());
            found.iter().zip(known).for_each(|(found, known)| assert_contains(found, known));
        }
        (found, known) => assert_eq!(found, known),
    }
}

/// What tells a ticket from all others: all of the codes of versions that did not sign them, and a part of those that do.
#[track_caller]
fn serial(code: &Value) -> String {
    use base64::Engine as _;
    let code = text_of(code);
    if code.len() == 26 {
        return code.to_owned();
    }
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(code).expect("base64");
    String::from_utf8(bytes[21..47].to_vec()).expect("ASCII")
}
