//! What the line counts.

use std::sync::{Arc, LazyLock};

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec};

use super::domain::{Bound, InCharge};
use super::line::Claimed;
use super::sale::Sale;
use crate::platform::telemetry::metrics::{counter, gauge};

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

static BOUND: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauge("frontrow_queue_lines_bound", "Live lines, by what holds admission back now.", &["by"]));
static IN_CHARGE: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauge("frontrow_queue_lines", "Live lines, by the store that keeps them.", &["store"]));
static BUYERS: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauge("frontrow_queue_buyers", "Buyers in all live lines, by where they stand.", &["standing"]));
static PACE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge("frontrow_queue_pace_per_second", "Calls per second allowed now, all live lines together.", &["limit"])
});

/// What all live lines of this instance look like after a tick.
pub(super) fn lines(sales: &[Arc<Sale>]) {
    let (mut bound, mut stores, mut buyers, mut pace) = ([0_i64; Bound::ALL.len()], [0_i64; 2], [0_u64; 4], (0, 0.0));
    for sale in sales {
        sale.view(|state| {
            let snapshot = &state.snapshot;
            if let Some(place) = Bound::ALL.iter().position(|bound| *bound == snapshot.bound) {
                bound[place] += 1;
            }
            stores[usize::from(state.in_charge == InCharge::Standby)] += 1;
            let here = [snapshot.waiting(), snapshot.called, snapshot.present, snapshot.active];
            buyers.iter_mut().zip(here).for_each(|(sum, count)| *sum += count);
            pace.0 += i64::from(state.rules.admit_per_second);
            pace.1 += snapshot.pace;
        });
    }
    for (by, count) in Bound::ALL.iter().zip(bound) {
        BOUND.with_label_values(&[by.word()]).set(count);
    }
    for (store, count) in ["redis", "mysql"].iter().zip(stores) {
        IN_CHARGE.with_label_values(&[store]).set(count);
    }
    for (standing, count) in ["waiting", "called", "present", "active"].iter().zip(buyers) {
        BUYERS.with_label_values(&[standing]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    PACE.with_label_values(&["configured"]).set(pace.0);
    #[expect(clippy::cast_possible_truncation, reason = "whole calls per second")]
    PACE.with_label_values(&["latency"]).set(pace.1.round() as i64);
}

pub(super) fn place_not_copied() {
    NOT_COPIED.with_label_values::<&str>(&[]).inc();
}

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
