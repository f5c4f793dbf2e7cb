#!/bin/bash
# docs/protocol.md's tables of fields are what a compiler makes of the headers: every offset and size, no field left out.
# Environment: CC.
set -u

source=$(cd "$(dirname "$0")/../.." && pwd)
root=$(mktemp -d /tmp/attnd-protocol-XXXXXX)
trap 'rm -rf "$root"' EXIT

# "### `struct` (N bytes, header)" begins a table; its rows are "| offset | bytes | `field` | what |".
awk -F'|' '
    function finish() {
        if (name != "" && next_offset != size) { print "#error " name ": the fields of the table end at " next_offset }
    }
    /^### `att_/ {
        finish()
        split($0, part, /[`( ]+/); name = part[2]; size = part[3]; next_offset = 0; structs++
        printf "_Static_assert(sizeof(struct %s) == %s, \"%s: size\");\n", name, size, name
    }
    name != "" && /^\| [0-9]+ \| [0-9]+ \| `/ {
        offset = $2 + 0; bytes = $3 + 0; field = $4; gsub(/[` ]/, "", field)
        if (offset != next_offset) { print "#error " name "." field ": the table has a gap before it" }
        next_offset = offset + bytes
        printf "_Static_assert(offsetof(struct %s, %s) == %d && sizeof(((struct %s *)0)->%s) == %d, \"%s.%s\");\n", \
            name, field, offset, name, field, bytes, name, field
    }
    /^## / && name != "" { finish(); name = "" }
    END { finish(); if (structs < 9) { print "#error only " structs " tables were found" } }
' "$source/docs/protocol.md" >"$root/asserts"
{
    printf '#include "%s"\n' attn.h wire.h channel.h handshake.h
    cat "$root/asserts"
} >"$root/check.c"
if ! "${CC:-cc}" -std=gnu17 -fsyntax-only -I "$source/ipc" -I "$source/core" "$root/check.c"; then
    echo "FAIL docs/protocol.md and the headers differ"
    exit 1
fi
echo "ok   $(grep -c offsetof "$root/asserts") fields of $(grep -c sizeof.struct "$root/asserts") structs"
