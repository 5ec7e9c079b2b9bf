//! A fleet of the previous version is upgraded while buyers use it: nothing that they were answered is lost.
//!
//! `make test-upgrade` builds the previous version and runs this; nothing else does.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    reason = "the kit is made for the integration tests; an upgrade needs a part of it"
)]
mod support;

mod crowd;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use frontrow::platform::clock::Clock;
use serde_json::{Value, json};

use crowd::Crowd;
use support::arena::{Plan, text};
use support::filled;
use support::process::{PROGRAM, command};
use support::{Api, Buyer, Process, Sale, World, eventually};

/// Buyers who may come; each comes once.
const BUYERS: u32 = 6_000;
/// Journeys that must end well in each stage of the upgrade.
const STAGE: usize = 30;

fn previous() -> PathBuf {
    let path = std::env::var_os("FRONTROW_PREVIOUS_BIN");
    PathBuf::from(path.expect("FRONTROW_PREVIOUS_BIN is not set: run this by `make test-upgrade`"))
}

/// Runs a command of the program to its end and gives what it printed.
fn run(program: &Path, world: &World, arguments: &[&str], input: &str) -> String {
    let mut command = command(program, world);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("its end");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "frontrow {arguments:?} ended with {}: {text}", output.status);
    text
}

fn line(text: &str) -> Value {
    serde_json::from_str(text).expect("a JSON line")
}

/// A database as the previous version has it after years, with a sale that is open, and its buyers.
async fn prepared(old: &Path, world: &World) -> (String, Vec<Buyer>) {
    run(old, world, &["migrate"], "");
    filled::fill(&mut world.sql().await).await;
    let made = run(old, world, &["operator", "create", "--email", "operator@example.com"], "a long enough one\n");
    let operator = text(&line(&made)["access_token"]);
    let made = run(old, world, &["seed", "users", "--count", &BUYERS.to_string()], "");
    let buyers = made.lines().map(line);
    let buyers =
        buyers.map(|one: Value| Buyer { id: text(&one["user_id"]), token: text(&one["access_token"]) }).collect();
    assert!(run(old, world, &["audit"], "").contains("clean"), "the rows made here break an invariant");
    (operator, buyers)
}

async fn applied(world: &World) -> usize {
    let count = sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM _sqlx_migrations WHERE success");
    usize::try_from(count.fetch_one(&mut world.sql().await).await.expect("a number")).expect("a number")
}

/// How many the new version has.
fn migrations() -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let files = fs::read_dir(folder).expect("migrations").map(|entry| entry.expect("an entry").path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "sql")).count()
}

fn plan() -> Plan {
    let row = |name: usize| json!({"name": name.to_string(), "seats": crowd::SEATS_PER_ROW});
    let rows: Vec<Value> = (1..=crowd::ROWS).map(row).collect();
    let sections = json!([{"code": "A", "name": "Hall", "rows": rows}]);
    Plan { sections, price: crowd::PRICE, performances: crowd::PERFORMANCES, ..Plan::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_is_upgraded_while_it_serves() {
    let (old, new) = (previous(), Path::new(PROGRAM));
    assert!(fs::read(&old).expect("a program") != fs::read(new).expect("a program"), "both versions are the same");
    let world = World::with(&[("FRONTROW__DATABASE__POOL_SIZE", "16")]).await;
    let (operator, buyers) = prepared(&old, &world).await;
    let (mut first, first_base) = Process::serve_program(&old, &world, &[]).await;
    let (mut second, second_base) = Process::serve_program(&old, &world, &[]).await;
    let fleet = Api::at(vec![first_base.clone(), second_base.clone()]);
    let sale = Sale::made_by(&fleet, operator, Clock::default().now(), &plan()).await;
    let crowd = Arc::new(Crowd::new(fleet, sale, buyers));
    let running = crowd.start();
    crowd.wait_for(STAGE).await;

    // The schema changes under the previous version, which goes on as if nothing were.
    let mut migration = Process::spawn_program(new, &world, &["migrate"], &[]);
    assert_eq!(migration.end().await, Some(0), "{}", migration.output());
    assert_eq!(applied(&world).await, migrations(), "the new version has not migrated");
    crowd.wait_for(STAGE).await;

    // Both versions serve the same buyers, and each knows the other's answers.
    let (third, third_base) = Process::serve(&world, &[]).await;
    let newest = Api::at(vec![third_base.clone()]);
    let (by_old, before) = (crowd.answers(), crowd.journeys());
    crowd.turn_to(Api::at(vec![first_base.clone(), second_base.clone(), third_base.clone()])).await;
    crowd.wait_for(STAGE).await;
    assert!(by_old.len() >= 3 * STAGE, "only {} answers of the previous version are known", by_old.len());
    crowd.assert_replayed(&newest, &by_old).await;
    let by_new = crowd.journey_over(&newest).await;
    crowd.turn_to(newest.clone()).await;
    crowd.wait_for(STAGE).await;
    let of_previous = Api::at(vec![first_base, second_base]);
    crowd.assert_replayed(&of_previous, &by_new).await;

    // The previous version leaves.
    for process in [&first, &second] {
        process.terminate();
    }
    for process in [&mut first, &mut second] {
        assert_eq!(process.end().await, Some(0), "{}", process.output());
    }
    crowd.wait_for(STAGE).await;
    crowd.stop();
    for worker in running {
        worker.await.expect("no panic");
    }
    assert!(crowd.journeys() > before);
    assert_eq!(crowd.faults(), Vec::<String>::new(), "somebody noticed the upgrade");
    crowd.assert_kept(&newest).await;
    assert!(run(new, &world, &["audit"], "").contains("clean"));
    println!("{} journeys, {} answers with a key", crowd.journeys(), crowd.answers().len());
    third.terminate();
    drop(third);
    world.end(Vec::new()).await;
}

/// The crowd would notice: an instance that fails, and one that is not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_fails_is_noticed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 4096]).await.expect("a request");
        let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.expect("an answer");
    });
    let sale = Sale { operator: String::new(), concert: "c".into(), performances: vec!["p".into()], venue: "v".into() };
    let buyers = (0..2).map(|_| Buyer { id: String::new(), token: "t".into() }).collect();
    let crowd = Crowd::new(Api::at(vec![base.clone()]), sale, buyers);
    assert!(crowd.try_journey(&Api::at(vec![base.clone()])).await.is_none());
    server.await.expect("no panic");
    assert!(crowd.try_journey(&Api::at(vec![base])).await.is_none());
    let faults = crowd.faults();
    assert!(matches!(&faults[..], [one, two] if one.contains("503") && two.contains("no answer")), "{faults:?}");
    assert_eq!(crowd.journeys(), 0);
    // Whoever waits for journeys that do not come is told so.
    eventually("the faults", || async { (!crowd.faults().is_empty()).then_some(()) }).await;
}
