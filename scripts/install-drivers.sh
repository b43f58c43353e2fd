#!/usr/bin/env bash
# Installs the drivers that `make test-drivers` runs into the directory $1: Python and Node packages, pinned, from their registries, and
# what they need of Debian's or Ubuntu's packages. What is there already is left alone.
set -euo pipefail

readonly dir=${1:?the directory to install into}
readonly source=$(realpath "$(dirname "$0")/../tests/drivers")
readonly jdbc=/usr/share/java/postgresql.jar

# Packages of the distribution that are missing.
packages=()
python3 -c 'import venv, ensurepip' 2>/dev/null || packages+=(python3-venv)
command -v npm >/dev/null || packages+=(nodejs npm)
# A source file is run as it is: that takes the compiler, too.
command -v javac >/dev/null || packages+=(default-jdk-headless)
[ -e "$jdbc" ] || packages+=(libpostgresql-jdbc-java)

if [ ${#packages[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "this is not Debian or Ubuntu: install what these packages hold: ${packages[*]}" >&2
        exit 1
    fi
    sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
            echo "installing drivers needs root; run: sudo apt-get install --no-install-recommends ${packages[*]}" >&2
            exit 1
        fi
        sudo=(sudo -n)
    fi
    export DEBIAN_FRONTEND=noninteractive
    "${sudo[@]}" apt-get update -q
    "${sudo[@]}" apt-get install -y -q --no-install-recommends "${packages[@]}"
fi

# Whether $1 was installed from what the files after it hold; if not, it is emptied.
up_to_date() {
    local target=$1
    shift
    local sum
    sum=$(cat "$@" | sha256sum)
    [ "$(cat "$target/installed" 2>/dev/null)" = "$sum" ] && return
    rm -rf "$target"
    mkdir -p "$target"
    echo "$sum" >"$target.installing"
    return 1
}

if ! up_to_date "$dir/python" "$source/python/requirements.txt"; then
    python3 -m venv "$dir/python"
    "$dir/python/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: -r "$source/python/requirements.txt"
    mv "$dir/python.installing" "$dir/python/installed"
fi

if ! up_to_date "$dir/node" "$source/node/package-lock.json"; then
    cp "$source/node/package.json" "$source/node/package-lock.json" "$dir/node"
    (cd "$dir/node" && npm ci --silent --ignore-scripts --no-audit --no-fund)
    mv "$dir/node.installing" "$dir/node/installed"
fi
