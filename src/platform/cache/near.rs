//! The near tier: entries in this process, bounded by their bytes. A hit copies a reference.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use moka::ops::compute::Op;
use moka::sync::Cache;

use super::entry::{Age, Entry};
use crate::platform::clock::Timestamp;

/// Entries by key.
pub(super) struct Near<K, V>(Cache<K, Arc<Entry<V>>>);

impl<K, V> fmt::Debug for Near<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Near").finish_non_exhaustive()
    }
}

impl<K, V> Near<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// At most so many bytes, each entry for so long at most on a clock that nobody sets.
    pub fn new(bytes_max: u64, kept_for: Duration) -> Self {
        let weigh = |_: &K, entry: &Arc<Entry<V>>| u32::try_from(entry.bytes).unwrap_or(u32::MAX);
        Self(Cache::builder().max_capacity(bytes_max).weigher(weigh).time_to_live(kept_for).build())
    }

    pub fn find(&self, key: &K) -> Option<Arc<Entry<V>>> {
        self.0.get(key)
    }

    /// Keeps an entry in place of one that says less, or is too old at `now`.
    pub fn keep(&self, key: K, entry: Arc<Entry<V>>, now: Timestamp) {
        let compute = |there: Option<moka::Entry<K, Arc<Entry<V>>>>| match there {
            Some(there) if there.value().age(now) < Age::Hard && !entry.is_newer_than(there.value()) => Op::Nop,
            _ => Op::Put(entry),
        };
        drop(self.0.entry(key).and_compute_with(compute));
    }

    pub fn forget(&self, key: &K) {
        self.0.invalidate(key);
    }

    pub fn clear(&self) {
        self.0.invalidate_all();
    }

    /// The bytes kept, and the age of the oldest entry at `now`.
    pub fn measure(&self, now: Timestamp) -> (u64, Duration) {
        self.0.run_pending_tasks();
        let oldest = self.0.iter().map(|(_, entry)| entry.elapsed(now)).max();
        (self.0.weighted_size(), oldest.unwrap_or_default())
    }
}
