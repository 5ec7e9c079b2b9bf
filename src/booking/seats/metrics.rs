//! What the seat filter counts.

use std::sync::LazyLock;

use prometheus::IntCounterVec;

use super::filter::Claimed;
use crate::platform::telemetry::metrics::counter;

static CLAIMS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter("frontrow_seat_filter_claims_total", "What the seat filter said to requests.", &["result"])
});
static DRIFT: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter(
        "frontrow_seat_filter_drift_total",
        "Seats that the filter knew otherwise than MySQL, put right.",
        &["direction"],
    )
});
static REBUILDS: LazyLock<IntCounterVec> =
    LazyLock::new(|| counter("frontrow_seat_filter_rebuilds_total", "Filters made from MySQL.", &[]));
static UNTOLD: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter(
        "frontrow_seat_filter_untold_total",
        "News that the filter did not hear: it drifts until it is compared.",
        &[],
    )
});

/// The filter was asked for seats.
pub(super) fn claimed(claimed: &Claimed) {
    let result = match claimed {
        Claimed::Granted(_) => "granted",
        Claimed::Refused { .. } => "refused",
        Claimed::Unknown => "unknown",
    };
    CLAIMS.with_label_values(&[result]).inc();
}

/// Seats were put right.
pub(super) fn healed(falsely_taken: u64, falsely_free: u64) {
    DRIFT.with_label_values(&["falsely_taken"]).inc_by(falsely_taken);
    DRIFT.with_label_values(&["falsely_free"]).inc_by(falsely_free);
}

/// A filter was made.
pub(super) fn rebuilt() {
    REBUILDS.with_label_values::<&str>(&[]).inc();
}

/// The filter was not told.
pub(super) fn untold() {
    UNTOLD.with_label_values::<&str>(&[]).inc();
}
