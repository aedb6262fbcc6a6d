#!/usr/bin/env bash
# Proves which package may use which, and which libraries pure packages never see, not even through
# others: what a build of the package alone, with its default features, would link.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
# The packages that a build of $1 links, itself aside; $2: more arguments for cargo.
linked() {
    # shellcheck disable=SC2086 # the arguments are words
    cargo tree --quiet --edges normal --prefix none --format '{p}' --package "$1" ${2:-} | awk '{print $1}' | sort -u | grep -vx "$1" || true
}

complain() {
    echo "edges: $*" >&2
    failed=1
}

# check PACKAGE "OURS IT MAY LINK" "LIBRARIES IT MUST NOT LINK" [CARGO ARGUMENTS]
check() {
    local package=$1 allowed=$2 banned=$3 arguments=${4:-} found
    found=$(linked "$package" "$arguments")
    for one in $(grep '^flotilla' <<<"$found" || true); do
        [[ " $allowed " == *" $one "* ]] || complain "$package links $one; it may link: ${allowed:-nothing of ours}"
    done
    for one in $banned; do
        grep -qx -- "$one" <<<"$found" && complain "$package links $one, which belongs elsewhere" || true
    done
    echo "edges: $package: $(wc -w <<<"$found") packages${arguments:+ ($arguments)}"
}

sockets="tokio tonic hyper h2 axum mio socket2"
storage="rocksdb librocksdb-sys"
# `rand` without this one has no randomness but seeds.
randomness="getrandom"

#     package             links of ours                                                                        never
check flotilla-proto      ""                                                                                   "$sockets $storage $randomness crossbeam-channel"
check flotilla-raft       "flotilla-proto"                                                                     "$sockets $storage $randomness crossbeam-channel parking_lot"
check flotilla-engine     "flotilla-proto"                                                                     "$sockets $storage $randomness crossbeam-channel"
check flotilla-engine     "flotilla-proto"                                                                     "$sockets" "--features rocks"
check flotilla-mailbox    ""                                                                                   "$sockets $storage $randomness crossbeam-channel dashmap tokio"
check flotilla-router     "flotilla-mailbox"                                                                   "$sockets $storage $randomness"
check flotilla-router     "flotilla-mailbox"                                                                   "$sockets $storage $randomness" "--features threads"
check flotilla-raftstore  "flotilla-raft flotilla-engine flotilla-router flotilla-mailbox flotilla-proto"      "$sockets $storage $randomness"
check flotilla-kv         "flotilla-engine flotilla-raftstore flotilla-raft flotilla-router flotilla-mailbox flotilla-proto" "$sockets $storage $randomness"
check flotilla-pd-client  "flotilla-proto"                                                                     "$sockets $storage $randomness"
check flotilla-pd-client  "flotilla-proto flotilla-tls"                                                        "$storage" "--features transport"
check flotilla-tls        ""                                                                                   "$storage"
check flotilla-pd-plan    "flotilla-proto"                                                                     "$sockets $storage $randomness crossbeam-channel parking_lot"
check flotilla-pd         "flotilla-proto flotilla-pd-client flotilla-pd-plan"                                "$sockets $storage $randomness crossbeam-channel"
check flotilla-benches    "flotilla-proto flotilla-pd-client flotilla-tls"                                     "$storage"
check flotilla-tests      "flotilla-engine flotilla-kv flotilla-raft flotilla-raftstore flotilla-router flotilla-mailbox flotilla-proto flotilla-pd flotilla-pd-plan flotilla-pd-client" "$sockets $storage"

# The gRPC services are turned on by the server, the benches and the transport of pd-client only.
for package in flotilla-raft flotilla-engine flotilla-router flotilla-raftstore flotilla-kv flotilla-pd-client flotilla-pd-plan flotilla-pd flotilla-tests; do
    found=$(cargo tree --quiet --edges normal,features --prefix none --package "$package")
    grep -q 'flotilla-proto feature "grpc"' <<<"$found" && complain "$package turns on flotilla-proto/grpc" || true
done

# A clippy.toml hides the bans in the root. Only what links RocksDB or opens sockets has one; the
# engine without RocksDB is checked against the root all the same (make lint).
for file in $(git ls-files '*/clippy.toml'); do
    [[ " engine server server/bin benches tls " == *" ${file%/clippy.toml} "* ]] || complain "$file hides the bans in clippy.toml from a pure package"
done

# Files are never deleted by their range: that ignores open snapshots, and a crash does not take it back (contracts: C8).
# The engine bans the calls of the crate; nobody else may reach the crate, or what lies below it.
for manifest in $(git grep -lE '^(rocksdb|librocksdb)' -- '*/Cargo.toml'); do
    [[ $manifest == engine/Cargo.toml ]] || complain "$manifest names RocksDB, which belongs to the engine"
done
for name in DBCommon::delete_file_in_range DBCommon::delete_file_in_range_cf; do
    grep -q "rocksdb::$name\"" engine/clippy.toml || complain "engine/clippy.toml does not ban $name"
done
found=$(git grep -nE 'delete_files?_in_range|pub use (::)?rocksdb' -- '*.rs' || true)
[[ -z $found ]] || complain "deletes files by their range, or lets others do so: $found"

# A package that is new here would go unproved.
known="proto raft engine mailbox router raftstore kv pd-client pd-plan pd bin benches tests tls"
for manifest in $(git ls-files '*Cargo.toml'); do
    name=$(sed -n 's/^name = "\(flotilla[a-z-]*\)"$/\1/p' "$manifest" | head -1)
    [[ -z $name || $name == flotilla ]] && continue
    [[ " $known " == *" ${name#flotilla-} "* ]] || complain "$manifest: $name has no line in $0"
done

exit $failed
