#!/bin/bash
# The Debian packages: built with cpack, unpacked into an empty root, and run from there; installed into another root with
# dpkg and removed without a trace.
# Environment: ATTND_BUILD (the build directory).
source "$(dirname "$0")/lib.bash"
need attnd attnctl attninspect attnbench attndemo tests/mknpy
need_no_sanitizer
for tool in cpack dpkg dpkg-deb; do
    command -v $tool >/dev/null || skip "$tool is not installed"
done

if ! cpack --config "$build/CPackConfig.cmake" -G DEB -B "$root/packages" >cpack.log 2>&1; then
    fail "cpack" cpack.log
    exit 1
fi
version=$("$build/attnd" --version | cut -d' ' -f2)
for name in attnd "libattn${version%%.*}" libattn-dev python3-attn; do
    package=$(ls packages/"${name}"_*.deb 2>/dev/null)
    if [ -z "$package" ]; then
        fail "there is a package $name" cpack.log
        continue
    fi
    dpkg-deb -x "$package" unpacked || fail "$name unpacks"
    if [ "$(dpkg-deb -f "$package" Version)" = "$version" ]; then pass "$name $version"; else fail "$name: version"; fi
done
check "attnd names what it needs" bash -c "dpkg-deb -f packages/attnd_*.deb Depends | grep -q 'liblmdb0\|libc6' || ! command -v dpkg-shlibdeps"
check "everything is below /usr" test "$(ls unpacked)" = usr
for file in bin/attnd lib/systemd/system/attnd@.service lib/systemd/user/attnd@.service lib/sysusers.d/attnd.conf \
    share/man/man8/attnd.8 share/doc/attnd/copyright share/bash-completion/completions/attnctl \
    lib/python3/dist-packages/attn/__init__.py include/attn.h; do
    check "has usr/$file" test -f "unpacked/usr/$file"
done
check "no build path inside" bash -c "! grep -rIl -e '$build' unpacked"

# ---- run from there ----------------------------------------------------------------------------------------
usr=$root/unpacked/usr
library=$(dirname "$(find "$usr" -name "libattn.so.${version%%.*}")")
"$build/tests/mknpy" Q.npy f4 C 20 4
"$build/tests/mknpy" K.npy f4 C 60 4
"$build/tests/mknpy" V.npy f4 C 60 4
attnd=$usr/bin/attnd
start_daemon --q Q.npy --k K.npy --v V.npy --scale auto
check "attnctl" "$usr/bin/attnctl" --socket "$root/s" update-k 17 3 0.25
check "attnctl query" "$usr/bin/attnctl" --socket "$root/s" query 5 3
export PKG_CONFIG_PATH=$library/pkgconfig
if command -v pkg-config >/dev/null; then
    # shellcheck disable=SC2046 # words are wanted
    check "a program is built with -dev" cc "$source/docs/examples/hello.c" -o hello $(pkg-config --cflags --libs attn)
    check "and runs with the library" env LD_LIBRARY_PATH="$library" ./hello "$root/s"
fi
if /usr/bin/python3 -c 'import numpy' 2>/dev/null; then
    check "python3-attn" env PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$usr/lib/python3/dist-packages" \
        ATTN_LIBRARY="$library/libattn.so.${version%%.*}" \
        /usr/bin/python3 -c "import attn; print(attn.Client('$root/s').query(5, 3))"
fi
stop_daemon
check "an orderly end" test "$stopped" = 0
check "attninspect" "$usr/bin/attninspect" state verify
mkdir demo
check "the demonstration passes with it" timeout 200 "$build/attndemo" "$attnd" "$source/tests/data/realS" "$root/demo"

# ---- installed and removed -----------------------------------------------------------------------------------
sys=$root/sys
mkdir -p "$sys/var/lib/dpkg/info" "$sys/var/lib/dpkg/updates" "$sys/etc"
: >"$sys/var/lib/dpkg/status"
in_root() {
    dpkg --root="$sys" --log=/dev/null --force-not-root --force-depends --force-script-chrootless --force-bad-path "$@"
}
if [ "$(id -u)" = 0 ] && dpkg --force-help | grep -q script-chrootless; then
    check "dpkg -i" in_root -i packages/*.deb
    check "installed" test -x "$sys/usr/bin/attnd"
    if command -v systemd-sysusers >/dev/null; then
        check "the user attnd" grep -q '^attnd:' "$sys/etc/passwd"
    fi
    check "dpkg -r" in_root -r attnd python3-attn libattn-dev "libattn${version%%.*}"
    check "dpkg -P" in_root -P attnd python3-attn libattn-dev "libattn${version%%.*}"
    left=$(cd "$sys" && find . -type f ! -path './var/lib/dpkg/*' ! -path './etc/*')
    check "nothing is left" test -z "$left"
else
    echo "dpkg -i: not checked, it wants root"
fi
exit $failed
