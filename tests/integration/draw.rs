//! `frontrow draw verify` as a buyer runs it, and the script that recomputes a draw without our code.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use frontrow::catalog::ConcertId;
use frontrow::queue::draw::{Permutation, commitment};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::support::arena::Plan;
use crate::support::process::PROGRAM;
use crate::support::{Api, Sale, World};

const SEED: [u8; 32] = *b"thirty-two bytes nobody guesses!";
const SIZE: u64 = 1000;

/// What a program ended with, and what it said.
struct Ended {
    code: Option<i32>,
    said: String,
    complained: String,
}

impl Ended {
    /// Asserts that the program failed with this complaint, and told no rank.
    #[track_caller]
    fn refused(&self, complaint: &str) {
        assert_eq!(self.code, Some(1), "{}", self.complained);
        assert!(self.complained.contains(complaint), "{complaint:?} was expected of {:?}", self.complained);
        assert_eq!(self.said, "");
    }
}

/// Runs a program that finds nothing in its environment but these and the search path.
async fn run(program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    let mut command = Command::new(program);
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.envs(environment.iter().copied()).args(arguments).stdin(Stdio::null());
    let output = command.output().await.expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ended { code: output.status.code(), said: text(output.stdout), complained: text(output.stderr) }
}

async fn verify(arguments: &[&str]) -> Ended {
    run(Path::new(PROGRAM), &[&["draw", "verify"], arguments].concat(), &[]).await
}

async fn script(arguments: &[&str]) -> Ended {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/verify_draw.py");
    run(Path::new("python3"), &[&[script], arguments].concat(), &[]).await
}

/// What a server says.
#[derive(Clone)]
enum Answer {
    Json(Value),
    Text(&'static str),
    Endless,
    Status(u16),
}

/// A server that has these answers and nothing else.
async fn serve(answers: HashMap<String, Answer>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let answers = Arc::new(answers);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, Arc::clone(&answers)));
        }
    });
    addr.to_string()
}

async fn answer(mut stream: TcpStream, answers: Arc<HashMap<String, Answer>>) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let request = String::from_utf8_lossy(&request);
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (status, body) = match answers.get(path).cloned().unwrap_or(Answer::Status(404)) {
        Answer::Json(value) => (200, value.to_string()),
        Answer::Text(text) => (200, text.to_owned()),
        Answer::Status(status) => (status, String::new()),
        Answer::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await?;
            loop {
                stream.write_all(&[b' '; 8192]).await?;
            }
        }
    };
    let head = format!("HTTP/1.1 {status} It\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).await
}

/// A concert whose draw is held, as a server shows it.
struct Held {
    concert: ConcertId,
    line: Value,
    shown: Value,
}

impl Held {
    fn new() -> Self {
        let concert = ConcertId::new();
        let commitment = commitment(&SEED);
        let draw = json!({"commitment": commitment, "lobby_size": SIZE, "seed": hex::encode(SEED)});
        Self {
            concert,
            line: json!({"concert_id": concert, "phase": "open", "order": "draw", "draw": draw}),
            shown: json!({"id": concert, "queue": {"order": "draw", "commitment": commitment}}),
        }
    }

    /// Has the command ask a server that shows it so.
    async fn ask(self, more: &[&str]) -> Ended {
        let (line, shown) = (Answer::Json(self.line), Answer::Json(self.shown));
        ask_for(self.concert, line, shown, more).await
    }
}

async fn ask_for(concert: ConcertId, line: Answer, shown: Answer, more: &[&str]) -> Ended {
    let path = format!("/v1/concerts/{concert}");
    let server = serve(HashMap::from([(format!("{path}/queue"), line), (path, shown)])).await;
    let (concert, server) = (concert.to_string(), format!("http://{server}"));
    verify(&[&["--concert", &concert, "--server", &server], more].concat()).await
}

#[tokio::test]
async fn a_draw_is_verified_with_what_the_server_shows() {
    let held = Held::new();
    let draw = Permutation::new(&SEED, held.concert, SIZE);
    let head = format!(
        "commitment {}\nseed {}\nconcert {}\nsize {SIZE}\nThe seed fits the commitment.\n",
        commitment(&SEED),
        hex::encode(SEED),
        held.concert
    );
    let asked = held.ask(&["--arrival", "7", "--arrival", "1000", "--commitment", &commitment(&SEED)]).await;
    let rank = draw.rank_of(7).expect("an arrival of the lobby");
    let ranks = format!("arrival 7: rank {rank}\narrival 1000: not in the draw, behind everybody who was\n");
    assert_eq!((asked.code, asked.complained.as_str()), (Some(0), ""));
    assert_eq!(asked.said, head + &ranks);
}

#[tokio::test]
async fn the_first_ranks_are_listed_and_the_configured_server_is_asked() {
    let held = Held::new();
    let draw = Permutation::new(&SEED, held.concert, SIZE);
    let path = format!("/v1/concerts/{}", held.concert);
    let answers = [(format!("{path}/queue"), Answer::Json(held.line)), (path, Answer::Json(held.shown))];
    let server = serve(HashMap::from(answers)).await;
    let concert = held.concert.to_string();
    let arguments = ["draw", "verify", "--concert", &concert];
    let asked = run(Path::new(PROGRAM), &arguments, &[("FRONTROW__HTTP__ADDR", &server)]).await;
    assert_eq!(asked.code, Some(0), "{}", asked.complained);
    let listed: Vec<&str> = asked.said.lines().filter(|line| line.starts_with("rank ")).collect();
    let expected: Vec<String> =
        (0..10).map(|rank| format!("rank {rank}: arrival {}", draw.arrival_at(rank).expect("in the lobby"))).collect();
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn a_draw_that_does_not_fit_is_refused() {
    let other = commitment(&[7; 32]);
    let mut held = Held::new();
    held.line["draw"]["commitment"] = json!(other);
    held.shown["queue"]["commitment"] = json!(other);
    held.ask(&[]).await.refused(&format!("the seed does not fit the commitment {other}"));

    let mut held = Held::new();
    held.shown["queue"]["commitment"] = json!(other);
    held.ask(&[]).await.refused("two commitments are shown");

    // A server that replaced seed and commitment alike is caught by whoever noted the commitment.
    Held::new().ask(&["--commitment", &other]).await.refused(&format!("not the {other} that was noted"));

    let mut held = Held::new();
    held.line["concert_id"] = json!(ConcertId::new());
    held.ask(&[]).await.refused("another concert");
}

#[tokio::test]
async fn a_draw_that_was_not_held_is_refused() {
    let mut held = Held::new();
    held.line["draw"]["seed"] = Value::Null;
    held.line["draw"]["lobby_size"] = Value::Null;
    held.ask(&[]).await.refused(&format!("not made yet. Note its commitment, {}", commitment(&SEED)));

    let mut held = Held::new();
    held.line["draw"]["lobby_size"] = Value::Null;
    held.ask(&[]).await.refused("no size of the lobby");

    let mut held = Held::new();
    held.line["order"] = json!("fifo");
    held.ask(&[]).await.refused("order of arrival: there is no draw");

    let mut held = Held::new();
    held.line["order"] = json!("auction");
    held.ask(&[]).await.refused("an order unknown here");
}

#[tokio::test]
async fn what_is_no_answer_is_refused() {
    for (member, complaint) in [("commitment", "the line's commitment"), ("seed", "the seed")] {
        for text in ["", "no", "\u{1b}[2J", &"0".repeat(62), &"é".repeat(32)] {
            let mut held = Held::new();
            held.line["draw"][member] = json!(text);
            held.ask(&[]).await.refused(&format!("{complaint}: expected 64 hexadecimal digits"));
        }
    }
    for size in [json!(-1), json!(1.5), json!("1000"), json!(1e30)] {
        let mut held = Held::new();
        held.line["draw"]["lobby_size"] = size;
        held.ask(&[]).await.refused("the answer is not frontrow's");
    }
    for (line, complaint) in [
        (Answer::Status(404), "the server knows no such concert"),
        (Answer::Status(503), "the server answered 503"),
        (Answer::Text("<html>"), "the answer is not frontrow's"),
        (Answer::Text("{}"), "the answer is not frontrow's"),
        (Answer::Text(""), "the answer is not frontrow's"),
        (Answer::Endless, "the answer is too long"),
    ] {
        let held = Held::new();
        ask_for(held.concert, line.clone(), Answer::Json(held.shown), &[]).await.refused(complaint);
        // The same of the concert itself.
        ask_for(held.concert, Answer::Json(held.line), line, &[]).await.refused(complaint);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let server = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let concert = ConcertId::new().to_string();
    verify(&["--concert", &concert, "--server", &server]).await.refused("the server could not be asked");
}

#[tokio::test]
async fn an_https_server_is_asked_over_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let server = format!("https://{}", listener.local_addr().expect("an address"));
    let hello = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.read_u8().await
    });
    let concert = ConcertId::new().to_string();
    verify(&["--concert", &concert, "--server", &server]).await.refused("the server could not be asked");
    let handshake = 0x16;
    assert_eq!(hello.await.expect("a task").expect("a byte"), handshake);
}

#[tokio::test]
async fn a_noted_draw_is_verified_without_a_server() {
    let (concert, seed) = (ConcertId::new().to_string(), hex::encode(SEED));
    let (right, wrong) = (commitment(&SEED), commitment(&[7; 32]));
    let given = ["--concert", &concert, "--seed", &seed, "--size", "1000", "--arrival", "7", "--commitment"];
    let verified = verify(&[&given[..], &[&right]].concat()).await;
    assert_eq!(verified.code, Some(0), "{}", verified.complained);
    assert!(verified.said.contains("The seed fits the commitment.\narrival 7: rank "), "{}", verified.said);
    // Hexadecimal digits may be written either way.
    let upper = verify(&[&given[..], &[&right.to_uppercase()]].concat()).await;
    assert_eq!((upper.code, upper.said), (Some(0), verified.said));
    let refused = verify(&[&given[..], &[&wrong]].concat()).await;
    refused.refused(&format!("does not fit the commitment {wrong}: its SHA-256 is {right}"));
    let refused = script(&[&given[..], &[&wrong]].concat()).await;
    refused.refused(&right);
}

#[tokio::test]
async fn bad_arguments_are_refused() {
    let (concert, seed, commitment) = (ConcertId::new().to_string(), hex::encode(SEED), commitment(&SEED));
    let whole = [("--concert", &*concert), ("--seed", &seed), ("--commitment", &commitment), ("--size", "1000")];
    let with = |name: &str, value: &'static str| -> Vec<String> {
        let kept = whole.iter().filter(|(other, _)| *other != name).copied();
        let added = (!value.is_empty()).then_some((name, value));
        kept.chain(added).flat_map(|(name, value)| [name.to_owned(), value.to_owned()]).collect()
    };
    for (name, value) in [
        ("--concert", ""),
        ("--concert", "12"),
        ("--concert", "019ABCDE01237ABC89AB0123456789AB"),
        ("--seed", ""),
        ("--seed", "00"),
        ("--seed", "zz"),
        ("--commitment", ""),
        ("--commitment", "00"),
        ("--size", ""),
        ("--size", "-1"),
        ("--size", "18446744073709551616"),
        ("--arrival", "x"),
        ("--server", "http://127.0.0.1:1"),
        ("--server", "ftp://127.0.0.1"),
    ] {
        let arguments = with(name, value);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let ended = verify(&arguments).await;
        assert_eq!((ended.code, ended.said.as_str()), (Some(2), ""), "{name} {value}: {}", ended.complained);
        assert!(ended.complained.starts_with("error: "), "{name} {value}: {}", ended.complained);
    }
}

#[tokio::test]
async fn a_script_without_our_code_finds_the_same_ranks() {
    let (seed, commitment) = (hex::encode(SEED), commitment(&SEED));
    let edges = [0, 1, 2, 3, 31, 32, 33, 1023, 1024, 1025, 9999, 100_003, 10_000_000, 1 << 31, 1 << 40, u64::MAX];
    for size in edges {
        let concert = ConcertId::new().to_string();
        let length = size.to_string();
        let given = ["--concert", &concert, "--seed", &seed, "--size", &length, "--commitment", &commitment];
        let arrivals = [0, 1, 2, size / 3, size / 2, size.saturating_sub(1), size].map(|arrival| arrival.to_string());
        let asked = arrivals.iter().flat_map(|arrival| ["--arrival", arrival]);
        for more in [Vec::new(), asked.collect()] {
            let arguments = [&given[..], &more].concat();
            let (ours, theirs) = (verify(&arguments).await, script(&arguments).await);
            assert_eq!((ours.code, theirs.code), (Some(0), Some(0)), "{}{}", ours.complained, theirs.complained);
            assert_eq!(ours.said, theirs.said, "size {size}");
            let told = if more.is_empty() { usize::try_from(size.min(10)).expect("small") } else { arrivals.len() };
            assert_eq!(ours.said.lines().count(), 5 + told);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server_is_understood() {
    let world = World::new().await;
    let one = world.instance().await;
    let sale = Sale::new(&Api::over(&[&one]), &one, &Plan::default()).await;
    let asked = verify(&["--concert", &sale.concert, "--server", &one.base]).await;
    asked.refused("sold in order of arrival");
    let asked = verify(&["--concert", &ConcertId::new().to_string(), "--server", &one.base]).await;
    asked.refused("knows no such concert");
    world.end(vec![one]).await;
}
