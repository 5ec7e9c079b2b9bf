//! What `make bench` makes of its measurements: without services and without a load generator.

use std::time::Duration;

#[path = "../benches/onsale/events.rs"]
mod events;
#[path = "../benches/onsale/figures.rs"]
mod figures;
#[expect(dead_code, reason = "no load is sent here")]
#[path = "../benches/onsale/load.rs"]
mod load;
#[expect(dead_code, reason = "no time is measured here")]
#[path = "../benches/onsale/rounds.rs"]
mod rounds;

use events::Events;
use figures::{Figures, Objective};
use rounds::{Pace, Side, interleaved};

fn figures(values: &[f64]) -> Figures {
    Figures::new(values.to_vec())
}

#[test]
fn the_median_stands_in_the_middle() {
    let is = |values: &[f64], median: f64| (figures(values).median() - median).abs() < 1e-9;
    assert!(is(&[3.0, 1.0, 2.0], 2.0));
    assert!(is(&[4.0, 1.0, 3.0, 2.0], 2.5));
    assert!(figures(&[]).median().is_nan());
    let ratios = Figures::ratios([(1.0, 2.0), (9.0, 10.0), (3.0, 4.0)]);
    assert!((ratios.median() - 0.75).abs() < 1e-9);
    assert_eq!(format!("{ratios:.2}"), "0.50 to 0.90");
}

#[test]
fn an_objective_is_reached_or_not() {
    let reached = |objective: Objective, values: &[f64]| objective.is_reached_by(&figures(values));
    assert_eq!(reached(Objective::AtLeast(0.9), &[0.1, 0.9, 0.9]), Some(true));
    assert_eq!(reached(Objective::AtLeast(0.9), &[0.89, 0.89, 2.0]), Some(false));
    assert_eq!(reached(Objective::AtMost(150.0), &[150.0, 150.0, 151.0]), Some(true));
    assert_eq!(reached(Objective::AtMost(150.0), &[100.0, 151.0, 151.0]), Some(false));
    assert_eq!(reached(Objective::NoGrowth, &[0.99, 1.2, 1.3]), Some(true));
    assert_eq!(reached(Objective::NoGrowth, &[1.01, 1.2, 1.3]), Some(false));
    assert_eq!(reached(Objective::None, &[1.0]), None);
}

#[test]
fn without_figures_nothing_is_reached() {
    for objective in [Objective::AtLeast(0.9), Objective::AtMost(150.0), Objective::NoGrowth] {
        assert_eq!(objective.is_reached_by(&figures(&[f64::NAN])), Some(false), "{objective}");
    }
}

#[test]
fn a_run_with_errors_is_no_measurement() {
    let output = |result: &str| format!("Running 1s test\n  12 requests in 1.00s\nRESULT {result}\n");
    let run = load::read(&output("30000 1500000 0 0 0 0 0 120 950")).unwrap();
    assert!((run.requests - 30_000.0).abs() < 1e-9 && (run.rate - 20_000.0).abs() < 1e-9);
    assert!((run.p50_micros - 120.0).abs() < 1e-9 && (run.p99_micros - 950.0).abs() < 1e-9);
    for kind in 0..5 {
        let errors: Vec<&str> = (0..5).map(|other| if other == kind { "1" } else { "0" }).collect();
        let result = format!("30000 1500000 {} 120 950", errors.join(" "));
        load::read(&output(&result)).unwrap_err();
    }
    load::read(&output("0 1500000 0 0 0 0 0 0 0")).unwrap_err();
    load::read(&output("30000 1500000 0 0 0")).unwrap_err();
    load::read("Running 1s test\n").unwrap_err();
}

#[test]
fn where_refusals_are_measured_nothing_else_counts() {
    let read = |result: &str| load::read_refused(&format!("RESULT {result}\n"));
    let run = read("30000 1500000 0 0 0 0 30000 120 950").unwrap();
    assert!((run.rate - 20_000.0).abs() < 1e-9);
    read("30000 1500000 0 0 0 0 29999 120 950").unwrap_err();
    read("30000 1500000 0 0 0 0 0 120 950").unwrap_err();
    read("30000 1500000 0 0 0 1 30000 120 950").unwrap_err();
    read("0 1500000 0 0 0 0 0 0 0").unwrap_err();
}

#[test]
fn events_are_counted_wherever_the_bytes_are_cut() {
    let stream = b"1f\r\n: beat\n\nevent: line\ndata: {\"data:\":1}\n\n\r\n8\r\ndata:2\nxdata: 3\ndat\n\r\n";
    for size in 1..=stream.len() {
        let mut events = Events::default();
        let count: u64 = stream.chunks(size).map(|bytes| events.count(bytes)).sum();
        assert_eq!(count, 2, "cut every {size} bytes");
    }
}

#[tokio::test]
async fn rounds_change_the_side_that_goes_first() {
    let pace = Pace { rounds: 3, length: Duration::ZERO, settling: Duration::ZERO };
    let mut order = Vec::new();
    let pairs = interleaved(&pace, async |side| {
        order.push(side);
        Ok((side, order.len()))
    });
    let pairs = pairs.await.unwrap();
    let (ours, theirs) = (Side::Ours, Side::Theirs);
    assert_eq!(order, [ours, theirs, ours, theirs, theirs, ours, ours, theirs]);
    // What was measured for warmth is in no pair.
    let counts: Vec<_> = pairs.iter().map(|pair| (pair.ours, pair.theirs)).collect();
    assert_eq!(counts, [((ours, 3), (theirs, 4)), ((ours, 6), (theirs, 5)), ((ours, 7), (theirs, 8))]);
}
