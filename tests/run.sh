#!/bin/bash
# Installs what is missing, builds, and runs the tests.
#
#   tests/run.sh          release build and every everyday test; under 10 minutes
#   tests/run.sh --ci     the same, then the address+undefined and thread sanitizers, and a clang build if there is one
#   tests/run.sh --all    as --ci, with the long versions of the tests (ATT_LONG=1)
#
# ATT_TEST_SEED repeats a failure; ATT_REAL_A names a directory with the larger real workload; ATT_TEST_KEEP keeps
# temporary directories; JOBS is the number of compile jobs. In CI (CI=true) a source file that clang-format 14 would
# write otherwise is an error, elsewhere a warning.
set -euo pipefail

cd "$(dirname "$0")/.."
jobs=${JOBS:-$(nproc)}
everything=no
for argument in "$@"; do
    case $argument in
    --ci) everything=yes ;;
    --all)
        everything=yes
        export ATT_LONG=1
        ;;
    -h | --help)
        sed -n '2,10s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    *)
        echo "tests/run.sh: unknown argument '$argument' (--ci, --all)" >&2
        exit 2
        ;;
    esac
done

sh tests/install-deps.sh

# The thread sanitizer of gcc 12 wants less address space randomisation than some kernels give.
without_randomisation=()
if setarch "$(uname -m)" -R true 2>/dev/null; then
    without_randomisation=(setarch "$(uname -m)" -R)
fi

format_status=0
check_format() {
    local sources format_log
    if ! clang-format --version 2>/dev/null | grep -q 'version 14\.'; then
        echo "format: not checked, clang-format 14 is not installed"
        return
    fi
    format_log=$(mktemp)
    mapfile -t sources < <(find core persist ipc tools tests -name '*.[ch]' | sort)
    if clang-format --dry-run --Werror "${sources[@]}" >"$format_log" 2>&1; then
        echo "format: ${#sources[@]} files are as .clang-format wants them"
    elif [ "${CI:-}" = true ]; then
        grep 'error:' "$format_log" | cut -d: -f1 | sort | uniq -c | head -50
        echo "format: the files above are not as .clang-format wants them (clang-format -i)"
        format_status=1
    else
        echo "format: warning: $(grep 'error:' "$format_log" | cut -d: -f1 | sort -u | wc -l) files are not as .clang-format wants them"
    fi
    rm -f "$format_log"
}

build() { # PRESET
    echo "==== $1: build"
    cmake --preset "$1" -DATTND_TESTS=ON &&
        cmake --build --preset "$1" -j "$jobs"
}

failed=""
check() { # PRESET [ctest argument]...
    local preset=$1
    shift
    if ! build "$preset"; then
        failed="$failed $preset(build)"
        return
    fi
    echo "==== $preset: test"
    "${without_randomisation[@]}" ctest --preset "$preset" --no-tests=error -j 2 "$@" || failed="$failed $preset"
}

check_format
check release
if [ "$everything" = yes ]; then
    if command -v clang >/dev/null 2>&1 && compgen -G '/usr/lib/llvm-*/lib/libomp*.so*' >/dev/null; then
        check clang -L unit
    else
        echo "==== clang: skipped, clang or its OpenMP library is not installed (clang, libomp-14-dev)"
    fi
    check asan
    check tsan
fi

if [ $format_status -ne 0 ]; then
    failed="$failed format"
fi
if [ -n "$failed" ]; then
    echo "tests/run.sh: failed:$failed" >&2
    exit 1
fi
