#!/usr/bin/env bash
# Runs the tests on one database server and one Redis, started for this run and stopped after it.
#
#   scripts/test.sh [--engine mysql|mariadb] [arguments of cargo test]
#
# Without --engine the server is MySQL where there is one, else MariaDB. With --engine mariadb only
# the integration tests run unless --test names others, since the others do not touch SQL. Where FRONTROW__DATABASE__URL and
# FRONTROW__REDIS__URL are both set, those servers are used and nothing is started: the first names an account that may make databases and
# give rights, FRONTROW_SERVER_URL another one, without any.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/.."

readonly dir=.frontrow/test
readonly program=${CARGO_TARGET_DIR:-target}/debug/frontrow
# Initialising a database on a busy machine takes a while.
readonly start_limit_secs=240
# Tests wait more than they work: for ticks, for locks, for what was killed to come back.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}

fail() {
  printf 'test: %s\n' "$*" >&2
  exit 1
}

engine=
if [ "${1:-}" = --engine ]; then
  engine=${2:-}
  case $engine in mysql | mariadb) ;; *) fail "--engine takes mysql or mariadb" ;; esac
  shift 2
fi
suite=()
case "$engine $*" in
  *" --test "*) ;;
  mariadb*) suite=(--test integration) ;;
esac

# Compiling first: the servers need not wait for it, and a mistake shows before they start.
cargo test --locked --no-run "${suite[@]}" "$@"

if [ -n "${FRONTROW__DATABASE__URL:-}" ] && [ -n "${FRONTROW__REDIS__URL:-}" ]; then
  echo "test: using the servers that the environment names" >&2
  exec cargo test --locked "${suite[@]}" "$@"
fi
# A selection such as --lib does not build the program itself.
[ -x "$program" ] || cargo build --locked

# Servers of an interrupted run may still be ending; their data is not pulled away under them.
wait_for_predecessors() {
  local noted pid tries
  [ -e "$dir/lock" ] || return 0
  flock --timeout 60 "$dir/lock" true || fail "another test run uses $dir"
  for noted in "$dir"/*/server.pid; do
    [ -e "$noted" ] || continue
    pid=$(<"$noted")
    for ((tries = 0; tries < 300; tries++)); do
      [ "$(readlink "/proc/$pid/cwd")" = "$(realpath "${noted%/*}/data")" ] || break
      sleep 0.1
    done
  done
}
wait_for_predecessors
rm -rf "$dir"
mkdir -p "$dir"

services=
# shellcheck disable=SC2317 # called by the trap
stop_services() {
  [ -n "$services" ] || return 0
  kill -TERM "$services" 2>/dev/null || true
  wait "$services" 2>/dev/null || true
}
trap stop_services EXIT

(umask 077 && : >"$dir/settings")
# The death signal ends the servers even if this script is killed.
setpriv --pdeathsig TERM -- "$program" services --dir "$dir" ${engine:+--engine "$engine"} \
  >"$dir/settings" 2>"$dir/services.log" &
services=$!

for ((tries = 0; ; tries++)); do
  if grep -qx ready "$dir/settings"; then break; fi
  if ! kill -0 "$services" 2>/dev/null || [ "$tries" -ge $((start_limit_secs * 10)) ]; then
    tail -n 40 "$dir/services.log" >&2
    fail "the servers did not start"
  fi
  sleep 0.1
done
while IFS= read -r line; do
  case $line in FRONTROW__*=*) export "${line?}" ;; esac
done <"$dir/settings"
# Tests make databases of their own, so they are the owner; one tries the server's account.
export FRONTROW_SERVER_URL=$FRONTROW__DATABASE__URL FRONTROW__DATABASE__URL=$FRONTROW__DATABASE__MIGRATION_URL
unset FRONTROW__DATABASE__MIGRATION_URL

status=0
cargo test --locked "${suite[@]}" "$@" || status=$?
exit "$status"
