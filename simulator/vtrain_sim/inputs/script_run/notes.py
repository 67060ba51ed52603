"""What a run of a launch script says of itself: what it did not find, and on what its arguments depend."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from vtrain_sim.inputs.script_run.run import LIMITS, Run, passed_variables
from vtrain_sim.inputs.sourced_files import prepares_environment
from vtrain_sim.specs.checks import SpecError

_SOURCED = re.compile(r"^\++ (?:source|\.|builtin source|builtin \.) (\S+)", re.MULTILINE)
# Of bash, which names the script or itself: programs that it starts say so of their own input.
_SYNTAX = re.compile(
    r"(?:/[^:]*|bash|environment): (?:[^:]*: )*?(?=line \d+: .*(?:syntax error|unexpected EOF|unexpected end of file))"
)
_UNKNOWN = re.compile(r"%unknown_([\w.-]+)%")
_TESTED = re.compile(r"^\++ (?:\[\[?|'\['|test) (?:'?!'? )?-[defrsx] (\S+)", re.MULTILINE)
_REFERENCE = re.compile(r"\$\{?([A-Za-z_]\w*)(\}|(?=[^\w:}\-=?+]))")
_LACKING = re.compile(r"([^\s:'\"]+)['\"]?: No such file or directory$")
_MOST = 6
_LONGEST_LINE = 1000
_OF_SHELL = re.compile(
    r"(HOME|USER|PWD|OLDPWD|PATH|HOSTNAME|RANDOM|SECONDS|LINENO|BASH\w*|FUNCNAME|OPTARG|OPTIND|IFS|PIPESTATUS|UID|EUID"
    r"|REPLY|LD_\w+|PYTHON\w*|SLURM_(JOB_)?(NAME|ID|SUBMIT_DIR|NODELIST|JOBID)\w*|EPOCHSECONDS|SHELL|TMPDIR|PS\d)$"
)


def check_sources(path: Path, run: Run) -> None:
    """Raise `SpecError` where a part of the script could not be read."""
    if name := missing_source(run):
        raise SpecError(f"{path} reads {name}, which is not there: run vtrain-sim in the folder that it is meant for")
    for line in run.said.splitlines():
        if not (broken := _SYNTAX.match(line[:_LONGEST_LINE])):
            continue
        what = " ".join(line[broken.end() :].split())[:120]
        if asked := _UNKNOWN.search(what):
            raise SpecError(f"{path} computes with what {asked[1]} says, which is not run ({what})")
        raise SpecError(f"{path} has an error that bash stops at ({what})")


def missing_source(run: Run) -> str:
    """The first file that the script reads as a part of it, and that is not there; empty where all are."""
    for sourced in _SOURCED.findall(run.trace):
        name: str = sourced.strip("'\"")
        if f"{name}: No such file or directory" in run.said and not prepares_environment(name):
            return name
    return ""


def may_be_set(text: str, run: Run, absent: str) -> set[str]:
    """Names that a file which is not there may set; empty where it may also change what was set before it."""
    before = run.trace.partition(absent)[0]
    if any(value.strip("'\"").isdecimal() for value in re.findall(r"^\++ (?:\w+ )?\w+=(.*)$", before, re.MULTILINE)):
        return set()
    return {name for name in re.findall(r"\$\{?([A-Za-z_]\w*)", text) if not _OF_SHELL.match(name)}


def why_nothing_started(run: Run) -> str:
    """Why a script ended before it started anything, in its own words where it has any."""
    if run.status is None:
        return f"it was stopped, as it took more than {LIMITS}"
    missing = "".join(f" ({name} is not known)" for name in run.missing[:1])
    lines = [line.strip() for line in run.said.splitlines() if line.strip()]
    said = f", and said: {lines[-1][:160]}" if lines else ""
    if lines and (lacking := _LACKING.search(lines[-1][:_LONGEST_LINE])):
        said += f" (put {lacking[1]} beside the script, or give its place with --script-args if the script takes it)"
    if programs := [command.words for command in run.commands if command.kind == "run"]:
        return f"it runs {' '.join(programs[0])[:80]}, without arguments of Megatron's"
    if not run.status and not said:
        return (
            "it sets variables, for another script that reads it"
            if "+ source" not in run.trace
            else "it starts nothing"
        )
    return f"it ended with status {run.status}{missing}{said}"


def notes(text: str, run: Run, script_arguments: Sequence[str], slurm: Collection[str] = ()) -> tuple[str, ...]:
    """Sentences on what the arguments depend on that is not in the script.

    slurm: the variables that Slurm set for it.
    """
    sentences = []
    if any(command.kind == "gpus" for command in run.commands):
        sentences.append("the script counts the GPUs of its node: 8 assumed, unless its #SBATCH lines say it")
    if taken := passed_variables([text]):
        sentences.append(f"from the environment: {_some(f'{name}={value}' for name, value in taken.items())}")
    if unset := [name for name in _unset(text, run) if name not in slurm]:
        sentences.append(f"not set, empty in the script as in bash: {_some(f'${name}' for name in unset)}")
    if not script_arguments and (wanted := sorted(set(re.findall(r"\$\{?([1-9])\b", _without_functions(text))))):
        sentences.append(
            f"the script's own arguments (${', $'.join(wanted[:_MOST])}) are empty: --script-args gives them"
        )
    if run.missing:
        sentences.append(f"programs that are not known, and fail in the script: {_some(run.missing)}")
    if absent := _absent(run):
        sentences.append(f"the script looks for what is not there: {_some(absent)}")
    if run.status is None:
        sentences.append(f"the script was stopped: it took more than {LIMITS}")
    return tuple(sentences)


def _some(texts: object) -> str:
    words = [str(text) for text in texts]  # type: ignore[attr-defined]
    return ", ".join(words[:_MOST]) + (f" and {len(words) - _MOST} more" if len(words) > _MOST else "")


def _absent(run: Run) -> list[str]:
    tested = dict.fromkeys(path.strip("'\"") for path in _TESTED.findall(run.trace))
    return [path for path in tested if path and not Path(run.folder, path).exists()]


def _unset(text: str, run: Run) -> list[str]:
    """Variables that the script uses without a default, and that nothing sets."""
    plain = re.sub(r"(^|\s)#.*|\\\$\{?\w+|'[^'\n]*'", "", text)
    used = dict.fromkeys(name for name, _ in _REFERENCE.findall(plain))
    set_here = set(re.findall(r"(?<!\w)(\w+)(?:\[[^\]\n]{0,200}\])?\+?=", text)) | set(
        re.findall(r"(?:for|read|local|select) (?:-\w+ )*(\w+)", text)
    )
    set_here |= set(re.findall(r"^\++ (?:export )?(\w+)\+?=", run.trace, re.MULTILINE)) | set(passed_variables([text]))
    return [name for name in used if name not in set_here and not _OF_SHELL.match(name)]


def _without_functions(text: str) -> str:
    """The text without the bodies of functions, whose $1 are their own, and without comments and awk's programs."""
    text = re.sub(r"^[ \t]*(?:function\s+)?[\w-]+\s*\(\)\s*\{.*?^[ \t]*\}", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(^|\s)#.*|'[^'\n]*'", "", text)
