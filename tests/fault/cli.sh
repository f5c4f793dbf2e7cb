#!/bin/bash
# Bad input: every program answers with an exit code and one clear line that names what is wrong, and changes nothing.
# Environment: ATTND_BUILD (the build directory).
set -u

build=${ATTND_BUILD:-$(cd "$(dirname "$0")/../.." && pwd)/build}
mknpy=$build/tests/mknpy
for program in "$build/attnd" "$build/attnctl" "$build/attninspect" "$mknpy" "$build/tests/damage"; do
    if [ ! -x "$program" ]; then
        echo "skipped: $program is not built"
        exit 77
    fi
done

root=$(mktemp -d /tmp/attnd-cli-XXXXXX)
daemon=
cleanup() {
    [ -n "$daemon" ] && kill -9 "$daemon" 2>/dev/null
    [ -n "${ATT_TEST_KEEP:-}" ] && echo "kept: $root" || rm -rf "$root"
}
trap cleanup EXIT
cd "$root" || exit 1
passed=0
failed=0

pass() {
    passed=$((passed + 1))
    echo "ok   $1"
}
fail() { # NAME WHY
    failed=$((failed + 1))
    echo "FAIL $1: $2"
    sed 's/^/     | /' "$root/err" 2>/dev/null | tail -8
    sed 's/^/     > /' "$root/out" 2>/dev/null | tail -4
}

# expect NAME CODE WORDS -- COMMAND...: the exit code, and every one of WORDS (a list) in the messages.
expect() {
    local name=$1 code=$2 words=$3 got word
    shift 4 # the command is what remains; a finding of attninspect may be on its standard output
    timeout 60 "$@" >"$root/out" 2>"$root/err" </dev/null
    got=$?
    if [ "$got" -ne "$code" ]; then
        fail "$name" "exit $got, not $code ($*)"
        return
    fi
    for word in $words; do
        if ! cat "$root/err" "$root/out" | grep -qiF -e "$word"; then
            fail "$name" "the message does not say '$word'"
            return
        fi
    done
    if [ "$code" -ne 0 ] && [ ! -s "$root/err" ] && [ "${1##*/}" != attninspect ]; then
        fail "$name" "nothing on standard error"
        return
    fi
    if grep -qE 'AddressSanitizer|runtime error|ThreadSanitizer' "$root/err"; then
        fail "$name" "a sanitizer complained"
        return
    fi
    pass "$name"
}

refuse_start() { # NAME WORDS ARGUMENT...: attnd must end with 1, and DIR must be as if nothing had happened
    local name=$1 words=$2
    shift 2
    rm -rf fresh
    expect "$name" 1 "$words" -- "$build/attnd" --dir fresh --socket "$root/fresh.s" "$@"
    if [ -e fresh ] && [ -n "$(ls -A fresh)" ] && ! "$build/attnd" --dir fresh --socket "$root/fresh.s" \
        --q Q.npy --k K.npy --v V.npy --help >/dev/null; then
        fail "$name" "something is left in DIR"
    fi
}

start() { # ARGUMENT...: a daemon on $root/state
    : >ready
    "$build/attnd" --dir state --socket "$root/s" "$@" >ready 2>daemon.log &
    daemon=$!
    for _ in $(seq 1 600); do
        grep -q '^ready' ready && return 0
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.05
    done
    cp daemon.log err
    fail "start" "attnd $* is not ready"
    daemon=
    return 1
}
stop() { # sets $stopped to the exit code
    stopped=-1
    [ -n "$daemon" ] || return
    kill -TERM "$daemon" 2>/dev/null
    wait "$daemon" 2>/dev/null
    stopped=$?
    daemon=
}
ctl() {
    timeout 60 "$build/attnctl" --socket "$root/s" "$@"
}

# ---- arrays that are wrong ------------------------------------------------------------------------------
"$mknpy" Q.npy f4 C 6 4
"$mknpy" K.npy f4 C 20 4
"$mknpy" V.npy f4 C 20 3
"$mknpy" B.npy f4 C 20 0 zero

refuse_start "missing file" "missing.npy" --q missing.npy --k K.npy --v V.npy
head -c 300 K.npy >short.npy
refuse_start "truncated data" "short.npy" --q Q.npy --k short.npy --v V.npy
head -c 40 K.npy >header.npy
refuse_start "truncated header" "header.npy" --q Q.npy --k header.npy --v V.npy
: >empty.npy
refuse_start "empty file" "empty.npy" --q empty.npy --k K.npy --v V.npy
head -c 4096 /dev/urandom >noise.npy
refuse_start "no .npy file at all" "noise.npy" --q Q.npy --k K.npy --v noise.npy
mkdir -p directory.npy
refuse_start "a directory for a file" "directory.npy" --q Q.npy --k directory.npy --v V.npy
"$mknpy" int.npy i4 C 20 4
refuse_start "wrong dtype" "int.npy" --q Q.npy --k int.npy --v V.npy
sed 's/<f4/>f4/' K.npy >big.npy
refuse_start "big endian" "big.npy" --q Q.npy --k big.npy --v V.npy
"$mknpy" fortran.npy f4 F 20 4
refuse_start "Fortran order" "fortran.npy fortran" --q Q.npy --k fortran.npy --v V.npy
"$mknpy" wide.npy f4 C 20 5
refuse_start "K of another width than Q" "wide.npy" --q Q.npy --k wide.npy --v V.npy
"$mknpy" vector.npy f4 C 20 0
refuse_start "a vector for a matrix" "vector.npy" --q vector.npy --k K.npy --v V.npy
"$mknpy" long.npy f4 C 21 3
refuse_start "K and V of different lengths" "20 21" --q Q.npy --k K.npy --v long.npy
"$mknpy" nan.npy f4 C 20 4 nan
refuse_start "NaN in K" "nan.npy" --q Q.npy --k nan.npy --v V.npy
"$mknpy" inf.npy f4 C 20 3 inf
refuse_start "infinity in V" "inf.npy" --q Q.npy --k K.npy --v inf.npy
"$mknpy" nanq.npy f4 C 6 4 nan
refuse_start "NaN in Q" "nanq.npy" --q nanq.npy --k K.npy --v V.npy
"$mknpy" huge.npy f8 C 20 4 1e300
refuse_start "float64 that overflows float32" "huge.npy" --q Q.npy --k huge.npy --v V.npy
"$mknpy" norows.npy f4 C 0 4
refuse_start "Q without rows" "norows.npy" --q norows.npy --k K.npy --v V.npy
"$mknpy" shortb.npy f4 C 19 0
refuse_start "a bias of another length" "shortb.npy" --q Q.npy --k K.npy --v V.npy --bias shortb.npy
"$mknpy" nanb.npy f4 C 20 0 nan
refuse_start "NaN in the bias" "nanb.npy" --q Q.npy --k K.npy --v V.npy --bias nanb.npy
refuse_start "a capacity below the tokens" "capacity" --q Q.npy --k K.npy --v V.npy --capacity 10

# ---- options ---------------------------------------------------------------------------------------------
expect "attnd: unknown option" 2 "--colour see --help" -- "$build/attnd" --dir x --colour
expect "attnd: letters that are no options" 2 "-xy see --help" -- "$build/attnd" --dir x -xy
expect "attnctl: letters that are no options" 2 "-xj see --help" -- "$build/attnctl" --json -xj ping
expect "attninspect: letters that are no options" 2 "-hj see --help" -- "$build/attninspect" state info -hj
expect "attnd: an option without its argument" 2 "--dir argument see --help" -- "$build/attnd" --dir
expect "attnd: no directory" 2 "--dir" -- "$build/attnd"
expect "attnd: an empty directory's name" 2 "--dir" -- "$build/attnd" --dir ""
expect "attnd: bad name" 2 "name letters" -- "$build/attnd" --dir x --name ../x
expect "attnd: bad name beside a socket" 2 "name letters" -- "$build/attnd" --dir x --name 'a"b' --socket "$root/f.s"
expect "attnctl: bad name" 2 "name letters" -- "$build/attnctl" --name ../x ping
expect "attnd: bad precision" 2 "precision" -- "$build/attnd" --dir x --precision half
expect "attnd: bad tau" 2 "tau" -- "$build/attnd" --dir x --tau 2
expect "attnd: bad scale" 2 "scale" -- "$build/attnd" --dir x --scale nan
expect "attnd: too large a scale" 2 "--scale 1e308 1e+300" -- "$build/attnd" --dir x --scale 1e308
expect "attnd: bad durability" 2 "durability" -- "$build/attnd" --dir x --durability sometimes
expect "attnd: bad threads" 2 "threads" -- "$build/attnd" --dir x --threads -3
expect "attnctl: unknown command" 2 "frobnicate" -- "$build/attnctl" --socket "$root/s" frobnicate
expect "attnctl: no command" 2 "" -- "$build/attnctl"
expect "attnctl: too few arguments, and no daemon" 2 "query I J" -- "$build/attnctl" --socket "$root/s" query 1
expect "attnctl: an option behind the command" 2 "argument ping" -- "$build/attnctl" --socket "$root/s" ping --json
expect "attnctl: unknown option" 2 "--colour see --help" -- "$build/attnctl" --colour ping
expect "attninspect: unknown option" 2 "--colour see --help" -- "$build/attninspect" --colour state info
expect "attninspect: unknown command" 2 "frobnicate" -- "$build/attninspect" state frobnicate
for program in attnd attnctl attninspect; do
    expect "$program --help" 0 "$program" -- "$build/$program" --help
    expect "$program --version" 0 "$program" -- "$build/$program" --version
done

# ---- directories and sockets -----------------------------------------------------------------------------
mkdir -p full && echo precious >full/file
expect "DIR holds something else" 1 "full" -- "$build/attnd" --dir full --socket "$root/f.s" --q Q.npy --k K.npy --v V.npy
if [ "$(cat full/file)" = precious ] && [ "$(ls -A full)" = file ]; then pass "and it is untouched"; else fail "DIR holds something else" "it was changed"; fi
mkdir -p nothing
expect "DIR is empty and no arrays are given" 1 "nothing" -- "$build/attnd" --dir nothing --socket "$root/f.s"
expect "DIR is missing and no arrays are given" 1 "nowhere" -- "$build/attnd" --dir nowhere --socket "$root/f.s"
deep=nowhere/$(printf 'x%.0s' $(seq 200))/$(printf 'y%.0s' $(seq 200))/$(printf 'z%.0s' $(seq 200))
expect "a long name does not hide what is wrong" 1 "nowhere/ such directory create" -- "$build/attninspect" "$deep" info
expect "nor that of an array" 1 "nowhere/ cannot open" -- "$build/attnd" --dir x --socket "$root/f.s" --q "$deep" --k K.npy --v V.npy
expect "DIR is a file" 1 "Q.npy" -- "$build/attnd" --dir Q.npy --socket "$root/f.s" --q Q.npy --k K.npy --v V.npy
if [ "$(id -u)" -ne 0 ]; then
    mkdir -p readonly && chmod 500 readonly
    expect "DIR is not writable" 1 "readonly" -- "$build/attnd" --dir readonly --socket "$root/f.s" --q Q.npy --k K.npy --v V.npy
else
    echo "skip DIR is not writable: root writes everywhere"
fi
long=$root/$(printf 'x%.0s' $(seq 1 120))
expect "attnd: the socket's path is too long" 1 "characters 107" -- "$build/attnd" --dir fresh2 --socket "$long" --q Q.npy --k K.npy --v V.npy
expect "attnctl: the socket's path is too long" 1 "characters 107" -- "$build/attnctl" --socket "$long" ping
expect "attnctl: no daemon at the socket" 1 "$root/none" -- "$build/attnctl" --socket "$root/none" ping
# A socket that cannot be is found out before anything is made.
: >stale
mkdir -p open && chmod 777 open
for socket in "$long" "$root/missing/s" "$root/stale" "$root/open/s" "$root/Q.npy/s" ""; do
    expect "no socket there: '${socket:0:40}'" 1 "socket" -- "$build/attnd" --dir fresh2 --socket "$socket" --q Q.npy --k K.npy --v V.npy
    if [ ! -e fresh2 ] && [ ! -e missing ]; then pass "and nothing is made"; else fail "no socket there: '$socket'" "$(ls -d fresh2 missing 2>/dev/null) was made"; fi
    rm -rf fresh2 missing
done
expect "attnctl: a file that is no socket" 1 "$root/stale" -- "$build/attnctl" --socket "$root/stale" ping

# ---- a daemon that is served bad updates -----------------------------------------------------------------
if start --q Q.npy --k K.npy --v V.npy --bias B.npy --capacity 21; then
    before=$(ctl row 0)
    expect "attnctl: too few arguments" 2 "query" -- "$build/attnctl" --socket "$root/s" query 1
    expect "attnctl: too many arguments" 2 "query" -- "$build/attnctl" --socket "$root/s" query 1 2 3
    expect "attnctl: not a number" 2 "one" -- "$build/attnctl" --socket "$root/s" query one 2
    expect "attnctl: a number and more" 2 "1x" -- "$build/attnctl" --socket "$root/s" query 0 1x
    for words in "row 3:0" "col 3:0" "set-b 3:0 0" "append 3: 1 1 1 1 1 1 1" "replay --kind k --index i --rows r --head 3"; do
        # shellcheck disable=SC2086 # words
        expect "a head that is not there: $words" 1 "" -- "$build/attnctl" --socket "$root/s" $words
        if grep -q "head 3 is out of range: there is 1" err; then pass "and it says so"; else fail "a head that is not there: $words" "$(cat err)"; fi
    done
    expect "a head that is no number" 2 "" -- "$build/attnctl" --socket "$root/s" append x: 1 1 1 1 1 1 1
    if grep -q "append: head: 'x'" err; then pass "and it says so"; else fail "a head that is no number" "$(cat err)"; fi
    expect "replay backwards" 2 "--from 10 --to 5" -- "$build/attnctl" --socket "$root/s" replay --kind k --index i --rows r --from 10 --to 5
    expect "DIR is served already" 1 "state" -- "$build/attnd" --dir state --socket "$root/other.s"
    cp -r state copied
    expect "the socket is in use" 1 "$root/s" -- "$build/attnd" --dir second --socket "$root/s" --q Q.npy --k K.npy --v V.npy
    if [ ! -e second ]; then pass "and nothing is made"; else fail "the socket is in use" "second was made"; fi
    for command in "query 6 0" "query 0 3" "row 6" "col 3" "update-k 20 0 1" "update-k 0 4 1" "update-v 0 3 1" \
        "update-v 99 0 1" "set-q 6 1 1 1 1" "set-k 20 1 1 1 1" "delete 20" "set-b 20 0"; do
        # shellcheck disable=SC2086 # words
        expect "out of range: $command" 1 "" -- "$build/attnctl" --socket "$root/s" $command
    done
    for command in "update-k 0 0 nan" "update-v 0 0 inf" "set-k 0 1 nan 1 1" "set-v 0 inf 1 1" "set-q 0 1 1 1 nan" \
        "set-b 0 nan" "set-b 0 inf" "append 1 1 1 nan 1 1 1"; do
        # shellcheck disable=SC2086
        timeout 60 "$build/attnctl" --socket "$root/s" $command >out 2>err
        code=$?
        if [ $code -eq 1 ] || [ $code -eq 2 ]; then pass "not finite: $command"; else fail "not finite: $command" "exit $code"; fi
    done
    for command in "set-k 0 1 1 1" "set-v 0 1 1 1 1" "append 1 1 1 1 1 1"; do
        # shellcheck disable=SC2086
        timeout 60 "$build/attnctl" --socket "$root/s" $command >out 2>err
        code=$?
        if [ $code -eq 1 ] || [ $code -eq 2 ]; then pass "wrong count: $command"; else fail "wrong count: $command" "exit $code"; fi
    done
    if [ "$(ctl row 0)" = "$before" ]; then pass "nothing has changed"; else fail "nothing has changed" "row 0 has"; fi

    expect "append" 0 "20" -- "$build/attnctl" --socket "$root/s" append 1 1 1 1 1 1 1
    expect "append beyond the capacity" 1 "--capacity" -- "$build/attnctl" --socket "$root/s" append 1 1 1 1 1 1 1
    expect "mask a token" 0 "" -- "$build/attnctl" --socket "$root/s" set-b 3 -inf
    expect "delete" 0 "" -- "$build/attnctl" --socket "$root/s" delete 5
    expect "delete again" 1 "5" -- "$build/attnctl" --socket "$root/s" delete 5
    expect "append takes the deleted index" 0 "5" -- "$build/attnctl" --socket "$root/s" append 1 1 1 1 1 1 1
    printf 'query 0 0\n# a comment\nquery 0 99\nquery 0 0\n' >script
    expect "exec stops at the first error" 1 "3" -- "$build/attnctl" --socket "$root/s" exec script
    expect "exec of a directory" 1 "exec: $root: cannot read line 1: directory" -- "$build/attnctl" --socket "$root/s" exec "$root"
    printf 'query 0 0\nquery 0 1\0 and more\nquery 0 0\n' >nul
    expect "exec refuses a NUL byte" 1 "line 2 NUL" -- "$build/attnctl" --socket "$root/s" exec nul
    if [ "$(wc -l <out)" -eq 1 ]; then pass "exec printed what came before"; else fail "exec printed what came before" "$(wc -l <out) lines"; fi
    for i in $(seq 0 20); do echo "delete $i"; done >script
    expect "delete everything" 0 "" -- "$build/attnctl" --socket "$root/s" exec script
    expect "a row without tokens" 0 "empty" -- "$build/attnctl" --socket "$root/s" row 0
    expect "an entry without tokens" 0 "empty" -- "$build/attnctl" --socket "$root/s" query 0 0
    expect "append to nothing" 0 "" -- "$build/attnctl" --socket "$root/s" append 1 1 1 1 0.5 0.25 0.125
    expect "the only token is the answer" 0 "0.5 0.25 0.125" -- "$build/attnctl" --socket "$root/s" row 5
    stop
    if [ "$stopped" -eq 0 ]; then pass "SIGTERM: exit 0"; else fail "SIGTERM: exit 0" "exit $stopped"; fi
    expect "arrays for a DIR that holds a state" 1 "state" -- "$build/attnd" --dir state --socket "$root/s" --q Q.npy --k K.npy --v V.npy
    expect "verify" 0 "" -- "$build/attninspect" state verify
fi

# ---- room that has changed ---------------------------------------------------------------------------------
# What was appended to it is there after a crash, also when the option is left out then.
if start --dir room --q Q.npy --k K.npy --v V.npy; then
    stop
    start --dir room --capacity 21 --precision double
    expect "append to new room" 0 "20" -- "$build/attnctl" --socket "$root/s" append 1 1 1 1 1 1 1
    kill -9 "$daemon"
    wait "$daemon" 2>/dev/null
    expect "verify after new room" 0 "" -- "$build/attninspect" room verify
    if start --dir room; then
        expect "new room stays" 0 "21 double" -- "$build/attnctl" --socket "$root/s" stat
        expect "and no more than that" 1 "room for 21" -- "$build/attnctl" --socket "$root/s" append 1 1 1 1 1 1 1
        stop
    fi
fi

# A log that once held what the new precision does not take: an orderly stop under the old one leaves it behind.
if start --dir large --q Q.npy --k K.npy --v V.npy; then
    ctl set-k 1 1e9 1 1 1 && ctl set-k 1 1 1 1 1
    kill -9 "$daemon"
    wait "$daemon" 2>/dev/null
    daemon=
    expect "single, and a log with larger scores" 1 "LSN 1 without --precision stop" -- "$build/attnd" --dir large --socket "$root/s" --precision single
    start --dir large && stop
    start --dir large --precision single && pass "and what it says helps"
    stop
fi

# ---- closed standard files: nothing that is printed gets into the state ---------------------------------------------
start --dir closed --q Q.npy --k K.npy --v V.npy && stop
"$build/attnd" --dir closed --socket "$root/s" <&- >&- 2>&- &
daemon=$!
for _ in $(seq 1 600); do
    ctl ping >/dev/null 2>&1 && break
    sleep 0.05
done
expect "an update of a state whose daemon has no standard files" 0 "" -- "$build/attnctl" --socket "$root/s" update-v 0 0 1
for command in info verify "log --limit 1"; do
    # shellcheck disable=SC2086 # words
    "$build/attninspect" closed $command <&- >&- 2>&-
    code=$?
    if [ $code -eq 1 ]; then pass "attninspect $command without standard files"; else fail "attninspect $command without standard files" "exit $code"; fi
done
ctl query 0 0 <&- >&- 2>&-
code=$?
if [ $code -eq 1 ]; then pass "attnctl without standard files"; else fail "attnctl without standard files" "exit $code"; fi
stop
if [ "$stopped" -eq 0 ]; then pass "and attnd ends with 0"; else fail "and attnd ends with 0" "exit $stopped"; fi
expect "and its state is whole" 0 "" -- "$build/attninspect" closed verify

# ---- a dump: a state that is made from its arrays gives the same answers, also where tokens have been deleted ------
if start --dir dead --q Q.npy --k K.npy --v V.npy; then
    for token in 3 7 19; do ctl delete $token; done
    ctl row 0 >live
    stop
    expect "dump" 0 "" -- "$build/attninspect" dead dump dumped
    if start --dir again --q dumped/Q.npy --k dumped/K.npy --v dumped/V.npy --bias dumped/bias.npy; then
        if ctl row 0 | paste -d' ' live - | awk 'function off(a, b) { return a > b + 1e-6 || b > a + 1e-6 }
            NF != 8 || off($1, $5) || off($2, $6) || off($3, $7) { exit 1 }'; then
            pass "a state from a dump answers the same"
        else
            fail "a state from a dump answers the same" "$(ctl row 0), not $(cat live)"
        fi
        stop
    fi
fi

# ---- a time without a log leaves a hole in it, which info does not count ------------------------------------------
if start --dir hole --q Q.npy --k K.npy --v V.npy; then
    for durability in always off always; do
        [ -n "$daemon" ] || start --dir hole --durability $durability
        ctl update-v 0 0 1 && ctl update-v 1 0 1
        [ $durability = always ] || ctl snapshot
        kill -9 "$daemon"
        wait "$daemon" 2>/dev/null
        daemon=
    done
    "$build/attninspect" hole info >out 2>err
    if grep -qx 'log_last_lsn  *6' out && grep -qx 'log_records  *4' out; then
        pass "info counts what the log holds"
    else
        fail "info counts what the log holds" "$(grep -E 'log_(last|rec)' out)"
    fi
fi

# ---- a time without a log has only its snapshots: repair names both that N lies between --------------------------
if start --dir between --q Q.npy --k K.npy --v V.npy --durability off; then
    ctl update-v 0 0 1 && ctl snapshot
    for i in 1 2 3; do ctl update-v $i 0 1; done
    stop
    expect "repair to where nothing is" 1 "between LSN 1 and the snapshot at LSN 4" -- "$build/attninspect" between repair --to-lsn 3
    expect "verify of one batch" 0 "" -- "$build/attninspect" room verify
    if grep -q 'room/log: 1 batch, LSN' out; then pass "and it is one"; else fail "verify of one batch" "$(grep room/log out)"; fi
fi

# ---- a log so long that its replay drops the bases: what nobody could look at is not called fine -------------
"$mknpy" LQ.npy f4 C 40000 4
"$mknpy" LK.npy f4 C 8000 4
"$mknpy" LV.npy f4 C 8000 3
if start --dir long --q LQ.npy --k LK.npy --v LV.npy --durability interval:20; then
    ctl all out.npy && ctl snapshot
    for _ in 1 2 3; do seq -f 'update-v %.0f 0 1' 0 7999; done | ctl exec && ctl flush
    kill -9 "$daemon"
    wait "$daemon" 2>/dev/null
    daemon=
    expect "verify after a long log" 0 "" -- "$build/attninspect" long verify
    if grep -q '^unchecked: rows after the log: 0 ' out && grep -q '^fine: rows at the snapshot: 64 ' out; then
        pass "it says what it did not look at"
    else
        fail "it says what it did not look at" "$(grep rows out)"
    fi
    rm -r long
fi

# ---- files that go, or may not grow ------------------------------------------------------------------------
deep=gone/$(printf 'x%.0s' $(seq 120))
mkdir gone
if start --dir "$deep" --q Q.npy --k K.npy --v V.npy; then
    rm -rf gone
    expect "an update of a state whose files were deleted" 1 "deleted gone stops" -- "$build/attnctl" --socket "$root/s" update-v 0 0 1
    expect "which says why, however long its name" 0 "read-only: deleted stops" -- "$build/attnctl" --socket "$root/s" stat
    expect "which can be read" 0 "" -- "$build/attnctl" --socket "$root/s" query 0 0
    stop
    if [ "$stopped" -eq 1 ]; then pass "and ends with 1"; else fail "and ends with 1" "exit $stopped"; fi
fi
(ulimit -f 20 && timeout 20 "$build/attnd" --dir small --socket "$root/small.s" --q Q.npy --k K.npy --v V.npy >out 2>err)
code=$?
if [ $code -eq 1 ] && grep -q "too large" err; then pass "files that may not grow"; else fail "files that may not grow" "exit $code"; fi

"$mknpy" flat.npy f4 C 200 1
sed '1s/(200, 1), }   /(200, 1, 1), }/' flat.npy >heads.npy
expect "too few descriptors" 1 "head too many open files ulimit -n" -- bash -c "ulimit -n 100; exec '$build/attnd' \
    --dir small2 --socket '$root/small.s' --q heads.npy --k heads.npy --v heads.npy"

if ! grep -q '^ATTND_SANITIZE:[A-Z]*=.' "$build/CMakeCache.txt" 2>/dev/null; then # those need the addresses themselves
    expect "too few addresses" 1 "small2/snap ulimit unlimited" -- bash -c "ulimit -v 8000000; exec '$build/attnd' \
        --dir small2 --socket '$root/small.s' --q Q.npy --k K.npy --v V.npy"
fi

# ---- a terminal that is closed: an orderly stop, which without a log is what keeps the updates; nohup ignores it ------------
if start --dir hangup --q Q.npy --k K.npy --v V.npy --durability off; then
    ctl update-v 0 0 1
    kill -HUP "$daemon"
    wait "$daemon"
    code=$?
    daemon=
    if [ $code -eq 0 ]; then pass "SIGHUP: exit 0"; else fail "SIGHUP: exit 0" "exit $code"; fi
    if "$build/attninspect" hangup info | grep -qx 'snapshot_lsn  *1'; then pass "and a snapshot"; else fail "SIGHUP: a snapshot" "$("$build/attninspect" hangup info)"; fi
    : >ready
    (trap '' HUP && exec "$build/attnd" --dir hangup --socket "$root/s" >ready 2>daemon.log) &
    daemon=$!
    for _ in $(seq 1 600); do
        grep -q '^ready' ready && break
        sleep 0.05
    done
    kill -HUP "$daemon"
    expect "SIGHUP that is ignored" 0 "" -- "$build/attnctl" --socket "$root/s" ping
    stop
    if [ "$stopped" -eq 0 ]; then pass "and SIGTERM ends it"; else fail "SIGHUP that is ignored" "exit $stopped"; fi
fi

# ---- a daemon in a container: its number there is somebody else's here, whose end is not to be waited for -------------------
if [ "$(id -u)" -eq 0 ] && unshare --pid --fork --kill-child true 2>/dev/null; then
    unshare --pid --fork --kill-child "$build/attnd" --dir contained --socket "$root/s" --q Q.npy --k K.npy --v V.npy >out 2>err &
    daemon=$!
    for _ in $(seq 1 600); do
        ctl ping >/dev/null 2>&1 && break
        sleep 0.05
    done
    expect "shutdown of a daemon in another namespace of processes" 0 "" -- "$build/attnctl" --socket "$root/s" --timeout 8000 shutdown
    wait "$daemon"
    code=$?
    daemon=
    if [ $code -eq 0 ]; then pass "and it has ended"; else fail "a daemon in another namespace of processes" "exit $code"; fi
fi

# ---- reads that wait for the disk --------------------------------------------------------------------------
# Without a log they wait for a snapshot, with an interval not for its end; and attnd ends when one is under way.
for durability in off interval:60000; do
    rm -rf waits
    if start --dir waits --q Q.npy --k K.npy --v V.npy --durability $durability; then
        ctl update-v 0 0 1
        expect "a durable query, $durability" 0 "" -- "$build/attnctl" --socket "$root/s" --durable --timeout 20000 query 0 0
        ctl update-v 0 0 1
        ctl --durable row 0 >out 2>err &
        reader=$!
        stop
        wait "$reader" # answered, or told that attnd has gone
        if [ "$stopped" -eq 0 ]; then pass "SIGTERM beside a durable row"; else fail "SIGTERM beside a durable row" "exit $stopped"; fi
    fi
done

# ---- copies and repair -------------------------------------------------------------------------------------
values() { # DIR: the answers for row 0 and 5, without their bounds
    "$build/attninspect" "$1" row 0 | sed 's/ [^ ]*$//'
    "$build/attninspect" "$1" row 5 | sed 's/ [^ ]*$//'
}
rm -rf state2 && mkdir state2
if start --dir state2/hot --q Q.npy --k K.npy --v V.npy; then
    for i in 1 2 3 4 5; do ctl set-k $i 1 0 0 $i; done
    ctl snapshot
    for i in 6 7 8; do ctl set-v $i 1 2 $i; done
    expect "copy beside a daemon" 0 "LSN 8" -- "$build/attninspect" state2/hot copy state2/copy
    expect "copy: TO is taken" 1 "state2/copy" -- "$build/attninspect" state2/hot copy state2/copy
    expect "copy: TO inside DIR" 1 "state2/hot/x inside" -- "$build/attninspect" state2/hot copy state2/hot/x
    ln -s hot state2/link
    expect "copy: TO inside DIR by another name" 1 "inside" -- "$build/attninspect" state2/hot copy state2/link/log/x
    if [ "$(ls -A state2/hot state2/hot/log | tr '\n' ' ')" = "state2/hot: lock log snap  state2/hot/log: data.mdb lock.mdb " ]; then pass "and nothing is made"; else fail "copy: TO inside DIR" "$(ls -A state2/hot)"; fi
    expect "repair of what is served" 1 "state2/hot" -- "$build/attninspect" state2/hot repair --to-lsn 8
    expect "repair does nothing unasked" 2 "--to-lsn" -- "$build/attninspect" state2/hot repair
    served=$(values state2/hot)
    if [ "$(values state2/copy)" = "$served" ]; then pass "the copy answers the same"; else fail "the copy answers the same" "$(values state2/copy)"; fi
    stop
    expect "the copy verifies" 0 "" -- "$build/attninspect" state2/copy verify
    if start --dir state2/copy; then
        if [ "$(ctl row 0 | sed 's/ [^ ]*$//')" = "$(head -1 <<<"$served")" ]; then pass "a fresh attnd serves the copy"; else fail "a fresh attnd serves the copy" "$(ctl row 0)"; fi
        ctl set-v 9 9 9 9
        stop
    fi
    expect "repair: beyond the end" 1 "LSN 9" -- "$build/attninspect" state2/copy repair --to-lsn 99
    expect "repair" 0 "before-repair lost 9" -- "$build/attninspect" state2/copy repair --to-lsn 8
    if [ "$(values state2/copy)" = "$served" ] && [ -f state2/copy.before-repair/snap/data.mdb ]; then
        pass "repair took the last update back and kept the original"
    else
        fail "repair took the last update back and kept the original" "$(ls state2)"
    fi
    expect "the repaired state verifies" 0 "" -- "$build/attninspect" state2/copy verify
    expect "and so does the original" 0 "" -- "$build/attninspect" state2/copy.before-repair verify
fi

# ---- JSON is UTF-8, whatever a file's name is ------------------------------------------------------------------
name=$(printf 'b\351t\303\251 \342\202\254"\360\237\230\200\355\240\200')
cp -r state "$name"
"$build/attninspect" "$name" --json info >out 2>err
if iconv -f UTF-8 -t UTF-8 out >err 2>&1 && grep -qF "$(printf '"b\\ufffdt\303\251 \342\202\254\\"\360\237\230\200\\ufffd\\ufffd\\ufffd"')" out; then
    pass "JSON of a name that is not UTF-8"
else
    fail "JSON of a name that is not UTF-8" "$(head -c 100 out)"
fi

# ---- output that cannot be written: what it was to go to is no file of ours ---------------------------------
ln -s /dev/full device
for command in heatmap report; do
    expect "$command to a full device" 1 "" -- "$build/attninspect" state "$command" device
    if [ -L device ]; then pass "$command removes no device"; else fail "$command removes no device" "it is gone"; fi
done

# ---- nor is the state itself ---------------------------------------------------------------------------------
rm -rf kept && cp -r state kept && ln -s kept/log/data.mdb picture
pictures="report"
grep -q '^PNG_FOUND:INTERNAL=1' "$build/CMakeCache.txt" 2>/dev/null && pictures="report heatmap"
for command in $pictures; do
    expect "$command into the state's log" 1 "picture part of the state" -- "$build/attninspect" kept "$command" picture
    expect "$command into the state's snapshots" 1 "data.mdb part of the state" -- "$build/attninspect" kept "$command" kept/snap/data.mdb
    expect "$command beside them" 0 "" -- "$build/attninspect" kept "$command" kept/page
done
expect "and the state is whole" 0 "" -- "$build/attninspect" kept verify

# ---- damage ------------------------------------------------------------------------------------------------
# Bytes of the snapshots' file are flipped, between the heads of LMDB's pages. `damage STEP`: every STEP bytes.
damage() {
    rm -rf damaged && cp -r state damaged && "$build/tests/damage" damaged/snap/data.mdb "$1"
}
if [ -f state/snap/data.mdb ]; then
    damage 1000
    timeout 60 "$build/attninspect" damaged verify >out 2>err
    code=$?
    if [ $code -eq 1 ] && { [ -s out ] || [ -s err ]; }; then pass "verify finds damage"; else fail "verify finds damage" "exit $code"; fi
    # Either it recovers from the older generation, saying so, or it refuses; never in silence.
    timeout -s TERM 5 "$build/attnd" --dir damaged --socket "$root/d.s" >out 2>err
    code=$?
    if grep -q '^ready' out && grep -qi 'damaged' err; then
        pass "a damaged generation falls back to the one before, and says so"
    elif [ $code -eq 1 ] && grep -qiE 'damage|corrupt|checksum' err; then
        pass "a damaged state does not start, and says so"
    else
        fail "a damaged state" "exit $code"
    fi
    damage 40
    expect "a state whose snapshots are all damaged does not start" 1 "damaged" -- "$build/attnd" --dir damaged --socket "$root/d.s"
    expect "and verify says so" 1 "" -- "$build/attninspect" damaged verify
fi
# A signal before attnd is ready: it makes the state whole, and ends in order.
"$mknpy" BK.npy f4 C 60000 64
"$mknpy" BQ.npy f4 C 60 64
"$build/attnd" --dir early --socket "$root/e.s" --q BQ.npy --k BK.npy --v BK.npy >out 2>err &
daemon=$!
for _ in $(seq 1 6000); do
    [ -e early/lock ] && break
    sleep 0.001
done
before=$(grep -c '^ready' out)
stop
if [ "$stopped" = 0 ] && [ ! -e e.s ]; then pass "TERM before ready ends in order"; else fail "TERM before ready" "exit $stopped, socket $(ls e.s 2>/dev/null)"; fi
[ "$before" = 0 ] || echo "# (it was ready before)"
expect "and its state is whole" 0 "fine" -- "$build/attninspect" early verify
if grep -q '^PNG_FOUND:INTERNAL=1' "$build/CMakeCache.txt" 2>/dev/null; then
    expect "a large heatmap to a full device" 1 "device No space left" -- "$build/attninspect" early heatmap device
fi
mkdir -p garbage/log garbage/snap
head -c 65536 /dev/urandom >garbage/log/data.mdb
head -c 65536 /dev/urandom >garbage/snap/data.mdb
expect "attninspect: no state at all" 1 "nowhere" -- "$build/attninspect" nowhere info
expect "attninspect: garbage" 1 "garbage" -- "$build/attninspect" garbage verify
expect "attnd: garbage" 1 "garbage" -- "$build/attnd" --dir garbage --socket "$root/g.s"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
