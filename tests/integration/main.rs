//! Tests against real servers: started once per run by `scripts/test.sh`, a database for each test.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![expect(missing_docs, reason = "the kit's names say what they do; what does not is documented")]

#[path = "../support/mod.rs"]
mod support;

mod clocks;
mod journey;
mod line;
mod races;
