//! What a service manager would do for the private servers.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Services;

/// How often servers are started again within [`WITHIN`] before they are given up.
const RESTARTS_MAX: usize = 5;
const WITHIN: Duration = Duration::from_mins(1);

#[derive(Clone, Copy)]
enum Ended {
    Database,
    Redis,
}

impl Services {
    /// Starts each server again that ends by itself, on its port and the data that it left. Resolves with the name of one that ends,
    /// or does not come up, six times within a minute.
    pub async fn keep_up(&mut self) -> &'static str {
        let mut restarts = VecDeque::with_capacity(RESTARTS_MAX);
        loop {
            let ended = tokio::select! {
                _ = self.database.ended() => Ended::Database,
                _ = self.redis.ended() => Ended::Redis,
            };
            let name = match ended {
                Ended::Database => self.database.name(),
                Ended::Redis => self.redis.name(),
            };
            while restarts.front().is_some_and(|at: &Instant| at.elapsed() > WITHIN) {
                restarts.pop_front();
            }
            if restarts.len() == RESTARTS_MAX {
                tracing::error!(server = name, "a private server ends again and again: it is given up");
                return name;
            }
            restarts.push_back(Instant::now());
            tracing::warn!(server = name, "a private server ended by itself: it is started again");
            let started = match ended {
                Ended::Database => self.start_database(Some(self.database_port)).await,
                Ended::Redis => self.start_redis(Some(self.redis_port)).await,
            };
            // It has not come up: the next turn finds it ended still, and tries once more.
            if let Err(error) = started {
                tracing::error!(server = name, error = format!("{error:#}"), "a private server does not come back");
            }
        }
    }
}
