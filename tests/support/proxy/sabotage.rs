//! Broken copies of the program's guards, made on the wire.
//!
//! A race test that cannot fail proves nothing, so each race runs a second time with its guard broken and must then
//! notice. The program itself has no switch for that, in no build: a proxy between it and its stores rewrites the SQL
//! and the Lua that carry the guard (a lock, a condition, an order) on their way to the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// MySQL's commands that carry text: `COM_QUERY` and `COM_STMT_PREPARE`.
const TEXT_COMMANDS: [u8; 2] = [0x03, 0x16];
/// A packet of this length goes on in the next one. No statement is that long.
const PACKET_MAX: usize = 0xFF_FFFF;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Protocol {
    MySql,
    Redis,
}

/// What is rewritten.
#[derive(Debug)]
pub struct Sabotage {
    protocol: Protocol,
    /// Only statements with this text in them.
    of: String,
    /// Only statements that have no other text.
    is_whole: bool,
    from: String,
    to: String,
    hits: AtomicUsize,
    hits_max: usize,
    /// So many are let pass first.
    passes: AtomicUsize,
    /// Where one guard stands behind another: in statements with the first text, the second becomes the third.
    behind: Option<[String; 3]>,
}

impl Sabotage {
    /// In every SQL statement that contains `of`, `from` becomes `to`.
    pub fn of_sql(of: &str, from: &str, to: &str) -> Arc<Self> {
        Arc::new(Self::new(Protocol::MySql, of, from, to))
    }

    /// The same, with a guard that stands behind it: in every SQL statement that contains `behind[0]`, `behind[1]` becomes `behind[2]`.
    pub fn of_sql_and(of: &str, from: &str, to: &str, behind: [&str; 3]) -> Arc<Self> {
        Arc::new(Self { behind: Some(behind.map(str::to_owned)), ..Self::new(Protocol::MySql, of, from, to) })
    }

    /// The SQL statement `from`, if it is just that, becomes `to`.
    pub fn of_whole_sql(from: &str, to: &str) -> Arc<Self> {
        Arc::new(Self { is_whole: true, ..Self::new(Protocol::MySql, from, from, to) })
    }

    /// The same, the first time only.
    pub fn of_first_sql(from: &str, to: &str) -> Arc<Self> {
        Arc::new(Self { is_whole: true, hits_max: 1, ..Self::new(Protocol::MySql, from, from, to) })
    }

    /// The same, the `nth` time only.
    pub fn of_nth_sql(from: &str, to: &str, nth: usize) -> Arc<Self> {
        let passes = AtomicUsize::new(nth - 1);
        Arc::new(Self { is_whole: true, hits_max: 1, passes, ..Self::new(Protocol::MySql, from, from, to) })
    }

    /// In every Lua script that contains `of`, `from` becomes `to`.
    pub fn of_lua(of: &str, from: &str, to: &str) -> Arc<Self> {
        Arc::new(Self::new(Protocol::Redis, of, from, to))
    }

    fn new(protocol: Protocol, of: &str, from: &str, to: &str) -> Self {
        let [of, from, to] = [of, from, to].map(str::to_owned);
        let (hits, passes) = (AtomicUsize::default(), AtomicUsize::default());
        Self { protocol, of, is_whole: false, from, to, hits, hits_max: usize::MAX, passes, behind: None }
    }

    /// Whether it is for Redis; else for MySQL.
    pub fn is_for_redis(&self) -> bool {
        self.protocol == Protocol::Redis
    }

    /// How many statements or scripts were rewritten: none means that the guard is not where the test thinks.
    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::Acquire)
    }

    fn apply(&self, text: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(text).ok()?;
        if let Some([of, from, to]) = &self.behind
            && text.contains(of)
            && text.contains(from)
        {
            return Some(text.replace(from, to).into_bytes());
        }
        if !(text.contains(&self.of) && text.contains(&self.from)) || (self.is_whole && text != self.of) {
            return None;
        }
        let fewer = |passes: usize| passes.checked_sub(1);
        if self.passes.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer).is_ok() {
            return None;
        }
        let more = |hits: usize| (hits < self.hits_max).then_some(hits + 1);
        self.hits.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(text.replace(&self.from, &self.to).into_bytes())
    }
}

/// Rewrites one connection's bytes, whole messages at a time.
pub struct Rewriter {
    sabotage: Arc<Sabotage>,
    pending: Vec<u8>,
}

impl Rewriter {
    pub fn new(sabotage: Arc<Sabotage>) -> Self {
        Self { sabotage, pending: Vec::new() }
    }

    /// Takes what came and gives what is whole, rewritten.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.pending.extend_from_slice(bytes);
        let mut out = Vec::new();
        loop {
            let whole = match self.sabotage.protocol {
                Protocol::MySql => self.packet(&mut out),
                Protocol::Redis => self.command(&mut out),
            };
            let Some(whole) = whole else { return out };
            self.pending.drain(..whole);
        }
    }

    /// A MySQL packet: three bytes of length, one of sequence, the payload.
    fn packet(&self, out: &mut Vec<u8>) -> Option<usize> {
        let head: [u8; 4] = self.pending.get(..4)?.try_into().ok()?;
        let length = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
        let payload = self.pending.get(4..4 + length)?;
        // A command begins a new sequence; the packets of a login do not.
        let text = (head[3] == 0).then(|| payload.split_first()).flatten();
        let rewritten = text.and_then(|(command, text)| {
            TEXT_COMMANDS.contains(command).then(|| self.sabotage.apply(text)).flatten().map(|text| (*command, text))
        });
        if let Some((command, text)) = rewritten {
            let length = text.len() + 1;
            assert!(length < PACKET_MAX, "a statement of {length} bytes");
            out.extend_from_slice(&u32::try_from(length).expect("checked").to_le_bytes()[..3]);
            out.extend_from_slice(&[0, command]);
            out.extend_from_slice(&text);
        } else {
            out.extend_from_slice(&self.pending[..4 + length]);
        }
        Some(4 + length)
    }

    /// A Redis command: an array of strings. EVALSHA is made to miss, so that the script's text is sent.
    fn command(&self, out: &mut Vec<u8>) -> Option<usize> {
        let mut at = 0;
        let count = self.number(b'*', &mut at)?;
        let mut parts: Vec<Vec<u8>> = Vec::with_capacity(count);
        for _ in 0..count {
            let length = self.number(b'$', &mut at)?;
            parts.push(self.pending.get(at..at + length)?.to_vec());
            self.pending.get(at + length..at + length + 2)?;
            at += length + 2;
        }
        if parts[0].eq_ignore_ascii_case(b"EVALSHA") {
            parts[1] = vec![b'0'; 40];
        } else if parts[0].eq_ignore_ascii_case(b"EVAL")
            && let Some(text) = self.sabotage.apply(&parts[1])
        {
            parts[1] = text;
        }
        out.extend_from_slice(format!("*{count}\r\n").as_bytes());
        for part in parts {
            out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            out.extend_from_slice(&part);
            out.extend_from_slice(b"\r\n");
        }
        Some(at)
    }

    /// A line such as `*3`.
    fn number(&self, kind: u8, at: &mut usize) -> Option<usize> {
        let rest = self.pending.get(*at..)?;
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        assert_eq!(rest[0], kind, "a Redis request in its usual form");
        let digits = std::str::from_utf8(&rest[1..end]).expect("digits");
        *at += end + 2;
        Some(digits.parse().expect("a number"))
    }
}
