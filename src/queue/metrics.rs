//! What the line counts.

use std::sync::LazyLock;

use prometheus::IntCounterVec;

use super::line::Claimed;
use crate::platform::telemetry::metrics::counter;

static JOINS: LazyLock<IntCounterVec> =
    LazyLock::new(|| counter("frontrow_queue_joins_total", "Joins, by whether the place was new.", &["place"]));
static CLAIMS: LazyLock<IntCounterVec> =
    LazyLock::new(|| counter("frontrow_queue_claims_total", "Claims of a pass, by what came of them.", &["result"]));
static LAPSES: LazyLock<IntCounterVec> =
    LazyLock::new(|| counter("frontrow_queue_lapses_total", "Calls that nobody claimed in time.", &[]));

static NOT_COPIED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter(
        "frontrow_queue_places_not_copied_total",
        "Places that MySQL never heard of: their tickets alone prove them.",
        &[],
    )
});

pub(super) fn place_not_copied() {
    NOT_COPIED.with_label_values::<&str>(&[]).inc();
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
