//! What webhooks count.

use std::sync::LazyLock;

use prometheus::{IntCounterVec, IntGaugeVec};

use crate::platform::telemetry::metrics::{counter, gauge};

static TRIES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter(
        "frontrow_webhook_tries_total",
        "Tries to deliver an event: accepted, failed (comes again), dead (the last one), gone (the endpoint wants no more).",
        &["result"],
    )
});
static OLDEST: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge("frontrow_webhook_overdue_seconds", "How long the delivery that is most overdue has waited for its try.", &[])
});

/// A try ended.
pub(super) fn tried(result: &'static str) {
    TRIES.with_label_values(&[result]).inc();
}

/// How long the delivery that is most overdue has waited.
pub(super) fn overdue(secs: u64) {
    OLDEST.with_label_values::<&str>(&[]).set(i64::try_from(secs).unwrap_or(i64::MAX));
}
