#!/usr/bin/env bash
# Puts a real MySQL server and its client programs into a folder, without installing anything.
#
#   scripts/get-mysql.sh [PREFIX]     default: $FRONTROW_MYSQL_PREFIX, else .frontrow/mysql
#
# Debian releases carry MariaDB only, so on Debian the packages come from the unstable suite of the
# mirror that apt already uses; on Ubuntu they come from the release itself. Either way apt works
# with a private state in which nothing counts as installed: it therefore fetches every library that
# the server needs, libc included, and these are unpacked side by side. The wrappers in PREFIX/bin
# run the programs with those libraries. The system's packages, records and services stay as they
# are, root is not needed, the folder may be moved, and deleting it undoes everything.
#
# A second call only checks that the server runs. Exit status 1 means that MySQL cannot be had here.
set -euo pipefail

readonly root_dir=${BASH_SOURCE[0]%/*}/..
prefix=${1:-${FRONTROW_MYSQL_PREFIX:-$root_dir/.frontrow/mysql}}

say() { printf 'get-mysql: %s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 1
}

# The wrapper of the server is written last, so where it runs everything else is in place.
works() { "$prefix/bin/mysqld" --version 2>/dev/null; }

works && exit 0

for program in apt-get apt-cache dpkg-deb flock; do
  command -v "$program" >/dev/null || fail "$program is missing: MySQL is fetched on Debian and Ubuntu only"
done

mkdir -p "$prefix"
prefix=$(cd "$prefix" && pwd)
# Two calls at once would unpack into each other's folder.
exec 9>"$prefix/lock"
flock 9
works && exit 0

state=$prefix/apt
unpacked=$prefix/root.new
trap 'rm -rf "$state" "$unpacked"' EXIT
rm -rf "$state" "$unpacked" "${prefix:?}/bin"
mkdir -p "$state"/{lists,archives}/partial "$unpacked" "$prefix/bin"
: >"$state/status"

# Lists past their date are accepted: mirrors that are frozen on purpose serve them. Signatures are not
# negotiable.
options=(
  -o Dir::State::status="$state/status" -o Dir::State::extended_states="$state/extended"
  -o Dir::State::Lists="$state/lists" -o Dir::Cache="$state" -o Dir::Cache::archives="$state/archives"
  -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null
  -o APT::Install-Recommends=false -o APT::Update::Error-Mode=any -o APT::Sandbox::User=root
  -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none -o Acquire::Retries=3 -o Debug::NoLocking=true
)

# shellcheck source=/dev/null
distribution=$(. /etc/os-release && printf '%s %s' "${ID:-}" "${VERSION_CODENAME:-}")
case $distribution in
  debian\ *)
    # shellcheck disable=SC2016 # apt-get fills these in, not the shell
    mirror=$(apt-get indextargets --no-release-info --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
      awk -v codename="${distribution#* }" '
        $3 == "main" && $2 ~ "^(" codename "|stable|testing|unstable|sid)$" && !found++ { print $1 }')
    [ -n "$mirror" ] || fail "apt has no Debian mirror configured"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$state/sources.list"
    options+=(-o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=/dev/null)
    ;;
  ubuntu\ *) ;;
  *) fail "no source of MySQL packages is known for this distribution (${distribution% *})" ;;
esac

say "fetching MySQL into $prefix (about 400 MB)"
apt-get "${options[@]}" -qq update || fail "the mirror's package lists could not be read"

# Some releases put the version into the package's name.
newest() {
  apt-cache "${options[@]}" pkgnames "$1" |
    { grep -E "^$1(-[0-9]+\.[0-9]+)?\$" || true; } | sort -V | tail -n 1
}
server=$(newest mysql-server-core)
client=$(newest mysql-client-core)
if [ -z "$server" ] || [ -z "$client" ]; then fail "the mirror offers no MySQL server"; fi
apt-get "${options[@]}" -y -qq --download-only install "$server" "$client" >/dev/null ||
  fail "$server could not be downloaded"

for package in "$state"/archives/*.deb; do dpkg-deb -x "$package" "$unpacked"; done
rm -rf "$unpacked"/usr/share/{doc,man,info,lintian,perl}
rm -rf "$prefix/root"
mv "$unpacked" "$prefix/root"

# Packages differ in whether they say /lib or /usr/lib; the first that has the file is taken.
cd "$prefix/root"
loader=$(find usr/lib lib usr/lib64 lib64 -name 'ld-linux*.so.*' 2>/dev/null | head -n 1 || true)
[ -n "$loader" ] || fail "the downloaded packages bring no loader"
triplet=$(basename "$(dirname "$(find usr/lib lib -name 'libc.so.6' 2>/dev/null | head -n 1)")")
libraries=
for folder in "usr/lib/$triplet" "lib/$triplet" "usr/lib/$triplet/mysql/private" usr/lib/mysql/private; do
  libraries+=${libraries:+:}\$root/$folder
done

for name in mysqladmin mysqldump mysql mysqld; do
  program=$(find usr/sbin usr/bin -name "$name" -type f 2>/dev/null | head -n 1 || true)
  [ -n "$program" ] || fail "the downloaded packages bring no $name"
  cat >"$prefix/bin/$name.new" <<WRAPPER
#!/bin/sh
root=\$(CDPATH='' cd -- "\${0%/*}/../root" && pwd) || exit 127
exec "\$root/$loader" --library-path "$libraries" --argv0 "\$root/$program" "\$root/$program" "\$@"
WRAPPER
  chmod 755 "$prefix/bin/$name.new"
  mv "$prefix/bin/$name.new" "$prefix/bin/$name"
done

"$prefix/bin/mysqld" --version || fail "the downloaded server does not run on this machine"
