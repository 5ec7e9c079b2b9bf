//! Tests against real servers: started once per run by `scripts/test.sh`, a database for each test.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod accept_loop;
mod admission;
mod audit;
mod availability;
mod blocks;
mod cancellation;
mod cancelled;
mod clocks;
mod combiner;
mod conflicts;
mod crashes;
mod crashes_journeys;
mod drain;
mod draw;
mod edge;
mod events;
mod exhaustion;
mod faults;
mod headers;
mod hold_model;
mod hostile;
mod idempotency;
mod jobs;
mod join_limits;
mod journey;
mod kit;
mod limits;
mod line;
mod line_charge;
mod line_model;
mod line_stores;
mod lobby;
mod losses;
mod many_sales;
mod migrations;
mod operations;
mod operators;
mod outbox;
mod ownership;
mod partitions;
mod plans;
mod properties;
mod races;
mod readiness;
mod ready_bytes;
mod seat_fight;
mod seat_filter;
mod stage;
mod statements;
mod topology;
mod units;
mod waiting;
