# bash completion of attnctl
_attnctl() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command= i
    local commands="query row col all update-k update-v set-k set-v set-q set-b append delete replay exec flush merge
        snapshot shutdown ping stat metrics top"
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        --name | --socket | --timeout) i=$((i + 1)) ;;
        -*) ;;
        *)
            command=${COMP_WORDS[i]}
            break
            ;;
        esac
    done
    case $command:$previous in
    :--socket | exec:* | all:* | replay:--kind | replay:--index | replay:--rows)
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        compopt -o filenames 2>/dev/null
        ;;
    :--name | :--timeout) ;;
    replay:*) mapfile -t COMPREPLY < <(compgen -W "--kind --index --rows --from --to --head" -- "$current") ;;
    :*)
        case $current in
        -*) mapfile -t COMPREPLY < <(compgen -W "--name --socket --json --direct --durable --timeout --help --version" -- "$current") ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$current") ;;
        esac
        ;;
    esac
}
complete -F _attnctl attnctl
