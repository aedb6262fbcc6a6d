#!/usr/bin/env bash
# Runs the stock Python client against a node: scripts/test-python.sh PATH-OF-THE-BINARY.
#
# The client is published for one version of Python only. Where that, pip or the package index is
# missing, this says so and succeeds: the same calls are tested through the Rust client. Once it is
# installed, the network is not needed again.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly client="tikv-client==0.0.4"
readonly python_version="3.11"

flotilla=${1:?"usage: scripts/test-python.sh PATH-OF-THE-BINARY"}
[[ -x $flotilla ]] || { echo "$0: $flotilla is no program" >&2; exit 2; }
cache=${XDG_CACHE_HOME:-$HOME/.cache}/flotilla
venv=$cache/python-$python_version

skip() {
    echo "test-python: skipped: $*" >&2
    exit 0
}

# The program that is Python $python_version, under whatever name.
find_python() {
    local name
    for name in "python$python_version" python3 python; do
        if command -v "$name" >/dev/null &&
            "$name" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$python_version')" 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

installed() {
    "$venv/bin/python" -c "
import importlib.metadata, sys
name, version = '$client'.split('==')
sys.exit(importlib.metadata.version(name) != version)" 2>/dev/null
}

if ! installed; then
    python=$(find_python) || skip "there is no Python $python_version, the one that $client is built for"
    mkdir -p "$cache"
    rm -rf "$venv"
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    "$python" -m venv "$venv" >"$log" 2>&1 ||
        skip "$python makes no virtual environment (on Debian: python$python_version-venv): $(tail -n 1 "$log")"
    if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --retries 1 --only-binary :all: "$client" >"$log" 2>&1; then
        rm -rf "$venv"
        skip "pip does not install $client: $(tail -n 1 "$log")"
    fi
fi

FLOTILLA=$(realpath "$flotilla") "$venv/bin/python" -B -m unittest discover --start-directory server/bin/tests/python --pattern '*_test.py' --verbose
