# Private services and processes of a script that measures or tests a running server. To be sourced, with `bin`, `work`
# and `die` set: take_folder, start_services, await; whatever is noted in `pids` is stopped when the script ends, by
# process id.
# shellcheck shell=bash disable=SC2154

pids=()
stop_all() {
  local index pid tries
  for ((index = ${#pids[@]} - 1; index >= 0; index--)); do
    pid=${pids[index]}
    kill -TERM "$pid" 2>/dev/null || continue
    for ((tries = 0; tries < 300; tries++)); do
      kill -0 "$pid" 2>/dev/null || continue 2
      sleep 0.1
    done
    echo "${0##*/}: $pid does not stop, killing it" >&2
    kill -KILL "$pid" 2>/dev/null || true
  done
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# An empty folder that no other run uses. The lock outlives the script in whatever it may leave behind, so two runs never
# share services.
take_folder() {
  mkdir -p "$work"
  chmod 700 "$work" # the settings hold secrets, the users' file holds tokens
  exec 9>"$work/lock"
  flock -n 9 || die "another run, or a process that one left behind, is still running"
  find "$work" -mindepth 1 -maxdepth 1 ! -name lock -exec rm -rf {} +
}

# await WHAT SECONDS PID LOG COMMAND...: until the command succeeds, the process ends, or time is up.
await() {
  local what=$1 until=$((SECONDS + $2)) pid=$3 log=$4
  shift 4
  until "$@" >/dev/null 2>&1; do
    kill -0 "$pid" 2>/dev/null || { tail -n 20 "$log" >&2; die "$what ended before it was ready, see $log"; }
    ((SECONDS < until)) || { tail -n 20 "$log" >&2; die "$what is not ready in time, see $log"; }
    sleep 0.2
  done
}

# Starts the database and Redis and exports the settings that an instance needs.
start_services() {
  local line
  "$bin" services --dir "$work/services" ${ENGINE:+--engine "$ENGINE"} >"$work/settings" 2>"$work/services.log" &
  pids+=($!)
  await services 240 "${pids[-1]}" "$work/services.log" grep -qx ready "$work/settings"
  while IFS= read -r line; do
    [[ $line != FRONTROW__*=* ]] || export "${line?}"
  done <"$work/settings"
}
