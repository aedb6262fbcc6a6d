#!/usr/bin/env bash
# Three nodes against three members of etcd on loopback, both with fsync, in turns of one run: `make bench-peers`.
# FLOTILLA: the binary. ETCD: etcd's. OUT: where the JSON goes. SECONDS_PER_TURN: how long each turn lasts.
# ETCD_PORT: the first of six ports.
set -euo pipefail
cd "$(dirname "$0")/.."

flotilla=${FLOTILLA:?the flotilla binary}
etcd=${ETCD:-etcd}
out=${OUT:-${TMPDIR:-/tmp}/flotilla-bench-peers}
turn=${SECONDS_PER_TURN:-10}s
port=${ETCD_PORT:-23790}
idle_regions=${IDLE_REGIONS:-1000 9999}
command -v "$etcd" >/dev/null || { echo "no $etcd: install etcd-server, or say where it is with ETCD=" >&2; exit 1; }
mkdir -p "$out"
work=$(mktemp -d "${TMPDIR:-/tmp}/flotilla-bench-XXXXXX")
pids=()
members=()
trap 'stop || true; rm -rf "$work"' EXIT

heading() { printf '\n== %s\n' "$*"; }

# Ends all of these processes and waits for them.
end() {
    local pid
    for pid in "$@"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "$@"; do while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done; done
}

stop() {
    end "${pids[@]}" "${members[@]}"
    pids=() members=()
}

# Starts a node on the folder given, with more arguments; adds to `pids` and `addrs`.
start_node() {
    local dir=$1 addr= node
    shift
    # Not a child of this shell, which would keep its number when it has ended.
    node=$("$flotilla" server --data-dir "$dir" --set log.level=warn --set region.split-queries=0 --set region.split-flow=0 "$@" >"$dir.out" 2>"$dir.err" & echo $!)
    for _ in $(seq 1 1200); do
        addr=$(sed -n 's/^flotilla serves on //p' "$dir.out" 2>/dev/null)
        [[ -n $addr ]] && break
        kill -0 "$node" 2>/dev/null || { cat "$dir.err" >&2; return 1; }
        sleep 0.05
    done
    pids+=("$node")
    addrs+=("$addr")
}

# Starts so many nodes on fresh folders, and returns when every region has as many replicas.
start_nodes() {
    local page number voters regions
    addrs=()
    rm -rf "$work"/node*
    start_node "$work/node1" --addr 127.0.0.1:0
    for number in $(seq 2 "$1"); do start_node "$work/node$number" --addr 127.0.0.1:0 --join "${addrs[0]}"; done
    for _ in $(seq 1 1200); do
        page=$(curl -fs "http://${addrs[0]}/pd/api/v1/regions" || true)
        regions=$(grep -o '"start_key"' <<<"$page" | wc -l)
        voters=$(grep -o '"role_name":"Voter"' <<<"$page" | wc -l)
        # Each region's leader is told beside its peers.
        [[ $regions -gt 0 && $voters -eq $((regions * ($1 + 1))) ]] && break
        sleep 0.1
    done
    pd=$(IFS=,; echo "${addrs[*]}")
}

start_etcd() {
    local number initial=() clients=()
    for number in 0 1 2; do
        initial+=("m$number=http://127.0.0.1:$((port + number))")
        clients+=("127.0.0.1:$((port + 3 + number))")
    done
    for number in 0 1 2; do
        members+=("$("$etcd" --name "m$number" --data-dir "$work/etcd$number" --log-level error \
            --quota-backend-bytes $((8 << 30)) \
            --listen-peer-urls "http://127.0.0.1:$((port + number))" \
            --initial-advertise-peer-urls "http://127.0.0.1:$((port + number))" \
            --listen-client-urls "http://${clients[number]}" --advertise-client-urls "http://${clients[number]}" \
            --initial-cluster "$(IFS=,; echo "${initial[*]}")" >"$work/etcd$number.out" 2>&1 & echo $!)")
    done
    members_at=$(IFS=,; echo "${clients[*]}")
    for _ in $(seq 1 300); do
        curl -fs "http://${clients[0]}/health" 2>/dev/null | grep -q '"true"' && return 0
        sleep 0.1
    done
    cat "$work"/etcd*.out >&2
    return 1
}

raw() {
    local name=$1
    shift
    "$flotilla" bench raw --pd "$pd" --duration "$turn" --json "$out/$name.json" --quiet "$@"
}

heading "machine"
printf '%s, %s cores, %s GiB, %s; %s\n' "$(uname -sr)" "$(nproc)" \
    "$(awk '/MemTotal/ {printf "%.0f", $2 / 1048576}' /proc/meminfo)" \
    "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)" "$("$etcd" --version | head -1)"

start_nodes 3
start_etcd
for operation in put get mixed; do
    heading "$operation of 1 KiB: three nodes and etcd, 1 and 256 clients, the stock client beside"
    raw "etcd-$operation" --operation "$operation" --clients 1,256 --records 20000 --etcd "$members_at" --stock
done
end "${members[@]}"
members=()

for operation in put get; do
    heading "$operation over BatchCommands, 256 and 1,024 in flight, over 1 and 256 regions"
    raw "batch-$operation" --operation "$operation" --clients 256,1024 --regions 1,256 --batch
done

heading "put over 1, 64 and 1,024 regions: fsyncs a put and messages a bulk, of all nodes"
raw regions --operation put --clients 256 --regions 1,64,1024

stop
heading "put on one node, for comparison with three"
start_nodes 1
raw one-node --operation put --clients 256
stop

for regions in $idle_regions; do
    heading "three idle nodes, $regions regions more"
    start_nodes 3
    "$flotilla" bench raw --pd "$pd" --operation put --clients 64 --regions "$regions" --duration 1s --quiet >/dev/null
    sleep 20
    before=$(cat $(printf '/proc/%s/stat ' "${pids[@]}") | awk '{sum += $14 + $15} END {print sum}')
    sleep 20
    after=$(cat $(printf '/proc/%s/stat ' "${pids[@]}") | awk '{sum += $14 + $15} END {print sum}')
    awk -v ticks=$((after - before)) -v hz="$(getconf CLK_TCK)" -v regions="$regions" \
        'BEGIN {printf "%.3f cores in all, %.1f us a region and second\n", ticks / hz / 20, ticks / hz / 20 / regions * 1e6}'
    cat $(printf '/proc/%s/status ' "${pids[@]}") | awk -v regions="$regions" \
        '/VmRSS/ {sum += $2} END {printf "%.1f MiB resident in all, %.1f KiB a region\n", sum / 1024, sum / regions}'
    end "${pids[2]}"
    unset 'pids[2]'
    begin=$(date +%s%N)
    start_node "$work/node3" --addr "${addrs[2]}" --join "${addrs[0]}"
    printf 'restart of a node: %d ms until it serves\n' $((($(date +%s%N) - begin) / 1000000))
    stop
done

printf '\nJSON: %s\n' "$out"
