//! Every metric of the platform, and the registry that `/metrics` prints.
//!
//! Features register theirs here too, through [`counter`], [`gauge`] and [`histogram`], so that there is one
//! registry with one prefix.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{Encoder as _, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::platform::error::{Code, Fault};

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let registry = Registry::new();
    let process = prometheus::process_collector::ProcessCollector::for_self();
    if let Err(error) = registry.register(Box::new(process)) {
        tracing::warn!(%error, "process metrics are missing");
    }
    registry
});

/// Latency buckets in seconds: 1 ms to 10 s, dense around the objectives of 300 ms and 1 s.
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0];

fn register<C: prometheus::core::Collector + Clone + 'static>(made: prometheus::Result<C>) -> C {
    let registered = made.and_then(|collector| REGISTRY.register(Box::new(collector.clone())).map(|()| collector));
    match registered {
        Ok(collector) => collector,
        Err(error) => unreachable!("a metric is declared twice or badly named: {error}"),
    }
}

/// A counter; its name ends in `_total`.
#[must_use]
pub fn counter(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(IntCounterVec::new(Opts::new(name, help), labels))
}

/// A gauge.
#[must_use]
pub fn gauge(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(IntGaugeVec::new(Opts::new(name, help), labels))
}

/// A histogram of seconds; its name ends in `_seconds`.
#[must_use]
pub fn histogram(name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    histogram_of(name, help, labels, SECONDS.to_vec())
}

/// A histogram of something else, with these buckets.
#[must_use]
pub fn histogram_of(name: &str, help: &str, labels: &[&str], buckets: Vec<f64>) -> HistogramVec {
    register(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels))
}

static HTTP_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    histogram(
        "frontrow_http_request_seconds",
        "Time from a request's head to its answer's head.",
        &["method", "route", "status"],
    )
});
static HTTP_ACTIVE: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauge("frontrow_http_requests_active", "Requests being worked on.", &[]));
static HTTP_CONNECTIONS: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauge("frontrow_http_connections_active", "Connections open.", &[]));
static RATE_LIMITED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter("frontrow_rate_limited_total", "Requests refused because somebody was too fast, by limit.", &["limit"])
});
static DB_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    histogram(
        "frontrow_db_unit_seconds",
        "Time of a unit of database work, retries and waiting for a connection included.",
        &["name", "result"],
    )
});
static DB_RETRIES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter("frontrow_db_retries_total", "Units of database work that ran again, by why.", &["name", "fault"])
});
static DB_POOL: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauge("frontrow_db_pool_connections", "Connections of the pool.", &["state"]));
static REDIS_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    histogram("frontrow_redis_command_seconds", "Time of a script or command, by name.", &["name", "result"])
});
static OUTBOX_PENDING: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauge("frontrow_outbox_oldest_seconds", "Age of the oldest event that was not sent yet.", &[]));
static OUTBOX_SENT: LazyLock<IntCounterVec> =
    LazyLock::new(|| counter("frontrow_outbox_sent_total", "Events by topic and result.", &["topic", "result"]));
static JOB_RUNS: LazyLock<IntCounterVec> =
    LazyLock::new(|| counter("frontrow_job_runs_total", "Scheduled jobs run by this instance.", &["job", "result"]));
static BREAKERS: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauge("frontrow_breaker_open", "1 while a dependency is left alone.", &["dependency"]));
static VIOLATIONS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauge("frontrow_invariant_violations", "Breaches found by the last check, by invariant.", &["invariant"])
});
static AUDIT_FAILURES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter("frontrow_audit_failures_total", "Checks of invariants that did not come to an end.", &["invariant"])
});

/// A request was answered.
pub fn http_request(method: &str, route: &str, status: u16, elapsed: Duration) {
    HTTP_SECONDS.with_label_values(&[method, route, &status.to_string()]).observe(elapsed.as_secs_f64());
}

/// Something was refused before it was a request.
pub fn http_refusal(status: u16) {
    http_request("other", "unreadable", status, Duration::ZERO);
}

/// Requests being worked on changed by `delta`.
pub fn http_active(delta: i64) {
    HTTP_ACTIVE.with_label_values::<&str>(&[]).add(delta);
}

/// Open connections changed by `delta`.
pub fn http_connections(delta: i64) {
    HTTP_CONNECTIONS.with_label_values::<&str>(&[]).add(delta);
}

/// Somebody was too fast for the limit of this name.
pub fn rate_limited(limit: &str) {
    RATE_LIMITED.with_label_values(&[limit]).inc();
}

/// A unit of database work ended.
pub fn db_unit(name: &str, failed: Option<&Code>, elapsed: Duration) {
    let result = match failed {
        None => "ok",
        Some(code) if code.status < 500 => "refused",
        Some(_) => "failed",
    };
    DB_SECONDS.with_label_values(&[name, result]).observe(elapsed.as_secs_f64());
}

/// A unit of database work runs again.
pub fn db_retry(name: &str, fault: Fault) {
    let fault = match fault {
        Fault::Deadlock => "deadlock",
        Fault::LockWait => "lock_wait",
        Fault::SnapshotChanged => "snapshot_changed",
        _ => "other",
    };
    DB_RETRIES.with_label_values(&[name, fault]).inc();
}

/// How often the unit `name` ran again because of `fault` (`deadlock`, `lock_wait`, `snapshot_changed`).
#[must_use]
pub fn db_retries(name: &str, fault: &str) -> u64 {
    DB_RETRIES.with_label_values(&[name, fault]).get()
}

/// The pool's size now.
pub fn db_pool(open: u32, idle: usize) {
    DB_POOL.with_label_values(&["idle"]).set(i64::try_from(idle).unwrap_or(i64::MAX));
    DB_POOL.with_label_values(&["used"]).set(i64::from(open).saturating_sub_unsigned(idle as u64));
}

/// A script or command ended.
pub fn redis_command(name: &str, ok: bool, elapsed: Duration) {
    let result = if ok { "ok" } else { "failed" };
    REDIS_SECONDS.with_label_values(&[name, result]).observe(elapsed.as_secs_f64());
}

/// Age in seconds of the oldest unsent event.
pub fn outbox_oldest(secs: i64) {
    OUTBOX_PENDING.with_label_values::<&str>(&[]).set(secs);
}

/// An event was handed on, or not.
pub fn outbox_event(topic: &str, ok: bool) {
    OUTBOX_SENT.with_label_values(&[topic, if ok { "sent" } else { "failed" }]).inc();
}

/// A scheduled job ended.
pub fn job_run(job: &str, ok: bool) {
    JOB_RUNS.with_label_values(&[job, if ok { "ok" } else { "failed" }]).inc();
}

/// A dependency's breaker opened or closed.
pub fn breaker(dependency: &str, is_open: bool) {
    BREAKERS.with_label_values(&[dependency]).set(i64::from(is_open));
}

/// When each invariant was last checked here.
static CHECKED: Mutex<BTreeMap<String, Instant>> = Mutex::new(BTreeMap::new());

/// What the last check of an invariant found.
pub fn invariant(name: &str, violations: usize) {
    CHECKED.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Instant::now());
    VIOLATIONS.with_label_values(&[name]).set(i64::try_from(violations).unwrap_or(i64::MAX));
}

/// Shows no longer what checks found that are older than `age`.
pub fn forget_invariants(age: Duration) {
    CHECKED.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, at| {
        let is_kept = at.elapsed() <= age;
        if !is_kept {
            // It fails only where nothing was shown.
            drop(VIOLATIONS.remove_label_values(&[name]));
        }
        is_kept
    });
}

/// An invariant could not be checked.
pub fn audit_failure(name: &str) {
    AUDIT_FAILURES.with_label_values(&[name]).inc();
}

/// The registry in Prometheus' text format.
#[must_use]
pub fn render() -> Vec<u8> {
    let mut text = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&REGISTRY.gather(), &mut text) {
        tracing::error!(%error, "metrics could not be written");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_findings_are_shown_no_longer() {
        let is_shown = || String::from_utf8(render()).unwrap().contains("invariant=\"made_up\"} 2");
        invariant("made_up", 2);
        forget_invariants(Duration::from_hours(1));
        assert!(is_shown());
        forget_invariants(Duration::ZERO);
        assert!(!is_shown());
        invariant("made_up", 2);
        assert!(is_shown(), "a new check shows what it found");
    }
}
