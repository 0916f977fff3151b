#!/usr/bin/env bash
# Runs every fuzz target of the agent protocol for so many seconds: `fuzz.sh SECONDS [TARGET…]`. It stops at the first
# failure; the input is then in crates/agent-protocol/fuzz/artifacts, and belongs into the corpus with its fix.
set -euo pipefail
cd "$(dirname "$0")/../crates/agent-protocol"
seconds="$1"
shift
build="$PWD/../../target/fuzz"
export PATH="$PWD/../../target/tools/bin:$PATH"
# The pinned toolchain instead of a nightly one: sanitizers are behind a switch that this opens.
export RUSTC_BOOTSTRAP=1

[ $# -gt 0 ] || set -- $(cargo fuzz list)
for target in "$@"; do
    # What the fuzzer finds goes to the first folder; the seeds in the second are only read.
    mkdir -p "$build/corpus/$target"
    echo "fuzz: $target for $seconds s" >&2
    cargo fuzz run --target-dir "$build" "$target" "$build/corpus/$target" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 -verbosity=0 2>&1 |
        sed '/^###### Recommended dictionary/,/^###### End/d'
done
