#!/usr/bin/env bash
# Prints the scripts of PostgreSQL's regression tests, one a line: those below $POSTGRESQL_SOURCE if it is set, else of the
# distribution's source package, which is fetched into a directory of its own.
set -euo pipefail

source=${POSTGRESQL_SOURCE:-}
if [ -z "$source" ]; then
    source=$(mktemp -d)
    mkdir -p "$source/lists/partial" "$source/parts"
    . /etc/os-release
    echo "deb-src ${POSTGRESQL_MIRROR:-http://deb.debian.org/debian} ${VERSION_CODENAME:-bookworm} main" >"$source/sources.list"
    options=(-o "Dir::Etc::sourcelist=$source/sources.list" -o "Dir::Etc::sourceparts=$source/parts" -o "Dir::State::lists=$source/lists")
    package=$(pg_config --version | sed -n 's/^PostgreSQL \([0-9]*\).*/postgresql-\1/p')
    (cd "$source" && apt-get "${options[@]}" update && apt-get "${options[@]}" source --download-only "$package" && tar -xf ./*.orig.tar.*) >&2 || {
        echo "the sources of ${package:-PostgreSQL} could not be fetched: unpack them and name the directory in POSTGRESQL_SOURCE" >&2
        exit 1
    }
fi
find "$source" -path '*/src/test/regress/sql/*.sql' | sort | grep . || {
    echo "$source has no src/test/regress/sql" >&2
    exit 1
}
