#!/bin/bash
# Checks the protocol models with spin, and that each of their mutations fails: a model that cannot fail says nothing.
#
#   tests/model/run.sh [tiles|moves|lanes|ring|commit]...
#
# One line for each; exit status 0 if all is as it must be, 77 if spin is not installed. A mutation is a set of -D flags,
# explained where the model uses them. A pair is checked where one line of defence stands behind another: each alone may
# go, as the lines "is safe" say (all of them with ATT_LONG=1), both may not.
set -u

for tool in spin gcc; do
    if ! command -v "$tool" >/dev/null 2>&1; then
        echo "model: skipped: $tool is not installed (apt-get install $tool)"
        exit 77
    fi
done
source=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
MEMORY_MIB=1000
SECONDS_MOST=120
status=0
wanted=" $* "

# check MODEL holds|fails WHAT [FLAG]...
check() {
    local model=$1 expected=$2 what=$3 flag result states
    shift 3
    if [ "$wanted" != "  " ] && [[ $wanted != *" $model "* ]]; then
        return
    fi
    local flags=()
    for flag in "$@"; do
        flags+=("-D$flag")
    done
    rm -f pan.* pan
    local optimise=-O1 # compiling costs more than it gains where a counterexample is soon found
    [ "$expected" = holds ] || optimise=-O0
    if ! spin -a ${flags[@]+"${flags[@]}"} "$source/$model.pml" >spin.log 2>&1 ||
        ! gcc "$optimise" -w -DSAFETY -DMEMLIM=$MEMORY_MIB -o pan pan.c >gcc.log 2>&1; then
        echo "$model $what: DOES NOT COMPILE"
        cat spin.log gcc.log 2>/dev/null
        status=1
        return
    fi
    timeout $SECONDS_MOST ./pan -m100000 -w21 -n >pan.log 2>&1
    states=$(sed -n 's/^ *\([0-9]*\) states, stored.*/\1/p' pan.log)
    if grep -Eq '^pan:1: (assertion violated|invalid end state)' pan.log; then
        result=fails
    elif grep -q 'errors: 0$' pan.log && ! grep -Eq '^pan:|^error:|Search not completed' <(grep -v '^pan: \(elapsed\|rate\|resizing\)' pan.log); then
        result=holds
    else
        result="was not checked to the end"
    fi
    if [ "$result" != "$expected" ]; then
        echo "$model $what: $result: WRONG, expected: $expected"
        cat pan.log
        status=1
    elif [ "$result" = fails ]; then
        echo "$model $what: fails, as it must"
    elif [ $# -eq 0 ]; then
        echo "$model: 0 errors in $states states"
    else
        echo "$model is safe $what too: 0 errors in $states states"
    fi
}

check tiles holds ""
check tiles fails "without a version in the word" NO_VERSION
if [ -n "${ATT_LONG:-}" ]; then
    check tiles holds "with count read before the word" COUNT_FIRST
    check tiles holds "without the check of the distance to count" NO_DISTANCE_CHECK
    check tiles holds "without the tail check, as every merge flips every tile," NO_TAIL_CHECK
fi
check tiles fails "with count read before the word, without the check of the distance" COUNT_FIRST NO_DISTANCE_CHECK
check tiles fails "without the row id, when rows are dropped" NO_ROW_ID
check tiles fails "with a refresh put into a tile at P without folding" REFRESH_UNFOLDED
check tiles holds "with tiles of cold rows that merges leave behind" LEAVE_BEHIND
check tiles fails "without the tail check, with tiles left behind" NO_TAIL_CHECK LEAVE_BEHIND
check tiles holds "with the memory of the bases replaced" REPLACE
check tiles fails "without the tail check, with the memory replaced" NO_TAIL_CHECK REPLACE
check tiles fails "with the memory replaced in the middle of a flip" REPLACE_HALF_WRITTEN REPLACE
check tiles fails "with tail published before the tiles flip" TAIL_EARLY
check tiles fails "with settled published before the settled tokens" SETTLED_EARLY
check tiles fails "with the settled row of Q written before its drop is flipped" Q_EARLY
check tiles fails "without the reader's acquire fence" NO_READER_FENCE
check tiles fails "without the merge's release fence" NO_MERGE_FENCE
check tiles fails "without the service's release fence, with tiles left behind" NO_SERVICE_FENCE LEAVE_BEHIND

check moves holds ""
check moves fails "with the old tile flipped before the base is in its new place" OLD_TILE_FIRST
check moves fails "with the new slot told before the base is there" SLOT_EARLY
check moves fails "without a second look at the slot when another row is there" NO_SECOND_LOOK
check moves fails "with any row taken that is in the slot" ANY_ROW

check lanes holds ""
check lanes fails "with count published before the row" COUNT_EARLY
check lanes fails "with a tile turned into lanes after its last row is published" TURN_LATE
check lanes fails "with lanes taken of a tile that is not full" LANES_FOR_PART
check lanes fails "without the tail check" NO_TAIL_CHECK

check ring holds ""
check ring fails "without the fence after publishing" NO_FENCE_FLUSH
check ring fails "without the fence before the client sleeps" NO_FENCE_CLIENT
check ring fails "without the fence after telling the cursor" NO_FENCE_TAKE
check ring fails "without the fence before the service sleeps" NO_FENCE_SLEEP
check ring fails "without the client's second look" NO_SECOND_LOOK_CLIENT
check ring fails "without the service's second look" NO_SECOND_LOOK_SERVICE
check ring fails "with the bell read after the look" BELL_LATE
check ring fails "with the first slot published before the rest" FIRST_SLOT_FIRST
check ring fails "with the cursor told before the copy" FREE_BEFORE_COPY

check commit holds ""
check commit fails "with a manifest before its LSN is durable" MANIFEST_EARLY
check commit fails "with a cut whose LSN is behind its state" CUT_LSN_LOW
check commit fails "with trimming before the manifest" TRIM_BEFORE_MANIFEST
check commit fails "with trimming to the newer generation's LSN" TRIM_TO_NEWER
check commit fails "with LSNs used again and no incarnation" NO_INCARNATION
check commit fails "with an acknowledgement before the LSN is durable" ACK_EARLY
check commit fails "without sequence numbers in the session" NO_SEQUENCE
check commit fails "without the session in the snapshot" SESSION_NOT_SAVED
check commit fails "without the session in the log's records" SESSION_NOT_LOGGED
check commit fails "with a session in the snapshot that is newer than the cut" SESSION_LATE
exit $status
