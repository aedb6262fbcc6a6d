#!/usr/bin/env bash
# The stock Python client (PyPI `tikv-client` 0.0.4) against a node of its own, with regions so small
# that everything happens over several of them. Says SKIPPED, and why, where the client cannot be
# installed: its wheels are for CPython 3.11.
set -euo pipefail

flotilla=$1
here=$(cd "$(dirname "$0")" && pwd)
venv=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/flotilla}/python

skip() {
    echo "SKIPPED: the stock Python client: $*"
    exit 0
}

python=$(command -v python3.11 || command -v python3) || skip "there is no python3"
if [[ ! -x $venv/bin/python ]]; then
    "$python" -m venv "$venv" >/dev/null 2>&1 || { rm -rf "$venv"; skip "$python has no venv module"; }
fi
"$venv/bin/python" -c 'import tikv_client' 2>/dev/null ||
    "$venv/bin/python" -m pip install --quiet tikv-client==0.0.4 ||
    skip "$("$python" --version) can install no tikv-client 0.0.4"

data=$(mktemp -d)
"$flotilla" server --data-dir "$data/store" --addr 127.0.0.1:0 --log-level warn \
    --set region.split-keys=64 --set storage.disk-reserve=256MiB >"$data/out" 2>"$data/err" &
node=$!
trap 'kill "$node" 2>/dev/null; wait "$node" 2>/dev/null; rm -rf "$data"' EXIT

# The node says when it serves; a node that ends first ends the wait too.
addr=$(timeout 30 tail --pid="$node" -n +1 -f "$data/out" | sed -n 's/^flotilla serves on //p;//q' || true)
[[ -n $addr ]] || { cat "$data/err" >&2; exit 1; }
"$venv/bin/python" "$here/raw.py" "$addr" || { cat "$data/err" >&2; exit 1; }
