#!/bin/bash
# The man pages say what the programs say: every option, command and suite of --help is in its page and the other way
# round; every function of attn.h is in libattn(3); groff has nothing to complain about.
# Environment: ATTND_BUILD (the build directory).
set -u

source=$(cd "$(dirname "$0")/../.." && pwd)
build=${ATTND_BUILD:-$source/build}
root=$(mktemp -d /tmp/attnd-man-XXXXXX)
trap 'rm -rf "$root"' EXIT
failed=0

# same NAME: $root/help and $root/page must hold the same words.
same() {
    sort -u -o "$root/help" "$root/help"
    sort -u -o "$root/page" "$root/page"
    if ! [ -s "$root/help" ]; then
        echo "FAIL $1: nothing was found to compare"
        failed=1
    elif cmp -s "$root/help" "$root/page"; then
        echo "ok   $1: $(wc -l <"$root/help")"
    else
        echo "FAIL $1"
        comm -23 "$root/help" "$root/page" | sed 's/^/     missing in the man page: /'
        comm -13 "$root/help" "$root/page" | sed 's/^/     only in the man page: /'
        failed=1
    fi
}

# words REGEX: what of standard input matches, a line each.
words() {
    grep -oE -e "$1" || true
}

for page in attnd.8 attnctl.1 attninspect.1 attnbench.1; do
    program=$build/${page%.*}
    if ! [ -x "$program" ]; then
        echo "skipped: $program is not built"
        exit 77
    fi
    sed 's/\\-/-/g' "$source/docs/man/$page.in" >"$root/text"
    "$program" --help >"$root/says"
    if [ "$(wc -L <"$root/says")" -gt 80 ] || [ "$(wc -l <"$root/says")" -gt 40 ]; then
        echo "FAIL ${page%.*} --help does not fit a screen: $(wc -l <"$root/says") lines, $(wc -L <"$root/says") columns"
        failed=1
    fi
    # Options: in the page, those that have a paragraph of their own, or belong to a command.
    words '--[a-z][a-z-]*' <"$root/says" >"$root/help"
    words '--[a-z][a-z-]*' <"$root/text" >"$root/page"
    same "$page: options"
    # Commands and suites: in --help, the first words of indented lines.
    sed -nE 's/^  ([a-z][a-z-]*)( .*|$)/\1/p' "$root/says" >"$root/help"
    if [ -s "$root/help" ]; then
        sed -nE '/^\.SH (COMMANDS|SUITES)/,/^\.SH EXIT/s/^\.BI? ([a-z][a-z-]*)( "\s.*)?$/\1/p' "$root/text" >"$root/page"
        same "$page: commands"
    fi
done

sed 's/\\-/-/g' "$source/docs/man/libattn.3.in" >"$root/text"
words '^ATT_API .*|^(enum|const).*att_[a-z_]*\(' <"$source/ipc/attn.h" | words 'att_[a-z_]*\(' >"$root/help"
words '^(enum|const|void).* ?\*?att_[a-z_]*\(' <"$source/core/attn_status.h" | words 'att_[a-z_]*\(' >>"$root/help"
sed -n '/^\.SH SYNOPSIS/,/^\.SH DESCRIPTION/p' "$root/text" | words 'att_[a-z_]*\(' >"$root/page"
same "libattn.3: prototypes"
sed -n '/^\.SH DESCRIPTION/,/^\.SH RETURN/p' "$root/text" | words 'att_[a-z_]* ?"?\(' | tr -d '" ' >"$root/page"
same "libattn.3: descriptions"
words '^ *ATT_[A-Z]+ = ' <"$source/core/attn_status.h" | words 'ATT_[A-Z]+' >"$root/help"
sed -n '/^\.SH RETURN/,$p' "$root/text" | words '^\.B ATT_[A-Z]+$' | words 'ATT_[A-Z]+' >"$root/page"
same "libattn.3: statuses"

if command -v groff >/dev/null; then
    for page in "$source"/docs/man/*.in; do
        groff -man -ww -Tutf8 -z "$page" >"$root/complaints" 2>&1
        if [ -s "$root/complaints" ]; then
            echo "FAIL groff: ${page##*/}"
            head -5 "$root/complaints"
            failed=1
        fi
    done
fi
exit $failed
