//! Answers and facts kept in this process for a short while.
//!
//! Concurrent loads of a key are one load, which runs in a task of its own: it fills the cache even when every
//! caller has gone. [`Cache::clear`] makes everything older unreachable at once, loads under way included,
//! because the generation is part of each key.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::future::Cache as Moka;

use crate::platform::error::Problem;

/// How a cache is bounded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// How long an entry is kept; nothing is kept where this is zero.
    pub ttl: Duration,
    /// The greatest sum of weights.
    pub weight_max: u64,
}

/// What may be kept: its weight counts against [`Bounds::weight_max`].
pub(super) trait Weigh {
    /// At least 1.
    fn weight(&self) -> u32 {
        1
    }
}

/// Values by key. Clones share them.
#[derive(Clone)]
pub(super) struct Cache<K, V> {
    kept: Option<Moka<(u64, K), V>>,
    generation: Arc<AtomicU64>,
}

impl<K, V> fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("is_enabled", &self.kept.is_some()).finish_non_exhaustive()
    }
}

impl<K, V> Cache<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Weigh + Clone + Send + Sync + 'static,
{
    /// An empty cache.
    pub fn new(bounds: Bounds) -> Self {
        let kept = (bounds.ttl > Duration::ZERO && bounds.weight_max > 0).then(|| {
            let builder = Moka::builder().max_capacity(bounds.weight_max).time_to_live(bounds.ttl);
            builder.weigher(|_, value: &V| value.weight().max(1)).build()
        });
        Self { kept, generation: Arc::default() }
    }

    /// The value of `key`, loaded where it is not kept. Nothing found is not kept. What a load needs is put together only
    /// then: most reads find what they ask for.
    ///
    /// # Errors
    /// Whatever the load refuses with.
    pub async fn find<F>(&self, key: K, load: impl FnOnce() -> F) -> Result<Option<V>, Problem>
    where
        F: Future<Output = Result<Option<V>, Problem>> + Send + 'static,
    {
        let Some(kept) = &self.kept else {
            return load().await;
        };
        let key = (self.generation.load(Ordering::Acquire), key);
        if let Some(value) = kept.get(&key).await {
            return Ok(Some(value));
        }
        let (kept, load) = (kept.clone(), load());
        let loading = tokio::spawn(async move {
            let load = async { load.await.map_err(Some)?.ok_or(None) };
            kept.try_get_with(key, load).await
        });
        match loading.await {
            Ok(Ok(value)) => Ok(Some(value)),
            Ok(Err(failure)) => failure.as_ref().as_ref().map_or(Ok(None), |problem: &Problem| Err(problem.again())),
            Err(error) => Err(Problem::internal(error)),
        }
    }

    /// The value of `key` if it is kept.
    pub async fn peek(&self, key: K) -> Option<V> {
        self.kept.as_ref()?.get(&(self.generation.load(Ordering::Acquire), key)).await
    }

    /// Loads the value of `key` whether or not it is kept, and keeps it in place of an older one, unless all was forgotten
    /// meanwhile.
    ///
    /// # Errors
    /// Whatever the load refuses with.
    pub async fn renew(
        &self,
        key: K,
        load: impl Future<Output = Result<Option<V>, Problem>>,
    ) -> Result<Option<V>, Problem> {
        let generation = self.generation.load(Ordering::Acquire);
        let value = load.await?;
        if let (Some(kept), Some(value)) = (&self.kept, &value) {
            kept.insert((generation, key), value.clone()).await;
        }
        Ok(value)
    }

    /// Keeps a value, in place of an older one.
    pub async fn put(&self, key: K, value: V) {
        if let Some(kept) = &self.kept {
            kept.insert((self.generation.load(Ordering::Acquire), key), value).await;
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        if let Some(kept) = &self.kept {
            kept.invalidate_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::error::codes;

    impl Weigh for u32 {}

    fn cache() -> Cache<u32, u32> {
        Cache::new(Bounds { ttl: Duration::from_mins(1), weight_max: 10 })
    }

    #[tokio::test]
    async fn a_value_is_loaded_once_until_all_is_forgotten() {
        let cache = cache();
        assert_eq!(cache.find(1, || async { Ok(Some(10)) }).await.unwrap(), Some(10));
        assert_eq!(cache.find(1, || async { Ok(Some(11)) }).await.unwrap(), Some(10));
        cache.clear();
        assert_eq!(cache.find(1, || async { Ok(Some(12)) }).await.unwrap(), Some(12));
    }

    #[tokio::test]
    async fn neither_failures_nor_nothing_are_kept() {
        let cache = cache();
        let failed = cache.find(1, || async { Err(Problem::new(&codes::READ_ONLY)) }).await;
        assert_eq!(failed.unwrap_err().code(), &codes::READ_ONLY);
        assert_eq!(cache.find(1, || async { Ok(None) }).await.unwrap(), None);
        assert_eq!(cache.find(1, || async { Ok(Some(1)) }).await.unwrap(), Some(1));
    }

    #[tokio::test]
    async fn a_load_from_before_is_not_seen_afterwards() {
        let cache = cache();
        let (go, wait) = tokio::sync::oneshot::channel();
        let slow = tokio::spawn({
            let cache = cache.clone();
            async move { cache.find(1, || async { wait.await.map(Some).map_err(Problem::internal) }).await }
        });
        tokio::task::yield_now().await;
        cache.clear();
        assert_eq!(cache.find(1, || async { Ok(Some(2)) }).await.unwrap(), Some(2));
        go.send(1).unwrap();
        assert_eq!(slow.await.unwrap().unwrap(), Some(1));
        assert_eq!(cache.find(1, || async { Ok(Some(3)) }).await.unwrap(), Some(2));
    }

    #[tokio::test]
    async fn a_load_ends_although_its_caller_has_gone() {
        let cache = cache();
        let (go, wait) = tokio::sync::oneshot::channel();
        let load = cache.find(1, || async { wait.await.map(Some).map_err(Problem::internal) });
        assert!(tokio::time::timeout(Duration::from_millis(5), load).await.is_err());
        go.send(7).unwrap();
        assert_eq!(cache.find(1, || async { Ok(Some(8)) }).await.unwrap(), Some(7));
    }
}
