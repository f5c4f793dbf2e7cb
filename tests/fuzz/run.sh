#!/bin/bash
# Fuzzes what comes from the other side: the handshake's packets, requests and rings, the published region.
#
#   tests/fuzz/run.sh [SECONDS] [handshake|request|region]...
#
# Each target runs for SECONDS (20) from tests/fuzz/seeds, with the address and undefined sanitizers. Exit status 0: nothing
# found; 77: clang or its fuzzer is missing. A long run, which keeps what it learns and what it finds:
#
#   ATT_FUZZ_CORPUS=$HOME/attnd-corpus tests/fuzz/run.sh 28800
#
# A finding is written to the corpus folder (else to the current one) as crash-HASH; run the target, whose path is printed,
# with that file to see it again.
set -u

seconds=20
case ${1:-} in [0-9]*) seconds=$1; shift ;; esac
targets=${*:-handshake request region}
source=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work" /tmp/attnd-fuzz-??????' EXIT
clang=${CLANG:-clang}

echo 'int LLVMFuzzerTestOneInput(const char *d, long n); int LLVMFuzzerTestOneInput(const char *d, long n) { return !d && n; }' >"$work/try.c"
if ! "$clang" -fsanitize=fuzzer,address,undefined "$work/try.c" -o "$work/try" >/dev/null 2>&1; then
    echo "fuzz: skipped: $clang with -fsanitize=fuzzer is not installed (apt-get install clang)"
    exit 77
fi
flags=(-std=gnu17 -g -O1 -D_GNU_SOURCE -DATTND_VERSION='"fuzz"' -ffp-contract=off -fno-strict-aliasing
    -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
    -I "$source/ipc" -I "$source/core" -I "$source/persist")
compile() { # object source flags...
    local object=$1 file=$2
    shift 2
    "$clang" "${flags[@]}" "$@" -c "$file" -o "$work/$object.o" || exit 1
}
for file in "$source"/ipc/*.c "$source"/core/{status,kernel,reader,region,row}.c; do
    compile "$(basename "$file" .c)" "$file"
done
# The plain kernel is the one that runs; the others, which take long to compile with sanitizers, are only linked.
export ATTND_ISA=plain
for set in plain:-O1 avx2:"-O0 -fno-sanitize=all -mavx2 -mfma" \
    avx512:"-O0 -fno-sanitize=all -mavx512f -mavx512vl -mavx2 -mfma" \
    avx512_256:"-O0 -fno-sanitize=all -mavx512f -mavx512vl -mavx2 -mfma -DHALVES"; do
    name=${set%%:*}
    for part in lanes read sums few; do
        # shellcheck disable=SC2086
        compile "kernel_${part}_$name" "$source/core/kernel_$part.c" ${set#*:} -DKERNEL_ISA="$name"
    done
done
status=0
for target in $targets; do
    "$clang" "${flags[@]}" -fsanitize=fuzzer,address,undefined "$source/tests/fuzz/fuzz_$target.c" "$work"/*.o \
        -lm -lpthread -o "$work/fuzz_$target" || exit 1
    corpus=${ATT_FUZZ_CORPUS:-$work/corpus}/$target
    mkdir -p "$corpus"
    # close_fd_mask: the daemon's own messages are not wanted. Leaks are looked for by the unit tests.
    if ASAN_OPTIONS=detect_leaks=0 "$work/fuzz_$target" -max_total_time="$seconds" -max_len=4096 -close_fd_mask=2 \
        -artifact_prefix="${ATT_FUZZ_CORPUS:-$PWD}/" -print_final_stats=1 "$corpus" "$source/tests/fuzz/seeds/$target" \
        >"$work/log" 2>&1; then
        echo "fuzz $target: nothing found in $(sed -n 's/^stat::number_of_executed_units: *//p' "$work/log") runs, ${seconds} s"
    else
        echo "fuzz $target: FAILED" >&2
        tail -40 "$work/log" >&2
        status=1
    fi
done
exit $status
