//! What a transaction does to seats, told to the filter once it is committed.

use std::sync::{Arc, Mutex, PoisonError};

use super::filter::{Change, Filter, Hall};

/// A slot that a transaction's body fills and its caller reads after the commit. A body that runs again fills it again;
/// one that is not run, as its answer was stored before, leaves it empty. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct News(Arc<Mutex<Option<(Hall, Change)>>>);

impl News {
    /// This is so once the transaction is committed.
    pub fn put(&self, hall: Hall, change: Change) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((hall, change));
    }

    /// The transaction is committed.
    pub async fn tell(self, filter: &Filter) {
        let news = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((hall, change)) = news {
            filter.settle(hall, &[change]).await;
        }
    }
}
