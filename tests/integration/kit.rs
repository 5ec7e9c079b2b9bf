//! The test kit does what it says: a fault that does nothing would let every test of faults pass.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fred::clients::Client;
use fred::interfaces::{ClientLike as _, HashesInterface as _, KeysInterface as _};
use fred::types::Builder;
use fred::types::config::{Config, ReconnectPolicy};
use sqlx::Connection as _;
use sqlx::MySqlConnection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::proxy::sabotage::{Rewriter, Sabotage};
use crate::support::servers::kill;
use crate::support::{Fault, Proxy, Servers, eventually};

/// A server that sends back what it gets.
async fn echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    addr
}

async fn ask(stream: &mut TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).await.expect("a write");
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).await.expect("an answer");
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn each_fault_of_the_proxy_does_what_it_says() {
    let proxy = Proxy::to(echo().await).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.expect("a connection");
    assert_eq!(ask(&mut stream, "clean").await, "clean");
    assert_eq!((proxy.open(), proxy.accepted()), (1, 1));

    proxy.set(Fault::Split(2));
    assert_eq!(ask(&mut stream, "in many pieces").await, "in many pieces");

    let pause = Duration::from_millis(40);
    for (fault, at_least) in [(Fault::Delay(pause), pause * 2), (Fault::Drip(pause), pause * 4)] {
        proxy.set(fault);
        let started = Instant::now();
        assert_eq!(ask(&mut stream, "late").await, "late");
        assert!(started.elapsed() >= at_least, "{fault:?} took {:?} only", started.elapsed());
    }

    proxy.set(Fault::BlackHole);
    let mut answer = Box::pin(ask(&mut stream, "held back"));
    assert!(tokio::time::timeout(pause, answer.as_mut()).await.is_err(), "something came out of a black hole");
    proxy.set(Fault::None);
    assert_eq!(answer.await, "held back");

    proxy.set(Fault::Refuse);
    assert_eq!(stream.read(&mut [0]).await.unwrap_or_default(), 0, "an open connection ends");
    let mut refused = TcpStream::connect(proxy.addr()).await.expect("the backlog takes it");
    assert_eq!(refused.read(&mut [0]).await.unwrap_or_default(), 0, "a new one ends at once");
    eventually("the connections to be gone", || async { (proxy.open() == 0).then_some(()) }).await;

    proxy.set(Fault::None);
    proxy.retarget(echo().await);
    let mut stream = TcpStream::connect(proxy.addr()).await.expect("a connection");
    assert_eq!(ask(&mut stream, "elsewhere").await, "elsewhere");
}

#[test]
fn sabotage_rewrites_whole_messages_however_they_come() {
    let sql = |sequence: u8, text: &str| {
        let mut packet = vec![u8::try_from(text.len() + 1).expect("short"), 0, 0, sequence, 0x16];
        packet.extend_from_slice(text.as_bytes());
        packet
    };
    let sabotage = Sabotage::of_sql("FROM seats", " FOR UPDATE", "");
    let mut rewriter = Rewriter::new(sabotage.clone());
    let sent = [sql(0, "SELECT 1 FROM seats FOR UPDATE"), sql(0, "SELECT 1 FROM t FOR UPDATE")].concat();
    let got: Vec<u8> = sent.iter().flat_map(|byte| rewriter.feed(&[*byte])).collect();
    assert_eq!(got, [sql(0, "SELECT 1 FROM seats"), sql(0, "SELECT 1 FROM t FOR UPDATE")].concat());
    assert_eq!(sabotage.hits(), 1);

    let sabotage = Sabotage::of_lua("slots", "< max", "< 1e9");
    let mut rewriter = Rewriter::new(sabotage.clone());
    let sent = b"*2\r\n$7\r\nEVALSHA\r\n$3\r\nabc\r\n*2\r\n$4\r\nEVAL\r\n$14\r\nif slots < max\r\n";
    let got: Vec<u8> = sent.iter().flat_map(|byte| rewriter.feed(&[*byte])).collect();
    let missed = "0".repeat(40);
    let expected = format!("*2\r\n$7\r\nEVALSHA\r\n$40\r\n{missed}\r\n*2\r\n$4\r\nEVAL\r\n$14\r\nif slots < 1e9\r\n");
    assert_eq!(String::from_utf8(got).expect("text"), expected);
    assert_eq!(sabotage.hits(), 1);
}

#[tokio::test]
async fn servers_are_killed_and_come_back_with_what_they_had() {
    let mut servers = Servers::start().await;
    let mut sql = MySqlConnection::connect(&servers.mysql_url()).await.expect("MySQL");
    sqlx::query("CREATE TABLE kept (id INT PRIMARY KEY)").execute(&mut sql).await.expect("a table");
    sqlx::query("INSERT INTO kept VALUES (7)").execute(&mut sql).await.expect("a row");
    servers.kill_mysql().await;
    assert!(sqlx::query("SELECT 1").execute(&mut sql).await.is_err(), "the connection is gone");
    servers.kill_redis().await;
    servers.restart_mysql().await;
    servers.restart_redis().await;
    let mut sql = MySqlConnection::connect(&servers.mysql_url()).await.expect("MySQL again, at the same address");
    let kept: i32 = sqlx::query_scalar("SELECT id FROM kept").fetch_one(&mut sql).await.expect("the row");
    assert_eq!(kept, 7);
    drop(sql);
    redis_comes_back_older(&mut servers).await;
    servers.end().await;
}

/// A private server is killed, comes back at its address with what it had, and is given up only when that happens too often.
#[tokio::test]
async fn a_server_that_ends_by_itself_is_started_again() {
    let mut servers = Servers::start().await;
    let (url, pid_file) = (servers.redis_url(), servers.redis_pid_file());
    let redis = client(&url).await;
    let () = redis.hset("early", ("is", "there")).await.expect("a key");
    eventually("the key to be on disk", || async { servers.save_redis().has("early").then_some(()) }).await;
    let running = || std::fs::read_to_string(&pid_file).ok()?.trim().parse::<u32>().ok();
    let kills = AtomicU32::new(0);
    let kill_each = async {
        loop {
            let pid = running().expect("a process");
            kill(pid).await;
            kills.fetch_add(1, Ordering::Relaxed);
            eventually("another process", || async { running().filter(|now| *now != pid) }).await;
            eventually("what it had", || async {
                let found: u32 = redis.exists("early").await.ok()?;
                (found == 1).then_some(())
            })
            .await;
        }
    };
    let given_up = tokio::select! {
        name = servers.keep_up() => name,
        () = kill_each => unreachable!("it has no end"),
    };
    assert_eq!(given_up, "redis");
    assert!(kills.into_inner() >= 6, "it was given up early");
    servers.end().await;
}

async fn client(url: &str) -> Client {
    let client = Builder::from_config(Config::from_url(url).expect("a URL"))
        .set_policy(ReconnectPolicy::new_constant(0, 50))
        .build()
        .expect("a client");
    client.init().await.expect("Redis");
    client
}

async fn redis_comes_back_older(servers: &mut Servers) {
    let redis = client(&servers.redis_url()).await;
    let () = redis.hset("early", ("is", "there")).await.expect("a key");
    // Redis writes each second at the latest.
    let saved = eventually("the key to be on disk", || async {
        let saved = servers.save_redis();
        saved.has("early").then_some(saved)
    })
    .await;
    let () = redis.hset("late", ("is", "there")).await.expect("another key");
    servers.kill_redis().await;
    servers.restart_redis_from(&saved).await;
    let redis = client(&servers.redis_url()).await;
    let found: (i64, i64) =
        (redis.exists("early").await.expect("a count"), redis.exists("late").await.expect("a count"));
    assert_eq!(found, (1, 0));
}
