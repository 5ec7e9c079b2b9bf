//! What the warmer counts.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};

use crate::platform::telemetry::metrics::{counter, gauge, histogram};

static LOADS: LazyLock<HistogramVec> = LazyLock::new(|| {
    histogram(
        "frontrow_warmer_load_seconds",
        "Time to load a concert into this instance's memory: claimed (into the shared tier as well) or followed.",
        &["by", "result"],
    )
});
static RENEWED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter(
        "frontrow_warmer_renewed_total",
        "Warmings made due again by this instance, because the shared tier had lost what was loaded.",
        &["why"],
    )
});
static CONCERTS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "frontrow_warmer_concerts",
        "Concerts whose doors are open or open within the lead time, by whether this instance has them in memory.",
        &["state"],
    )
});
static COLD: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge("frontrow_warmer_cold_openings", "Openings within a minute that are not warm on this instance.", &[])
});
static SHORT: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "frontrow_warmer_short_openings",
        "Openings within a minute before which what is warm on this instance ages.",
        &[],
    )
});
static OVERDUE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge(
        "frontrow_warmer_overdue_seconds",
        "How long the warming that is most overdue has waited for an instance.",
        &[],
    )
});

/// How the concerts of this instance stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub warm: i64,
    pub cold: i64,
    /// Openings within a minute: not warm, and warm but not for long enough.
    pub cold_openings: i64,
    pub short_openings: i64,
}

/// A concert was loaded, or not.
pub(super) fn loaded(by: &'static str, is_ok: bool, elapsed: Duration) {
    let result = if is_ok { "ok" } else { "failed" };
    LOADS.with_label_values(&[by, result]).observe(elapsed.as_secs_f64());
}

/// Warmings were made due again.
pub(super) fn renewed(why: &'static str, concerts: u32) {
    RENEWED.with_label_values(&[why]).inc_by(concerts.into());
}

/// What this instance sees now.
pub(super) fn seen(standing: Standing, overdue: Duration) {
    CONCERTS.with_label_values(&["warm"]).set(standing.warm);
    CONCERTS.with_label_values(&["cold"]).set(standing.cold);
    COLD.with_label_values::<&str>(&[]).set(standing.cold_openings);
    SHORT.with_label_values::<&str>(&[]).set(standing.short_openings);
    OVERDUE.with_label_values::<&str>(&[]).set(i64::try_from(overdue.as_secs()).unwrap_or(i64::MAX));
}
