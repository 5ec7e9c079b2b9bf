#!/usr/bin/env bash
# The incident that the cache and the warmer are there for, repeated: a crowd comes in the moment in which booking opens, to
#   (a) instances that keep nothing in memory, nor in Redis,
#   (b) instances with a cache that is cold in both tiers, and no warmer,
#   (c) instances that were warmed before,
# at the same offered load, 1.2 times what (b) can serve, which is measured first. Prints one table with the ratios.
#
#   scripts/stampede.sh
#
# From the environment, with their defaults:
#   FRONTROW_BIN=target/release/frontrow  K6_BIN  INSTANCES=2  SECS=40 (of each run)  GRACE=20s
#   PROBE_RATE=150  PROBE_SECS=15 (what is offered to find out what (b) can serve; doubled up to twice where that is more)
#   RATE (journeys a second; given, nothing is measured before)  OPEN_IN=40 (seconds to get ready before each opening)
#   VUS, and those of k6/lib/config.js
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { printf 'stampede.sh: %s\n' "$*" >&2; exit 1; }
say() { printf 'stampede.sh: %s\n' "$*" >&2; }

bin=${FRONTROW_BIN:-target/release/frontrow}
instances=${INSTANCES:-2}
seconds=${SECS:-40}
probe_rate=${PROBE_RATE:-150}
probe_seconds=${PROBE_SECS:-15}
open_in=${OPEN_IN:-40}
work=$PWD/.frontrow/stampede
out=$PWD/k6/out/stampede
[[ -x $bin ]] || die "there is no $bin: build it, or set FRONTROW_BIN"
ulimit -Sn 65536 2>/dev/null || ulimit -Sn "$(ulimit -Hn)"

mkdir -p k6/out
# shellcheck source=scripts/private.sh
. scripts/private.sh
take_folder
rm -f "$out"-*

k6=${K6_BIN:-$(command -v k6 || echo .frontrow/venv/bin/k6)}
[[ -x $k6 ]] || die "there is no $k6: run scripts/setup.sh load"

start_services
# Charging without a card keeps the payment provider out of what is measured, and a wide line keeps the line out of it.
export FRONTROW__POINTS__CHARGE_WITHOUT_CARD=true FRONTROW__QUEUE__SLO_MS=60000 FRONTROW__LOG__FILTER=warn
"$bin" migrate >"$work/migrate.log" 2>&1 || { tail -n 20 "$work/migrate.log" >&2; die "migrate failed"; }
head -c 24 /dev/urandom | base64 | "$bin" operator create --email stampede-operator@example.com >"$work/operator.jsonl"
operator=$(python3 -c 'import json,sys; print(json.loads(sys.stdin.readline())["access_token"])' <"$work/operator.jsonl")

base_urls=() running=0
# start_instances NAME=VALUE...: with these settings besides.
start_instances() {
  local ports port
  base_urls=() running=0
  ports=$(python3 -c 'import socket,sys
taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*[s.getsockname()[1] for s in taken])' "$instances")
  for port in $ports; do
    env "$@" FRONTROW__HTTP__ADDR=127.0.0.1:"$port" "$bin" serve >>"$work/serve.log" 2>&1 &
    pids+=($!)
    running=$((running + 1))
    base_urls+=("http://127.0.0.1:$port")
    await "the instance on $port" 60 "${pids[-1]}" "$work/serve.log" curl -fsS -m 2 "http://127.0.0.1:$port/readyz"
  done
}
stop_instances() {
  local pid
  while ((running > 0)); do
    pid=${pids[-1]}
    kill -TERM "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    unset 'pids[-1]'
    running=$((running - 1))
  done
}

# run NAME RATE SECONDS SETTING...: a new concert, instances that know nothing of it, and the crowd at its opening.
run() {
  local name=$1 rate=$2 length=$3 joined concert performance opens_at status=0 flags=()
  shift 3
  say "$name: $rate journeys a second for $length s"
  "$bin" seed users --count $((rate * length + rate + 50)) --points 10000 >"$work/users-$name.jsonl"
  # Whoever makes the concert and reads its seat map has it in memory, and all have it in Redis: that instance goes, and what is in Redis.
  start_instances FRONTROW__WARMER__ENABLED=false
  concert=$(python3 scripts/load_concert.py "${base_urls[0]}" --seat-map "$work/seat-map-$name.json" --no-wait --opens-in "$open_in" \
    --admit-per-second 10000 --max-active 100000 <<<"$operator")
  stop_instances
  python3 scripts/stampede.py forget || die "the shared tier was not emptied"
  start_instances "$@"
  joined=$(IFS=,; echo "${base_urls[*]}")
  performance=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["performance_id"])' "$work/seat-map-$name.json")
  if [[ $name == warmed ]]; then flags=(--warm); fi
  opens_at=$(python3 scripts/stampede.py ready "$joined" "$concert" "${flags[@]}" <<<"$operator") ||
    die "$name was not ready before the opening: raise OPEN_IN"
  python3 scripts/stampede.py watch "$joined" --until-ms $((opens_at + 1000 * length)) >"$out-$name.jsonl" &
  pids+=($!)
  env BASE_URLS="$joined" CONCERT="$concert" PERFORMANCE="$performance" OPENS_AT_MS="$opens_at" USERS_FILE="$work/users-$name.jsonl" \
    SEAT_MAP_FILE="$work/seat-map-$name.json" RATE="$rate" DURATION="${length}s" GRACE="${GRACE:-20s}" GOGC="${GOGC:-400}" \
    K6_CSV_TIME_FORMAT=unix_milli timeout --signal=INT --kill-after=30 $((open_in + length + 120)) \
    "$k6" run --quiet --no-summary --no-usage-report --out "csv=$out-$name.csv" k6/stampede.js || status=$?
  # 99 is k6's threshold on errors, which are counted and shown.
  [[ $status =~ ^(0|99)$ ]] || die "k6 ended with $status"
  wait "${pids[-1]}" || die "what the database was sent was not counted"
  unset 'pids[-1]'
  stop_instances
}

cold=(FRONTROW__WARMER__ENABLED=false)
if [[ -n ${RATE:-} ]]; then
  rate=$RATE basis="given"
else
  # A server that keeps up with what it is offered has not shown what it can serve.
  for ((tries = 1; ; tries++)); do
    run probe "$probe_rate" "$probe_seconds" "${cold[@]}"
    served=$(python3 scripts/stampede.py served "$out-probe.csv" --secs "$probe_seconds")
    basis="1.2 times the $served a second that (b) served of $probe_rate offered"
    python3 -c 'import sys; sys.exit(float(sys.argv[1]) > 0.9 * float(sys.argv[2]))' "$served" "$probe_rate" && break
    if ((tries == 3)); then
      basis+=", which was not more than it could: raise PROBE_RATE"
      break
    fi
    probe_rate=$((2 * probe_rate))
  done
  rate=$(python3 -c 'import math,sys; print(max(1, math.ceil(1.2 * float(sys.argv[1]))))' "$served")
fi
run none "$rate" "$seconds" FRONTROW__CACHE__ENABLED=false FRONTROW__WARMER__ENABLED=false
run cold "$rate" "$seconds" "${cold[@]}"
run warmed "$rate" "$seconds" FRONTROW__WARMER__ENABLED=true
audit=clean
"$bin" audit >"$work/audit.log" 2>&1 || audit="found a breach, see .frontrow/stampede/audit.log"

python3 scripts/stampede.py table "$out" --fact "offered: $rate journeys a second for $seconds s ($basis)" \
  --fact "generator: $("$k6" version | cut -d' ' -f1-2), on the same machine" --fact "machine: $(nproc) processors" \
  --fact "commit: $(git describe --always --dirty 2>/dev/null || echo unknown), $instances instances" --fact "audit: $audit" \
  | tee "$out-summary.md"
