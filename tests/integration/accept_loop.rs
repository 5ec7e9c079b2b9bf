//! Hostile clients at the accept loop. While each attack lasts, a buyer goes on asking over new connections and must
//! get every answer right; afterwards no connection and no request of the attack is left.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use rand::{RngCore as _, SeedableRng as _};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::arena::Plan;
use crate::support::{Api, Buyer, Process, Sale, Wire, World, eventually};

/// Clients that send a head byte by byte.
const SLOW_HEADS: usize = 200;
/// Clients that send a body byte by byte.
const SLOW_BODIES: usize = 200;
/// Clients that announce a body and send none of it.
const MISSING_BODIES: usize = 100;
/// Clients that connect and say nothing.
const SILENT: usize = 100;
/// Clients that ask and do not read, and how often each asks.
const UNREAD: usize = 30;
const UNREAD_REQUESTS: usize = 300;
/// Idle connections at once.
const IDLE: usize = 10_000;
/// Connections opened at a time: fewer than fit into the listener's backlog.
const BURST: usize = 500;
/// Descriptors that this process keeps for its other tests.
const OWN_FILES: u64 = 2_000;
/// Places, and connections that want them.
const PLACES: usize = 40;
const PLACE_SEEKERS: usize = 160;
/// Descriptors left to a server, and connections that want them.
const FILES_LEFT: u64 = 40;
const FILE_SEEKERS: usize = 160;
/// Connections for each kind of oversized head, of garbage, and of requests that are broken off.
const REPEATS: usize = 5;
/// Connections that send random bytes.
const RANDOM: usize = 100;
/// Requests sent at once on one connection.
const PIPELINED: usize = 100;
/// Answers that the buyer gets before, during and after each attack.
const ROUNDS: i64 = 3;
/// The pause between a slow client's bytes.
const DRIP: Duration = Duration::from_millis(50);

/// A server process with a sale, and the buyer who goes on asking.
struct Ground {
    world: World,
    process: Process,
    base: String,
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicI64>,
    buyer: JoinHandle<()>,
}

impl Ground {
    async fn new(settings: &[(&str, &str)]) -> Self {
        let world = World::new().await;
        let one = world.instance().await;
        let sale = Sale::new(&Api::over(&[&one]), &one, &Plan::default()).await;
        let buyer = Buyer::many(&one.state, 1).await.remove(0);
        one.shutdown.request();
        one.stop().await;
        let (process, base) = Process::serve(&world, settings).await;
        let (stop, rounds) = (Arc::<AtomicBool>::default(), Arc::<AtomicI64>::default());
        let asking = go_on_asking(base.clone(), sale, buyer, stop.clone(), rounds.clone());
        let ground = Self { world, process, base, stop, rounds, buyer: tokio::spawn(asking) };
        ground.go_on().await;
        ground
    }

    /// Waits until the buyer has been served some more.
    async fn go_on(&self) {
        let goal = self.rounds.load(Ordering::Relaxed) + ROUNDS;
        eventually("the buyer to be served", || async {
            let is_broken = self.buyer.is_finished();
            (is_broken || self.rounds.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
        assert!(!self.buyer.is_finished(), "the buyer got a wrong answer");
    }

    async fn metric(&self, name: &str) -> i64 {
        let api = Api::at(vec![self.base.clone()]);
        let page = api.get("/metrics").header("connection", "close").send().await;
        let text = String::from_utf8(page.bytes.to_vec()).expect("text");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a whole number")
    }

    async fn connections(&self) -> i64 {
        self.metric("frontrow_http_connections_active").await
    }

    /// Lets the buyer finish, and asserts that nothing is left but the question itself.
    async fn end(mut self) {
        self.go_on().await;
        self.stop.store(true, Ordering::Relaxed);
        self.buyer.await.expect("every answer was right");
        let api = Api::at(vec![self.base.clone()]);
        eventually("connections and requests to be gone", || async {
            let page = api.get("/metrics").header("connection", "close").send().await;
            let text = String::from_utf8(page.bytes.to_vec()).expect("text");
            let is_one = |name: &str| text.lines().any(|line| line == format!("{name} 1"));
            let is_left = is_one("frontrow_http_connections_active") && is_one("frontrow_http_requests_active");
            is_left.then_some(())
        })
        .await;
        self.process.terminate();
        assert_eq!(self.process.end().await, Some(0), "{}", self.process.output());
        self.world.end(Vec::new()).await;
    }
}

/// Each question on a connection of its own: new clients must get in.
async fn go_on_asking(base: String, sale: Sale, buyer: Buyer, stop: Arc<AtomicBool>, rounds: Arc<AtomicI64>) {
    let api = Api::at(vec![base]);
    let tickets = format!("/v1/concerts/{}/queue/tickets", sale.concert);
    let ticket = buyer.join(&api, &sale).await;
    let place = format!("{tickets}/me");
    while !stop.load(Ordering::Relaxed) {
        let round = rounds.load(Ordering::Relaxed) + 1;
        let ready = api.get("/readyz").header("connection", "close").send().await;
        assert_eq!(ready.status, 200, "{ready:?}");
        let joined = api.post(&tickets).bearer(&buyer.token).header("connection", "close").send().await.expect(200);
        let polled = api.get(&place).ticket(&ticket).header("connection", "close").send().await.expect(200);
        assert_eq!((&joined["arrival"], &polled["arrival"]), (&json!(0), &json!(0)));
        let charge = api.post("/v1/me/points/charges").bearer(&buyer.token).key(&format!("round-{round}"));
        let charged = charge.header("connection", "close").json(&json!({"amount": 1})).send().await.expect(201);
        assert_eq!(charged["balance"], round);
        rounds.store(round, Ordering::Relaxed);
    }
}

async fn connect(base: &str, count: usize) -> Vec<Wire> {
    let mut wires = Vec::with_capacity(count);
    while wires.len() < count {
        let burst = (0..BURST.min(count - wires.len())).map(|_| Wire::to(base));
        wires.extend(join_all(burst).await);
        if wires.len() < count {
            // Connections are accepted in turn: the last one's answer tells that the backlog is empty again.
            let last = wires.last_mut().expect("a burst");
            assert_eq!(last.get("/livez").await.expect("an answer").status, 200);
        }
    }
    wires
}

/// Sends a byte now and then until an answer comes.
async fn drip(wire: &mut Wire, byte: &str) {
    while wire.is_silent().await {
        wire.send(byte).await;
        tokio::time::sleep(DRIP).await;
    }
}

fn user_head(length: usize) -> String {
    format!(
        "POST /v1/users HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_slowly_is_told_and_takes_nobodys_place() {
    let few = [
        ("FRONTROW__HTTP__HEADER_TIMEOUT_SECS", "1"),
        ("FRONTROW__HTTP__BODY_TIMEOUT_SECS", "1"),
        ("FRONTROW__HTTP__REQUESTS_MAX", "4"),
    ];
    let ground = Ground::new(&few).await;
    let base = &ground.base;
    let heads = join_all((0..SLOW_HEADS).map(|_| async {
        let mut wire = Wire::to(base).await;
        wire.send("GET /livez HTTP/1.1\r\nx-slow: ").await;
        drip(&mut wire, "x").await;
        wire.expect_refusal(408, "request_timeout").await;
    }));
    let bodies = join_all((0..SLOW_BODIES).map(|_| async {
        let mut wire = Wire::to(base).await;
        wire.send(&user_head(1000)).await;
        drip(&mut wire, " ").await;
        wire.expect_refusal(408, "request_timeout").await;
    }));
    let missing = join_all((0..MISSING_BODIES).map(|_| async {
        let mut wire = Wire::to(base).await;
        wire.send(&user_head(1)).await;
        wire.expect_refusal(408, "request_timeout").await;
    }));
    let silent = join_all((0..SILENT).map(|_| async {
        let (mut mute, mut idle) = (Wire::to(base).await, Wire::to(base).await);
        assert_eq!(idle.get("/livez").await.expect("an answer").status, 200);
        assert!(mute.reply().await.is_none(), "nothing was asked");
        assert!(idle.reply().await.is_none(), "nothing more was asked");
    }));
    tokio::join!(heads, bodies, missing, silent, ground.go_on());
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_are_few_at_once_and_small_ones_pass() {
    let ground = Ground::new(&[("FRONTROW__HTTP__LARGE_BODIES_MAX", "1")]).await;
    // What is only announced takes nothing from anybody.
    let mut announced = Wire::to(&ground.base).await;
    announced.send(&user_head(100_000)).await;
    let mut first = Wire::to(&ground.base).await;
    first.send(&user_head(100_000)).await;
    first.send(&" ".repeat(20_000)).await;
    // What has come is read before anything that is asked later.
    ground.go_on().await;
    let mut second = Wire::to(&ground.base).await;
    second.send(&user_head(100_000)).await;
    second.send(&" ".repeat(20_000)).await;
    second.expect_refusal(503, "overloaded").await;
    first.send(&" ".repeat(80_000)).await;
    first.reply().await.expect("an answer").expect_problem(400, "malformed_json");
    let mut third = Wire::to(&ground.base).await;
    third.send(&user_head(100_000)).await;
    third.send(&" ".repeat(100_000)).await;
    third.reply().await.expect("an answer").expect_problem(400, "malformed_json");
    drop((announced, first, second, third));
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_is_cut_off() {
    let ground = Ground::new(&[("FRONTROW__HTTP__WRITE_TIMEOUT_SECS", "1")]).await;
    let mut unread = Vec::new();
    for _ in 0..UNREAD {
        let mut wire = Wire::narrow(&ground.base, 4096).await;
        // The server stops reading too: what it does not take is not waited for.
        let asking = "GET /openapi.json HTTP/1.1\r\nhost: test\r\n\r\n".repeat(UNREAD_REQUESTS);
        drop(tokio::time::timeout(DRIP, wire.send(&asking)).await);
        unread.push(wire);
    }
    ground.go_on().await;
    eventually("those who do not read to be gone", || async {
        // The buyer's, the question's, and one that is ending.
        (ground.connections().await <= 3).then_some(())
    })
    .await;
    let mut served = 0;
    for wire in &mut unread {
        let replies = wire.replies().await;
        assert!(replies.iter().all(|reply| reply.status == 200));
        assert!(replies.len() < UNREAD_REQUESTS, "all {} requests were answered", replies.len());
        served += replies.len();
    }
    assert!(served < UNREAD * UNREAD_REQUESTS / 2, "{served} answers");
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_idle_connections_harm_nobody() {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let wanted = u64::try_from(IDLE).expect("a number") + OWN_FILES;
    let raised = Rlimit { current: Some(wanted.min(hard).max(limit.current.unwrap_or(0))), maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("the soft limit may be raised");
    let count = if hard < wanted { usize::try_from(hard / 2).expect("a number") } else { IDLE };
    if count < IDLE {
        eprintln!("only {hard} open files are allowed: {count} idle connections in place of {IDLE}");
    }
    assert!(count > 100, "too few open files are allowed to test anything: {hard}");
    let ground = Ground::new(&[("FRONTROW__HTTP__HEADER_TIMEOUT_SECS", "300")]).await;
    let idle = connect(&ground.base, count).await;
    let count = i64::try_from(count).expect("a number");
    eventually("all of them to be open", || async { (ground.connections().await >= count).then_some(()) }).await;
    assert!(ground.metric("process_open_fds").await > count);
    ground.go_on().await;
    drop(idle);
    eventually("the descriptors to be free", || async {
        (ground.metric("process_open_fds").await < 200).then_some(())
    })
    .await;
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_longest_makes_place_for_who_asks() {
    let places = PLACES.to_string();
    let long = [("FRONTROW__HTTP__HEADER_TIMEOUT_SECS", "300"), ("FRONTROW__HTTP__CONNECTIONS_MAX", &places)];
    let ground = Ground::new(&long).await;
    let places = i64::try_from(PLACES).expect("few");
    let mut seekers = connect(&ground.base, PLACE_SEEKERS).await;
    // Of every kind that keeps its place: silent, with a part of a head, with a part of a body.
    for (number, seeker) in seekers.iter_mut().enumerate() {
        seeker.send(["", "GET /livez HTTP/1.1\r\n", &user_head(10)][number % 3]).await;
    }
    ground.go_on().await;
    let open = ground.connections().await;
    assert!(open > places / 2 && open <= places, "{open} connections on {places} places");
    drop(seekers);
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_descriptors_goes_on() {
    let ground = Ground::new(&[("FRONTROW__HTTP__HEADER_TIMEOUT_SECS", "300")]).await;
    let id = ground.process.id();
    let files = || u64::try_from(fs::read_dir(format!("/proc/{id}/fd")).expect("its files").count()).expect("a number");
    let pid = Pid::from_raw(i32::try_from(id).expect("a number"));
    // Under the server's feet, after it has looked at its limit.
    let least = Rlimit { current: Some(files() + FILES_LEFT), maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(pid, Resource::Nofile, least).expect("its limit may be lowered");
    let seekers = connect(&ground.base, FILE_SEEKERS).await;
    ground.process.wait_for("accept failed").await;
    ground.go_on().await;
    drop(seekers);
    ground.go_on().await;
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_knows_how_many_descriptors_it_may_have() {
    let world = World::new().await;
    let mut refused = Process::spawn_with_files(40, &world, &["serve"], &[]);
    assert_eq!(refused.end().await, Some(1));
    assert!(refused.output().contains("only 40 open files are allowed"), "{}", refused.output());
    let mut lowered = Process::spawn_with_files(160, &world, &["serve"], &[]);
    let base = lowered.ready().await;
    assert!(lowered.output().contains("http.connections_max is lowered"), "{}", lowered.output());
    let seekers = connect(&base, FILE_SEEKERS).await;
    let api = Api::at(vec![base]);
    for _ in 0..ROUNDS {
        assert_eq!(api.get("/readyz").header("connection", "close").send().await.status, 200);
    }
    assert!(!lowered.output().contains("accept failed"), "it never runs out: {}", lowered.output());
    drop(seekers);
    lowered.terminate();
    assert_eq!(lowered.end().await, Some(0), "{}", lowered.output());
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_are_too_large_are_refused() {
    let ground = Ground::new(&[]).await;
    let line = "GET /livez HTTP/1.1\r\nhost: test\r\n";
    let heads = [
        format!("{line}{}\r\n", "x-one: 1\r\n".repeat(64)),
        format!("{line}{}\r\n", format!("x-more: {}\r\n", "x".repeat(1100)).repeat(30)),
        format!("{line}x-giant: {}\r\n\r\n", "x".repeat(1_000_000)),
        format!("GET /{} HTTP/1.1\r\nhost: test\r\n\r\n", "x".repeat(100_000)),
        format!("{line}{}", "x-never: ends\r\n".repeat(100_000)),
    ];
    let attack = join_all(heads.iter().flat_map(|head| std::iter::repeat_n(head, REPEATS)).map(|head| async {
        let mut wire = Wire::to(&ground.base).await;
        assert!(wire.send(head).await, "what comes after the refusal is still taken");
        wire.expect_refusal(431, "head_too_large").await;
    }));
    tokio::join!(attack, ground.go_on());
    let most = format!("{line}{}\r\n", "x-one: 1\r\n".repeat(63));
    let mut wire = Wire::to(&ground.base).await;
    wire.send(&most).await;
    assert_eq!(wire.reply().await.expect("an answer").status, 200, "64 headers are fine");
    drop(wire);
    ground.end().await;
}

/// What is no request, and what is one whose end is unclear.
const GARBAGE: &[&[u8]] = &[
    b"\x00\x01\x02\x03\xff\xfe\r\n\r\n",
    // HTTP/0.9.
    b"GET /livez\r\n\r\n",
    // The beginning of HTTP/2.
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    // The beginning of TLS.
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdefghijklmnopqrstuvwxyz012345\x20\r\n\r\n",
    b"GET /livez HTTP/3.7\r\nhost: test\r\n\r\n",
    b"GET / livez HTTP/1.1\r\nhost: test\r\n\r\n",
    b"G\x7fT /livez HTTP/1.1\r\nhost: test\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nhost test\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nho\x00st: test\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nhost: te\x00st\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nhost: test\r\nx-folded: one\r\n two\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nhost : test\r\n\r\n",
    b"POST /v1/users HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
    b"POST /v1/users HTTP/1.1\r\nhost: test\r\ncontent-length: -1\r\n\r\n",
    b"POST /v1/users HTTP/1.1\r\nhost: test\r\ncontent-length: +1\r\n\r\nx",
    b"POST /v1/users HTTP/1.1\r\nhost: test\r\ncontent-length: 0x10\r\n\r\n",
    b"POST /v1/users HTTP/1.1\r\nhost: test\r\ncontent-length: 99999999999999999999\r\n\r\n",
    b"POST /v1/users HTTP/1.1\r\nhost: test\r\ntransfer-encoding: gzip\r\n\r\n",
    b"POST /v1/users HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    b"POST /v1/users HTTP/1.0\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/users HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    b"POST /v1/users HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
    b"POST /v1/users HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc",
    b"POST /v1/users HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n",
];

/// What must never be taken for a request: it is sent behind each piece of garbage.
const SMUGGLED: &[u8] = b"GET /livez HTTP/1.1\r\nhost: smuggled\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_refused_and_nothing_behind_it_is_read() {
    let ground = Ground::new(&[]).await;
    let base = &ground.base;
    let firsts = [None, Some("GET /livez HTTP/1.1\r\nhost: test\r\n\r\n".to_owned()), Some(user_head(2) + "{}")];
    let kinds = GARBAGE.iter().flat_map(|garbage| firsts.iter().map(move |first| (*garbage, first)));
    let attack = join_all(kinds.map(|(garbage, first)| async move {
        for _ in 0..REPEATS {
            let mut wire = Wire::to(base).await;
            let before = first.as_deref().unwrap_or_default();
            wire.send_bytes(&[before.as_bytes(), garbage, SMUGGLED].concat()).await;
            let mut replies = wire.replies().await;
            let last = replies.pop().expect("an answer");
            assert_eq!(replies.len(), usize::from(first.is_some()), "{}: {replies:?}", garbage.escape_ascii());
            assert!(replies.iter().all(|reply| reply.header("connection").is_none()), "{replies:?}");
            last.expect_problem(400, "malformed_request");
            assert_eq!(last.header("connection"), Some("close"));
        }
    }));
    tokio::join!(attack, ground.go_on());
    // Valid by the letter, but the two ends could differ on where it ends: one answer, then the connection is over.
    for both in ["content-length: 4\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 4"] {
        let mut wire = Wire::to(base).await;
        let head = format!("POST /v1/users HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n{both}\r\n\r\n");
        wire.send_bytes(&[head.as_bytes(), b"0\r\n\r\n", SMUGGLED].concat()).await;
        let replies = wire.replies().await;
        assert_eq!(replies.len(), 1, "{replies:?}");
        assert_eq!(replies[0].header("connection"), Some("close"));
        replies[0].expect_problem(400, "malformed_json");
    }
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_and_broken_connections_leave_nothing() {
    let ground = Ground::new(&[("FRONTROW__HTTP__HEADER_TIMEOUT_SECS", "1")]).await;
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let noise: Vec<Vec<u8>> = (0..RANDOM)
        .map(|size| {
            let mut bytes = vec![0; 1 + size * 50];
            random.fill_bytes(&mut bytes);
            bytes
        })
        .collect();
    let noises = join_all(noise.iter().map(|bytes| async {
        let mut wire = Wire::to(&ground.base).await;
        wire.send_bytes(bytes).await;
        for reply in wire.replies().await {
            assert!(matches!(reply.status, 400 | 408 | 431), "{reply:?}");
            assert_eq!(reply.header("connection"), Some("close"));
        }
    }));
    let request = format!("{}{{\"email\": \"a@example.com\"}}", user_head(26));
    let cuts: Vec<usize> = (0..request.len()).step_by(7).collect();
    let broken = join_all(cuts.iter().map(|cut| async {
        let mut reset = Wire::to(&ground.base).await;
        reset.send(&request[..*cut]).await;
        reset.reset();
        let mut half = Wire::to(&ground.base).await;
        half.send(&request[..*cut]).await;
        half.half_close().await;
        // Where the head is not complete it can be told; otherwise the client has gone.
        let replies = half.replies().await;
        assert!(replies.len() <= 1, "{replies:?}");
        for reply in replies {
            reply.expect_problem(400, "malformed_request");
        }
    }));
    tokio::join!(noises, broken, ground.go_on());
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusual_requests_are_answered_right() {
    let ground = Ground::new(&[]).await;
    let mut wire = Wire::to(&ground.base).await;
    let request = |number| format!("GET /livez HTTP/1.1\r\nhost: test\r\nx-request-id: n-{number}\r\n\r\n");
    wire.send(&(0..PIPELINED).map(request).collect::<String>()).await;
    for number in 0..PIPELINED {
        let reply = wire.reply().await.expect("an answer");
        assert_eq!((reply.status, reply.header("x-request-id")), (200, Some(&*format!("n-{number}"))));
    }
    // A body that is sent when it is asked for; and one too large, which is never asked for.
    let head = user_head(5).replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n");
    wire.send(&head).await;
    assert_eq!(wire.reply().await.expect("a word").status, 100);
    wire.send("{bad}").await;
    wire.reply().await.expect("an answer").expect_problem(400, "malformed_json");
    wire.send(&head.replace(": 5", ": 5000000")).await;
    wire.reply().await.expect("an answer").expect_problem(413, "payload_too_large");
    assert!(wire.reply().await.is_none(), "the body was not read, so the connection is over");
    drop(wire);

    let mut wire = Wire::to(&ground.base).await;
    wire.send("GET http://test/livez HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(wire.reply().await.expect("an answer").status, 200);
    wire.send("OPTIONS * HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert!((400..500).contains(&wire.reply().await.expect("an answer").status));
    wire.send("CONNECT test:443 HTTP/1.1\r\nhost: test:443\r\n\r\n").await;
    assert!((400..500).contains(&wire.reply().await.expect("an answer").status));

    drop(wire);
    // Far too much, sent without waiting: the refusal still arrives.
    let mut wire = Wire::to(&ground.base).await;
    wire.send(&user_head(3_000_000)).await;
    assert!(wire.send(&" ".repeat(3_000_000)).await, "what comes after the refusal is still taken");
    wire.expect_refusal(413, "payload_too_large").await;
    drop(wire);
    let mut wire = Wire::to(&ground.base).await;
    wire.send("POST /v1/users HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n").await;
    wire.send(&format!("4000\r\n{}\r\n", " ".repeat(0x4000)).repeat(100)).await;
    wire.expect_refusal(413, "payload_too_large").await;
    drop(wire);
    ground.end().await;
}
