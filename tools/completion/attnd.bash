# bash completion of attnd
_attnd() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} words=
    COMPREPLY=()
    case $previous in
    --dir)
        mapfile -t COMPREPLY < <(compgen -d -- "$current")
        compopt -o filenames 2>/dev/null
        return
        ;;
    --q | --k | --v | --bias)
        mapfile -t COMPREPLY < <(compgen -f -X '!*.npy' -- "$current"; compgen -d -- "$current")
        compopt -o filenames 2>/dev/null
        return
        ;;
    --socket)
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        compopt -o filenames 2>/dev/null
        return
        ;;
    --scale) words="auto" ;;
    --precision) words="single mixed double" ;;
    --merge) words="auto eager" ;;
    --durability) words="always interval:100 off" ;;
    --wait) words="adaptive spin block" ;;
    --direct-reads) words="on off" ;;
    --name | --capacity | --tau | --log-capacity | --error-budget | --threads | --allow-uid) return ;;
    *)
        words="--dir --q --k --v --bias --name --socket --scale --precision --capacity --causal --tau --log-capacity --merge
            --error-budget --durability --threads --wait --direct-reads --allow-uid --help --version"
        ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -F _attnd attnd
