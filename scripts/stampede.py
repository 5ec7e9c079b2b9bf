#!/usr/bin/env python3
"""What scripts/stampede.sh needs besides: is it ready, what was the database sent, what came of it.

    forget                           empties the cache's shared tier, in the Redis that FRONTROW__REDIS__URL names
    ready URLS CONCERT [--warm]      waits until it is warm, prints when booking opens (milliseconds)
    watch URLS --until-ms T          a JSON line a second: units of database work of the catalogue so far, by name
    served CSV --secs S              journeys completed a second
    table PREFIX                     the three runs side by side, as Markdown
"""

import argparse
import collections
import datetime
import json
import os
import pathlib
import re
import socket
import sys
import time
import urllib.parse
import urllib.request

import load_summary

WINDOW_SECS = 10
# Statements of one unit of work.
STATEMENTS = {"catalog.get_concert": 2, "catalog.list_concerts": 2, "catalog.list_concerts_in": 2}
# What looks for sales goes on for ever, warm or not, and is no visitor's doing.
BACKGROUND = {"catalog.list_live_sales"}
FORGET = "local keys = redis.call('KEYS', ARGV[1]) for _, key in ipairs(keys) do redis.call('DEL', key) end return #keys"
UNITS = re.compile(r'frontrow_db_unit_seconds_count\{name="(catalog\.[a-z_]+)",result="[a-z]+"\} (\d+)')
NAMES = {"none": "(a) no cache", "cold": "(b) cold cache, no warmer", "warmed": "(c) warmed"}


def get(url, token=None):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.read().decode()


def forget(_):
    """Instances that start afterwards find nothing, as if nobody had asked for anything before."""
    url = urllib.parse.urlsplit(os.environ["FRONTROW__REDIS__URL"])
    with socket.create_connection((url.hostname, url.port), 10) as connection, connection.makefile("rb") as replies:

        def send(*words):
            words = [word.encode() for word in words]
            connection.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
            reply = replies.readline()
            if reply[:1] not in (b"+", b":"):
                sys.exit(f"Redis answered {reply!r}")

        if url.password:
            send("AUTH", urllib.parse.unquote(url.username or "default"), urllib.parse.unquote(url.password))
        send("EVAL", FORGET, "0", "*:cache:{*")


def ready(args):
    """The opening comes from the operator's page of the caches, or else from the list: asking for the concert would warm it."""
    token, bases = sys.stdin.readline().strip(), args.urls.split(",")
    concerts = json.loads(get(f"{bases[0]}/v1/concerts?limit=5"))["items"]
    opens_at = next(concert["booking_opens_at"] for concert in concerts if concert["id"] == args.concert)
    opens_at = datetime.datetime.fromisoformat(opens_at.replace("Z", "+00:00")).timestamp()
    while args.warm:
        cache = json.loads(get(f"{bases[0]}/v1/admin/concerts/{args.concert}/cache", token))
        if cache["is_warm"] and len(cache["instances"]) == len(bases):
            break
        if time.time() > opens_at - 3:
            sys.exit(f"not warm in time: {json.dumps(cache)}")
        time.sleep(0.5)
    if time.time() > opens_at - 2:
        sys.exit("no time is left before the opening")
    print(round(opens_at * 1000))


def units(bases):
    found = collections.Counter()
    for base in bases:
        for name, count in UNITS.findall(get(f"{base}/metrics")):
            if name not in BACKGROUND:
                found[name] += int(count)
    return found


def watch(args):
    bases = args.urls.split(",")
    until = args.until_ms / 1000
    while True:
        at = time.time()
        print(json.dumps({"at": at, "units": units(bases)}), flush=True)
        if at >= until:
            return
        time.sleep(max(0.0, min(1 - (time.time() - at), until - time.time())))


def served(args):
    run = load_summary.read(args.samples)
    print(f"{run.journeys['completed'] / args.secs:.1f}")


def statements(units_so_far):
    return sum(count * STATEMENTS.get(name, 1) for name, count in units_so_far.items())


def database(path, first, last):
    """Statements of the catalogue a second: the first ten seconds after the opening, and all; and how many of each unit."""
    samples = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def at(moment):
        before = [sample for sample in samples if sample["at"] <= moment]
        return (before or samples[:1])[-1]

    begin, window, end = at(first), at(first + WINDOW_SECS), at(last)

    def rate(one, other):
        span = max(other["at"] - one["at"], 1.0)
        return (statements(other["units"]) - statements(one["units"])) / span

    names = {name: end["units"].get(name, 0) - begin["units"].get(name, 0) for name in end["units"]}
    return rate(begin, window), rate(begin, end), {name: count for name, count in names.items() if count}


def measured(prefix, name):
    run = load_summary.read(f"{prefix}-{name}.csv")
    seconds = run.latencies.get(load_summary.REQUESTS, {})
    if not seconds:
        sys.exit(f"{NAMES[name]}: not one request was answered")
    first = int(run.first)
    (p95_first,) = load_summary.merged(seconds, first, first + WINDOW_SECS).percentiles(0.95)
    (p95_whole,) = load_summary.merged_all(seconds).percentiles(0.95)
    early, whole, names = database(pathlib.Path(f"{prefix}-{name}.jsonl"), run.first, run.last)
    return {
        "p95_first": p95_first,
        "p95_whole": p95_whole,
        "statements_first": early,
        "statements_whole": whole,
        "units": names,
        "completed": run.journeys["completed"],
        "offered": run.journeys["started"] + run.dropped,
        "errors": sum(run.errors.values()),
        "dropped": run.dropped,
        "span": run.span,
    }


def ratio(one, other):
    return f"{one / other:.2f}" if other > 0 else "–"


def table(args):
    runs = {name: measured(args.prefix, name) for name in NAMES}
    print("# The stampede\n")
    print("\n".join(f"- {fact}" for fact in args.fact), "\n")
    print("| run | p95 of the first 10 s, ms | p95 of the whole run, ms | catalogue statements/s, first 10 s | whole run "
          "| journeys completed of offered | errors | dropped by k6 |")
    print("| --- |" + " ---: |" * 7)
    for name, run in runs.items():
        print(f"| {NAMES[name]} | {run['p95_first']:,.1f} | {run['p95_whole']:,.1f} | {run['statements_first']:,.1f} "
              f"| {run['statements_whole']:,.1f} | {run['completed']:,} of {run['offered']:,} | {run['errors']:,} "
              f"| {run['dropped']:,} |")
    none, cold, warmed = (runs[name] for name in NAMES)
    print("\n| ratio | first 10 s | whole run | objective |\n| --- | ---: | ---: | --- |")
    for label, one, objective in (("p95 of (a) to that of (c)", none, "> 8.5"), ("p95 of (b) to that of (c)", cold, "–")):
        print(f"| {label} | {ratio(one['p95_first'], warmed['p95_first'])} | {ratio(one['p95_whole'], warmed['p95_whole'])} "
              f"| {objective} |")
    is_reached = all(none[span] > 8.5 * warmed[span] for span in ("p95_first", "p95_whole"))
    print(f"\n(a) to (c) better than 8.5 in both: {'reached' if is_reached else '**not reached**'}.")
    silent = not warmed["units"]
    print(f"No statement of the catalogue during the opening under (c): {'reached' if silent else '**not reached**'}.")
    for name, run in runs.items():
        listed = ", ".join(f"{unit} × {count:,}" for unit, count in sorted(run["units"].items())) or "none"
        print(f"\nUnits of database work of the catalogue under {NAMES[name]}: {listed}.")
    for name, run in runs.items():
        if run["dropped"] > 0.01 * max(run["offered"], 1):
            print(f"\n{NAMES[name]}: {run['dropped']:,} journeys were not even begun for want of free virtual users: "
                  "its latencies are lower bounds.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("forget")
    command.set_defaults(run=forget)
    command = commands.add_parser("ready")
    command.add_argument("urls")
    command.add_argument("concert")
    command.add_argument("--warm", action="store_true")
    command.set_defaults(run=ready)
    command = commands.add_parser("watch")
    command.add_argument("urls")
    command.add_argument("--until-ms", type=int, required=True)
    command.set_defaults(run=watch)
    command = commands.add_parser("served")
    command.add_argument("samples")
    command.add_argument("--secs", type=float, required=True)
    command.set_defaults(run=served)
    command = commands.add_parser("table")
    command.add_argument("prefix")
    command.add_argument("--fact", action="append", default=[])
    command.set_defaults(run=table)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
