#!/bin/bash
# The demonstration: installs what is missing (Debian; root or sudo), builds into build/, and lets attnd keep a real
# attention head current through a real trace of edits, a reader, a SIGKILL in mid-stream and a restart.
#
#   tools/demo.sh         exit status 0 only if every error is within its bound and no acknowledged edit is lost
#
# JOBS is the number of compile jobs. Everything else is in a temporary directory that goes when it ends.
set -euo pipefail

cd "$(dirname "$0")/.."
case ${1:-} in
'') ;;
-h | --help)
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
*)
    echo "tools/demo.sh: unknown argument '$1'" >&2
    exit 2
    ;;
esac

sh tests/install-deps.sh

work=""
demo=""
# shellcheck disable=SC2317 # the trap calls it
# attndemo stops the daemon and the reader when it ends, however it ends.
clean_up() {
    trap '' INT TERM HUP
    if [ -n "$demo" ]; then
        kill "$demo" 2>/dev/null || true
        wait "$demo" 2>/dev/null || true
    fi
    if [ -n "$work" ]; then
        rm -rf -- "$work"
    fi
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# A socket's path is short: /tmp, whatever TMPDIR says.
work=$(mktemp -d /tmp/attnd-demo.XXXXXX)

echo "building in $PWD/build ..."
if ! { cmake --preset release &&
    cmake --build build -j "${JOBS:-$(nproc)}" --target attnd attndemo; } >"$work/build.log" 2>&1; then
    cat "$work/build.log" >&2
    echo "tools/demo.sh: the build failed" >&2
    exit 1
fi

echo
started=$SECONDS
status=0
build/attndemo build/attnd tests/data/realS "$work" &
demo=$!
wait "$demo" || status=$?
demo=""
if [ "$status" -eq 0 ]; then
    echo "  All as it should be, in $((SECONDS - started)) s."
fi
exit "$status"
