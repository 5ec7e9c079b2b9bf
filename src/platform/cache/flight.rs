//! One load per key and process: whoever asks while a load is under way waits for that one. It runs in a task of its own, and
//! ends although all who wait for it have gone.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};

use crate::platform::error::Problem;

/// What all who wait are told.
pub(super) type Outcome<T> = Result<T, Arc<Problem>>;
/// A load under way.
pub(super) type Flight<T> = Shared<BoxFuture<'static, Outcome<T>>>;

/// Loads under way, by key. Clones share them.
pub(super) struct Flights<K, T>(Arc<Mutex<Inner<K, T>>>);

struct Inner<K, T> {
    last: u64,
    under_way: HashMap<K, (u64, Flight<T>)>,
}

impl<K, T> Clone for Flights<K, T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, T> fmt::Debug for Flights<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Inner { last: 0, under_way: HashMap::new() })))
    }
}

impl<K, T> Flights<K, T>
where
    K: Hash + Eq + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// The load of `key` that is under way, or the one that `begin` makes. Whether it is the latter.
    pub fn join<F>(&self, key: &K, begin: impl FnOnce() -> F) -> (Flight<T>, bool)
    where
        F: Future<Output = Outcome<T>> + Send + 'static,
    {
        let mut inner = self.lock();
        if let Some((_, flight)) = inner.under_way.get(key) {
            return (flight.clone(), false);
        }
        inner.last += 1;
        let (number, flights, mine, load) = (inner.last, self.clone(), key.clone(), begin());
        let task = tokio::spawn(async move {
            let landing = Landing { flights, key: mine, number };
            let outcome = load.await;
            drop(landing);
            outcome
        });
        let told = task.map(|ended| ended.unwrap_or_else(|error| Err(Arc::new(Problem::internal(error)))));
        let flight = told.boxed().shared();
        inner.under_way.insert(key.clone(), (number, flight.clone()));
        (flight, true)
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K, T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a flight, also one that panics.
struct Landing<K: Hash + Eq + Clone + Send + 'static, T: Clone + Send + Sync + 'static> {
    flights: Flights<K, T>,
    key: K,
    number: u64,
}

impl<K, T> Drop for Landing<K, T>
where
    K: Hash + Eq + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    fn drop(&mut self) {
        let mut inner = self.flights.lock();
        if inner.under_way.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            inner.under_way.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_meanwhile_joins() {
        let flights = Flights::<u32, u32>::default();
        let (go, wait) = tokio::sync::oneshot::channel();
        let (first, is_first) = flights.join(&1, || async { Ok(wait.await.unwrap_or_default()) });
        let (second, is_second) = flights.join(&1, || async { unreachable!("a load is under way") });
        assert!(is_first && !is_second);
        drop(first);
        go.send(7).unwrap();
        assert_eq!(second.await.unwrap(), 7, "it ends although who began it has gone");
        let (third, is_third) = flights.join(&1, || async { Ok(8) });
        assert!(is_third && third.await.unwrap() == 8);
    }

    #[tokio::test]
    async fn a_load_that_panics_is_a_failure_and_not_the_end() {
        let flights = Flights::<u32, u32>::default();
        let (flight, _) = flights.join(&1, || async { panic!("it") });
        assert!(flight.await.is_err());
        assert_eq!(flights.join(&1, || async { Ok(2) }).0.await.unwrap(), 2);
    }
}
