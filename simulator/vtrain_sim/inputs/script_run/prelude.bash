# Read by each bash that a launch script starts, before its own commands: writes down every command, in the words that
# bash makes of it, and lets the script enter folders that are not on this machine.
exec 198>>"$VTRAIN_RECORDS/trace"
BASH_XTRACEFD=198
PS4='+ '

command_not_found_handle() {
    printf '%s\n' "$1" >>"$VTRAIN_RECORDS/missing"
    # Something that no argument of interest reads as a value.
    local i
    for ((i = 0; i < ${VTRAIN_LINES:-1}; i++)); do echo "%unknown_${1//[^A-Za-z0-9_.-]/_}%"; done
    return 127
}

cd() {
    builtin cd "$@" 2>/dev/null && return
    [ "$#" -gt 0 ] && mkdir -p "${!#}" && builtin cd "$@"
}

pushd() {
    builtin pushd "$@" 2>/dev/null && return
    [ "$#" -gt 0 ] && mkdir -p "${!#}" && builtin pushd "$@"
}
set -x
