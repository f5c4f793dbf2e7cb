#!/bin/bash
# attninspect heatmap and report: the pictures are whole, say what was asked for, and bad requests are refused.
# Environment: ATTND_BUILD (the build directory).
source "$(dirname "$0")/lib.bash"
need attnd attnctl attninspect tests/mknpy
inspect() {
    timeout 120 "$build/attninspect" "$@"
}
arrays 50 1300 4 3
start_daemon --q Q.npy --k K.npy --v V.npy
for i in 1 2 3 4 5; do ctl set-v "$i" 1 2 3; done
ctl update-k 7 1 0.5
ctl set-b 9 -inf
ctl delete 11
stop_daemon
before=$(find state -type f ! -name lock.mdb -exec sha256sum {} + | sort | sha256sum)

# ---- report -------------------------------------------------------------------------------------------------
check "report" inspect state report out.html
for words in 'Shape' 'Scores' 'Entropy' 'Error bounds' 'Hot rows' 'set-token: 6' 'delete: 1' 'token 7' 'n_q)</td><td>50<'; do
    check "report: $words" grep -qF "$words" out.html
done
check "report: nothing from outside" bash -c "! grep -qE 'https?://|<script|<link|<img|@import' out.html"
check "report: no number is missing" bash -c "! grep -qiE '[\" (>-](nan|inf)[\" )<]' out.html"
if [ -x /usr/bin/python3 ]; then
    check "report: well formed" /usr/bin/python3 -c "
import re, xml.dom.minidom
page = open('out.html').read()
charts = re.findall('<svg.*?</svg>', page, re.S)
assert len(charts) >= 6, len(charts)
for chart in charts:
    xml.dom.minidom.parseString(chart)
assert page.rstrip().endswith('</html>')"
fi
if command -v chromium >/dev/null && [ -z "${ATT_NO_BROWSER:-}" ]; then
    timeout 120 chromium --headless --no-sandbox --disable-gpu --user-data-dir="$root/profile" --dump-dom "file://$root/out.html" \
        >dom.html 2>chromium.log
    check "report: in a browser" bash -c "test \$(grep -o '<svg' dom.html | wc -l) -ge 6"
fi

# ---- a report where all rows have gone cold -----------------------------------------------------------------
mv state warm
arrays 6 20 4 3
start_daemon --q Q.npy --k K.npy --v V.npy --log-capacity 64 --durability off
seq -f 'update-v %.0f 0 1' 0 19 >updates
for _ in $(seq 200); do cat updates; done | ctl exec
stop_daemon
check "report: all rows are cold" inspect state report cold.html
check "report: which says why" grep -qF 'none in the snapshot: all rows are cold' cold.html
rm -r state
mv warm state

# ---- heatmap ------------------------------------------------------------------------------------------------
png_size() { # FILE: width x height, when it is a PNG file to its end
    /usr/bin/python3 - "$1" <<'END'
import struct, sys, zlib
data = open(sys.argv[1], "rb").read()
assert data[:8] == b"\x89PNG\r\n\x1a\n"
at, pixels = 8, b""
while at < len(data):
    length, kind = struct.unpack(">I4s", data[at:at + 8])
    body = data[at + 8:at + 8 + length]
    assert struct.unpack(">I", data[at + 8 + length:at + 12 + length])[0] == zlib.crc32(kind + body)
    if kind == b"IHDR":
        width, height = struct.unpack(">II", body[:8])
    if kind == b"IDAT":
        pixels += body
    at += 12 + length
assert kind == b"IEND" and len(zlib.decompress(pixels)) == height * (3 * width + 1)
print(width, height)
END
}
if ! inspect state heatmap all.png 2>err && grep -q 'without libpng' err; then
    echo "heatmap: not checked, there is no libpng"
    exit $failed
fi
check "heatmap: all" png_size all.png
read -r width height < <(png_size all.png)
check "heatmap: fits a screen" test "$width" -le 1300 -a "$height" -le 900
check "heatmap: some" inspect state heatmap some.png --rows 10:20 --keys 0:30
read -r width height < <(png_size some.png)
check "heatmap: cells of 24 pixels" test "$width" = $((110 + 30 * 24 + 130)) -a "$height" = $((60 + 10 * 24 + 70))
check "heatmap: one" inspect state heatmap one.png --rows 3:4 --keys 9:10

refused() { # NAME CODE WORDS ARGUMENT...
    local name=$1 code=$2 words=$3
    shift 3
    inspect "$@" >out 2>err
    if [ $? = "$code" ] && grep -q -e "$words" err; then pass "refused: $name"; else fail "refused: $name" err; fi
}
refused "rows outside" 1 'row 50 is outside' state heatmap no.png --rows 0:51
refused "keys outside" 1 'token 1300' state heatmap no.png --keys 5:1301
refused "an empty range" 2 '--rows' state heatmap no.png --rows 5:5
refused "no range" 2 'A:B' state heatmap no.png --keys 5
refused "rows of something else" 2 'belong to heatmap' state info --rows 1:2
refused "head of something else" 2 'belongs to' state info --head 1
refused "a head that is not there" 1 'head 1 is out of range' state report no.html --head 1
refused "nowhere to write" 1 'nowhere' state report nowhere/no.html
refused "nowhere to write" 1 'nowhere' state heatmap nowhere/no.png
check "no file is left of them" test ! -e no.png -a ! -e no.html
check "the state is as it was" test "$before" = "$(find state -type f ! -name lock.mdb -exec sha256sum {} + | sort | sha256sum)"

# ---- the paper's curves ------------------------------------------------------------------------------------------
if command -v gnuplot >/dev/null; then
    for sweep in update-fixed-d-at- query-n-at- update-d-n-at- tau-update-at- tau-query-at- tau-worst-at- query-p-at- \
        vs-recompute-n vs-rebuild-n vs-paper-n; do
        for x in 64 1024 20000; do
            echo "{\"suite\":\"paper\",\"case\":\"$sweep$x\",\"value\":$((x * 10)),\"unit\":\"ns\",\"floor\":1.5e+06,\"ratio\":null}"
        done
    done >paper.json
    mkdir curves
    check "curves" "$source/tools/attnbench/plot-paper.sh" paper.json curves
    for picture in paper-n paper-tau; do
        check "curves: $picture.svg" /usr/bin/python3 -c "
import xml.dom.minidom
text = xml.dom.minidom.parse('curves/$picture.svg').documentElement.toxml()
assert text.count('<path') >= 6 and 'predicted: exponent' in text"
    done
    grep -v tau-query paper.json >less.json
    if "$source/tools/attnbench/plot-paper.sh" less.json curves >out 2>err; then
        fail "curves: a sweep that is missing" out
    else
        check "curves: a sweep that is missing" grep -q 'no points of tau-query' err
    fi
else
    echo "curves: not checked, gnuplot is not installed"
fi

# ---- several heads, no token ------------------------------------------------------------------------------------
rm -rf state
if /usr/bin/python3 -c 'import numpy' 2>/dev/null; then
    /usr/bin/python3 -c "
import numpy as np
for name, shape in (('Q', (2, 5, 3)), ('K', (2, 6, 3)), ('V', (2, 6, 2))):
    np.save(name + '.npy', np.random.default_rng(1).normal(size=shape).astype('f4'))
np.save('B.npy', np.array([[0] * 6, [-np.inf] * 6], 'f4'))"
    start_daemon --q Q.npy --k K.npy --v V.npy --bias B.npy
    stop_daemon
    check "heads: report" inspect state report one.html --head 1
    check "heads: no token" grep -q '5 rows see no token' one.html
    check "heads: heatmap" inspect state heatmap one.png --head 1
fi
exit $failed
