//! What the line counts.

use std::sync::LazyLock;

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec};

use super::redis::Claimed;
use crate::platform::telemetry::metrics::{counter, gauge};

static JOINS: LazyLock<IntCounterVec> =
    LazyLock::new(|| counter("frontrow_queue_joins_total", "Joins, by whether the place was new.", &["place"]));
static CLAIMS: LazyLock<IntCounterVec> =
    LazyLock::new(|| counter("frontrow_queue_claims_total", "Claims of a pass, by what came of them.", &["result"]));
static LAPSES: LazyLock<IntCounterVec> =
    LazyLock::new(|| counter("frontrow_queue_lapses_total", "Calls that nobody claimed in time.", &[]));

static LISTENERS: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauge("frontrow_queue_listeners", "Those who listen to a line's events.", &[]));
static EVENTS: LazyLock<IntCounter> = LazyLock::new(|| {
    counter("frontrow_queue_events_sent_total", "Events of lines, counted for each listener.", &[])
        .with_label_values::<&str>(&[])
});
static DROPPED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter("frontrow_queue_listeners_dropped_total", "Listeners that ended because they had missed too much.", &[])
});

pub(super) fn listening(delta: i64) {
    LISTENERS.with_label_values::<&str>(&[]).add(delta);
}

pub(super) fn event_sent() {
    EVENTS.inc();
}

pub(super) fn listener_dropped() {
    DROPPED.with_label_values::<&str>(&[]).inc();
}

pub(super) fn joined(is_new: bool) {
    JOINS.with_label_values(&[if is_new { "new" } else { "same" }]).inc();
}

pub(super) fn claimed(claimed: &Claimed) {
    let result = match claimed {
        Claimed::Admitted(_) => "admitted",
        Claimed::Full => "full",
        Claimed::Refused(_) => "refused",
    };
    CLAIMS.with_label_values(&[result]).inc();
}

pub(super) fn ticked(lapsed: u64) {
    LAPSES.with_label_values::<&str>(&[]).inc_by(lapsed);
}
