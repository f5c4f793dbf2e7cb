#!/bin/bash
# Shell completion: offers every option, command and suite of --help, and nothing else. bash is asked; of zsh, if it is
# installed, the syntax is checked.
# Environment: ATTND_BUILD (the build directory).
source "$(dirname "$0")/lib.bash"
need attnd attnctl attninspect attnbench
completion=$source/tools/completion
compopt() { :; }

offers() { # PROGRAM WORD...: what completion says for the last word
    COMP_WORDS=("$@")
    COMP_CWORD=$(($# - 1))
    COMPREPLY=()
    "_$1"
    printf '%s\n' "${COMPREPLY[@]}"
}

same() { # NAME: the files said and offered
    sort -u -o said said
    sort -u -o offered offered
    if [ -s said ] && cmp -s said offered; then pass "$1: $(wc -l <said)"; else diff said offered >difference; fail "$1" difference; fi
}

for program in attnd attnctl attninspect attnbench; do
    # shellcheck disable=SC1090
    source "$completion/$program.bash"
    "$build/$program" --help >help
    # Options that belong to one command of attnctl come with it.
    grep -oE -e '--[a-z][a-z-]*' help | sort -u >said
    offers $program --  >offered
    [ $program = attnctl ] && offers attnctl replay -- >>offered
    grep -E -e '^--' offered >options
    cp options offered
    same "$program: options"
    for word in $(cat said); do
        grep -qF -e "${word#--}" "$completion/_attnd" || fail "zsh: $program $word"
    done
    sed -nE 's/^  ([a-z][a-z-]*)( .*|$)/\1/p' help >said
    [ -s said ] || continue
    case $program in
    attninspect) offers attninspect state '' >offered ;;
    *) offers $program '' | grep -v '^-' >offered ;;
    esac
    same "$program: commands"
    for word in $(cat said); do
        grep -qE -e "[(' ]${word}[:) ]" "$completion/_attnd" || fail "zsh: $program $word"
    done
done
: >x.npy
if [ "$(offers attnd --dir d --q '')" = x.npy ]; then pass "attnd: arrays"; else fail "attnd: arrays"; fi
if [ "$(offers attnd --precision m)" = mixed ]; then pass "attnd: words"; else fail "attnd: words"; fi
if [ "$(offers attnctl --socket s que)" = query ]; then pass "attnctl: after an option"; else fail "attnctl: after an option"; fi
if command -v zsh >/dev/null; then
    check "zsh: syntax" zsh -n "$completion/_attnd"
fi
exit $failed
