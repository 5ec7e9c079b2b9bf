//! What each cache counts.

use std::sync::LazyLock;

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use crate::platform::telemetry::metrics::{counter, gauge};

static HITS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter(
        "frontrow_cache_hits_total",
        "Reads answered from a tier: near is this process, far is Redis.",
        &["cache", "tier"],
    )
});
static MISSES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter("frontrow_cache_misses_total", "Reads that found nothing good enough in this process.", &["cache"])
});
static LOADS: LazyLock<IntCounterVec> =
    LazyLock::new(|| counter("frontrow_cache_loads_total", "Loads from the source, by result.", &["cache", "result"]));
static COALESCED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter("frontrow_cache_coalesced_total", "Reads that waited for a load of somebody else.", &["cache"])
});
static STALE: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter(
        "frontrow_cache_stale_total",
        "Reads answered with an old value, by why: soft (it is being renewed), waiting (its load takes long), failed (its \
         load failed), silent (no news of changes came for too long). All but soft are marked in the answer.",
        &["cache", "why"],
    )
});
static REFRESHES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter(
        "frontrow_cache_refreshes_total",
        "Renewals begun while the old value was served, by why: ahead (wanted, and about to age) or soft (it had aged).",
        &["cache", "why"],
    )
});
static ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter(
        "frontrow_cache_errors_total",
        "What went wrong: far (Redis did not answer), poisoned (a value that is not whole or not of this format), too_large \
         (a value over the far tier's bound), load (the source failed), overloaded (no place to load in).",
        &["cache", "what"],
    )
});
static OLDEST: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge("frontrow_cache_oldest_entry_seconds", "Age of the oldest entry in this process.", &["cache"])
});
static BYTES: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauge("frontrow_cache_bytes", "Bytes of the entries in this process.", &["cache"]));
static FAR_BYTES: LazyLock<IntCounterVec> =
    LazyLock::new(|| counter("frontrow_cache_far_written_bytes_total", "Bytes written to Redis.", &["cache"]));
static SILENT: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "frontrow_cache_news_silent",
        "1 while no news of changes has come for too long, so that answers are marked.",
        &[],
    )
});
static GENERATION: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge("frontrow_cache_generation", "Which life of the far tier is in use; raised after Redis was away.", &[])
});
static FAR_OFF: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauge("frontrow_cache_far_off", "1 while Redis is not used as a cache.", &[]));
static CHANGES: LazyLock<IntCounterVec> =
    LazyLock::new(|| counter("frontrow_cache_changes_total", "Changes heard of, by cache.", &["cache"]));
static FORGOTTEN: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter("frontrow_cache_forgotten_total", "How often everything was forgotten because news were lost.", &[])
});

/// One cache's metrics, found once.
#[derive(Debug)]
pub(super) struct Meters {
    pub near_hits: IntCounter,
    pub far_hits: IntCounter,
    pub misses: IntCounter,
    pub loads_ok: IntCounter,
    pub loads_absent: IntCounter,
    pub loads_failed: IntCounter,
    pub coalesced: IntCounter,
    pub stale_soft: IntCounter,
    pub stale_waiting: IntCounter,
    pub stale_failed: IntCounter,
    pub stale_silent: IntCounter,
    pub refreshes_ahead: IntCounter,
    pub refreshes_soft: IntCounter,
    pub errors_far: IntCounter,
    pub errors_poisoned: IntCounter,
    pub errors_too_large: IntCounter,
    pub errors_load: IntCounter,
    pub errors_overloaded: IntCounter,
    pub oldest: IntGauge,
    pub bytes: IntGauge,
    pub far_bytes: IntCounter,
}

impl Meters {
    pub fn of(cache: &str) -> Self {
        let stale = |why| STALE.with_label_values(&[cache, why]);
        let error = |what| ERRORS.with_label_values(&[cache, what]);
        Self {
            near_hits: HITS.with_label_values(&[cache, "near"]),
            far_hits: HITS.with_label_values(&[cache, "far"]),
            misses: MISSES.with_label_values(&[cache]),
            loads_ok: LOADS.with_label_values(&[cache, "ok"]),
            loads_absent: LOADS.with_label_values(&[cache, "absent"]),
            loads_failed: LOADS.with_label_values(&[cache, "failed"]),
            coalesced: COALESCED.with_label_values(&[cache]),
            stale_soft: stale("soft"),
            stale_waiting: stale("waiting"),
            stale_failed: stale("failed"),
            stale_silent: stale("silent"),
            refreshes_ahead: REFRESHES.with_label_values(&[cache, "ahead"]),
            refreshes_soft: REFRESHES.with_label_values(&[cache, "soft"]),
            errors_far: error("far"),
            errors_poisoned: error("poisoned"),
            errors_too_large: error("too_large"),
            errors_load: error("load"),
            errors_overloaded: error("overloaded"),
            oldest: OLDEST.with_label_values(&[cache]),
            bytes: BYTES.with_label_values(&[cache]),
            far_bytes: FAR_BYTES.with_label_values(&[cache]),
        }
    }
}

/// Whether news have been missing for too long.
pub(super) fn silent(is_silent: bool) {
    SILENT.with_label_values::<&str>(&[]).set(i64::from(is_silent));
}

/// Which life of the far tier is in use.
pub(super) fn generation(generation: u64) {
    GENERATION.with_label_values::<&str>(&[]).set(i64::try_from(generation).unwrap_or(i64::MAX));
}

/// Whether the far tier is left alone.
pub(super) fn far_off(is_off: bool) {
    FAR_OFF.with_label_values::<&str>(&[]).set(i64::from(is_off));
}

/// A change was heard of.
pub(super) fn heard(cache: &str) {
    CHANGES.with_label_values(&[cache]).inc();
}

/// Everything was forgotten.
pub(super) fn forgotten() {
    FORGOTTEN.with_label_values::<&str>(&[]).inc();
}
