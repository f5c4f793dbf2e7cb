# bash completion of attnbench
_attnbench() {
    local words="query merge update accuracy crossover scale ipc direct durable recovery paper hmv --json --quick --help --version"
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}")
}
complete -F _attnbench attnbench
