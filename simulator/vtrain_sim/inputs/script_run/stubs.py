"""The programs that a launch script finds: harmless ones of the machine, and stubs that write down their arguments."""

from __future__ import annotations

import os
import shutil
from importlib.resources import files

# They compute, or work on the copies of files in memory.
REAL = (
    *(
        "bash",
        "env",
        "printenv",
        "dirname",
        "basename",
        "date",
        "seq",
        "expr",
        "wc",
        "head",
        "tail",
        "cat",
        "tac",
        "sed",
    ),
    *("tr", "cut", "sort", "uniq", "grep", "egrep", "fgrep", "awk", "gawk", "mawk", "printf", "echo", "paste", "rev"),
    *("comm", "fold", "split", "test", "[", "true", "false", "envsubst", "getopt", "shuf", "md5sum", "sha256sum", "bc"),
    *(
        "mkdir",
        "rmdir",
        "rm",
        "cp",
        "mv",
        "ln",
        "touch",
        "tee",
        "chmod",
        "ls",
        "realpath",
        "readlink",
        "mktemp",
        "find",
    ),
    *("xargs", "stat", "du", "df", "diff", "jq", "column", "numfmt", "factor", "uname", "tty", "yes"),
)
# They start the processes of training.
LAUNCHERS = ("torchrun", "deepspeed", "accelerate", "ft_launcher", "torchx")
PYTHONS = ("python", "python2", "python3", *(f"python3.{minor}" for minor in range(6, 16)))
# They run another command: on other machines, in a container, under a profiler, ...
AROUND = (
    *("srun", "mpirun", "mpiexec", "orterun", "prun", "prte", "jsrun", "aprun", "horovodrun", "pdsh", "clush", "ssh"),
    *("docker", "podman", "nerdctl", "apptainer", "singularity", "enroot", "shifter", "kubectl", "sudo", "su"),
    *("nsys", "ncu", "rocprof", "rocprofv3", "omniperf", "numactl", "taskset", "nice", "ionice", "timeout", "nohup"),
    *("stdbuf", "setsid", "chrt", "unbuffer", "strace", "gdb", "cuda-gdb", "compute-sanitizer", "time", "flock"),
    *("uv", "poetry", "pipenv", "hatch", "conda", "mamba", "micromamba", "parallel", "flux", "salloc"),
)
BATCH = ("sbatch", "qsub", "bsub")
# They change nothing that is of interest, or say something that is not known here.
QUIET = (
    *("module", "ml", "pyenv", "spack", "pip", "pip3", "apt", "apt-get", "yum", "dnf", "sleep", "mount", "umount"),
    *("modprobe", "sysctl", "wandb", "ray", "ldconfig", "chown", "kill", "killall", "pkill", "huggingface-cli", "hf"),
    *("rsync", "scp", "sacct", "squeue", "scancel", "watch", "clear", "ibstat", "ninja", "cmake", "make", "gcc"),
    *("nvcc", "stty", "tput", "tmux", "screen", "nvidia-smi", "rocm-smi", "scontrol", "git", "hostname", "whoami"),
    *("logname", "id", "curl", "wget", "aws", "gsutil", "s3cmd", "getent", "ip", "ifconfig", "lscpu", "free", "ss"),
    *("netstat", "lsof", "ps", "dmidecode", "yq", "nproc", "sinfo", "nvidia-cuda-mps-control", "docker-compose"),
)
FOLLOWED = (*LAUNCHERS, *PYTHONS, *AROUND, *BATCH)
STUBS = (*FOLLOWED, *QUIET)

FOLDER = "/usr/bin"
STUB = "/vtrain/stub"
PRELUDE = "/vtrain/prelude"
RECORDS = "/run/vtrain"
BASH = f"{FOLDER}/bash"
# Bash under this name would not read the prelude.
SH = (f"{FOLDER}/sh", '#!/bin/bash -p\nexec bash "$@"\n')
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/lib32", "/usr/lib32", "/nix/store", "/gnu/store")


def text(name: str) -> str:
    """A script of this package."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def programs() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What is shown of the machine, as (its path, path in the root folder), and links as (path, what it leads to)."""
    places = f"/usr/local/bin:/usr/bin:/bin:{os.defpath}"
    located = ((name, shutil.which(name, path=places)) for name in REAL)
    # Where several names are one program, it looks at the name that it was called by.
    binds = [(os.path.realpath(path), f"{FOLDER}/{name}") for name, path in located if path is not None]
    links: list[tuple[str, str]] = []
    for library in _LIBRARIES:
        if os.path.islink(library):
            links.append((library, os.readlink(library)))
        elif os.path.isdir(library):
            binds.append((library, library))
    links += [(f"{FOLDER}/{name}", STUB) for name in STUBS]
    links += [("/bin", "usr/bin"), ("/usr/local/bin", "/usr/bin"), ("/usr/sbin", "bin"), ("/sbin", "usr/bin")]
    return binds, links
