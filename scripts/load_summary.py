#!/usr/bin/env python3
"""Summarises a k6 run: the whole of it, and the worst ten seconds of every step.

Reads k6's `--out csv` file (K6_CSV_TIME_FORMAT=unix_milli) line by line, prints Markdown, and
writes NAME-summary.md and NAME-summary.json next to it. Exits with 1 if the run must not be
believed or did not go well: errors, nothing completed, dropped or cut-off iterations.

Latencies are kept in buckets one per cent apart, so memory does not grow with requests and a
percentile is off by half a per cent at most. Counts and maxima are exact.
"""

import argparse
import collections
import csv
import json
import math
import pathlib
import sys

WINDOW_SECS = 10
# A percentile of a few samples is only their maximum, and would name a window by one request.
WINDOW_SAMPLES_MIN = 20
DROPPED_SHARE_MAX = 0.01
CUT_OFF_SHARE_MAX = 0.01

BUCKET_GROWTH = math.log(1.01)
SMALLEST_MS = 0.001

REQUESTS = "all requests"
JOIN_TO_PASS = "join to pass"
JOURNEY = "whole journey"
TRENDS = {"time_to_pass": JOIN_TO_PASS, "journey_time": JOURNEY}


class Latencies:
    """Samples of one step in one second, or in several merged."""

    def __init__(self):
        self.count = 0
        self.max = 0.0
        self.buckets = collections.Counter()

    def add(self, milliseconds):
        self.count += 1
        self.max = max(self.max, milliseconds)
        place = math.log(max(milliseconds, SMALLEST_MS)) / BUCKET_GROWTH
        self.buckets[math.floor(place)] += 1

    def merge(self, other):
        self.count += other.count
        self.max = max(self.max, other.max)
        self.buckets.update(other.buckets)

    def percentiles(self, *shares):
        """The nearest-rank percentiles, taken at the middle of their buckets."""
        found, seen, ordered = [], 0, iter(sorted(self.buckets.items()))
        bucket = None
        for share in shares:
            rank = max(1, math.ceil(share * self.count))
            while seen < rank:
                bucket, size = next(ordered)
                seen += size
            found.append(min(math.exp((bucket + 0.5) * BUCKET_GROWTH), self.max))
        return found


class Run:
    """All that is counted, per second of the run where a window may need it."""

    def __init__(self):
        self.latencies = {}  # series -> second -> Latencies
        self.errors = collections.Counter()  # (second, step, code) -> count
        self.conflicts = collections.Counter()
        self.answers = collections.Counter()  # (step, status) -> count
        self.journeys = collections.Counter()  # outcome -> count
        self.dropped = 0
        self.first = self.last = None

    def observe(self, series, second, milliseconds):
        seconds = self.latencies.setdefault(series, {})
        if second not in seconds:
            seconds[second] = Latencies()
        seconds[second].add(milliseconds)

    def request(self, at, step, status, milliseconds):
        self.first = at if self.first is None else min(self.first, at)
        self.last = at if self.last is None else max(self.last, at)
        self.answers[step, status] += 1
        # A request without an answer has no latency. It is counted among the errors, and its
        # zero here would make a failing server look quick.
        if status != "0":
            self.observe(step, int(at), milliseconds)
            self.observe(REQUESTS, int(at), milliseconds)

    @property
    def span(self):
        return max(self.last - self.first, 1.0) if self.first is not None else 1.0


def tags_of(text):
    return dict(pair.split("=", 1) for pair in text.split("&") if "=" in pair)


def read(path):
    run = Run()
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        header = next(rows, None)
        if header is None:
            sys.exit(f"{path} is empty: k6 wrote no samples")
        column = {name: place for place, name in enumerate(header)}
        metric, timestamp, value = (column[c] for c in ("metric_name", "timestamp", "metric_value"))
        name, status, group, extra = (column[c] for c in ("name", "status", "group", "extra_tags"))
        for row in rows:
            # k6 that was killed leaves half a line at the end.
            if len(row) < len(header) or row[group] == "::setup":
                continue
            kind, at = row[metric], int(row[timestamp]) / 1000
            if kind == "http_req_duration":
                run.request(at, row[name], row[status], float(row[value]))
            elif kind in TRENDS:
                run.observe(TRENDS[kind], int(at), float(row[value]))
            elif kind == "journeys":
                run.journeys[tags_of(row[extra])["outcome"]] += int(float(row[value]))
            elif kind in ("errors", "conflicts"):
                tags = tags_of(row[extra])
                counter = run.errors if kind == "errors" else run.conflicts
                counter[int(at), tags["step"], tags["code"]] += int(float(row[value]))
            elif kind == "dropped_iterations":
                run.dropped += int(float(row[value]))
    return run


def figures(latencies, seconds):
    p50, p95, p99 = latencies.percentiles(0.50, 0.95, 0.99)
    return {
        "count": latencies.count,
        "per_second": latencies.count / seconds,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "max_ms": latencies.max,
    }


def counted(counter, series, begin=-math.inf, end=math.inf):
    return sum(
        count
        for (second, step, _), count in counter.items()
        if begin <= second < end and (series == REQUESTS or step == series)
    )


def merged(seconds, begin, end):
    whole = Latencies()
    for second in range(begin, end):
        if second in seconds:
            whole.merge(seconds[second])
    return whole


def worst_window(run, series):
    """The ten seconds, begun at any second of the run, with the highest p95."""
    seconds = run.latencies[series]
    first, last = int(run.first), int(run.last)
    worst = None
    for begin in range(first, max(first, last - WINDOW_SECS + 1) + 1):
        window = merged(seconds, begin, begin + WINDOW_SECS)
        if window.count < WINDOW_SAMPLES_MIN:
            continue
        (p95,) = window.percentiles(0.95)
        if worst is None or (p95, window.max) > worst[0]:
            worst = ((p95, window.max), begin, window)
    if worst is None:
        return None
    _, begin, window = worst
    return {
        "from_second": begin - first,
        **figures(window, WINDOW_SECS),
        "errors": counted(run.errors, series, begin, begin + WINDOW_SECS),
        "conflicts": counted(run.conflicts, series, begin, begin + WINDOW_SECS),
    }


def by_kind(counter):
    kinds = collections.Counter()
    for (_, step, code), count in counter.items():
        kinds[step, code] += count
    return [{"step": s, "code": c, "count": n} for (s, c), n in kinds.most_common()]


def summarise(name, facts, run):
    started = run.journeys["started"]
    ended = sum(run.journeys[outcome] for outcome in ("completed", "refused", "failed"))
    steps = [s for s in run.latencies if s not in (REQUESTS, JOIN_TO_PASS, JOURNEY)]
    series = [s for s in (*steps, REQUESTS, JOIN_TO_PASS, JOURNEY) if s in run.latencies]
    return {
        "name": name,
        "facts": facts,
        "seconds": run.span,
        "requests": sum(run.answers.values()),
        "journeys": {
            "offered": started + run.dropped,
            "started": started,
            "completed": run.journeys["completed"],
            "refused": run.journeys["refused"],
            "failed": run.journeys["failed"],
            "cut_off": started - ended,
            "dropped": run.dropped,
        },
        "errors": by_kind(run.errors),
        "conflicts": by_kind(run.conflicts),
        "answers": {
            s: {status: n for (step, status), n in sorted(run.answers.items()) if step == s}
            for s in dict.fromkeys(step for step, _ in run.answers)
        },
        "whole_run": {
            s: {
                **figures(merged_all(run.latencies[s]), run.span),
                "errors": counted(run.errors, s),
                "conflicts": counted(run.conflicts, s),
            }
            for s in series
        },
        "worst_ten_seconds": {s: worst_window(run, s) for s in series},
    }


def merged_all(seconds):
    return merged(seconds, min(seconds), max(seconds) + 1)


def verdict(summary):
    journeys = summary["journeys"]
    errors = sum(kind["count"] for kind in summary["errors"])
    reasons = []
    if errors:
        reasons.append(f"{errors} errors")
    if journeys["completed"] == 0:
        reasons.append("not one journey was completed")
    if journeys["dropped"] > DROPPED_SHARE_MAX * journeys["offered"]:
        reasons.append(
            f"{journeys['dropped']} of {journeys['offered']} iterations were dropped for want of "
            "free virtual users: these figures measure k6, not the server (raise VUS or lower RATE)"
        )
    if journeys["cut_off"] > CUT_OFF_SHARE_MAX * journeys["started"]:
        reasons.append(
            f"{journeys['cut_off']} journeys were cut off by the end of the run: the line moved "
            "slower than buyers came (raise GRACE to see them through)"
        )
    return reasons


def table(rows, first_column):
    head = f"| {first_column} | count | /s | p50 ms | p95 ms | p99 ms | max ms | errors | conflicts |"
    lines = [head, "| --- |" + " ---: |" * 8]
    for label, row in rows:
        if row is None:
            lines.append(f"| {label} |" + " – |" * 8)
            continue
        numbers = " | ".join(f"{row[key]:,.1f}" for key in ("per_second", "p50_ms", "p95_ms", "p99_ms", "max_ms"))
        lines.append(f"| {label} | {row['count']:,} | {numbers} | {row['errors']:,} | {row['conflicts']:,} |")
    return lines


def kinds(title, found):
    if not found:
        return [f"{title}: none."]
    return [f"{title}: " + ", ".join(f"{k['step']} `{k['code']}` × {k['count']:,}" for k in found) + "."]


def markdown(summary, reasons):
    journeys = summary["journeys"]
    worst = [
        (f"{series}, from {window['from_second']} s" if window else f"{series} (too few)", window)
        for series, window in summary["worst_ten_seconds"].items()
    ]
    answers = (
        f"{step} " + ", ".join(f"{'none' if status == '0' else status} × {n:,}" for status, n in statuses.items())
        for step, statuses in summary["answers"].items()
    )
    lines = [f"# {summary['name']}", ""]
    lines += ["Failed: " + "; ".join(reasons) + "." if reasons else "Passed.", ""]
    lines += [f"- {key}: {value}" for key, value in summary["facts"].items()]
    lines += [
        f"- journeys: {journeys['offered']:,} offered, {journeys['completed']:,} completed, "
        f"{journeys['refused']:,} ended by an honest conflict, {journeys['failed']:,} failed, "
        f"{journeys['cut_off']:,} cut off by the end, {journeys['dropped']:,} dropped by k6",
        f"- requests: {summary['requests']:,} in {summary['seconds']:,.1f} s, "
        f"{summary['requests'] / summary['seconds']:,.1f}/s",
        "",
        "## Whole run",
        "",
        *table(summary["whole_run"].items(), "step"),
        "",
        f"## Worst ten seconds (of each row by itself, by p95, among windows of {WINDOW_SAMPLES_MIN} samples or more)",
        "",
        *table(worst, "step"),
        "",
        *kinds("Errors", summary["errors"]),
        "",
        *kinds("Conflicts", summary["conflicts"]),
        "",
        "Answers: " + "; ".join(answers) + ".",
    ]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("samples", type=pathlib.Path, help="k6's CSV file")
    parser.add_argument("--fault", action="append", default=[], help="a reason to fail, found elsewhere")
    parser.add_argument("--fact", action="append", default=[], help="key=value, shown above the figures")
    args = parser.parse_args()
    if not args.samples.is_file():
        sys.exit(f"there is no {args.samples}: k6 did not get as far as measuring")

    name = args.samples.stem
    facts = dict(fact.split("=", 1) for fact in args.fact)
    run = read(args.samples)
    summary = summarise(name, facts, run)
    reasons = args.fault + verdict(summary)
    text = markdown(summary, reasons)
    beside = args.samples.with_name(f"{name}-summary")
    beside.with_suffix(".md").write_text(text, encoding="utf-8")
    document = {"passed": not reasons, "reasons": reasons, **summary}
    beside.with_suffix(".json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(text, end="")
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
