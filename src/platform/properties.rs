//! How unit tests try properties: the same cases each time, unless `PROPTEST_RNG_SEED` or `PROPTEST_CASES` say otherwise.

use proptest::test_runner::{Config, RngSeed};

/// For `#![proptest_config(…)]`.
pub fn config() -> Config {
    let chosen = Config::default();
    let rng_seed = match chosen.rng_seed {
        RngSeed::Random => RngSeed::Fixed(7),
        fixed @ RngSeed::Fixed(_) => fixed,
    };
    Config { rng_seed, failure_persistence: None, ..chosen }
}
