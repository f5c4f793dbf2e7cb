#!/bin/bash
# attnctl metrics is what Prometheus reads, and its counters count; attnctl top prints one view into a pipe, and in a
# terminal (tmux, if it is installed) fits 80 columns, follows a resize, ends with q and leaves the terminal as it was.
# Environment: ATTND_BUILD (the build directory).
source "$(dirname "$0")/lib.bash"
need attnd attnctl tests/mknpy
arrays 50 80 4 3
start_daemon --q Q.npy --k K.npy --v V.npy --name 'top'

# ---- metrics --------------------------------------------------------------------------------------------
metric() { # NAME: its value
    sed -nE "s/^$1\{[^}]*\} ([0-9]+)\$/\1/p" metrics
}
ctl metrics >metrics || fail "metrics: exit $?"
number='[0-9]+'
label='[a-z_]+="([^"\\]|\\.)*"'
grep -vE "^# (HELP|TYPE) attnd_[a-z_]+ .+\$|^attnd_[a-z_]+\{$label(,$label)*\} $number\$" metrics >strange
if [ -s strange ]; then fail "metrics: lines that are not of the format" strange; else pass "metrics: the format"; fi
if [ "$(grep -c '^# TYPE' metrics)" = "$(grep '^attnd' metrics | cut -d'{' -f1 | sort -u | wc -l)" ]; then
    pass "metrics: one TYPE for each name"
else
    fail "metrics: one TYPE for each name" metrics
fi
if command -v promtool >/dev/null; then
    check "metrics: promtool" promtool check metrics <metrics
fi
for i in 1 2 3 4 5; do ctl update-k "$i" 1 0.5 && ctl query "$i" 0 >/dev/null; done
before=$(metric attnd_updates_total)
ctl metrics >metrics
if [ "$(metric attnd_updates_total)" = $((before + 5)) ] && [ "$(metric attnd_lsn)" = 5 ] && [ "$(metric attnd_tokens)" = 80 ]; then
    pass "metrics: counts"
else
    fail "metrics: counts" metrics
fi
ctl --json metrics >out 2>err
if [ $? = 2 ] && grep -q stat err; then pass "metrics: --json is refused"; else fail "metrics: --json is refused" err; fi

# ---- top into a pipe ------------------------------------------------------------------------------------
ctl top 0.3 >view
if [ $? = 0 ] && grep -q '^updates ' view && ! grep -q "$(printf '\033')" view && [ "$(wc -L <view)" -le 80 ]; then
    pass "top: one view into a pipe"
else
    fail "top: one view into a pipe" view
fi
yes 'update-v 0 0 1' | head -n 100000 >many
"$build/attnctl" --socket "$root/s" exec many &
updates=$!
ctl top 0.5 >view
kill "$updates"
wait "$updates" 2>/dev/null
if awk '/^updates / { shown = $2 != "0.0" && $4 != "0.0" } END { exit !shown }' view; then
    pass "top: a peak in the first second"
else
    fail "top: a peak in the first second" view
fi
ctl top 0.1 >/dev/full 2>err
if [ $? = 1 ] && grep -q 'standard output: No space' err; then pass "top: a view that cannot be written"; else fail "top: a view that cannot be written" err; fi
ctl top 0 >out 2>err
if [ $? = 2 ] && grep -q SECONDS err; then pass "top: a bad interval"; else fail "top: a bad interval" err; fi

# ---- top in a terminal ----------------------------------------------------------------------------------
if ! command -v tmux >/dev/null; then
    echo "top in a terminal: not checked, tmux is not installed"
    exit $failed
fi
mux() {
    env -u TMUX LC_ALL=C.UTF-8 tmux -f /dev/null -S "$root/tmux" "$@"
}
at_end() {
    mux kill-server 2>/dev/null
}
shows() { # WORDS: the screen does, within ten seconds; it is left in the file screen
    local i
    for i in $(seq 1 100); do
        mux capture-pane -p >screen 2>/dev/null
        grep -qE -e "$1" screen && return 0
        sleep 0.1
    done
    return 1
}
run="env LC_ALL=C.UTF-8 '$build/attnctl' --socket '$root/s' top 0.2"
mux -u new-session -d -x 80 -y 24 "echo before; $run; echo \"ended \$?\"; stty -a; $run; echo \"ended again \$?\"; sleep 100"
if shows '^memory +[0-9]' && shows 'hot rows.*of 50'; then pass "top: 80 columns"; else fail "top: 80 columns" screen; fi
mux resize-window -x 120 -y 30
if shows 'last 60 s +[0-9.-]+|last 60 s$' && shows '^.{112}[0-9]{2}:[0-9]{2}:[0-9]{2}'; then
    pass "top: follows a resize"
else
    fail "top: follows a resize" screen
fi
mux resize-window -x 30 -y 5
if shows '^attnd top' && [ "$(wc -L <screen)" -le 30 ]; then pass "top: a small terminal"; else fail "top: a small terminal" screen; fi
mux resize-window -x 80 -y 50
mux send-keys q
# (the second top has come by then: look at what is behind it after the end)
sleep 0.5
shows '^memory +[0-9]'
stop_daemon
if shows 'ended again 1' && grep -q '^ended 0' screen && grep -q '^before' screen && grep -qE '(^| )icanon' screen &&
    grep -qE '(^|[ ;])echo([ ;]|$)' screen && grep -qi 'top:.*gone\|daemon' screen; then
    pass "top: q ends it, the daemon's end ends it, the terminal is as it was"
else
    fail "top: q ends it, the daemon's end ends it, the terminal is as it was" screen
fi
exit $failed
