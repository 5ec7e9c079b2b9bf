//! What is announced to everybody who listens to a line: one event per change, encoded once, the same bytes for all.
//!
//! A channel keeps the newest event only. Listeners are woken and take it, so that a slow one costs nothing but what it
//! has taken last. A channel outlives the [`Sale`](super::sale::Sale) that feeds it: sales that are not live are forgotten
//! and read again, and their listeners stay.
//!
//! Event ids are the application clock in milliseconds: they rise, also from one instance to the next. The last event of
//! a sale has the time of its closing as its id, which is the same on every instance.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;

use super::domain::Phase;
use crate::catalog::ConcertId;
use crate::platform::clock::Timestamp;

/// What an event says of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Places issued.
    pub issued: u64,
    /// Ranks called.
    pub serving: u64,
    /// Ranks called per second at most.
    pub admit_per_second: u32,
    /// Where the sale is.
    pub phase: Phase,
    /// Seats neither sold nor held; null while unknown.
    pub seats_left: Option<u64>,
}

#[derive(Serialize)]
struct Data<'l> {
    #[serde(flatten)]
    line: &'l Line,
    at: Timestamp,
}

/// An event, ready to be sent.
#[derive(Debug)]
pub struct Announcement {
    /// As `Last-Event-ID` names it.
    pub id: i64,
    /// Counts the events of this channel.
    pub number: u64,
    /// The whole frame.
    pub frame: Bytes,
    line: Line,
    at: Timestamp,
}

impl Announcement {
    fn after(before: Option<&Self>, line: Line, now: Timestamp, closes_at: Timestamp) -> Self {
        let time = if line.phase == Phase::Closed { closes_at } else { now };
        let id = time.millis().max(before.map_or(0, |before| before.id + 1));
        let data = serde_json::to_string(&Data { line: &line, at: now }).unwrap_or_else(|error| {
            tracing::error!(%error, "a line cannot be written");
            "{}".to_owned()
        });
        let frame = format!("id: {id}\nevent: line\ndata: {data}\n\n");
        Self { id, number: before.map_or(0, |before| before.number + 1), frame: frame.into(), line, at: now }
    }

    /// Whether nothing comes after it.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.line.phase == Phase::Closed
    }
}

/// The newest event of one line.
#[derive(Debug)]
pub struct Channel {
    newest: watch::Sender<Option<Arc<Announcement>>>,
}

impl Default for Channel {
    fn default() -> Self {
        Self { newest: watch::Sender::new(None) }
    }
}

impl Channel {
    /// Announces a line that has changed; not sooner than `pause` after the event before, and only where somebody listens.
    pub fn announce(&self, line: Line, now: Timestamp, closes_at: Timestamp, pause: Duration) {
        if !self.is_listened_to() {
            return;
        }
        self.newest.send_if_modified(|newest| {
            let before = newest.as_deref();
            let is_due = |before: &Announcement| now < before.at || now.since(before.at) >= pause;
            let is_news = before.is_none_or(|before| before.line != line && is_due(before));
            if is_news {
                *newest = Some(Arc::new(Announcement::after(before, line, now, closes_at)));
            }
            is_news
        });
    }

    /// Listens from now on.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Announcement>>> {
        self.newest.subscribe()
    }

    /// Whether anybody listens.
    #[must_use]
    pub fn is_listened_to(&self) -> bool {
        self.newest.receiver_count() > 0
    }
}

/// The channels of one instance, as long as anybody needs them.
#[derive(Debug, Default)]
pub struct Channels {
    known: Mutex<HashMap<ConcertId, Weak<Channel>>>,
}

impl Channels {
    /// The concert's channel.
    #[must_use]
    pub fn get(&self, concert: ConcertId) -> Arc<Channel> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = known.get(&concert).and_then(Weak::upgrade) {
            return channel;
        }
        known.retain(|_, channel| channel.strong_count() > 0);
        let channel = Arc::new(Channel::default());
        known.insert(concert, Arc::downgrade(&channel));
        channel
    }

    /// The concerts whose lines somebody listens to.
    #[must_use]
    pub fn list_listened(&self) -> Vec<ConcertId> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let channels = known.iter().filter_map(|(concert, channel)| Some((*concert, channel.upgrade()?)));
        channels.filter(|(_, channel)| channel.is_listened_to()).map(|(concert, _)| concert).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(1);

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + millis).unwrap()
    }

    fn line(issued: u64, phase: Phase) -> Line {
        Line { issued, serving: 1, admit_per_second: 50, phase, seats_left: None }
    }

    fn announce(channel: &Channel, issued: u64, phase: Phase, millis: i64) {
        channel.announce(line(issued, phase), at(millis), at(60_000), PAUSE);
    }

    #[test]
    fn a_change_is_announced_once_and_not_too_often() {
        let channel = Channel::default();
        announce(&channel, 1, Phase::Open, 0);
        assert!(channel.newest.borrow().is_none(), "nobody listens");
        let mut listener = channel.subscribe();
        let mut take = |channel: &Channel, issued, millis| {
            announce(channel, issued, Phase::Open, millis);
            let is_new = listener.has_changed().unwrap();
            let newest = listener.borrow_and_update().clone().unwrap();
            (is_new, newest.number, newest.id - at(0).millis())
        };
        assert_eq!(take(&channel, 1, 0), (true, 0, 0));
        assert_eq!(take(&channel, 1, 5000), (false, 0, 0), "nothing has changed");
        assert_eq!(take(&channel, 2, 5000), (true, 1, 5000));
        assert_eq!(take(&channel, 3, 5999), (false, 1, 5000), "too soon");
        assert_eq!(take(&channel, 3, 6000), (true, 2, 6000));
        assert_eq!(take(&channel, 4, 100), (true, 3, 6001), "a clock that goes back silences nobody");
    }

    #[test]
    fn a_frame_says_what_was_promised() {
        let event = Announcement::after(None, line(7, Phase::Paused), at(123), at(60_000));
        assert_eq!(
            event.frame,
            "id: 1700000000123\nevent: line\ndata: {\"issued\":7,\"serving\":1,\"admit_per_second\":50,\
             \"phase\":\"paused\",\"seats_left\":null,\"at\":\"2023-11-14T22:13:20.123Z\"}\n\n"
        );
        assert!(!event.is_last());
    }

    #[test]
    fn the_last_event_has_one_id_everywhere() {
        for now in [60_000, 99_000] {
            let event = Announcement::after(None, line(7, Phase::Closed), at(now), at(60_000));
            assert!(event.is_last() && event.id == at(60_000).millis());
        }
    }

    #[test]
    fn channels_are_kept_as_long_as_they_are_needed() {
        let (channels, concert) = (Channels::default(), ConcertId::new());
        let listener = {
            let channel = channels.get(concert);
            assert!(channels.list_listened().is_empty());
            (channel.subscribe(), channel)
        };
        assert!(Arc::ptr_eq(&listener.1, &channels.get(concert)));
        assert_eq!(channels.list_listened(), [concert]);
        drop(listener);
        for _ in 0..10 {
            drop(channels.get(ConcertId::new()));
        }
        assert_eq!(channels.known.lock().unwrap().len(), 1, "those that nobody needs are forgotten");
    }
}
