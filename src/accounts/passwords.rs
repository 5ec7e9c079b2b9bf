//! Passwords: argon2id, off the async threads, a few at once, with a bounded line in front.
//!
//! A hash takes 19 MiB and tens of milliseconds of a core. Whoever goes away while waiting leaves the line;
//! a hash that has begun keeps its place until it ends, so the memory stays bounded.

use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString};
use tokio::sync::Semaphore;

use crate::platform::config::Secret;
use crate::platform::error::{Problem, codes};

/// Verified where no user has the address, so that the answer takes as long. No password matches it.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$ZnJvbnRyb3cubm9ib2R5$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Hashes and verifies.
#[derive(Clone, Debug)]
pub(super) struct Passwords {
    /// Places in the line and at work together.
    admitted: Arc<Semaphore>,
    working: Arc<Semaphore>,
}

impl Passwords {
    pub(super) fn new(parallel: usize, waiting_max: usize) -> Self {
        let parallel = parallel.max(1);
        Self { admitted: Arc::new(Semaphore::new(parallel + waiting_max)), working: Arc::new(Semaphore::new(parallel)) }
    }

    /// The hash to store, in PHC format.
    pub(super) async fn hash(&self, password: Secret) -> Result<String, Problem> {
        self.work(move || {
            let salt = SaltString::generate(&mut OsRng);
            let hash = Argon2::default().hash_password(password.expose().as_bytes(), &salt);
            hash.map(|hash| hash.to_string()).map_err(|error| Problem::internal(anyhow::anyhow!("argon2: {error}")))
        })
        .await
    }

    /// Whether `password` belongs to `stored`; false, after the same time, where nothing is stored.
    pub(super) async fn verify(&self, password: Secret, stored: Option<String>) -> Result<bool, Problem> {
        self.work(move || {
            let stored = stored.as_deref().unwrap_or(NOBODY);
            let hash = PasswordHash::new(stored)
                .map_err(|error| Problem::internal(anyhow::anyhow!("stored password hash: {error}")))?;
            Ok(Argon2::default().verify_password(password.expose().as_bytes(), &hash).is_ok())
        })
        .await
    }

    async fn work<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let Ok(place) = self.admitted.clone().try_acquire_owned() else {
            return Err(Problem::new(&codes::OVERLOADED).retry_after(1));
        };
        let turn = self.working.clone().acquire_owned().await.map_err(Problem::internal)?;
        let done = tokio::task::spawn_blocking(move || {
            let _held = (place, turn);
            job()
        });
        done.await.map_err(Problem::internal)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobodys_hash_costs_what_everybodys_does() {
        let nobody = PasswordHash::new(NOBODY).unwrap();
        let salt = SaltString::generate(&mut OsRng);
        let somebody = Argon2::default().hash_password(b"secret", &salt).unwrap();
        assert_eq!(
            (nobody.algorithm, nobody.version, &nobody.params),
            (somebody.algorithm, somebody.version, &somebody.params)
        );
        assert_eq!(nobody.hash.map(|hash| hash.len()), somebody.hash.map(|hash| hash.len()));
    }

    #[tokio::test]
    async fn only_the_right_password_is_verified() {
        let passwords = Passwords::new(2, 8);
        let hash = passwords.hash(Secret::new("correct horse")).await.unwrap();
        assert!(passwords.verify(Secret::new("correct horse"), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify(Secret::new("battery staple"), Some(hash)).await.unwrap());
        assert!(!passwords.verify(Secret::new("correct horse"), None).await.unwrap());
        assert!(passwords.verify(Secret::new("correct horse"), Some(String::new())).await.is_err());
    }

    #[tokio::test]
    async fn the_line_is_bounded_and_whoever_leaves_it_frees_a_place() {
        let passwords = Passwords::new(1, 1);
        let turn = passwords.working.clone().acquire_owned().await.unwrap();
        let one = tokio::spawn({
            let p = passwords.clone();
            async move { p.verify(Secret::new("a"), None).await }
        });
        let two = tokio::spawn({
            let p = passwords.clone();
            async move { p.verify(Secret::new("a"), None).await }
        });
        while passwords.admitted.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = passwords.verify(Secret::new("a"), None).await.unwrap_err();
        assert_eq!(refused.code().code, "overloaded");
        one.abort();
        assert!(one.await.unwrap_err().is_cancelled());
        drop(turn);
        assert!(!passwords.verify(Secret::new("a"), None).await.unwrap());
        assert!(!two.await.unwrap().unwrap());
    }
}
