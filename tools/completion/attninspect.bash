# bash completion of attninspect
_attninspect() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} words=0 i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        --from | --limit | --to-lsn | --rows | --keys | --head) i=$((i + 1)) ;;
        -*) ;;
        *) words=$((words + 1)) ;;
        esac
    done
    case $previous in
    --from | --limit | --to-lsn | --rows | --keys | --head) return ;;
    esac
    case $current:$words in
    -*) mapfile -t COMPREPLY < <(compgen -W "--json --from --limit --to-lsn --rows --keys --head --help --version" -- "$current") ;;
    *:1) mapfile -t COMPREPLY < <(compgen -W "info verify log dump query row copy repair heatmap report" -- "$current") ;;
    *)
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        compopt -o filenames 2>/dev/null
        ;;
    esac
}
complete -F _attninspect attninspect
