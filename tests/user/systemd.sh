#!/bin/bash
# The systemd units: systemd-analyze has nothing to say against them, and what a unit starts is what attnd understands;
# attnd reports readiness and its end to the socket that systemd names.
# Environment: ATTND_BUILD (the build directory).
source "$(dirname "$0")/lib.bash"
need attnd tests/mknpy
units=$source/tools/systemd

if command -v systemd-analyze >/dev/null; then
    for unit in "$units/attnd@.service" "$units/user/attnd@.service"; do
        # The program is not installed here; verify wants to see it, and an instance.
        sed "s|^ExecStart=attnd|ExecStart=$build/attnd|" "$unit" >"$root/attnd@test.service"
        manager=system
        [ "$unit" != "${unit%/user/*}" ] && manager=user
        XDG_RUNTIME_DIR=$root systemd-analyze verify "--$manager" --man=no "$root/attnd@test.service" >verify.log 2>&1
        code=$?
        # What it says about units of the machine is not ours.
        if [ $code != 0 ] || grep -q 'attnd@test' verify.log; then
            fail "systemd-analyze verify, $manager" verify.log
        else
            pass "systemd-analyze verify, $manager"
        fi
    done
    sed "s|^ExecStart=attnd|ExecStart=$build/attnd|" "$units/attnd@.service" >"$root/attnd@test.service"
    check "hardening: exposure below 2.5 of 10" systemd-analyze security --offline=true --threshold=25 --no-pager "$root/attnd@test.service"
else
    echo "units: not checked, systemd-analyze is not installed"
fi

# Every option in ExecStart is one of attnd's.
"$build/attnd" --help >help
for option in $(grep -h '^ExecStart=' "$units"/*.service "$units"/user/*.service | grep -oE -- '--[a-z-]+' | sort -u); do
    check "ExecStart: $option" grep -q -- "$option" help
done

# sd_notify
if [ -x /usr/bin/python3 ]; then
    arrays 5 6 3 2
    cat >notify.py <<'END'
import socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
    listener.bind("notify")
    listener.settimeout(60)
    print("listening", flush=True)
    for _ in range(2):
        print(listener.recv(1000).decode(), flush=True)
END
    /usr/bin/python3 notify.py >notified &
    listener=$!
    for _ in $(seq 100); do grep -q listening notified 2>/dev/null && break; sleep 0.05; done
    NOTIFY_SOCKET=$root/notify start_daemon --q Q.npy --k K.npy --v V.npy
    stop_daemon
    wait $listener
    if [ "$(grep -oE 'READY=1|STOPPING=1' notified | tr '\n' ' ')" = "READY=1 STOPPING=1 " ]; then
        pass "sd_notify"
    else
        fail "sd_notify" notified
    fi
fi
exit $failed
