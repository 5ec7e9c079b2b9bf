//! What mails count.

use std::sync::LazyLock;

use prometheus::{IntCounterVec, IntGaugeVec};

use super::domain::Kind;
use crate::platform::telemetry::metrics::{counter, gauge};

static TRIES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter(
        "frontrow_mail_tries_total",
        "Tries to send a mail: sent, failed (comes again), dead (the last one), void (no longer true, or nobody to tell).",
        &["kind", "result"],
    )
});
static OVERDUE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge("frontrow_mail_overdue_seconds", "How long the mail that is most overdue has waited for its try.", &[])
});

/// A try ended.
pub(super) fn tried(kind: Kind, result: &'static str) {
    TRIES.with_label_values(&[kind.name(), result]).inc();
}

/// How long the mail that is most overdue has waited.
pub(super) fn overdue(secs: u64) {
    OVERDUE.with_label_values::<&str>(&[]).set(i64::try_from(secs).unwrap_or(i64::MAX));
}
