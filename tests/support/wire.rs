//! A connection spoken by hand, for what no well-behaved client sends.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::PATIENCE;

/// One HTTP/1.1 connection.
pub struct Wire {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// An answer as it came.
#[derive(Debug)]
pub struct RawReply {
    pub status: u16,
    /// The head, in lower case.
    pub head: String,
    pub body: String,
}

impl Wire {
    /// Connects to `http://host:port`.
    pub async fn to(base: &str) -> Self {
        let address = base.strip_prefix("http://").expect("an address");
        Self { stream: TcpStream::connect(address).await.expect("a connection"), unread: Vec::new() }
    }

    /// Sends text. Whether the other side still took it.
    pub async fn send(&mut self, text: &str) -> bool {
        self.stream.write_all(text.as_bytes()).await.is_ok()
    }

    /// Sends a GET and reads its answer; nothing where the connection ended first.
    pub async fn get(&mut self, path: &str) -> Option<RawReply> {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await;
        self.reply().await
    }

    /// The next answer; nothing where the connection ends first.
    pub async fn reply(&mut self) -> Option<RawReply> {
        let head_len = loop {
            if let Some(at) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            self.read_patiently().await?;
        };
        let head: Vec<u8> = self.unread.drain(..head_len).collect();
        let head = String::from_utf8(head).expect("text").to_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
        let length: usize = length.map_or(0, |digits| digits.parse().expect("a length"));
        while self.unread.len() < length {
            self.read_patiently().await?;
        }
        let body: Vec<u8> = self.unread.drain(..length).collect();
        let status = head.split(' ').nth(1).and_then(|digits| digits.parse().ok()).expect("a status");
        Some(RawReply { status, head, body: String::from_utf8(body).expect("text") })
    }

    /// Whether nothing comes for a moment: no answer, and no end.
    pub async fn is_silent(&mut self) -> bool {
        let moment = Duration::from_millis(50);
        self.unread.is_empty() && tokio::time::timeout(moment, self.read()).await.is_err()
    }

    /// Reads some more; nothing at the end.
    async fn read(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.unread).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }

    async fn read_patiently(&mut self) -> Option<()> {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("waited too long for an answer")
    }
}

impl RawReply {
    /// The same as a client would show it.
    pub fn into_reply(self) -> super::Reply {
        let mut headers = reqwest::header::HeaderMap::new();
        for (name, value) in self.head.lines().skip(1).filter_map(|line| line.split_once(": ")) {
            let name = reqwest::header::HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name, value.parse().expect("a value"));
        }
        let body = serde_json::from_str(&self.body).unwrap_or_default();
        super::Reply { status: self.status, headers, bytes: self.body.into_bytes().into(), body }
    }
}
