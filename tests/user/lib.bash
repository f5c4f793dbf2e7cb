# For the scripts beside it: a temporary directory, checks, a daemon. Environment: ATTND_BUILD, ATT_TEST_KEEP.
# After `source lib.bash`: $source, $build, $root (the working directory), and the functions below.
set -u
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=${ATTND_BUILD:-$source/build}
root=$(mktemp -d "/tmp/attnd-user-XXXXXX")
daemon=
failed=0

clean_up() {
    [ -n "$daemon" ] && kill -9 "$daemon" 2>/dev/null
    [ "$(type -t at_end)" = function ] && at_end
    if [ -n "${ATT_TEST_KEEP:-}" ]; then
        echo "kept: $root"
    else
        rm -rf -- "$root"
    fi
}
trap clean_up EXIT
cd "$root" || exit 1

skip() { # WHY
    echo "skipped: $1"
    exit 77
}

need() { # PROGRAM...: of the build, or skipped
    local program
    for program in "$@"; do
        [ -x "$build/$program" ] || skip "$build/$program is not built"
    done
}

# A program that is built outside cannot load a library with a sanitizer in it.
need_no_sanitizer() {
    if grep -q '^ATTND_SANITIZE:[A-Z]*=.' "$build/CMakeCache.txt" 2>/dev/null; then
        skip "a sanitizer's library is no library for others"
    fi
}

pass() { # NAME
    echo "ok   $1"
}

fail() { # NAME [FILE]...: the files' last lines are shown
    echo "FAIL $1"
    failed=1
    shift
    local file
    for file in "$@"; do
        sed "s|^|     ${file##*/}: |" "$file" 2>/dev/null | tail -12
    done
}

check() { # NAME COMMAND...: the command must succeed; its output is shown when it does not
    local name=$1
    shift
    if "$@" >"$root/check.log" 2>&1; then
        pass "$name"
    else
        fail "$name" "$root/check.log"
    fi
}

# start_daemon [ARGUMENT]...: attnd (the build's, or $attnd) on state/ and the socket s.
start_daemon() {
    : >ready
    "${attnd:-$build/attnd}" --dir state --socket "$root/s" "$@" >ready 2>daemon.log &
    daemon=$!
    local i
    for i in $(seq 1 600); do
        grep -q '^ready' ready && return 0
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.05
    done
    fail "attnd $* is not ready" daemon.log
    exit 1
}

stop_daemon() { # its exit code is in $stopped
    kill -TERM "$daemon" 2>/dev/null
    wait "$daemon"
    stopped=$?
    daemon=
}

ctl() {
    timeout 60 "$build/attnctl" --socket "$root/s" "$@"
}

# arrays N_Q N_K D D_V: Q.npy K.npy V.npy
arrays() {
    "$build/tests/mknpy" Q.npy f4 C "$1" "$3"
    "$build/tests/mknpy" K.npy f4 C "$2" "$3"
    "$build/tests/mknpy" V.npy f4 C "$2" "$4"
}
