#!/bin/bash -p
# Stands for every program that a launch script calls and that must not run: it writes down how it was called, and runs
# what a program such as srun would run, by a stub or by bash. Linked under each name; see stubs.py.

name=${0##*/}
unknown="%unknown_$name%"
separator=$'\x1f'

# One file per record: its kind, the folder, the words around the command, a file of hosts, then the words themselves.
record() {
    local kind=$1 hosts=$2
    shift 2
    last=$VTRAIN_RECORDS/$(date +%s%N).$BASHPID
    printf '%s\0' "$kind" "$PWD" "$VTRAIN_AROUND" "$hosts" "$@" >"$last"
}

# The text of a file of hosts that the words name.
hosts() {
    local word previous=
    for word in ${VTRAIN_AROUND//$separator/ } "$@"; do
        case $previous in --hostfile | -hostfile | --machinefile | -machinefile | -f) ;; *) previous= ;; esac
        case $word in --hostfile=* | --machinefile=*) previous=- word=${word#*=} ;; esac
        if [[ -n $previous && -f $word ]]; then
            head -c 65536 "$word"
            return
        fi
        previous=$word
    done
}

# Of the environment, what says something of memory.
finish() {
    record run "$(hosts "$@")" "$name" "$@"
    printf '%s\0' "PYTORCH_CUDA_ALLOC_CONF=$PYTORCH_CUDA_ALLOC_CONF" "PYTORCH_ALLOC_CONF=$PYTORCH_ALLOC_CONF" >"$last.env"
}

is_program() {
    local base=${1##*/}
    [[ $base == *.sh || $base == *.bash || " bash sh env $VTRAIN_NAMES " == *" $base "* ]]
}

# Runs the command among the words of srun, docker, nsys and the like.
follow() {
    local i word
    for ((i = 1; i <= $#; i++)); do
        word=${!i}
        if is_program "$word"; then
            export VTRAIN_AROUND=$VTRAIN_AROUND$(printf "%s$separator" "$name" "${@:1:i-1}")
            run_words "${@:i}"
        elif [[ $word == *[[:space:]]* && $word =~ (^|[[:space:]/])(python[0-9.]*|torchrun|deepspeed|bash|srun)[[:space:]] ]]; then
            export VTRAIN_AROUND=$VTRAIN_AROUND$(printf "%s$separator" "$name" "${@:1:i-1}")
            exec bash -c "${*:i}"
        fi
    done
    record unfollowed "" "$name" "$@"
}

run_words() {
    local base=${1##*/}
    case $base in
    *.sh | *.bash) exec bash "$@" ;;
    esac
    exec "$base" "${@:2}"
}

case $name in
python* | pypy*)
    case ${1-} in
    -c | - | "" | -V | --version)
        [[ ${1-} == -c ]] || cat >/dev/null
        if [[ "${2-}" == *device_count* ]]; then
            record gpus "" "$name" "$@"
            echo "${SLURM_GPUS_ON_NODE:-8}"
        else
            echo "$unknown"
        fi
        exit
        ;;
    esac
    [[ " $* " == *" -m pip "* || " $* " == *" -m venv "* ]] && exit
    if [[ " $* " == *" --no-python "* || " $* " == *" --no_python "* ]]; then
        follow "$@"
    else
        finish "$@"
        echo "$unknown"
    fi
    ;;
torchrun | deepspeed | accelerate | ft_launcher | torchx)
    if [[ " $* " == *" --no-python "* || " $* " == *" --no_python "* || " $* " == *".sh "* && " $* " != *".py "* ]]; then
        follow "$@"
    else
        finish "$@"
    fi
    ;;
sbatch | qsub | bsub)
    # The batch system's script: a file among the words, or standard input.
    text=
    for word in "$@"; do
        [[ -f $word && $word != -* ]] && text=$(<"$word") && break
    done
    [[ $text ]] || text=$(cat)
    record batch "$text" "$name" "$@"
    env -0 >"$last.env"
    [[ " $* " == *" --parsable "* ]] && echo 1 || echo "Submitted batch job 1"
    ;;
ssh)
    # Options, then the host, then the command in one or several words.
    while [[ ${1-} == -* ]]; do
        [[ $1 == -[bcDEeFIiJLlmOopQRSWw] ]] && shift
        shift
    done
    shift
    exec bash -c "$*"
    ;;
nvidia-smi | rocm-smi)
    record gpus "" "$name" "$@"
    for ((i = 0; i < ${SLURM_GPUS_ON_NODE:-8}; i++)); do echo "$unknown"; done
    ;;
scontrol)
    if [[ "$*" == *hostname* ]]; then
        for ((i = 0; i < ${SLURM_NNODES:-1}; i++)); do echo "node$i"; done 2>/dev/null
    fi
    ;;
git)
    if [[ "$*" == *show-toplevel* ]]; then echo "$VTRAIN_TOP"; else echo "$unknown"; fi
    ;;
hostname) [[ "$*" == *-[iI]* ]] && echo 127.0.0.1 || echo localhost ;;
whoami | logname) echo "${USER:-user}" ;;
id) echo 1000 ;;
module | ml | conda | mamba | micromamba | pyenv | spack)
    # They run commands too: conda run, micromamba run.
    [[ ${1-} == run ]] && follow "$@"
    ;;
pip* | apt* | yum | dnf | sleep | mount | umount | modprobe | sysctl | wandb | ray | ldconfig | chown | kill | killall | \
    pkill | docker-compose | huggingface-cli | hf | rsync | scp | ulimit | sacct | squeue | scancel | watch | clear | \
    nvidia-cuda-mps-control | ibstat | ninja | cmake | make | gcc | nvcc | stty | tput | tmux | screen) ;;
curl | wget | aws | gsutil | s3cmd | getent | ip | ifconfig | lscpu | free | ss | netstat | lsof | ps | dmidecode | \
    yq | nproc | sinfo) echo "$unknown" ;;
time) exec "$@" ;;
*) follow "$@" ;;
esac
