#!/usr/bin/env python3
"""Sets up what a load test sells: an arena of 14,594 seats and one concert that is on sale.

Goes through the operator's REST API like any operator would, waits until every instance says that
the line is open (unless it is told not to), saves the seat map for k6, and prints the concert's id. The operator's token comes
from standard input, because arguments can be read by every process of the machine.
"""

import argparse
import datetime
import json
import pathlib
import sys
import time
import urllib.error
import urllib.request

SEATS = 14_594


def sections():
    """Three floor blocks a side, a ring of stands, and the boxes that make up the odd number."""
    floor = [(f"F{n}", f"Floor {n}", 26, 25) for n in range(1, 7)]
    stands = [(str(n), f"Stand {n}", 17, 24) for n in range(101, 127)]
    boxes = [("BOX", "Boxes", 2, 43)]
    return [
        {
            "code": code,
            "name": name,
            "rows": [{"name": str(row), "seats": seats} for row in range(1, rows + 1)],
        }
        for code, name, rows, seats in floor + stands + boxes
    ]


def grades(codes):
    floor = [code for code in codes if code.startswith("F")]
    stands = [code for code in codes if code.isdigit()]
    return [
        {"code": "VIP", "name": "VIP", "price": 165_000, "sections": floor[:3]},
        {"code": "R", "name": "R", "price": 143_000, "sections": floor[3:]},
        {"code": "S", "name": "S", "price": 121_000, "sections": stands[:13]},
        {"code": "A", "name": "A", "price": 99_000, "sections": stands[13:] + ["BOX"]},
    ]


def call(method, url, token=None, body=None):
    headers = {"Accept": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = None
    if body is not None:
        headers["Content-Type"] = "application/json"
        data = json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        sys.exit(f"{method} {url} answered {error.code}: {error.read().decode(errors='replace')}")
    except urllib.error.URLError as error:
        sys.exit(f"{method} {url}: {error.reason}")


def rfc3339(moment):
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def create_concert(base, token, queue, opens_in):
    plan = sections()
    built = sum(row["seats"] for section in plan for row in section["rows"])
    assert built == SEATS, built
    venue = call(
        "POST",
        f"{base}/v1/admin/venues",
        token,
        {"name": "Load Test Arena", "city": "Seoul", "sections": plan},
    )
    now = datetime.datetime.now(datetime.timezone.utc)
    concert = call(
        "POST",
        f"{base}/v1/admin/concerts",
        token,
        {
            "title": "Load Test Live",
            "artist": "The Virtual Users",
            "description": "One night, one arena, many more buyers than seats.",
            "venue_id": venue["id"],
            # Not yet, so that the sale opens by itself, as a real one does.
            "booking_opens_at": rfc3339(now + datetime.timedelta(seconds=opens_in)),
            "booking_closes_at": rfc3339(now + datetime.timedelta(days=30)),
            "seat_limit_per_buyer": 4,
            "grades": grades([section["code"] for section in plan]),
            "performances": [{"starts_at": rfc3339(now + datetime.timedelta(days=60))}],
            "queue": {"order": "fifo", **queue},
        },
    )
    return concert["id"]


def wait_until_open(base, concert, deadline):
    while True:
        phase = call("GET", f"{base}/v1/concerts/{concert}/queue")["phase"]
        if phase == "open":
            return
        if time.monotonic() > deadline:
            sys.exit(f"the line of {concert} is still {phase} on {base}")
        time.sleep(0.2)


def save_seat_map(base, concert, path):
    performance = call("GET", f"{base}/v1/concerts/{concert}")["performances"][0]["id"]
    seat_map = call("GET", f"{base}/v1/performances/{performance}/seat-map")
    seats = sum(len(row["seats"]) for section in seat_map["sections"] for row in section["rows"])
    if seats != SEATS:
        sys.exit(f"the seat map has {seats} seats, not {SEATS}")
    path.write_text(json.dumps(seat_map), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base_urls", help="the instances, separated by commas")
    parser.add_argument("--seat-map", type=pathlib.Path, required=True, help="where to save it")
    parser.add_argument("--admit-per-second", type=int, required=True)
    parser.add_argument("--max-active", type=int, required=True)
    parser.add_argument("--claim-secs", type=int, default=30)
    parser.add_argument("--session-secs", type=int, default=120)
    parser.add_argument("--opens-in", type=int, default=3, help="seconds until booking opens")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until it does")
    args = parser.parse_args()

    bases = args.base_urls.split(",")
    token = sys.stdin.readline().strip()
    queue = {
        "admit_per_second": args.admit_per_second,
        "max_active": args.max_active,
        "claim_secs": args.claim_secs,
        "session_secs": args.session_secs,
    }
    concert = create_concert(bases[0], token, queue, args.opens_in)
    deadline = time.monotonic() + 60
    for base in [] if args.no_wait else bases:
        wait_until_open(base, concert, deadline)
    save_seat_map(bases[0], concert, args.seat_map)
    print(concert)


if __name__ == "__main__":
    main()
