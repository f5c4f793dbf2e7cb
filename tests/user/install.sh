#!/bin/bash
# cmake --install into an empty prefix; programs that know nothing but that prefix find libattn through pkg-config and
# CMake, shared and static; the examples of docs/examples are built that way and run against the installed daemon.
# Environment: ATTND_BUILD (the build directory).
source "$(dirname "$0")/lib.bash"
need attnd attnctl attninspect attnbench tests/mknpy
need_no_sanitizer
command -v pkg-config >/dev/null || skip "pkg-config is not installed"
[ -f "$build/libattn.so" ] || skip "libattn is not built"

prefix=$root/usr
cmake --install "$build" --prefix "$prefix" >install.log 2>&1 || { fail "cmake --install" install.log; exit 1; }
pass "cmake --install: $(grep -c Installing install.log) files"
pc=$(find "$prefix" -name attn.pc)
libdir=$(dirname "$(dirname "$pc")")
export PKG_CONFIG_PATH=${pc%/*}

# ---- what is installed -----------------------------------------------------------------------------------
for file in bin/attnd bin/attnctl bin/attninspect bin/attnbench include/attn.h include/attn_status.h \
    share/man/man8/attnd.8 share/man/man1/attnctl.1 share/man/man3/libattn.3 share/man/man3/att_query.3; do
    check "installed: $file" test -f "$prefix/$file"
done
version=$(pkg-config --modversion attn)
check "one version" test "attnd $version" = "$("$prefix/bin/attnd" --version)"
check "the man pages have it" grep -q "attnd $version" "$prefix/share/man/man8/attnd.8"
check "soname" bash -c "objdump -p '$libdir/libattn.so' | grep -q 'SONAME *libattn.so.${version%%.*}\$'"
nm -D --defined-only "$libdir/libattn.so" | awk '{print $3}' | sort >exported
{ grep -oE '^ATT_API .*' "$prefix/include/attn.h" | grep -oE 'att_[a-z_]+\('; printf 'att_fail(\natt_status_name(\n'; } |
    tr -d '(' | sort >declared
check "exported: what the headers declare, nothing else" diff declared exported
check "the headers alone, as C" bash -c "echo '#include <attn.h>' | cc -std=c17 -Wall -Wextra -Wpedantic -Werror -fsyntax-only -x c -I '$prefix/include' -"
if command -v c++ >/dev/null; then
    check "the headers alone, as C++" bash -c "echo '#include <attn.h>' | c++ -Wall -Wextra -Werror -fsyntax-only -x c++ -I '$prefix/include' -"
fi

# ---- the examples, by pkg-config ---------------------------------------------------------------------------
examples=$(cd "$source/docs/examples" && ls ./*.c)
for example in $examples; do
    name=$(basename "$example" .c)
    # shellcheck disable=SC2046 # words are wanted
    check "pkg-config: $name builds" cc -std=c17 -D_GNU_SOURCE -Wall -Wextra -Werror -O2 "$source/docs/examples/$name.c" -o "$name" \
        $(pkg-config --cflags --libs attn) -lm -Wl,-rpath,"$libdir"
done
check "pkg-config: static" bash -c "cc -D_GNU_SOURCE '$source/docs/examples/hello.c' -o hello-static \$(pkg-config --cflags attn) '$libdir/libattn.a' -lm"

# ---- and by CMake ------------------------------------------------------------------------------------------
mkdir outside
cat >outside/CMakeLists.txt <<END
cmake_minimum_required(VERSION 3.25)
project(outside LANGUAGES C)
find_package(attn ${version%.*} REQUIRED)
add_executable(shared $source/docs/examples/hello.c)
target_link_libraries(shared PRIVATE attn::attn)
add_executable(static $source/docs/examples/hello.c)
target_link_libraries(static PRIVATE attn::attn_static)
END
check "CMake: find_package" cmake -S outside -B outside/build -DCMAKE_PREFIX_PATH="$prefix"
check "CMake: builds" cmake --build outside/build
if cmake -S outside -B outside/other -DCMAKE_PREFIX_PATH="$root/elsewhere" >/dev/null 2>&1; then
    fail "CMake: found although it is elsewhere: another installation is in the way"
fi

# ---- they run ------------------------------------------------------------------------------------------------
"$build/tests/mknpy" Q.npy f4 C 20 4
"$build/tests/mknpy" K.npy f4 C 60 4
"$build/tests/mknpy" V.npy f4 C 60 4
attnd=$prefix/bin/attnd
start_daemon --q Q.npy --k K.npy --v V.npy --scale auto
for program in ./hello ./hello-static outside/build/shared outside/build/static ./pipeline ./direct; do
    check "runs: ${program#./}" timeout 60 "$program" "$root/s"
    sed 's/^/     /' check.log
done
# Exactly once: 400,000 additions; the program is killed three times, the daemon twice.
./exactly_once "$root/s" 400000 7 >once.log 2>&1 &
once=$!
for kill in program daemon program daemon program; do
    sleep 0.15
    if [ $kill = program ]; then
        kill -9 $once 2>/dev/null
        wait $once 2>/dev/null
        ./exactly_once "$root/s" 400000 7 >>once.log 2>&1 &
        once=$!
    else
        kill -9 "$daemon"
        wait "$daemon" 2>/dev/null
        start_daemon
    fi
done
if wait $once && grep -q 'all 400001 updates' once.log; then pass "runs: exactly_once"; else fail "runs: exactly_once" once.log; fi
sed 's/^/     /' once.log
stop_daemon
"$prefix/bin/attninspect" state dump dumped >/dev/null
sum=$(tail -c $((60 * 4 * 4)) dumped/V.npy | od -A n -t f4 -N 4 | tr -d ' ')
check "exactly once: 400000" test "$sum" = 400000
check "an orderly end" test "$stopped" = 0
check "no daemon: says so" bash -c "./hello '$root/s'; test \$? = 1"
rm -rf state
"$build/tests/mknpy" V.npy f4 C 60 1
"$build/tests/mknpy" B.npy f4 C 60 0 zero
start_daemon --q Q.npy --k K.npy --v V.npy --bias B.npy --scale 4
check "runs: regression" timeout 60 ./regression "$root/s"
sed 's/^/     /' check.log
stop_daemon
exit $failed
