#!/usr/bin/env bash
# Installs what RocksDB needs to be compiled: a C++ compiler and libclang. Changes nothing when they are there.
set -euo pipefail

missing=()
command -v c++ >/dev/null || missing+=(g++)
command -v make >/dev/null || missing+=(make)
compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || compgen -G '/usr/lib/*/libclang*.so*' >/dev/null ||
    [ -n "${LIBCLANG_PATH:-}" ] || missing+=(libclang-dev)
command -v cargo >/dev/null || {
    echo "cargo is missing: install a Rust toolchain (https://rustup.rs)" >&2
    exit 1
}
[ ${#missing[@]} -eq 0 ] && exit 0

line="apt-get install -y --no-install-recommends ${missing[*]}"
if ! command -v apt-get >/dev/null; then
    echo "missing: ${missing[*]}; install them with this system's package manager" >&2
    exit 1
elif [ "$(id -u)" -ne 0 ]; then
    echo "missing: ${missing[*]}; run this once:  sudo apt-get update && sudo $line" >&2
    exit 1
fi
echo "installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >/dev/null
$line -qq >/dev/null
