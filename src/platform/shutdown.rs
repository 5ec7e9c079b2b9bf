//! Ending in good order: who is told to stop, and who is waited for.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// One instance's end. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    requested: CancellationToken,
    forced: CancellationToken,
    background: TaskTracker,
}

impl Shutdown {
    /// Asks the instance to drain.
    pub fn request(&self) {
        self.requested.cancel();
    }

    /// Asks it to drop whatever is left.
    pub fn force(&self) {
        self.requested.cancel();
        self.forced.cancel();
    }

    /// Whether draining has begun.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.requested.is_cancelled()
    }

    /// Resolves when draining begins.
    pub async fn requested(&self) {
        self.requested.cancelled().await;
    }

    /// Resolves when nothing is waited for any longer.
    pub async fn forced(&self) {
        self.forced.cancelled().await;
    }

    /// Runs background work that is waited for at the end.
    pub fn spawn<F: Future<Output = ()> + Send + 'static>(&self, task: F) {
        self.background.spawn(task);
    }

    /// Repeats `work` with `pause` between its runs until draining begins. A run that has begun is finished; one that
    /// panics does not end the others.
    pub fn repeat<F, W>(&self, pause: Duration, mut work: W)
    where
        W: FnMut() -> F + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let shutdown = self.clone();
        self.spawn(async move {
            while !shutdown.is_requested() {
                if AssertUnwindSafe(async { work().await }).catch_unwind().await.is_err() {
                    tracing::error!("periodic work panicked");
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = shutdown.requested() => {}
                }
            }
        });
    }

    /// Waits for the background work, until it is done or the end is forced.
    pub async fn wait(&self) {
        self.background.close();
        tokio::select! {
            () = self.background.wait() => {}
            () = self.forced() => {}
        }
    }

    /// Listens to SIGTERM and SIGINT: the first drains, the second forces.
    ///
    /// # Errors
    /// Where the process may not listen to signals.
    pub fn listen_to_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if shutdown.is_requested() {
                    tracing::warn!("second signal: dropping what is left");
                    shutdown.force();
                    return;
                }
                tracing::info!("draining");
                shutdown.request();
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn work_that_panics_is_repeated() {
        let (shutdown, runs) = (Shutdown::default(), Arc::new(AtomicU32::new(0)));
        let (counted, end) = (runs.clone(), shutdown.clone());
        shutdown.repeat(Duration::from_millis(1), move || {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            assert!(run != 0, "while the work is prepared");
            let end = end.clone();
            async move {
                assert!(run != 1, "while the work runs");
                end.request();
            }
        });
        shutdown.wait().await;
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }
}
