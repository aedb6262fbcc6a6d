#!/usr/bin/env bash
# The figures of docs/performance.md, one after the other, in one run: `make bench`.
# FLOTILLA: the binary. OUT: where the JSON goes. SECONDS_PER_TURN: how long each turn of a comparison lasts.
set -euo pipefail
cd "$(dirname "$0")/.."

flotilla=${FLOTILLA:?the flotilla binary}
out=${OUT:-${TMPDIR:-/tmp}/flotilla-bench}
turn=${SECONDS_PER_TURN:-10}s
load_records=${LOAD_RECORDS:-1000000}
examples=$(dirname "$flotilla")/examples
mkdir -p "$out"
work=$(mktemp -d "${TMPDIR:-/tmp}/flotilla-bench-XXXXXX")
node=
trap 'stop_node || true; rm -rf "$work"' EXIT

heading() { printf '\n== %s\n' "$*"; }

# Starts a node on a fresh folder; sets `addr` and `node`.
start_node() {
    rm -rf "$work/data" "$work/node.out"
    # Not a child of this shell, which would keep its number when it has ended.
    node=$("$flotilla" server --data-dir "$work/data" --addr 127.0.0.1:0 --set log.level=warn --set region.split-queries=0 --set region.split-flow=0 \
        >"$work/node.out" 2>"$work/node.err" & echo $!)
    for _ in $(seq 1 600); do
        addr=$(sed -n 's/^flotilla serves on //p' "$work/node.out" 2>/dev/null)
        [[ -n $addr ]] && return 0
        kill -0 "$node" 2>/dev/null || { cat "$work/node.err" >&2; return 1; }
        sleep 0.05
    done
    echo "the node did not start" >&2
    return 1
}

stop_node() {
    [[ -n $node ]] || return 0
    kill -TERM "$node" 2>/dev/null || true
    while kill -0 "$node" 2>/dev/null; do sleep 0.02; done
    node=
}

heading "machine"
printf '%s, %s cores, %s GiB, %s\n' "$(uname -sr)" "$(nproc)" \
    "$(awk '/MemTotal/ {printf "%.0f", $2 / 1048576}' /proc/meminfo)" \
    "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)"

heading "raft core: three nodes in memory, one core, 128 B entries"
"$examples/steps" --json >"$out/raft.json" && "$examples/steps"

heading "log path: 128 B entries, one thread"
"$examples/log_path" --json >"$out/log.json" && "$examples/log_path"

heading "first write on a fresh folder, and resident memory then"
begin=$(date +%s%N)
start_node
"$flotilla" bench ycsb --workload a --load-only --records 1 --threads 1 --clients 1 --pd "$addr" --quiet >/dev/null
end=$(date +%s%N)
printf 'folder to first acknowledged write: %d ms (start of the client included); resident: %s\n' \
    $(((end - begin) / 1000000)) "$(awk '/VmRSS/ {printf "%.1f MiB", $2 / 1024}' "/proc/$node/status")"
stop_node

heading "RawGet 1 KiB against an echo of 1 KiB"
start_node
"$flotilla" bench raw --pd "$addr" --operation get --clients 64,256 --stock --echo spawn --duration "$turn" --json "$out/get.json"
stop_node

heading "RawPut 1 KiB against the same echo"
start_node
"$flotilla" bench raw --pd "$addr" --operation put --clients 256 --echo spawn --duration "$turn" --json "$out/put.json"
stop_node

heading "RawPut 1 KiB over 1, 256 and 1,024 active regions"
start_node
"$flotilla" bench raw --pd "$addr" --operation put --clients 256 --regions 1,256,1024 --duration "$turn" --json "$out/regions.json"
stop_node

heading "bytes written to disk per user byte: $load_records records of 1 KiB"
start_node
before=$(awk '/^write_bytes/ {print $2}' "/proc/$node/io")
"$flotilla" bench ycsb --workload a --load-only --records "$load_records" --value-size 1024 --threads 128 --pd "$addr" --json "$out/load.json"
after=$(awk '/^write_bytes/ {print $2}' "/proc/$node/io")
awk -v written=$((after - before)) -v user=$((load_records * 1024)) \
    'BEGIN {printf "%.2f bytes written per user byte (%.2f GiB for %.2f GiB)\n", written / user, written / 2^30, user / 2^30}'
curl -fs "http://$addr/metrics" 2>/dev/null | grep -E '^flotilla_db_[a-z_]*_bytes_total'
stop_node

heading "YCSB through the stock client, 100,000 records of 1,000 B, 64 threads"
for workload in a b c d e f; do
    start_node
    "$flotilla" bench ycsb --workload $workload --records 100000 --duration "$turn" --threads 64 --pd "$addr" \
        --json "$out/ycsb-$workload.json" --svg "$out/ycsb-$workload.svg" --quiet
    stop_node
done

printf '\nJSON and plots: %s\n' "$out"
