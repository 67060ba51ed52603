"""How many processes a launch script starts, from the words of its launcher and of its batch system."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# Processes of a node, nodes, and all processes, as launchers spell them.
_PER_NODE = ("--nproc_per_node", "--nproc-per-node", "--num_gpus", "--ntasks-per-node", "--npernode")
_NODES = ("--nnodes", "--num_nodes", "--num_machines", "--nodes", "-N")
_ALL = ("--ntasks", "--num_processes", "-n", "-np")
_FORMS = (_ALL, _PER_NODE, _NODES)
_COUNT_ALL = ("srun", "mpirun", "mpiexec", "accelerate")
# Launchers that a file of hosts tells how many processes to start, and its options.
_TAKE_HOSTS = ("deepspeed", "mpirun", "mpiexec")
_HOSTS = ("--hostfile", "-hostfile", "--machinefile", "-machinefile")
_STARTERS = ("srun", "mpirun", "mpiexec", "torchrun", "deepspeed", "accelerate", "ft_launcher")
_DIRECTIVES = re.compile(r"^#SBATCH[ \t]+(.*)$", re.MULTILINE)
_DIRECTIVE = re.compile(r"(?<!\S)(--[a-z-]+(?=[=\s])|-[nN](?=[=\s\d])|-[oeJ](?=[=\s]))[=\s]*([^\s#-]\S*)")
_GRES = re.compile(r"gpu(?::[A-Za-z][\w.-]*)?:(\d+)")
_SLOTS = re.compile(r"(?:slots|max_slots)\s*=\s*(\d+)|:(\d+)\s*$")
_SLURM = {
    "--nodes": ("SLURM_NNODES", "SLURM_JOB_NUM_NODES"),
    "--ntasks": ("SLURM_NTASKS", "SLURM_NPROCS"),
    "--ntasks-per-node": ("SLURM_NTASKS_PER_NODE",),
    "--gpus-per-node": ("SLURM_GPUS_PER_NODE", "SLURM_GPUS_ON_NODE"),
}
_LONG = {
    "-N": "--nodes",
    "-n": "--ntasks",
    "--gres": "--gpus-per-node",
    "--gpus-on-node": "--gpus-per-node",
    "-o": "--output",
    "-e": "--error",
    "-J": "--job-name",
}
# Whose product is the tasks of a job, with what they are where nothing says it.
_TASKS = {"--ntasks-per-node": "", "--nodes": "1"}
_MOST = 1 << 24


def slurm_directives(text: str) -> dict[str, str]:
    """What ``#SBATCH`` lines ask for, by the long name."""
    return _long(" ".join(_DIRECTIVES.findall(text)))


def slurm_options(words: Sequence[str]) -> dict[str, str]:
    """What sbatch's own options ask for, by the long name."""
    return _long(" ".join(words))


def _long(options: str) -> dict[str, str]:
    asked = {}
    for name, value in _DIRECTIVE.findall(options):
        if name == "--gres":
            gpus = _GRES.search(value)
            if gpus is None:
                continue
            value = gpus[1]
        value = value.strip("\"'")
        asked[_LONG.get(name, name)] = value.rpartition(":")[2] if name == "--gpus-per-node" else value
    return asked


def log_folders(text: str) -> list[str]:
    """Folders of the files that ``#SBATCH`` lines name for what a job prints: Slurm makes the files alone."""
    files = (value for name, value in slurm_directives(text).items() if name in ("--output", "--error"))
    return sorted({folder for file in files if (folder := file.rpartition("/")[0]) and "%" not in folder})


def slurm_variables(directives: Mapping[str, str]) -> dict[str, str]:
    """The variables that Slurm sets for them."""
    tasks, _ = _product([(name, directives.get(name, one)) for name, one in _TASKS.items()])
    if tasks and "--ntasks" not in directives:
        directives = {**directives, "--ntasks": str(tasks)}
    return {name: directives[asked] for asked, names in _SLURM.items() if asked in directives for name in names}


def processes(words: Sequence[str], directives: Mapping[str, str], hosts: str = "") -> tuple[int, str]:
    """Processes that a launcher's words start, or 0 and why it is not known; 0 and nothing without a launcher.

    words: those before the script. directives: of the batch system, which srun takes where it is not told else.
    hosts: text of the file of hosts that the launcher is given.
    """
    starters = {_starter(word): position for position, word in enumerate(words) if _starter(word)}
    if not starters:
        return 0, ""
    # The innermost one starts the processes of training.
    starter, position = max(starters.items(), key=lambda item: item[1])
    asked = dict(_options(words[position:]))
    if starter == "srun":
        asked = {**directives, **asked}
    every, per_node, nodes = (next(((n, asked[n]) for n in names if n in asked), None) for names in _FORMS)
    if starter in _COUNT_ALL and every is not None:
        return _product([every])
    if starter in _TAKE_HOSTS and (file := next((name for name in _HOSTS if name in asked), None)) is not None:
        return _of_hosts(hosts, file, per_node, nodes)
    if per_node is not None:
        return _product([per_node, nodes] if nodes is not None else [per_node])
    return 0, f"it starts its processes with {starter}, and does not say how many"


def _of_hosts(
    hosts: str, file: str, per_node: tuple[str, str] | None, nodes: tuple[str, str] | None
) -> tuple[int, str]:
    """Processes on the machines of a file of hosts: ``name slots=8``, or ``name:8``."""
    lines = [line.split("#")[0].strip() for line in hosts.splitlines()]
    lines = [line for line in lines if line]
    slots = [_SLOTS.search(line) for line in lines]
    if not lines:
        return 0, f"the file of {file} is not there, or empty"
    if nodes is not None and nodes[1] != "-1":
        if not nodes[1].isdecimal():
            return _product([nodes])
        lines, slots = lines[: int(nodes[1])], slots[: int(nodes[1])]
    if per_node is not None and per_node[1] != "-1":
        return _product([per_node, ("hosts", str(len(lines)))])
    if not all(slots):
        return 0, f"the file of {file} does not say how many processes a host runs"
    return sum(int(slot[1] or slot[2]) for slot in slots if slot is not None), ""


def starts_many(words: Sequence[str]) -> bool:
    """Whether a command's words name a launcher of several processes."""
    return any(map(_starter, words))


def _starter(word: str) -> str:
    """The launcher that a word names, or nothing."""
    name = word.rsplit("/", 1)[-1]
    if name.startswith("torch.distributed."):
        return "torchrun"
    return name if name in _STARTERS else ""


def _options(words: Sequence[str]) -> list[tuple[str, str]]:
    """Options with their values, written with a space or an equals sign."""
    options = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if attached := re.fullmatch(r"(-[nN])(\d+)", word):
            options.append((attached[1], attached[2]))
            continue
        name, equals, value = word.partition("=")
        options.append((name, value if equals else following))
    return options


def _product(counts: Sequence[tuple[str, str]]) -> tuple[int, str]:
    total = 1
    for name, value in counts:
        if not re.fullmatch(r"[1-9]\d{0,8}", value):
            return 0, f"{name} is {value!r}, which is no number of processes or nodes"
        total *= int(value)
    if total > _MOST:
        return 0, f"{total} processes are more than any cluster has"
    return total, ""
