#!/usr/bin/env bash
# Every test that docs/guarantees.md names exists, and every sentence of it names one.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
while IFS= read -r named; do
    file=${named%%: *} test=${named#*: }
    grep -qsE "fn $test\b" "$file" || { echo "docs/guarantees.md: no test $test in $file" >&2; failed=1; }
done < <(grep -oE '`[a-z0-9_/-]+\.rs: [a-z0-9_]+`' docs/guarantees.md | tr -d '`')
while IFS= read -r sentence; do
    grep -qE '`[a-z0-9_/-]+\.rs: [a-z0-9_]+`' <<<"$sentence" ||
        { echo "docs/guarantees.md: no test is named in: $sentence" >&2; failed=1; }
done < <(grep '^- ' docs/guarantees.md)
[[ $failed -eq 0 ]] && echo "guarantees: $(grep -c '^- ' docs/guarantees.md) sentences, each with its test"
exit $failed
