#!/usr/bin/env bash
# Installs what the build needs from the system's packages, or says the line that would.
# With --browser: what the dashboard is tested with; where that is not possible its test says so.
set -euo pipefail

if [[ "${1:-}" == --browser ]]; then
    for name in chromium chromium-browser google-chrome; do
        command -v "$name" >/dev/null && exit 0
    done
    line="apt-get update && apt-get install --yes --no-install-recommends chromium"
    if command -v apt-get >/dev/null && [[ $(id -u) -eq 0 ]]; then
        echo "Installing chromium" >&2
        DEBIAN_FRONTEND=noninteractive sh -c "$line" >&2 && exit 0
    fi
    echo "The dashboard is not tested without chromium (on Debian, as root: $line)." >&2
    exit 0
fi

missing=()
command -v c++ >/dev/null || missing+=(g++)
command -v make >/dev/null || missing+=(make)
# Where bindgen looks, without running it.
found_libclang() {
    [[ -n "${LIBCLANG_PATH:-}" ]] && return 0
    ldconfig -p 2>/dev/null | grep -q 'libclang\(-[0-9.]*\)\?\.so' && return 0
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null && return 0
    compgen -G '/usr/lib*/libclang*.so*' >/dev/null
}
found_libclang || missing+=(libclang-dev)
[[ ${#missing[@]} -eq 0 ]] && exit 0

line="apt-get update && apt-get install --yes --no-install-recommends ${missing[*]}"
if ! command -v apt-get >/dev/null; then
    echo "The build needs a C++ compiler and libclang (on Debian: ${missing[*]}). Install them with your system's package manager." >&2
    exit 1
fi
if [[ $(id -u) -ne 0 ]]; then
    echo "The build needs system packages. Run this, then the same make target again:" >&2
    echo "    sudo sh -c '$line'" >&2
    exit 1
fi
echo "Installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
sh -c "$line" >&2
