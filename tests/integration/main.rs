//! Tests against real servers: started once per run by `scripts/test.sh`, a database for each test.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod availability;
mod cancelled;
mod clocks;
mod conflicts;
mod drain;
mod edge;
mod exhaustion;
mod faults;
mod idempotency;
mod jobs;
mod journey;
mod kit;
mod limits;
mod line;
mod operations;
mod outbox;
mod partitions;
mod races;
mod readiness;
mod stage;
mod statements;
mod units;
