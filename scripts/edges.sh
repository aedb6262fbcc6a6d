#!/usr/bin/env bash
# Proves which crate depends on which, and that the pure ones have no runtime, storage or transport.
set -euo pipefail
cd "$(dirname "$0")/.."
failed=0

# All crates that PACKAGE (with FEATURES) links, itself aside.
links() {
    cargo tree --locked --quiet --edges normal --prefix none --format '{p}' --no-dedupe \
        --package "$1" --no-default-features --features "$2" | awk '{print $1}' | sort -u | grep -vx "$1" || true
}

# PACKAGE [feature,..]: ours it may link | theirs it must not
check() {
    local package=$1 features=$2 allowed=" $3 " banned=$4 found
    found=$(links "$package" "$features")
    for crate in $(grep '^flotilla' <<<"$found" || true); do
        case "$allowed" in
        *" $crate "*) ;;
        *) echo "edge: $package must not depend on $crate" >&2; failed=1 ;;
        esac
    done
    for crate in $banned; do
        if grep -qx "$crate" <<<"$found"; then
            echo "edge: $package must not link $crate" >&2
            failed=1
        fi
    done
}

io="tokio tonic hyper axum mio socket2 rocksdb librocksdb-sys getrandom tikv-client"
threads="crossbeam-channel"

check flotilla-proto      "" ""                                                                  "$io $threads"
check flotilla-mailbox    "" ""                                                                  "$io $threads"
check flotilla-raft       "" "flotilla-proto"                                                    "$io $threads"
check flotilla-engine     "" "flotilla-proto"                                                    "$io $threads"
check flotilla-router     "" "flotilla-mailbox"                                                  "$io $threads"
check flotilla-raftstore  "" "flotilla-proto flotilla-raft flotilla-engine flotilla-router flotilla-mailbox" "$io $threads"
check flotilla-kv         "" "flotilla-proto flotilla-raft flotilla-engine flotilla-router flotilla-mailbox flotilla-raftstore" "$io $threads"
check flotilla-pd-client  "" "flotilla-proto"                                                    "$io $threads"
check flotilla-pd         "" "flotilla-proto flotilla-pd-client"                                 "$io $threads"
check flotilla-engine     "rocks" "flotilla-proto"                                               "tokio tonic hyper axum tikv-client"
check flotilla-router     "threads" "flotilla-mailbox"                                           "tokio tonic hyper axum rocksdb tikv-client"
check flotilla-pd-client  "transport" "flotilla-proto"                                           "rocksdb tikv-client"

[ $failed -eq 0 ] && echo "dependency edges hold"
exit $failed
