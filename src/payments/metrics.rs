//! The metrics of payments by card.

use std::sync::LazyLock;

use prometheus::{IntCounterVec, IntGaugeVec};

use super::domain::{PaymentStatus, Reason};
use super::payable::Attempt;
use crate::platform::telemetry::metrics;

static ATTEMPTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter("frontrow_payment_attempts_total", "Payments by card, by what became of them.", &["outcome"])
});
static CHECKS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter(
        "frontrow_payment_checks_total",
        "Undecided attempts and owed refunds that the provider was asked about, by what was heard.",
        &["result"],
    )
});
static WEBHOOKS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter("frontrow_payment_webhooks_total", "Webhooks of the payment provider, by result.", &["result"])
});
static OPEN: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    metrics::gauge(
        "frontrow_payments_open",
        "Payments by card that are undecided (doubt) or owed back (refund), over all instances.",
        &["state"],
    )
});
static OLDEST: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    metrics::gauge("frontrow_payments_open_oldest_seconds", "Since when the oldest of them has been so.", &[])
});

/// An attempt came to this.
pub(super) fn attempt(outcome: &'static str) {
    ATTEMPTS.with_label_values(&[outcome]).inc();
}

/// An open one was asked about.
pub(super) fn check(result: &'static str) {
    CHECKS.with_label_values(&[result]).inc();
}

/// A webhook came.
pub(super) fn webhook(result: &'static str) {
    WEBHOOKS.with_label_values(&[result]).inc();
}

/// What is open now.
pub(super) fn open(in_doubt: i64, owed: i64, oldest_secs: i64) {
    OPEN.with_label_values(&["doubt"]).set(in_doubt);
    OPEN.with_label_values(&["refund"]).set(owed);
    OLDEST.with_label_values::<&str>(&[]).set(oldest_secs);
}

/// The outcome of a decided attempt.
pub(super) fn outcome_of(attempt: &Attempt) -> &'static str {
    match (attempt.status, attempt.failure()) {
        (PaymentStatus::Pending, _) => "pending",
        (PaymentStatus::Succeeded, _) => "succeeded",
        (PaymentStatus::Refunding | PaymentStatus::Refunded, _) => "charged_in_vain",
        (PaymentStatus::Failed, Some(Reason::Declined(_))) => "declined",
        (PaymentStatus::Failed, Some(Reason::Rejected)) => "rejected",
        (PaymentStatus::Failed, Some(Reason::NotSent)) => "not_sent",
        (PaymentStatus::Failed, _) => "abandoned",
    }
}
