//! Listeners of a stream, many of them in one process: `onsale listen ADDRESS PATH COUNT`.
//!
//! It prints the status of the first answer where that is not 200, else `listening` once all are; then, for each line on
//! its standard input, how many events all of them have received and how many listeners are left.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use anyhow::{Context as _, bail};
use frontrow::platform::http::files;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::events::Events;

/// Connections opened at once: below the backlog of any server.
const OPENED_AT_ONCE: usize = 64;
const HEAD_BYTES_MAX: usize = 4096;

#[derive(Debug, Default)]
struct Totals {
    events: AtomicU64,
    listeners: AtomicUsize,
}

/// Listens until standard input ends.
///
/// # Errors
/// Where connections cannot be opened.
pub async fn run(address: &str, path: &str, count: usize) -> anyhow::Result<()> {
    if files::allow(count, 0)? < count {
        bail!("too few open files are allowed for {count} listeners: raise `ulimit -n`");
    }
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n");
    let (_, status) = open(address, &request).await?;
    if status != 200 {
        println!("{status}");
        return Ok(());
    }
    let opened = futures::stream::iter(0..count).map(|_| open(address, &request)).buffer_unordered(OPENED_AT_ONCE);
    let totals = Arc::new(Totals::default());
    let listening = opened.try_for_each(|(stream, status)| {
        let totals = totals.clone();
        async move {
            if status != 200 {
                bail!("a listener was answered {status}");
            }
            totals.listeners.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(listen(stream, totals));
            Ok(())
        }
    });
    listening.await?;
    println!("listening");
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    while input.next_line().await?.is_some() {
        println!("{} {}", totals.events.load(Ordering::Relaxed), totals.listeners.load(Ordering::Relaxed));
    }
    Ok(())
}

/// A connection whose answer has begun, and its status.
async fn open(address: &str, request: &str) -> anyhow::Result<(TcpStream, u16)> {
    let mut stream = TcpStream::connect(address).await?;
    // Ends without a trace: ten thousand closed connections each round would leave no port to open the next ones from.
    stream.set_zero_linger()?;
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD_BYTES_MAX || stream.read_buf(&mut head).await? == 0 {
            bail!("an answer without end of its head");
        }
    }
    let status = head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()).context("not HTTP")?;
    Ok((stream, status.parse()?))
}

async fn listen(mut stream: TcpStream, totals: Arc<Totals>) {
    let (mut events, mut buffer) = (Events::default(), [0; 2048]);
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        totals.events.fetch_add(events.count(&buffer[..count]), Ordering::Relaxed);
    }
    totals.listeners.fetch_sub(1, Ordering::Relaxed);
}
