#!/bin/bash
# The README's "Use it", as a reader would paste it: the shell commands, the C program and the Python one all work.
# Environment: ATTND_BUILD (the build directory).
source "$(dirname "$0")/lib.bash"
need attnd attnctl attninspect
ln -s "$build" build
ln -s "$source/tests" tests
export XDG_RUNTIME_DIR=$root # the default socket is ours
section() { # the lines of "Use it"
    sed -n '/^## Use it/,/^## [^U]/p' "$source/README.md"
}
fenced() { # LANGUAGE: the first block in it
    section | sed -n "/^\`\`\`$1\$/,/^\`\`\`\$/p" | sed '1d;/^```$/,$d'
}

# ---- the shell ----------------------------------------------------------------------------------------------
# Indented blocks; code in fences is indented too, but inside the fence.
section | awk '/^```/ { fence = !fence } !fence && /^    / { print substr($0, 5) }' >commands.sh
if [ "$(wc -l <commands.sh)" -lt 8 ]; then
    fail "the commands are found" commands.sh
fi
{ echo "set -e"; cat commands.sh; echo "wait"; } >session.sh
if timeout 200 bash session.sh >session.log 2>&1 </dev/null; then
    pass "the shell commands: $(wc -l <commands.sh)"
else
    fail "the shell commands" session.log
fi
check "one value and its bound" grep -qE '^-?[0-9.e-]+ [0-9.e-]+$' session.log
check "append says the index" grep -qx 2048 session.log
check "O.npy" test -s O.npy
check "report.html" test -s report.html
pids=$(pgrep -f "^build/attnd --dir state --q tests/data" 2>/dev/null)
for pid in $pids; do
    [ "$(readlink "/proc/$pid/cwd")" = "$root" ] && kill -9 "$pid"
done

# ---- C and Python -------------------------------------------------------------------------------------------
rm -rf state
grep -q '^ATTND_SANITIZE:[A-Z]*=.' "$build/CMakeCache.txt" 2>/dev/null && exit $failed # no library for others
"$build/attnd" --dir state --q tests/data/realS/Q.npy --k tests/data/realS/K.npy --v tests/data/realS/V.npy >ready 2>daemon.log &
daemon=$!
for _ in $(seq 600); do grep -q '^ready' ready && break; sleep 0.05; done
fenced c >program.c
check "the C program builds" cc -std=c17 -Wall -Wextra -Werror program.c -o program -I "$source/ipc" -I "$source/core" \
    "$build/libattn.a" -lm
check "and runs" ./program
cp check.log program.log
check "and prints a value" grep -qE '^-?[0-9.e-]+ \+- [0-9.e-]+$' program.log
if /usr/bin/python3 -c 'import numpy' 2>/dev/null; then
    fenced python >program.py
    check "the Python program" env PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$source/tools/python" ATTN_LIBRARY="$build/libattn.so" \
        /usr/bin/python3 program.py
    cp check.log program.log
    check "and prints an answer" grep -q 'Answer(value=' program.log
fi
stop_daemon

# ---- links --------------------------------------------------------------------------------------------------
for page in "$source"/*.md "$source"/docs/*.md "$source"/docs/examples/*.md "$source"/tools/python/*.md; do
    for link in $(grep -oE '\]\([^)#]+' "$page" | cut -c3- | grep -v '^http'); do
        [ -e "$(dirname "$page")/$link" ] || fail "${page#"$source"/}: the link $link leads nowhere"
    done
done
pass "links were followed"
exit $failed
