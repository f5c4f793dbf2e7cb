#!/bin/bash
# Draws what `attnbench paper --json` printed: update.svg (update and query against n) and tau.svg (against n^tau), both
# logarithmic, dashed lines with the predicted exponents. Needs gnuplot (gnuplot-nox).
#
#   build/attnbench paper --json >paper.json; tools/attnbench/plot-paper.sh paper.json docs/pictures
set -euo pipefail

if [ $# -ne 2 ] || [ ! -r "$1" ] || [ ! -d "$2" ]; then
    echo "usage: plot-paper.sh FILE.json DIRECTORY: FILE.json is what attnbench paper --json printed" >&2
    exit 2
fi
command -v gnuplot >/dev/null || {
    echo "plot-paper.sh: gnuplot is not installed (gnuplot-nox)" >&2
    exit 1
}
data=$(mktemp -d)
trap 'rm -rf "$data"' EXIT

# points CASE [FIELD]: "x microseconds" for each point of the sweep CASE, into $data/CASE[.FIELD]
points() {
    local field=${2:-value}
    sed -nE "s/.*\"case\":\"$1([0-9]+)\",.*\"$field\":([0-9.e+]+).*/\1 \2/p" "$json" | sort -n |
        awk '{ printf "%s %.9g\n", $1, $2 / 1000 }' >"$data/$1${2:+.$2}"
    [ -s "$data/$1${2:+.$2}" ] || {
        echo "plot-paper.sh: $json has no points of $1; it must be what attnbench paper --json printed" >&2
        exit 1
    }
}
json=$1
for sweep in update-fixed-d-at- query-n-at- update-d-n-at- tau-update-at- tau-query-at- tau-worst-at- query-p-at- \
    vs-recompute-n vs-rebuild-n vs-paper-n; do
    points "$sweep"
done
for rival in vs-recompute-n vs-rebuild-n vs-paper-n; do
    points "$rival" floor
done

style="set terminal svg size 760,520 font 'sans-serif,13' background rgb 'white'
set logscale xy
set format xy '10^{%T}'
set grid lc rgb '#dddddd'
set key outside right top vertical Left reverse spacing 1.3 samplen 2
set ylabel 'microseconds of CPU time'"
# curve FILE COLOUR TITLE EXPONENT: points, and before them a dashed line of that exponent through their last one
curve() {
    local from x y
    read -r from _ <"$data/$1"
    read -r x y < <(tail -1 "$data/$1")
    echo "[$from:$x] $y * (x / $x.0)**($4) with lines dt 2 lc rgb '$2' title 'predicted: exponent $4', \
        '$data/$1' with linespoints pt 7 ps 0.6 lw 1.5 lc rgb '$2' title '$3', \\"
}
gnuplot <<END
$style
set output '$2/paper-n.svg'
set title 'Cost of an update (merging included) and of a query, against n'
set xlabel 'n'
plot sample \\
$(curve update-d-n-at- '#b03020' 'update, n = d' 2)
$(curve update-fixed-d-at- '#c08000' 'update, d = 64' 1)
$(curve query-n-at- '#206090' 'query, d = 64, 1024 pending' 0)
    '$data/vs-recompute-n' with linespoints pt 7 ps 0.6 lw 1.5 lc rgb 'black' title 'update + query, d = 64', \\
    '$data/vs-recompute-n.floor' with linespoints pt 4 ps 0.7 lc rgb '#606060' title 'recompute at each query', \\
    '$data/vs-paper-n.floor' with linespoints pt 8 ps 0.8 lc rgb '#606060' title 'structure of the paper', \\
    '$data/vs-rebuild-n.floor' with linespoints pt 6 ps 0.7 lc rgb '#606060' title 'rebuild at each update'
set output '$2/paper-tau.svg'
set title 'n = d = 1024: cost against n^τ, τ from 0.25 to 1'
set xlabel 'n^τ'
set xrange [5:1300]
plot sample \\
$(curve tau-update-at- '#b03020' 'update, merging included' 0)
$(curve tau-query-at- '#206090' 'query, the log full' 1)
    '$data/tau-worst-at-' with linespoints pt 7 ps 0.6 lw 1.5 lc rgb '#308030' title 'the slowest update call'
END
echo "$2/paper-n.svg $2/paper-tau.svg"
