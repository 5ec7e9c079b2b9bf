#!/usr/bin/env bash
# Upgrades a fleet of the previous version while it serves (tests/upgrade/).
#
#   scripts/test-upgrade.sh [--engine mysql|mariadb] [arguments of the test]
#
# The previous version is the commit in tests/previous-version. It is taken from the history, so a
# shallow clone cannot run this, and built once into .frontrow/upgrade; what it depends on is shared
# with the checkout's own target folder.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/.."

readonly noted=tests/previous-version
readonly dir=$PWD/.frontrow/upgrade

say() { printf 'test-upgrade: %s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 1
}

engine=()
if [ "${1:-}" = --engine ]; then
  case ${2:-} in mysql | mariadb) ;; *) fail "--engine takes mysql or mariadb" ;; esac
  engine=(--engine "$2")
  shift 2
fi

commit=$(grep -v '^#' "$noted") || fail "$noted names no commit"
[[ $commit =~ ^[0-9a-f]{40}$ ]] || fail "$noted must hold one whole commit id, not: $commit"
git rev-parse --git-dir >/dev/null 2>&1 || fail "this is no clone: the previous version comes from its history"
git cat-file -e "$commit^{commit}" 2>/dev/null ||
  fail "commit $commit of $noted is not in the history here; a shallow clone gets it by: git fetch --unshallow"

# build COMMIT FILE
build() {
  local commit=$1 file=$2 source=$dir/source target=${CARGO_TARGET_DIR:-$PWD/target}
  say "building the previous version, $commit"
  rm -rf "$source"
  mkdir -p "$source"
  git archive "$commit" | tar -x -C "$source"
  cargo build --locked --manifest-path "$source/Cargo.toml" --target-dir "$target" --bin frontrow
  # The next build of this checkout puts its own program there again.
  cp "$target/debug/frontrow" "$file.part"
  mv "$file.part" "$file"
  rm -rf "$source"
}

readonly program=$dir/frontrow-$commit
[ -x "$program" ] || build "$commit" "$program"

FRONTROW_PREVIOUS_BIN=$program exec scripts/test.sh "${engine[@]}" --test upgrade "$@"
