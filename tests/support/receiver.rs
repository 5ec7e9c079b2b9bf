//! Somebody who receives webhooks: a real HTTP server that answers as it is told, and an SMTP server that takes mail.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What the receiver does with a request.
#[derive(Clone, Debug)]
pub enum Answer {
    Status(u16),
    /// 302 to somewhere else.
    Redirect(String),
    /// Never, but the connection stays open.
    Nothing,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Received {
    /// By name in lower case.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Received {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Checks the signature as the specification says, with an HMAC (RFC 2104) of our own.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").expect("a prefix")).expect("base64");
        let mut block = [0_u8; 64];
        block[..key.len()].copy_from_slice(&key);
        let signed = [
            self.headers["webhook-id"].as_bytes(),
            b".",
            self.headers["webhook-timestamp"].as_bytes(),
            b".",
            self.body.as_slice(),
        ];
        let pad = |byte: u8| block.map(|part| part ^ byte).to_vec();
        let inner = digest(&SHA256, &[pad(0x36), signed.concat()].concat());
        let outer = digest(&SHA256, &[pad(0x5c), inner.as_ref().to_vec()].concat());
        let expected = format!("v1,{}", STANDARD.encode(outer));
        self.headers["webhook-signature"].split(' ').any(|signature| signature == expected)
    }
}

type Decide = Arc<dyn Fn(usize) -> Answer + Send + Sync>;

/// The HTTP server. Dropping it ends it.
pub struct Receiver {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    decide: Arc<Mutex<Decide>>,
    serving: JoinHandle<()>,
}

impl Receiver {
    /// One that answers the request with this number, from 0, so.
    pub async fn answering(decide: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let decide: Arc<Mutex<Decide>> = Arc::new(Mutex::new(Arc::new(decide)));
        let (list, rule) = (received.clone(), decide.clone());
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(receive(stream, list.clone(), rule.clone()));
            }
        });
        Self { address, received, decide, serving }
    }

    /// One that accepts everything.
    pub async fn accepting() -> Self {
        Self::answering(|_| Answer::Status(204)).await
    }

    /// From now on, it answers so.
    pub fn answer(&self, decide: impl Fn(usize) -> Answer + Send + Sync + 'static) {
        *self.decide.lock().expect("no panic") = Arc::new(decide);
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// What came so far.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().expect("no panic").clone()
    }

    /// Waits until so many came.
    pub async fn wait_for(&self, count: usize) -> Vec<Received> {
        super::eventually("deliveries", || async { Some(self.received()).filter(|all| all.len() >= count) }).await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn receive(stream: TcpStream, list: Arc<Mutex<Vec<Received>>>, rule: Arc<Mutex<Decide>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.trim_end().split_once(": ") {
            headers.insert(name.to_lowercase(), value.to_owned());
        }
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    stream.read_exact(&mut body).await.ok()?;
    let answer = {
        let mut list = list.lock().expect("no panic");
        list.push(Received { headers, body });
        let decide = rule.lock().expect("no panic").clone();
        decide(list.len() - 1)
    };
    let head = match answer {
        Answer::Status(status) => format!("HTTP/1.1 {status} Said"),
        Answer::Redirect(to) => format!("HTTP/1.1 302 Found\r\nLocation: {to}"),
        Answer::Nothing => {
            // Until the other side gives up.
            let _ = stream.read_u8().await;
            return None;
        }
    };
    let text = format!("{head}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.ok()
}

/// A mail as it came.
#[derive(Clone, Debug)]
pub struct Posted {
    pub to: String,
    /// Head and body as they were sent, without the transfer encoding of the body.
    pub text: String,
}

impl Posted {
    /// The token in its link.
    pub fn token(&self) -> String {
        let (_, rest) = self.text.split_once("Code: ").expect("a code");
        rest.split_whitespace().next().expect("a code").to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let head = self.text.split("\r\n\r\n").next()?;
        head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// The SMTP server. Dropping it ends it.
pub struct MailServer {
    address: SocketAddr,
    posted: Arc<Mutex<Vec<Posted>>>,
    refused: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl MailServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let posted: Arc<Mutex<Vec<Posted>>> = Arc::default();
        let refused: Arc<Mutex<Vec<String>>> = Arc::default();
        let (list, bad) = (posted.clone(), refused.clone());
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(take_mail(stream, list.clone(), bad.clone()));
            }
        });
        Self { address, posted, refused, serving }
    }

    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// This recipient is refused for good, with words that name it.
    pub fn refuse(&self, recipient: &str) {
        self.refused.lock().expect("no panic").push(recipient.to_owned());
    }

    pub fn posted(&self) -> Vec<Posted> {
        self.posted.lock().expect("no panic").clone()
    }

    /// Waits for a mail to this address with this in its subject, and gives the newest.
    pub async fn wait_for(&self, recipient: &str, subject: &str) -> Posted {
        super::eventually("a mail", || async {
            let is_meant =
                |mail: &Posted| mail.to == recipient && mail.header("Subject").is_some_and(|it| it.contains(subject));
            self.posted().into_iter().rev().find(is_meant)
        })
        .await
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// As much of RFC 5321 as a client needs.
async fn take_mail(stream: TcpStream, list: Arc<Mutex<Vec<Posted>>>, refused: Arc<Mutex<Vec<String>>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut to = String::new();
    stream.write_all(b"220 test\r\n").await.ok()?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let command = line.trim_end().to_owned();
        let reply = match command.split([' ', ':']).next().unwrap_or_default().to_uppercase().as_str() {
            "RCPT" => {
                to = command.split(['<', '>']).nth(1)?.to_owned();
                let is_refused = refused.lock().expect("no panic").contains(&to);
                if is_refused { format!("550 no mailbox of the name {to}") } else { "250 ok".to_owned() }
            }
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await.ok()?;
                let text = read_data(&mut stream).await?;
                list.lock().expect("no panic").push(Posted { to: std::mem::take(&mut to), text: decoded(&text) });
                "250 taken".to_owned()
            }
            "QUIT" => "221 bye".to_owned(),
            _ => "250 ok".to_owned(),
        };
        stream.write_all(format!("{reply}\r\n").as_bytes()).await.ok()?;
    }
}

async fn read_data(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if line == ".\r\n" {
            return Some(text);
        }
        text.push_str(line.strip_prefix('.').unwrap_or(&line));
    }
}

/// Quoted-printable (RFC 2045, 6.7), as far as it is used for ASCII.
fn decoded(text: &str) -> String {
    text.replace("=\r\n", "").replace("=3D", "=")
}
