#!/usr/bin/env bash
# Installs PostgreSQL 14 or newer (server, client, contrib) from Debian's or Ubuntu's packages, if it
# is missing. The distribution's own cluster is neither created nor started.
set -euo pipefail

readonly major_min=14
readonly createcluster=/etc/postgresql-common/createcluster.conf

# Whether the directory $1 holds a usable PostgreSQL.
usable() {
    local program version
    for program in initdb postgres psql pgbench; do
        [ -x "$1/$program" ] || return 1
    done
    version=$("$1/postgres" --version 2>/dev/null | sed -n 's/^postgres (PostgreSQL) \([0-9]*\).*/\1/p')
    [ -n "$version" ] && [ "$version" -ge "$major_min" ]
}

# Prints the directory that shardctl would use; keep the order as in shardctl/src/dev/binaries.rs.
find_binaries() {
    local dir
    if [ -n "${RINGWAY_PG_BIN:-}" ]; then
        usable "$RINGWAY_PG_BIN" && echo "$RINGWAY_PG_BIN"
        return
    fi
    for dir in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV) "$(pg_config --bindir 2>/dev/null || true)"; do
        if [ -n "$dir" ] && usable "$dir"; then
            echo "$dir"
            return
        fi
    done
    return 1
}

if dir=$(find_binaries); then
    echo "PostgreSQL is installed: $dir"
    exit 0
fi
if [ -n "${RINGWAY_PG_BIN:-}" ]; then
    echo "RINGWAY_PG_BIN=$RINGWAY_PG_BIN holds no PostgreSQL $major_min or newer; unset it to use the packages" >&2
    exit 1
fi
if ! command -v apt-get >/dev/null; then
    echo "this is not Debian or Ubuntu: install PostgreSQL $major_min or newer, and set RINGWAY_PG_BIN to the directory of its programs" >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    script=$(realpath "$0")
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        exec sudo -n bash "$script"
    fi
    echo "installing PostgreSQL needs root; run: sudo $script" >&2
    exit 1
fi

export DEBIAN_FRONTEND=noninteractive
install_packages() {
    apt-get install -y -q --no-install-recommends -o Dpkg::Options::=--force-confold "$@"
}
apt-get update -q
install_packages postgresql-common

# The server's package creates a cluster on installation unless this file says otherwise.
saved=$(mktemp)
cp -p "$createcluster" "$saved"
trap 'cp -p "$saved" "$createcluster"; rm -f "$saved"' EXIT
sed -i '/^[[:space:]]*create_main_cluster[[:space:]]*=/d' "$createcluster"
echo 'create_main_cluster = false' >>"$createcluster"
install_packages postgresql postgresql-client postgresql-contrib

if ! dir=$(find_binaries); then
    echo "the distribution's PostgreSQL is older than $major_min: add the packages of https://apt.postgresql.org and run this again" >&2
    exit 1
fi
echo "PostgreSQL is installed: $dir"
