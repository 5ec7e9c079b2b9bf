//! What the parts of one connection tell each other, and the open connections of an instance.
//!
//! Invariant: a connection waits for its client except while a request is worked on or its answer flows. Who waits
//! longest is dismissed first where places or file descriptors run out, so clients that only hold connections
//! open, or send and read slowly, cannot keep those out that ask something. Whoever listens to an answer without end is
//! dismissed as well, the longest first, but only where nobody else waits: a request comes before a listener.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::platform::telemetry::metrics;

/// Nobody is dismissed who has waited for less: a request needs its time on the way.
const GRACE: Duration = Duration::from_millis(500);

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A head is awaited, and nothing of ours is left to write.
    Head,
    /// A body is awaited.
    Body,
    /// A request is worked on, or its answer is being written.
    Work,
    /// An answer without end flows. Its client can come again without loss.
    Listen,
    /// An answer is complete, and the rest of it is being written.
    Flush,
}

#[derive(Debug)]
struct Standing {
    phase: Phase,
    /// Since when it is the client's turn.
    waits_since: Option<Instant>,
    is_dismissed: bool,
}

/// One connection, as its parts see it.
#[derive(Debug)]
pub(super) struct Link {
    standing: Mutex<Standing>,
    dismissal: Notify,
}

impl Link {
    pub(super) fn new() -> Self {
        let standing = Standing { phase: Phase::Head, waits_since: Some(Instant::now()), is_dismissed: false };
        Self { standing: Mutex::new(standing), dismissal: Notify::new() }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client does something: whoever was about to be dismissed stays.
    fn enter(&self, phase: Phase) {
        let waits_since = (phase != Phase::Work).then(Instant::now);
        *self.standing() = Standing { phase, waits_since, is_dismissed: false };
    }

    /// A head is there; its body may not be.
    pub(super) fn receives(&self) {
        self.enter(Phase::Body);
    }

    /// The request is complete.
    pub(super) fn works(&self) {
        self.enter(Phase::Work);
    }

    /// The answer has no end.
    pub(super) fn listens(&self) {
        self.enter(Phase::Listen);
    }

    /// Whether the answer has no end.
    pub(super) fn is_listening(&self) -> bool {
        self.standing().phase == Phase::Listen
    }

    /// The answer is complete.
    pub(super) fn answered(&self) {
        self.enter(Phase::Flush);
    }

    /// Some bytes were taken, or everything there was to write.
    pub(super) fn wrote(&self, is_all: bool) {
        let phase = self.standing().phase;
        // That is our doing, not the client's.
        if phase == Phase::Listen {
            return;
        }
        self.enter(if is_all && phase == Phase::Flush { Phase::Head } else { phase });
    }

    /// The client does not read.
    pub(super) fn stalls(&self) {
        self.standing().waits_since.get_or_insert_with(Instant::now);
    }

    /// Whether nothing of ours is left to write.
    pub(super) fn is_quiet(&self) -> bool {
        self.standing().phase == Phase::Head
    }

    /// Resolves where the connection has to go.
    pub(super) async fn dismissed(&self) {
        loop {
            self.dismissal.notified().await;
            if self.standing().is_dismissed {
                return;
            }
        }
    }

    /// Whether it listens, and since when it waits: what decides who goes first.
    fn waits(&self) -> Option<(bool, Instant)> {
        let standing = self.standing();
        let since = standing.waits_since.filter(|_| !standing.is_dismissed)?;
        Some((standing.phase == Phase::Listen, since))
    }

    fn dismiss(&self) {
        self.standing().is_dismissed = true;
        self.dismissal.notify_one();
    }
}

/// The open connections of one instance.
#[derive(Debug, Default)]
pub(super) struct Open {
    links: Mutex<HashMap<u64, Arc<Link>>>,
    next: AtomicU64,
}

impl Open {
    fn links(&self) -> MutexGuard<'_, HashMap<u64, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more.
    pub(super) fn enter(self: &Arc<Self>) -> Entry {
        let (id, link) = (self.next.fetch_add(1, Ordering::Relaxed), Arc::new(Link::new()));
        self.links().insert(id, link.clone());
        metrics::http_connections(1);
        Entry { open: self.clone(), id, link }
    }

    /// Asks those to go who have waited longest, at most so many. How many were asked.
    pub(super) fn dismiss(&self, most: usize) -> usize {
        let Some(latest) = Instant::now().checked_sub(GRACE) else { return 0 };
        self.dismiss_until(latest, most)
    }

    fn dismiss_until(&self, latest: Instant, most: usize) -> usize {
        let links = self.links();
        let waiting = links.values().filter_map(|link| Some((link.waits()?, link)));
        let mut waiting: Vec<_> = waiting.filter(|((_, since), _)| *since <= latest).collect();
        let count = most.min(waiting.len());
        if let Some(last) = count.checked_sub(1) {
            waiting.select_nth_unstable_by_key(last, |(order, _)| *order);
        }
        waiting.iter().take(count).for_each(|(_, link)| link.dismiss());
        count
    }
}

/// A connection among the open ones, for as long as this lives.
#[derive(Debug)]
pub(super) struct Entry {
    open: Arc<Open>,
    id: u64,
    pub(super) link: Arc<Link>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.open.links().remove(&self.id);
        metrics::http_connections(-1);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn is_dismissed(entry: &Entry) -> bool {
        entry.link.dismissed().now_or_never().is_some()
    }

    #[test]
    fn who_waits_longest_goes_first_and_who_is_served_stays() {
        let open = Arc::new(Open::default());
        let entries: Vec<Entry> = (0..5).map(|_| open.enter()).collect();
        let begun = Instant::now();
        for (age, entry) in [(3, &entries[0]), (9, &entries[1]), (7, &entries[2]), (8, &entries[3]), (0, &entries[4])] {
            entry.link.standing().waits_since = begun.checked_sub(Duration::from_secs(age));
        }
        entries[3].link.works();
        assert_eq!(open.dismiss(2), 2);
        let gone: Vec<bool> = entries.iter().map(is_dismissed).collect();
        assert_eq!(gone, [false, true, true, false, false]);
        // One is left who has waited long enough; who was asked before is not asked again.
        assert_eq!(open.dismiss(10), 1);
        assert!(is_dismissed(&entries[0]) && !is_dismissed(&entries[4]));
        drop(entries);
        assert_eq!((open.dismiss_until(Instant::now(), 10), open.links().len()), (0, 0));
    }

    #[test]
    fn a_request_that_arrives_in_time_revokes_the_dismissal() {
        let open = Arc::new(Open::default());
        let entry = open.enter();
        assert_eq!(open.dismiss_until(Instant::now(), 1), 1);
        entry.link.receives();
        assert!(!is_dismissed(&entry));
    }

    #[test]
    fn who_does_not_read_waits_like_who_does_not_send() {
        let open = Arc::new(Open::default());
        let entry = open.enter();
        entry.link.works();
        assert_eq!(open.dismiss_until(Instant::now(), 1), 0);
        entry.link.stalls();
        assert_eq!(open.dismiss_until(Instant::now(), 1), 1);
    }

    #[test]
    fn who_listens_goes_when_nobody_else_waits() {
        let open = Arc::new(Open::default());
        let entries: Vec<Entry> = (0..4).map(|_| open.enter()).collect();
        let begun = Instant::now();
        entries[0].link.listens();
        entries[1].link.listens();
        for (age, entry) in [(9, &entries[0]), (8, &entries[1]), (1, &entries[2])] {
            entry.link.standing().waits_since = begun.checked_sub(Duration::from_secs(age));
        }
        entries[3].link.works();
        assert_eq!(open.dismiss(1), 1);
        assert!(is_dismissed(&entries[2]), "the idle one goes first, however long the others listen");
        assert_eq!(open.dismiss(1), 1);
        // Each event is written by us: it shows nothing of the client.
        entries[0].link.wrote(true);
        assert!(is_dismissed(&entries[0]));
        assert_eq!(open.dismiss(10), 1);
        assert!(is_dismissed(&entries[1]) && !is_dismissed(&entries[3]));
    }

    #[test]
    fn a_connection_is_quiet_until_a_request_and_again_when_its_answer_is_written() {
        let link = Link::new();
        assert!(link.is_quiet());
        link.receives();
        link.wrote(true);
        assert!(!link.is_quiet(), "what asks for the body is no answer");
        link.works();
        link.answered();
        link.wrote(false);
        assert!(!link.is_quiet());
        link.wrote(true);
        assert!(link.is_quiet());
    }
}
