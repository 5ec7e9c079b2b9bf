//! A client that listens to server-sent events.

use serde_json::Value;

use super::PATIENCE;

/// One stream.
pub struct Listener {
    response: reqwest::Response,
    unread: String,
}

/// A frame as it came, with its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame(pub String);

impl Listener {
    /// Of an answer of which nothing was read yet.
    pub fn to(response: reqwest::Response) -> Self {
        Self { response, unread: String::new() }
    }

    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// A header of the answer as text, or nothing.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The next frame; nothing at the end of the stream. A stream that breaks off ends as well.
    pub async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(end) = self.unread.find("\n\n") {
                return Some(Frame(self.unread.drain(..end + 2).collect()));
            }
            let chunk =
                tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("waited too long for a frame");
            self.unread.push_str(std::str::from_utf8(&chunk.ok()??).expect("text"));
        }
    }

    /// The next event, whatever comes before it.
    pub async fn event(&mut self) -> Option<Frame> {
        loop {
            let frame = self.frame().await?;
            if frame.field("event").is_some() {
                return Some(frame);
            }
        }
    }

    /// The next event of which this is true. Heartbeats alone are not waited for without end.
    pub async fn event_with(&mut self, is_wanted: impl Fn(&Value) -> bool) -> Frame {
        let wanted = async {
            loop {
                let event = self.event().await.expect("an event before the end");
                if is_wanted(&event.data()) {
                    return event;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wanted).await.expect("waited too long for an event")
    }
}

impl Frame {
    fn field(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    #[track_caller]
    fn number(&self, name: &str) -> i64 {
        let value = self.field(name).unwrap_or_else(|| panic!("no {name} in {self:?}"));
        value.parse().expect("a number")
    }

    pub fn id(&self) -> i64 {
        self.number("id")
    }

    /// In milliseconds; nothing where the frame does not say.
    pub fn retry(&self) -> Option<i64> {
        self.field("retry").map(|_| self.number("retry"))
    }

    pub fn is_heartbeat(&self) -> bool {
        self.0 == ":\n\n"
    }

    #[track_caller]
    pub fn data(&self) -> Value {
        serde_json::from_str(self.field("data").unwrap_or_else(|| panic!("no data in {self:?}"))).expect("JSON")
    }
}
