//! `frontrow draw verify`: what a buyer runs to recompute a draw, from a server's answers or from noted values.
//!
//! Needs neither database nor secrets. What the server says is checked, not believed, and never printed as it came.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::config::Config;
use crate::catalog::ConcertId;
use crate::queue::draw::{Permutation, commitment};

/// Longest time for one question, its answer included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Far more than a concert takes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How many ranks are listed where no arrival is asked for.
const LISTED: u64 = 10;

/// A draw to verify: a server's, or with `--seed` one that was noted.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// The concert.
    #[arg(long, value_name = "ID")]
    concert: ConcertId,
    /// The server to ask; the one of the configuration if left out.
    #[arg(long, value_name = "URL", value_parser = server_of, conflicts_with = "seed")]
    server: Option<Url>,
    /// The commitment, as noted before the draw; what the server says is held against it.
    #[arg(long, value_name = "HEX", value_parser = bytes_of)]
    commitment: Option<[u8; 32]>,
    /// The seed. No server is asked.
    #[arg(long, value_name = "HEX", value_parser = bytes_of, requires_all = ["commitment", "size"])]
    seed: Option<[u8; 32]>,
    /// The size of the lobby.
    #[arg(long, value_name = "L", requires = "seed")]
    size: Option<u64>,
    /// An arrival whose rank to tell; as often as wanted. The first ranks are listed without any.
    #[arg(long = "arrival", value_name = "N")]
    arrivals: Vec<u64>,
}

/// What a sale says of its draw, or who noted it.
struct Published {
    commitment: [u8; 32],
    seed: [u8; 32],
    size: u64,
}

/// Verifies the draw and prints its ranks.
///
/// # Errors
/// Where the seed is not the one committed to, there is no draw yet or at all, or the server does not answer.
pub async fn verify(file: Option<&Path>, given: &Verify) -> anyhow::Result<()> {
    let noted = given.commitment.zip(given.seed).zip(given.size);
    let published = match (noted, &given.server) {
        (Some(((commitment, seed), size)), _) => Published { commitment, seed, size },
        (None, Some(server)) => ask(server, given).await?,
        (None, None) => ask(&configured(&Config::load(file, &[])?.http.addr)?, given).await?,
    };
    let Published { commitment: promised, seed, size } = published;
    let promised = hex::encode(promised);
    let found = commitment(&seed);
    ensure!(found == promised, "the seed does not fit the commitment {promised}: its SHA-256 is {found}");
    print(given, &promised, &seed, size);
    Ok(())
}

/// `docs/verify_draw.py` prints the same.
fn print(given: &Verify, commitment: &str, seed: &[u8; 32], size: u64) {
    println!("commitment {commitment}\nseed {}\nconcert {}\nsize {size}", hex::encode(seed), given.concert);
    println!("The seed fits the commitment.");
    let draw = Permutation::new(seed, given.concert, size);
    for arrival in &given.arrivals {
        match draw.rank_of(*arrival) {
            Some(rank) => println!("arrival {arrival}: rank {rank}"),
            None => println!("arrival {arrival}: not in the draw, behind everybody who was"),
        }
    }
    if given.arrivals.is_empty() {
        for (rank, arrival) in (0..LISTED).filter_map(|rank| Some((rank, draw.arrival_at(rank)?))) {
            println!("rank {rank}: arrival {arrival}");
        }
    }
}

#[derive(Deserialize)]
struct Line {
    concert_id: ConcertId,
    order: String,
    draw: Draw,
}

#[derive(Deserialize)]
struct Draw {
    commitment: String,
    lobby_size: Option<u64>,
    seed: Option<String>,
}

#[derive(Deserialize)]
struct Concert {
    queue: ConcertQueue,
}

#[derive(Deserialize)]
struct ConcertQueue {
    commitment: String,
}

async fn ask(server: &Url, given: &Verify) -> anyhow::Result<Published> {
    let client = Client::builder().timeout(TIMEOUT).build()?;
    let base = format!("{}/v1/concerts/{}", server.as_str().trim_end_matches('/'), given.concert);
    let line: Line = get(&client, &format!("{base}/queue")).await?;
    ensure!(line.concert_id == given.concert, "the server answered with the line of another concert");
    match line.order.as_str() {
        "draw" => {}
        "fifo" => bail!("this concert is sold in order of arrival: there is no draw"),
        _ => bail!("this concert is sold in an order unknown here"),
    }
    let promised = bytes_of(&line.draw.commitment).context("the line's commitment")?;
    let concert: Concert = get(&client, &base).await?;
    let shown = bytes_of(&concert.queue.commitment).context("the concert's commitment")?;
    let (promised_hex, shown_hex) = (hex::encode(promised), hex::encode(shown));
    ensure!(promised == shown, "two commitments are shown: {promised_hex} by the line, {shown_hex} by the concert");
    if let Some(noted) = given.commitment.filter(|noted| *noted != promised) {
        bail!("the server now shows the commitment {promised_hex}: not the {} that was noted", hex::encode(noted));
    }
    let Some(seed) = line.draw.seed else {
        bail!("the draw is not made yet. Note its commitment, {promised_hex}, and verify against it afterwards");
    };
    let seed = bytes_of(&seed).context("the seed")?;
    let size = line.draw.lobby_size.context("the server shows a seed but no size of the lobby")?;
    Ok(Published { commitment: promised, seed, size })
}

async fn get<T: DeserializeOwned>(client: &Client, url: &str) -> anyhow::Result<T> {
    let mut answer = client.get(url).send().await.context("the server could not be asked")?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => bail!("the server knows no such concert ({url})"),
        status => bail!("the server answered {} ({url})", status.as_u16()),
    }
    let mut body = Vec::new();
    while let Some(bytes) = answer.chunk().await.context("the answer broke off")? {
        body.extend_from_slice(&bytes);
        ensure!(body.len() <= ANSWER_BYTES_MAX, "the answer is too long ({url})");
    }
    serde_json::from_slice(&body).with_context(|| format!("the answer is not frontrow's ({url})"))
}

/// Where the configured server is reached from this machine.
fn configured(addr: &str) -> anyhow::Result<Url> {
    let reached = addr.parse().map_or_else(
        |_| addr.to_owned(),
        |mut socket: SocketAddr| {
            if socket.ip().is_unspecified() {
                let is_v4 = socket.is_ipv4();
                socket.set_ip(if is_v4 { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) });
            }
            socket.to_string()
        },
    );
    server_of(&format!("http://{reached}")).context("http.addr")
}

fn server_of(text: &str) -> anyhow::Result<Url> {
    let url = Url::parse(text)?;
    ensure!(matches!(url.scheme(), "http" | "https"), "expected an address such as https://tickets.example.com");
    ensure!(url.query().is_none() && url.fragment().is_none(), "expected an address without ? and #");
    Ok(url)
}

fn bytes_of(text: &str) -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    ensure!(hex::decode_to_slice(text, &mut bytes).is_ok(), "expected 64 hexadecimal digits");
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configured_server_is_asked_where_it_listens() {
        for (addr, url) in [
            ("127.0.0.1:8080", "http://127.0.0.1:8080/"),
            ("0.0.0.0:81", "http://127.0.0.1:81/"),
            ("[::]:81", "http://[::1]:81/"),
            ("10.1.2.3:81", "http://10.1.2.3:81/"),
            ("localhost:81", "http://localhost:81/"),
        ] {
            assert_eq!(configured(addr).unwrap().as_str(), url);
        }
    }

    #[test]
    fn an_address_is_of_a_web_server() {
        for text in ["ftp://a", "a", "localhost:8080", "http://a?b", "http://a#b", ""] {
            assert!(server_of(text).is_err(), "{text}");
        }
        assert!(server_of("https://tickets.example.com/shop").is_ok());
    }
}
