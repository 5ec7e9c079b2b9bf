//! Tests against real servers: started once per run by `scripts/test.sh`, a database for each test.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod availability;
mod clocks;
mod drain;
mod edge;
mod idempotency;
mod jobs;
mod journey;
mod limits;
mod line;
mod migrations;
mod operations;
mod outbox;
mod plans;
mod races;
mod readiness;
mod statements;
mod units;
