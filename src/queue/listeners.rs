//! Those who listen to a line (server-sent events, WHATWG HTML 9.2): how many, for how long, and what each is sent.
//!
//! A stream begins with how long to wait before coming again, then the current event unless the listener knows it, then
//! each event as it is announced, and a comment where there is none for long. It ends when the sale is closed, when the
//! instance drains (each is told to come again at another moment, so that they do not arrive elsewhere all at once), or
//! when the listener has missed too much. Nothing is kept for those who do not read: the connection's write time limit
//! ends them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::future::BoxFuture;
use rand::Rng as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Sleep};

use super::channel::{Announcement, Channel};
use super::domain::Settings;
use super::metrics;
use super::sale::Sale;
use crate::platform::clock::Timestamp;
use crate::platform::error::{Problem, codes};
use crate::platform::shutdown::Shutdown;

/// When to come again after the end of a stream, in milliseconds.
const RETRY_MS: std::ops::RangeInclusive<u32> = 1000..=5000;
/// The same for whoever finds no place.
const FULL_RETRY_SECS: u32 = 5;
const HEARTBEAT: &[u8] = b":\n\n";

/// The listeners of one instance. Clones share their places.
#[derive(Clone, Debug)]
pub struct Listeners {
    places: Arc<Semaphore>,
    heartbeat: Duration,
    missed_max: u64,
    shutdown: Shutdown,
}

/// One of them.
pub struct Listener {
    newest: watch::Receiver<Option<Arc<Announcement>>>,
    /// The number of the event that it has.
    taken: Option<u64>,
    stage: Stage,
    missed_max: u64,
    pause: Duration,
    silence: Pin<Box<Sleep>>,
    drain: BoxFuture<'static, ()>,
    /// Keeps the sender.
    _channel: Arc<Channel>,
    _place: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("taken", &self.taken).field("stage", &self.stage).finish_non_exhaustive()
    }
}

/// How far a stream is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Begins,
    Goes,
    /// Everything was said.
    Ends,
}

impl Listeners {
    /// As set. `shutdown` ends every stream.
    #[must_use]
    pub fn new(settings: &Settings, shutdown: Shutdown) -> Self {
        Self {
            places: Arc::new(Semaphore::new(settings.listeners_max)),
            heartbeat: Duration::from_millis(settings.heartbeat_ms),
            missed_max: u64::from(settings.missed_events_max),
            shutdown,
        }
    }

    /// Listens to a sale's line, of which the event `known` was received already. Nothing where that was the last one.
    ///
    /// # Errors
    /// `overloaded` where too many listen.
    pub fn listen(&self, sale: &Sale, known: Option<i64>, now: Timestamp) -> Result<Option<Listener>, Problem> {
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| Problem::new(&codes::OVERLOADED).retry_after(FULL_RETRY_SECS))?;
        let channel = sale.board.channel.clone();
        let newest = channel.subscribe();
        // From here on there is somebody to announce it to.
        sale.publish(now);
        let current = newest.borrow().clone();
        let current = current.filter(|current| known == Some(current.id));
        if current.as_deref().is_some_and(Announcement::is_last) {
            return Ok(None);
        }
        metrics::listening(1);
        let shutdown = self.shutdown.clone();
        Ok(Some(Listener {
            newest,
            taken: current.map(|current| current.number),
            stage: Stage::Begins,
            missed_max: self.missed_max,
            pause: self.heartbeat,
            silence: Box::pin(tokio::time::sleep(self.heartbeat)),
            drain: Box::pin(async move { shutdown.requested().await }),
            _channel: channel,
            _place: place,
        }))
    }
}

impl Listener {
    /// Everything that is sent, until the end.
    pub fn frames(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
        futures::stream::unfold(self, |mut listener| async move {
            let frame = listener.next().await?;
            Some((Ok(frame), listener))
        })
    }

    async fn next(&mut self) -> Option<Bytes> {
        if self.stage == Stage::Begins {
            self.stage = Stage::Goes;
            return Some(retry());
        }
        while self.stage == Stage::Goes {
            if let Some(frame) = self.take() {
                self.silence.as_mut().reset(Instant::now() + self.pause);
                return Some(frame);
            }
            if self.stage == Stage::Ends {
                break;
            }
            tokio::select! {
                biased;
                () = &mut self.drain => {
                    self.stage = Stage::Ends;
                    return Some(retry());
                }
                changed = self.newest.changed() => changed.ok()?,
                () = &mut self.silence => {
                    self.silence.as_mut().reset(Instant::now() + self.pause);
                    return Some(Bytes::from_static(HEARTBEAT));
                }
            }
        }
        None
    }

    /// The newest event, unless it was taken already.
    fn take(&mut self) -> Option<Bytes> {
        let missed = self.missed();
        let newest = self.newest.borrow_and_update();
        let newest = newest.as_ref().filter(|newest| self.taken != Some(newest.number))?;
        if missed > self.missed_max {
            self.stage = Stage::Ends;
            return None;
        }
        if newest.is_last() {
            self.stage = Stage::Ends;
        }
        self.taken = Some(newest.number);
        metrics::event_sent();
        Some(newest.frame.clone())
    }

    /// How many events were announced since the one that it has, but for the newest.
    fn missed(&self) -> u64 {
        let newest = self.newest.borrow().as_ref().map(|newest| newest.number);
        newest.zip(self.taken).map_or(0, |(newest, taken)| newest.saturating_sub(taken).saturating_sub(1))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        metrics::listening(-1);
        if self.missed() > self.missed_max {
            metrics::listener_dropped();
        }
    }
}

/// When to come again: for each another moment.
fn retry() -> Bytes {
    format!("retry: {}\n\n", rand::rng().random_range(RETRY_MS)).into()
}
