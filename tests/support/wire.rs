//! A connection spoken by hand, for what no well-behaved client sends.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::PATIENCE;

/// One HTTP/1.1 connection.
pub struct Wire {
    stream: TcpStream,
    unread: Vec<u8>,
    is_reset: bool,
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
        Self { stream: TcpStream::connect(address).await.expect("a connection"), unread: Vec::new(), is_reset: false }
    }

    /// The same, with a receive buffer of about so many bytes: for clients that do not read.
    pub async fn narrow(base: &str, bytes: u32) -> Self {
        let address = base.strip_prefix("http://").expect("an address").parse().expect("an IP address");
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(bytes).expect("a small buffer");
        Self { stream: socket.connect(address).await.expect("a connection"), unread: Vec::new(), is_reset: false }
    }

    /// Sends text. Whether the other side still took it.
    pub async fn send(&mut self, text: &str) -> bool {
        self.send_bytes(text.as_bytes()).await
    }

    /// Sends bytes. Whether the other side still took them.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Says that nothing more will be sent.
    pub async fn half_close(&mut self) {
        self.stream.shutdown().await.expect("a connection that is open");
    }

    /// Ends the connection by a reset.
    pub fn reset(self) {
        self.stream.set_zero_linger().expect("a connection");
    }

    /// All answers until the connection ends.
    pub async fn replies(&mut self) -> Vec<RawReply> {
        let mut replies = Vec::new();
        while let Some(reply) = self.reply().await {
            replies.push(reply);
        }
        replies
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
        let length = header(&head, "content-length");
        let length: usize = length.map_or(0, |digits| digits.parse().expect("a length"));
        while self.unread.len() < length {
            self.read_patiently().await?;
        }
        let body: Vec<u8> = self.unread.drain(..length).collect();
        let status = head.split(' ').nth(1).and_then(|digits| digits.parse().ok()).expect("a status");
        Some(RawReply { status, head, body: String::from_utf8(body).expect("text") })
    }

    /// The next answer, which must be a problem of this status and code that announces the connection's end, and then
    /// the end, without a reset: that could take the answer with it.
    pub async fn expect_refusal(&mut self, status: u16, code: &str) {
        let replies = self.replies().await;
        assert_eq!(replies.len(), 1, "one answer: {replies:?}");
        replies[0].expect_problem(status, code);
        assert_eq!(replies[0].header("connection"), Some("close"), "{replies:?}");
        assert!(!self.is_reset, "a reset after {replies:?}");
    }

    /// Whether nothing comes for a moment: no answer, and no end.
    pub async fn is_silent(&mut self) -> bool {
        let moment = Duration::from_millis(50);
        self.unread.is_empty() && tokio::time::timeout(moment, self.read()).await.is_err()
    }

    /// Reads some more; nothing at the end.
    async fn read(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.unread).await {
            Ok(0) => None,
            Err(_) => {
                self.is_reset = true;
                None
            }
            Ok(_) => Some(()),
        }
    }

    async fn read_patiently(&mut self) -> Option<()> {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("waited too long for an answer")
    }
}

impl RawReply {
    /// A header's value, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// Asserts a problem of this status and code, with all that every problem has.
    #[track_caller]
    pub fn expect_problem(&self, status: u16, code: &str) {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        assert_eq!((self.status, body["code"].as_str()), (status, Some(code)), "{self:?}");
        assert_eq!(
            (body["status"].as_u64(), body["request_id"].as_str()),
            (Some(status.into()), self.header("x-request-id"))
        );
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        assert!(self.header("date").is_some(), "{self:?}");
    }

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

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}
