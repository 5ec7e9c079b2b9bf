#!/usr/bin/env bash
# Tests a running server against its own /openapi.json with schemathesis: private services, one instance, a concert on
# sale, and a run each as anybody, as a buyer and as an operator. Everything it started is stopped again, by process id.
#
#   scripts/contract.sh [anonymous|buyer|operator ...]
#
# From the environment, with their defaults:
#   FRONTROW_BIN=target/debug/frontrow  ENGINE (mysql or mariadb; MySQL where it is found)
#   SECONDS_EACH=45 (time of one run, of which fuzzing and the stateful phase use what is left)
#   EXAMPLES=15 (cases of an operation and phase)  SEED=1 (or `random`)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { printf 'contract.sh: %s\n' "$*" >&2; exit 1; }

roles=("$@")
[[ ${#roles[@]} -gt 0 ]] || roles=(anonymous buyer operator)
bin=${FRONTROW_BIN:-target/debug/frontrow}
schemathesis=.frontrow/contract-venv/bin/schemathesis
seconds_each=${SECONDS_EACH:-45} examples=${EXAMPLES:-15} seed=${SEED:-1}
work=$PWD/.frontrow/contract
[[ -x $bin ]] || die "there is no $bin: build it, or set FRONTROW_BIN"
[[ -x $schemathesis ]] || die "schemathesis is missing: run scripts/setup.sh contract"
[[ $seed != random ]] || seed=$RANDOM

# shellcheck source=scripts/private.sh
. scripts/private.sh
take_folder
start_services
# Without it no charge could ever succeed.
export FRONTROW__POINTS__CHARGE_WITHOUT_CARD=true
# One caller asks for the same again and again here.
export FRONTROW__LIMITS__MAILS_PER_RECIPIENT_PER_MINUTE=1000000
# One buyer calls everything: refusing them for being too fast would show nothing else.
export FRONTROW__LIMITS__JOINS_PER_USER_PER_MINUTE=1000000
export FRONTROW__LIMITS__HOLDS_PER_USER_PER_MINUTE=1000000

"$bin" migrate >"$work/migrate.log" 2>&1 || { tail -n 20 "$work/migrate.log" >&2; die "migrate failed"; }
head -c 24 /dev/urandom | base64 | "$bin" operator create --email contract@example.com >"$work/operator.jsonl"
# The runs end sessions and erase users: each of those cases gets a buyer of its own.
"$bin" seed users --count 3000 --points 1000000 >"$work/users.jsonl"
port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
FRONTROW__HTTP__ADDR=127.0.0.1:$port "$bin" serve >"$work/serve.log" 2>&1 &
pids+=($!)
base=http://127.0.0.1:$port
await "the instance" 60 "${pids[-1]}" "$work/serve.log" curl -fsS -m 2 "$base/readyz"
python3 tests/contract/prepare.py "$base" "$work" || die "the concert could not be made"

# Every check is on; what is turned off for one operation says why in tests/contract/schemathesis.toml.
failed=()
for role in "${roles[@]}"; do
  # Anybody is refused almost everywhere: that takes less time to try.
  seconds=$seconds_each
  [[ $role != anonymous ]] || seconds=$(((seconds_each + 1) / 2))
  echo "contract.sh: as $role, seed $seed; the whole report is in .frontrow/contract/$role.log" >&2
  CONTRACT_ROLE=$role CONTRACT_BASE=$base CONTRACT_WORK=$work HYPOTHESIS_STORAGE_DIRECTORY=$work/hypothesis \
    SCHEMATHESIS_HOOKS=hooks PYTHONPATH=tests/contract PYTHONDONTWRITEBYTECODE=1 \
    "$schemathesis" --config-file tests/contract/schemathesis.toml run "$base/openapi.json" \
    --phases examples,coverage,fuzzing,stateful --mode all --continue-on-failure \
    --max-time "$seconds" --max-examples "$examples" --seed "$seed" --workers 1 --no-color \
    --request-timeout 20 --report-junit-path "$work/$role.xml" --report junit >"$work/$role.log" 2>&1 || failed+=("$role")
  tail -n 12 "$work/$role.log" >&2
done
# What failed comes last, where it is read.
for role in "${failed[@]}"; do
  sed -n '/^=* FAILURES =*$/,/^=* SUMMARY =*$/p' "$work/$role.log" | head -n 80 >&2
done
# Not a check, since it depends on the machine's speed: how deep the runs went.
reached=$(cat "$work"/*-answers.txt | awk '$4 ~ /^2/ { print $2, $3 }' | sort -u | wc -l)
echo "contract.sh: $reached operations succeeded at least once; what each answered is in .frontrow/contract/*-answers.txt" >&2
# Whatever was sent: promises hold, and the instance is still there.
curl -fsS -m 5 "$base/readyz" >/dev/null || die "the instance no longer answers"
"$bin" audit >"$work/audit.log" || { cat "$work/audit.log" >&2; die "the audit found a breach"; }
[[ ${#failed[@]} -eq 0 ]] || die "failures as: ${failed[*]}"
