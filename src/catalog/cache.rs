//! What is made in this process, for this process alone and for a short while: answers of the current second, and what was told last.
//! Facts are kept in two tiers (`kept.rs`).
//!
//! Concurrent loads of a key are one load, which runs in a task of its own: it fills the cache even when every
//! caller has gone.

use std::fmt;
use std::hash::Hash;
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
    kept: Option<Moka<K, V>>,
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
        Self { kept }
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
        self.kept.as_ref()?.get(&key).await
    }

    /// Keeps a value, in place of an older one.
    pub async fn put(&self, key: K, value: V) {
        if let Some(kept) = &self.kept {
            kept.insert(key, value).await;
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
    async fn a_value_is_loaded_once() {
        let cache = cache();
        assert_eq!(cache.find(1, || async { Ok(Some(10)) }).await.unwrap(), Some(10));
        assert_eq!(cache.find(1, || async { Ok(Some(11)) }).await.unwrap(), Some(10));
        assert_eq!(cache.find(2, || async { Ok(Some(12)) }).await.unwrap(), Some(12));
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
    async fn a_load_ends_although_its_caller_has_gone() {
        let cache = cache();
        let (go, wait) = tokio::sync::oneshot::channel();
        let load = cache.find(1, || async { wait.await.map(Some).map_err(Problem::internal) });
        assert!(tokio::time::timeout(Duration::from_millis(5), load).await.is_err());
        go.send(7).unwrap();
        assert_eq!(cache.find(1, || async { Ok(Some(8)) }).await.unwrap(), Some(7));
    }
}
