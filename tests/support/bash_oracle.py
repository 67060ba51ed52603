"""What a launch script starts, found in the plainest way: real bash, and stubs that print how they are called.

Written apart from the reader that it checks. Scripts run in a read-only copy of the machine without a network
(unshare); nothing is said of scripts that call programs by paths that are not there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_RUN = ("torchrun", "deepspeed", "accelerate", "ft_launcher", "python", "python3")
_AROUND = (
    "srun",
    "mpirun",
    "mpiexec",
    "uv",
    "nsys",
    "numactl",
    "docker",
    "apptainer",
    "singularity",
    "nohup",
    "timeout",
    "sudo",
    "stdbuf",
    "conda",
)
_SILENT = (
    "nvidia-smi",
    "module",
    "pip",
    "pip3",
    "sleep",
    "git",
    "hostname",
    "wandb",
    "scontrol",
    "ray",
    "apt",
    "apt-get",
    "yum",
    "curl",
    "wget",
    "kill",
    "pkill",
    "ssh",
    "pdsh",
)
_REAL = (
    *(
        "bash",
        "sh",
        "env",
        "dirname",
        "basename",
        "date",
        "seq",
        "expr",
        "wc",
        "head",
        "tail",
        "cat",
        "sed",
        "tr",
        "cut",
    ),
    *("sort", "uniq", "grep", "awk", "printf", "echo", "mkdir", "rm", "cp", "mv", "ln", "touch", "tee", "chmod", "ls"),
    *("realpath", "readlink", "mktemp", "find", "xargs", "test", "true", "false", "bc", "uname"),
)
_RECORD = """#!/bin/bash -p
case "${0##*/}-$1" in python*-c) exec /usr/bin/python3 "$@";; esac
printf '%s\\0' "${0##*/}" "$@" >"$ORACLE_LOG/$(date +%s%N).$$"
"""
_EXEC = """#!/bin/bash -p
while [ $# -gt 0 ]; do
    case "${1##*/}" in
        *.sh) exec bash "$@";;
        bash|sh|env|torchrun|deepspeed|accelerate|python|python3|srun|numactl|nsys) exec "$@";;
    esac
    shift
done
"""
_BATCH = """#!/bin/bash -p
for word in "$@"; do [ -f "$word" ] && exec bash "$word"; done
exec bash
"""


def can_run() -> bool:
    """Whether the machine lets scripts be run apart."""
    if shutil.which("unshare") is None or shutil.which("bash") is None:
        return False
    return subprocess.run(["unshare", "-rmnpf", "true"], capture_output=True, check=False).returncode == 0


def started(script: Path, folder: Path, top: Path, placeholder: str = "") -> list[list[str]]:
    """Words of the programs that a script starts in a folder, in order.

    top: folder that it may write to (in memory). placeholder: what goes where scripts have ``NAME=<to be filled in>``.
    """
    with tempfile.TemporaryDirectory() as scratch:
        programs, log = Path(scratch, "bin"), Path(scratch, "log")
        programs.mkdir()
        log.mkdir()
        for names, text in ((_RUN, _RECORD), (_AROUND, _EXEC), (("sbatch",), _BATCH), (_SILENT, "#!/bin/bash -p\n")):
            for name in names:
                (programs / name).write_text(text)
                (programs / name).chmod(0o755)
        for name in _REAL:
            if found := shutil.which(name, path="/usr/bin:/bin"):
                (programs / name).symlink_to(found)
        # Read-only but for the log; what is written below top is lost.
        fill = (
            f"grep -rlE '=<[^>]+>' {script.parent} | xargs -r sed -i -E 's/=<[^>]+>/={placeholder}/';"
            if placeholder
            else ""
        )
        isolated = (
            f"mount --bind {log} {log}; mkdir -p {scratch}/up; mount -t tmpfs tmpfs {scratch}/up;"
            f"mkdir {scratch}/up/u {scratch}/up/w; mount -t overlay overlay"
            f" -o lowerdir={top},upperdir={scratch}/up/u,workdir={scratch}/up/w {top} || exit 99;"
            f"{fill} mount -o remount,bind,ro / || exit 98;"
            f"cd {folder}; exec env -i PATH={programs} HOME=/nonexistent LC_ALL=C.UTF-8 ORACLE_LOG={log}"
            f" /usr/bin/timeout 20 bash {script}"
        )
        subprocess.run(
            ["unshare", "-rmnpf", "bash", "-c", isolated],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
            env={"PATH": os.environ.get("PATH", os.defpath)},
        )
        return [path.read_bytes().decode(errors="replace").split("\0")[:-1] for path in sorted(log.iterdir())]
