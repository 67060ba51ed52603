"""Runs a launch script in the jail, and says which commands it started."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtrain_sim.inputs.placeholders import filled_in
from vtrain_sim.inputs.process_count import log_folders
from vtrain_sim.inputs.script_run import jail, stubs
from vtrain_sim.inputs.script_run.visible_files import copies, top_of

_SECONDS = 20
# What a script is stopped beyond, for messages.
LIMITS = f"{_SECONDS} s, {jail.MOST_MEMORY >> 30} GiB or {jail.MOST_PROCESSES} processes"
# Of the user's environment: what changes bash itself, what the jail sets, and what may be secret.
_NOT_PASSED = re.compile(
    r"(PATH|HOME|PWD|OLDPWD|SHLVL|_|TMPDIR|ENV|IFS|PS[0-4]|SHELL.*|BASH.*|LD_.*|PYTHON.*|LC_.*|LANG.*|VIRTUAL_ENV.*"
    r"|VTRAIN_.*|.*(KEY|TOKEN(?!S|IZ)|SECRET|PASS|CREDENTIAL|COOKIE|AUTH|WEBHOOK|DSN|PROXY|(^|_)PAT$).*|.*[^A-Za-z0-9_].*)",
    re.IGNORECASE,
)
_HAS_PASSWORD = re.compile(r"://[^/@\s]+@")
_SEPARATOR = "\x1f"
_FOLLOWED_PATH = re.compile(rf"^\++ (/\S*/({'|'.join(map(re.escape, stubs.FOLLOWED))}))(?:\s|$)", re.MULTILINE)
_TESTED_PROGRAM = re.compile(r"^\++ (?:\[\[?|'\['|test) .*-[efrs] ([^\s']+\.py)", re.MULTILINE)
_ROUNDS = 4
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class NoSandboxError(Exception):
    """Scripts cannot be run here; the message says why."""


@dataclass(frozen=True)
class Command:
    """A command that a script started. around: words of the programs that started it in turn (srun, docker, ...)."""

    kind: str
    """``run`` of a program, ``batch`` (a job that was handed in), ``gpus`` (it counts them), ``unfollowed``."""
    folder: str
    around: tuple[str, ...]
    words: tuple[str, ...]
    attached: str = ""
    """Text of a file of hosts, or of the batch system's script."""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What a script did. status: its exit status, None where its time was up. said: on standard output and error."""

    commands: tuple[Command, ...]
    status: int | None
    said: str
    trace: str
    missing: tuple[str, ...]
    """Programs that are not known."""
    folder: str = ""


@dataclass(frozen=True)
class Script:
    """A launch script with what it finds whenever it is run, which is read once.

    top: the folder whose files it sees. beside: these, as `visible_files.copies` has them. folders: below it.
    variables: of the process's environment, those that they name. programs: as `stubs.programs` has them.
    """

    path: Path
    text: str
    top: Path
    beside: tuple[tuple[str, str, bool], ...]
    folders: tuple[str, ...]
    variables: Mapping[str, str]
    programs: tuple[list[tuple[str, str]], list[tuple[str, str]]]

    @classmethod
    def of(cls, path: Path, text: str) -> Script:
        """A script that lies, or is to lie, at a path."""
        path = path.resolve()
        top = top_of(path)
        texts, folders = copies(top, path)
        beside = tuple((name, filled_in(each), executable) for name, each, executable in texts)
        variables = passed_variables(each for _, each, _ in beside)
        return cls(path, text, top, beside, tuple(folders), variables, stubs.programs())


def run_script(
    script: Script,
    arguments: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    unknown_lines: int = 1,
    empty: Sequence[Path] = (),
) -> Run:
    """Run a script with bash, where it can do no harm.

    arguments: its own. variables: set beside those of the environment (default: the process's). folder: where it runs
    (default: its own). unknown_lines: that a program which is not known prints. empty: files that are to be there.
    Raises `NoSandboxError`.
    """
    task = _task(script, arguments, folder or script.path.parent, environment, variables or {})
    task["env"]["VTRAIN_LINES"] = str(unknown_lines)
    task["files"] += [(str(path), "", False) for path in empty]
    known: set[str] = set()
    for _ in range(_ROUNDS):
        run = _run(task)
        # Programs that are called by their paths, for example of a virtual environment.
        called = {path for path, _ in _FOLLOWED_PATH.findall(run.trace) if not _is_linked(path)}
        if run.status is None:
            break
        started = any(command.kind == "run" for command in run.commands)
        # Some scripts look whether the program of the training is there.
        tested = set() if started else {os.path.join(run.folder, path) for path in _TESTED_PROGRAM.findall(run.trace)}
        known |= {target for target, _, _ in task["files"]}
        if not (fresh := (called | tested) - known):
            break
        known |= fresh
        task["links"] += [(path, stubs.STUB) for path in sorted(fresh & called)]
        task["files"] += [(path, "", False) for path in sorted(fresh & tested)]
    return run


def _is_linked(path: str) -> bool:
    return os.path.dirname(path) in (stubs.FOLDER, "/bin", "/usr/local/bin", "/usr/sbin", "/sbin")


def passed_variables(texts: Iterable[str]) -> dict[str, str]:
    """The variables of the process's environment that scripts see: those that their texts name."""
    may = {
        name: value
        for name, value in os.environ.items()
        if not _NOT_PASSED.fullmatch(name) and not _HAS_PASSWORD.search(value)
    }
    named = {name for text in texts for name in _NAME.findall(text)} if may else set()
    return {name: value for name, value in may.items() if name in named}


def _task(
    script: Script,
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str] | None,
    variables: Mapping[str, str],
) -> dict[str, Any]:
    """What the jail is told: see `jail`."""
    binds, links = script.programs
    home = os.path.expanduser("~")
    own = {
        "PATH": f"{stubs.FOLDER}:/bin",
        "HOME": home,
        "TMPDIR": "/tmp",
        "PWD": str(folder),
        "LC_ALL": "C.UTF-8",
        "BASH_ENV": stubs.PRELUDE,
        "VTRAIN_RECORDS": stubs.RECORDS,
        "VTRAIN_NAMES": " ".join(stubs.FOLLOWED),
        "VTRAIN_TOP": str(script.top),
        "VTRAIN_AROUND": "",
    }
    own_text = filled_in(script.text)
    if environment is None:
        environment = {**script.variables, **passed_variables([own_text])}
    files = [
        *script.beside,
        (str(script.path), own_text, True),
        (stubs.STUB, stubs.text("stub.bash"), True),
        (stubs.PRELUDE, stubs.text("prelude.bash"), False),
        (*stubs.SH, True),
    ]
    return {
        "script": str(script.path),
        "argv": [stubs.BASH, str(script.path), *arguments],
        "env": {**environment, **variables, **own},
        "cwd": str(folder),
        "folders": [str(folder), home, *script.folders, *(str(folder / logs) for logs in log_folders(script.text))],
        "records": stubs.RECORDS,
        "said": f"{stubs.RECORDS}/said",
        "binds": binds,
        "links": [*links],
        "files": files,
        "seconds": _SECONDS,
        "processes": 1024 + _processes(),
    }


def _processes() -> int:
    """Processes of the machine, which older kernels count among those of the jail."""
    try:
        return sum(name.isdecimal() for name in os.listdir("/proc"))
    except OSError:
        return 0


def _run(task: Mapping[str, object]) -> Run:
    if sys.platform != "linux":
        raise NoSandboxError("scripts are run on Linux alone")
    if shutil.which("bash") is None:
        raise NoSandboxError("there is no bash")
    with tempfile.TemporaryDirectory(prefix="vtrain-") as root:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", str(jail.__file__), root],
                input=json.dumps(task),
                capture_output=True,
                text=True,
                timeout=_SECONDS + 20,
                env={},
                start_new_session=True,
                check=False,
            )
            result = json.loads(done.stdout)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise NoSandboxError(f"the sandbox does not start ({' '.join(str(error).split())[:100]})") from None
    if "forbidden" in result:
        raise NoSandboxError(f"the system does not allow a sandbox ({result['forbidden']})")
    records = result["records"]
    commands = [
        _command(text, records.get(f"{name}.env", "")) for name, text in sorted(records.items()) if "\0" in text
    ]
    return Run(
        tuple(command for command in commands if command is not None),
        result["status"],
        records.get("said", ""),
        records.get("trace", ""),
        tuple(dict.fromkeys(records.get("missing", "").split())),
        str(task["cwd"]),
    )


def _command(text: str, environment: str) -> Command | None:
    parts = text.split("\0")
    if len(parts) < 6 or parts[0] not in ("run", "batch", "gpus", "unfollowed"):
        return None
    kind, folder, around, attached, *words = parts[:-1]
    pairs = (pair.partition("=") for pair in environment.split("\0") if "=" in pair)
    return Command(
        kind,
        folder,
        tuple(around.split(_SEPARATOR)[:-1]),
        tuple(words),
        attached,
        {name: value for name, _, value in pairs if not name.startswith(("VTRAIN_", "BASH_"))},
    )
