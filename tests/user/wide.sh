#!/bin/bash
# The widest rows, 8192 columns: served, updated, on disk and there after a kill; one more is refused by name.
# Environment: ATTND_BUILD (the build directory).
source "$(dirname "$0")/lib.bash"
need attnd attnctl tests/mknpy
arrays 2 3 8192 8192
start_daemon --q Q.npy --k K.npy --v V.npy --scale auto --capacity 4
ctl set-k 1 $(seq 8192 | sed 's/.*/0.001/') && ctl set-v 2 $(seq 8192) && ctl append $(seq 16384 | sed 's/.*/-0.002/') >index
check "append" grep -qx 3 index
ctl row 1 >before
if [ "$(wc -w <before)" = 8193 ]; then pass "a row"; else fail "a row" before; fi
kill -9 "$daemon"
wait "$daemon" 2>/dev/null
start_daemon
ctl row 1 >after
check "a row after a kill" /usr/bin/awk 'NR == FNR { split($0, before); bound = $NF; next }
    { for (i = 1; i < NF; i++) if (($i - before[i]) ^ 2 > (2 * bound + 1e-5) ^ 2) exit 1 }' before after
stop_daemon
rm -rf state
arrays 2 3 8193 4
"$build/attnd" --dir state --socket "$root/s" --q Q.npy --k K.npy --v V.npy >out 2>err
if [ $? = 1 ] && grep -q '8192' err; then pass "8193 columns are refused"; else fail "8193 columns are refused" err; fi
exit $failed
