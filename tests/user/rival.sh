#!/bin/bash
# attnbench compares with an OpenBLAS that uses the processor's vectors, whatever OpenBLAS takes the processor for; what
# the user asked for stays.
# Environment: ATTND_BUILD (the build directory).
set -u

source=$(cd "$(dirname "$0")/../.." && pwd)
bench=${ATTND_BUILD:-$source/build}/attnbench
failed=0

if ! [ -x "$bench" ] || ! grep -qw avx2 /proc/cpuinfo; then
    echo "skipped: $bench is not built, or the processor has no AVX2"
    exit 77
fi

# core ASKED: the kernels that attnbench's first line names.
core() {
    env ${1:+OPENBLAS_CORETYPE=$1} "$bench" hmv --quick 2>&1 >/dev/null |
        sed -nE 's/.*rivals: OpenBLAS ([A-Za-z0-9]+).*/\1/p'
}

# A processor with AVX-512 may still be faster with Haswell's: attnbench tries.
if grep -qw avx512dq /proc/cpuinfo; then
    wide='SkylakeX|Cooperlake|Sapphire[Rr]apids|Haswell|Zen'
else
    wide='Haswell|Zen'
fi
unset OPENBLAS_CORETYPE
left_alone=$(core "")
if ! [[ $left_alone =~ ^($wide)$ ]]; then
    echo "FAIL left alone: $left_alone"
    failed=1
fi
asked=$(core Prescott)
if [ "$asked" != Prescott ]; then
    echo "FAIL Prescott was asked for: $asked"
    failed=1
fi
echo "left alone: $left_alone; asked for Prescott: $asked"
exit $failed
