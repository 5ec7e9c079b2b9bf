"""What schemathesis cannot know: who calls, ids that exist, and rules over several fields.

Generated data stays as it is wherever it is meant to be wrong. What is meant to be right gets an id of something that
exists in place of a random one (but for one in five, so that absent things are asked for as well), the caller's own
ticket and pass, and bodies whose fields fit together. What the server answers is remembered: the newest ticket, pass
and hold are used by later calls.
"""

import atexit
import collections
import itertools
import json
import os
import pathlib
import re
import zlib

import prepare
import schemathesis
from schemathesis.core.parameters import ParameterLocation

ROLE, BASE = os.environ["CONTRACT_ROLE"], os.environ["CONTRACT_BASE"]
SEEDED = json.loads((pathlib.Path(os.environ["CONTRACT_WORK"]) / "seeded.json").read_text())
OWN = dict(SEEDED[ROLE])
# Each role its own share of those whose sessions may end.
ROLES = ["anonymous", "buyer", "operator"]
THROWAWAY = SEEDED["throwaway"][ROLES.index(ROLE) :: len(ROLES)]
ENDS_SESSION = {("DELETE", "/v1/me"), ("DELETE", "/v1/sessions/current")}
ENDS_HOLD = {("POST", "/v1/holds/{id}/payment"), ("DELETE", "/v1/holds/{id}")}
ENDS_STAY = {
    ("POST", "/v1/holds/{id}/payment"),
    ("DELETE", "/v1/concerts/{id}/queue/tickets/me"),
    ("DELETE", "/v1/concerts/{id}/queue/passes/me"),
}
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

seen_ids, seen_cursors = set(), set()
keys, seats, turns = itertools.count(), itertools.count(), itertools.count()
answers = collections.Counter()


@atexit.register
def tell_answers():
    """What each operation answered how often: a run that reached nothing has shown nothing."""
    lines = [f"{count:6} {label}" for label, count in sorted(answers.items(), key=lambda entry: entry[0])]
    (pathlib.Path(os.environ["CONTRACT_WORK"]) / f"{ROLE}-answers.txt").write_text("\n".join(lines) + "\n")


@schemathesis.auth(refresh_interval=None)
class Bearer:
    def get(self, case, context):
        if ROLE == "anonymous":
            return None
        if (case.method, case.path) in ENDS_SESSION:
            return THROWAWAY.pop()
        return OWN["token"]

    def set(self, case, data, context):
        if data is not None:
            case.headers["Authorization"] = f"Bearer {data}"


def one_in_five(text):
    """The same each time: a failing case can be repeated."""
    return zlib.crc32(text.encode(errors="replace")) % 5 == 0


def is_wrong_at(case, location):
    return case.meta is not None and case.meta.is_negative_at(location)


def is_wrong(case):
    return case.meta is not None and not case.meta.generation.mode.is_positive


def id_for(path):
    if path.startswith("/v1/admin/concerts"):
        return SEEDED["spare"]
    if path.startswith("/v1/holds") and OWN["hold"] is None:
        # From the last row forwards; what is drawn at random comes from all but the first three.
        for number in itertools.islice(seats, 100):
            seat = f"A-{40 - number // 50 % 37}-{1 + number % 50}"
            granted = inside()["pass"]
            OWN["hold"] = prepare.try_hold(BASE, OWN["token"], SEEDED["performance"], granted, seat)
            if OWN["hold"]:
                break
    names = {"concerts": SEEDED["concert"], "performances": SEEDED["performance"], "holds": OWN["hold"],
             "reservations": OWN["reservation"], "webhooks": None, "me": OWN["charge"]}
    return names[path.replace("/admin/", "/").split("/")[2]]


def inside():
    """What the caller has; a new place in the line where the last one has ended."""
    if OWN["pass"] is None:
        OWN["ticket"], OWN["pass"] = prepare.enter(BASE, OWN["token"], SEEDED["concert"])
    return OWN


@schemathesis.hook
def before_call(context, case, kwargs):
    path = (case.path_parameters or {}).get("id")
    if isinstance(path, str) and UUID.fullmatch(path) and not is_wrong_at(case, ParameterLocation.PATH):
        # A hold or a reservation of this run is the caller's; of concerts, only the seeded one is on sale. Holds that were
        # seen are mostly paid or given back by now, so that half of the calls get one that is neither.
        is_known = path in seen_ids and case.path.startswith(("/v1/holds", "/v1/reservations")) and next(turns) % 2
        if not is_known and not one_in_five(path):
            case.path_parameters["id"] = id_for(case.path) or path
    if path is None and "code" in (case.path_parameters or {}) and not is_wrong_at(case, ParameterLocation.PATH):
        if not one_in_five(str(case.path_parameters["code"])):
            case.path_parameters["code"] = OWN["ticket_code"] if "/tickets/" in case.path else "not_found"
    if "picture" in (case.path_parameters or {}) and not is_wrong_at(case, ParameterLocation.PATH):
        if not one_in_five(str(case.path_parameters["picture"])):
            case.path_parameters.update(id=OWN["reservation"], picture=OWN["ticket_code"] + ".svg")
    if not is_wrong_at(case, ParameterLocation.HEADER):
        for name, member in (("Queue-Ticket", "ticket"), ("Queue-Pass", "pass")):
            if name in (case.headers or {}) and not one_in_five(str(case.headers[name])):
                case.headers[name] = inside()[member]
    if is_wrong(case):
        return
    # A key that comes again with another request is refused, as it should be; here each request is one of its own.
    if "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = f"{ROLE}-{next(keys)}"
    # A cursor is the server's to give.
    if isinstance(case.query, dict) and case.query.get("cursor") not in seen_cursors:
        case.query.pop("cursor", None)
    case.body = with_whole_numbers(case.body)
    fit = FITTING.get((case.method, case.path))
    if fit and isinstance(case.body, dict):
        fit(case.body)


@schemathesis.hook
def after_call(context, case, response):
    try:
        code = response.json().get("code", "")
    except (ValueError, AttributeError):
        code = ""
    answers[f"{case.method} {case.path} {response.status_code} {code}".rstrip()] += 1
    if 200 <= response.status_code < 300 and (case.method, case.path) in ENDS_STAY:
        OWN["pass"] = None
    if 200 <= response.status_code < 300 and (case.method, case.path) in ENDS_HOLD:
        OWN["hold"] = None
    try:
        body = response.json()
    except ValueError:
        return
    if not isinstance(body, dict) or not 200 <= response.status_code < 300:
        return
    seen_ids.update(match.group() for match in UUID.finditer(json.dumps(body)))
    if isinstance(body.get("next_cursor"), str):
        seen_cursors.add(body["next_cursor"])
    kept = {"/queue/tickets": "ticket", "/queue/passes": "pass", "/holds": "id"}
    for end, member in kept.items():
        if case.method == "POST" and case.path.endswith(end):
            OWN["hold" if end == "/holds" else member] = body[member]


def with_whole_numbers(value):
    """The same with 5 for 5.0. To a JSON Schema both are integers, and it cannot say that only the first is taken: an
    amount of money is never written with a fraction."""
    if isinstance(value, dict):
        return {name: with_whole_numbers(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [with_whole_numbers(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def fit_concert(body):
    body.update(venue_id=SEEDED["venue"], booking_opens_at="2030-01-01T00:00:00Z", booking_closes_at="2030-02-01T00:00:00Z")
    body["grades"] = [{**body["grades"][0], "sections": ["A"]}]
    body["performances"] = [{"starts_at": "2030-03-01T00:00:00Z"}]
    if "queue" in body:
        body["queue"].update(order="fifo", lobby_opens_at=None)


def fit_venue(body):
    """Codes and names are unique, and a section has either rows or a capacity."""
    for number, section in enumerate(body["sections"]):
        section["code"] = f"S{number}"
        for index, row in enumerate(section.get("rows") or []):
            row["name"] = str(index)
            row["seats"] = min(row["seats"], 5)
        if section.get("rows"):
            section.pop("capacity", None)
        else:
            section.pop("rows", None)
            section["capacity"] = 1


def fit_change(body):
    """The times that are left must fit: they stay as they are."""
    body.pop("booking_opens_at", None)
    body.pop("booking_closes_at", None)


def fit_session(body):
    if not one_in_five(body["email"]):
        body.update(SEEDED["credentials"])


def fit_webhook(body):
    """An address of its own, and topics that there are."""
    body["url"] = f"https://hooks.example.com/{zlib.crc32(body['url'].encode(errors='replace'))}"
    body["topics"] = ["reservation.cancelled"]


def fit_charge(body):
    """This installation takes no cards."""
    body.pop("card_token", None)


def fit_payment(body):
    """With points, mostly, and without a coupon: cards are not taken and coupons not issued."""
    if body.get("method") == "card" or body.get("coupon_id"):
        body.clear()
        body["method"] = "points"


def fit_seats(body):
    """Mostly seats that exist, a few at a time."""
    body["seat_ids"] = [seat if one_in_five(seat) else seat_of(seat) for seat in body["seat_ids"][:4]]
    body["seat_ids"] = list(dict.fromkeys(body["seat_ids"]))


def fit_hold(body):
    """Either seats by name or the best ones: which of both there are is left to what was made up."""
    best = body.get("best_available")
    if isinstance(best, dict) and (not body.get("seat_ids") or best.get("quantity", 0) % 2):
        body.pop("seat_ids", None)
        # The grade is one of the concert's, or none.
        best.pop("grade", None)
        best["quantity"] = 1 + best["quantity"] % 4
        return
    body.pop("best_available", None)
    body["seat_ids"] = body.get("seat_ids") or ["A-5-1"]
    fit_seats(body)


def seat_of(text):
    number = zlib.crc32(text.encode(errors="replace"))
    return f"A-{4 + number % 36}-{1 + number // 36 % 50}"


def fit_blocks(body):
    """The same, from a row of their own: what is blocked cannot be held."""
    fit_seats(body)
    body["seat_ids"] = list(dict.fromkeys(re.sub("^A-[0-9]+-", "A-4-", seat) for seat in body["seat_ids"]))


def fit_postponement(body):
    """A later date, and the same one each time: a performance goes no way back."""
    body["starts_at"] = "2090-01-01T00:00:00Z"


FITTING = {
    ("POST", "/v1/admin/concerts"): fit_concert,
    ("POST", "/v1/admin/venues"): fit_venue,
    ("PATCH", "/v1/admin/concerts/{id}"): fit_change,
    ("POST", "/v1/admin/webhooks"): fit_webhook,
    ("POST", "/v1/me/points/charges"): fit_charge,
    ("POST", "/v1/sessions"): fit_session,
    ("POST", "/v1/holds/{id}/payment"): fit_payment,
    ("POST", "/v1/performances/{id}/holds"): fit_hold,
    ("POST", "/v1/admin/performances/{id}/blocks"): fit_blocks,
    ("DELETE", "/v1/admin/performances/{id}/blocks"): fit_blocks,
    ("POST", "/v1/admin/performances/{id}/postponement"): fit_postponement,
}
