#!/usr/bin/env python3
"""Makes what the contract test calls: a concert on sale, another one to be changed, and for a buyer and an operator a
ticket, a pass, an unpaid hold and a reservation each. Writes all of it to seeded.json in the folder given."""

import datetime
import json
import pathlib
import secrets
import sys
import time
import urllib.error
import urllib.request

ROWS, SEATS = 40, 50


def call(base, method, path, token=None, body=None, headers=None):
    """The status and the body of an answer, whatever it is."""
    headers = {"Accept": "application/json", **(headers or {})}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = None
    if body is not None:
        headers["Content-Type"] = "application/json"
        data = json.dumps(body).encode()
    request = urllib.request.Request(base + path, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.loads(response.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


def must(base, wanted, *arguments, **options):
    status, body = call(base, *arguments, **options)
    if status not in wanted:
        sys.exit(f"{arguments[:2]} answered {status}: {body}")
    return body


def rfc3339(moment):
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def create_concert(base, operator, venue, opens_in):
    now = datetime.datetime.now(datetime.timezone.utc)
    opens = now + datetime.timedelta(seconds=opens_in)
    queue = {"admit_per_second": 1000, "max_active": 10000, "claim_secs": 3600, "session_secs": 86400}
    return must(base, [201], "POST", "/v1/admin/concerts", operator, {
        "title": "Contract Live",
        "artist": "The Promises",
        "description": "Every answer is one that was documented.",
        "venue_id": venue,
        "booking_opens_at": rfc3339(opens),
        "booking_closes_at": rfc3339(opens + datetime.timedelta(days=300)),
        "seat_limit_per_buyer": 1000,
        "grades": [{"code": "R", "name": "Regular", "price": 10, "sections": ["A"]}],
        "performances": [{"starts_at": rfc3339(opens + datetime.timedelta(days=301))}],
        "queue": queue,
    })


def eventually(what, ask):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = ask()
        if found is not None:
            return found
        time.sleep(0.1)
    sys.exit(f"waited too long for {what}")


def enter(base, token, concert):
    """The ticket of a place that was called, and its pass. A place that has just ended is given once more, and lapsed."""
    line = f"/v1/concerts/{concert}/queue"

    def join_and_claim():
        status, body = call(base, "POST", f"{line}/tickets", token)
        if status not in (200, 201):
            return None
        ticket = body["ticket"]
        status, body = call(base, "POST", f"{line}/passes", token, headers={"Queue-Ticket": ticket})
        return (ticket, body["pass"]) if status == 201 else None

    return eventually("a pass", join_and_claim)


def try_hold(base, token, performance, granted, seat):
    """The id of a new hold, or nothing where the seat is not to be had."""
    path = f"/v1/performances/{performance}/holds"
    status, body = call(base, "POST", path, token, {"seat_ids": [seat]}, {"Queue-Pass": granted})
    return body["id"] if status == 201 else None


def own(base, token, concert, performance, row):
    """One of everything for whoever has this token."""
    ticket, granted = enter(base, token, concert)

    first = try_hold(base, token, performance, granted, f"A-{row}-1")
    key = {"Idempotency-Key": f"prepare-{row}"}
    charge = must(base, [201], "POST", "/v1/me/points/charges", token, {"amount": 100000}, key)
    key = {"Idempotency-Key": f"prepare-pay-{row}"}
    paid = must(base, [201], "POST", f"/v1/holds/{first}/payment", token, {"method": "points"}, key)
    ticket, granted = enter(base, token, concert)
    return {"token": token, "ticket": ticket, "pass": granted, "hold": None, "charge": charge["id"],
            "reservation": paid["id"], "ticket_code": paid["seats"][0]["ticket_code"]}


def main():
    base, work = sys.argv[1], pathlib.Path(sys.argv[2])
    operator = json.loads((work / "operator.jsonl").read_text())["access_token"]
    users = [json.loads(line)["access_token"] for line in (work / "users.jsonl").read_text().splitlines()]
    rows = [{"name": str(row), "seats": SEATS} for row in range(1, ROWS + 1)]
    layout = {"name": "Hall", "city": "Daegu", "sections": [{"code": "A", "name": "Hall", "rows": rows}]}
    venue = must(base, [201], "POST", "/v1/admin/venues", operator, layout)["id"]
    concert = create_concert(base, operator, venue, -5)
    spare = create_concert(base, operator, venue, 86400)
    performance = concert["performances"][0]["id"]
    credentials = {"email": "known@example.com", "password": secrets.token_hex(16)}
    must(base, [201], "POST", "/v1/users", None, {**credentials, "name": "Known"})
    eventually("the line", lambda: call(base, "GET", f"/v1/concerts/{concert['id']}/queue")[1]["phase"] == "open" or None)
    seeded = {
        "venue": venue,
        "concert": concert["id"],
        "spare": spare["id"],
        "performance": performance,
        "credentials": credentials,
        "buyer": own(base, users.pop(), concert["id"], performance, 1),
        "operator": own(base, operator, concert["id"], performance, 2),
        "anonymous": own(base, users.pop(), concert["id"], performance, 3),
        "throwaway": users,
    }
    path = work / "seeded.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(seeded), encoding="utf-8")


if __name__ == "__main__":
    main()
